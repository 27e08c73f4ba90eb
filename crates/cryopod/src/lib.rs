//! Freeze a running program, wake it anywhere.
//!
//! This is the library behind the command `cryopod`. Two workflows, each of which reads top to bottom:
//!
//! - [`checkpoint`]: target -> survey -> freeze -> dump -> image set -> store
//! - [`restore`]: store -> image set -> a running process
//!
//! and [`dump_dir`] and [`restore_dir`], the same without a store: criu's own image directories. Around them:
//!
//! - [`target`]: what is to be checkpointed
//! - [`foreground`]: standing in for a child: passing signals on, ending as it ended
//! - [`interrupt`]: signals that cancel a checkpoint
//! - [`inspect`]: what is in a checkpoint
//! - [`doctor`]: what this machine has and lacks
//!
//! The library never prints and never reads the environment: it returns values and emits `tracing` events. A failed or
//! cancelled checkpoint leaves the target running and nothing in the store.
//!
//! ```no_run
//! use cryopod::{Cancel, CheckpointOptions, NoProgress, Ref, RestoreOptions, Store, Target};
//!
//! # fn main() -> Result<(), cryopod::Error> {
//! let store = Store::open("/var/lib/cryopod".as_ref())?;
//! let target: Target = "pid:1234".parse()?;
//! let options = CheckpointOptions { stop: true, ..CheckpointOptions::default() };
//! let report = cryopod::checkpoint(&store, &target, &options, &NoProgress, &Cancel::default())?;
//! let reference = Ref::parse(&report.reference)?;
//! let restored = cryopod::restore(&store, &reference, &RestoreOptions::default(), &NoProgress, &Cancel::default())?;
//! println!("pid {} is back", restored.root_pid);
//! restored.detach();
//! # Ok(())
//! # }
//! ```

mod checkpoint;
pub mod doctor;
mod error;
mod fold;
pub mod foreground;
mod host;
mod images;
pub mod inspect;
pub mod interrupt;
mod line;
mod meta;
mod naming;
mod restore;
pub mod target;
mod track;

pub use checkpoint::{CheckpointOptions, CheckpointReport, checkpoint};
pub use error::{Error, ErrorKind, Result, Unsupported};
pub use fold::remove_merging;
pub use foreground::ExitStatus;
pub use images::{Afterwards, DumpDirOptions, DumpDirReport, dump_dir, write_restore_stats};
pub use line::Incremental;
pub use restore::{RestoreOptions, RestoreReport, Restored, restore, restore_dir};
pub use target::Target;
pub use track::{Tracked, track, untrack};

pub use cryopod_engine::{
    Cancel, CgroupOptions, CgroupRoot, Connections, FileValidation, Freeze, ManageCgroups,
    NetworkLock, NoProgress, Progress, Stdio, TcpOptions,
};
pub use cryopod_store::{
    CheckpointMeta, FreezeInfo, Label, Listed, MAX_NAME_BYTES, Name, ProcessSummary, Ref, Removed,
    Stats, Store, Stored,
};
