//! Opening the files of an image set for reading.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use prost::Message;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use crate::digest::FileDigest;
use crate::error::Error;
use crate::kind::{Framing, Kind};
use crate::set::block::passes_by_cache;
use crate::set::entries::EntryReader;
use crate::set::pages_reader::PagesReader;

/// Most memory [`SetReader::read_all`] fills with entries, not counting what they point to.
pub const MAX_READ_ALL_BYTES: u64 = 1 << 30;

/// Longest chain of parents [`SetReader::parent`] follows.
pub const MAX_PARENTS: u32 = 128;

/// Name of the link to the parent image set.
pub const PARENT_LINK: &str = "parent";

/// An image set to read from.
///
/// With digests, every file is checked to be the one that was written: a pages file block by block as it is read,
/// any other as a whole before its first entry is handed out. Without, files are taken as they are. In both cases
/// they are regular files in the directory itself, reached through no link.
pub struct SetReader {
    dir: OwnedFd,
    path: PathBuf,
    digests: Option<BTreeMap<String, FileDigest>>,
    /// How many sets have this one as their parent, directly or not.
    depth: u32,
    /// The set that this one builds on, once that is known.
    parent: OnceLock<Option<Box<SetReader>>>,
}

impl SetReader {
    /// Opens the image set in `dir`, made with these digests; `None` for a set that has none, as those of criu.
    ///
    /// # Errors
    ///
    /// [`Error::OpenDirectory`]; [`Error::BadDigestList`] when a file is listed twice.
    pub fn open(dir: &Path, digests: Option<Vec<FileDigest>>) -> Result<Self, Error> {
        let digests = digests.map(|list| index_by_name(dir, list)).transpose()?;
        let fd = open_directory(CWD, dir, dir)?;
        let parent = OnceLock::new();
        if digests.is_some() {
            // The link is not in the list: whoever has the list knows the parent.
            let _ = parent.set(None);
        }
        Ok(Self {
            dir: fd,
            path: dir.to_owned(),
            digests,
            depth: 0,
            parent,
        })
    }

    /// The same set on top of another, whatever the link in its directory says.
    ///
    /// # Errors
    ///
    /// [`Error::TooManyParents`] beyond [`MAX_PARENTS`].
    pub fn on(mut self, parent: SetReader) -> Result<Self, Error> {
        if parent.known_parents() >= MAX_PARENTS {
            return Err(self.too_many_parents());
        }
        self.parent = OnceLock::from(Some(Box::new(parent)));
        Ok(self)
    }

    /// How many parents it has, as far as they have been looked for.
    fn known_parents(&self) -> u32 {
        let mut count = 0;
        let mut set = self;
        while let Some(Some(parent)) = set.parent.get() {
            count += 1;
            set = parent;
        }
        count
    }

    /// The image set this one builds on, which holds the pages marked as in the parent; `None` if it stands alone.
    ///
    /// That of a set with digests is the one it was [put on](Self::on). Of a set without, it is where the link `parent`
    /// leads; that is followed wherever it leads, as criu does, and can only lead to another directory of image files.
    ///
    /// # Errors
    ///
    /// [`Error::OpenDirectory`]; [`Error::TooManyParents`] beyond [`MAX_PARENTS`].
    pub fn parent(&self) -> Result<Option<&SetReader>, Error> {
        if let Some(known) = self.parent.get() {
            return Ok(known.as_deref());
        }
        let found = self.follow_link()?.map(Box::new);
        Ok(self.parent.get_or_init(|| found).as_deref())
    }

    fn too_many_parents(&self) -> Error {
        Error::TooManyParents {
            path: self.path.clone(),
            limit: MAX_PARENTS,
        }
    }

