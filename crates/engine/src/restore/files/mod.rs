//! Descriptors, and what they lead to, in the other direction.
//!
//! cryopod opens every description once in its own process, at numbers above all that the tree uses, before the first
//! task is made. Tasks are born with them all; each then duplicates what its table wants to the right numbers and
//! closes the rest. The order of calls:
//!
//! 1. [`Files::load`], [`Files::highest_fd`]: read and check the images
//! 2. [`Files::open_all`], [`Files::prepare_mapping`]: open everything, in cryopod
//! 3. [`Files::install`]: in each task, or in one of those that share a table
//! 4. [`Files::open_late`]; [`Files::hand_late`], [`Files::fill_epolls`]: when all threads exist
//! 5. [`Files::seal_memfds`]: when all mappings are made
//! 6. [`Files::lock_descriptions`], [`Files::arm`]: when all pids exist; timers run from here on
//! 7. [`Files::close_high`], [`Files::lock_ranges`], [`Files::notify`]: in each task, last
//! 8. [`Files::take_names`], [`Files::watch`]: when nobody opens or closes anything any more
//!
//! The rooms are called like those of [`crate::dump::files`]; besides, `entries` has what entries have in common, `named`
//! opens one by its path, `tables` reads and makes descriptor tables, `late` is for files that exist only when the tree
//! does, and `courier` brings them to the tasks. `descriptions` has step 2, `tty_settings` a part of `ttys`.

mod bpf_maps;
mod courier;
mod descriptions;
mod entries;
mod epolls;
mod eventfds;
mod fifos;
mod fsnotify;
mod ghosts;
mod io_urings;
mod late;
mod locks;
mod memfds;
mod mqueues;
mod named;
mod namespaces;
mod owners;
mod paths;
mod pidfds;
mod pipes;
mod signalfds;
mod sockets;
mod streams;
mod tables;
mod timerfds;
mod tty_settings;
mod ttys;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use cryopod_image::criu::{FdinfoEntry, FileEntry};
use cryopod_image::{Kind as Image, SetReader};
use cryopod_sys::{Errno, fd};
use rustix::fs::OFlags;

use self::bpf_maps::BpfMaps;
use self::courier::Courier;
use self::entries::{check, owner, status_flags};
use self::fsnotify::Watches;
use self::ghosts::Remap;
use self::late::Late;
use self::locks::Locks;
use self::memfds::Memfds;
pub use self::mqueues::Made as MadeQueues;
use self::mqueues::Mqueues;
use self::sockets::Sockets;
use self::tables::Slot;
pub use self::ttys::Control;
use self::ttys::Ttys;
use crate::error::{Context, Error, Result};
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

/// All open files of a tree.
#[derive(Debug)]
pub struct Files {
    entries: BTreeMap<u32, FileEntry>,
    remaps: HashMap<u32, Remap>,
    memfds: Memfds,
    mqueues: Mqueues,
    bpf_maps: BpfMaps,
    /// By number; each in the order of descriptors.
    tables: BTreeMap<u32, Vec<FdinfoEntry>>,
    /// Descriptions by the number of their entry, each at a number of at least `base`.
    opened: BTreeMap<u32, OwnedFd>,
    /// Further descriptions for mappings: by entry and access mode.
    mapped: HashMap<(u32, u32), OwnedFd>,
    /// Entries whose descriptions are somebody else's: the restorer's own streams.
    joined: BTreeSet<u32>,
    /// The restorer's own standard streams, by number, for joined entries that are standard streams themselves. A
    /// terminal is often one description under all three numbers, and the restorer's three may lead to three places.
    own: BTreeMap<u32, OwnedFd>,
    /// Files that can be opened only when the tree's processes exist, and the way by which tasks get them.
    late: Late,
    stand_ins: RefCell<Vec<pidfds::StandIn>>,
    courier: Courier,
    watches: Watches,
    /// Where epoll instances are filled: table and descriptor, by entry.
    epolls: BTreeMap<u32, (u32, Option<u32>)>,
    sockets: Sockets,
    locks: Locks,
    ttys: Ttys,
    base: i32,
}

