//! Named checkpoints on disk: staging, publishing, listing, removing.
//!
//! The store knows bytes and names. It does not know what a process is, nor what an image file means; it
//! guarantees that a name either stands for one whole checkpoint or for nothing.
//!
//! ```text
//! DIR/                          0700, whatever `--store` says
//!   checkpoints/LABEL/NAME/     one checkpoint
//!     checkpoint.json           0600, what it is: [`CheckpointMeta`]
//!     images/                   the image files, written by an engine
//!   tmp/UUID/                   being made, or being deleted; never listed
//! ```
//!
//! A checkpoint is made in `tmp/` ([`Store::stage`]), flushed to disk file by file, and moved to its name in one
//! `renameat2(2)` ([`Staging::publish`]). Replacing one is an exchange of two directories, so that a reader finds
//! the old or the new one at every instant. Removing goes the other way: into `tmp/` in one step, then deleted.
//! Whatever a crash leaves is therefore in `tmp/`, where the next [`Store::open`] deletes what nobody holds
//! (see the `sweep` module for how that is decided without a race).
//!
//! A checkpoint may build on another one of the store, which cannot be removed then (see the `line` module).
//!
//! What is read back is not trusted: `checkpoint.json` is bounded in size and in number of values, parsed in one
//! place ([`CheckpointMeta::from_slice`]), and file names found in it must be plain names. Text in it (command
//! lines, host names) is whatever the checkpointed program made it: whoever prints it must escape it.

mod digest;
mod error;
mod fs;
mod line;
mod list;
mod meta;
mod name;
mod remove;
mod staging;
mod store;
mod sweep;

pub use digest::{Digest, FileDigest};
pub use error::{Error, ErrorKind, NameProblem};
pub use line::Hold;
pub use list::Listed;
pub use meta::{
    CheckpointMeta, EngineInfo, FORMAT_VERSION, FreezeInfo, Host, MAX_FILES, MAX_META_BYTES,
    MAX_META_VALUES, ProcessSummary, Stats,
};
pub use name::{Label, MAX_NAME_BYTES, Name, Ref};
pub use remove::Removed;
pub use staging::{Replace, Staging};
pub use store::{Store, Stored};
