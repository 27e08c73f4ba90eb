//! Terminals: pseudo-terminals are made with the numbers they had, devices are opened again.
//!
//! Both ends are opened in cryopod, before any task exists, and are nobody's controlling terminals until session
//! leaders take them ([`Ttys::control`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cryopod_image::criu::{
    FileEntry, RegFileEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry, TtyType, tty_stop,
};
use cryopod_image::{Kind as Image, SetReader};
use cryopod_sys::tty::{self, Errand};
use rustix::fs::{Mode, OFlags};

use super::paths::Comparison;
use super::tty_settings::{lock_settings, modes, settings};
use super::{corrupt, paths};
use crate::error::{Context, Error, Result};
use crate::line::{LIMIT_BYTES, Line, Queues, Stop};

/// No kernel makes more (kernel.pty.max is 4096 by default, and criu takes 1000).
const HIGHEST_INDEX: u32 = 1 << 16;
/// How long a terminal that was in use until just now may take to be free.
const FREE_LIMIT: Duration = Duration::from_secs(2);

/// The terminals of an image set.
#[derive(Debug, Default)]
pub struct Ttys {
    infos: BTreeMap<u32, TtyInfoEntry>,
    data: HashMap<u32, Vec<u8>>,
    controls: Vec<Control>,
    /// Entries in files.img that are the paths of terminals.
    paths: HashSet<u32>,
}

/// A terminal that controls a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The session, by its leader.
    pub session: i32,
    /// The foreground process group, 0 for none.
    pub group: i32,
    /// An entry in files.img whose description leads to the terminal.
    pub file: u32,
}

/// A descriptor of a terminal.
#[derive(Clone, Copy, Debug)]
struct Tty<'e> {
    entry: &'e TtyFileEntry,
    /// What it was opened by.
    reg: Option<&'e RegFileEntry>,
}

/// All descriptors of one pseudo-terminal.
#[derive(Debug, Default)]
struct Pair<'e> {
    master: Option<Tty<'e>>,
    slaves: Vec<Tty<'e>>,
    hung_up: Vec<Tty<'e>>,
}

/// Where opened descriptions go.
type Keep<'k> = dyn FnMut(u32, OwnedFd) -> Result<()> + 'k;

impl Ttys {
    /// Reads the images of terminals.
    pub fn load(set: &SetReader) -> Result<Self> {
        let mut ttys = Self::default();
        if set.exists(Image::TtyInfo, None) {
            for info in set.read_all::<TtyInfoEntry>(Image::TtyInfo, None)? {
                check(&info)?;
                let id = info.id;
                if ttys.infos.insert(id, info).is_some() {
                    return Err(broken(id, "there are two of it"));
                }
            }
        }
        if set.exists(Image::TtyData, None) {
            for TtyDataEntry { tty_id, data } in set.read_all(Image::TtyData, None)? {
                if !ttys.infos.contains_key(&tty_id) || data.len() > LIMIT_BYTES {
                    return Err(broken(
                        tty_id,
                        "there is data for it that cannot be its own",
                    ));
                }
                ttys.data.insert(tty_id, data);
            }
        }
        Ok(ttys)
    }

    /// The terminal that controls a session.
    pub fn control(&self, session: i32) -> Option<Control> {
        let mut found = self.controls.iter();
        found.find(|control| control.session == session).copied()
    }

    /// All terminals that control sessions.
    pub fn controls(&self) -> &[Control] {
        &self.controls
    }

    /// The highest number of a pseudo-terminal.
    pub fn highest_index(&self) -> u32 {
        let numbers = self.infos.values().filter_map(|info| info.pty.as_ref());
        numbers.map(|pty| pty.index).max().unwrap_or(0)
    }

    /// Whether an entry in files.img is there only for the path of a terminal. After [`Ttys::open`].
    pub fn is_path(&self, id: u32) -> bool {
        self.paths.contains(&id)
    }

