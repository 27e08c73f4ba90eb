//! Who gets SIGIO from an open file: F_GETOWN_EX, F_GETSIG, F_GETOWNER_UIDS (fcntl(2)).

use std::os::fd::BorrowedFd;

use cryopod_image::criu::FownEntry;
use cryopod_sys::{Errno, fd};

use super::seen::Seen;

/// Reads the owner of an open file. A file opened with O_PATH has none.
pub fn dump(seen: &Seen, file: BorrowedFd<'_>) -> std::result::Result<FownEntry, Errno> {
    if seen.is_path_only() {
        return Ok(FownEntry::default());
    }
    let signum = fd::signal(file)? as u32;
    let owner = fd::owner(file)?;
    if owner.pid == 0 {
        return Ok(FownEntry {
            signum,
            ..FownEntry::default()
        });
    }
    let (uid, euid) = fd::owner_uids(file)?;
    Ok(FownEntry {
        uid,
        euid,
        signum,
        pid_type: owner.kind as u32,
        pid: owner.pid as u32,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_owner_is_read_with_its_signal() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let seen = Seen::sample("pipe:[1]", 0o010_600);
        assert_eq!(dump(&seen, reader.as_fd()).unwrap(), FownEntry::default());

        let pid = std::process::id() as i32;
        fd::set_owner(reader.as_fd(), fd::Owner { kind: 1, pid }).unwrap();
        fd::set_signal(reader.as_fd(), 34).unwrap();
        let entry = dump(&seen, reader.as_fd()).unwrap();
        assert_eq!(
            (entry.pid, entry.pid_type, entry.signum),
            (pid as u32, 1, 34)
        );
    }
}
