//! Opening every description once, in cryopod's own process.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};

use cryopod_image::SetReader;
use cryopod_image::criu::{FdTypes, PidfdEntry, RegFileEntry};
use cryopod_sys::process::{RLIMIT_NOFILE, rlimit, set_rlimit};
use rustix::fs::FileType;

use super::entries::file_type;
use super::ghosts::{Ghosts, Remap};
use super::named::Named;
use super::paths::Comparison;
use super::{
    Files, corrupt, epolls, eventfds, fifos, fsnotify, io_urings, late, namespaces, paths, pidfds,
    pipes, raise,
};
use super::{signalfds, sockets, streams, timerfds};
use crate::error::{Context, Error, Result};
use crate::restore::{RestoreOptions, Stdio};

impl Files {
    /// Opens all files, at numbers of at least `base`.
    ///
    /// # Errors
    ///
    /// [`Error::FileChanged`] when a file is not what it was; [`Error::NotRestorable`] for kinds this engine does not
    /// know; [`Error::Path`].
    pub fn open_all(&mut self, set: &SetReader, options: &RestoreOptions, base: i32) -> Result<()> {
        self.base = base;
        let spare = 2 * self.entries.len() as u64 + u64::from(self.ttys.highest_index()) + 256;
        raise_limit(base as u64 + spare)?;
        self.memfds.make()?;
        self.mqueues.make(set, &self.entries)?;
        let opened = &mut self.opened;
        pidfds::open_gone(self.entries.values(), |id, file| {
            keep(opened, base, id, file)
        })?;
        self.open_pipes(set)?;
        let (opened, base) = (&mut self.opened, self.base);
        self.sockets.open(set, &self.entries, options, |id, file| {
            keep(opened, base, id, file)
        })?;
        self.open_ttys(options)?;
        // Names made for deleted files go when this does.
        let mut ghosts = Ghosts::default();
        self.open_fifos(set, options, &mut ghosts)?;
        // Deleted directories first, outer ones before inner ones: deleted files may have been in them.
        let mut ids: Vec<u32> = self.entries.keys().copied().collect();
        ids.sort_by_key(|id| {
            let reg = self.entries[id].reg.as_deref();
            let is_directory = reg.is_some_and(|reg| file_type(reg) == Some(FileType::Directory));
            let first = self.remaps.contains_key(id) && is_directory;
            (
                !first,
                if first {
                    reg.map_or(0, |reg| reg.name.len())
                } else {
                    0
                },
            )
        });
        for id in ids {
            self.open_entry(set, options, &mut ghosts, id)?;
        }
        drop(ghosts);
        if !self.late.is_empty() {
            self.courier.start(base)?;
        }
        self.prepare_watches(set)?;
        self.open_own(options.stdio)
    }

    fn open_pipes(&mut self, set: &SetReader) -> Result<()> {
        let (opened, base) = (&mut self.opened, self.base);
        let pipes = self
            .entries
            .values()
            .filter_map(|entry| entry.pipe.as_deref());
        pipes::open(set, pipes, |id, file| keep(opened, base, id, file))
    }

    /// Terminals whose other end was outside become the restorer's.
    fn open_ttys(&mut self, options: &RestoreOptions) -> Result<()> {
        let (opened, base) = (&mut self.opened, self.base);
        let outside = self
            .ttys
            .open(&self.entries, &mut |id, file| keep(opened, base, id, file))?;
        for id in outside {
            if !options.outside_terminal {
                let what = "a terminal whose other end was outside of the tree, unless it may be the restorer's (--shell-job)";
                return Err(Error::NotRestorable { what: what.into() });
            }
            let tty = self.entries.get(&id).and_then(|entry| entry.tty.as_deref());
            let flags = tty.map_or(0, |tty| tty.flags);
            let file = streams::open(options.stdio, b"tty", flags, self.standard_number(id))?;
            self.joined.insert(id);
            keep(&mut self.opened, self.base, id, file)?;
        }
        Ok(())
    }

    fn open_fifos(
        &mut self,
        set: &SetReader,
        options: &RestoreOptions,
        ghosts: &mut Ghosts,
    ) -> Result<()> {
        let mut fifos = Vec::new();
        for entry in self
            .entries
            .values()
            .filter_map(|entry| entry.fifo.as_deref())
        {
            let path_id = entry.regf_id.unwrap_or(entry.id);
            let reg = self
                .entries
                .get(&path_id)
                .and_then(|entry| entry.reg.as_deref());
            let reg = reg.ok_or_else(|| corrupt(entry.id, "a fifo without a path"))?;
            fifos.push(fifos::Fifo { entry, reg });
        }
        let (opened, base) = (&mut self.opened, self.base);
        let named = Named {
            set,
            entries: &self.entries,
            remaps: &self.remaps,
            stand_ins: &self.stand_ins,
            compared: comparison(options),
        };
        let open = |reg: &RegFileEntry, flags| named.open(ghosts, reg, flags);
        fifos::open(set, &fifos, open, |id, file| keep(opened, base, id, file))
    }

