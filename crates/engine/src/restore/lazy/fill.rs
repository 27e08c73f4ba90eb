//! Filling: faults are answered first, and all the rest comes in the background.
//!
//! The unit is the block of the pages file, read and verified once and then put into every address space that lacks
//! something of it, forked children included. Several workers take blocks from one queue; one listener hears the
//! faults and whatever the programs do to their mappings.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cryopod_image::BLOCK_SIZE_BYTES;
use cryopod_image::layers::LayeredPages;
use cryopod_image::set::BlockBuffer;
use cryopod_sys::Errno;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::space::{Put, Space};
use crate::error::{Context, Error, Result};

/// A block: which pages file, and its number there.
type Block = (usize, u64);

/// A block that is to come, with the page that somebody waits for.
type Job = (Block, Option<(Arc<Space>, u64)>);

/// The most workers, each with a buffer of a block.
const MAX_WORKERS: usize = 16;

/// How often the listener tells how far it is.
const INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// How soon an answer is tried again that the kernel did not take, because a program was changing its mappings.
const SOON: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000,
};

/// Everything that is still to come, for all address spaces.
pub struct Fill {
    sources: Vec<LayeredPages>,
    spaces: Mutex<Vec<Arc<Space>>>,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Ends the listener's waiting.
    over: OwnedFd,
    put_bytes: AtomicU64,
}

#[derive(Default)]
struct Queue {
    /// What somebody waits for.
    urgent: VecDeque<Job>,
    /// What nobody has taken.
    remaining: BTreeSet<Block>,
    /// What a worker is at.
    busy: HashSet<Block>,
    /// Where the background goes on: behind the last fault, since programs tend to go on there.
    cursor: Block,
    over: bool,
    failed: Option<Error>,
}

impl Fill {
    /// Prepares to fill `spaces` from `sources`.
    pub fn new(
        sources: Vec<LayeredPages>,
        spaces: Vec<Space>,
        blocks: BTreeSet<Block>,
    ) -> Result<Self> {
        let over = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .host("make an event descriptor")?;
        Ok(Self {
            sources,
            spaces: Mutex::new(spaces.into_iter().map(Arc::new).collect()),
            queue: Mutex::new(Queue {
                remaining: blocks,
                ..Queue::default()
            }),
            changed: Condvar::new(),
            over,
            put_bytes: AtomicU64::new(0),
        })
    }

