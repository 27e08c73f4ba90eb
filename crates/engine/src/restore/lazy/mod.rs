//! Lazy restore: the program runs as soon as its tree stands, and its pages come when it touches them, or in the
//! background.
//!
//! Private memory stays anonymous memory: missing pages are asked for through userfaultfd(2), not mapped from the pages
//! file. `docs/engine.md` ("Restoring lazily") tells who does what and why; in short:
//!
//! - [`choice`]: which mappings may be filled later, and which pages have to be there before the first instruction
//! - [`Later::prepare`]: each task makes its userfaultfd while it is still a puppet
//! - [`Later::register`]: last of all, when nobody but the program will touch the memory any more
//! - [`helper`]: the process that fills it, [`fill`], with what each address space lacks, [`space`] and [`pending`]
//! - [`guardian`]: ends the programs if the helper dies, so that they never see zeroes for pages that did not come
//! - [`news`]: what the helper tells whoever waits for it

mod choice;
mod fill;
mod guardian;
mod helper;
mod news;
mod pending;
mod space;

use std::collections::BTreeSet;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use cryopod_image::BLOCK_SIZE_BYTES;
use cryopod_image::layers::LayeredPages;
use cryopod_sys::userfaultfd::{CREATE_FLAGS, Userfaultfd};
use cryopod_sys::{pagemap, process};

use self::pending::{Pending, Piece};
use super::fill::Segment;
use super::memory::Contents;
use super::plan::Task;
use crate::error::{Context, Error, Result};
use crate::proc;
use crate::remote::puppet::Puppet;

pub use news::News;

/// What a task's memory still lacks when everything else is done.
pub struct Later {
    pid: i32,
    uffd: Userfaultfd,
    pages: LayeredPages,
    pending: Pending,
    /// The mappings to be watched.
    mappings: Vec<Range<u64>>,
    /// Which pages are there; opened while the first thread lives, which it need not do to the end. Gone with
    /// [`Later::register`].
    pagemap: Option<File>,
}

/// What of a task's contents is put off, until the rest of them is written.
pub struct PutOff {
    mappings: Vec<Range<u64>>,
    segments: Vec<Segment>,
}

impl PutOff {
    /// Takes out of `contents` what may come later. None if that is nothing.
    pub fn choose(
        task: &Task,
        inherited: &[bool],
        handed_on: &[bool],
        contents: &mut Contents,
    ) -> Option<Self> {
        let mappings = choice::lazy(task, inherited, handed_on, contents.segments());
        let hot = choice::hot(&task.threads);
        let may_wait = |segment: &Segment| {
            let range = segment.address..segment.address + segment.len;
            let index = mappings.partition_point(|mapping| mapping.end <= range.start);
            let within = mappings
                .get(index)
                .is_some_and(|mapping| mapping.start <= range.start);
            within
                && !hot
                    .iter()
                    .any(|hot| hot.start < range.end && range.start < hot.end)
        };
        let segments = contents.put_off(may_wait);
        (!segments.is_empty()).then_some(Self { mappings, segments })
    }
}

/// prctl(PR_SET_THP_DISABLE) in a task. What the program itself had set is restored later.
pub fn forbid_huge_pages(puppet: &Puppet, forbid: bool) -> Result<()> {
    let args = [libc::PR_SET_THP_DISABLE as u64, forbid.into(), 0, 0, 0, 0];
    puppet
        .must("prctl (no huge pages)", libc::SYS_prctl, args)
        .map(drop)
}

