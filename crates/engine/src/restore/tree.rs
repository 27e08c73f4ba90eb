//! Making the tasks: the root by cryopod, every other by its stopped parent.

use std::collections::HashMap;
use std::ops::Range;

use cryopod_image::SetReader;
use cryopod_sys::clone::{CloneArgs, spawn_sleeper};
use cryopod_sys::ptrace::{self, options};
use cryopod_sys::wait::{self, Status};
use cryopod_sys::{Errno, process, tty};

use super::cgroups::Cgroups;
use super::files::Files;
use super::fill::Crew;
use super::ipc::Ipc;
use super::lazy::{self, Later, PutOff};
use super::memory::Contents;
use super::plan::{Plan, State, Task};
use super::sessions::{Birth, birth, origin};
use super::shmem::Shared;
use super::{aio, credentials, fill, mappings, memory, signals, threads};
use crate::error::{Context, Error, Result};
use crate::proc::mem::Mem;
use crate::remote::puppet::{Puppet, SCRATCH_BYTES};

/// What all steps of a restore need.
pub struct World<'a> {
    /// The images.
    pub set: &'a SetReader,
    /// What is to be made.
    pub plan: &'a Plan,
    /// Opened files.
    pub files: &'a Files,
    /// Shared memory.
    pub shmem: &'a Shared,
    /// Control groups.
    pub cgroups: &'a Cgroups,
    /// System V IPC.
    pub ipc: &'a Ipc,
    /// From here on, descriptors are cryopod's own and not the program's.
    pub base: i32,
    /// Whether memory may be filled later.
    pub lazy: bool,
    /// Who fills memory.
    pub crew: Crew<'a>,
}

/// A task that was made.
pub struct Made {
    /// Its leader.
    pub puppet: Puppet,
    /// Its other threads.
    pub threads: Vec<Puppet>,
    /// Its memory.
    pub mem: Mem,
    /// The addresses that have stored pages.
    present: Vec<Range<u64>>,
    /// What of these is still to be put there, when everybody is born.
    contents: Option<Contents>,
}

/// The tasks made so far. Dropping it ends them all.
#[derive(Default)]
pub struct Tree {
    /// By place in the plan; zombies and helpers of the second life are here too, until they end.
    made: HashMap<usize, Made>,
    /// Session leaders that are long dead, by pid, with the index of their parent.
    helpers: HashMap<i32, (usize, Puppet)>,
    /// Everything to be killed on failure, in order of creation.
    pids: Vec<i32>,
    /// What is stored of those that are not made yet.
    maps: memory::Maps,
    /// By place in the plan: who is born with the memory of which task, and whose memory each is born with.
    heirs: Vec<Vec<usize>>,
    origins: Vec<Option<usize>>,
    /// What is to be filled when all else is done.
    later: Vec<Later>,
    pages_bytes: u64,
}

impl Tree {
    /// Makes all tasks with their memory. They stand still.
    pub fn make(world: &World<'_>) -> Result<Self> {
        let bodies = || {
            world
                .plan
                .tasks
                .iter()
                .filter_map(|task| task.body.as_ref())
        };
        let scratch = mappings::find_scratch(bodies().map(|body| &body.mm))?;
        let living = world.plan.tasks.iter().filter(|task| task.body.is_some());
        let mut tree = Self::default();
        tree.maps = memory::Maps::read(world.set, living.map(|task| task.pid))?;
        let total_bytes = tree.maps.pages_bytes();
        world
            .crew
            .progress
            .begin("restore memory", Some(total_bytes));
        tree.find_heirs(world.plan);
        let root = tree.root(world.plan.root(), scratch)?;
        tree.furnish(world, 0, root)?;
        tree.fill(world)?;
        world.crew.progress.end();
        Ok(tree)
    }

    fn find_heirs(&mut self, plan: &Plan) {
        self.heirs = vec![Vec::new(); plan.tasks.len()];
        self.origins = vec![None; plan.tasks.len()];
        for (child, task) in plan.tasks.iter().enumerate() {
            if let Some(parent) = task.parent {
                let origin = origin(plan, parent, child);
                self.heirs[origin].push(child);
                self.origins[child] = Some(origin);
            }
        }
    }

