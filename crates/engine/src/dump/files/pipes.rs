//! Pipes: the ends as file entries, what is in them in pipes-data.img. Fifos share the second half.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::{FdTypes, FileEntry, PipeDataEntry, PipeEntry};
use cryopod_image::{Kind as Image, SetWriter};
use cryopod_sys::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::Description;
use super::lazy::Lazy;
use crate::error::{Error, Result, Unsupported};

/// Contents of pipes, or of fifos.
pub struct Contents<'a> {
    image: Lazy<'a>,
    numbers: Numbers,
    /// Numbers of those that are in the image.
    stored: HashSet<u32>,
    /// Sizes of those that nobody of the tree can read, so that there is nothing to store but the size.
    sizes: HashMap<u32, u32>,
}

impl<'a> Contents<'a> {
    /// Contents for pipes-data.img or fifo-data.img.
    pub fn new(set: &'a SetWriter, kind: Image) -> Self {
        Self {
            image: Lazy::new(set, kind),
            numbers: Numbers::default(),
            stored: HashSet::new(),
            sizes: HashMap::new(),
        }
    }

    /// Takes the contents, if this end allows it and it was not done, and gives the number of the pipe.
    pub fn take(&mut self, one: &Description<'_>) -> Result<u32> {
        let number = self.numbers.of(one.seen.inode());
        if self.stored.contains(&number) {
            return Ok(number);
        }
        let file = one.file.as_fd();
        let size = one.check(
            "ask for its size (F_GETPIPE_SZ)",
            rustix::pipe::fcntl_getpipe_size(file),
        )? as u32;
        if one.seen.is_readable() {
            self.store(one, number, size)?;
            self.stored.insert(number);
        } else {
            self.sizes.insert(number, size);
        }
        Ok(number)
    }

    fn store(&mut self, one: &Description<'_>, number: u32, size: u32) -> Result<()> {
        let (copied, bytes) = copy(one, size as usize)?;
        let units = read_units(one, &copied, bytes)?;
        let packets = if units.len() > 1 || is_packet(one, &units, size as usize)? {
            lengths_of_packets(one, &units, size as usize)?
        } else {
            Vec::new()
        };
        let image = self.image.writer()?;
        image.push(&PipeDataEntry {
            pipe_id: number,
            bytes: bytes as u32,
            size: Some(size),
            cryopod_packets: packets,
        })?;
        for unit in &units {
            image.payload(unit)?;
        }
        Ok(())
    }

    /// Completes the image.
    pub fn finish(mut self) -> Result<()> {
        let mut left: Vec<(u32, u32)> = self
            .sizes
            .into_iter()
            .filter(|(number, _)| !self.stored.contains(number))
            .collect();
        left.sort_unstable();
        for (pipe_id, size) in left {
            self.image.writer()?.push(&PipeDataEntry {
                pipe_id,
                bytes: 0,
                size: Some(size),
                cryopod_packets: Vec::new(),
            })?;
        }
        self.image.finish()
    }
}

/// Duplicates what is in a pipe of `size` bytes into one of ours, without taking it out (tee(2)).
fn copy(one: &Description<'_>, size: usize) -> Result<(OwnedFd, usize)> {
    let (reader, writer) = one.check(
        "make a pipe like it",
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC),
    )?;
    one.check(
        "make a pipe of its size (F_SETPIPE_SZ)",
        rustix::pipe::fcntl_setpipe_size(&writer, size),
    )?;
    let source = one.file.as_fd();
    let copied = match rustix::pipe::tee(source, &writer, size, SpliceFlags::NONBLOCK) {
        Err(Errno::AGAIN) => 0,
        result => one.check("copy what is in it (tee)", result)?,
    };
    let expected = one.check("ask how much is in it (FIONREAD)", readable(source))?;
    if copied < expected {
        return one.check("copy all of what is in it (tee)", Err(Errno::NOSPC));
    }
    Ok((reader, copied))
}

