//! Following what a tree writes to, so that its checkpoints can be incremental.

use cryopod_engine::Tracker;
use serde::Serialize;

use crate::error::Result;
use crate::target::Target;

/// A tree whose writes are followed.
#[derive(Clone, Debug, Serialize)]
pub struct Tracked {
    /// The pid of its root.
    pub root_pid: i32,
    /// The pid of the tracker.
    pub tracker_pid: i32,
    /// The id of its last checkpoint, if there was one.
    pub base: Option<String>,
}

/// Has a tracker follow a tree; from its next checkpoint on, later ones can be incremental.
///
/// The calling process must have no other thread: the tracker is made by forking.
///
/// # Errors
///
/// A process that is not there; [`cryopod_engine::Error::Tracker`] and those of sockets.
pub fn track(target: &Target) -> Result<Tracked> {
    let root_pid = target.resolve()?;
    let tracker = Tracker::find_or_start(root_pid)?;
    Ok(Tracked {
        root_pid,
        tracker_pid: tracker.pid(),
        base: tracker.base().map(str::to_owned),
    })
}

/// Ends that. False if nobody followed it.
///
/// # Errors
///
/// As [`track`].
pub fn untrack(target: &Target) -> Result<bool> {
    let Some(tracker) = Tracker::find(target.resolve()?)? else {
        return Ok(false);
    };
    tracker.dismiss()?;
    Ok(true)
}

/// The tracker for a checkpoint of a tree. Without one more is stored; that is no reason to fail.
pub(crate) fn tracker_for(root: i32, start: bool) -> Option<Tracker> {
    let found = match start {
        true => Tracker::find_or_start(root).map(Some),
        false => Tracker::find(root),
    };
    found.unwrap_or_else(|error| {
        tracing::warn!(
            root,
            error = &error as &dyn std::error::Error,
            "what it writes to is not followed"
        );
        None
    })
}

/// Tells a tracker that a checkpoint is stored.
pub(crate) fn commit(tracker: Tracker, id: &str) {
    if let Err(error) = tracker.commit(id) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the next checkpoint will be a full one"
        );
    }
}