    /// Fills all address spaces, as far as that had not to be done before.
    fn fill(&mut self, world: &World<'_>) -> Result<()> {
        let contents: Vec<(Contents, &Mem)> = (self.made.values_mut())
            .filter_map(|made| Some((made.contents.take()?, &made.mem)))
            .collect();
        let jobs: Vec<fill::Job<'_>> = (contents.iter())
            .filter_map(|(contents, mem)| contents.job(mem))
            .collect();
        self.pages_bytes += fill::fill(&jobs, world.crew)?;
        Ok(())
    }

    /// Bytes of pages written to private memory.
    pub fn pages_bytes(&self) -> u64 {
        self.pages_bytes
    }

    /// What is still to be filled.
    pub fn take_later(&mut self) -> Vec<Later> {
        std::mem::take(&mut self.later)
    }

    /// The pids of all living tasks.
    pub fn pids_of(&self, plan: &Plan) -> Vec<i32> {
        let living = self.living(plan).into_iter();
        living.map(|index| plan.tasks[index].pid).collect()
    }

    /// A task that was made.
    pub fn get(&self, index: usize) -> Result<&Made> {
        self.made.get(&index).ok_or(Error::Ended {
            pid: 0,
            during: "restored",
        })
    }

    /// A task that was made.
    pub fn get_mut(&mut self, index: usize) -> Result<&mut Made> {
        self.made.get_mut(&index).ok_or(Error::Ended {
            pid: 0,
            during: "restored",
        })
    }

    /// All living tasks with their place in the plan, parents first.
    pub fn living(&self, plan: &Plan) -> Vec<usize> {
        (0..plan.tasks.len())
            .filter(|index| plan.tasks[*index].body.is_some())
            .collect()
    }

    /// Makes the root: a copy of cryopod that is emptied.
    fn root(&mut self, task: &Task, scratch: u64) -> Result<Puppet> {
        let pid = task.pid;
        spawn_sleeper(pid).map_err(|source| match source {
            Errno::EXIST => Error::PidTaken {
                pid,
                holder: super::holder(pid),
            },
            source => Error::Task {
                operation: "make it with its pid (clone3, set_tid)",
                pid,
                source,
            },
        })?;
        self.pids.push(pid);
        let wanted =
            options::SYSGOOD | options::FORK | options::VFORK | options::CLONE | options::EXITKILL;
        match ptrace::seize(pid, wanted | options::SUSPEND_SECCOMP) {
            Err(Errno::PERM | Errno::INVAL) => ptrace::seize(pid, wanted),
            other => other,
        }
        .task("trace it", pid)?;
        ptrace::interrupt(pid).task("interrupt it", pid)?;
        loop {
            match wait::wait(pid, false).task("wait for it", pid)? {
                Some((_, Status::Event(..))) => break,
                Some((_, Status::Exited(_) | Status::Signaled(..))) | None => {
                    return Err(Error::Ended {
                        pid,
                        during: "made",
                    });
                }
                Some(_) => ptrace::cont(pid, 0).task("continue it", pid)?,
            }
        }
        let mem = Mem::open(pid)?;
        let mut puppet = Puppet::new(pid, pid, mappings::first_gate(pid, &mem)?)?;
        ptrace::set_sigmask(pid, 0).task("set its signal mask", pid)?;
        self.unregister_rseq(&puppet)?;
        // The first page runs, the others are written by the kernel.
        let fixed = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
        let pages = [
            (scratch, 0x1000, libc::PROT_READ | libc::PROT_EXEC),
            (
                scratch + 0x1000,
                SCRATCH_BYTES - 0x1000,
                libc::PROT_READ | libc::PROT_WRITE,
            ),
        ];
        for (start, len, prot) in pages {
            puppet.must(
                "mmap (scratch)",
                libc::SYS_mmap,
                [start, len, prot as u64, fixed, u64::MAX, 0],
            )?;
        }
        // syscall; int3
        mem.write(scratch, &[0x0f, 0x05, 0xcc])?;
        puppet.settle(scratch);
        signals::reset(&puppet, &mem)?;
        Ok(puppet)
    }

