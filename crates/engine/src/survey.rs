//! What in a tree cannot be checkpointed, found while it runs and before anything is stopped.
//!
//! Only /proc is read, and sockets are duplicated for a moment to ask what they are. The tree changes meanwhile:
//! whatever ends or closes while it is looked at is left out, and whatever comes later is found by the dump, which
//! uses the same classification of open files ([`crate::dump::files`]).

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::Duration;

use cryopod_image::criu::FdTypes;
use cryopod_sys::pagemap;

use crate::dump::files::Outlook;
use crate::dump::files::kind::{Kind, classify};
use crate::dump::files::seen::{Seen, is_gone};
use crate::dump::files::sockets;
use crate::dump::mappings::SOCKET;
use crate::dump::{Connections, DumpOptions, NetworkLock};
use crate::dump::{aio, ipc};
use crate::error::{Error, ErrorKind, Result, Unsupported};
use crate::net::lock;
use crate::proc::{self, maps, maps::Mapping, stat, status::Status};

/// `PF_KTHREAD` of the flags in /proc/PID/stat (linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// The namespaces a process lives in, as /proc/PID/ns names them (namespaces(7)).
const NAMESPACES: [&str; 10] = [
    "cgroup",
    "ipc",
    "mnt",
    "net",
    "pid",
    "pid_for_children",
    "time",
    "time_for_children",
    "user",
    "uts",
];

/// How often something in the way has to be found, and how long after the look before.
/// A server may wait for as long as TCP takes to send a segment again (200 ms): the checkpoint before this one held some
/// back.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(100),
    Duration::from_millis(300),
];

/// Looks for everything that stands in the way of a checkpoint of `root` and all its descendants.
///
/// A running tree is never seen as it is at any one moment: a descriptor may lead to a process, or to a socket, that
/// came after the list of them was made; and some things are in the way for a moment, such as a connection that is about
/// to be accepted. So only what is found again and again counts.
///
/// # Errors
///
/// [`Error::NoProcess`] when there is no `root`; [`Error::Unsupported`] with all that was found.
pub fn survey(root: i32, options: &DumpOptions) -> Result<()> {
    let mut found = look(root, options)?;
    for pause in PAUSES {
        if found.is_empty() {
            break;
        }
        std::thread::sleep(pause);
        let again = look(root, options)?;
        found.retain(|one| again.contains(one));
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(Error::Unsupported(found))
    }
}

fn look(root: i32, options: &DumpOptions) -> Result<Vec<Unsupported>> {
    stat::read(root)?;
    let pids = descendants(root)?;
    let mut survey = Survey {
        outlook: Outlook::scan(&pids, options)?,
        files: HashSet::new(),
        found: Vec::new(),
    };
    for &pid in &pids {
        match survey.process(pid) {
            Err(error) if is_gone(&error) => {}
            looked => looked?,
        }
    }
    survey.found.extend(shared_objects(root)?);
    if options.tcp.connections == Connections::Keep && options.tcp.lock == NetworkLock::Nftables {
        lock::check()?;
    }
    Ok(survey.found)
}

/// Objects of System V IPC that others seem to use too. Processes that come and go make it seem so: who has a segment
/// attached is counted, and compared with a list.
fn shared_objects(root: i32) -> Result<Vec<Unsupported>> {
    const TRIES: u32 = 20;
    let mut found = Vec::new();
    for _ in 0..TRIES {
        found.clear();
        ipc::Objects::find(&descendants(root)?, &mut found)?;
        if found.is_empty() {
            break;
        }
    }
    Ok(found)
}

/// The root and all below it, parents first.
fn descendants(root: i32) -> Result<Vec<i32>> {
    let mut queue = VecDeque::from([root]);
    let mut seen = HashSet::from([root]);
    let mut pids = Vec::new();
    while let Some(pid) = queue.pop_front() {
        pids.push(pid);
        let children = match proc::children(pid) {
            Err(error) if is_gone(&error) => continue,
            children => children?,
        };
        // A pid can come up twice when its parent ends meanwhile.
        queue.extend(children.into_iter().filter(|&child| seen.insert(child)));
    }
    Ok(pids)
}

struct Survey {
    outlook: Outlook,
    /// Mapped files that were looked at, by name, device and inode.
    files: HashSet<(Vec<u8>, (u32, u32), u64)>,
    found: Vec<Unsupported>,
}

impl Survey {
    fn add(&mut self, pid: i32, fd: Option<i32>, what: impl Into<String>) {
        self.found.push(Unsupported {
            pid,
            fd,
            what: what.into(),
        });
    }

