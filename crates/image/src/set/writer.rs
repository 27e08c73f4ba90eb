//! Making an image set.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prost::Message;
use rustix::fs::{Mode, OFlags};

use crate::digest::FileDigest;
use crate::error::Error;
use crate::framing::{self, MAX_ENTRY_BYTES};
use crate::kind::Kind;
use crate::set::block::passes_by_cache;
use crate::set::pages_writer::PagesWriter;
use crate::set::payload::Payload;

/// An image set to write to.
///
/// Several threads may write different files of it at once. Digests are computed on the way. Nothing is flushed to
/// the disk (`fsync(2)`): that is for whoever publishes the directory.
pub struct SetWriter {
    dir: OwnedFd,
    path: PathBuf,
    passes_by_cache: bool,
    /// Every file created, by name; `None` until it is finished.
    files: Mutex<BTreeMap<String, Option<FileDigest>>>,
}

impl SetWriter {
    /// Starts an image set in `dir`, which exists.
    ///
    /// # Errors
    ///
    /// [`Error::OpenDirectory`].
    pub fn create(dir: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd =
            rustix::fs::open(dir, flags, Mode::empty()).map_err(|errno| Error::OpenDirectory {
                path: dir.to_owned(),
                source: errno.into(),
            })?;
        Ok(Self {
            passes_by_cache: passes_by_cache(fd.as_fd()),
            dir: fd,
            path: dir.to_owned(),
            files: Mutex::new(BTreeMap::new()),
        })
    }

    /// For a set that nobody is going to bring to the disk in the end: pages are written to the page cache, and the
    /// kernel writes them out at its leisure. Faster until the set is complete, and slower until it is on disk.
    #[must_use]
    pub fn cached(mut self) -> Self {
        self.passes_by_cache = false;
        self
    }

    /// The directory, as messages call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file with one entry.
    ///
    /// # Errors
    ///
    /// Those of [`entries`](Self::entries) and of [`EntryWriter`].
    pub fn write_one<M: Message>(
        &self,
        kind: Kind,
        id: Option<u64>,
        entry: &M,
    ) -> Result<(), Error> {
        let mut file = self.entries(kind, id)?;
        file.push(entry)?;
        file.finish()
    }

    /// Starts a file of entries. It must not exist yet.
    ///
    /// # Errors
    ///
    /// [`Error::Create`], [`Error::Write`]; [`Error::Id`] and [`Error::WrongKind`] when the kind has no such files
    /// or no entries.
    pub fn entries(&self, kind: Kind, id: Option<u64>) -> Result<EntryWriter<'_>, Error> {
        kind.check_has_entries()?;
        let (name, path, file) = self.create_file(kind, id)?;
        let output = BufWriter::with_capacity(64 << 10, file);
        let mut writer = EntryWriter {
            set: self,
            name,
            path,
            output,
            hasher: blake3::Hasher::new(),
            frame: Vec::new(),
        };
        writer.payload(&framing::header(kind))?;
        Ok(writer)
    }

    /// Starts a pages file. It must not exist yet.
    ///
    /// # Errors
    ///
    /// [`Error::Create`].
    pub fn pages(&self, pages_id: u32) -> Result<PagesWriter<'_>, Error> {
        let (name, path, file) = self.create_file(Kind::Pages, Some(pages_id.into()))?;
        let direct = self.passes_by_cache.then(|| self.open_direct(&name));
        Ok(PagesWriter::new(self, name, path, file, direct.flatten()))
    }

    /// Ends the set: the digests of all files, by name.
    ///
    /// # Errors
    ///
    /// [`Error::Unfinished`] when a file was begun and not finished.
    pub fn finish(self) -> Result<Vec<FileDigest>, Error> {
        let files = self
            .files
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let of_entry = |(name, digest): (String, Option<FileDigest>)| {
            digest.ok_or_else(|| Error::Unfinished {
                path: self.path.join(name),
            })
        };
        files.into_iter().map(of_entry).collect()
    }

    /// Notes the digest of a file that is complete.
    pub(super) fn finished(&self, digest: FileDigest) {
        let before = self.lock().insert(digest.name.clone(), Some(digest));
        debug_assert_eq!(
            before,
            Some(None),
            "a file is created once and finished once"
        );
    }

    fn create_file(&self, kind: Kind, id: Option<u64>) -> Result<(String, PathBuf, File), Error> {
        let name = kind.file_name(id)?;
        let path = self.path.join(&name);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, &name, flags, Mode::RUSR | Mode::WUSR).map_err(
            |errno| Error::Create {
                path: path.clone(),
                source: errno.into(),
            },
        )?;
        self.lock().insert(name.clone(), None);
        Ok((name, path, file.into()))
    }

    /// The file once more, for writing past the page cache. Without it writing merely takes longer.
    fn open_direct(&self, name: &str) -> Option<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, name, flags, Mode::empty()).ok()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Option<FileDigest>>> {
        // Every change is one insert: what a thread that panicked left behind is whole.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file of entries being written. Call [`finish`](Self::finish) at the end, or the set cannot be finished.
pub struct EntryWriter<'a> {
    set: &'a SetWriter,
    name: String,
    path: PathBuf,
    output: BufWriter<File>,
    hasher: blake3::Hasher,
    frame: Vec<u8>,
}

