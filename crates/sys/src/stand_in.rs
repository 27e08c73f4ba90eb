//! A process that exists for one call: the kernel remembers of some calls who made them.
//!
//! unix(7) keeps the process and user of socketpair(2), connect(2) and listen(2) for SO_PEERCRED, and a name is bound
//! below the root directory of the caller. A stand-in is a child that shares our descriptors, becomes who it shall be,
//! makes the call and ends.

use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::clone::CloneArgs;
use crate::{Errno, Result, check};

/// Who a stand-in is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Role<'a> {
    /// Its pid; any when there is none.
    pub pid: Option<i32>,
    /// User, group and further groups, all in the place of our own; capabilities stay.
    pub user: Option<(u32, u32, &'a [u32])>,
    /// Its root and working directory.
    pub root: Option<BorrowedFd<'a>>,
}

/// Makes `call` in a child that shares this process's descriptors and nothing else. It must not allocate memory or take
/// a lock, because another thread of ours may have been about to; what it changes in memory is lost.
///
/// # Errors
///
/// Those of `call`, of becoming `role` (needs CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_SYS_CHROOT), and of clone3(2):
/// EEXIST when the pid is taken.
pub fn call_as(role: &Role<'_>, call: impl FnOnce() -> Result<()>) -> Result<()> {
    let set_tid = [role.pid.unwrap_or(0)];
    let mut args = CloneArgs {
        flags: libc::CLONE_FILES as u64,
        ..CloneArgs::default()
    };
    if role.pid.is_some() {
        args.set_tid = set_tid.as_ptr() as u64;
        args.set_tid_size = 1;
    }
    // SAFETY: no CLONE_VM, so the child runs on its own copy of this stack and never returns from this block. `call`
    // allocates nothing and takes no lock, as its caller has promised, and `become_role` neither.
    let child = unsafe {
        let rc = libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>());
        if rc == 0 {
            let done = become_role(role).and_then(|()| call());
            let code = done.err().map_or(0, Errno::raw_os_error);
            libc::syscall(libc::SYS_exit_group, code);
        }
        check(rc)? as i32
    };
    outcome(child)
}

fn become_role(role: &Role<'_>) -> Result<()> {
    if let Some(root) = role.root {
        // SAFETY: plain integers, and a string that ends in a zero byte.
        unsafe {
            check(i64::from(libc::fchdir(root.as_raw_fd())))?;
            check(i64::from(libc::chroot(c".".as_ptr())))?;
        }
    }
    if let Some((uid, gid, groups)) = role.user {
        const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
        // The raw calls, because libc's tell other threads, of which this child has none.
        // SAFETY: plain integers, and a slice that is only read.
        unsafe {
            check(i64::from(libc::prctl(
                libc::PR_SET_SECUREBITS,
                SECBIT_NO_SETUID_FIXUP,
                0,
                0,
                0,
            )))?;
            check(libc::syscall(
                libc::SYS_setgroups,
                groups.len(),
                groups.as_ptr(),
            ))?;
            check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        }
    }
    Ok(())
}

/// Waits for the child and gives what its call gave, which is its exit code.
fn outcome(child: i32) -> Result<()> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is live.
        let waited = check(i64::from(unsafe {
            libc::waitpid(child, &raw mut status, libc::__WALL)
        }));
        match waited {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) if !libc::WIFEXITED(status) => return Err(Errno::INTR),
            Ok(_) => {
                return match libc::WEXITSTATUS(status) {
                    0 => Ok(()),
                    code => Err(Errno::from_raw_os_error(code)),
                };
            }
        }
    }
}

/// socketpair(2) as somebody: `one` and `other`, placeholders, become the two ends.
pub fn socketpair_as(
    role: &Role<'_>,
    kind: i32,
    one: BorrowedFd<'_>,
    other: BorrowedFd<'_>,
) -> Result<()> {
    let places = [one.as_raw_fd(), other.as_raw_fd()];
    call_as(role, || {
        let mut ends = [-1; 2];
        // SAFETY: `ends` has room for two descriptors.
        check(i64::from(unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                kind | libc::SOCK_CLOEXEC,
                0,
                ends.as_mut_ptr(),
            )
        }))?;
        for (end, place) in ends.into_iter().zip(places) {
            // SAFETY: plain integers; the end is this function's own, and the place stays open as what it becomes.
            unsafe {
                check(i64::from(libc::dup3(end, place, libc::O_CLOEXEC)))?;
                check(i64::from(libc::close(end)))?;
            }
        }
        Ok(())
    })
}

/// listen(2) as somebody.
pub fn listen_as(role: &Role<'_>, socket: BorrowedFd<'_>, backlog: i32) -> Result<()> {
    call_as(role, || {
        // SAFETY: plain integers.
        check(i64::from(unsafe {
            libc::listen(socket.as_raw_fd(), backlog)
        }))
        .map(drop)
    })
}

/// connect(2) as somebody, to an address as the kernel lays it out.
pub fn connect_as(role: &Role<'_>, socket: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    call_as(role, || crate::socket::connect(socket, address))
}

/// bind(2) as somebody, to an address as the kernel lays it out.
pub fn bind_as(role: &Role<'_>, socket: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    call_as(role, || crate::socket::bind(socket, address))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn descriptors_are_shared_and_failures_come_back() {
        let placeholder = || std::fs::File::open("/dev/null").unwrap();
        let (one, other) = (placeholder(), placeholder());
        let role = Role::default();
        socketpair_as(&role, libc::SOCK_STREAM, one.as_fd(), other.as_fd()).unwrap();
        let kind = crate::socket::kind(other.as_fd()).unwrap();
        assert_eq!(kind.kind, libc::SOCK_STREAM);
        let pid = crate::socket::peer_credentials(one.as_fd()).unwrap().pid;
        assert!(pid != 0 && pid != std::process::id() as i32);
        assert_eq!(call_as(&role, || Err(Errno::NOTCONN)), Err(Errno::NOTCONN));
        assert_eq!(
            listen_as(&role, placeholder().as_fd(), 1),
            Err(Errno::NOTSOCK)
        );
    }
}