    fn process(&mut self, pid: i32) -> Result<()> {
        let stat = stat::read(pid)?;
        if stat.flags & KERNEL_THREAD != 0 {
            self.add(pid, None, "kernel thread: not supported");
            return Ok(());
        }
        let reader = proc::reader(pid)?;
        if matches!(stat.state, 'Z' | 'X') && reader == pid {
            return Ok(());
        }
        // Messages name a thread where the first of a process has ended.
        let pid = reader;
        let foreign = self.namespaces(pid)?;
        self.tracer(pid)?;
        self.program(pid)?;
        // Paths of another mount namespace cannot be looked at from here.
        if !foreign {
            self.places(pid)?;
        }
        self.descriptors(pid, foreign)?;
        self.mappings(pid, foreign)
    }

    /// Compares namespaces with our own. Returns whether the mounts are others.
    fn namespaces(&mut self, pid: i32) -> Result<bool> {
        let mut foreign_mounts = false;
        for name in NAMESPACES {
            let link = format!("ns/{name}");
            let theirs = match proc::read_link(pid, &link) {
                // An older kernel that has no such namespaces, or a process that ended.
                Err(error) if is_gone(&error) => continue,
                theirs => theirs?,
            };
            if theirs == proc::read_link(std::process::id() as i32, &link)? {
                continue;
            }
            foreign_mounts |= name == "mnt";
            let what = match name.strip_suffix("_for_children") {
                Some(name) => {
                    format!("its children will live in another {name} namespace: not supported")
                }
                None => format!("lives in another {name} namespace: not supported"),
            };
            self.add(pid, None, what);
        }
        Ok(foreign_mounts)
    }

    fn tracer(&mut self, pid: i32) -> Result<()> {
        for tid in proc::numbers(pid, "task")? {
            let status = match Status::read(pid, tid) {
                Err(error) if is_gone(&error) => continue,
                status => status?,
            };
            let tracer = status.number("TracerPid").unwrap_or(0);
            if tracer != 0 {
                return Err(Error::Traced {
                    pid: tid,
                    tracer: tracer as i32,
                });
            }
        }
        Ok(())
    }

    /// The program must be a 64-bit one.
    fn program(&mut self, pid: i32) -> Result<()> {
        const CLASS_64: u8 = 2;
        let mut header = [0; 5];
        let read =
            File::open(proc::path(pid, "exe")).and_then(|mut file| file.read_exact(&mut header));
        if read.is_ok() && header.starts_with(b"\x7fELF") && header[4] != CLASS_64 {
            self.add(pid, None, "32-bit program: not supported");
        }
        Ok(())
    }

    fn places(&mut self, pid: i32) -> Result<()> {
        for link in ["exe", "cwd", "root"] {
            let seen = match Seen::place(pid, link.to_owned()) {
                Err(error) if is_gone(&error) => continue,
                seen => seen?,
            };
            let kind = classify(&seen);
            if let Some(what) = self.outlook.problem(&seen, &kind) {
                self.add(pid, None, format!("{link}: {what}"));
            }
        }
        Ok(())
    }

    fn descriptors(&mut self, pid: i32, foreign: bool) -> Result<()> {
        for fd in proc::numbers(pid, "fd")? {
            let seen = match Seen::descriptor(pid, fd) {
                Err(error) if is_gone(&error) => continue,
                seen => seen?,
            };
            let kind = classify(&seen);
            let has_path =
                matches!(kind.fd_type(), FdTypes::Reg | FdTypes::Tty) || kind == Kind::Fifo;
            if foreign && has_path && seen.link.starts_with(b"/") {
                continue;
            }
            if let Some(what) = self.outlook.problem(&seen, &kind) {
                self.add(pid, Some(fd), what);
            }
        }
        Ok(())
    }

    fn mappings(&mut self, pid: i32, foreign: bool) -> Result<()> {
        for mapping in maps::read_flagged(pid)? {
            if mapping.name.starts_with(SOCKET) && sockets::is_ring(pid, mapping.inode) {
                continue;
            }
            let is_followed = mapping.has(b"uw") && is_followed(pid, &mapping);
            if let Some(what) = memory_problem(&mapping, is_followed) {
                self.add(
                    pid,
                    None,
                    format!("mapping at {:#x}: {what}: not supported", mapping.start),
                );
            } else if mapping.inode != 0
                && mapping.name.starts_with(b"/")
                && !aio::is_ring(&mapping)
                && !mapping.name.starts_with(b"/SYSV")
                && !foreign
            {
                self.mapped_file(pid, &mapping)?;
            }
        }
        Ok(())
    }