impl EntryWriter<'_> {
    /// Adds an entry.
    ///
    /// # Errors
    ///
    /// [`Error::Write`]; [`Error::WriteTooLarge`] above [`MAX_ENTRY_BYTES`].
    pub fn push<M: Message>(&mut self, entry: &M) -> Result<(), Error> {
        let size_bytes = entry.encoded_len() as u64;
        let length = u32::try_from(size_bytes)
            .ok()
            .filter(|_| size_bytes <= MAX_ENTRY_BYTES);
        let Some(length) = length else {
            return Err(Error::WriteTooLarge {
                path: self.path.clone(),
                size_bytes,
                limit_bytes: MAX_ENTRY_BYTES,
            });
        };
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend(length.to_le_bytes());
        frame.extend(entry.encode_to_vec());
        let written = self.payload(&frame);
        self.frame = frame;
        written
    }

    /// Adds an entry and the raw bytes behind it, which must be as many as it says.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push), and [`Error::PayloadSize`].
    pub fn push_with_payload<M: Payload>(
        &mut self,
        entry: &M,
        payload: &[u8],
    ) -> Result<(), Error> {
        let (found_bytes, expected_bytes) = (payload.len() as u64, entry.payload_bytes());
        if found_bytes != expected_bytes {
            return Err(Error::PayloadSize {
                path: self.path.clone(),
                found_bytes,
                expected_bytes,
            });
        }
        self.push(entry)?;
        self.payload(payload)
    }

    /// Adds raw bytes, for entries that [`push_with_payload`](Self::push_with_payload) does not know.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn payload(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.output.write_all(bytes);
        written.map_err(|source| self.write_error(source))?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Adds exactly `size_bytes` raw bytes from `input`.
    ///
    /// # Errors
    ///
    /// [`Error::CopyIn`], also when `input` has fewer bytes; [`Error::Write`].
    pub fn payload_from(&mut self, input: &mut dyn Read, size_bytes: u64) -> Result<(), Error> {
        let mut chunk = vec![0; 256 << 10];
        let mut left = size_bytes;
        while left > 0 {
            let length = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            let read = input.read_exact(&mut chunk[..length]);
            read.map_err(|source| Error::CopyIn {
                path: self.path.clone(),
                offset: self.hasher.count(),
                source,
            })?;
            self.payload(&chunk[..length])?;
            left -= length as u64;
        }
        Ok(())
    }

    /// Completes the file.
    ///
    /// # Errors
    ///
    /// [`Error::Write`].
    pub fn finish(mut self) -> Result<(), Error> {
        let flushed = self.output.flush();
        flushed.map_err(|source| self.write_error(source))?;
        self.set.finished(FileDigest {
            name: self.name,
            size_bytes: self.hasher.count(),
            blake3: *self.hasher.finalize().as_bytes(),
            blocks: Vec::new(),
        });
        Ok(())
    }

    /// The file, as messages call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes have been added, the magic included.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.hasher.count()
    }

    fn write_error(&self, source: io::Error) -> Error {
        Error::Write {
            path: self.path.clone(),
            offset: self.hasher.count(),
            source,
        }
    }
}
