//! The rest of every task, when all of them stand: from what harms nothing to what binds.

use cryopod_image::criu::{CoreEntry, MmEntry, RlimitEntry, TaskCoreEntry};
use cryopod_sys::Errno;
use cryopod_sys::cpu::component;
use cryopod_sys::memory::PAGE;
use cryopod_sys::ptrace;
use cryopod_sys::tty;
use cryopod_sys::wait::{self, Status};

use super::plan::{Body, State, Task};
use super::tree::{Tree, World};
use super::{RestoreOptions, guards, mappings, seccomp, settings, signals, threads, timers};
use crate::error::{Context, Error, Result};
use crate::proc;
use crate::proc::mem::Mem;
use crate::remote::puppet::{Puppet, SCRATCH_BYTES};

/// Finishes all tasks. Returns how many threads there are.
pub fn finish(world: &World<'_>, tree: &mut Tree, options: &RestoreOptions) -> Result<usize> {
    let living = tree.living(world.plan);
    groups(world, tree)?;
    foregrounds(world, tree)?;
    give_up_terminals(world, tree)?;
    tree.end_helpers()?;
    for &index in &living {
        place(world, tree, index)?;
    }
    for &index in &living {
        for thread in &world.plan.tasks[index].threads[1..] {
            tree.thread(index, thread.tid)?;
            world
                .cgroups
                .enter_thread(world.plan.tasks[index].pid, thread)?;
        }
    }
    world.files.open_late()?;
    for &index in &living {
        let (Some(body), made) = (&world.plan.tasks[index].body, tree.get(index)?) else {
            continue;
        };
        if owns_table(world, index) {
            let (puppet, mem) = (&made.puppet, &made.mem);
            world.files.hand_late(puppet, mem, body.ids.files_id)?;
            world.files.fill_epolls(puppet, mem, body.ids.files_id)?;
        }
        let files_id = body.ids.files_id;
        world
            .files
            .lock_descriptions(&made.puppet, &made.mem, files_id)?;
    }
    world.files.seal_memfds()?;
    world.files.arm(world.set)?;
    tree.end_zombies(world.plan)?;
    let mut count = 0;
    for &index in &living {
        count += world.plan.tasks[index].threads.len();
        bind(world, tree, index, options)?;
    }
    Ok(count)
}

/// Whether a task has a descriptor table of its own, or is the first of those that share one.
fn owns_table(world: &World<'_>, index: usize) -> bool {
    let files_id = |index: usize| Some(world.plan.tasks[index].body.as_ref()?.ids.files_id);
    let parent = world.plan.tasks[index].parent;
    parent.and_then(files_id) != files_id(index)
}

/// Process groups: leaders first, then members; a leader that is long dead is played by a helper for a moment.
fn groups(world: &World<'_>, tree: &mut Tree) -> Result<()> {
    let tasks = &world.plan.tasks;
    for (index, task) in tasks
        .iter()
        .enumerate()
        .filter(|(_, task)| task.pgid == task.pid && task.sid != task.pid)
    {
        tree.get(index)?.puppet.must(
            "setpgid",
            libc::SYS_setpgid,
            [0, task.pgid as u64, 0, 0, 0, 0],
        )?;
    }
    for (index, task) in tasks.iter().enumerate() {
        if task.pgid == task.pid || inherited_group(world, tree, index)? {
            continue;
        }
        let join = [0, task.pgid as u64, 0, 0, 0, 0];
        if tree
            .get(index)?
            .puppet
            .call(libc::SYS_setpgid, join)?
            .is_ok()
        {
            continue;
        }
        if world.plan.find(task.pgid).is_some() {
            let what = format!(
                "pid {}: its group {} is in another session",
                task.pid, task.pgid
            );
            return Err(Error::NotRestorable { what });
        }
        let helper = tree.group_helper(index, task.pgid)?;
        helper.must("setpgid", libc::SYS_setpgid, [0; 6])?;
        tree.get(index)?
            .puppet
            .must("setpgid", libc::SYS_setpgid, join)?;
        tree.end_helper(index, &helper)?;
    }
    Ok(())
}

