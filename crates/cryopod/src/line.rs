//! Checkpoints that build on others: choosing a parent, and opening all of a line as one image set.

use cryopod_engine::Tracker;
use cryopod_image::SetReader;
use cryopod_image::set::MAX_PARENTS;
use cryopod_store::{Hold, Ref, Store, Stored};

use crate::error::Result;
use crate::meta;

/// Whether a checkpoint leaves out what another one has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Incremental {
    /// It stands alone.
    #[default]
    No,
    /// It builds on the last one of the same target, if that is known and in the store.
    Newest,
    /// It builds on this one, if that is the last one of the same target.
    On(Ref),
}

/// A checkpoint with all that it builds on, which nobody can remove meanwhile.
pub(crate) struct Line {
    /// Its images on those of its parents, all with digests.
    pub(crate) set: SetReader,
    /// The checkpoint itself, and what it builds on in this order.
    pub(crate) members: Vec<Stored>,
    _holds: Vec<Hold>,
}

impl Line {
    /// Opens it.
    pub(crate) fn open(store: &Store, stored: &Stored) -> Result<Self> {
        let members = store.line_of(stored, MAX_PARENTS as usize)?;
        let mut holds = Vec::with_capacity(members.len());
        let mut set: Option<SetReader> = None;
        for one in members.iter().rev() {
            holds.push(store.hold(one)?);
            let reader = SetReader::open(&one.images(), Some(meta::digests(&one.meta)))?;
            set = Some(match set {
                None => reader,
                Some(parent) => reader.on(parent)?,
            });
        }
        let Some(set) = set else {
            unreachable!("a line has at least the checkpoint itself");
        };
        Ok(Self {
            set,
            members,
            _holds: holds,
        })
    }

    /// The checkpoint itself.
    pub(crate) fn first(&self) -> &Stored {
        &self.members[0]
    }
}

/// What a checkpoint is to build on, or why it stands alone although it was to be incremental.
pub(crate) fn choose(
    store: &Store,
    wanted: &Incremental,
    tracker: Option<&Tracker>,
    replaced: Option<&Ref>,
) -> Result<std::result::Result<Line, String>> {
    let alone = |why: String| Ok(Err(why));
    // A parent that does not exist is a mistake in any case.
    let named = match wanted {
        Incremental::No => return alone("not asked for".to_owned()),
        Incremental::Newest => None,
        Incremental::On(reference) => Some(store.get(reference)?),
    };
    let Some(tracker) = tracker else {
        return alone("what it writes to cannot be followed".to_owned());
    };
    let Some(base) = tracker.base() else {
        return alone("what it writes to is followed only from now on".to_owned());
    };
    let parent = match named {
        Some(named) if named.meta.id.as_deref() != Some(base) => {
            let reference = named.reference();
            return alone(format!("{reference} is not the last checkpoint of it"));
        }
        Some(named) => Some(named),
        None => store.find(base)?,
    };
    let Some(parent) = parent else {
        return alone("its last checkpoint is not in this store".to_owned());
    };
    if replaced == Some(&parent.reference()) {
        return alone("it takes the place of its last checkpoint".to_owned());
    }
    let line = Line::open(store, &parent)?;
    if line.members.len() >= MAX_PARENTS as usize {
        return alone(format!(
            "{} checkpoints build on one another already",
            line.members.len()
        ));
    }
    Ok(Ok(line))
}