    /// Fills everything. `progress` hears now and then how many bytes were put. Returns when all is there or all
    /// processes are gone; with an error, pages may be missing.
    pub fn run(&self, jobs: Option<NonZeroUsize>, progress: &mut dyn FnMut(u64)) -> Result<()> {
        // Two at least, unless said otherwise: one may be reading from a slow disk.
        let processors = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        let workers = jobs.map_or(processors.max(2), NonZeroUsize::get);
        let workers = workers.min(MAX_WORKERS);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| self.guarded(self.work()));
            }
            self.guarded(self.listen(progress));
        });
        if let Some(error) = self.queue().failed.take() {
            return Err(error);
        }
        match self.spaces().iter().find(|space| !space.is_full()) {
            Some(space) => Err(Errno::IO).task("fill its memory", space.pid),
            None => Ok(()),
        }
    }

    /// The first failure of any thread ends them all.
    fn guarded(&self, done: Result<()>) {
        if let Err(error) = done {
            let mut queue = self.queue();
            queue.failed.get_or_insert(error);
            self.end(&mut queue);
        }
    }

    fn end(&self, queue: &mut Queue) {
        queue.over = true;
        self.changed.notify_all();
        // A counter that is full has been noticed already.
        let _ = rustix::io::write(&self.over, &1u64.to_ne_bytes());
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spaces(&self) -> MutexGuard<'_, Vec<Arc<Space>>> {
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) -> Result<()> {
        let mut buffer = BlockBuffer::new();
        while let Some((block, first)) = self.next() {
            self.put(block, first, &mut buffer)?;
            let mut queue = self.queue();
            queue.busy.remove(&block);
            self.changed.notify_all();
        }
        Ok(())
    }

    /// The next block to come; none when all have come.
    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if queue.over {
                return None;
            }
            while let Some((block, first)) = queue.urgent.pop_front() {
                // Whoever is at it already answers this one as well.
                if queue.remaining.remove(&block) {
                    queue.begin(block);
                    return Some((block, first));
                }
            }
            let cursor = queue.cursor;
            let next = queue.remaining.range(cursor..).next().copied();
            if let Some(block) = next.or_else(|| queue.remaining.first().copied()) {
                queue.remaining.remove(&block);
                queue.begin(block);
                return Some((block, None));
            }
            if queue.busy.is_empty() {
                self.end(&mut queue);
                return None;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Puts a block into every address space that lacks something of it, until none does.
    fn put(
        &self,
        (source, number): Block,
        mut first: Option<(Arc<Space>, u64)>,
        buffer: &mut BlockBuffer,
    ) -> Result<()> {
        let mut read = false;
        loop {
            // Children may come while it is put into their parent.
            let lacking: Vec<Arc<Space>> = {
                let mut spaces = self.spaces();
                spaces.retain(|space| !space.is_gone());
                let lacks = |space: &&Arc<Space>| space.source == source && space.lacks(number);
                spaces.iter().filter(lacks).cloned().collect()
            };
            if lacking.is_empty() {
                return Ok(());
            }
            if !read {
                self.sources[source].read_block(number, buffer)?;
                read = true;
            }
            for space in lacking {
                let page = first
                    .take_if(|(waiting, _)| Arc::ptr_eq(waiting, &space))
                    .map(|(_, page)| page);
                let mut count = |bytes| {
                    self.put_bytes.fetch_add(bytes, Ordering::Relaxed);
                };
                let start = number * BLOCK_SIZE_BYTES;
                if space.put_block(number, start, buffer, page, &mut count)? == Put::Changing {
                    if self.queue().over {
                        return Ok(());
                    }
                    // The listener reads the event; the program goes on; then it works.
                    std::thread::yield_now();
                }
            }
        }
    }

    /// Hears faults and changes of mappings until all is over.
    fn listen(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let mut unanswered: Vec<(Arc<Space>, u64)> = Vec::new();
        while !self.queue().over {
            let spaces: Vec<Arc<Space>> = self.spaces().clone();
            let timeout = if unanswered.is_empty() {
                INTERVAL
            } else {
                SOON
            };
            let mut fds: Vec<PollFd<'_>> = std::iter::once(self.over.as_fd())
                .chain(spaces.iter().map(|space| space.uffd().as_fd()))
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).host("wait for page faults"),
            }
            for (space, fd) in spaces.iter().zip(&fds[1..]) {
                if !fd.revents().is_empty() {
                    let mut born = |child| self.spaces().push(Arc::new(child));
                    let faults = space.read_events(&mut born)?;
                    unanswered.extend(faults.into_iter().map(|page| (Arc::clone(space), page)));
                }
            }
            unanswered = self.answer(unanswered)?;
            progress(self.put_bytes.load(Ordering::Relaxed));
        }
        Ok(())
    }

    /// Has workers answer faults on stored pages, and answers the others at once. Returns those that have to wait.
    fn answer(&self, faults: Vec<(Arc<Space>, u64)>) -> Result<Vec<(Arc<Space>, u64)>> {
        let mut later = Vec::new();
        for (space, page) in faults {
            if let Some(offset) = space.offset_of(page) {
                let block = (space.source, offset / BLOCK_SIZE_BYTES);
                let mut queue = self.queue();
                if !queue.busy.contains(&block) {
                    queue.remaining.insert(block);
                }
                queue.urgent.push_back((block, Some((space, page))));
                self.changed.notify_one();
            } else if space.put_zeroes(page)? == Put::Changing {
                later.push((space, page));
            }
        }
        Ok(later)
    }
}

impl Queue {
    fn begin(&mut self, block: Block) {
        self.busy.insert(block);
        self.cursor = (block.0, block.1 + 1);
    }
}