/// The foreground process group of each terminal, set by the leader of its session. A group may have no members any more;
/// a helper plays one for a moment.
fn foregrounds(world: &World<'_>, tree: &mut Tree) -> Result<()> {
    for control in world.files.controls() {
        let tasks = &world.plan.tasks;
        let leads = |task: &Task| task.pid == control.session && task.sid == control.session;
        let Some(leader) = tasks.iter().position(leads) else {
            let what = format!(
                "the terminal of session {}, whose leader is not there",
                control.session
            );
            return Err(Error::NotRestorable { what });
        };
        if control.group <= 0 || tasks[leader].body.is_none() {
            continue;
        }
        let Some(terminal) = world.files.controlling_terminal(control.session)? else {
            continue;
        };
        let set = |tree: &Tree| {
            let made = tree.get(leader)?;
            let group = made.puppet.put(&made.mem, &control.group.to_ne_bytes())?;
            let args = [terminal as u64, tty::TIOCSPGRP, group, 0, 0, 0];
            made.puppet.call(libc::SYS_ioctl, args)
        };
        let failed = |source| Error::Remote {
            call: "ioctl (TIOCSPGRP)",
            pid: control.session,
            source,
        };
        match set(tree)? {
            Ok(_) => continue,
            Err(Errno::SRCH | Errno::PERM)
                if tasks.iter().all(|task| task.pgid != control.group) => {}
            Err(source) => return Err(failed(source)),
        }
        let helper = tree.group_helper(leader, control.group)?;
        helper.must("setpgid", libc::SYS_setpgid, [0; 6])?;
        set(tree)?.map_err(failed)?;
        tree.end_helper(leader, &helper)?;
    }
    Ok(())
}

/// Takes the terminal of their session from tasks that had none: they gave it up, or were born before there was one.
fn give_up_terminals(world: &World<'_>, tree: &Tree) -> Result<()> {
    for (index, task) in world.plan.tasks.iter().enumerate() {
        let gave_up = |tc: &TaskCoreEntry| tc.cryopod_no_terminal == Some(true);
        if !task.core().tc.as_ref().is_some_and(gave_up) {
            continue;
        }
        let Some(terminal) = world.files.controlling_terminal(task.sid)? else {
            continue;
        };
        let args = [terminal as u64, tty::TIOCNOTTY, 0, 0, 0, 0];
        match tree.get(index)?.puppet.call(libc::SYS_ioctl, args)? {
            Ok(_) => {}
            // Only a slave will do, and nobody has it open.
            Err(error) => {
                tracing::warn!(pid = task.pid, %error, "keeps the terminal of its session")
            }
        }
    }
    Ok(())
}

/// Whether a task is in the group that the root had from outside: it was born into what stands for it now.
fn inherited_group(world: &World<'_>, tree: &Tree, index: usize) -> Result<bool> {
    let task = &world.plan.tasks[index];
    let root = world.plan.root();
    let outside =
        root.pgid != root.pid && task.pgid == root.pgid && world.plan.find(task.pgid).is_none();
    if outside && proc::stat::read(task.pid)?.pgrp != proc::stat::read(root.pid)?.pgrp {
        let group = proc::stat::read(root.pid)?.pgrp;
        tree.get(index)?.puppet.must(
            "setpgid",
            libc::SYS_setpgid,
            [0, group as u64, 0, 0, 0, 0],
        )?;
    }
    Ok(outside)
}

/// Descriptors, directories, limits, the bounds of the address space.
fn place(world: &World<'_>, tree: &Tree, index: usize) -> Result<()> {
    let task = &world.plan.tasks[index];
    let (Some(body), made) = (&task.body, tree.get(index)?) else {
        return Ok(());
    };
    let (puppet, mem) = (&made.puppet, &made.mem);
    // By the path in /proc, which a task with a root of its own may not have any more.
    settings::login(puppet, mem, task.core())?;
    directories(world, body, puppet, mem)?;
    bounds(world, body, puppet, mem)?;
    mappings::late_advice(puppet, &body.mm)?;
    // The kernel notes for a whole mapping that there are guards in it: the mappings must be what they were.
    guards::restore(puppet, &body.guards)?;
    if let Some(tc) = &task.core().tc {
        settings::barriers(puppet, tc)?;
    }
    if owns_table(world, index) {
        world.files.install(puppet, body.ids.files_id)?;
    }
    Ok(())
}

