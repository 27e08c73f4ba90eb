//! Descriptors, and what they lead to.
//!
//! A descriptor table becomes one fdinfo-N.img that refers to entries in files.img, one per open file description
//! (struct file in the kernel); descriptors that share a description share the entry. Nothing in the target changes:
//! most is read in /proc, and the rest from duplicates that pidfd_getfd(2) brings into this process.
//!
//! - `seen`, `kind`: what /proc says about an open file and what that makes it; the survey uses the same
//! - `identity`: which descriptors are one description
//! - `in_flight`: descriptors in queues of sockets, which no table has
//! - `streams`: standard streams that lead outside the tree
//! - `owners`: who gets SIGIO
//! - `paths`, `ghosts`, `links`: files that are opened by path, those that were deleted, and those that lost a name
//! - `locks`: advisory locks and leases
//! - `terminals`: which terminals belong to the tree
//! - `pipes`, `fifos`, `memfds`, `eventfds`, `signalfds`, `timerfds`, `epolls`, `io_urings`, `ttys`: one room per kind
//! - `mqueues`, `bpf_maps`, `namespaces`, `pidfds`; `fsnotify`: inotify and fanotify, with `handles`, by which the files they watch are found
//! - `sockets`: a room for each family
//! - `outlook`: what of all that cannot be dumped

mod bpf_maps;
mod epolls;
mod eventfds;
mod fifos;
mod fsnotify;
mod ghosts;
pub(crate) mod handles;
mod identity;
mod in_flight;
pub(crate) mod io_urings;
pub(crate) mod kind;
mod lazy;
pub(crate) mod links;
mod locks;
mod memfds;
pub(crate) mod mqueues;
pub(crate) mod namespaces;
mod outlook;
mod owners;
pub(crate) mod paths;
mod pidfds;
mod pipes;
pub(crate) mod seen;
mod signalfds;
pub(crate) mod sockets;
pub(crate) mod streams;
pub(crate) mod terminals;
#[cfg(test)]
pub(crate) mod tests;
mod timerfds;
mod ttys;

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::{FdinfoEntry, FileEntry, FownEntry};
use cryopod_image::set::EntryWriter;
use cryopod_image::{Kind as Image, SetWriter};
use cryopod_sys::{Errno, process};

pub(crate) use eventfds::SEMAPHORE;
pub(crate) use outlook::Outlook;
pub(crate) use pipes::LONGEST_PACKET_BYTES;

use self::bpf_maps::BpfMaps;
use self::epolls::Epolls;
use self::ghosts::Ghosts;
use self::identity::Identities;
use self::in_flight::InFlight;
use self::io_urings::IoUrings;
use self::kind::{Kind, classify};
use self::links::{Links, TemporaryLinks};
use self::locks::Locks;
use self::memfds::Memfds;
use self::mqueues::Mqueues;
use self::paths::Name;
use self::pipes::Contents;
use self::seen::Seen;
use self::sockets::Sockets;
use self::ttys::Ttys;
use super::DumpOptions;
use super::shmem::SharedFile;
use crate::elf::FileValidation;
use crate::error::{Context, Error, Result, Unsupported};
use crate::proc::{self, maps::Mapping};

/// An open file description that is dumped for the first time.
struct Description<'s> {
    /// Its number in files.img.
    id: u32,
    seen: &'s Seen,
    /// A duplicate of the descriptor.
    file: OwnedFd,
    owner: FownEntry,
}

impl Description<'_> {
    /// Attaches the descriptor to a failure.
    fn check<T>(
        &self,
        operation: &'static str,
        result: std::result::Result<T, Errno>,
    ) -> Result<T> {
        result.fd(operation, self.seen.pid, self.seen.fd.unwrap_or(-1))
    }

    /// A value from fdinfo, which must be there.
    fn line<T>(&self, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            let file = format!("fdinfo/{}", self.seen.fd.unwrap_or(-1));
            proc::misread(self.seen.pid, &file, &self.seen.info.lines.join("\n"))
        })
    }
}

/// A file that is not bound to a descriptor, as [`Files::path`] knows it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Place {
    inode: (u64, u64),
    link: Vec<u8>,
    flags: u32,
}