    /// Before anything is unmapped: the kernel writes to the area at the next preemption.
    fn unregister_rseq(&self, puppet: &Puppet) -> Result<()> {
        const RSEQ_FLAG_UNREGISTER: u64 = 1;
        let area = ptrace::rseq_configuration(puppet.tid)
            .task("read its rseq registration", puppet.tid)?;
        if let Some(area) = area {
            let (address, size) = (area.rseq_abi_pointer, u64::from(area.rseq_abi_size));
            let args = [
                address,
                size,
                RSEQ_FLAG_UNREGISTER,
                u64::from(area.signature),
                0,
                0,
            ];
            puppet.must("rseq (unregister)", libc::SYS_rseq, args)?;
        }
        Ok(())
    }

    /// Gives a task its memory, then its children and its session.
    fn furnish(&mut self, world: &World<'_>, index: usize, puppet: Puppet) -> Result<()> {
        let task = &world.plan.tasks[index];
        let mem = Mem::open(task.pid)?;
        let Some(body) = &task.body else {
            // A zombie needs no memory of its own, only its name.
            threads::name(&puppet, &mem, &task.threads[0])?;
            self.found_session(world, task, &puppet)?;
            self.made.insert(
                index,
                Made {
                    puppet,
                    threads: Vec::new(),
                    mem,
                    present: Vec::new(),
                    contents: None,
                },
            );
            return Ok(());
        };
        world.cgroups.enter(task.pid, &task.threads[0])?;
        let mm_of = |index: usize| Some(&world.plan.tasks[index].body.as_ref()?.mm);
        let origin = self.origins[index];
        let inherited = mappings::inherited(&body.mm, origin.and_then(mm_of), world.files);
        let heirs = self.heirs[index].iter().filter_map(|&heir| mm_of(heir));
        let handed_on = mappings::handed_on(&body.mm, heirs, world.files);
        mappings::clear(&puppet, &body.mm, &inherited)?;
        mappings::make(&puppet, &mem, &body.mm, &inherited, world)?;
        let map = self.maps.take(task.pid)?;
        let mut contents = Contents::new(world.set, task.pid, &map, &body.mm, &inherited)?;
        drop(map);
        let present = contents.present();
        let put_off = match world.lazy {
            true => PutOff::choose(task, &inherited, &handed_on, &mut contents),
            false => None,
        };
        let rest = match put_off {
            Some(_) => Vec::new(),
            None => contents.put_off_own(&body.mm, &handed_on),
        };
        // A huge page would be whole as soon as one of its pages is written, and what is to follow could not any more.
        if put_off.is_some() {
            lazy::forbid_huge_pages(&puppet, true)?;
        }
        let job = contents.job(&mem);
        self.pages_bytes += fill::fill(job.as_slice(), world.crew)?;
        if put_off.is_some() {
            lazy::forbid_huge_pages(&puppet, false)?;
        }
        mappings::close(&puppet, &body.mm)?;
        aio::restore(&puppet, &mem, &body.mm, &contents)?;
        if let Some(origin) = origin.and_then(|origin| self.made.get(&origin)) {
            memory::drop_inherited(&puppet, &body.mm, &inherited, &present, &origin.present)?;
        }
        let contents = match put_off {
            Some(put_off) => {
                let later = (contents.into_pages())
                    .map(|pages| Later::prepare(&puppet, put_off, pages))
                    .transpose()?;
                self.later.extend(later);
                None
            }
            None => Some(contents.with_segments(rest)),
        };
        self.made.insert(
            index,
            Made {
                puppet,
                threads: Vec::new(),
                mem,
                present,
                contents,
            },
        );
        self.children(world, index, |how| how == Birth::BeforeSetsid)?;
        self.found_session(world, task, &self.get(index)?.puppet)?;
        self.children(world, index, |how| how == Birth::AfterSetsid)?;
        self.children(world, index, |how| matches!(how, Birth::ByLeader(_)))
    }

