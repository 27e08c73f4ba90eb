//! From an image set to a running tree.
//!
//! The order, which is the order of the code below:
//!
//! 1. `plan`: read and check every image before anything is made
//! 2. `cgroups`: make the control groups that are gone; `files`, `shmem`: cryopod opens every file and makes all shared memory in its own process, so that every task
//!    is born with all descriptors
//! 3. `tree`: make the root and, from their stopped parents, all others; each gets its mappings (`mappings`) and those of
//!    its contents (`memory`, `fill`) that it hands on before it has children of its own, so that copy-on-write sharing
//!    comes back by itself; all other contents follow when everybody is there, everywhere at the same time
//! 4. `process`, `threads`, `timers`, `signals`, `seccomp`, `credentials`: everything else, from harmless to binding
//! 5. `lazy`: with that option, a helper process is started that will fill what was left out of step 3
//! 6. let go, all at once
//!
//! Until the last step every task is a [`Puppet`](crate::remote::puppet::Puppet) that dies with cryopod; a failure
//! ends them all.

mod aio;
mod cgroups;
mod credentials;
pub mod files;
mod fill;
mod foreground;
mod gaps;
mod guards;
mod ipc;
pub mod lazy;
mod mappings;
mod memory;
mod plan;
mod process;
mod seccomp;
mod sessions;
mod settings;
mod shmem;
mod signals;
mod threads;
mod timers;
mod tree;

use std::num::NonZeroUsize;

use cryopod_image::SetReader;

use crate::cgroups::CgroupOptions;
use crate::dump::Connections;
use crate::elf::FileValidation;
use crate::error::Result;
use crate::proc;
use crate::progress::{Cancel, Progress};

/// Where standard streams that led outside the tree lead after the restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stdio {
    /// To the restorer's own.
    #[default]
    Auto,
    /// To the same path again, where it still exists.
    Keep,
    /// To /dev/null.
    Null,
    /// To the restorer's own, also where the stream was a plain file.
    Inherit,
}

/// How to restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Standard streams.
    pub stdio: Stdio,
    /// Terminals whose other end was outside of the tree become the restorer's, instead of being refused.
    pub outside_terminal: bool,
    /// The root's group takes the place of this process's own in the foreground of the terminal, where both are of one
    /// session: this process will wait for it, as a shell waits for a job.
    pub foreground: bool,
    /// Leave every process stopped (SIGSTOP) instead of running.
    pub leave_stopped: bool,
    /// Open files also when their size or mode is not what it was.
    pub force_files: bool,
    /// How programs and libraries are compared with what they were.
    pub file_validation: FileValidation,
    /// Remove the hard links that the dump made (`link_remap.N`) once the tree runs: it cannot be restored again then.
    pub remove_links: bool,
    /// Control groups.
    pub cgroups: CgroupOptions,
    /// What becomes of TCP connections.
    pub connections: Connections,
    /// Let the tree run before its memory is there: see [`lazy`].
    pub lazy: bool,
    /// Threads that fill memory; as many as there are processors when left out.
    pub jobs: Option<NonZeroUsize>,
}

/// A restored tree, running. Its root is a child of this process.
#[derive(Debug, Default)]
pub struct Restored {
    /// Pid of the root.
    pub root_pid: i32,
    /// Number of processes, zombies included.
    pub processes: usize,
    /// Number of threads.
    pub threads: usize,
    /// Bytes of pages read from the set.
    pub pages_bytes: u64,
    /// What goes on after a lazy restore; none when nothing was left to be filled.
    pub filling: Option<lazy::Filling>,
}

/// Restores a tree. No other thread may exist in this process when it is called: the root starts as its copy.
///
/// # Errors
///
/// Any; nothing of the tree is left.
pub fn restore(
    set: &SetReader,
    options: &RestoreOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Restored> {
    let plan = plan::Plan::read(set)?;
    plan.check_pids_are_free()?;
    // Goes last when something fails: no group can be removed while a task is in it.
    let cgroups = cgroups::Cgroups::prepare(set, &plan, &options.cgroups)?;
    let mut files = files::Files::load(set)?;
    let base = files.highest_fd(set, &plan.tables())? + 1;
    files.check_locks(&plan.holders())?;
    files.open_all(set, options, base)?;
    for (file, flags) in plan
        .tasks
        .iter()
        .filter_map(|task| task.body.as_ref())
        .flat_map(|body| mappings::files(&body.mm))
    {
        files.prepare_mapping(file, flags)?;
    }
    let crew = fill::Crew {
        threads: options.jobs,
        progress,
        cancel,
    };
    let shmem = shmem::Shared::make(set, &plan, &files, base, crew)?;
    let ipc = ipc::Ipc::make(set, crew)?;
    let world = tree::World {
        set,
        plan: &plan,
        files: &files,
        shmem: &shmem,
        cgroups: &cgroups,
        ipc: &ipc,
        base,
        lazy: options.lazy,
        crew,
    };
    let mut tree = tree::Tree::make(&world)?;
    let threads = process::finish(&world, &mut tree, options)?;
    let pages_bytes = tree.pages_bytes() + shmem.pages_bytes() + ipc.pages_bytes();
    drop(shmem);
    ipc.doom()?;
    let names = files.sockets().take_names();
    let queues = files.take_queues();
    let links = files.temporary_links();
    let connections = files.sockets().take_inets();
    files.watch()?;
    if cancel.is_requested() {
        return Err(crate::Error::Cancelled);
    }
    let handed = foreground::hand_over(plan.root(), options)?;
    let filling = lazy::start(tree.take_later(), &tree.pids_of(&plan), options.jobs)?;
    connections.resume()?;
    tree.let_go()?;
    cgroups.keep();
    ipc.keep();
    names.keep();
    queues.keep();
    if let Some(terminal) = handed {
        terminal.keep();
    }
    if options.remove_links {
        for link in links {
            if let Err(error) = std::fs::remove_file(&link) {
                tracing::warn!(path = %link.display(), %error, "could not remove a link that the dump made");
            }
        }
    }
    Ok(Restored {
        root_pid: plan.root().pid,
        processes: plan.tasks.len(),
        threads,
        pages_bytes,
        filling,
    })
}

/// Who has a pid: the command name, for messages. A process that has ended leaves its pid to its process group and its
/// session.
pub(crate) fn holder(pid: i32) -> String {
    let named = |pid: i32| {
        let name = proc::read_text(pid, "comm").ok()?;
        Some(format!("{:?} (pid {pid})", name.trim_end()))
    };
    if let Some(name) = named(pid) {
        return name;
    }
    let everybody = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let everybody = everybody.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut members = everybody.filter_map(|member| {
        let stat = proc::stat::read(member).ok()?;
        let what = if stat.pgrp == pid {
            "process group"
        } else if stat.session == pid {
            "session"
        } else {
            return None;
        };
        Some(format!("the {what} that {} is in", named(member)?))
    });
    let found = members.next();
    found.unwrap_or_else(|| "a thread of another process".to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_pid_can_be_that_of_a_group_whose_leader_is_gone() {
        // The leader leaves somebody in its group, who stays until the input ends.
        let mut leader = Command::new("sh")
            .args(["-c", "exec 3<&0; cat <&3 >/dev/null &"])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = leader.id() as i32;
        let input = leader.stdin.take();
        assert!(leader.wait().unwrap().success());
        let holder = holder(pid);
        assert!(holder.starts_with("the process group that"), "{holder}");
        drop(input);
    }
}
