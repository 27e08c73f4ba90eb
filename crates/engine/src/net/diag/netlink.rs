//! Netlink sockets as linux/netlink_diag.h tells of them.

use cryopod_sys::Errno;

use super::{ask, with_cookie};

/// Whether a netlink socket is connected. `None` when the kernel does not list it, as it does only for bound ones.
pub fn is_connected(protocol: u8, cookie: u64) -> Result<Option<bool>, Errno> {
    const CONNECTED: u8 = 1;
    // struct netlink_diag_req: family, protocol, pad, ino, show, cookie.
    let mut request = vec![libc::AF_NETLINK as u8, protocol, 0, 0];
    request.resize(20, 0);
    let answers = match ask(&request) {
        Err(Errno::NOENT) => return Ok(None),
        answers => answers?,
    };
    // struct netlink_diag_msg: family, type, protocol, state, portid, dst_portid, dst_group, ino, cookie.
    let one = with_cookie(&answers, 20, cookie);
    Ok(one.and_then(|one| Some(*one.get(3)? == CONNECTED)))
}
