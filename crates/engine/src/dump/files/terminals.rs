//! Which terminals belong to a tree, and which lead out of it.
//!
//! A pseudo-terminal belongs to the tree when its master is open there. Numbers of pseudo-terminals are those of one
//! instance of devpts, so instance and number together say which one it is.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cryopod_sys::{Errno, process, tty};

use super::kind::{self, Kind};
use super::paths;
use super::seen::{Seen, is_gone};
use crate::error::Result;
use crate::proc::{self, stat};

/// A pseudo-terminal: device number of its devpts, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pty {
    pub devpts: u64,
    pub index: u32,
}

/// Session and foreground group of a terminal; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    pub session: i32,
    pub group: i32,
}

/// Where a terminal leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// The slave of a master in the tree.
    Inside(Pty),
    /// The slave of a master that nobody in the tree has.
    Outside(Pty),
    /// Hung up: its other end is gone for good, or vhangup(2) has cut it off.
    HungUp(Pty),
    /// A console, a virtual terminal, a serial line.
    Device,
}

/// The terminals of a tree.
#[derive(Debug, Default)]
pub struct Terminals {
    masters: HashSet<Pty>,
    /// By device number, as far as processes of the tree are controlled.
    controls: HashMap<u32, Control>,
    /// Processes that may lead sessions.
    pids: HashSet<i32>,
}

impl Terminals {
    /// Looks through all descriptors of the tree.
    pub fn scan(pids: &[i32]) -> Result<Self> {
        let mut terminals = Self {
            pids: pids.iter().copied().collect(),
            ..Self::default()
        };
        for &pid in pids {
            match terminals.process(pid) {
                Err(error) if is_gone(&error) => {}
                looked => looked?,
            }
        }
        Ok(terminals)
    }

    fn process(&mut self, pid: i32) -> Result<()> {
        let stat = stat::read(pid)?;
        if stat.tty_nr != 0 {
            let control = Control {
                session: stat.session,
                group: stat.tpgid.max(0),
            };
            self.controls.insert(stat.tty_nr, control);
        }
        for fd in proc::numbers(pid, "fd")? {
            let seen = match Seen::place(pid, format!("fd/{fd}")) {
                Err(error) if is_gone(&error) => continue,
                seen => seen?,
            };
            if !kind::is_master(&seen) {
                continue;
            }
            match Seen::descriptor(pid, fd) {
                Err(error) if is_gone(&error) => {}
                seen => self.masters.extend(master(&seen?)),
            }
        }
        Ok(())
    }

    /// Where a terminal leads that is no master; through /dev/tty, where the terminal behind it leads.
    pub fn home(&self, seen: &Seen) -> Result<Home> {
        let pty = if kind::is_controlling_terminal(seen) {
            match duplicate(seen).and_then(|file| tty::device(file.as_fd())) {
                Ok(device) => self.controlling(device),
                Err(_) => {
                    return Ok(Home::HungUp(Pty {
                        devpts: 0,
                        index: 0,
                    }));
                }
            }
        } else {
            slave(seen)
        };
        let Some(pty) = pty else {
            return Ok(Home::Device);
        };
        if is_hung_up(seen) {
            Ok(Home::HungUp(pty))
        } else if self.masters.contains(&pty) {
            Ok(Home::Inside(pty))
        } else {
            Ok(Home::Outside(pty))
        }
    }

    /// The pseudo-terminal of a device number.
    fn controlling(&self, device: u32) -> Option<Pty> {
        let number = rustix::fs::makedev(major(device), minor(device));
        let index = kind::slave_index(number)?;
        let inside = self.masters.iter().find(|pty| pty.index == index);
        Some(inside.copied().unwrap_or(Pty { devpts: 0, index }))
    }

    /// What a terminal controls, by its device number, as far as it is of the tree.
    pub fn control(&self, device: u32) -> Control {
        self.controls.get(&device).copied().unwrap_or_default()
    }

    /// Why a terminal cannot be checkpointed, if it cannot. `outside_terminal` allows slaves whose master is outside.
    pub fn problem(
        &self,
        seen: &Seen,
        kind: &Kind,
        outside_terminal: bool,
    ) -> Result<Option<String>> {
        let shown = seen.shown();
        match kind {
            Kind::Master => {
                let Some(pty) = master(seen) else {
                    return Ok(Some(format!("{shown}: its number is not known")));
                };
                if self.masters.iter().any(|other| other.devpts != pty.devpts) {
                    let what = "pseudo-terminals of two instances of devpts: not supported";
                    return Ok(Some(what.to_owned()));
                }
                let session = duplicate(seen).and_then(|file| tty::session(file.as_fd()));
                let foreign = session.ok().filter(|sid| !self.pids.contains(sid));
                let controls = |sid| {
                    format!(
                        "pseudo-terminal {}: it controls session {sid}, whose leader is outside the tree",
                        pty.index
                    )
                };
                Ok(foreign
                    .map(controls)
                    .or_else(|| paths::check(seen, 0).err()))
            }
            Kind::Terminal => match self.home(seen)? {
                Home::Outside(_) if !outside_terminal => Ok(Some(format!(
                    "terminal {shown}: its other end is outside the tree (allow with --shell-job)"
                ))),
                // It needs no name to come back.
                Home::HungUp(_) => Ok(None),
                _ => Ok(paths::check(seen, 0).err().or_else(|| discipline(seen))),
            },
            _ => Ok(None),
        }
    }
}