    fn info(&self, tty: &Tty<'_>) -> Result<&TtyInfoEntry> {
        let id = tty.entry.tty_info_id;
        self.infos
            .get(&id)
            .ok_or_else(|| broken(id, "it is not there"))
    }

    /// Opens all terminals; `keep` gets their descriptions. Returns the entries of those whose master was outside of the
    /// tree.
    pub fn open(
        &mut self,
        entries: &BTreeMap<u32, FileEntry>,
        keep: &mut Keep<'_>,
    ) -> Result<Vec<u32>> {
        let mut pairs: BTreeMap<u32, Pair<'_>> = BTreeMap::new();
        let (mut others, mut through) = (Vec::new(), Vec::new());
        for entry in entries.values().filter_map(|entry| entry.tty.as_deref()) {
            let path = entry.regf_id.unwrap_or(entry.id);
            let reg = entries.get(&path).and_then(|path| path.reg.as_deref());
            self.paths.insert(path);
            let tty = Tty { entry, reg };
            let info = self.info(&tty)?;
            match (TtyType::try_from(info.r#type), &info.pty) {
                (Ok(TtyType::Pty), Some(pty)) => {
                    let pair = pairs.entry(pty.index).or_default();
                    if is_master(info) {
                        if pair.master.replace(tty).is_some() {
                            return Err(corrupt(tty.entry.id, "a terminal with two masters"));
                        }
                    } else if info.termios.is_none() {
                        pair.hung_up.push(tty);
                    } else {
                        pair.slaves.push(tty);
                    }
                }
                (Ok(TtyType::Ctty), _) => through.push(tty),
                _ => others.push(tty),
            }
        }
        let mut opened: BTreeMap<u32, OwnedFd> = BTreeMap::new();
        let mut outside = Vec::new();
        for (&index, pair) in &pairs {
            if pair.master.is_none() && !pair.slaves.is_empty() {
                outside.extend(pair.slaves.iter().map(|slave| slave.entry.id));
            }
            self.open_pair(index, pair, &mut opened)?;
        }
        for tty in &others {
            let file = self.open_device(tty)?;
            opened.insert(tty.entry.id, file);
        }
        self.find_controls(pairs.values(), &others)?;
        for tty in &through {
            let file = self.open_through(tty, &pairs, &opened)?;
            match file {
                Some(file) => drop(opened.insert(tty.entry.id, file)),
                None => outside.push(tty.entry.id),
            }
        }
        for (id, file) in opened {
            keep(id, file)?;
        }
        Ok(outside)
    }

    fn open_pair(
        &self,
        index: u32,
        pair: &Pair<'_>,
        opened: &mut BTreeMap<u32, OwnedFd>,
    ) -> Result<()> {
        let (path, flags) = match (&pair.master, pair.hung_up.first()) {
            (Some(master), _) => (path_of(master)?.to_owned(), master.entry.flags),
            (None, Some(slave)) => (multiplexer(path_of(slave)?), libc::O_RDWR as u32),
            (None, None) => return Ok(()),
        };
        let master = make(&path, flags, index)?;
        tty::set_locked(master.as_fd(), false).host("unlock a pseudo-terminal (TIOCSPTLCK)")?;
        for slave in &pair.hung_up {
            opened.insert(slave.entry.id, open_slave(slave, master.as_fd())?);
        }
        let Some(entry) = pair.master else {
            // With its master goes the terminal.
            return Ok(());
        };
        if let Some(slave) = pair
            .hung_up
            .first()
            .and_then(|one| opened.get(&one.entry.id))
        {
            tty::send(slave.as_fd(), Errand::HangUp).host("hang up a terminal (vhangup)")?;
        }
        for slave in &pair.slaves {
            let file = open_slave(slave, master.as_fd())?;
            own(slave, self.info(slave)?, file.as_fd())?;
            opened.insert(slave.entry.id, file);
        }
        let info = self.info(&entry)?;
        let slave = pair.slaves.first();
        let slave_info = slave.map(|slave| self.info(slave)).transpose()?;
        settings(master.as_fd(), info)?;
        self.fill(master.as_fd(), info, slave_info)?;
        lock_settings(master.as_fd(), info)?;
        if slave_info.is_some_and(|info| info.exclusive)
            && let Some(file) = slave.and_then(|slave| opened.get(&slave.entry.id))
        {
            tty::set_exclusive(file.as_fd()).host("make a terminal exclusive (TIOCEXCL)")?;
        }
        modes(master.as_fd(), info)?;
        opened.insert(entry.entry.id, master);
        Ok(())
    }

    /// What was queued, and whether output was stopped. A terminal is no transport that guarantees delivery: what cannot
    /// be put back is told, and the rest goes on.
    fn fill(
        &self,
        master: BorrowedFd<'_>,
        info: &TtyInfoEntry,
        slave: Option<&TtyInfoEntry>,
    ) -> Result<()> {
        let data = |info: &TtyInfoEntry| self.data.get(&info.id).cloned().unwrap_or_default();
        let queues = Queues {
            input: slave.map_or_else(
                || info.cryopod_slave_input.clone().unwrap_or_default(),
                data,
            ),
            output: data(info),
            stop: match info.cryopod_stop {
                Some(tty_stop::CHARACTER) => Some(Stop::Character),
                Some(tty_stop::PROGRAM) => Some(Stop::Program),
                _ => None,
            },
        };
        let closed = slave.is_none() && info.cryopod_slave_closed == Some(true);
        if queues == Queues::default() && !closed {
            return Ok(());
        }
        // This also opens and closes a slave that nobody has open any more.
        let line = Line::of(master).host("open the other end of a pseudo-terminal")?;
        if let Err(error) = line.put(&queues) {
            let index = info.pty.as_ref().map(|pty| pty.index);
            tracing::warn!(index, %error, "what was queued in a terminal is not all back");
        }
        Ok(())
    }

    fn open_device(&self, tty: &Tty<'_>) -> Result<OwnedFd> {
        let reg = tty
            .reg
            .ok_or_else(|| corrupt(tty.entry.id, "a terminal without a path"))?;
        let info = self.info(tty)?;
        if info.r#type == TtyType::ExtTty as i32 {
            let what = format!(
                "terminal {}: it was external to criu",
                path_of(tty)?.display()
            );
            return Err(Error::NotRestorable { what });
        }
        let file = paths::open(
            reg,
            paths::path_of(reg),
            tty.entry.flags,
            Comparison::default(),
        )?;
        settings(file.as_fd(), info)?;
        lock_settings(file.as_fd(), info)?;
        if info.exclusive {
            tty::set_exclusive(file.as_fd()).host("make a terminal exclusive (TIOCEXCL)")?;
        }
        Ok(file)
    }

