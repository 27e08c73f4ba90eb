//! Terminals: descriptors as entries of files.img, the terminals themselves in tty-info.img, and what is queued in them
//! in tty-data.img.
//!
//! Both ends of a pseudo-terminal have an entry of their own in tty-info.img, with the same settings. What is queued
//! comes last, because it can only be looked at by taking it out ([`crate::line`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cryopod_image::criu::{
    FdTypes, FileEntry, TermiosEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry,
    TtyType, WinsizeEntry, tty_stop,
};
use cryopod_image::{Kind as Image, SetWriter};
use cryopod_sys::tty::{self, Settings};
use cryopod_sys::{Errno, process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Description;
use super::kind::{self, Kind};
use super::lazy::Lazy;
use super::seen::Seen;
use super::terminals::{self, Control, Home, Pty, Terminals};
use crate::error::{Context, Result};
use crate::line::{Line, Queues, Stop};

/// One end of one terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Master(Pty),
    Slave(Pty),
    HungUp(Pty),
    /// /dev/tty, by the device number of the terminal behind it; 0 where that is hung up.
    Controlling(u32),
    /// Anything else, by its device number.
    Device(u64),
}

/// CRIU's numbers of terminals that are no pseudo-terminals; those have their own.
mod index {
    pub const HIGHEST_PTY: u32 = 1000;
    pub const CONSOLE: u32 = 1002;
    pub const VIRTUAL: u32 = 1004;
    pub const CONTROLLING: u32 = 1006;
    pub const SERIAL: u32 = 1010;
    /// The first that CRIU does not use.
    pub const FREE: u32 = 2048;
}

impl End {
    fn of(seen: &Seen, kind: &Kind, terminals: &Terminals) -> Result<Option<Self>> {
        if *kind == Kind::Master {
            return Ok(terminals::master(seen).map(Self::Master));
        }
        let home = terminals.home(seen)?;
        if kind::is_controlling_terminal(seen) {
            let device = match home {
                Home::HungUp(_) => 0,
                _ => duplicate_device(seen)?,
            };
            return Ok(Some(Self::Controlling(device)));
        }
        Ok(Some(match home {
            Home::Inside(pty) | Home::Outside(pty) => Self::Slave(pty),
            Home::HungUp(pty) => Self::HungUp(pty),
            Home::Device => Self::Device(seen.stat.st_rdev),
        }))
    }

    fn kind(&self) -> TtyType {
        match self {
            Self::Master(_) | Self::Slave(_) | Self::HungUp(_) => TtyType::Pty,
            Self::Controlling(_) => TtyType::Ctty,
            Self::Device(device) => {
                match (rustix::fs::major(*device), rustix::fs::minor(*device)) {
                    (5, 1) => TtyType::Console,
                    (4, 0..=63) => TtyType::Vt,
                    _ => TtyType::Serial,
                }
            }
        }
    }

    /// CRIU's number: twice that of the terminal, and one more for a master.
    fn number(&self) -> Option<u32> {
        let index = match self {
            Self::Master(pty) | Self::Slave(pty) | Self::HungUp(pty) => {
                (pty.index <= index::HIGHEST_PTY).then_some(pty.index)?
            }
            Self::Controlling(_) => index::CONTROLLING,
            Self::Device(_) => match self.kind() {
                TtyType::Console => index::CONSOLE,
                TtyType::Vt => index::VIRTUAL,
                _ => index::SERIAL,
            },
        };
        Some(index * 2 + u32::from(matches!(self, Self::Master(_))))
    }

    fn pty(&self) -> Option<Pty> {
        match self {
            Self::Master(pty) | Self::Slave(pty) | Self::HungUp(pty) => Some(*pty),
            Self::Controlling(_) | Self::Device(_) => None,
        }
    }
}

/// The two ends of a pseudo-terminal.
#[derive(Debug, Default)]
struct Pair {
    master: Option<(usize, OwnedFd)>,
    slave: Option<usize>,
}

/// The terminals met so far.
pub struct Ttys<'a> {
    infos: Lazy<'a>,
    data: Lazy<'a>,
    entries: Vec<TtyInfoEntry>,
    known: HashMap<End, u32>,
    taken: HashSet<u32>,
    pairs: BTreeMap<Pty, Pair>,
}

