//! Threads that read memory and write it to pages files.
//!
//! Every worker does all of it for one piece after the other: takes the next piece from the list, reads it, waits for
//! its turn, adds it to pagemap and block, and hashes and writes the blocks that became full. Only the turn is one at
//! a time, because the runs of a pagemap and the bytes of a pages file follow each other by address; it is short.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cryopod_image::pagemap::{PagemapWriter, page_flags};
use cryopod_image::set::{BlockBuffer, PagesWriter};
use cryopod_image::{BLOCK_SIZE_BYTES, Kind, SetWriter};
use cryopod_sys::memory::PAGE;

use super::Read;
use super::packer::{Block, Packer, Spare};
use super::runs::Run;
use crate::error::{Error, Result};
use crate::progress::{Cancel, Progress};

/// The most workers: with three buffers of a block each, they take less than 64 MiB.
const MAX_WORKERS: usize = 16;

/// Memory that becomes one pagemap and one pages file.
pub struct Stream<'a> {
    /// Of the pagemap.
    pub kind: Kind,
    /// Number of the pagemap.
    pub id: u64,
    /// What to read, by address.
    pub runs: Vec<Run>,
    /// What the parent image set has, by address; nothing of it is in `runs`.
    pub kept: &'a [Range<u64>],
    /// Fills a buffer from an address; any thread may call it.
    pub read: Read<'a>,
}

impl Stream<'_> {
    /// Size of all runs.
    pub fn size_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }
}

/// Writes all streams and returns the bytes written of each. The first has the pages file `first_id`, the next the next
/// number, and so on.
pub fn run(
    set: &SetWriter,
    streams: &[Stream<'_>],
    first_id: u32,
    jobs: Option<NonZeroUsize>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Vec<u64>> {
    let pieces: u64 = streams
        .iter()
        .map(|one| one.size_bytes() / BLOCK_SIZE_BYTES + 1)
        .sum();
    let jobs = jobs
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, usize::from)
        .min(MAX_WORKERS)
        .min(usize::try_from(pieces).unwrap_or(MAX_WORKERS));
    let line = Line {
        set,
        streams,
        first_id,
        list: Mutex::new(Cursor::default()),
        order: Mutex::new(Order {
            written: vec![0; streams.len()],
            ..Order::default()
        }),
        turned: Condvar::new(),
    };
    let work = || {
        let _guard = Watch(&line);
        if let Err(error) = line.work(progress, cancel) {
            line.fail(error);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs {
            scope.spawn(work);
        }
        work();
    });
    let order = line
        .order
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    match order.failed {
        Some(error) => Err(error),
        None => Ok(order.written),
    }
}

/// Where the next piece begins.
#[derive(Debug, Default)]
struct Cursor {
    /// Number of the next piece.
    ticket: u64,
    stream: usize,
    run: usize,
    /// Bytes of the run that were given out.
    done: u64,
}

/// A piece of a stream: up to a block of bytes, from one run or several.
#[derive(Debug, Default)]
struct Piece {
    ticket: u64,
    stream: usize,
    /// Address, length, and whether pages of zeroes may be left out.
    parts: Vec<(u64, usize, bool)>,
    /// Whether it begins and ends its stream.
    first: bool,
    last: bool,
}

/// What is done one piece at a time.
#[derive(Default)]
struct Order<'a> {
    /// The piece whose turn it is.
    ticket: u64,
    output: Option<Output<'a>>,
    spare: Spare,
    written: Vec<u64>,
    /// The first failure; the others are its consequences.
    failed: Option<Error>,
}

/// The files of a stream.
struct Output<'a> {
    map: PagemapWriter<'a>,
    /// Whoever writes the last block completes the file.
    pages: Arc<PagesWriter<'a>>,
    packer: Packer,
    /// The run of pages that may go on in the next piece.
    open: Option<(u64, u64)>,
    /// What of the parent's pages is not in the map yet.
    kept: &'a [Range<u64>],
}

/// Pages files that blocks are to be written to, and blocks.
type Full<'a> = (Arc<PagesWriter<'a>>, Vec<Block>);

struct Line<'a> {
    set: &'a SetWriter,
    streams: &'a [Stream<'a>],
    first_id: u32,
    list: Mutex<Cursor>,
    order: Mutex<Order<'a>>,
    turned: Condvar,
}