    /// /dev/tty: opened by somebody whose controlling terminal is the one behind it. `None` when that was outside.
    fn open_through(
        &self,
        tty: &Tty<'_>,
        pairs: &BTreeMap<u32, Pair<'_>>,
        opened: &BTreeMap<u32, OwnedFd>,
    ) -> Result<Option<OwnedFd>> {
        let info = self.info(tty)?;
        let path = CString::new(path_of(tty)?.as_os_str().as_encoded_bytes())
            .map_err(|_| corrupt(tty.entry.id, "its name is not a path"))?;
        let flags = paths::open_flags(tty.entry.flags).bits() as i32;
        let open = |terminal: BorrowedFd<'_>| {
            tty::send(terminal, Errand::Open(&path, flags)).host("open /dev/tty")
        };
        if info.termios.is_none() {
            let master = open_path(Path::new(MULTIPLEXER), libc::O_RDWR as u32)?;
            tty::set_locked(master.as_fd(), false).host("unlock a pseudo-terminal")?;
            let slave = tty::open_slave(master.as_fd(), libc::O_RDWR).host("open a terminal")?;
            return open(slave.as_fd());
        }
        let index = info
            .cryopod_device
            .map(|device| device & 0xff | device >> 12 & 0xf_ff00);
        let by_device = index.and_then(|index| pairs.get(&index)).and_then(|pair| {
            let end = pair.slaves.first().or(pair.master.as_ref())?;
            opened.get(&end.entry.id)
        });
        let by_session = || {
            let control = self.control(info.sid as i32).filter(|_| info.sid != 0)?;
            opened.get(&control.file)
        };
        match by_device.or_else(by_session) {
            Some(terminal) => open(terminal.as_fd()),
            None => Ok(None),
        }
    }

    /// One terminal for each session: its slave where that is open, else its master.
    fn find_controls<'e>(
        &mut self,
        pairs: impl Iterator<Item = &'e Pair<'e>>,
        others: &[Tty<'_>],
    ) -> Result<()> {
        let mut controls = Vec::new();
        let mut add = |tty: &Tty<'_>, info: &TtyInfoEntry| {
            let (session, group) = (info.sid as i32, info.pgrp as i32);
            let known = |one: &Control| one.session == session;
            if session > 0 && !controls.iter().any(known) {
                controls.push(Control {
                    session,
                    group,
                    file: tty.entry.id,
                });
            }
        };
        for pair in pairs {
            let Some(master) = &pair.master else { continue };
            let end = pair.slaves.first().unwrap_or(master);
            add(end, self.info(master)?);
        }
        for tty in others {
            add(tty, self.info(tty)?);
        }
        self.controls = controls;
        Ok(())
    }
}

