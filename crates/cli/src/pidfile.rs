//! Files that tell others a pid, and descriptors that tell others that it is time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What to do with a pidfile that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It is an error.
    Refuse,
    /// It is overwritten.
    Overwrite,
}

/// A pidfile that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the pidfile {}", .path.display())]
pub(crate) struct PidFileError {
    /// The file.
    pub(crate) path: PathBuf,
    /// Why.
    pub(crate) source: io::Error,
}

/// A pidfile, made before there is a pid so that a path that is wrong is found in time. One that was made and never
/// written is removed again.
#[derive(Debug)]
pub(crate) struct PidFile {
    file: File,
    path: PathBuf,
    remove: bool,
}

impl PidFile {
    /// Creates or opens it.
    pub(crate) fn create(path: &Path, existing: Existing) -> Result<Self, PidFileError> {
        let mut options = OpenOptions::new();
        options.write(true).mode(0o644);
        let opened = match (options.clone().create_new(true).open(path), existing) {
            (Err(error), Existing::Overwrite) if error.kind() == io::ErrorKind::AlreadyExists => {
                options.open(path).map(|file| (file, false))
            }
            (opened, _) => opened.map(|file| (file, true)),
        };
        match opened {
            Ok((file, remove)) => Ok(Self {
                file,
                path: path.to_owned(),
                remove,
            }),
            Err(source) => Err(PidFileError {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Writes the pid, and `end` behind it.
    pub(crate) fn write(mut self, pid: i32, end: &str) -> Result<(), PidFileError> {
        let text = format!("{pid}{end}");
        let written = self
            .file
            .set_len(0)
            .and_then(|()| self.file.write_all(text.as_bytes()));
        match written {
            Ok(()) => {
                self.remove = false;
                Ok(())
            }
            Err(source) => Err(PidFileError {
                path: self.path.clone(),
                source,
            }),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.remove {
            // Whoever waits for it finds out from the exit code.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes one zero byte to the inherited descriptor `fd`: "I am ready".
pub(crate) fn tell_ready(fd: u32) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{fd}"))?
        .write_all(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_that_was_never_written_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        drop(PidFile::create(&path, Existing::Refuse).unwrap());
        assert!(!path.exists());
        PidFile::create(&path, Existing::Refuse)
            .unwrap()
            .write(12345, "\n")
            .unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "12345\n");
        assert!(PidFile::create(&path, Existing::Refuse).is_err());
        drop(PidFile::create(&path, Existing::Overwrite).unwrap());
        PidFile::create(&path, Existing::Overwrite)
            .unwrap()
            .write(7, "")
            .unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7");
    }

    #[test]
    fn readiness_is_a_zero_byte() {
        use std::io::Read;
        use std::os::fd::AsRawFd;
        let (mut reader, writer) = io::pipe().unwrap();
        tell_ready(writer.as_raw_fd() as u32).unwrap();
        drop(writer);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [0]);
    }
}