impl<'a> Ttys<'a> {
    /// None yet.
    pub fn new(set: &'a SetWriter) -> Self {
        Self {
            infos: Lazy::new(set, Image::TtyInfo),
            data: Lazy::new(set, Image::TtyData),
            entries: Vec::new(),
            known: HashMap::new(),
            taken: HashSet::new(),
            pairs: BTreeMap::new(),
        }
    }

    /// The entry of a descriptor whose path is entry `path_id`.
    pub fn dump(
        &mut self,
        one: &Description<'_>,
        kind: &Kind,
        path_id: u32,
        terminals: &Terminals,
    ) -> Result<FileEntry> {
        let end = End::of(one.seen, kind, terminals)?;
        let end = one.line(end)?;
        let tty_info_id = match self.known.get(&end) {
            Some(&id) => id,
            None => self.describe(one, end, terminals)?,
        };
        let tty = TtyFileEntry {
            id: one.id,
            tty_info_id,
            flags: one.seen.flags(),
            fown: one.owner.clone(),
            regf_id: Some(path_id),
        };
        Ok(FileEntry {
            r#type: FdTypes::Tty.into(),
            id: one.id,
            tty: Some(Box::new(tty)),
            ..FileEntry::default()
        })
    }

    /// Describes a terminal that is met for the first time.
    fn describe(&mut self, one: &Description<'_>, end: End, terminals: &Terminals) -> Result<u32> {
        let (seen, file) = (one.seen, one.file.as_fd());
        let id = self.fresh(end.number());
        let mut info = TtyInfoEntry {
            id,
            r#type: end.kind().into(),
            rdev: seen.stat.st_rdev as u32,
            dev: Some(seen.stat.st_dev as u32),
            uid: Some(seen.stat.st_uid),
            gid: Some(seen.stat.st_gid),
            pty: end.pty().map(|pty| TtyPtyEntry { index: pty.index }),
            ..TtyInfoEntry::default()
        };
        if !matches!(end, End::HungUp(_) | End::Controlling(0)) {
            let control = match end {
                End::Master(_) => of_master(file),
                _ => terminals
                    .control(one.check("ask for its device (TIOCGDEV)", tty::device(file))?),
            };
            info.sid = control.session as u32;
            info.pgrp = control.group as u32;
            one.check("read its settings", settings(file, &mut info))?;
        }
        if let End::Controlling(device) = end {
            info.cryopod_device = Some(device);
        }
        if let End::Master(_) = end {
            one.check("read its modes", modes(file, &mut info))?;
        }
        let place = self.entries.len();
        match end {
            End::Master(pty) => {
                let copy = one.check("duplicate it", rustix::io::fcntl_dupfd_cloexec(file, 0))?;
                self.pairs.entry(pty).or_default().master = Some((place, copy));
            }
            End::Slave(pty) => self.pairs.entry(pty).or_default().slave = Some(place),
            _ => {}
        }
        self.entries.push(info);
        self.known.insert(end, id);
        Ok(id)
    }

    fn fresh(&mut self, wanted: Option<u32>) -> u32 {
        let mut id = wanted.unwrap_or(2 * index::FREE);
        while !self.taken.insert(id) {
            id = (id + 1).max(2 * index::FREE);
        }
        id
    }

    /// Takes what is queued, and completes the images. With everything else done, because the queues have to be emptied
    /// and filled again.
    pub fn finish(mut self) -> Result<()> {
        for (pty, pair) in std::mem::take(&mut self.pairs) {
            if let Some((place, master)) = pair.master {
                self.queues(pty, place, master.as_fd(), pair.slave)?;
            }
        }
        for info in &self.entries {
            self.infos.writer()?.push(info)?;
        }
        self.infos.finish()?;
        self.data.finish()
    }

