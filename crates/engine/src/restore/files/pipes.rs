//! Pipes and what is in them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::{PipeDataEntry, PipeEntry};
use cryopod_image::set::EntryReader;
use cryopod_image::{Kind as Image, SetReader};
use cryopod_sys::fd;
use rustix::pipe::PipeFlags;

use super::{paths, set_status};
use crate::dump::files::LONGEST_PACKET_BYTES;
use crate::error::{Context, Error, Result};

/// A pipe that was made, with the ends it was born with.
struct Pipe<'e> {
    reader: OwnedFd,
    writer: OwnedFd,
    entries: Vec<&'e PipeEntry>,
}

/// Makes all pipes with their contents. `keep` gets every open end with the id of its entry.
pub fn open<'e>(
    set: &SetReader,
    entries: impl Iterator<Item = &'e PipeEntry>,
    mut keep: impl FnMut(u32, OwnedFd) -> Result<()>,
) -> Result<()> {
    let mut pipes: BTreeMap<u32, Pipe<'e>> = BTreeMap::new();
    for entry in entries {
        let pipe = match pipes.entry(entry.pipe_id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(make()?),
        };
        pipe.entries.push(entry);
    }
    for pipe in pipes.values() {
        // Contents of a pipe in packet mode go in as a packet.
        if pipe
            .entries
            .iter()
            .any(|entry| entry.flags & libc::O_DIRECT as u32 != 0)
        {
            set_status(
                pipe.writer.as_fd(),
                (libc::O_DIRECT | libc::O_NONBLOCK) as u32,
            )?;
        }
    }
    fill(set, Image::PipesData, |number| {
        pipes.get(&number).map(|pipe| &pipe.writer)
    })?;
    for pipe in pipes.into_values() {
        pipe.open(&mut keep)?;
    }
    Ok(())
}

fn make<'e>() -> Result<Pipe<'e>> {
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (reader, writer) = rustix::pipe::pipe_with(flags).host("make a pipe")?;
    Ok(Pipe {
        reader,
        writer,
        entries: Vec::new(),
    })
}

impl Pipe<'_> {
    /// Gives every entry its end: the one the pipe was born with, or a new one.
    ///
    /// An end that pipe(2) made lacks O_LARGEFILE and one that open(2) made has it, so programs cannot tell.
    fn open(&self, keep: &mut impl FnMut(u32, OwnedFd) -> Result<()>) -> Result<()> {
        let (mut reader_free, mut writer_free) = (true, true);
        for entry in &self.entries {
            let access = entry.flags & libc::O_ACCMODE as u32;
            let (end, free) = if access == libc::O_WRONLY as u32 {
                (&self.writer, &mut writer_free)
            } else {
                (&self.reader, &mut reader_free)
            };
            let could_be_born = access != libc::O_RDWR as u32 && entry.flags & O_LARGEFILE == 0;
            let file = if could_be_born && std::mem::take(free) {
                set_status(end.as_fd(), entry.flags)?;
                rustix::io::fcntl_dupfd_cloexec(end, 0).host("duplicate a pipe")?
            } else {
                reopen(end.as_fd(), entry.flags)?
            };
            keep(entry.id, file)?;
        }
        Ok(())
    }
}

/// What open(2) adds to the flags of every file on 64-bit machines.
const O_LARGEFILE: u32 = 0o100_000;

/// Opens an end of a pipe or fifo once more. Nothing waits: both ends exist.
fn reopen(end: BorrowedFd<'_>, flags: u32) -> Result<OwnedFd> {
    let file = paths::reopen(end, flags & !(libc::O_DIRECT as u32))?;
    set_status(file.as_fd(), flags)?;
    Ok(file)
}

/// Gives pipes, or fifos, their sizes and what was in them. `writer` finds the end to write to, which must not block.
///
/// A fifo that has something in it already is left alone: somebody outside the tree kept it open, so that nothing of
/// what was in it is lost.
pub fn fill<'w>(
    set: &SetReader,
    kind: Image,
    mut writer: impl FnMut(u32) -> Option<&'w OwnedFd>,
) -> Result<()> {
    if !set.exists(kind, None) {
        return Ok(());
    }
    let mut image = set.entries(kind, None)?;
    while let Some(entry) = image.next_entry::<PipeDataEntry>()? {
        let writer = writer(entry.pipe_id);
        let Some(writer) = writer.filter(|writer| fd::readable_bytes(writer.as_fd()) == Ok(0))
        else {
            image.skip_payload(u64::from(entry.bytes))?;
            continue;
        };
        if let Some(size) = entry.size {
            set_size(writer.as_fd(), size as usize)?;
        }
        let rest = packets(&mut image, &entry, writer.as_fd())?;
        let duplicate = rustix::io::fcntl_dupfd_cloexec(writer, 0).host("duplicate a pipe")?;
        image.copy_payload(rest, &mut File::from(duplicate))?;
    }
    Ok(())
}

/// Writes the packets of a pipe, one by one. Gives the number of bytes that are no packets.
fn packets(
    image: &mut EntryReader<'_>,
    entry: &PipeDataEntry,
    writer: BorrowedFd<'_>,
) -> Result<u64> {
    let mut rest = u64::from(entry.bytes);
    if entry.cryopod_packets.is_empty() {
        return Ok(rest);
    }
    let corrupt =
        || Error::inconsistent("pipes-data", format!("pipe {}: bad packets", entry.pipe_id));
    let mode = |flags: i32| set_status(writer, (flags | libc::O_NONBLOCK) as u32);
    mode(libc::O_DIRECT)?;
    for &length in &entry.cryopod_packets {
        if length == 0 || length as usize > LONGEST_PACKET_BYTES {
            return Err(corrupt());
        }
        rest = rest.checked_sub(length.into()).ok_or_else(corrupt)?;
        let mut packet = Vec::new();
        image.copy_payload(length.into(), &mut packet)?;
        let written = rustix::io::write(writer, &packet).host("write a packet to a pipe")?;
        if written != packet.len() {
            return Err(corrupt());
        }
    }
    mode(0)?;
    Ok(rest)
}

fn set_size(file: BorrowedFd<'_>, size_bytes: usize) -> Result<()> {
    let now = rustix::pipe::fcntl_getpipe_size(file).host("ask for the size of a pipe")?;
    if now != size_bytes {
        rustix::pipe::fcntl_setpipe_size(file, size_bytes).host("set the size of a pipe")?;
    }
    Ok(())
}