/// fchdir(2), chroot(2), umask(2).
fn directories(world: &World<'_>, body: &Body, puppet: &Puppet, mem: &Mem) -> Result<()> {
    let go = |id: u32| {
        let fd = world.files.descriptor(id)?;
        puppet.must("fchdir", libc::SYS_fchdir, [fd as u64, 0, 0, 0, 0, 0])
    };
    if !world.files.is_root_directory(body.fs.root_id) {
        go(body.fs.root_id)?;
        let dot = puppet.put(mem, b".\0")?;
        puppet.must("chroot", libc::SYS_chroot, [dot, 0, 0, 0, 0, 0])?;
    }
    go(body.fs.cwd_id)?;
    if let Some(umask) = body.fs.umask {
        puppet.must("umask", libc::SYS_umask, [u64::from(umask), 0, 0, 0, 0, 0])?;
    }
    Ok(())
}

/// prctl(PR_SET_MM, PR_SET_MM_MAP): where code, data, heap, stack, arguments and environment are, auxv, exe.
fn bounds(world: &World<'_>, body: &Body, puppet: &Puppet, mem: &Mem) -> Result<()> {
    const PR_SET_MM_MAP: u64 = 14;
    let mm = &body.mm;
    let auxv: Vec<u8> = mm
        .mm_saved_auxv
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    if auxv.len() > PAGE as usize {
        return Err(Error::inconsistent(
            format!("mm-{}", puppet.pid),
            "auxv is too long",
        ));
    }
    let mut map = Vec::new();
    for word in [
        mm.mm_start_code,
        mm.mm_end_code,
        mm.mm_start_data,
        mm.mm_end_data,
        mm.mm_start_brk,
        mm.mm_brk,
        mm.mm_start_stack,
        mm.mm_arg_start,
        mm.mm_arg_end,
        mm.mm_env_start,
        mm.mm_env_end,
    ] {
        map.extend(word.to_ne_bytes());
    }
    const MAP_BYTES: u64 = 104;
    let auxv_at = if auxv.is_empty() {
        0
    } else {
        puppet.data() + MAP_BYTES
    };
    map.extend(auxv_at.to_ne_bytes());
    map.extend((auxv.len() as u32).to_ne_bytes());
    map.extend(exe(world, puppet.pid, mm)?.to_ne_bytes());
    map.extend(auxv);
    let at = puppet.put(mem, &map)?;
    let args = [libc::PR_SET_MM as u64, PR_SET_MM_MAP, at, MAP_BYTES, 0, 0];
    puppet.must("prctl (bounds of the address space)", libc::SYS_prctl, args)?;
    settings::huge_pages(puppet, mm)
}

/// The descriptor that becomes /proc/PID/exe, or -1 where that is the right file already (it is cryopod's own, and the
/// kernel refuses to change it while it is mapped).
fn exe(world: &World<'_>, pid: i32, mm: &MmEntry) -> Result<i32> {
    use std::os::fd::BorrowedFd;
    use std::os::unix::fs::MetadataExt;
    let path = proc::path(pid, "exe");
    let now = std::fs::metadata(&path).map_err(|source| Error::Path {
        operation: "read",
        path,
        source,
    })?;
    let fd: BorrowedFd<'_> = world.files.borrow(mm.exe_file_id)?;
    let wanted = rustix::fs::fstat(fd).host("look at the program")?;
    Ok(
        if (now.dev(), now.ino()) == (wanted.st_dev, wanted.st_ino) {
            -1
        } else {
            world.files.descriptor(mm.exe_file_id)?
        },
    )
}

