//! What is to be made: every image read and checked against the others before the first task exists.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use cryopod_image::criu::{
    CoreEntry, FsEntry, InventoryEntry, March, MmEntry, PstreeEntry, TaskKobjIdsEntry, task_state,
};
use cryopod_image::{Kind, SetReader};

use super::{guards, holder};
use crate::error::{Error, Result};
use crate::proc::stat;

/// One thread to be made.
#[derive(Clone, Debug)]
pub struct Thread {
    /// Its tid.
    pub tid: i32,
    /// Its core image.
    pub core: CoreEntry,
}

/// What becomes of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Alive,
    /// It is stopped by job control.
    Stopped,
    /// It has ended with this wait status.
    Zombie(u32),
}

/// The parts of a task that is not a zombie.
#[derive(Clone, Debug)]
pub struct Body {
    /// Its address space.
    pub mm: MmEntry,
    /// Its guards.
    pub guards: Vec<Range<u64>>,
    /// What it shares.
    pub ids: TaskKobjIdsEntry,
    /// Root, working directory, umask.
    pub fs: FsEntry,
}

/// One process to be made.
#[derive(Clone, Debug)]
pub struct Task {
    /// Pid.
    pub pid: i32,
    /// Process group.
    pub pgid: i32,
    /// Session.
    pub sid: i32,
    /// Index of the parent; none for the root.
    pub parent: Option<usize>,
    /// Indices of the children.
    pub children: Vec<usize>,
    /// Threads, the leader first.
    pub threads: Vec<Thread>,
    /// What becomes of it.
    pub state: State,
    /// All but a zombie have one.
    pub body: Option<Body>,
}

impl Task {
    /// Whether its first thread ends as soon as the others run.
    pub fn leader_ended(&self) -> bool {
        ended(&self.threads)
    }

    /// The leader's core.
    pub fn core(&self) -> &CoreEntry {
        &self.threads[0].core
    }
}

/// A whole tree to be made; the first task is the root, parents stand before their children.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All processes.
    pub tasks: Vec<Task>,
}