impl<'a> Line<'a> {
    fn work(&self, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        let mut buffer = BlockBuffer::new();
        while let Some(piece) = self.next_piece() {
            if cancel.is_requested() {
                return Err(Error::Cancelled);
            }
            let len = read_piece(&self.streams[piece.stream], &piece, &mut buffer)?;
            let dense = dense_parts(&piece, &buffer);
            let Some((pages, full)) = self.in_turn(&piece, &dense, &mut buffer)? else {
                return Ok(());
            };
            for block in &full {
                pages.write_block(block.index, &block.bytes)?;
            }
            if let Some(pages) = Arc::into_inner(pages) {
                pages.finish()?;
            }
            let mut order = self.order();
            full.into_iter()
                .for_each(|block| order.spare.put(block.bytes));
            drop(order);
            progress.advance(len as u64);
        }
        Ok(())
    }

    /// Takes the next piece from the list. A stream without pages is one piece without parts.
    fn next_piece(&self) -> Option<Piece> {
        let mut at = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = self.streams.get(at.stream)?;
        let mut piece = Piece {
            ticket: at.ticket,
            stream: at.stream,
            first: at.run == 0 && at.done == 0,
            ..Piece::default()
        };
        let mut room = BLOCK_SIZE_BYTES;
        while let Some(run) = stream.runs.get(at.run).filter(|_| room > 0) {
            let start = run.start + at.done;
            let len = (run.end - start).min(room);
            piece.parts.push((start, len as usize, run.sparse));
            room -= len;
            at.done += len;
            if start + len == run.end {
                at.run += 1;
                at.done = 0;
            }
        }
        piece.last = at.run == stream.runs.len();
        if piece.last {
            *at = Cursor {
                stream: at.stream + 1,
                ticket: at.ticket,
                ..Cursor::default()
            };
        }
        at.ticket += 1;
        Some(piece)
    }

    /// Waits for the piece's turn and adds its dense parts to the files of its stream. Returns the blocks that became
    /// full, or nothing when somebody failed.
    fn in_turn(
        &self,
        piece: &Piece,
        dense: &[Dense],
        buffer: &mut BlockBuffer,
    ) -> Result<Option<Full<'a>>> {
        let mut guard = self.order();
        while guard.ticket != piece.ticket && guard.failed.is_none() {
            guard = self
                .turned
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let order = &mut *guard;
        if order.failed.is_some() {
            return Ok(None);
        }
        if piece.first {
            order.output = Some(self.begin(piece.stream)?);
        }
        let Some(output) = &mut order.output else {
            return Ok(None);
        };
        let mut full = Vec::new();
        output.add(dense, buffer, &mut order.spare, &mut full)?;
        order.written[piece.stream] += dense.iter().map(|part| part.len as u64).sum::<u64>();
        let mut pages = Arc::clone(&output.pages);
        if piece.last
            && let Some(output) = order.output.take()
        {
            pages = output.end(&mut full)?;
        }
        order.ticket += 1;
        self.turned.notify_all();
        Ok(Some((pages, full)))
    }

    fn begin(&self, stream: usize) -> Result<Output<'a>> {
        let (one, pages_id) = (&self.streams[stream], self.first_id + stream as u32);
        Ok(Output {
            map: PagemapWriter::create(self.set, one.kind, one.id, pages_id)?,
            pages: Arc::new(self.set.pages(pages_id)?),
            packer: Packer::default(),
            open: None,
            kept: one.kept,
        })
    }

    fn fail(&self, error: Error) {
        self.order().failed.get_or_insert(error);
        self.turned.notify_all();
    }

    fn order(&self) -> MutexGuard<'_, Order<'a>> {
        // A worker that panics takes the whole dump with it: thread::scope passes the panic on (and `Watch` tells the
        // others).
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets nobody wait for the turn of a worker that panicked.
struct Watch<'l, 'a>(&'l Line<'a>);

impl Drop for Watch<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Cancelled);
        }
    }
}

impl<'a> Output<'a> {
    fn add(
        &mut self,
        dense: &[Dense],
        buffer: &mut BlockBuffer,
        spare: &mut Spare,
        full: &mut Vec<Block>,
    ) -> Result<()> {
        for part in dense {
            let end = part.address + part.len as u64;
            match &mut self.open {
                Some((_, at)) if *at == part.address => *at = end,
                open => {
                    let before = open.replace((part.address, end));
                    self.close(before)?;
                }
            }
        }
        let whole = dense.iter().map(|part| part.len).sum::<usize>() == buffer.len();
        if whole && buffer.room() == 0 {
            let piece = std::mem::replace(buffer, spare.take());
            if let Some(back) = self.packer.push_block(piece, spare, full) {
                spare.put(back);
            }
            return Ok(());
        }
        for part in dense {
            let bytes = &buffer[part.offset..part.offset + part.len];
            self.packer.push(bytes, spare, full);
        }
        Ok(())
    }

