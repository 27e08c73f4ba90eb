//! /proc/PID/mem: another address space as a file.

use std::fs::File;
use std::os::fd::AsFd;

use cryopod_sys::Errno;

use crate::error::{Context, Error, Result};

/// The memory of one process. Reading does not pin pages (unlike process_vm_readv(2)), and writing works on read-only
/// private mappings too.
#[derive(Debug)]
pub struct Mem {
    pid: i32,
    file: File,
}

impl Mem {
    /// Opens /proc/PID/mem; needs the rights of a tracer.
    pub fn open(pid: i32) -> Result<Self> {
        let path = super::path(pid, "mem");
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| Error::Path {
                operation: "open",
                path,
                source,
            })?;
        Ok(Self { pid, file })
    }

    /// Fills `buffer` from `address`.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(
                self.file.as_fd(),
                &mut buffer[done..],
                address + done as u64,
            ) {
                Ok(0) => return Err(Errno::IO).task("read its memory", self.pid),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).task("read its memory", self.pid),
            }
        }
        Ok(())
    }

    /// `len` bytes from `address`.
    pub fn read_vec(&self, address: u64, len: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; len];
        self.read(address, &mut buffer)?;
        Ok(buffer)
    }

    /// A 64-bit word at `address`.
    pub fn read_u64(&self, address: u64) -> Result<u64> {
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Ok(u64::from_ne_bytes(word))
    }

    /// A 32-bit word at `address`.
    pub fn read_u32(&self, address: u64) -> Result<u32> {
        let mut word = [0; 4];
        self.read(address, &mut word)?;
        Ok(u32::from_ne_bytes(word))
    }

    /// Writes `bytes` at `address`.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pwrite(self.file.as_fd(), &bytes[done..], address + done as u64) {
                Ok(0) => return Err(Errno::IO).task("write its memory", self.pid),
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).task("write its memory", self.pid),
            }
        }
        Ok(())
    }
}