    fn queues(
        &mut self,
        pty: Pty,
        place: usize,
        master: BorrowedFd<'_>,
        slave: Option<usize>,
    ) -> Result<()> {
        // A slave that was never open would be opened and closed, which its master can tell.
        if slave.is_none() && self.entries[place].cryopod_slave_closed != Some(true) {
            return Ok(());
        }
        let looked = Line::of(master).and_then(|line| line.look());
        let Some(queues) = looked.host("look at what is queued in a pseudo-terminal")? else {
            tracing::warn!(
                index = pty.index,
                "a pseudo-terminal in packet mode has news for its master: what is queued in it is not taken along"
            );
            return Ok(());
        };
        let Queues {
            input,
            output,
            stop,
        } = queues;
        self.entries[place].cryopod_stop = stop.map(|stop| match stop {
            Stop::Character => tty_stop::CHARACTER,
            Stop::Program => tty_stop::PROGRAM,
        });
        let mut put = |at: usize, data: Vec<u8>| -> Result<()> {
            let tty_id = self.entries[at].id;
            Ok(self.data.writer()?.push(&TtyDataEntry { tty_id, data })?)
        };
        if !output.is_empty() {
            put(place, output)?;
        }
        if input.is_empty() {
            return Ok(());
        }
        match slave {
            Some(slave) => put(slave, input),
            None => {
                self.entries[place].cryopod_slave_input = Some(input);
                Ok(())
            }
        }
    }
}

/// A master knows the session of its slave.
fn of_master(master: BorrowedFd<'_>) -> Control {
    Control {
        session: tty::session(master).unwrap_or(0),
        group: tty::foreground(master).unwrap_or(0),
    }
}

fn settings(file: BorrowedFd<'_>, info: &mut TtyInfoEntry) -> std::result::Result<(), Errno> {
    info.termios = Some(termios(&tty::settings(file)?));
    info.termios_locked = Some(termios(&tty::locked_settings(file)?));
    let size = tty::window_size(file)?;
    info.winsize = Some(WinsizeEntry {
        ws_row: size.rows.into(),
        ws_col: size.columns.into(),
        ws_xpixel: size.x_pixels.into(),
        ws_ypixel: size.y_pixels.into(),
    });
    info.exclusive = tty::is_exclusive(file)?;
    Ok(())
}

fn termios(settings: &Settings) -> TermiosEntry {
    TermiosEntry {
        c_iflag: settings.c_iflag,
        c_oflag: settings.c_oflag,
        c_cflag: settings.c_cflag,
        c_lflag: settings.c_lflag,
        c_line: settings.c_line.into(),
        c_ispeed: settings.c_ispeed,
        c_ospeed: settings.c_ospeed,
        c_cc: settings.c_cc.iter().map(|&byte| byte.into()).collect(),
    }
}

fn modes(master: BorrowedFd<'_>, info: &mut TtyInfoEntry) -> std::result::Result<(), Errno> {
    info.locked = tty::is_locked(master)?;
    info.packet_mode = tty::is_packet_mode(master)?;
    let mut fds = [PollFd::new(&master, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&at_once))?;
    info.cryopod_slave_closed = Some(fds[0].revents().contains(PollFlags::HUP));
    Ok(())
}

fn duplicate_device(seen: &Seen) -> Result<u32> {
    let fd = seen.fd.unwrap_or(-1);
    let ask = || {
        let pidfd = process::pidfd_open(seen.pid)?;
        tty::device(process::pidfd_getfd(pidfd.as_fd(), fd)?.as_fd())
    };
    ask().fd("ask for its device (TIOCGDEV)", seen.pid, fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_criu_s() {
        let pty = Pty {
            devpts: 7,
            index: 3,
        };
        assert_eq!(End::Master(pty).number(), Some(7));
        assert_eq!(End::Slave(pty).number(), Some(6));
        assert_eq!(End::Controlling(1).number(), Some(2012));
        let console = End::Device(rustix::fs::makedev(5, 1));
        assert_eq!(
            (console.kind(), console.number()),
            (TtyType::Console, Some(2004))
        );
        let virtual_one = End::Device(rustix::fs::makedev(4, 5));
        assert_eq!(
            (virtual_one.kind(), virtual_one.number()),
            (TtyType::Vt, Some(2008))
        );
        let far = Pty {
            devpts: 7,
            index: 1001,
        };
        assert_eq!(End::Master(far).number(), None);
    }
}