    /// Completes the pagemap and gives out the last block.
    fn end(mut self, full: &mut Vec<Block>) -> Result<Arc<PagesWriter<'a>>> {
        let open = self.open.take();
        self.close(open)?;
        self.refer_to_parent(u64::MAX)?;
        self.map.finish()?;
        self.packer.finish(full);
        Ok(self.pages)
    }

    fn close(&mut self, run: Option<(u64, u64)>) -> Result<()> {
        let Some((start, end)) = run else {
            return Ok(());
        };
        self.refer_to_parent(start)?;
        Ok(self
            .map
            .push(start, (end - start) / PAGE, page_flags::PRESENT)?)
    }
}

impl Output<'_> {
    /// Adds what the parent has below an address.
    fn refer_to_parent(&mut self, limit: u64) -> Result<()> {
        while let Some((range, rest)) = self.kept.split_first()
            && range.start < limit
        {
            let pages = (range.end - range.start) / PAGE;
            self.map.push(range.start, pages, page_flags::PARENT)?;
            self.kept = rest;
        }
        Ok(())
    }
}

/// Fills the buffer with a piece and returns its length.
fn read_piece(stream: &Stream<'_>, piece: &Piece, buffer: &mut BlockBuffer) -> Result<usize> {
    let len = piece.parts.iter().map(|(_, len, _)| len).sum();
    buffer.set_len(len);
    let mut offset = 0;
    for &(address, len, _) in &piece.parts {
        (stream.read)(address, &mut buffer[offset..offset + len])?;
        offset += len;
    }
    Ok(len)
}

/// A part of a piece that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dense {
    address: u64,
    /// In the piece's buffer.
    offset: usize,
    len: usize,
}

/// The parts of a piece that are not full of zeroes, by whole pages, and those that are stored whatever they are.
fn dense_parts(piece: &Piece, buffer: &[u8]) -> Vec<Dense> {
    let mut dense = Vec::new();
    let mut at = 0;
    for &(address, len, sparse) in &piece.parts {
        if !sparse {
            dense.push(Dense {
                address,
                offset: at,
                len,
            });
        } else {
            dense_pages(address, at, &buffer[at..at + len], &mut dense);
        }
        at += len;
    }
    dense
}

fn dense_pages(address: u64, offset: usize, bytes: &[u8], dense: &mut Vec<Dense>) {
    let mut open: Option<Dense> = None;
    for (index, page) in bytes.chunks(PAGE as usize).enumerate() {
        if is_zero(page) {
            dense.extend(open.take());
            continue;
        }
        let skip = index * PAGE as usize;
        let new = Dense {
            address: address + skip as u64,
            offset: offset + skip,
            len: 0,
        };
        open.get_or_insert(new).len += page.len();
    }
    dense.extend(open);
}

/// Whether a page holds only zeroes. Most pages that are not zero show it in their first bytes.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(64)
        .all(|line| line.iter().fold(0, |bits, byte| bits | byte) == 0)
}

#[cfg(test)]
mod tests {
    use cryopod_image::SetReader;
    use cryopod_image::pagemap::Pagemap;

    use super::*;
    use crate::progress::NoProgress;

    const P: usize = PAGE as usize;

    fn dense(address: u64, offset: usize, len: usize) -> Dense {
        Dense {
            address,
            offset,
            len,
        }
    }

    #[test]
    fn zero_pages_are_left_out_and_neighbours_joined() {
        let mut buffer = vec![0u8; 6 * P];
        buffer[P + 7] = 1;
        buffer[3 * P - 1] = 1;
        buffer[4 * P] = 1;
        let piece = Piece {
            parts: vec![(0x10000, 5 * P, true), (0x90000, P, false)],
            ..Piece::default()
        };
        assert_eq!(
            dense_parts(&piece, &buffer),
            [
                dense(0x11000, P, 2 * P),
                dense(0x14000, 4 * P, P),
                dense(0x90000, 5 * P, P)
            ]
        );
    }

    /// Every page holds its address, and every seventh is zero.
    fn fill(at: u64, buffer: &mut [u8]) -> Result<()> {
        for (index, page) in buffer.chunks_mut(P).enumerate() {
            let address = at + index as u64 * PAGE;
            page.fill(0);
            if !(address / PAGE).is_multiple_of(7) {
                page[..8].copy_from_slice(&address.to_le_bytes());
            }
        }
        Ok(())
    }