/// Everything else, thread by thread; the last step takes the scratch area away and sets the registers.
fn bind(world: &World<'_>, tree: &Tree, index: usize, options: &RestoreOptions) -> Result<()> {
    let task = &world.plan.tasks[index];
    let (Some(body), Some(tc), made) = (&task.body, &task.core().tc, tree.get(index)?) else {
        return Ok(());
    };
    let (puppet, mem) = (&made.puppet, &made.mem);
    let all: Vec<&Puppet> = std::iter::once(puppet).chain(&made.threads).collect();

    // A leader that has ended is there only to do what the process needs.
    let ended = usize::from(task.leader_ended());
    let living = || all.iter().zip(&task.threads).skip(ended);

    permissions(puppet, task.core())?;
    leader(puppet, tc)?;
    signals::actions(puppet, mem, &tc.sigactions)?;
    if task.leader_ended() {
        threads::name(puppet, mem, &task.threads[0])?;
    }
    for (puppet, thread) in living() {
        threads::restore(world, puppet, mem, thread)?;
    }
    // Helpers and zombies may have left SIGCHLDs behind; whatever is not blocked is dropped with the next call.
    for puppet in &all {
        puppet.must("getpid", libc::SYS_getpid, [0; 6])?;
        ptrace::set_sigmask(puppet.tid, u64::MAX).task("block its signals", puppet.tid)?;
    }
    if let Some(queue) = &tc.signals_s {
        signals::queue(puppet, mem, queue, true)?;
    }
    for (puppet, thread) in living() {
        if let Some(queue) = thread
            .core
            .thread_core
            .as_ref()
            .and_then(|core| core.signals_p.as_ref())
        {
            signals::queue(puppet, mem, queue, false)?;
        }
    }
    if let Some(entry) = &tc.timers {
        timers::restore(puppet, mem, entry)?;
    }
    if owns_table(world, index) {
        world.files.close_high(puppet, world.base)?;
    }
    world.files.lock_ranges(puppet, mem, body.ids.files_id)?;
    world.files.notify(puppet, mem, body.ids.files_id)?;
    limits(puppet, mem, tc)?;
    let cores: Vec<_> = living()
        .filter_map(|(_, thread)| thread.core.thread_core.as_ref())
        .collect();
    let shared = match living().next() {
        Some((puppet, _)) => seccomp::share(world.set, puppet, mem, &cores)?,
        None => 0,
    };
    for (puppet, thread) in living() {
        threads::bind(world, puppet, mem, thread, shared)?;
    }
    if tc.cryopod_lock_future == Some(true) {
        puppet.must(
            "mlockall (future)",
            libc::SYS_mlockall,
            [libc::MCL_FUTURE as u64, 0, 0, 0, 0, 0],
        )?;
    }
    dumpable(puppet, &body.mm)?;
    settings::last(puppet, tc)?;
    let last = Puppet::new(puppet.pid, puppet.tid, mappings::find_gate(mem, &body.mm)?)?;
    last.must(
        "munmap (scratch)",
        libc::SYS_munmap,
        [puppet.scratch(), SCRATCH_BYTES, 0, 0, 0, 0],
    )?;
    if task.leader_ended() {
        threads::end(&last, &task.threads[0])?;
    }
    for (puppet, thread) in living() {
        threads::resume(puppet, thread)?;
    }
    if task.state == State::Stopped || options.leave_stopped {
        stop(task, &all[ended..])?;
    }
    for (puppet, thread) in living() {
        threads::unblock(puppet, thread)?;
    }
    Ok(())
}

/// Extended state that has to be asked for (AMX): before alternate stacks are set, which must have room for it.
fn permissions(puppet: &Puppet, core: &CoreEntry) -> Result<()> {
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    let wanted = core.cryopod_xcomp_permissions.unwrap_or(0) & 1 << component::TILEDATA;
    if wanted != 0 {
        let args = [
            ARCH_REQ_XCOMP_PERM,
            u64::from(component::TILEDATA),
            0,
            0,
            0,
            0,
        ];
        puppet.must(
            "arch_prctl (permission for AMX)",
            libc::SYS_arch_prctl,
            args,
        )?;
    }
    Ok(())
}

/// What the process has once.
fn leader(puppet: &Puppet, tc: &TaskCoreEntry) -> Result<()> {
    let pid = puppet.pid;
    puppet.must(
        "personality",
        libc::SYS_personality,
        [u64::from(tc.personality), 0, 0, 0, 0, 0],
    )?;
    let subreaper = u64::from(tc.child_subreaper.unwrap_or(false));
    puppet.must(
        "prctl (child subreaper)",
        libc::SYS_prctl,
        [libc::PR_SET_CHILD_SUBREAPER as u64, subreaper, 0, 0, 0, 0],
    )?;
    // Lowering it needs CAP_SYS_RESOURCE.
    setting(
        pid,
        "oom_score_adj",
        tc.oom_score_adj.map(|score| score.to_string()),
    );
    setting(
        pid,
        "coredump_filter",
        tc.cryopod_coredump_filter
            .map(|filter| format!("{filter:08x}")),
    );
    Ok(())
}

