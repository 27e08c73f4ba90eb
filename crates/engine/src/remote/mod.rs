//! Remote system calls: a stopped thread does a call on cryopod's behalf.
//!
//! There are two ways, because the two directions have different fears:
//!
//! - [`visit::Visit`] works in a program that must go on afterwards, whatever happens to cryopod. The kernel lets a
//!   tracee go *with the registers of that instant* when its tracer dies, so every instant has to be a good one.
//! - [`puppet::Puppet`] works in a task that restore is just building. It dies with cryopod (PTRACE_O_EXITKILL), so
//!   nothing has to be put back.

pub mod puppet;
pub mod vdso;
pub mod visit;
mod way;

use cryopod_sys::Errno;

pub use self::way::COPY_EXIT_CODE;

/// The result of a system call as the kernel leaves it in rax.
pub(crate) fn outcome(rax: u64) -> Result<u64, Errno> {
    match rax as i64 {
        code @ -4095..=-1 => Err(Errno::from_raw_os_error(-(code as i32))),
        _ => Ok(rax),
    }
}

/// Kernel-internal codes that a thread interrupted in a system call shows in rax (include/linux/errno.h).
pub(crate) mod restart {
    pub const ERESTARTSYS: i64 = -512;
    pub const ERESTARTNOINTR: i64 = -513;
    pub const ERESTARTNOHAND: i64 = -514;
    pub const ERESTART_RESTARTBLOCK: i64 = -516;
}
