//! One process: the parts that belong to all its threads, and the order in which everything is read.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;

use cryopod_image::criu::{
    AioRingEntry, CoreEntry, FsEntry, March, MmEntry, RlimitEntry, TaskCoreEntry, TaskRlimitsEntry,
    ThreadCoreEntry, task_state,
};
use cryopod_image::{Kind, SetWriter};

use cryopod_sys::memory::PAGE;

use super::files::{Files, io_urings};
use super::mappings::Layout;
use super::report::{DumpReport, ProcessSummary};
use super::{
    aio, cgroups, credentials, ids, memory, seccomp, settings, shmem, signals, threads, timers,
};
use crate::error::{Error, Result};
use crate::freeze::FrozenProcess;
use crate::proc::mem::Mem;
use crate::proc::{self, maps, stat, status::Status};
use crate::remote::vdso;
use crate::remote::visit::Visit;

/// What is gathered over all processes of a tree.
pub struct World<'a> {
    /// Where everything goes.
    pub set: &'a SetWriter,
    /// Sharing of kernel objects.
    pub ids: ids::Ids,
    /// Descriptors and paths.
    pub files: Files<'a>,
    /// Shared memory met in mappings.
    pub shmem: shmem::Shmem,
    /// Seccomp filters.
    pub seccomp: seccomp::Filters,
    /// Control groups.
    pub cgroups: cgroups::Sets,
    /// Address spaces met so far, by id.
    pub spaces: HashSet<u32>,
    /// Descriptor tables written so far, by id.
    pub tables: HashSet<u32>,
    /// Figures.
    pub report: DumpReport,
    /// Address spaces whose contents are still to be read.
    pub memory: Vec<memory::Space>,
}

/// What a process says of itself when asked from inside.
struct Inside {
    tc: TaskCoreEntry,
    xcomp_permissions: Option<u64>,
    brk: u64,
    dumpable: i32,
    /// Bit 0: none; bit 1 with it: none but where they are asked for.
    thp_disable: u32,
    aios: Vec<AioRingEntry>,
}

/// Writes all images of one process but the contents of its memory.
pub fn dump(world: &mut World<'_>, one: &FrozenProcess) -> Result<()> {
    if one.zombie {
        return zombie(world, one);
    }
    let (pid, reader) = (one.pid, one.reader());
    let status = Status::read(reader, reader)?;
    let mem = Mem::open(reader)?;
    let mut layout = Layout::read(reader, &status)?;
    let room = find_room(pid, &mem, &layout.maps)?;
    let ids = world.ids.of(reader)?;
    if !world.spaces.insert(ids.vm_id) {
        let what = "shares its address space with another process of the tree (vfork, or clone with CLONE_VM)".into();
        return Err(Error::Unsupported(vec![crate::Unsupported {
            pid,
            fd: None,
            what,
        }]));
    }
    let first_with_table = world.tables.insert(ids.files_id);

    let has_io_uring = layout.maps.iter().any(|one| one.name == io_urings::MAPPING);
    let mut inside = None;
    let mut leader = None;
    for &tid in &one.threads {
        let mut visit = Visit::enter(tid, &mem, room)?;
        let core = threads::dump(world, one, &mut visit)?;
        if has_io_uring {
            io_urings::check_thread(one.pid, &mut visit)?;
        }
        if tid == reader {
            inside = Some(ask(&mut visit, one, &layout.maps)?);
            for &copy in &one.leftovers {
                memory::collect(&mut visit, copy)?;
            }
        }
        visit.leave()?;
        if let Some(inside) = inside.as_mut().filter(|_| tid == reader) {
            let mut leaders = match ended_leader(one)? {
                Some(ended) => {
                    world.set.write_one(Kind::Core, Some(tid as u64), &core)?;
                    ended
                }
                None => core,
            };
            leaders.tc = Some(task(world, &mut inside.tc, &leaders, one)?);
            leaders.ids = Some(ids.clone());
            leaders.cryopod_xcomp_permissions = inside.xcomp_permissions;
            leader = Some(leaders);
        } else {
            world.set.write_one(Kind::Core, Some(tid as u64), &core)?;
        }
    }
    let (Some(inside), Some(leader)) = (inside, leader) else {
        return Err(Error::Ended {
            pid,
            during: "dumped",
        });
    };

    let descriptors = if first_with_table {
        world.files.table(reader, ids.files_id)?
    } else {
        proc::numbers(reader, "fd")?.len()
    };
    world.set.write_one(Kind::Ids, Some(pid as u64), &ids)?;
    fs(world, one, &status)?;
    layout.dump_files(&mut world.files, reader)?;
    let mm = mm(world, one, &inside)?;
    let summary = summary(one, &status, descriptors)?;
    world.memory.push(memory::Space {
        pid,
        reader,
        mem,
        room,
        layout,
        mm,
        leader,
        ranges: Vec::new(),
        kept: Vec::new(),
        summary: world.report.processes.len(),
    });
    world.report.processes.push(summary);
    Ok(())
}