    /// setsid(2), and the controlling terminal at once: children have it only if they are born later (ioctl_tty(2)).
    fn found_session(&self, world: &World<'_>, task: &Task, puppet: &Puppet) -> Result<()> {
        if task.sid != task.pid {
            return Ok(());
        }
        puppet.must("setsid", libc::SYS_setsid, [0; 6])?;
        if task.body.is_some()
            && let Some(terminal) = world.files.controlling_terminal(task.sid)?
        {
            let args = [terminal as u64, tty::TIOCSCTTY, 0, 0, 0, 0];
            puppet.must("ioctl (TIOCSCTTY)", libc::SYS_ioctl, args)?;
        }
        Ok(())
    }

    /// Makes the children of a task that are born in the given way.
    fn children(
        &mut self,
        world: &World<'_>,
        index: usize,
        which: impl Fn(Birth) -> bool,
    ) -> Result<()> {
        for &child in &world.plan.tasks[index].children {
            let how = birth(world.plan, index, child);
            if !which(how) {
                continue;
            }
            let task = &world.plan.tasks[child];
            let puppet = match how {
                Birth::ByLeader(sid) => self.born_to_leader(world, index, sid, task)?,
                _ => {
                    let exit_signal = task
                        .core()
                        .tc
                        .as_ref()
                        .and_then(|tc| tc.cryopod_exit_signal);
                    let exit_signal = exit_signal.unwrap_or(libc::SIGCHLD as u32);
                    let parent = self.get(index)?.puppet.clone();
                    self.fork(
                        parent,
                        sharing(world.plan, index, task),
                        exit_signal,
                        task.pid,
                    )?
                }
            };
            self.furnish(world, child, puppet)?;
        }
        Ok(())
    }

    /// A sibling of its session's leader.
    fn born_to_leader(
        &mut self,
        world: &World<'_>,
        parent: usize,
        sid: i32,
        task: &Task,
    ) -> Result<Puppet> {
        let living = world.plan.tasks.iter().position(|task| task.pid == sid);
        if living.is_none() && !self.helpers.contains_key(&sid) {
            let helper = self.fork(
                self.get(parent)?.puppet.clone(),
                0,
                libc::SIGCHLD as u32,
                sid,
            )?;
            helper.must("setsid", libc::SYS_setsid, [0; 6])?;
            self.helpers.insert(sid, (parent, helper));
        }
        let leader = match living {
            Some(index) => self.get(index)?.puppet.clone(),
            None => match self.helpers.get(&sid) {
                Some((of, helper)) if *of == parent => helper.clone(),
                _ => {
                    let what = format!(
                        "pid {}: its session {sid} was led by a process with another parent",
                        task.pid
                    );
                    return Err(Error::NotRestorable { what });
                }
            },
        };
        self.fork(leader, libc::CLONE_PARENT as u64, 0, task.pid)
    }

    /// clone3 in a stopped task: a process.
    fn fork(&mut self, by: Puppet, flags: u64, exit_signal: u32, pid: i32) -> Result<Puppet> {
        let args = CloneArgs {
            flags,
            exit_signal: exit_signal.into(),
            ..CloneArgs::default()
        };
        let child = by.fork(&Mem::open(by.pid)?, &args, pid)?;
        self.pids.push(child);
        let mut puppet = Puppet::new(child, child, by.scratch())?;
        puppet.settle(by.scratch());
        Ok(puppet)
    }

    /// Makes one more thread in a task.
    pub fn thread(&mut self, index: usize, tid: i32) -> Result<()> {
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let made = self.get_mut(index)?;
        let args = CloneArgs {
            flags: flags as u64,
            ..CloneArgs::default()
        };
        let tid = made.puppet.fork(&made.mem, &args, tid)?;
        let mut puppet = Puppet::new(made.puppet.pid, tid, made.puppet.scratch())?;
        puppet.settle(made.puppet.scratch());
        made.threads.push(puppet);
        Ok(())
    }

    /// A process that only lends its pid to a group for a moment. The caller ends it with [`Tree::end_helper`].
    pub fn group_helper(&mut self, index: usize, pid: i32) -> Result<Puppet> {
        self.fork(
            self.get(index)?.puppet.clone(),
            0,
            libc::SIGCHLD as u32,
            pid,
        )
    }

