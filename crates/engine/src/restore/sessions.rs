//! In which order tasks must be made so that each is born into its session.
//!
//! A session is left only by founding another (setsid(2)), and joined only by birth. So a child of another session than
//! its parent's was either born before its parent founded the one it has now, or was born to somebody else and
//! came to its parent when that one died. The first kind is made before the parent's setsid; the second kind by its
//! session's leader with CLONE_PARENT, which makes it a sibling of that leader. A leader that is long dead is
//! played by a helper that ends when it is no longer needed.

use super::plan::Plan;

/// How a child is to be made by its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Birth {
    /// By the parent, before it founds its session.
    BeforeSetsid,
    /// By the parent, in the session it has (or, a leader of its own, in any).
    AfterSetsid,
    /// By the leader of this session, itself a child of the parent, with CLONE_PARENT.
    ByLeader(i32),
}

/// The session that task `index` must be born into; `None` when it does not matter.
fn needed(plan: &Plan, index: usize) -> Option<i32> {
    let task = &plan.tasks[index];
    if task.sid != task.pid {
        return Some(task.sid);
    }
    // A leader is born anywhere, unless children of it stayed in the session that it was born into.
    task.children.iter().find_map(|&child| {
        let need = needed(plan, child)?;
        (need != task.sid && !carried(plan, index, need)).then_some(need)
    })
}

/// Whether the session `sid` has no leader elsewhere in the tree, or one among the children of `parent`.
fn carried(plan: &Plan, parent: usize, sid: i32) -> bool {
    if sid == plan.root().sid && plan.find(sid).is_none() {
        // The session outside that the root was in: everybody is born into what stands for it now.
        return false;
    }
    match plan.tasks.iter().position(|task| task.pid == sid) {
        Some(leader) => plan.tasks[leader].parent == Some(parent),
        None => true,
    }
}

/// How `parent` makes its child `child`.
pub fn birth(plan: &Plan, parent: usize, child: usize) -> Birth {
    let now = plan.tasks[parent].sid;
    match needed(plan, child) {
        None => Birth::AfterSetsid,
        Some(sid) if sid == now => Birth::AfterSetsid,
        Some(sid) if carried(plan, parent, sid) => Birth::ByLeader(sid),
        Some(_) => Birth::BeforeSetsid,
    }
}

/// Whose memory a child of `parent` is born with.
pub fn origin(plan: &Plan, parent: usize, child: usize) -> usize {
    let Birth::ByLeader(sid) = birth(plan, parent, child) else {
        return parent;
    };
    // One that is long dead, or comes to its end later, has its parent's.
    let leader = plan.tasks.iter().position(|task| task.pid == sid);
    leader
        .filter(|&leader| plan.tasks[leader].body.is_some())
        .unwrap_or(parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::plan::{State, Task};

    /// Tasks as (pid, parent index, sid).
    fn plan(tasks: &[(i32, Option<usize>, i32)]) -> Plan {
        let mut plan = Plan { tasks: Vec::new() };
        for (index, &(pid, parent, sid)) in tasks.iter().enumerate() {
            plan.tasks.push(Task {
                pid,
                pgid: pid,
                sid,
                parent,
                children: Vec::new(),
                threads: Vec::new(),
                state: State::Alive,
                body: None,
            });
            if let Some(parent) = parent {
                plan.tasks[parent].children.push(index);
            }
        }
        plan
    }

    #[test]
    fn a_child_inherits_the_session() {
        let plan = plan(&[(10, None, 10), (11, Some(0), 10), (12, Some(0), 12)]);
        assert_eq!(birth(&plan, 0, 1), Birth::AfterSetsid);
        assert_eq!(birth(&plan, 0, 2), Birth::AfterSetsid);
    }

    #[test]
    fn a_child_of_an_earlier_session_is_made_first() {
        // 11 was born in session 10, made 12, and founded its own session then.
        let plan = plan(&[(10, None, 10), (11, Some(0), 11), (12, Some(1), 10)]);
        assert_eq!(birth(&plan, 1, 2), Birth::BeforeSetsid);
        assert_eq!(birth(&plan, 0, 1), Birth::AfterSetsid);
    }

    #[test]
    fn an_orphan_is_made_by_its_leader() {
        let dead = plan(&[(10, None, 10), (12, Some(0), 11)]);
        assert_eq!(birth(&dead, 0, 1), Birth::ByLeader(11));
        let alive = plan(&[(10, None, 10), (11, Some(0), 11), (12, Some(0), 11)]);
        assert_eq!(birth(&alive, 0, 2), Birth::ByLeader(11));
    }

    #[test]
    fn the_session_outside_is_everybody_s() {
        let plan = plan(&[
            (10, None, 5),
            (11, Some(0), 5),
            (12, Some(0), 12),
            (13, Some(2), 5),
        ]);
        assert_eq!(birth(&plan, 0, 1), Birth::AfterSetsid);
        assert_eq!(birth(&plan, 2, 3), Birth::BeforeSetsid);
    }
}