fn find_room(pid: i32, mem: &Mem, maps: &[maps::Mapping]) -> Result<u64> {
    if let Some(vdso) = maps.iter().find(|mapping| mapping.is("[vdso]")) {
        let image = mem.read_vec(vdso.start, vdso.size_bytes() as usize)?;
        if let Some(room) = vdso::find_room(&image) {
            return Ok(vdso.start + room as u64);
        }
    }
    let what = "has no vdso, or one without room for a few instructions".into();
    Err(Error::Unsupported(vec![crate::Unsupported {
        pid,
        fd: None,
        what,
    }]))
}

/// Everything that only a call from inside tells.
fn ask(visit: &mut Visit<'_>, one: &FrozenProcess, maps: &[maps::Mapping]) -> Result<Inside> {
    let pid = one.reader();
    let brk = visit.must("brk", libc::SYS_brk, [0; 6])?;
    let mut prctl = |option: i32| visit.call(libc::SYS_prctl, [option as u64, 0, 0, 0, 0, 0]);
    let dumpable = prctl(libc::PR_GET_DUMPABLE)?.unwrap_or(1) as i32;
    let thp_disable = prctl(libc::PR_GET_THP_DISABLE)?.unwrap_or(0) as u32;
    let scratch = visit.scratch();
    visit.must(
        "prctl (child subreaper)",
        libc::SYS_prctl,
        [libc::PR_GET_CHILD_SUBREAPER as u64, scratch, 0, 0, 0, 0],
    )?;
    let subreaper = i32::from_ne_bytes(visit.read_scratch()?) != 0;
    let lock_future = locks_future(visit, pid)?;
    let mut tc = TaskCoreEntry {
        cryopod_lock_future: Some(lock_future),
        task_state: if one.stop_signal.is_some() {
            task_state::STOPPED
        } else {
            task_state::ALIVE
        },
        stop_signo: one.stop_signal.map(|signal| signal as u32),
        child_subreaper: Some(subreaper),
        timers: Some(timers::dump(visit, pid)?),
        ..TaskCoreEntry::default()
    };
    settings::process(visit, &mut tc)?;
    const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
    let asked = visit.call(
        libc::SYS_arch_prctl,
        [ARCH_GET_XCOMP_PERM, scratch, 0, 0, 0, 0],
    )?;
    let xcomp_permissions = match asked {
        Ok(_) => Some(u64::from_ne_bytes(visit.read_scratch()?)),
        // Before Linux 5.16 nothing had to be asked for.
        Err(_) => None,
    };
    Ok(Inside {
        tc,
        xcomp_permissions,
        brk,
        dumpable,
        thp_disable,
        aios: aio::dump(visit, maps)?,
    })
}

/// Whether new mappings are locked (mlockall(2), MCL_FUTURE), which the kernel does not tell: the end of the visit's
/// own scratch room, which nobody has touched, is in memory only then.
fn locks_future(visit: &Visit<'_>, pid: i32) -> Result<bool> {
    const PRESENT: u64 = 1 << 63;
    let Some(page) = visit.untouched_page() else {
        return Ok(false);
    };
    let path = proc::path(pid, "pagemap");
    let failed = |source| Error::Path {
        operation: "read",
        path: proc::path(pid, "pagemap"),
        source,
    };
    let pagemap = std::fs::File::open(&path).map_err(failed)?;
    let mut entry = [0; 8];
    pagemap
        .read_exact_at(&mut entry, page / PAGE * 8)
        .map_err(failed)?;
    Ok(u64::from_ne_bytes(entry) & PRESENT != 0)
}