    /// Ends a helper and has its parent collect it.
    pub fn end_helper(&mut self, parent: usize, helper: &Puppet) -> Result<()> {
        self.pids.retain(|&pid| pid != helper.pid);
        exit(helper, 0)?;
        let parent = &self.get(parent)?.puppet;
        parent
            .must(
                "wait4",
                libc::SYS_wait4,
                [helper.pid as u64, 0, libc::__WALL as u64, 0, 0, 0],
            )
            .map(drop)
    }

    /// Ends the dead leaders' stand-ins.
    pub fn end_helpers(&mut self) -> Result<()> {
        for (_, (parent, helper)) in std::mem::take(&mut self.helpers) {
            self.end_helper(parent, &helper)?;
        }
        Ok(())
    }

    /// Lets every zombie come to its end.
    pub fn end_zombies(&mut self, plan: &Plan) -> Result<()> {
        for (index, task) in plan.tasks.iter().enumerate() {
            if let State::Zombie(status) = task.state
                && let Some(made) = self.made.remove(&index)
            {
                self.pids.retain(|&pid| pid != task.pid);
                let creds = task
                    .core()
                    .thread_core
                    .as_ref()
                    .and_then(|core| core.creds.as_ref());
                if let Some(creds) = creds {
                    credentials::restore_ids(&made.puppet, creds)?;
                }
                exit(&made.puppet, status)?;
            }
        }
        Ok(())
    }

    /// Lets all threads go, children first so that no parent runs while its child cannot answer yet.
    pub fn let_go(mut self) -> Result<()> {
        let mut made: Vec<(usize, Made)> = self.made.drain().collect();
        made.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        // From here on every thread may live without cryopod: if it dies now, it takes nobody along.
        let threads = || {
            made.iter()
                .flat_map(|(_, one)| one.threads.iter().chain(std::iter::once(&one.puppet)))
        };
        for thread in threads() {
            ptrace::set_options(thread.tid, 0).task("let it live", thread.tid)?;
        }
        for thread in threads() {
            ptrace::detach(thread.tid).task("let it go", thread.tid)?;
        }
        self.pids.clear();
        Ok(())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for &pid in self.pids.iter().rev() {
            let _gone_is_fine = process::kill(pid, libc::SIGKILL);
        }
        // Threads of a task end with it, but each end has to be collected, and the leader's comes last.
        let mut tids: Vec<i32> = self
            .made
            .values()
            .flat_map(|made| made.threads.iter().map(|thread| thread.tid))
            .collect();
        tids.extend(self.pids.iter().rev());
        for tid in tids {
            while let Ok(Some((_, status))) = wait::wait(tid, false) {
                if matches!(status, Status::Exited(_) | Status::Signaled(..)) {
                    break;
                }
            }
        }
    }
}

/// What a child shares with its parent by birth.
fn sharing(plan: &Plan, parent: usize, child: &Task) -> u64 {
    let (Some(parent), Some(child)) = (&plan.tasks[parent].body, &child.body) else {
        return 0;
    };
    let mut flags = 0;
    if parent.ids.files_id == child.ids.files_id {
        flags |= libc::CLONE_FILES;
    }
    if parent.ids.fs_id == child.ids.fs_id {
        flags |= libc::CLONE_FS;
    }
    flags as u64
}

/// Ends a task with a wait status.
fn exit(puppet: &Puppet, status: u32) -> Result<()> {
    let pid = puppet.pid;
    let signal = (status & 0x7f) as i32;
    if signal == 0 {
        let code = u64::from(status >> 8 & 0xff);
        match puppet.call(libc::SYS_exit_group, [code, 0, 0, 0, 0, 0]) {
            Err(Error::Ended { .. }) => return Ok(()),
            other => other?.map(drop).map_err(|source| Error::Remote {
                call: "exit_group",
                pid,
                source,
            })?,
        }
    }
    if signal == libc::SIGKILL {
        process::kill(pid, signal).task("end it", pid)?;
    } else {
        ptrace::cont(pid, signal).task("end it", pid)?;
    }
    loop {
        match wait::wait(pid, false).task("wait for its end", pid)? {
            Some((_, Status::Exited(_) | Status::Signaled(..))) | None => return Ok(()),
            Some((_, Status::Stopped(signal))) => ptrace::cont(pid, signal).task("end it", pid)?,
            Some(_) => ptrace::cont(pid, 0).task("end it", pid)?,
        }
    }
}
