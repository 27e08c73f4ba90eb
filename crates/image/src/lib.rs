//! Checkpoint image formats and nothing else: no process is touched here, nothing is sent anywhere.
//!
//! An *image set* is a directory of small files of typed entries and large files of raw pages, in the format of
//! CRIU (<https://criu.org/Images>), so that criu, crit and checkpointctl read what cryopod writes and the other way
//! round. From the inside out:
//!
//! - [`criu`]: the entries, one struct per message
//! - [`kind`]: the files: name, magic, framing
//! - [`framing`]: how a file begins and how entries follow each other
//! - [`set`]: a directory of such files: [`SetWriter`] and [`SetReader`]
//! - [`pagemap`]: which pages are where in a pages file, checked
//! - [`layers`]: pagemaps of sets that build on others
//! - [`digest`]: BLAKE3 of every file, computed while writing and checked while reading
//!
//! Everything read is hostile until checked: no link is followed, only regular files are read, every size is held
//! against the size of the file before memory is set aside for it, and every failure names file and offset.

pub mod criu;
pub mod digest;
pub mod error;
pub mod framing;
pub mod kind;
pub mod layers;
pub mod pagemap;
pub mod set;

pub use crate::digest::{BLOCK_SIZE_BYTES, FileDigest};
pub use crate::error::{Error, ErrorKind};
pub use crate::kind::Kind;
pub use crate::set::{SetReader, SetWriter};