fn is_master(info: &TtyInfoEntry) -> bool {
    u64::from(info.rdev) == rustix::fs::makedev(5, 2)
}

/// Opens a master until it has the number wanted: the kernel gives the lowest that is free.
fn make(path: &Path, flags: u32, index: u32) -> Result<OwnedFd> {
    let deadline = Instant::now() + FREE_LIMIT;
    loop {
        let mut lower = Vec::new();
        loop {
            let master = open_path(path, flags)?;
            let number = tty::index(master.as_fd()).host("ask for the number of a terminal")?;
            if number == index {
                return Ok(master);
            }
            if number > index {
                break;
            }
            lower.push(master);
        }
        if Instant::now() > deadline {
            return Err(Error::TerminalTaken { index });
        }
        drop(lower);
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn open_path(path: &Path, flags: u32) -> Result<OwnedFd> {
    let flags: OFlags = paths::open_flags(flags);
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| paths::failed("open", path, errno))
}

/// Opens a slave by its path, which must lead to the slave of that master.
fn open_slave(slave: &Tty<'_>, master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let path = path_of(slave)?;
    let file = open_path(path, slave.entry.flags)?;
    let device = |file: BorrowedFd<'_>| tty::device(file).host("ask for the device of a terminal");
    if device(file.as_fd())? != device(master)? {
        return Err(Error::FileChanged {
            path: path.to_owned(),
            difference: "it is the terminal of somebody else".to_owned(),
        });
    }
    Ok(file)
}

/// Owner and mode of a slave, which grantpt(3), login(1) and mesg(1) set.
fn own(slave: &Tty<'_>, info: &TtyInfoEntry, file: BorrowedFd<'_>) -> Result<()> {
    let (uid, gid) = (info.uid, info.gid);
    rustix::fs::fchown(
        file,
        uid.map(rustix::fs::Uid::from_raw),
        gid.map(rustix::fs::Gid::from_raw),
    )
    .host("set the owner of a terminal")?;
    match slave.reg.and_then(|reg| reg.mode) {
        Some(mode) => rustix::fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))
            .host("set the mode of a terminal"),
        None => Ok(()),
    }
}

const MULTIPLEXER: &str = "/dev/ptmx";