/// Reads a copy empty. One read gives everything up to the end of the next packet, or everything where there is none:
/// packets are what was written with O_DIRECT (pipe(7)), which only the writing end shows, and not for how long.
fn read_units(one: &Description<'_>, copied: &OwnedFd, bytes: usize) -> Result<Vec<Vec<u8>>> {
    let mut units = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let mut unit = vec![0; left];
        let read = one.check("read the copy of it", rustix::io::read(copied, &mut unit))?;
        if read == 0 {
            return one.check("read all of the copy of it", Err(Errno::IO));
        }
        unit.truncate(read);
        left -= read;
        units.push(unit);
    }
    Ok(units)
}

/// Whether the last unit is a packet: what a read has no room for of a packet is gone, of anything else stays.
fn is_packet(one: &Description<'_>, units: &[Vec<u8>], size: usize) -> Result<bool> {
    let Some((last, before)) = units.split_last() else {
        return Ok(false);
    };
    let (again, _) = copy(one, size)?;
    for unit in before {
        let mut same = vec![0; unit.len()];
        one.check("read the copy of it", rustix::io::read(&again, &mut same))?;
    }
    if last.len() == 1 {
        // Too short to be cut. Alone it reads the same either way.
        return Ok(!before.is_empty());
    }
    let mut start = vec![0; last.len() - 1];
    one.check("read the copy of it", rustix::io::read(&again, &mut start))?;
    let left = one.check("ask how much is in it (FIONREAD)", readable(again.as_fd()))?;
    Ok(left == 0)
}

/// The lengths of units that are packets: all of them, but perhaps for the last.
fn lengths_of_packets(one: &Description<'_>, units: &[Vec<u8>], size: usize) -> Result<Vec<u32>> {
    let count = if is_packet(one, units, size)? {
        units.len()
    } else {
        units.len() - 1
    };
    let packets = &units[..count];
    if packets
        .iter()
        .any(|packet| packet.len() > LONGEST_PACKET_BYTES)
    {
        let what = "pipe in which packets follow other bytes (O_DIRECT set while there was something in it): not supported";
        let (pid, fd, what) = (one.seen.pid, one.seen.fd, what.to_owned());
        return Err(Error::Unsupported(vec![Unsupported { pid, fd, what }]));
    }
    Ok(packets.iter().map(|packet| packet.len() as u32).collect())
}

/// PIPE_BUF: longer writes become several packets.
pub const LONGEST_PACKET_BYTES: usize = 4096;

fn readable(file: BorrowedFd<'_>) -> std::result::Result<usize, Errno> {
    cryopod_sys::fd::readable_bytes(file).map(|bytes| bytes as usize)
}

/// Numbers of pipes in images: the low half of the inode, as CRIU does it, unless another has that.
#[derive(Debug, Default)]
struct Numbers {
    by_inode: HashMap<(u64, u64), u32>,
    taken: HashSet<u32>,
}

impl Numbers {
    fn of(&mut self, inode: (u64, u64)) -> u32 {
        if let Some(&number) = self.by_inode.get(&inode) {
            return number;
        }
        let mut number = inode.1 as u32;
        while !self.taken.insert(number) {
            number = number.wrapping_add(1);
        }
        self.by_inode.insert(inode, number);
        number
    }
}

/// The entry of an end of a pipe.
pub fn dump(one: &Description<'_>, contents: &mut Contents<'_>) -> Result<FileEntry> {
    let pipe = PipeEntry {
        id: one.id,
        pipe_id: contents.take(one)?,
        flags: one.seen.flags(),
        fown: one.owner.clone(),
    };
    Ok(FileEntry {
        r#type: FdTypes::Pipe.into(),
        id: one.id,
        pipe: Some(Box::new(pipe)),
        ..FileEntry::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_never_shared() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.of((1, 7)), 7);
        assert_eq!(numbers.of((2, 7)), 8);
        assert_eq!(numbers.of((1, 8)), 9);
        assert_eq!(numbers.of((1, 7)), 7);
        assert_eq!(numbers.of((1, 1 << 32 | 7)), 10);
    }
}