/// The part of the leader's core that is the process's. Signal actions follow
/// ([`memory::Space`]).
fn task(
    world: &mut World<'_>,
    inside: &mut TaskCoreEntry,
    core: &CoreEntry,
    one: &FrozenProcess,
) -> Result<TaskCoreEntry> {
    let pid = one.reader();
    let thread = core.thread_core.as_ref();
    let personality = proc::read_text(pid, "personality")?;
    let oom = proc::read_text(pid, "oom_score_adj")?;
    let mut tc = std::mem::take(inside);
    tc.personality = u32::from_str_radix(personality.trim(), 16).unwrap_or(0);
    let stat = stat::read(pid)?;
    tc.flags = stat.flags;
    let first = stat::read(one.pid)?;
    tc.cryopod_exit_signal = exit_signal(&first);
    if one.leader_ended {
        tc.cryopod_leader_ended = Some(true);
        tc.exit_code = first.exit_code as u32;
    }
    let has_terminal = |pid: i32| stat::read(pid).is_ok_and(|stat| stat.tty_nr != 0);
    tc.cryopod_no_terminal = (stat.tty_nr == 0 && has_terminal(stat.session)).then_some(true);
    let filter = proc::read_text(pid, "coredump_filter").unwrap_or_default();
    tc.cryopod_coredump_filter = u32::from_str_radix(filter.trim(), 16).ok();
    tc.blk_sigset = thread.and_then(|thread| thread.blk_sigset).unwrap_or(0);
    tc.comm = comm(&Status::read(one.pid, one.pid)?);
    tc.rlimits = Some(TaskRlimitsEntry {
        rlimits: limits(pid)?,
    });
    tc.cg_set = Some(world.cgroups.of(pid, pid)?);
    tc.signals_s = Some(signals::queued(pid, true, one.stop_signal.is_some())?);
    tc.oom_score_adj = oom.trim().parse().ok();
    tc.loginuid = proc::read_text(pid, "loginuid")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    Ok(tc)
}

/// The command name; /proc/PID/status escapes it, so it is taken from comm where that is possible.
fn comm(status: &Status) -> Vec<u8> {
    status.text("Name").as_bytes().to_vec()
}

/// /proc/PID/limits in the order of RLIMIT_*: prlimit(2) on tasks of other users needs CAP_SYS_RESOURCE, this does not.
fn limits(pid: i32) -> Result<Vec<RlimitEntry>> {
    let text = proc::read_text(pid, "limits")?;
    parse_limits(&text).ok_or_else(|| proc::misread(pid, "limits", &text))
}

fn parse_limits(text: &str) -> Option<Vec<RlimitEntry>> {
    // By resource number, see asm-generic/resource.h.
    const NAMES: [&str; 16] = [
        "Max cpu time",
        "Max file size",
        "Max data size",
        "Max stack size",
        "Max core file size",
        "Max resident set",
        "Max processes",
        "Max open files",
        "Max locked memory",
        "Max address space",
        "Max file locks",
        "Max pending signals",
        "Max msgqueue size",
        "Max nice priority",
        "Max realtime priority",
        "Max realtime timeout",
    ];
    NAMES
        .iter()
        .map(|name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let mut values = line.split_ascii_whitespace().map(|word| match word {
                "unlimited" => Some(u64::MAX),
                number => number.parse().ok(),
            });
            Some(RlimitEntry {
                cur: values.next()??,
                max: values.next()??,
            })
        })
        .collect()
}

/// Root, working directory and umask: fs-PID.img.
fn fs(world: &mut World<'_>, one: &FrozenProcess, status: &Status) -> Result<()> {
    let (id, pid) = (Some(one.pid as u64), one.reader());
    let entry = FsEntry {
        cwd_id: world.files.path(pid, "cwd", 0)?,
        root_id: world.files.path(pid, "root", 0)?,
        umask: Some(status.octal("Umask")?),
    };
    Ok(world.set.write_one(Kind::Fs, id, &entry)?)
}

