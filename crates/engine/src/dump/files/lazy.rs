//! An image that exists only when there is something in it.

use cryopod_image::set::EntryWriter;
use cryopod_image::{Kind, SetWriter};

use crate::error::Result;

/// A file of entries that is made when the first one comes.
pub struct Lazy<'a> {
    set: &'a SetWriter,
    kind: Kind,
    writer: Option<EntryWriter<'a>>,
}

impl<'a> Lazy<'a> {
    /// An image of this kind, not made yet.
    pub fn new(set: &'a SetWriter, kind: Kind) -> Self {
        Self {
            set,
            kind,
            writer: None,
        }
    }

    /// The file, made now at the latest.
    pub fn writer(&mut self) -> Result<&mut EntryWriter<'a>> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.set.entries(self.kind, None)?,
        };
        Ok(self.writer.insert(writer))
    }

    /// Completes the file, if there is one.
    pub fn finish(self) -> Result<()> {
        Ok(self.writer.map_or(Ok(()), EntryWriter::finish)?)
    }
}
