//! The kernel as cryopod uses it.
//!
//! This is the only crate of the workspace that may contain `unsafe`. Everything here is thin: one function wraps one
//! system call, ioctl or instruction that `rustix` does not offer, takes and returns typed values, and names the man
//! page it rests on. No policy lives here: what to call in which order is the engine's business.
//!
//! All functions return [`Errno`]; the callers attach the operation and the object (pid, descriptor, path), which only
//! they know.
//!
//! x86-64 only: register layouts, system-call conventions and the XSAVE area are those of that architecture.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("cryopod runs on Linux on x86-64");

pub mod bpf;
pub mod clone;
pub mod cpu;
pub mod fd;
pub mod io_uring;
pub mod ipc;
pub mod memory;
pub mod message;
pub mod mqueue;
pub mod notify;
pub mod pagemap;
pub mod process;
pub mod ptrace;
pub mod signal;
pub mod socket;
pub mod stand_in;
pub mod tcp;
pub mod tty;
pub mod userfaultfd;
pub mod wait;

pub use rustix::io::Errno;

/// What every function of this crate returns.
pub type Result<T> = std::result::Result<T, Errno>;

/// Turns the return value of a libc wrapper (-1 and `errno` on failure) into a [`Result`].
pub(crate) fn check(value: i64) -> Result<i64> {
    if value == -1 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(value)
    }
}