/// A modem's or a driver's line discipline has state of its own.
fn discipline(seen: &Seen) -> Option<String> {
    let number = duplicate(seen).and_then(|file| tty::discipline(file.as_fd()));
    let number = number.ok().filter(|&number| number != 0)?;
    let shown = seen.shown();
    Some(format!(
        "terminal {shown}: line discipline {number}: not supported"
    ))
}

/// The pseudo-terminal of a master: fdinfo has its number (proc_pid_fdinfo(5)).
pub fn master(seen: &Seen) -> Option<Pty> {
    let index = u32::try_from(seen.info.number("tty-index")?).ok()?;
    let devpts = if seen.file_system == DEVPTS {
        seen.stat.st_dev
    } else {
        // A device node elsewhere leads to the devpts that is mounted beside it.
        let path = Path::new(std::ffi::OsStr::from_bytes(&seen.link));
        let beside = path.parent()?.join("pts");
        rustix::fs::stat(beside).ok()?.st_dev
    };
    Some(Pty { devpts, index })
}

fn slave(seen: &Seen) -> Option<Pty> {
    Some(Pty {
        devpts: seen.stat.st_dev,
        index: kind::slave_index(seen.stat.st_rdev)?,
    })
}

/// Whether every request is answered with EIO.
pub fn is_hung_up(seen: &Seen) -> bool {
    duplicate(seen).and_then(|file| tty::session(file.as_fd())) == Err(Errno::IO)
}

fn duplicate(seen: &Seen) -> std::result::Result<OwnedFd, Errno> {
    let fd = seen.fd.ok_or(Errno::BADF)?;
    let pidfd = process::pidfd_open(seen.pid)?;
    process::pidfd_getfd(pidfd.as_fd(), fd)
}

/// Magic number of devpts (linux/magic.h).
const DEVPTS: u64 = 0x1cd1;

/// Device numbers as ioctls and /proc/PID/stat have them (linux/kdev_t.h, `new_encode_dev`).
fn major(device: u32) -> u32 {
    device >> 8 & 0xfff
}

fn minor(device: u32) -> u32 {
    device & 0xff | device >> 12 & 0xf_ff00
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::dump::files::kind::classify;
    use crate::tests::alone::alone;

    fn seen(file: &impl AsRawFd) -> Seen {
        Seen::descriptor(std::process::id() as i32, file.as_raw_fd()).unwrap()
    }

    #[test]
    fn a_slave_belongs_where_its_master_is() {
        alone(|| {
            let own = std::process::id() as i32;
            let mut options = OpenOptions::new();
            let open = options.read(true).write(true).open("/dev/ptmx").unwrap();
            tty::set_locked(open.as_fd(), false).unwrap();
            let peer = tty::open_slave(open.as_fd(), libc::O_RDWR).unwrap();
            let index = tty::index(open.as_fd()).unwrap();

            let tree = Terminals::scan(&[own]).unwrap();
            let pty = master(&seen(&open)).unwrap();
            assert_eq!(pty.index, index);
            assert_eq!(classify(&seen(&open)), Kind::Master);
            assert_eq!(tree.home(&seen(&peer)).unwrap(), Home::Inside(pty));
            assert_eq!(
                tree.problem(&seen(&peer), &Kind::Terminal, false).unwrap(),
                None
            );
            assert_eq!(
                tree.problem(&seen(&open), &Kind::Master, false).unwrap(),
                None
            );

            let nobody = Terminals::default();
            assert_eq!(nobody.home(&seen(&peer)).unwrap(), Home::Outside(pty));
            let problem = nobody
                .problem(&seen(&peer), &Kind::Terminal, false)
                .unwrap();
            assert!(problem.unwrap().contains("--shell-job"));
            assert_eq!(
                nobody.problem(&seen(&peer), &Kind::Terminal, true).unwrap(),
                None
            );

            drop(open);
            assert_eq!(tree.home(&seen(&peer)).unwrap(), Home::HungUp(pty));
        });
    }

    #[test]
    fn device_numbers_are_taken_apart() {
        let device = |major: u32, minor: u32| major << 8 | minor & 0xff | (minor & !0xff) << 12;
        for (one, other) in [(136, 3), (136, 0x1_2345), (4, 1)] {
            let number = device(one, other);
            assert_eq!((major(number), minor(number)), (one, other));
        }
    }
}