    fn stream(id: u64, runs: &[(u64, u64)], read: Read<'static>) -> Stream<'static> {
        let run = |&(start, pages): &(u64, u64)| Run {
            start,
            end: start + pages * PAGE,
            sparse: true,
        };
        Stream {
            kind: Kind::Pagemap,
            id,
            runs: runs.iter().map(run).collect(),
            kept: &[],
            read,
        }
    }

    #[test]
    fn what_several_threads_write_is_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let set = SetWriter::create(dir.path()).unwrap();
        let scattered: Vec<(u64, u64)> = (1..900).map(|n| (n * 0x10000, n % 5 + 1)).collect();
        let streams = [
            stream(5, &[(0x1000, 3000), (0x4000_0000, 1)], Box::new(fill)),
            stream(6, &[], Box::new(fill)),
            stream(7, &scattered, Box::new(fill)),
        ];
        let written = run(
            &set,
            &streams,
            1,
            NonZeroUsize::new(5),
            &NoProgress,
            &Cancel::default(),
        );
        let written = written.unwrap();
        let reader = SetReader::open(dir.path(), Some(set.finish().unwrap())).unwrap();
        for (stream, written) in streams.iter().zip(written) {
            let map = Pagemap::read(&reader, Kind::Pagemap, stream.id).unwrap();
            let pages = reader.pages(map.pages_id).unwrap();
            assert_eq!((map.pages_bytes(), pages.size_bytes()), (written, written));
            let mut expected: Vec<u64> = (stream.runs.iter())
                .flat_map(|run| (run.start..run.end).step_by(P))
                .filter(|address| !(address / PAGE).is_multiple_of(7))
                .collect();
            for run in &map.runs {
                let mut bytes = vec![0; run.size_bytes() as usize];
                pages
                    .read_exact_at(run.pages_offset_bytes, &mut bytes)
                    .unwrap();
                for (index, page) in bytes.chunks(P).enumerate() {
                    let address = run.vaddr + index as u64 * PAGE;
                    assert_eq!(page[..8], address.to_le_bytes());
                    assert_eq!(expected.remove(0), address);
                }
            }
            assert!(expected.is_empty());
        }
    }

    #[test]
    fn what_the_parent_has_is_in_the_map_and_not_in_the_pages() {
        let dir = tempfile::tempdir().unwrap();
        let set = SetWriter::create(dir.path()).unwrap();
        let kept = [0x1000..0x3000, 0x8000..0x9000, 0x20_0000..0x20_4000];
        let of = |kept| Stream {
            kept,
            ..stream(5, &[(0x3000, 2), (0x9000, 300)], Box::new(fill))
        };
        let only = Stream {
            id: 6,
            runs: Vec::new(),
            ..of(&kept)
        };
        let streams = [of(&kept), only];
        run(&set, &streams, 1, None, &NoProgress, &Cancel::default()).unwrap();
        let reader = SetReader::open(dir.path(), Some(set.finish().unwrap())).unwrap();
        for id in [5, 6] {
            let map = Pagemap::read(&reader, Kind::Pagemap, id).unwrap();
            let parents = map.runs.iter().filter(|run| run.in_parent());
            let parents: Vec<_> = parents.map(|run| run.vaddr..run.end()).collect();
            assert_eq!(parents, kept);
            let pages = reader.pages(map.pages_id).unwrap();
            assert_eq!(pages.size_bytes(), map.pages_bytes());
        }
    }

    #[test]
    fn the_first_failure_ends_all_workers_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let set = SetWriter::create(dir.path()).unwrap();
        let read = |at: u64, buffer: &mut [u8]| match at {
            0x500_0000.. => Err(Error::NotRestorable {
                what: "broken".to_owned(),
            }),
            _ => fill(at, buffer),
        };
        let streams = [stream(5, &[(0x1000, 50_000)], Box::new(read))];
        for jobs in [1, 4] {
            let dir = tempfile::tempdir().unwrap();
            let set = SetWriter::create(dir.path()).unwrap();
            let result = run(
                &set,
                &streams,
                1,
                NonZeroUsize::new(jobs),
                &NoProgress,
                &Cancel::default(),
            );
            assert!(matches!(result, Err(Error::NotRestorable { .. })));
        }
        let cancel = Cancel::default();
        cancel.request();
        let result = run(&set, &streams, 1, None, &NoProgress, &cancel);
        assert!(matches!(result, Err(Error::Cancelled)));
    }
}
