//! What entries of files.img have in common, whatever their kind.

use cryopod_image::criu::{FileEntry, FownEntry, RegFileEntry};
use rustix::fs::FileType;

use crate::error::Result;

/// The owner an entry has, where its kind has one.
pub fn owner(entry: &FileEntry) -> Option<&FownEntry> {
    let reg = entry.reg.as_ref().map(|reg| &reg.fown);
    let pipe = entry.pipe.as_ref().map(|pipe| &pipe.fown);
    let memfd = entry.memfd.as_ref().map(|memfd| &memfd.fown);
    let efd = entry.efd.as_ref().map(|efd| &efd.fown);
    let sgfd = entry.sgfd.as_ref().map(|sgfd| &sgfd.fown);
    let tfd = entry.tfd.as_ref().map(|tfd| &tfd.fown);
    let epfd = entry.epfd.as_ref().map(|epfd| &epfd.fown);
    let ring = entry.cryopod_io_uring.as_ref().map(|ring| &ring.fown);
    let mqueue = entry.cryopod_mqueue.as_ref().map(|queue| &queue.fown);
    let bpf = entry.bpf.as_ref().map(|map| &map.fown);
    let usk = entry.usk.as_ref().map(|usk| &usk.fown);
    let isk = entry.isk.as_ref().map(|isk| &isk.fown);
    let nlsk = entry.nlsk.as_ref().map(|nlsk| &nlsk.fown);
    let psk = entry.psk.as_ref().map(|psk| &psk.fown);
    let socket = usk.or(isk).or(nlsk).or(psk);
    let tty = entry.tty.as_ref().map(|tty| &tty.fown);
    let ify = entry.ify.as_ref().map(|ify| &ify.fown);
    let ffy = entry.ffy.as_ref().map(|ffy| &ffy.fown);
    let pidfd = entry.pidfd.as_ref().map(|pidfd| &pidfd.fown);
    let plain = reg.or(pipe).or(memfd).or(efd).or(sgfd).or(tfd).or(epfd);
    let plain = plain.or(ring).or(mqueue).or(bpf);
    plain.or(socket).or(tty).or(ify).or(ffy).or(pidfd)
}

/// The open flags an entry has.
pub fn status_flags(entry: &FileEntry) -> u32 {
    let reg = entry.reg.as_ref().map(|reg| reg.flags);
    let pipe = entry.pipe.as_ref().map(|pipe| pipe.flags);
    let memfd = entry.memfd.as_ref().map(|memfd| memfd.flags);
    let efd = entry.efd.as_ref().map(|efd| efd.flags);
    let sgfd = entry.sgfd.as_ref().map(|sgfd| sgfd.flags);
    let tfd = entry.tfd.as_ref().map(|tfd| tfd.flags);
    let epfd = entry.epfd.as_ref().map(|epfd| epfd.flags);
    let ring = entry.cryopod_io_uring.as_ref().map(|ring| ring.flags);
    let mqueue = entry.cryopod_mqueue.as_ref().map(|queue| queue.flags);
    let bpf = entry.bpf.as_ref().map(|map| map.flags);
    let usk = entry.usk.as_ref().map(|usk| usk.flags);
    let isk = entry.isk.as_ref().map(|isk| isk.flags);
    let nlsk = entry.nlsk.as_ref().map(|nlsk| nlsk.flags);
    let psk = entry.psk.as_ref().map(|psk| psk.flags);
    let tty = entry.tty.as_ref().map(|tty| tty.flags);
    let ify = entry.ify.as_ref().map(|ify| ify.flags);
    let ffy = entry.ffy.as_ref().map(|ffy| ffy.flags);
    let pidfd = entry.pidfd.as_ref().map(|pidfd| pidfd.flags);
    let nsf = entry.nsf.as_ref().map(|nsf| nsf.flags);
    reg.or(pipe)
        .or(nsf)
        .or(ify)
        .or(ffy)
        .or(pidfd)
        .or(memfd)
        .or(efd)
        .or(sgfd)
        .or(tfd)
        .or(epfd)
        .or(ring)
        .or(mqueue)
        .or(bpf)
        .or(usk)
        .or(isk)
        .or(nlsk)
        .or(psk)
        .or(tty)
        .unwrap_or(0)
}

/// Checks that an entry is whole: its member has its number, and its name is a path.
pub fn check(entry: &FileEntry) -> Result<()> {
    let members = [
        entry.reg.as_ref().map(|reg| reg.id),
        entry.pipe.as_ref().map(|pipe| pipe.id),
        entry.fifo.as_ref().map(|fifo| fifo.id),
        entry.memfd.as_ref().map(|memfd| memfd.id),
        entry.efd.as_ref().map(|efd| efd.id),
        entry.sgfd.as_ref().map(|sgfd| sgfd.id),
        entry.tfd.as_ref().map(|tfd| tfd.id),
        entry.epfd.as_ref().map(|epfd| epfd.id),
        entry.ify.as_ref().map(|ify| ify.id),
        entry.nsf.as_ref().map(|nsf| nsf.id),
        entry.ffy.as_ref().map(|ffy| ffy.id),
        entry.pidfd.as_ref().map(|pidfd| pidfd.id),
        entry.cryopod_io_uring.as_ref().map(|ring| ring.id),
        entry.cryopod_mqueue.as_ref().map(|queue| queue.id),
        entry.bpf.as_ref().map(|map| map.id),
        entry.usk.as_ref().map(|usk| usk.id),
        entry.isk.as_ref().map(|isk| isk.id),
        entry.nlsk.as_ref().map(|nlsk| nlsk.id),
        entry.psk.as_ref().map(|psk| psk.id),
        entry.tty.as_ref().map(|tty| tty.id),
    ];
    if members.into_iter().flatten().any(|id| id != entry.id) {
        return Err(super::corrupt(entry.id, "it has two numbers"));
    }
    let Some(reg) = &entry.reg else { return Ok(()) };
    let is_path = reg.name.starts_with(b"/") || reg.ext == Some(true);
    if !is_path || reg.name.contains(&0) || reg.name.len() >= libc::PATH_MAX as usize {
        return Err(super::corrupt(entry.id, "its name is not a path"));
    }
    Ok(())
}

/// What kind of file a path led to, where the image says so.
pub fn file_type(reg: &RegFileEntry) -> Option<FileType> {
    reg.mode.map(FileType::from_raw_mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reg(name: &[u8]) -> FileEntry {
        let reg = RegFileEntry {
            id: 4,
            name: name.to_vec(),
            flags: 7,
            ..RegFileEntry::default()
        };
        FileEntry {
            id: 4,
            reg: Some(Box::new(reg)),
            ..FileEntry::default()
        }
    }

    #[test]
    fn names_must_be_paths() {
        assert!(check(&reg(b"/tmp/x")).is_ok());
        assert!(check(&reg(b"tmp/x")).is_err());
        assert!(check(&reg(b"/tmp/\0x")).is_err());
        assert!(check(&reg(&[b'/'; 5000])).is_err());
        let mut outside = reg(b"pipe:[1]");
        outside.reg.as_mut().unwrap().ext = Some(true);
        assert!(check(&outside).is_ok());
    }

    #[test]
    fn one_number_is_enough() {
        let mut entry = reg(b"/x");
        assert_eq!(status_flags(&entry), 7);
        entry.id = 5;
        assert!(check(&entry).is_err());
    }
}
