//! The caller's end of a tracker.

use std::collections::HashSet;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use cryopod_sys::userfaultfd::Userfaultfd;
use cryopod_sys::{Errno, socket};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::wire::{self, Word};
use super::{Spaces, server, sweep};
use crate::dump::memory::Space;
use crate::error::{Context, Error, Result};
use crate::proc::stat;

/// How long a tracker may take to answer. It answers at once, unless somebody else has hold of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A tracker of a tree, held by this process: nobody else has a say as long as this value lives. Dropping it without
/// [`Tracker::commit`] leaves the tracker as it is, or, after the checkpoint has begun to use it, without a base.
#[derive(Debug)]
pub struct Tracker {
    socket: OwnedFd,
    pid: i32,
    base: Option<String>,
    spaces: Spaces,
    /// Those of `spaces` that it does not have yet.
    fresh: HashSet<i32>,
    /// Whether it has forgotten its base for a checkpoint that is being made.
    has_begun: bool,
}

impl Tracker {
    /// Takes hold of the tracker of the tree of `root`; none if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Tracker`] if what answers there is none; those of sockets.
    pub fn find(root: i32) -> Result<Option<Self>> {
        let socket = wire::socket()?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).host("set a time limit")?;
        let address = wire::address(root, stat::read(root)?.start_time);
        match socket::connect(socket.as_fd(), &address) {
            Err(Errno::CONNREFUSED) => return Ok(None),
            connected => connected.host("reach the tracker")?,
        }
        server::check_peer(socket.as_fd())?;
        wire::say(socket.as_fd(), &Word::Hello)?;
        let mut spaces = Spaces::new();
        let Some(Word::State(pid, count, base)) = wire::hear(socket.as_fd(), &mut spaces)? else {
            return Err(gone());
        };
        while spaces.len() < count as usize {
            match wire::hear(socket.as_fd(), &mut spaces)? {
                Some(Word::Spaces(pids)) if !pids.is_empty() => {}
                _ => return Err(gone()),
            }
        }
        Ok(Some(Self {
            socket,
            pid: pid as i32,
            base,
            spaces,
            fresh: HashSet::new(),
            has_begun: false,
        }))
    }

    /// The same, and starts one if there is none.
    ///
    /// # Errors
    ///
    /// As [`Tracker::find`]. It starts as a copy of this process, which must have no other thread (EBUSY).
    pub fn find_or_start(root: i32) -> Result<Self> {
        // Somebody else may start one in between, or the one that was there may leave.
        for _ in 0..3 {
            if let Some(found) = Self::find(root)? {
                return Ok(found);
            }
            server::start(root)?;
        }
        Err(gone())
    }

    /// The id of the checkpoint since which it is known what was written to; none before the first, and after one that
    /// failed.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// The process that it is.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Has it forget its base: from here on, the next checkpoint is a full one unless this one is
    /// [committed](Tracker::commit). The caller still knows it.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.ask(&Word::Begin)?;
        self.has_begun = true;
        Ok(())
    }

    /// What was not written to since the base, in one address space; from now on, it is about what is written after this.
    pub(super) fn sweep(&mut self, space: &mut Space) -> Result<Vec<Range<u64>>> {
        let pid = space.pid;
        if sweep::trackable(&space.layout.maps).is_empty() {
            return Ok(Vec::new());
        }
        if self.spaces.get(&pid).is_none_or(Userfaultfd::is_gone) {
            self.spaces.insert(pid, sweep::follow(space)?);
            self.fresh.insert(pid);
        }
        let Some(uffd) = self.spaces.get(&pid) else {
            return Ok(Vec::new());
        };
        let swept = sweep::sweep(uffd, space);
        // Registering joins mappings that could not be joined before, also where it stopped half-way.
        if swept
            .as_ref()
            .map_or(true, |(_, has_registered)| *has_registered)
        {
            space.layout.refresh(space.reader)?;
        }
        Ok(swept?.0)
    }

    /// Tells it that the checkpoint is safely stored under this id, which is its base from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Tracker`] when it is gone; the next checkpoint is a full one then.
    pub fn commit(self, id: &str) -> Result<()> {
        if !self.has_begun {
            return Err(gone());
        }
        let fresh = self.fresh.iter();
        let fresh = fresh.filter_map(|pid| Some((*pid, self.spaces.get(pid)?)));
        wire::hand_over(self.socket.as_fd(), fresh)?;
        self.ask(&Word::Commit(id.to_owned()))
    }

    /// Has it leave, and with it all knowledge of what was written.
    ///
    /// # Errors
    ///
    /// [`Error::Tracker`] when it is gone already.
    pub fn dismiss(self) -> Result<()> {
        self.ask(&Word::Leave)
    }

    fn ask(&self, word: &Word) -> Result<()> {
        wire::say(self.socket.as_fd(), word)?;
        match wire::hear(self.socket.as_fd(), &mut Spaces::new())? {
            Some(Word::Done) => Ok(()),
            _ => Err(gone()),
        }
    }
}

fn gone() -> Error {
    Error::Tracker {
        what: "it does not answer",
    }
}
