//! Reading the entries of one file, one after the other.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use crate::error::Error;
use crate::framing::{self, LENGTH_BYTES, MAX_ENTRY_BYTES};
use crate::kind::Kind;
use crate::set::payload::Payload;

/// Most raw bytes behind one entry that are read into memory; [`EntryReader::copy_payload`] has no such limit.
pub const MAX_PAYLOAD_BYTES: u64 = 64 << 20;

/// Reads a file entry by entry. The magic has been checked.
///
/// Memory is set aside only for what the file is known to be long enough for.
pub struct EntryReader<'a> {
    path: PathBuf,
    input: Box<dyn Read + Send + 'a>,
    offset: u64,
    size_bytes: u64,
    message: Vec<u8>,
}

impl<'a> EntryReader<'a> {
    /// Reads from `input`, which has `size_bytes`; `path` is for messages.
    pub(crate) fn new(
        kind: Kind,
        path: PathBuf,
        size_bytes: u64,
        input: impl Read + Send + 'a,
    ) -> Result<Self, Error> {
        kind.check_has_entries()?;
        let mut reader = Self {
            path,
            input: Box::new(input),
            offset: 0,
            size_bytes,
            message: Vec::new(),
        };
        let mut header = framing::header(kind);
        reader.read_exact(&mut header)?;
        framing::check_header(kind, &header, &reader.path)?;
        Ok(reader)
    }

    /// Reads an image that is in memory. Messages call it by the name of its kind.
    ///
    /// # Errors
    ///
    /// As those of [`SetReader::entries`](crate::set::SetReader::entries).
    pub fn from_bytes(kind: Kind, bytes: &'a [u8]) -> Result<Self, Error> {
        Self::new(
            kind,
            PathBuf::from(format!("{kind} image")),
            bytes.len() as u64,
            bytes,
        )
    }

    /// The next entry, `None` at the end of the file.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::EntryTooLarge`], [`Error::Decode`], [`Error::Read`].
    pub fn next_entry<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        if self.remaining_bytes() == 0 {
            return Ok(None);
        }
        let start = self.offset;
        let mut length = [0; LENGTH_BYTES as usize];
        self.read_exact(&mut length)?;
        let size_bytes = u64::from(u32::from_le_bytes(length));
        if size_bytes > MAX_ENTRY_BYTES {
            let limit_bytes = MAX_ENTRY_BYTES;
            return Err(Error::EntryTooLarge {
                path: self.path.clone(),
                offset: start,
                size_bytes,
                limit_bytes,
            });
        }
        self.check_remaining(size_bytes)?;

        let mut message = std::mem::take(&mut self.message);
        message.resize(to_len(size_bytes), 0);
        let offset = self.offset;
        self.read_exact(&mut message)?;
        let entry = M::decode(message.as_slice());
        self.message = message;
        entry.map(Some).map_err(|source| Error::Decode {
            path: self.path.clone(),
            offset,
            source,
        })
    }

    /// The next entry, which must be there.
    ///
    /// # Errors
    ///
    /// As [`next_entry`](Self::next_entry), and [`Error::NoEntry`] at the end of the file.
    pub fn expect_entry<M: Message + Default>(&mut self) -> Result<M, Error> {
        let offset = self.offset;
        self.next_entry()?.ok_or_else(|| Error::NoEntry {
            path: self.path.clone(),
            offset,
        })
    }

    /// The next entry with the raw bytes behind it.
    ///
    /// # Errors
    ///
    /// As [`next_entry`](Self::next_entry) and [`payload`](Self::payload).
    pub fn next_with_payload<M: Payload>(&mut self) -> Result<Option<(M, Vec<u8>)>, Error> {
        let Some(entry) = self.next_entry::<M>()? else {
            return Ok(None);
        };
        let payload = self.payload(entry.payload_bytes())?;
        Ok(Some((entry, payload)))
    }

    /// The next `size_bytes` of the file, not framed in any way.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::PayloadTooLarge`], [`Error::Read`].
    pub fn payload(&mut self, size_bytes: u64) -> Result<Vec<u8>, Error> {
        self.check_remaining(size_bytes)?;
        if size_bytes > MAX_PAYLOAD_BYTES {
            return Err(Error::PayloadTooLarge {
                path: self.path.clone(),
                offset: self.offset,
                size_bytes,
                limit_bytes: MAX_PAYLOAD_BYTES,
            });
        }
        let mut payload = vec![0; to_len(size_bytes)];
        self.read_exact(&mut payload)?;
        Ok(payload)
    }

    /// Copies the next `size_bytes` of the file to `output`, however many these are.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::Read`], and [`Error::CopyOut`] when `output` fails.
    pub fn copy_payload(&mut self, size_bytes: u64, output: &mut dyn Write) -> Result<(), Error> {
        const CHUNK_BYTES: u64 = 256 << 10;
        self.check_remaining(size_bytes)?;
        let mut chunk = vec![0; to_len(size_bytes.min(CHUNK_BYTES))];
        let mut left = size_bytes;
        while left > 0 {
            let part = &mut chunk[..to_len(left.min(CHUNK_BYTES))];
            self.read_exact(part)?;
            let copied = output.write_all(part);
            copied.map_err(|source| Error::CopyOut {
                path: self.path.clone(),
                offset: self.offset,
                source,
            })?;
            left -= part.len() as u64;
        }
        Ok(())
    }

    /// Steps over the next `size_bytes` of the file.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::Read`].
    pub fn skip_payload(&mut self, size_bytes: u64) -> Result<(), Error> {
        self.copy_payload(size_bytes, &mut io::sink())
    }

    /// Checks that the file ends here.
    ///
    /// # Errors
    ///
    /// [`Error::TrailingData`] when it does not.
    pub fn expect_end(&self) -> Result<(), Error> {
        match self.remaining_bytes() {
            0 => Ok(()),
            extra_bytes => Err(Error::TrailingData {
                path: self.path.clone(),
                offset: self.offset,
                extra_bytes,
            }),
        }
    }

    /// Bytes between here and the end of the file.
    #[must_use]
    pub fn remaining_bytes(&self) -> u64 {
        self.size_bytes - self.offset
    }

    /// How far the file has been read.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The file, as messages call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check_remaining(&self, wanted_bytes: u64) -> Result<(), Error> {
        if wanted_bytes <= self.remaining_bytes() {
            return Ok(());
        }
        Err(self.truncated(wanted_bytes))
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        let wanted_bytes = buffer.len() as u64;
        self.check_remaining(wanted_bytes)?;
        match self.input.read_exact(buffer) {
            Ok(()) => {
                self.offset += wanted_bytes;
                Ok(())
            }
            // The file became shorter after its size was taken.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.truncated(wanted_bytes))
            }
            Err(source) => Err(Error::Read {
                path: self.path.clone(),
                offset: self.offset,
                source,
            }),
        }
    }

    fn truncated(&self, wanted_bytes: u64) -> Error {
        let available_bytes = self.remaining_bytes();
        Error::Truncated {
            path: self.path.clone(),
            offset: self.offset,
            wanted_bytes,
            available_bytes,
        }
    }
}

/// A length that has been checked against a limit far below what `usize` holds.
fn to_len(size_bytes: u64) -> usize {
    debug_assert!(size_bytes <= MAX_PAYLOAD_BYTES);
    size_bytes as usize
}