/// Writes a file below /proc/PID where it holds something else. A privilege that is missing is told, not fatal.
fn setting(pid: i32, file: &str, wanted: Option<String>) {
    let Some(wanted) = wanted else { return };
    if proc::read_text(pid, file).is_ok_and(|now| now.trim() == wanted) {
        return;
    }
    // The kernel reads numbers with their prefix here, and prints hexadecimal ones without.
    let text = if file == "coredump_filter" {
        format!("0x{wanted}")
    } else {
        wanted.clone()
    };
    if let Err(error) = std::fs::write(proc::path(pid, file), text) {
        tracing::warn!(pid, file, wanted, %error, "not restored");
    }
}

/// prlimit(2) by the process itself. A hard limit above cryopod's own needs CAP_SYS_RESOURCE.
fn limits(puppet: &Puppet, mem: &Mem, tc: &TaskCoreEntry) -> Result<()> {
    let wanted: &[RlimitEntry] = tc.rlimits.as_ref().map_or(&[], |limits| &limits.rlimits);
    for (resource, limit) in wanted.iter().enumerate() {
        let Ok((soft, hard)) = cryopod_sys::process::rlimit(resource as u32) else {
            continue;
        };
        let changed = resource as u32 == cryopod_sys::process::RLIMIT_NOFILE;
        if !changed && (soft, hard) == (limit.cur, limit.max) {
            continue;
        }
        let set = |cur: u64, max: u64| {
            let at = puppet.put(mem, &[cur.to_ne_bytes(), max.to_ne_bytes()].concat())?;
            puppet.call(libc::SYS_prlimit64, [0, resource as u64, at, 0, 0, 0])
        };
        match set(limit.cur, limit.max)? {
            Ok(_) => {}
            Err(Errno::PERM) => {
                tracing::warn!(
                    pid = puppet.pid,
                    resource,
                    wanted = limit.max,
                    have = hard,
                    "a hard limit is not raised: CAP_SYS_RESOURCE is missing"
                );
                set(limit.cur.min(hard), hard)?.map_err(|source| Error::Remote {
                    call: "prlimit",
                    pid: puppet.pid,
                    source,
                })?;
            }
            Err(source) => {
                return Err(Error::Remote {
                    call: "prlimit",
                    pid: puppet.pid,
                    source,
                });
            }
        }
    }
    Ok(())
}

/// After the credentials, which reset it. The value 2 cannot be set, only come by.
fn dumpable(puppet: &Puppet, mm: &MmEntry) -> Result<()> {
    if let Some(value @ 0..=1) = mm.dumpable {
        puppet.must(
            "prctl (dumpable)",
            libc::SYS_prctl,
            [libc::PR_SET_DUMPABLE as u64, value as u64, 0, 0, 0, 0],
        )?;
    }
    Ok(())
}

/// A task that was stopped stays stopped. The stop is taken while everything else is blocked, so that pending signals are
/// still pending behind it.
fn stop(task: &Task, all: &[&Puppet]) -> Result<()> {
    let first = all.first().map_or(task.pid, |first| first.tid);
    let signal = task
        .core()
        .tc
        .as_ref()
        .and_then(|tc| tc.stop_signo)
        .filter(|_| task.state == State::Stopped);
    let signal = signal.unwrap_or(libc::SIGSTOP as u32) as i32;
    ptrace::set_sigmask(first, !(1 << (signal - 1))).task("block its signals", first)?;
    cryopod_sys::process::kill_thread(task.pid, first, signal).task("stop it", first)?;
    // The leader takes the signal, which makes the whole group stop; the others then see that before they run.
    for puppet in all {
        ptrace::cont(puppet.tid, 0).task("continue it", puppet.tid)?;
        loop {
            match wait::wait(puppet.tid, false).task("wait for it", puppet.tid)? {
                Some((_, Status::Event(..))) => break,
                Some((_, Status::Stopped(taken))) if taken == signal => {
                    ptrace::cont(puppet.tid, signal).task("stop it", puppet.tid)?;
                }
                Some((_, Status::Exited(_) | Status::Signaled(..))) | None => {
                    return Err(Error::Ended {
                        pid: puppet.tid,
                        during: "stopped",
                    });
                }
                Some(_) => ptrace::cont(puppet.tid, 0).task("continue it", puppet.tid)?,
            }
        }
    }
    Ok(())
}