impl Plan {
    /// Reads it from a set.
    pub fn read(set: &SetReader) -> Result<Self> {
        let inventory: InventoryEntry = set.read_one(Kind::Inventory, None)?;
        if !(1..=2).contains(&inventory.img_version) {
            return Err(Error::NotRestorable {
                what: format!("images of version {}", inventory.img_version),
            });
        }
        check_line(set, &inventory)?;
        let entries: Vec<PstreeEntry> = set.read_all(Kind::Pstree, None)?;
        if entries.is_empty() {
            return Err(Error::inconsistent("pstree", "it has no process"));
        }
        let mut indices = HashMap::new();
        let mut tids = HashSet::new();
        let mut tasks: Vec<Task> = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let parent = match (index, entry.ppid) {
                (0, _) => None,
                (_, ppid) => Some(*indices.get(&ppid).ok_or_else(|| {
                    Error::inconsistent(
                        "pstree",
                        format!("parent {ppid} of pid {} does not come before it", entry.pid),
                    )
                })?),
            };
            let task = task(set, entry, parent)?;
            for thread in &task.threads {
                if !tids.insert(thread.tid) {
                    return Err(Error::inconsistent(
                        "pstree",
                        format!("tid {} appears twice", thread.tid),
                    ));
                }
            }
            if let Some(parent) = parent {
                if tasks[parent].body.is_none() {
                    return Err(Error::inconsistent(
                        "pstree",
                        format!("pid {} is the child of a zombie", task.pid),
                    ));
                }
                tasks[parent].children.push(index);
            }
            indices.insert(entry.pid, index);
            tasks.push(task);
        }
        Ok(Self { tasks })
    }

    /// The root.
    pub fn root(&self) -> &Task {
        &self.tasks[0]
    }

    /// The task of a pid.
    pub fn find(&self, pid: i32) -> Option<&Task> {
        self.tasks.iter().find(|task| task.pid == pid)
    }

    /// All distinct descriptor tables.
    pub fn tables(&self) -> Vec<u32> {
        let mut tables: Vec<u32> = self
            .tasks
            .iter()
            .filter_map(|task| task.body.as_ref())
            .map(|body| body.ids.files_id)
            .collect();
        tables.sort_unstable();
        tables.dedup();
        tables
    }

    /// All processes with the descriptor tables they use.
    pub fn holders(&self) -> Vec<(i32, u32)> {
        let of = |task: &Task| Some((task.pid, task.body.as_ref()?.ids.files_id));
        self.tasks.iter().filter_map(of).collect()
    }

    /// Refuses to start when somebody else has a pid that the tree needs.
    pub fn check_pids_are_free(&self) -> Result<()> {
        let deadline = Instant::now() + REAP_LIMIT;
        for thread in self.tasks.iter().flat_map(|task| &task.threads) {
            while Path::new(&format!("/proc/{}", thread.tid)).exists() {
                let ended = match stat::read(thread.tid) {
                    Ok(stat) => matches!(stat.state, 'Z' | 'X'),
                    Err(_) => true,
                };
                if !ended || Instant::now() > deadline {
                    return Err(Error::PidTaken {
                        pid: thread.tid,
                        holder: holder(thread.tid),
                    });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }
}

/// Checks that every set that this one builds on is the one that it was made with, and not another of the same name.
fn check_line(set: &SetReader, inventory: &InventoryEntry) -> Result<()> {
    let (mut set, mut expected) = (set, inventory.cryopod_parent_id.clone());
    while let Some(id) = expected {
        let Some(parent) = set.parent()? else {
            return Err(Error::inconsistent(
                "inventory",
                "the image set that it builds on is missing",
            ));
        };
        let inventory: InventoryEntry = parent.read_one(Kind::Inventory, None)?;
        if inventory.cryopod_id.as_ref() != Some(&id) {
            return Err(Error::inconsistent(
                "inventory",
                format!(
                    "{} is not the image set that it was made with",
                    parent.path().display()
                ),
            ));
        }
        (set, expected) = (parent, inventory.cryopod_parent_id);
    }
    Ok(())
}

/// How long a parent may take to collect a process that has ended, before its pid counts as taken.
const REAP_LIMIT: Duration = Duration::from_secs(2);

fn task(set: &SetReader, entry: &PstreeEntry, parent: Option<usize>) -> Result<Task> {
    let pid = entry.pid as i32;
    if pid <= 0 {
        return Err(Error::inconsistent(
            "pstree",
            format!("impossible pid {}", entry.pid),
        ));
    }
    let leader = thread(set, entry.pid)?;
    let state = state(&leader)?;
    let mut threads = vec![leader];
    // A zombie has no threads; what criu lists for one is no tid.
    if !matches!(state, State::Zombie(_)) {
        if entry.threads.first() != Some(&entry.pid) {
            return Err(Error::inconsistent(
                "pstree",
                format!("pid {}: its first thread must be itself", entry.pid),
            ));
        }
        for &tid in &entry.threads[1..] {
            threads.push(thread(set, tid)?);
        }
    }
    let body = match state {
        State::Zombie(_) => None,
        _ => Some(body(set, pid, &threads)?),
    };
    let (pgid, sid) = (entry.pgid as i32, entry.sid as i32);
    Ok(Task {
        pid,
        pgid,
        sid,
        parent,
        children: Vec::new(),
        threads,
        state,
        body,
    })
}

fn thread(set: &SetReader, tid: u32) -> Result<Thread> {
    let core: CoreEntry = set.read_one(Kind::Core, Some(u64::from(tid)))?;
    if core.mtype != March::X86_64 as i32 {
        return Err(Error::NotRestorable {
            what: format!("tid {tid}: made on another architecture"),
        });
    }
    let tid = tid as i32;
    Ok(Thread { tid, core })
}

fn state(leader: &Thread) -> Result<State> {
    let inconsistent = |what: String| Error::inconsistent(format!("core-{}", leader.tid), what);
    let tc = leader
        .core
        .tc
        .as_ref()
        .ok_or_else(|| inconsistent("the leader's core lacks the process's part".into()))?;
    match tc.task_state {
        task_state::ALIVE => Ok(State::Alive),
        task_state::STOPPED => Ok(State::Stopped),
        task_state::DEAD | task_state::ZOMBIE => Ok(State::Zombie(tc.exit_code)),
        other => Err(inconsistent(format!("unknown task state {other}"))),
    }
}

/// Whether a leader has ended while others live on.
fn ended(threads: &[Thread]) -> bool {
    let tc = threads.first().and_then(|leader| leader.core.tc.as_ref());
    threads.len() > 1 && tc.is_some_and(|tc| tc.cryopod_leader_ended == Some(true))
}

fn body(set: &SetReader, pid: i32, threads: &[Thread]) -> Result<Body> {
    for thread in &threads[usize::from(ended(threads))..] {
        let image = || format!("core-{}", thread.tid);
        if thread.core.thread_info.is_none() || thread.core.thread_core.is_none() {
            return Err(Error::inconsistent(
                image(),
                "registers or the thread's part are missing",
            ));
        }
        // 32-bit code cannot be resumed by this engine.
        if thread
            .core
            .thread_info
            .as_ref()
            .is_some_and(|info| info.gpregs.mode == Some(2))
        {
            return Err(Error::NotRestorable {
                what: format!("tid {}: runs 32-bit code", thread.tid),
            });
        }
    }
    let id = Some(pid as u64);
    let ids = match threads[0].core.ids.clone() {
        Some(ids) => ids,
        None => set.read_one(Kind::Ids, id)?,
    };
    let mut mm: MmEntry = set.read_one(Kind::Mm, id)?;
    let guards = guards::take(pid, &mut mm)?;
    check_mappings(pid, &mm)?;
    Ok(Body {
        mm,
        guards,
        ids,
        fs: set.read_one(Kind::Fs, id)?,
    })
}

/// Ascending, page-aligned, below the end of user space, not overlapping.
fn check_mappings(pid: i32, mm: &MmEntry) -> Result<()> {
    let mut end = 0;
    for vma in &mm.vmas {
        let aligned = (vma.start | vma.end) % cryopod_sys::memory::PAGE == 0;
        let vsyscall = vma.status & cryopod_image::criu::vma_status::AREA_VSYSCALL != 0;
        if !aligned
            || vma.start < end
            || vma.start >= vma.end
            || (vma.end > super::mappings::USER_END && !vsyscall)
        {
            let what = format!("bad mapping {:#x}-{:#x}", vma.start, vma.end);
            return Err(Error::inconsistent(format!("mm-{pid}"), what));
        }
        end = vma.end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cryopod_image::SetWriter;
    use cryopod_image::criu::TaskCoreEntry;

    use super::*;

    fn planned(entry: &PstreeEntry, task_state: u32) -> Result<Task> {
        let images = tempfile::tempdir().unwrap();
        let set = SetWriter::create(images.path()).unwrap();
        let core = CoreEntry {
            mtype: March::X86_64 as i32,
            tc: Some(TaskCoreEntry {
                task_state,
                exit_code: 0x200,
                ..TaskCoreEntry::default()
            }),
            ..CoreEntry::default()
        };
        set.write_one(Kind::Core, Some(u64::from(entry.pid)), &core)
            .unwrap();
        set.finish().unwrap();
        task(&SetReader::open(images.path(), None).unwrap(), entry, None)
    }

    #[test]
    fn what_criu_lists_as_the_thread_of_a_zombie_is_not_looked_at() {
        for threads in [vec![], vec![7], vec![0x5a06_e5e0]] {
            let entry = PstreeEntry {
                pid: 7,
                threads,
                ..PstreeEntry::default()
            };
            let task = planned(&entry, task_state::DEAD).unwrap();
            assert_eq!(task.state, State::Zombie(0x200));
            assert_eq!(task.threads.len(), 1);
            assert_eq!(task.threads[0].tid, 7);
        }
    }

    #[test]
    fn the_first_thread_of_a_living_process_is_itself() {
        for threads in [vec![], vec![8], vec![8, 7]] {
            let entry = PstreeEntry {
                pid: 7,
                threads,
                ..PstreeEntry::default()
            };
            let error = planned(&entry, task_state::ALIVE).unwrap_err().to_string();
            assert!(error.contains("first thread"), "{error}");
        }
    }
}