    fn open_entry(
        &mut self,
        set: &SetReader,
        options: &RestoreOptions,
        ghosts: &mut Ghosts,
        id: u32,
    ) -> Result<()> {
        let entry = self.entry(id)?;
        let file = match FdTypes::try_from(entry.r#type) {
            // Opened already.
            Ok(FdTypes::Pipe | FdTypes::Fifo | FdTypes::Tty) => return Ok(()),
            Ok(_) if sockets::is_socket(entry) => return Ok(()),
            Ok(FdTypes::Reg) => return self.open_reg(set, options, ghosts, id),
            Ok(FdTypes::EventFd) => entry.efd.as_deref().map(eventfds::open).transpose()?,
            Ok(FdTypes::CryopodIoUring) => entry
                .cryopod_io_uring
                .as_deref()
                .map(io_urings::open)
                .transpose()?,
            Ok(FdTypes::CryopodMqueue) => {
                let entry = self.entries.get(&id);
                let entry = entry.and_then(|entry| entry.cryopod_mqueue.as_deref());
                entry.map(|entry| self.mqueues.take(entry)).transpose()?
            }
            Ok(FdTypes::BpfMap) => {
                let entry = self.entries.get(&id).and_then(|entry| entry.bpf.as_deref());
                entry.map(|entry| self.bpf_maps.open(entry)).transpose()?
            }
            Ok(FdTypes::SignalFd) => entry.sgfd.as_deref().map(signalfds::open).transpose()?,
            Ok(FdTypes::TimerFd) => entry.tfd.as_deref().map(timerfds::open).transpose()?,
            Ok(FdTypes::EventPoll) => entry.epfd.as_deref().map(epolls::open).transpose()?,
            Ok(FdTypes::Inotify) => entry
                .ify
                .as_deref()
                .map(fsnotify::open_inotify)
                .transpose()?,
            Ok(FdTypes::Fanotify) => entry
                .ffy
                .as_deref()
                .map(fsnotify::open_fanotify)
                .transpose()?,
            Ok(FdTypes::Ns) => entry.nsf.as_deref().map(namespaces::open).transpose()?,
            Ok(FdTypes::PidFd) => {
                let gone = |pidfd: &PidfdEntry| pidfd.nspid == pidfds::GONE;
                if !entry.pidfd.as_deref().is_some_and(gone) {
                    self.late.await_later(id);
                }
                return Ok(());
            }
            Ok(FdTypes::MemFd) => match self
                .entries
                .get(&id)
                .and_then(|entry| entry.memfd.as_deref())
            {
                Some(memfd) => Some(self.memfds.open(memfd)?),
                None => None,
            },
            Ok(other) => {
                return Err(Error::NotRestorable {
                    what: format!("file {id}: of kind {other:?}"),
                });
            }
            Err(_) => return Err(corrupt(id, "unknown kind")),
        };
        let file = file.ok_or_else(|| corrupt(id, "it has no description"))?;
        keep(&mut self.opened, self.base, id, file)
    }

    fn open_reg(
        &mut self,
        set: &SetReader,
        options: &RestoreOptions,
        ghosts: &mut Ghosts,
        id: u32,
    ) -> Result<()> {
        let Some(reg) = self.entries.get(&id).and_then(|entry| entry.reg.as_deref()) else {
            return Err(corrupt(id, "it has no description"));
        };
        if file_type(reg) == Some(FileType::Fifo)
            && reg.flags & libc::O_PATH as u32 == 0
            && reg.ext != Some(true)
        {
            // The path of a fifo, opened with it.
            return Ok(());
        }
        if self.ttys.is_path(id) {
            return Ok(());
        }
        let standard = self.standard_number(id);
        let plain = file_type(reg) == Some(FileType::RegularFile);
        let inherits = options.stdio == Stdio::Inherit && plain && standard.is_some();
        if reg.ext == Some(true) || inherits {
            let file = streams::open(options.stdio, &reg.name, reg.flags, standard)?;
            self.joined.insert(id);
            return keep(&mut self.opened, self.base, id, file);
        }
        let of_dead = matches!(self.remaps.get(&id), Some(Remap::OfDead(_)));
        if !of_dead && late::is_late(reg) {
            self.late.await_later(id);
            return Ok(());
        }
        let named = Named {
            set,
            entries: &self.entries,
            remaps: &self.remaps,
            stand_ins: &self.stand_ins,
            compared: comparison(options),
        };
        let file = named.open(ghosts, reg, reg.flags)?;
        paths::seek(file.as_fd(), paths::path_of(reg), reg.flags, reg.pos)?;
        keep(&mut self.opened, self.base, id, file)
    }

    fn open_own(&mut self, stdio: Stdio) -> Result<()> {
        if !matches!(stdio, Stdio::Auto | Stdio::Inherit) {
            return Ok(());
        }
        let streams = self.tables.values().flatten();
        let joined = streams.filter(|one| one.fd <= 2 && self.joined.contains(&one.id));
        let numbers: BTreeSet<u32> = joined.map(|one| one.fd).collect();
        for number in numbers {
            self.own
                .insert(number, raise(streams::own(number)?, self.base)?);
        }
        Ok(())
    }
}

fn comparison(options: &RestoreOptions) -> Comparison {
    Comparison {
        force: options.force_files,
        validation: options.file_validation,
    }
}

/// Keeps a description, under a number of at least `base`.
fn keep(opened: &mut BTreeMap<u32, OwnedFd>, base: i32, id: u32, file: OwnedFd) -> Result<()> {
    opened.insert(id, raise(file, base)?);
    Ok(())
}

/// Allows this process as many descriptors as it needs.
fn raise_limit(needed: u64) -> Result<()> {
    let (soft, hard) = rlimit(RLIMIT_NOFILE).host("ask how many files may be open")?;
    if soft >= needed {
        return Ok(());
    }
    set_rlimit(RLIMIT_NOFILE, needed, hard.max(needed))
        .host("allow more open files (RLIMIT_NOFILE)")
}