impl Files {
    /// Reads the images of open files.
    pub fn load(set: &SetReader) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for entry in set.read_all::<FileEntry>(Image::Files, None)? {
            check(&entry)?;
            let id = entry.id;
            if entries.insert(id, entry).is_some() {
                return Err(corrupt(id, "there are two of it"));
            }
        }
        Ok(Self {
            sockets: Sockets::load(set, &entries)?,
            entries,
            remaps: ghosts::load(set)?,
            memfds: Memfds::load(set)?,
            mqueues: Mqueues::load(set)?,
            bpf_maps: BpfMaps::load(set)?,
            tables: BTreeMap::new(),
            opened: BTreeMap::new(),
            mapped: HashMap::new(),
            joined: BTreeSet::new(),
            own: BTreeMap::new(),
            late: Late::default(),
            stand_ins: RefCell::default(),
            courier: Courier::default(),
            watches: Watches::default(),
            epolls: BTreeMap::new(),
            locks: Locks::load(set)?,
            ttys: Ttys::load(set)?,
            base: 0,
        })
    }

    /// Reads the descriptor tables `tables` and gives the highest number in any, at least 2.
    pub fn highest_fd(&mut self, set: &SetReader, tables: &[u32]) -> Result<i32> {
        for &files_id in tables {
            let table = tables::load(set, files_id, &self.entries)?;
            self.tables.insert(files_id, table);
        }
        for entry in self.entries.values() {
            let Some(epfd) = &entry.epfd else { continue };
            if let Some(home) = epolls::home(epfd, &self.tables)? {
                self.epolls.insert(entry.id, home);
            }
        }
        let highest = self
            .tables
            .values()
            .filter_map(|table| table.last())
            .map(|one| one.fd as i32)
            .max();
        let watched = self
            .entries
            .values()
            .filter_map(|entry| entry.epfd.as_deref());
        let watched = epolls::highest_number(watched)?;
        Ok(highest.unwrap_or(2).max(watched).max(2))
    }

    /// Opens a file once more for mappings with `flags` (`VmaEntry::fdflags`), where its own description will not do.
    /// After [`Files::open_all`].
    pub fn prepare_mapping(&mut self, id: u32, flags: u32) -> Result<()> {
        let access = flags & libc::O_ACCMODE as u32;
        if self.serves(id, access) || self.mapped.contains_key(&(id, access)) {
            return Ok(());
        }
        let entry = self.entry(id)?;
        let file = match &entry.memfd {
            Some(memfd) => self.memfds.open_for_mapping(memfd, access)?,
            None => paths::reopen(self.borrow(id)?, access)?,
        };
        let file = raise(file, self.base)?;
        self.mapped.insert((id, access), file);
        Ok(())
    }

    /// The descriptor for a mapping with `flags`, which [`Files::prepare_mapping`] was told of.
    pub fn mapping_descriptor(&self, id: u32, flags: u32) -> Result<RawFd> {
        let access = flags & libc::O_ACCMODE as u32;
        match self.mapped.get(&(id, access)) {
            Some(file) => Ok(file.as_raw_fd()),
            None => self.descriptor(id),
        }
    }

    /// The number that every task has the description of a file entry under.
    pub fn descriptor(&self, id: u32) -> Result<RawFd> {
        Ok(self.borrow(id)?.as_raw_fd())
    }

    /// The hard links that the dump made, and that nobody needs when the tree runs.
    pub fn temporary_links(&self) -> BTreeSet<PathBuf> {
        ghosts::temporary_links(&self.entries, &self.remaps)
    }

    /// The description of a file entry.
    pub fn borrow(&self, id: u32) -> Result<BorrowedFd<'_>> {
        let opened = self.opened.get(&id).or_else(|| self.late.get(id));
        opened
            .map(AsFd::as_fd)
            .ok_or_else(|| corrupt(id, "it is not there"))
    }

    /// Whether two file entries are the same file under the same name.
    pub fn same_file(&self, one: u32, other: u32) -> bool {
        if one == other {
            return true;
        }
        let name = |id: u32| self.entries.get(&id)?.reg.as_deref().map(|reg| &reg.name);
        let inode = |id: u32| {
            let stat = rustix::fs::fstat(self.borrow(id).ok()?).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        name(one) == name(other) && inode(one).is_some() && inode(one) == inode(other)
    }

    /// Whether the kernel chooses where a file is mapped.
    pub fn places_itself(&self, id: u32) -> bool {
        let entry = self.entries.get(&id);
        entry.is_some_and(|entry| entry.cryopod_io_uring.is_some())
    }

    /// Whether a file entry is the root of the file system.
    pub fn is_root_directory(&self, id: u32) -> bool {
        let reg = self.entries.get(&id).and_then(|entry| entry.reg.as_deref());
        reg.is_some_and(|reg| reg.name == b"/")
    }

    /// The contents that memfds want: number (pagemap-shmem), descriptor to write to, and size in bytes, of each.
    pub fn memfd_inodes(&self) -> Vec<(u64, BorrowedFd<'_>, u64)> {
        self.memfds.contents()
    }

    /// Seals the memfds. After their contents are written and all mappings are made.
    pub fn seal_memfds(&self) -> Result<()> {
        self.memfds.seal()
    }

    /// Makes table `files_id` in a task. Every other number below the base is closed; those above stay until
    /// [`Files::close_high`].
    pub fn install(&self, puppet: &Puppet, files_id: u32) -> Result<()> {
        let table = self.table(files_id)?;
        let slots: Vec<Slot> = table
            .iter()
            .map(|one| {
                let close_on_exec = one.flags & FD_CLOEXEC != 0;
                Ok(Slot {
                    fd: one.fd,
                    from: self.source(one)?,
                    close_on_exec,
                })
            })
            .collect::<Result<_>>()?;
        tables::install(puppet, &slots, self.base)?;
        self.start_signals(puppet, files_id)
    }

    /// Has a task whose table is `files_id` fill the epoll instances that are filled from there. After
    /// [`Files::install`].
    pub fn fill_epolls(&self, puppet: &Puppet, mem: &Mem, files_id: u32) -> Result<()> {
        for (id, (home, epoll)) in &self.epolls {
            if *home != files_id {
                continue;
            }
            let Some(epfd) = self.entries.get(id).and_then(|entry| entry.epfd.as_deref()) else {
                continue;
            };
            let table = self.table(files_id)?;
            // Until [`Files::close_high`], tasks have all that this process has.
            let epoll = epoll.map_or_else(|| self.descriptor(*id).map(|fd| fd as u32), Ok)?;
            let is_joined = |fd: u32| {
                table
                    .iter()
                    .any(|one| one.fd == fd && self.joined.contains(&one.id))
            };
            let close_on_exec = |fd: u32| tables::closes_on_exec(table, fd);
            epolls::fill(
                puppet,
                mem,
                epfd,
                epoll,
                self.base,
                close_on_exec,
                is_joined,
            )?;
        }
        Ok(())
    }

    /// Completes sockets, gives files their owners, and sets timers going. When all pids of the tree exist.
    pub fn arm(&self, set: &SetReader) -> Result<()> {
        self.sockets.finish(set, &|id| self.borrow(id))?;
        for (id, file) in &self.opened {
            let entry = self.entry(*id)?;
            if self.joined.contains(id) {
                continue;
            }
            if let Some(owner) = owner(self.with_path(entry)) {
                owners::restore(owner, file.as_fd())?;
            }
            if let Some(timer) = &entry.tfd {
                timerfds::arm(timer, file.as_fd())?;
            }
        }
        Ok(())
    }

    /// Has process `puppet` told of messages that come to a queue, where it was to be. Not before it has closed the
    /// inherited descriptors: closing any of the queue takes that back.
    pub fn notify(&self, puppet: &Puppet, mem: &Mem, files_id: u32) -> Result<()> {
        for (queue, notify) in self.mqueues.notifications(puppet.pid) {
            let is_it = |one: &&FdinfoEntry| {
                let entry = self.entries.get(&one.id);
                let mqueue = entry.and_then(|entry| entry.cryopod_mqueue.as_deref());
                mqueue.is_some_and(|mqueue| mqueue.queue == queue)
            };
            match self.table(files_id)?.iter().find(is_it) {
                Some(one) => mqueues::notify(puppet, mem, one.fd, notify)?,
                None => {
                    tracing::warn!(
                        pid = puppet.pid,
                        queue,
                        "has no descriptor of a message queue that it is to be told of"
                    );
                }
            }
        }
        Ok(())
    }

    /// The message queues that were made, and go again unless they are kept.
    pub fn take_queues(&mut self) -> MadeQueues {
        self.mqueues.take_made()
    }

    /// The sockets: names that were made for some, and connections that are still under repair, are to be taken.
    pub fn sockets(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// Closes the inherited descriptors in a task.
    pub fn close_high(&self, puppet: &Puppet, base: i32) -> Result<()> {
        tables::close_range(puppet, base as u32, u32::MAX)
    }

    fn entry(&self, id: u32) -> Result<&FileEntry> {
        self.entries
            .get(&id)
            .ok_or_else(|| corrupt(id, "it is not there"))
    }

    /// The entry that has the flags and the owner: for a fifo that of its path, otherwise the same.
    fn with_path<'e>(&'e self, entry: &'e FileEntry) -> &'e FileEntry {
        let path_id = entry
            .fifo
            .as_ref()
            .map(|fifo| fifo.regf_id.unwrap_or(fifo.id));
        path_id
            .and_then(|id| self.entries.get(&id))
            .unwrap_or(entry)
    }

    /// The entry that a number of a table leads to.
    fn number(&self, files_id: u32, fd: u32) -> Option<u32> {
        let table = self.tables.get(&files_id)?;
        let at = table.binary_search_by_key(&fd, |one| one.fd).ok()?;
        Some(table[at].id)
    }

    fn table(&self, files_id: u32) -> Result<&[FdinfoEntry]> {
        let table = self.tables.get(&files_id).map(Vec::as_slice);
        table.ok_or_else(|| Error::inconsistent(format!("fdinfo-{files_id}"), "it was not read"))
    }

    /// Whether the description of an entry can be mapped with an access mode.
    fn serves(&self, id: u32, access: u32) -> bool {
        let Some(file) = self.opened.get(&id) else {
            return false;
        };
        let Ok(flags) = rustix::fs::fcntl_getfl(file) else {
            return false;
        };
        let has = flags.bits() & libc::O_ACCMODE as u32;
        !flags.contains(OFlags::PATH) && (has == access || has == libc::O_RDWR as u32)
    }

    /// The terminal that controls a session, and the number that every task has it under.
    pub fn controlling_terminal(&self, session: i32) -> Result<Option<RawFd>> {
        let control = self.ttys.control(session);
        control
            .map(|control| self.descriptor(control.file))
            .transpose()
    }

    /// All terminals that control sessions.
    pub fn controls(&self) -> &[Control] {
        self.ttys.controls()
    }

    /// The number that a task has inherited what belongs to a descriptor under; `None` when it opens it itself.
    fn source(&self, one: &FdinfoEntry) -> Result<Option<RawFd>> {
        if self.late.contains(one.id) {
            return Ok(None);
        }
        match self.own.get(&one.fd) {
            Some(own) if self.joined.contains(&one.id) => Ok(Some(own.as_raw_fd())),
            _ => self.descriptor(one.id).map(Some),
        }
    }

    /// Which standard stream an entry is, in the first table where it is one.
    fn standard_number(&self, id: u32) -> Option<u32> {
        self.tables
            .values()
            .flatten()
            .find(|one| one.id == id && one.fd <= 2)
            .map(|one| one.fd)
    }

    /// Switches O_ASYNC on, in a task, because the kernel puts the number of the descriptor that was used into the
    /// signals (`si_fd`). No signal comes before [`Files::arm`] sets an owner.
    fn start_signals(&self, puppet: &Puppet, files_id: u32) -> Result<()> {
        for (&id, file) in &self.opened {
            let asynchronous =
                status_flags(self.with_path(self.entry(id)?)) & libc::O_ASYNC as u32 != 0;
            if !asynchronous || self.joined.contains(&id) {
                continue;
            }
            let holder = self.tables.iter().find_map(|(&table_id, table)| {
                Some((table_id, table.iter().find(|one| one.id == id)?.fd))
            });
            let Some((_, number)) = holder.filter(|(table_id, _)| *table_id == files_id) else {
                continue;
            };
            let flags = rustix::fs::fcntl_getfl(file).host("ask for the flags of a file")?;
            let flags = flags.bits() | libc::O_ASYNC as u32;
            let args = [
                u64::from(number),
                libc::F_SETFL as u64,
                u64::from(flags),
                0,
                0,
                0,
            ];
            puppet.must("fcntl (F_SETFL)", libc::SYS_fcntl, args)?;
        }
        Ok(())
    }
}

const FD_CLOEXEC: u32 = libc::FD_CLOEXEC as u32;

fn raise(file: OwnedFd, base: i32) -> Result<OwnedFd> {
    if file.as_raw_fd() >= base {
        return Ok(file);
    }
    fd::duplicate_from(file.as_fd(), base).host("duplicate an open file")
}

/// Gives a description its status flags, as far as fcntl(F_SETFL) sets them. O_ASYNC is for later.
fn set_status(file: BorrowedFd<'_>, flags: u32) -> Result<()> {
    const SETTABLE: u32 =
        (libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_NOATIME) as u32;
    let now = rustix::fs::fcntl_getfl(file)
        .host("ask for the flags of a file")?
        .bits();
    if now & SETTABLE == flags & SETTABLE {
        return Ok(());
    }
    let wanted = OFlags::from_bits_retain(now & !SETTABLE | flags & SETTABLE);
    match rustix::fs::fcntl_setfl(file, wanted) {
        // Only the owner of a file may switch O_NOATIME on; it changes nothing that can be seen.
        Err(Errno::PERM) if flags & libc::O_NOATIME as u32 != 0 => Ok(()),
        set => set.host("set the flags of a file (F_SETFL)"),
    }
}

fn corrupt(id: u32, what: &str) -> Error {
    Error::inconsistent("files", format!("file {id}: {what}"))
}
