//! An image set: a directory of image files.
//!
//! [`SetWriter`] makes one, [`SetReader`] reads one, whether cryopod or criu made it. Neither descends into
//! directories nor takes a file name from an image: names are made of a [`Kind`](crate::kind::Kind) and a number.

mod block;
mod entries;
mod pages_reader;
mod pages_writer;
mod parse;
mod payload;
mod reader;
mod writer;

pub use self::block::BlockBuffer;
pub use self::entries::{EntryReader, MAX_PAYLOAD_BYTES};
pub use self::pages_reader::PagesReader;
pub use self::pages_writer::PagesWriter;
pub use self::parse::{Parsed, parse_bytes};
pub use self::payload::Payload;
pub use self::reader::{MAX_PARENTS, MAX_READ_ALL_BYTES, PARENT_LINK, SetReader};
pub use self::writer::{EntryWriter, SetWriter};