impl Later {
    /// Has a task make its userfaultfd, which is taken from it.
    pub fn prepare(puppet: &Puppet, put_off: PutOff, pages: LayeredPages) -> Result<Self> {
        let pid = puppet.pid;
        let fd = puppet.must(
            "userfaultfd",
            libc::SYS_userfaultfd,
            [CREATE_FLAGS, 0, 0, 0, 0, 0],
        )?;
        let pidfd = process::pidfd_open(pid).task("hold on to it", pid)?;
        let uffd = process::pidfd_getfd(pidfd.as_fd(), fd as i32).fd(
            "take the userfaultfd",
            pid,
            fd as i32,
        )?;
        puppet.must("close", libc::SYS_close, [fd, 0, 0, 0, 0, 0])?;
        let uffd = Userfaultfd::from(uffd);
        uffd.enable().task("follow its memory", pid)?;
        let mut pending = Pending::default();
        for segment in put_off.segments {
            pending.insert(Piece {
                address: segment.address,
                offset: segment.offset,
                len: segment.len,
            });
        }
        let path = proc::path(pid, "pagemap");
        let pagemap = File::open(&path).map_err(|source| Error::Path {
            operation: "open",
            path,
            source,
        })?;
        let lacks = |mapping: &Range<u64>| pending.lacks(mapping);
        Ok(Self {
            pid,
            uffd,
            pages,
            mappings: put_off.mappings.into_iter().filter(lacks).collect(),
            pending,
            pagemap: Some(pagemap),
        })
    }

    /// Watches the mappings. From here on, whoever touches a missing page waits for the helper, so the last remote call
    /// must have been made.
    fn register(&mut self) -> Result<()> {
        for mapping in &self.mappings {
            self.uffd
                .register(mapping.clone())
                .task("watch its memory", self.pid)?;
        }
        let Some(map) = self.pagemap.take() else {
            return Ok(());
        };
        for piece in self.pending.pieces() {
            let there = pagemap::any_page(map.as_fd(), piece.range());
            if there.task("look at its pages", self.pid)? {
                // It would be taken for the right one and keep whatever is in it.
                return Err(Error::NotRestorable {
                    what: format!(
                        "pid {}: a page near {:#x} was touched too early; restore it without --lazy",
                        self.pid, piece.address
                    ),
                });
            }
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.pending.bytes()
    }

    fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.uffd.as_fd()).chain(self.pages.descriptors())
    }

    fn blocks(&self) -> BTreeSet<u64> {
        self.pending
            .pieces()
            .flat_map(|piece| {
                piece.offset / BLOCK_SIZE_BYTES..=(piece.offset + piece.len - 1) / BLOCK_SIZE_BYTES
            })
            .collect()
    }
}

/// Starts filling by so many threads, when every task but for its memory is done. `pids` are all tasks of the tree, which
/// end if it fails.
pub fn start(
    mut later: Vec<Later>,
    pids: &[i32],
    jobs: Option<NonZeroUsize>,
) -> Result<Option<Filling>> {
    if later.is_empty() {
        return Ok(None);
    }
    for one in &mut later {
        one.register()?;
    }
    helper::start(later, pids, jobs).map(Some)
}

/// The filling that goes on in a helper process.
#[derive(Debug)]
pub struct Filling {
    listener: news::Listener,
    helper_pid: i32,
    total_bytes: u64,
}

impl Filling {
    /// The helper's pid.
    pub fn helper_pid(&self) -> i32 {
        self.helper_pid
    }

    /// How much was left to be filled when the program was let go.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// The next news, if there is any; never waits. The descriptor is ready when there is, and when the helper has gone.
    pub fn news(&mut self) -> Option<News> {
        self.listener.take()
    }

    /// Whether the helper and its guardian have gone, so that there will be no more news.
    pub fn is_ended(&self) -> bool {
        self.listener.is_ended()
    }

    /// Waits for the end of it.
    ///
    /// # Errors
    ///
    /// [`Error::Filling`] when the programs had to be ended.
    pub fn wait(&mut self, mut progress: impl FnMut(u64)) -> Result<()> {
        loop {
            match self.listener.wait()? {
                Some(News::Ready(_)) => {}
                Some(News::Progress(bytes)) => progress(bytes),
                Some(News::Done) => return Ok(()),
                Some(News::Failed(kind, what)) => return Err(Error::Filling { kind, what }),
                None => {
                    return Err(Error::Ended {
                        pid: self.helper_pid,
                        during: "filling the memory",
                    });
                }
            }
        }
    }
}

impl AsFd for Filling {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
