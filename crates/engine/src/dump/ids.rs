//! Which processes share which kernel objects: kcmp(2), written as numbers to ids-PID.img.

use cryopod_image::criu::TaskKobjIdsEntry;
use cryopod_sys::process::{Kcmp, kcmp};

use crate::error::{Context, Result};

/// The number of a namespace by its kind (`CLONE_NEW*`): all processes live in cryopod's own, so one per kind is enough.
/// No two kinds share a number, because files refer to namespaces by number alone.
pub fn namespace(kind: i32) -> u32 {
    match kind {
        libc::CLONE_NEWPID => 1,
        libc::CLONE_NEWNET => 2,
        libc::CLONE_NEWUSER => 3,
        libc::CLONE_NEWIPC => 4,
        libc::CLONE_NEWUTS => 5,
        libc::CLONE_NEWNS => 6,
        libc::CLONE_NEWCGROUP => 7,
        // CLONE_NEWTIME, which libc does not know.
        _ => 8,
    }
}

/// Hands out numbers; processes that share an object get the same one.
///
/// kcmp(2) gives an order of objects, so each kind is kept sorted and found by bisection.
#[derive(Debug, Default)]
pub struct Ids {
    known: [Vec<(i32, u32)>; 4],
    last: u32,
}

impl Ids {
    /// The ids of one process.
    pub fn of(&mut self, pid: i32) -> Result<TaskKobjIdsEntry> {
        Ok(TaskKobjIdsEntry {
            vm_id: self.id(pid, Kcmp::Vm)?,
            files_id: self.id(pid, Kcmp::Files)?,
            fs_id: self.id(pid, Kcmp::Fs)?,
            sighand_id: self.id(pid, Kcmp::Sighand)?,
            ..namespaces()
        })
    }

    fn id(&mut self, pid: i32, what: Kcmp) -> Result<u32> {
        let known = &mut self.known[what as usize - Kcmp::Vm as usize];
        let mut failed = None;
        let place = known.binary_search_by(|(other, _)| {
            kcmp(*other, pid, what, 0, 0).unwrap_or_else(|errno| {
                failed = Some(errno);
                std::cmp::Ordering::Equal
            })
        });
        if let Some(errno) = failed {
            return Err(errno).task("compare it with others (kcmp)", pid);
        }
        match place {
            Ok(index) => Ok(known[index].1),
            Err(index) => {
                self.last += 1;
                known.insert(index, (pid, self.last));
                Ok(self.last)
            }
        }
    }
}

/// Only the namespaces.
pub fn namespaces() -> TaskKobjIdsEntry {
    TaskKobjIdsEntry {
        pid_ns_id: Some(namespace(libc::CLONE_NEWPID)),
        net_ns_id: Some(namespace(libc::CLONE_NEWNET)),
        ipc_ns_id: Some(namespace(libc::CLONE_NEWIPC)),
        uts_ns_id: Some(namespace(libc::CLONE_NEWUTS)),
        mnt_ns_id: Some(namespace(libc::CLONE_NEWNS)),
        user_ns_id: Some(namespace(libc::CLONE_NEWUSER)),
        cgroup_ns_id: Some(namespace(libc::CLONE_NEWCGROUP)),
        time_ns_id: Some(namespace(0)),
        ..TaskKobjIdsEntry::default()
    }
}