/// What makes pseudo-terminals whose slaves are beside `slave`.
fn multiplexer(slave: &Path) -> PathBuf {
    let beside = slave.with_file_name("ptmx");
    if beside.exists() {
        beside
    } else {
        MULTIPLEXER.into()
    }
}

fn path_of<'e>(tty: &Tty<'e>) -> Result<&'e Path> {
    let reg = tty.reg;
    reg.map(paths::path_of)
        .ok_or_else(|| corrupt(tty.entry.id, "a terminal without a path"))
}

fn check(info: &TtyInfoEntry) -> Result<()> {
    let id = info.id;
    if (info.r#type == TtyType::Pty as i32) != info.pty.is_some() {
        return Err(broken(id, "it contradicts its kind"));
    }
    if info
        .pty
        .as_ref()
        .is_some_and(|pty| pty.index > HIGHEST_INDEX)
    {
        return Err(broken(id, "impossible number"));
    }
    if let Some(termios) = &info.termios
        && termios.c_line != 0
    {
        return Err(Error::NotRestorable {
            what: format!("a terminal with line discipline {}", termios.c_line),
        });
    }
    if is_master(info) && info.termios.is_none() {
        return Err(broken(id, "a master without settings"));
    }
    let input = info.cryopod_slave_input.as_ref();
    if input.is_some_and(|input| input.len() > LIMIT_BYTES) {
        return Err(broken(id, "it has more input than a terminal holds"));
    }
    Ok(())
}

fn broken(id: u32, what: &str) -> Error {
    Error::inconsistent("tty-info", format!("terminal {id}: {what}"))
}

#[cfg(test)]
mod tests {
    use cryopod_image::criu::{TermiosEntry, TtyPtyEntry};

    use super::*;

    fn pty(index: u32) -> TtyInfoEntry {
        TtyInfoEntry {
            id: 1,
            r#type: TtyType::Pty.into(),
            pty: Some(TtyPtyEntry { index }),
            ..TtyInfoEntry::default()
        }
    }

    #[test]
    fn contradictions_are_found() {
        assert!(check(&pty(3)).is_ok());
        assert!(check(&pty(HIGHEST_INDEX + 1)).is_err());
        let console = TtyInfoEntry {
            r#type: TtyType::Console.into(),
            ..pty(3)
        };
        assert!(check(&console).is_err());
        let master = TtyInfoEntry {
            rdev: rustix::fs::makedev(5, 2) as u32,
            ..pty(3)
        };
        assert!(check(&master).is_err());
        let modem = TtyInfoEntry {
            termios: Some(TermiosEntry {
                c_line: 1,
                ..TermiosEntry::default()
            }),
            ..pty(3)
        };
        assert!(matches!(check(&modem), Err(Error::NotRestorable { .. })));
        let much = TtyInfoEntry {
            cryopod_slave_input: Some(vec![0; LIMIT_BYTES + 1]),
            ..pty(3)
        };
        assert!(check(&much).is_err());
    }

    #[test]
    fn a_number_is_had_again_and_one_that_is_taken_is_told() {
        let path = Path::new(MULTIPLEXER);
        let first = open_path(path, libc::O_RDWR as u32).unwrap();
        let second = open_path(path, libc::O_RDWR as u32).unwrap();
        let index = tty::index(second.as_fd()).unwrap();
        drop(second);
        // Another test may have taken the number meanwhile, which is told as well.
        match make(path, libc::O_RDWR as u32, index) {
            Ok(master) => assert_eq!(tty::index(master.as_fd()).unwrap(), index),
            Err(error) => assert!(matches!(error, Error::TerminalTaken { .. })),
        }
        let taken = tty::index(first.as_fd()).unwrap();
        let error = make(path, libc::O_RDWR as u32, taken).unwrap_err();
        assert!(matches!(error, Error::TerminalTaken { index } if index == taken));
    }
}