/// What mm-PID.img tells but mappings.
fn mm(world: &mut World<'_>, one: &FrozenProcess, inside: &Inside) -> Result<MmEntry> {
    let pid = one.reader();
    let stat = stat::read(pid)?;
    let auxv = proc::read(pid, "auxv")?;
    Ok(MmEntry {
        mm_start_code: stat.start_code,
        mm_end_code: stat.end_code,
        mm_start_data: stat.start_data,
        mm_end_data: stat.end_data,
        mm_start_stack: stat.start_stack,
        mm_start_brk: stat.start_brk,
        mm_brk: inside.brk,
        mm_arg_start: stat.arg_start,
        mm_arg_end: stat.arg_end,
        mm_env_start: stat.env_start,
        mm_env_end: stat.env_end,
        exe_file_id: world.files.path(pid, "exe", 0)?,
        mm_saved_auxv: auxiliary_vector(&auxv),
        vmas: Vec::new(),
        dumpable: Some(inside.dumpable),
        aios: inside.aios.clone(),
        thp_disabled: Some(inside.thp_disable != 0),
        cryopod_thp_disable: (inside.thp_disable > 1).then_some(inside.thp_disable),
    })
}

/// The pairs of the auxiliary vector (getauxval(3)) up to its end; /proc shows the kernel's whole buffer.
fn auxiliary_vector(raw: &[u8]) -> Vec<u64> {
    const AT_NULL: u64 = 0;
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte))
    };
    raw.chunks_exact(16)
        .map(|pair| [word(&pair[..8]), word(&pair[8..])])
        .take_while(|[kind, _]| *kind != AT_NULL)
        .flatten()
        .collect()
}

fn summary(one: &FrozenProcess, status: &Status, descriptors: usize) -> Result<ProcessSummary> {
    Ok(ProcessSummary {
        pid: one.pid,
        ppid: one.ppid,
        comm: status.text("Name").to_owned(),
        command_line: proc::command_line(one.reader())?,
        threads: one.threads.len(),
        descriptors,
        memory_bytes: 0,
        zombie: false,
    })
}

/// What is left of a leader that has ended while others live on: its name and whose it was. The process's part is added.
fn ended_leader(one: &FrozenProcess) -> Result<Option<CoreEntry>> {
    if !one.leader_ended {
        return Ok(None);
    }
    let status = Status::read(one.pid, one.pid)?;
    Ok(Some(CoreEntry {
        mtype: March::X86_64 as i32,
        thread_core: Some(ThreadCoreEntry {
            comm: Some(comm(&status)),
            creds: Some(credentials::of_status(&status)?),
            ..ThreadCoreEntry::default()
        }),
        ..CoreEntry::default()
    }))
}

/// What the parent gets instead of SIGCHLD, if so.
fn exit_signal(stat: &stat::Stat) -> Option<u32> {
    (stat.exit_signal != libc::SIGCHLD && stat.exit_signal >= 0).then_some(stat.exit_signal as u32)
}

/// A zombie has nothing left but its exit code.
fn zombie(world: &mut World<'_>, one: &FrozenProcess) -> Result<()> {
    let stat = stat::read(one.pid)?;
    let status = Status::read(one.pid, one.pid)?;
    let core = CoreEntry {
        mtype: March::X86_64 as i32,
        tc: Some(TaskCoreEntry {
            task_state: task_state::DEAD,
            exit_code: stat.exit_code as u32,
            comm: comm(&status),
            cryopod_exit_signal: exit_signal(&stat),
            ..TaskCoreEntry::default()
        }),
        // waitid(2) tells whose it was.
        thread_core: Some(ThreadCoreEntry {
            creds: Some(credentials::of_status(&status)?),
            ..ThreadCoreEntry::default()
        }),
        ..CoreEntry::default()
    };
    world
        .set
        .write_one(Kind::Core, Some(one.pid as u64), &core)?;
    world.report.processes.push(ProcessSummary {
        pid: one.pid,
        ppid: one.ppid,
        comm: status.text("Name").to_owned(),
        threads: 0,
        zombie: true,
        ..ProcessSummary::default()
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_found_by_name() {
        let own = std::fs::read_to_string("/proc/self/limits").unwrap();
        let limits = parse_limits(&own).unwrap();
        assert_eq!(limits.len(), 16);
        assert_eq!(
            limits[7].cur,
            cryopod_sys::process::rlimit(cryopod_sys::process::RLIMIT_NOFILE)
                .unwrap()
                .0
        );
    }

    #[test]
    fn a_missing_limit_is_an_error() {
        assert_eq!(parse_limits("Limit  Soft Limit  Hard Limit\n"), None);
    }
}
