//! Which processes share which kernel objects: kcmp(2), written as numbers to ids-PID.img.

use cryopod_image::criu::TaskKobjIdsEntry;
use cryopod_sys::process::{Kcmp, kcmp};

use crate::error::{Context, Result};

/// The number of every namespace: all processes live in cryopod's own, so one number per kind is enough.
const NAMESPACE: u32 = 1;

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
        pid_ns_id: Some(NAMESPACE),
        net_ns_id: Some(NAMESPACE),
        ipc_ns_id: Some(NAMESPACE),
        uts_ns_id: Some(NAMESPACE),
        mnt_ns_id: Some(NAMESPACE),
        user_ns_id: Some(NAMESPACE),
        cgroup_ns_id: Some(NAMESPACE),
        time_ns_id: Some(NAMESPACE),
        ..TaskKobjIdsEntry::default()
    }
}