/// Writes the descriptors of a tree.
pub struct Files<'a> {
    set: &'a SetWriter,
    outlook: Outlook,
    identities: Identities,
    places: HashMap<Place, u32>,
    entries: EntryWriter<'a>,
    ghosts: Ghosts<'a>,
    pipes: Contents<'a>,
    fifos: Contents<'a>,
    memfds: Memfds<'a>,
    epolls: Epolls,
    io_urings: IoUrings,
    bpf_maps: BpfMaps<'a>,
    mqueues: Mqueues<'a>,
    locks: Locks<'a>,
    links: Links,
    ttys: Ttys<'a>,
    sockets: Sockets<'a>,
    in_flight: InFlight,
}

impl<'a> Files<'a> {
    /// Begins with the files of a tree whose processes, all frozen, are `pids`. Connections that wait to be accepted are
    /// left behind: whether there were any was decided when the tree was frozen ([`super::freeze_for_dump`]), and the
    /// kernel goes on adding new ones.
    pub fn new(set: &'a SetWriter, options: &DumpOptions, pids: &[i32]) -> Result<Self> {
        let mut outlook = options.clone();
        outlook.tcp.skip_in_flight = true;
        Ok(Self {
            set,
            outlook: Outlook::scan(pids, &outlook)?,
            identities: Identities::default(),
            places: HashMap::new(),
            entries: set.entries(Image::Files, None)?,
            ghosts: Ghosts::new(set),
            pipes: Contents::new(set, Image::PipesData),
            fifos: Contents::new(set, Image::FifoData),
            memfds: Memfds::new(set),
            epolls: Epolls::default(),
            io_urings: IoUrings::default(),
            bpf_maps: BpfMaps::new(set),
            mqueues: Mqueues::new(set),
            locks: Locks::new(set),
            links: Links::default(),
            ttys: Ttys::new(set),
            sockets: Sockets::new(set, options),
            in_flight: InFlight::default(),
        })
    }

    /// Keeps memfds from being given these numbers, which are those of other shared memory.
    pub fn reserve(&mut self, numbers: impl Iterator<Item = u32>) {
        self.memfds.reserve(numbers);
    }

    /// Writes the descriptor table `files_id`, which process `pid` uses. Returns the number of descriptors.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] with all descriptors that cannot be dumped.
    pub fn table(&mut self, pid: i32, files_id: u32) -> Result<usize> {
        let pidfd = process::pidfd_open(pid).task("open it (pidfd_open)", pid)?;
        let mut table = self.set.entries(Image::Fdinfo, Some(u64::from(files_id)))?;
        let mut unsupported = Vec::new();
        self.epolls.table(pid, files_id);
        let numbers = proc::numbers(pid, "fd")?;
        for &fd in &numbers {
            match self.descriptor(pidfd.as_fd(), files_id, pid, fd) {
                Ok(entry) => table.push(&entry)?,
                Err(Error::Unsupported(more)) => unsupported.extend(more),
                Err(error) => return Err(error),
            }
            match self.in_flight(pid, fd) {
                Ok(()) => {}
                Err(Error::Unsupported(more)) => unsupported.extend(more),
                Err(error) => return Err(error),
            }
        }
        if !unsupported.is_empty() {
            return Err(Error::Unsupported(unsupported));
        }
        table.finish()?;
        Ok(numbers.len())
    }

    /// The number of a file entry for what a link below /proc/PID leads to: "exe", "cwd", "root", or
    /// "map_files/START-END". It is not bound to a descriptor; `flags` are those to open it with.
    pub fn path(&mut self, pid: i32, link: &str, flags: u32) -> Result<u32> {
        let seen = Seen::place(pid, link.to_owned())?;
        let place = Place {
            inode: seen.inode(),
            link: seen.link.clone(),
            flags,
        };
        if let Some(&id) = self.places.get(&place) {
            return Ok(id);
        }
        let id = self.identities.fresh();
        let entry = match classify(&seen) {
            Kind::Memfd => self.memfds.dump(id, &seen, flags, FownEntry::default())?,
            Kind::Path => {
                let mut entry = self.named(id, &seen, flags, FownEntry::default())?;
                if self.outlook.options.file_validation == FileValidation::BuildId {
                    paths::add_build_id(&mut entry, &seen);
                }
                entry
            }
            kind => return Err(refuse(&seen, outlook::describe(&seen, &kind))),
        };
        self.entries.push(&entry)?;
        self.places.insert(place, id);
        Ok(id)
    }