    /// A mapped file must be found again just like an open one. Each is looked at once.
    fn mapped_file(&mut self, pid: i32, mapping: &Mapping) -> Result<()> {
        if !self
            .files
            .insert((mapping.name.clone(), mapping.device, mapping.inode))
        {
            return Ok(());
        }
        let seen = match Seen::place(
            pid,
            format!("map_files/{:x}-{:x}", mapping.start, mapping.end),
        ) {
            Err(error) if is_gone(&error) => return Ok(()),
            // These links need a capability (proc_pid_map_files(5)); a dump will say so if it is missing.
            Err(error) if error.kind() == ErrorKind::Permission => return Ok(()),
            seen => seen?,
        };
        let kind = classify(&seen);
        if let Some(what) = self.outlook.problem(&seen, &kind) {
            self.add(
                pid,
                None,
                format!("mapping at {:#x}: {what}", mapping.start),
            );
        }
        Ok(())
    }
}

/// Whether all that a mapping is watched for is what was written to it.
fn is_followed(pid: i32, mapping: &Mapping) -> bool {
    let open = File::open(proc::path(pid, "pagemap"));
    open.is_ok_and(|file| pagemap::is_followed(file.as_fd(), mapping.start))
}

/// What a mapping is, where it cannot be made again (VmFlags are those of proc_pid_smaps(5)).
///
/// A userfaultfd that only follows writes (`is_followed`), as [`crate::track`] has it, changes nothing for the program.
fn memory_problem(mapping: &Mapping, is_followed: bool) -> Option<&'static str> {
    // What the kernel maps itself, and some of it is device memory by its flags.
    if mapping.name.starts_with(b"[v") {
        return None;
    }
    let name = |start: &[u8]| mapping.name.starts_with(start);
    let flag = |flag: &[u8; 2]| mapping.has(flag);
    if name(b"/SYSV") && flag(b"ht") {
        Some("System V shared memory of huge pages")
    } else if name(b"anon_inode:[io_uring]") {
        // For its descriptor to tell.
        None
    } else if name(b"anon_inode:[perf_event]") {
        Some("perf event")
    } else if name(b"anon_inode:") || name(b"socket:[") {
        Some("memory shared with the kernel")
    } else if name(b"[uprobes]") {
        Some("uprobes are active")
    } else if flag(b"ss") {
        Some("shadow stack")
    } else if flag(b"um") || flag(b"ui") || (flag(b"uw") && !is_followed) {
        Some("watched by userfaultfd")
    } else if flag(b"io") || flag(b"pf") {
        Some("device memory")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::dump::files::tests::Sleeper;
    use crate::tests::alone::alone;

    fn options(external_stdio: bool) -> DumpOptions {
        DumpOptions {
            external_stdio,
            ..DumpOptions::default()
        }
    }

    fn found(result: Result<()>) -> Vec<Unsupported> {
        match result {
            Ok(()) => Vec::new(),
            Err(Error::Unsupported(found)) => found,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_plain_process_can_be_checkpointed() {
        alone(|| {
            let sleeper = Sleeper::start(Stdio::null());
            let found = found(survey(sleeper.pid(), &options(true)));
            assert!(found.is_empty(), "{found:?}");
        });
    }

    #[test]
    fn what_is_in_the_way_is_named_with_its_descriptor() {
        alone(|| {
            let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
            let stdin = Stdio::from(std::os::fd::OwnedFd::from(socket));
            let sleeper = Sleeper::start(stdin);
            let found = found(survey(sleeper.pid(), &options(false)));
            let expected = "socket (AF_UNIX, stream): connected to pid";
            let named = |one: &Unsupported| {
                (one.pid, one.fd) == (sleeper.pid(), Some(0)) && one.what.starts_with(expected)
            };
            assert!(found.iter().any(named), "{found:?}");
        });
    }

    #[test]
    fn nobody_is_an_error() {
        assert!(matches!(
            survey(i32::MAX, &options(true)),
            Err(Error::NoProcess { .. })
        ));
    }

    #[test]
    fn special_mappings_are_told_from_plain_ones() {
        let mapping = |name: &str, flags: &[&[u8; 2]]| Mapping {
            name: name.into(),
            flags: flags.iter().map(|flag| **flag).collect(),
            ..Mapping::default()
        };
        assert_eq!(
            memory_problem(&mapping("[vvar]", &[b"rd", b"io", b"pf"]), false),
            None
        );
        assert_eq!(memory_problem(&mapping("", &[b"rd", b"wr"]), false), None);
        assert_eq!(
            memory_problem(&mapping("/dev/mem", &[b"io"]), false),
            Some("device memory")
        );
        assert_eq!(
            memory_problem(&mapping("/SYSV00000000 (deleted)", &[b"ht"]), false),
            Some("System V shared memory of huge pages")
        );
        assert_eq!(
            memory_problem(&mapping("", &[b"uw"]), false),
            Some("watched by userfaultfd")
        );
        assert_eq!(memory_problem(&mapping("", &[b"uw"]), true), None);
        assert_eq!(
            memory_problem(&mapping("/memfd:x (deleted)", &[b"ht"]), false),
            None
        );
    }
}
