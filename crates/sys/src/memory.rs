//! Shared anonymous memory as a file that can be handed on.

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::{Errno, Result};

/// Size of a page in bytes.
pub const PAGE: u64 = 4096;

/// Makes a shared anonymous mapping of `size_bytes` and returns a read-write descriptor of the file behind it.
///
/// A mapping of that descriptor looks in /proc/PID/maps just as mmap(MAP_SHARED|MAP_ANONYMOUS) does ("/dev/zero
/// (deleted)"), which a memfd does not. Needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN (proc_pid_map_files(5)).
pub fn shared_anonymous(size_bytes: u64) -> Result<OwnedFd> {
    let len = usize::try_from(size_bytes).map_err(|_| Errno::NOMEM)?;
    // SAFETY: no address is given, so nothing that exists is replaced; NORESERVE so that a sparse mapping costs nothing.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOMEM));
    }
    let start = address as u64;
    let path = format!(
        "/proc/self/map_files/{start:x}-{:x}",
        start + len.next_multiple_of(PAGE as usize) as u64
    );
    let file = File::options().read(true).write(true).open(path);
    // SAFETY: the mapping made above; no reference into it exists.
    unsafe { libc::munmap(address, len) };
    file.map(OwnedFd::from)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