    /// The number of the file entry behind a mapping, "map_files/START-END", for which the file is opened with `flags`.
    pub fn mapped(&mut self, pid: i32, link: &str, flags: u32, mapping: &Mapping) -> Result<u32> {
        if mapping.name != io_urings::MAPPING {
            return self.path(pid, link, flags);
        }
        let seen = Seen::place(pid, link.to_owned())?;
        self.io_urings
            .mapped(seen.inode(), mapping)
            .map_err(|what| refuse(&seen, what))
    }

    /// The number of the socket whose rings are mapped.
    pub fn mapped_socket(&self, pid: i32, link: &str) -> Result<u32> {
        let seen = Seen::place(pid, link.to_owned())?;
        let mapped = self.sockets.mapped(seen.inode());
        mapped.ok_or_else(|| refuse(&seen, "memory of a socket that is not open".to_owned()))
    }

    /// Completes the images, and hands over the memfds, whose contents are stored with other shared memory, and links
    /// that were made.
    pub fn finish(mut self) -> Result<(Vec<SharedFile>, TemporaryLinks)> {
        let fresh = || self.identities.fresh();
        for entry in self.sockets.finish(&self.outlook.sockets, fresh)? {
            self.entries.push(&entry)?;
        }
        for entry in self.epolls.finish()? {
            self.entries.push(&entry)?;
        }
        self.entries.finish()?;
        self.ghosts.finish()?;
        self.pipes.finish()?;
        self.fifos.finish()?;
        self.locks.finish()?;
        self.ttys.finish()?;
        self.mqueues.finish()?;
        self.bpf_maps.finish()?;
        Ok((self.memfds.finish()?, self.links.finish()))
    }

    fn descriptor(
        &mut self,
        pidfd: BorrowedFd<'_>,
        files_id: u32,
        pid: i32,
        fd: i32,
    ) -> Result<FdinfoEntry> {
        let seen = Seen::descriptor(pid, fd)?;
        let kind = classify(&seen);
        let outside = self.outlook.leads_outside(&seen, &kind);
        if let Some(what) = self.outlook.problem(&seen, &kind) {
            return Err(refuse(&seen, what));
        }
        let (id, is_new) = self.identities.of_descriptor(seen.inode(), pid, fd)?;
        if is_new {
            let file = process::pidfd_getfd(pidfd, fd).fd("duplicate it (pidfd_getfd)", pid, fd)?;
            self.new_description(id, &seen, &kind, file)?;
        }
        self.locks.add(&seen, files_id, id)?;
        if kind == Kind::Epoll {
            self.epolls.held(id, pid, fd);
        }
        let fd_type = if outside {
            cryopod_image::criu::FdTypes::Reg
        } else {
            kind.fd_type()
        };
        Ok(FdinfoEntry {
            id,
            flags: seen.descriptor_flags(),
            r#type: fd_type.into(),
            fd: fd as u32,
            xattr_security_selinux: None,
        })
    }

    /// Writes what was found in queues of sockets since the last call: descriptors that are sent and not received yet,
    /// which may be sockets with others in their queues. `pid` and `fd` are where they were found.
    fn in_flight(&mut self, pid: i32, fd: i32) -> Result<()> {
        while let Some((id, file)) = self.in_flight.next() {
            let seen = Seen::descriptor(std::process::id() as i32, file.as_raw_fd())?;
            let kind = classify(&seen);
            let again = rustix::io::fcntl_dupfd_cloexec(&file, 0).host("duplicate a file")?;
            let written = match self.outlook.problem(&seen, &kind) {
                Some(what) => Err(refuse(&seen, what)),
                None => self.new_description(id, &seen, &kind, file),
            };
            written.map_err(|error| in_flight::as_found(error, pid, fd))?;
            if kind == Kind::Epoll {
                self.epolls.in_flight(id, again, (pid, fd));
            }
        }
        Ok(())
    }

    fn new_description(&mut self, id: u32, seen: &Seen, kind: &Kind, file: OwnedFd) -> Result<()> {
        let (pid, fd) = (seen.pid, seen.fd.unwrap_or(-1));
        let owner = owners::dump(seen, file.as_fd()).fd("ask for its owner", pid, fd)?;
        let outside = self.outlook.leads_outside(seen, kind);
        let one = Description {
            id,
            seen,
            file,
            owner,
        };
        self.description(&one, if outside { None } else { Some(kind) })
    }

