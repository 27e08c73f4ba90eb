//! Standard streams that lead outside the tree: a terminal, or a socket or pipe whose other end nobody of the tree has,
//! but somebody else.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

use cryopod_image::criu::FileEntry;
use cryopod_sys::{Errno, process};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::kind::{self, Kind, classify};
use super::seen::{Seen, is_gone};
use super::sockets::View;
use super::terminals::{Home, Terminals};
use super::{Description, paths};
use crate::dump::DumpOptions;
use crate::error::Result;
use crate::proc::{self, fdinfo::FdInfo};

const STANDARD: std::ops::RangeInclusive<i32> = 0..=2;
/// Bits of the two ends of a pipe.
const READ: u8 = 1;
const WRITE: u8 = 2;

/// The files of a tree that lead outside.
#[derive(Debug, Default)]
pub struct Streams {
    /// By device and inode.
    outside: HashSet<(u64, u64)>,
    /// One of them is a terminal, so that /dev/tty is one as well.
    has_terminal: bool,
    pids: Vec<i32>,
    /// Looked for when the first terminal is met.
    terminals: OnceCell<Terminals>,
}

impl Streams {
    /// Looks at the standard streams of all processes of the tree; none lead outside unless `options` allow it.
    pub fn scan(pids: &[i32], options: &DumpOptions, sockets: &View) -> Result<Self> {
        let mut streams = Self {
            pids: pids.to_vec(),
            ..Self::default()
        };
        if !options.external_stdio {
            return Ok(streams);
        }
        let mut pipes = HashMap::new();
        for &pid in pids {
            for fd in STANDARD {
                let seen = match Seen::descriptor(pid, fd) {
                    Err(error) if is_gone(&error) => continue,
                    seen => seen?,
                };
                match classify(&seen) {
                    Kind::Terminal => match streams.terminals()?.home(&seen)? {
                        Home::Outside(_) | Home::Device => {
                            streams.has_terminal = true;
                            streams.outside.insert(seen.inode());
                        }
                        Home::Inside(_) | Home::HungUp(_) => {}
                    },
                    Kind::Socket(kind) if sockets.leads_outside(&seen, &kind) => {
                        streams.outside.insert(seen.inode());
                    }
                    Kind::Pipe => {
                        pipes.insert(seen.link.clone(), (seen.inode(), pid, fd));
                    }
                    _ => {}
                }
            }
        }
        if !pipes.is_empty() {
            let ends = ends(pids, &pipes)?;
            let half = pipes.into_iter().filter(|(link, (_, pid, fd))| {
                let ours = ends.get(link).copied().unwrap_or(READ | WRITE);
                ours != READ | WRITE && has_other_end(*pid, *fd)
            });
            streams.outside.extend(half.map(|(_, (inode, ..))| inode));
        }
        Ok(streams)
    }

    /// The terminals of the tree.
    pub fn terminals(&self) -> Result<&Terminals> {
        match self.terminals.get() {
            Some(terminals) => Ok(terminals),
            None => {
                let terminals = Terminals::scan(&self.pids)?;
                Ok(self.terminals.get_or_init(|| terminals))
            }
        }
    }

    /// Whether an open file is one of them.
    pub fn lead_outside(&self, seen: &Seen, kind: &Kind) -> bool {
        match kind {
            // A standard stream that is /dev/tty stands for any terminal.
            Kind::Terminal if kind::is_controlling_terminal(seen) => {
                let home = || self.terminals().and_then(|terminals| terminals.home(seen));
                self.has_terminal && matches!(home(), Ok(Home::Outside(_) | Home::Device))
            }
            Kind::Terminal | Kind::Socket(_) | Kind::Pipe => self.outside.contains(&seen.inode()),
            _ => false,
        }
    }
}

/// Whether a pipe has another end at all: who had it may have closed it or ended, and left something to be read. poll(2)
/// tells, as POLLHUP to a reader and POLLERR to a writer.
fn has_other_end(pid: i32, fd: i32) -> bool {
    let alone = || {
        let pidfd = process::pidfd_open(pid)?;
        let end = process::pidfd_getfd(pidfd.as_fd(), fd)?;
        let mut polled = [PollFd::new(&end, PollFlags::empty())];
        rustix::event::poll(&mut polled, Some(&Timespec::default()))?;
        let revents = polled[0].revents();
        Ok::<bool, Errno>(revents.intersects(PollFlags::HUP | PollFlags::ERR))
    };
    !alone().unwrap_or(false)
}

/// A standard stream that is a pipe: its inode, and where it was found.
type Found = ((u64, u64), i32, i32);

/// Which ends of the given pipes the tree has.
fn ends(pids: &[i32], pipes: &HashMap<Vec<u8>, Found>) -> Result<HashMap<Vec<u8>, u8>> {
    let mut ends: HashMap<Vec<u8>, u8> = HashMap::new();
    for &pid in pids {
        let numbers = match proc::numbers(pid, "fd") {
            Err(error) if is_gone(&error) => continue,
            numbers => numbers?,
        };
        for fd in numbers {
            let link = match proc::read_link(pid, &format!("fd/{fd}")) {
                Err(error) if is_gone(&error) => continue,
                link => link?.into_os_string().into_encoded_bytes(),
            };
            if !pipes.contains_key(&link) {
                continue;
            }
            let info = match FdInfo::read(pid, fd) {
                Err(error) if is_gone(&error) => continue,
                info => info?,
            };
            *ends.entry(link).or_default() |= match info.flags as i32 & libc::O_ACCMODE {
                libc::O_RDONLY => READ,
                libc::O_WRONLY => WRITE,
                _ => READ | WRITE,
            };
        }
    }
    Ok(ends)
}

/// The entry of a stream that leads outside: a name for whoever restores it, and nothing to open.
pub(super) fn dump(one: &Description<'_>) -> FileEntry {
    let mut entry = paths::entry(
        one.id,
        one.seen,
        one.seen.flags(),
        one.owner.clone(),
        &one.seen.link,
    );
    if let Some(reg) = &mut entry.reg {
        reg.ext = Some(true);
        reg.size = None;
    }
    entry
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::dump::files::tests::Sleeper;
    use crate::tests::alone::alone;

    fn options() -> DumpOptions {
        DumpOptions {
            external_stdio: true,
            ..DumpOptions::default()
        }
    }

    fn leads_outside(sleeper: &Sleeper, pids: &[i32], fd: i32) -> bool {
        let seen = Seen::descriptor(sleeper.pid(), fd).unwrap();
        Streams::scan(pids, &options(), &View::default())
            .unwrap()
            .lead_outside(&seen, &classify(&seen))
    }

    #[test]
    fn a_pipe_to_somebody_else_leads_outside_and_one_within_does_not() {
        alone(|| {
            let sleeper = Sleeper::start(Stdio::null());
            let (pid, own) = (sleeper.pid(), std::process::id() as i32);
            let results = [
                leads_outside(&sleeper, &[pid], 1),
                leads_outside(&sleeper, &[pid, own], 1),
                leads_outside(&sleeper, &[pid], 0),
            ];
            assert_eq!(results, [true, false, false]);
        });
    }

    #[test]
    fn a_pipe_to_nobody_leads_nowhere() {
        alone(|| {
            let (reader, writer) = std::io::pipe().unwrap();
            let sleeper = Sleeper::start(Stdio::from(reader));
            assert!(leads_outside(&sleeper, &[sleeper.pid()], 0));
            drop(writer);
            assert!(!leads_outside(&sleeper, &[sleeper.pid()], 0));
        });
    }
}