    fn follow_link(&self) -> Result<Option<SetReader>, Error> {
        let path = self.path.join(PARENT_LINK);
        let dir = match open_directory(self.dir.as_fd(), Path::new(PARENT_LINK), &path) {
            Err(Error::OpenDirectory { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                return self.no_parent(path);
            }
            other => other?,
        };
        if self.depth >= MAX_PARENTS {
            return Err(self.too_many_parents());
        }
        Ok(Some(Self {
            dir,
            path,
            digests: None,
            depth: self.depth + 1,
            parent: OnceLock::new(),
        }))
    }

    /// Tells a set without a parent from one whose parent is missing.
    fn no_parent(&self, path: PathBuf) -> Result<Option<SetReader>, Error> {
        match rustix::fs::statat(
            &self.dir,
            PARENT_LINK,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Ok(_) => Err(Error::OpenDirectory {
                path,
                source: io::ErrorKind::NotFound.into(),
            }),
            Err(errno) => Err(Error::OpenDirectory {
                path,
                source: errno.into(),
            }),
        }
    }

    /// The directory, as messages call it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is such a file; with digests, whether there should be one.
    #[must_use]
    pub fn exists(&self, kind: Kind, id: Option<u64>) -> bool {
        let Ok(name) = kind.file_name(id) else {
            return false;
        };
        match &self.digests {
            Some(digests) => digests.contains_key(&name),
            None => {
                rustix::fs::statat(&self.dir, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
            }
        }
    }

    /// Opens a file to be read entry by entry.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], [`Error::NotRegular`], [`Error::NotListed`], [`Error::FileSize`], [`Error::FileDigest`],
    /// [`Error::Read`], [`Error::Truncated`], [`Error::BadMagic`], [`Error::OldFormat`]; [`Error::Id`] and
    /// [`Error::WrongKind`] when the kind has no such files or no entries.
    pub fn entries(&self, kind: Kind, id: Option<u64>) -> Result<EntryReader<'static>, Error> {
        kind.check_has_entries()?;
        let (mut file, path, size_bytes, digest) = self.open_file(kind, id)?;
        if let Some(digest) = digest {
            check_whole(&mut file, &path, digest)?;
        }
        EntryReader::new(kind, path, size_bytes, BufReader::new(file))
    }

    /// Reads a file that has exactly one entry and nothing behind it.
    ///
    /// # Errors
    ///
    /// Those of [`entries`](Self::entries) and [`EntryReader::next_entry`]; [`Error::NoEntry`];
    /// [`Error::TrailingData`].
    pub fn read_one<M: Message + Default>(&self, kind: Kind, id: Option<u64>) -> Result<M, Error> {
        let mut reader = self.entries(kind, id)?;
        let entry = reader.expect_entry()?;
        reader.expect_end()?;
        Ok(entry)
    }

    /// Reads all entries of a file.
    ///
    /// # Errors
    ///
    /// Those of [`entries`](Self::entries) and [`EntryReader::next_entry`]; [`Error::TooManyEntries`] when they
    /// would take more than [`MAX_READ_ALL_BYTES`].
    pub fn read_all<M: Message + Default>(
        &self,
        kind: Kind,
        id: Option<u64>,
    ) -> Result<Vec<M>, Error> {
        let limit = MAX_READ_ALL_BYTES / (size_of::<M>() as u64).max(1);
        let mut reader = self.entries(kind, id)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            if entries.len() as u64 == limit {
                let (path, offset) = (reader.path().to_owned(), reader.offset());
                return Err(Error::TooManyEntries {
                    path,
                    offset,
                    limit,
                });
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Opens a pages file.
    ///
    /// # Errors
    ///
    /// [`Error::Open`], [`Error::NotRegular`], [`Error::NotListed`], [`Error::FileSize`], [`Error::BadDigestList`].
    pub fn pages(&self, pages_id: u32) -> Result<PagesReader, Error> {
        let (file, path, size_bytes, digest) =
            self.open_file(Kind::Pages, Some(pages_id.into()))?;
        if let Some(digest) = digest {
            digest.check_blocks(&path)?;
        }
        let direct = passes_by_cache(file.as_fd()).then(|| open_direct(&file));
        Ok(PagesReader::new(
            file,
            direct.flatten(),
            path,
            size_bytes,
            digest.map(|digest| digest.blocks.clone()),
        ))
    }

    /// Opens a file and holds its size against the list. The contents are not looked at.
    fn open_file(
        &self,
        kind: Kind,
        id: Option<u64>,
    ) -> Result<(File, PathBuf, u64, Option<&FileDigest>), Error> {
        let name = kind.file_name(id)?;
        let path = self.path.join(&name);
        let digest = match &self.digests {
            Some(digests) => Some(
                digests
                    .get(&name)
                    .ok_or_else(|| Error::NotListed { path: path.clone() })?,
            ),
            None => None,
        };
        // O_NONBLOCK so that a named pipe in the place of the file does not block the open; regular files ignore it.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let open_error = |errno: rustix::io::Errno| match (errno, digest) {
            (rustix::io::Errno::NOENT, Some(_)) => Error::Missing { path: path.clone() },
            _ => Error::Open {
                path: path.clone(),
                source: errno.into(),
            },
        };
        let file =
            rustix::fs::openat(&self.dir, &name, flags, Mode::empty()).map_err(open_error)?;
        let stat = rustix::fs::fstat(&file).map_err(open_error)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::NotRegular { path });
        }
        let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if let Some(digest) = digest {
            if size_bytes != digest.size_bytes {
                let expected_bytes = digest.size_bytes;
                return Err(Error::FileSize {
                    path,
                    found_bytes: size_bytes,
                    expected_bytes,
                });
            }
            if kind.framing() != Framing::Raw && !digest.blocks.is_empty() {
                return Err(Error::BadDigestList {
                    path,
                    what: "there are block digests, but it is no pages file",
                });
            }
        }
        Ok((file.into(), path, size_bytes, digest))
    }
}

fn index_by_name(dir: &Path, list: Vec<FileDigest>) -> Result<BTreeMap<String, FileDigest>, Error> {
    let mut digests = BTreeMap::new();
    for digest in list {
        if let Some(twice) = digests.insert(digest.name.clone(), digest) {
            return Err(Error::BadDigestList {
                path: dir.join(twice.name),
                what: "it is listed twice",
            });
        }
    }
    Ok(digests)
}

/// An open file once more, for reading past the page cache. Without it reading merely takes longer.
fn open_direct(file: &File) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok()
}

fn open_directory(at: impl AsFd, name: &Path, path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty()).map_err(|errno| Error::OpenDirectory {
        path: path.to_owned(),
        source: errno.into(),
    })
}

/// Reads the file from beginning to end, compares, and goes back to the beginning.
///
/// It is read again for its entries. Whoever can change it in between can change the list of digests as well: they
/// guard against damage, not against the owner of the directory.
fn check_whole(file: &mut File, path: &Path, digest: &FileDigest) -> Result<(), Error> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    let read_error = |offset, source| Error::Read {
        path: path.to_owned(),
        offset,
        source,
    };
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(read_error(hasher.count(), source)),
        };
    }
    if *hasher.finalize().as_bytes() != digest.blake3 {
        return Err(Error::FileDigest {
            path: path.to_owned(),
        });
    }
    file.rewind().map_err(|source| read_error(0, source))
}
