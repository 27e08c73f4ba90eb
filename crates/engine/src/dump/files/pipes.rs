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
        let (copy, bytes) = copy(one, size as usize)?;
        let image = self.image.writer()?;
        image.push(&PipeDataEntry {
            pipe_id: number,
            bytes: bytes as u32,
            size: Some(size),
        })?;
        if bytes == 0 {
            return Ok(());
        }
        // One read gives everything, or one packet where they were written in packet mode (O_DIRECT, which only the
        // writing end shows); the image cannot tell where one ends.
        let mut packet = vec![0; bytes];
        let read = one.check("read the copy of it", rustix::io::read(&copy, &mut packet))?;
        if read < bytes {
            let what = "pipe in packet mode with several packets in it: not supported".to_owned();
            let (pid, fd) = (one.seen.pid, one.seen.fd);
            return Err(Error::Unsupported(vec![Unsupported { pid, fd, what }]));
        }
        Ok(image.payload(&packet)?)
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
