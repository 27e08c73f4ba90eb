//! An address space whose contents are to be read, with what is told of its process only then.

use std::ops::Range;

use cryopod_image::criu::{CoreEntry, MmEntry, SaEntry};
use cryopod_image::{Kind, SetWriter};

use super::copies::Copy;
use crate::dump::mappings::{DumpRange, Layout};
use crate::dump::{guards, signals};
use crate::error::Result;
use crate::proc::{maps, mem::Mem};
use crate::remote::visit::Visit;

/// An address space whose contents are to be read.
///
/// Whatever a copy of the process tells as well is read from the copy, when the tree goes on already: the flags of
/// mappings, guards, and the actions of signals.
#[derive(Debug)]
pub struct Space {
    /// Its process.
    pub pid: i32,
    /// The thread by whose files in /proc it is read.
    pub reader: i32,
    /// Its memory.
    pub mem: Mem,
    /// Where visits to the process have room.
    pub room: u64,
    /// Its mappings.
    pub layout: Layout,
    /// mm-PID.img without mappings.
    pub mm: MmEntry,
    /// core-PID.img without signal actions.
    pub leader: CoreEntry,
    /// What to read of it; known when it was [described](Space::describe).
    pub ranges: Vec<DumpRange>,
    /// What is as it was in the parent image set, ascending.
    pub kept: Vec<Range<u64>>,
    /// The place of its process in the report.
    pub summary: usize,
}

impl Space {
    /// Writes what is left to be told of the process, and learns what is to be read.
    pub fn describe(&mut self, set: &SetWriter, copy: Option<&Copy>) -> Result<()> {
        if !self.layout.flagged {
            let flagged = match copy {
                Some(copy) => copy.flagged_maps()?,
                None => maps::read_flagged(self.reader)?,
            };
            self.layout.flag(self.pid, flagged)?;
        }
        let dumped = self.layout.describe(&self.guards(copy)?);
        self.ranges = dumped.ranges;
        self.mm.vmas = dumped.entries;
        let id = Some(self.pid as u64);
        set.write_one(Kind::Mm, id, &self.mm)?;
        if let Some(tc) = &mut self.leader.tc {
            tc.sigactions = match copy {
                Some(copy) => copy.actions()?,
                None => actions(self.reader, &self.mem, self.room)?,
            };
        }
        Ok(set.write_one(Kind::Core, id, &self.leader)?)
    }

    fn guards(&self, copy: Option<&Copy>) -> Result<Vec<Range<u64>>> {
        match copy {
            Some(copy) => copy.guards(&self.layout),
            None => guards::find(self.reader, self.layout.maps.iter()),
        }
    }
}

fn actions(reader: i32, mem: &Mem, room: u64) -> Result<Vec<SaEntry>> {
    let mut visit = Visit::enter(reader, mem, room)?;
    let actions = signals::visited(&mut visit)?;
    visit.leave()?;
    Ok(actions)
}