    /// Writes the entry of a description; without a kind, that of a stream which leads outside.
    fn description(&mut self, one: &Description<'_>, kind: Option<&Kind>) -> Result<()> {
        let flags = one.seen.flags();
        let entry = match kind {
            None => streams::dump(one),
            Some(Kind::Path) => self.named(one.id, one.seen, flags, one.owner.clone())?,
            Some(Kind::Pipe) => pipes::dump(one, &mut self.pipes)?,
            Some(Kind::Fifo) => {
                let path_id = self.identities.fresh();
                let path = self.named(path_id, one.seen, flags, one.owner.clone())?;
                self.entries.push(&path)?;
                fifos::dump(one, path_id, &mut self.fifos)?
            }
            Some(Kind::Memfd) => self
                .memfds
                .dump(one.id, one.seen, flags, one.owner.clone())?,
            Some(Kind::Eventfd) => eventfds::dump(one)?,
            Some(Kind::IoUring) => self.io_urings.dump(one)?,
            Some(Kind::BpfMap) => self.bpf_maps.dump(one)?,
            Some(Kind::Mqueue) => self.mqueues.dump(one)?,
            Some(Kind::Signalfd) => signalfds::dump(one)?,
            Some(Kind::Timerfd) => timerfds::dump(one)?,
            Some(Kind::Inotify) => fsnotify::inotify(one, &self.outlook)?,
            Some(Kind::Fanotify) => fsnotify::fanotify(one, &self.outlook)?,
            Some(Kind::Namespace) => namespaces::dump(one)?,
            Some(Kind::Pidfd) => pidfds::dump(one)?,
            // Written at the end, when all descriptors are known.
            Some(Kind::Epoll) => return self.epolls.add(one),
            Some(kind @ (Kind::Terminal | Kind::Master)) => {
                let path_id = self.identities.fresh();
                let owner = one.owner.clone();
                let name = one.seen.undeleted_name();
                let path = paths::entry(path_id, one.seen, flags, owner, name);
                self.entries.push(&path)?;
                let terminals = self.outlook.terminals()?;
                self.ttys.dump(one, kind, path_id, terminals)?
            }
            Some(Kind::Socket(kind)) => {
                let (identities, in_flight) = (&mut self.identities, &mut self.in_flight);
                let view = &self.outlook.sockets;
                let mut pass_on = |file| in_flight.add(file, identities, view);
                match self.sockets.dump(one, kind, view, &mut pass_on)? {
                    Some(entry) => entry,
                    None => return Ok(()),
                }
            }
            Some(kind @ Kind::Other(_)) => {
                return Err(refuse(one.seen, outlook::describe(one.seen, kind)));
            }
        };
        Ok(self.entries.push(&entry)?)
    }

    /// The entry of a file with a path, and its contents where it is deleted.
    fn named(&mut self, id: u32, seen: &Seen, flags: u32, owner: FownEntry) -> Result<FileEntry> {
        let name = self.outlook.name(seen).map_err(|what| refuse(seen, what))?;
        match &name {
            Name::There(_) => {}
            Name::Deleted(_) => self.ghosts.add(id, seen)?,
            Name::Linked(path) => self.link(id, seen, path)?,
            Name::OfDead(_, pid) => self.ghosts.of_dead(id, *pid)?,
        }
        Ok(paths::entry(id, seen, flags, owner, name.path()))
    }

    /// Notes that the file entry `id` is to be opened by a link made for it.
    fn link(&mut self, id: u32, seen: &Seen, path: &[u8]) -> Result<()> {
        if let Some(link) = self.links.known(seen) {
            return self.ghosts.link(id, link);
        }
        let link = self.identities.fresh();
        match self.links.make(seen, path, link)? {
            Some(entry) => {
                self.entries.push(&entry)?;
                self.ghosts.link(id, link)
            }
            None => self.ghosts.add(id, seen),
        }
    }
}

fn refuse(seen: &Seen, what: String) -> Error {
    Error::Unsupported(vec![Unsupported {
        pid: seen.pid,
        fd: seen.fd,
        what,
    }])
}
