//! Processes to image sets, and back.
//!
//! cryopod's own engine works from outside the target: it stops the tree with ptrace, reads most of its state from
//! /proc and through descriptors fetched with pidfd_getfd(2), and has a stopped thread make the few system calls that
//! only the process itself can make. Nothing is injected and nothing else has to be installed.
//!
//! The flow, with the room for each step:
//!
//! - [`survey`]: what in the tree cannot be checkpointed, found before anything is stopped
//! - [`freeze`]: the tree stands still, and goes on when its guard is dropped
//! - [`dump`]: one module per kind of resource writes its part of the image set
//! - [`track`]: what was written since a checkpoint, so that the next one can leave the rest out
//! - [`restore`]: the same rooms in the other direction: build the tree, fill its memory, let go
//!
//! Below them: [`proc`] reads /proc, [`remote`] makes remote system calls, [`cpu`] translates registers, [`net`] asks
//! the kernel about sockets and locks connections.

pub mod cgroups;
pub mod cpu;
pub mod dump;
mod elf;
pub mod error;
pub mod freeze;
mod line;
pub mod net;
pub mod proc;
pub mod progress;
pub mod remote;
pub mod restore;
pub mod survey;
#[cfg(test)]
mod tests;
pub mod track;

pub use cgroups::{CgroupOptions, CgroupRoot, ManageCgroups};
pub use dump::{
    Connections, DumpOptions, DumpReport, Freeze, FreezeChoice, NetworkLock, ProcessSummary,
    Snapshot, TcpOptions, dump, freeze_for_dump,
};
pub use elf::FileValidation;
pub use error::{Error, ErrorKind, Result, Unsupported};
pub use freeze::Frozen;
pub use progress::{Cancel, NoProgress, Progress};
pub use restore::{RestoreOptions, Restored, Stdio, restore};
pub use survey::survey;
pub use track::{Increment, Tracker};
