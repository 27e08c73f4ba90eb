//! What sock_diag(7) tells of sockets and no option does: a question about a family, an answer for each socket of this
//! network namespace, with attributes. A room for each family.
//!
//! Sockets are told apart by their cookies (SO_COOKIE), which are never used twice, or by their inodes.

pub mod inet;
pub mod netlink;
pub mod packet;
pub mod unix;

use cryopod_sys::Errno;
use rustix::net::netlink::SOCK_DIAG;

use super::netlink::Netlink;

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h.
const BY_FAMILY: u16 = 20;

/// Asks about the sockets of a family; `request` is the structure of that family. Gives their messages.
///
/// ENOENT when the kernel has no such part (CONFIG_UNIX_DIAG and the like).
fn ask(request: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    Netlink::open(SOCK_DIAG)?.dump(BY_FAMILY, request)
}

/// The message of the socket with this cookie, which is `at` that place in messages of its family.
fn with_cookie(messages: &[Vec<u8>], at: usize, cookie: u64) -> Option<&[u8]> {
    let is_it = |one: &&Vec<u8>| {
        let halves = word(one, at).zip(word(one, at + 4));
        halves.is_some_and(|(low, high)| u64::from(low) | u64::from(high) << 32 == cookie)
    };
    messages.iter().find(is_it).map(Vec::as_slice)
}

/// A number of 32 bits at a place of a message, in the machine's order.
fn word(raw: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(raw.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_tell_messages_apart() {
        let message = |cookie: u64| [vec![7], cookie.to_ne_bytes().to_vec()].concat();
        let messages = [message(1), message(1 << 40), vec![1, 2]];
        assert_eq!(with_cookie(&messages, 1, 1 << 40), Some(&messages[1][..]));
        assert_eq!(with_cookie(&messages, 1, 2), None);
    }
}
