//! Asynchronous I/O contexts: made anew, brought to where they were, and moved to their place.
//!
//! The kernel keeps the end of the ring for itself and moves it only when a request completes, so as many requests that
//! do nothing are made as it takes. The events that they leave are then written over with those that were there.

use cryopod_image::criu::{AioRingEntry, MmEntry, VmaEntry, vma_status as status};
use cryopod_sys::Errno;

use super::memory::Contents;
use crate::dump::aio::{EVENT_BYTES, HEADER_BYTES};
use crate::error::{Error, Result};
use crate::proc::mem::Mem;
use crate::remote::puppet::Puppet;

/// More than /proc/sys/fs/aio-max-nr ever allows a ring to take, in bytes.
const LARGEST_BYTES: u64 = 1 << 28;
/// `struct iocb` (linux/aio_abi.h).
const REQUEST_BYTES: usize = 64;
/// Requests made in one call.
const BATCH: u32 = 1024;
/// Where the head stands in the ring.
const HEAD: u64 = 8;

/// Whether a mapping is a ring with a context, and not one that a child inherited.
pub fn is_alive(mm: &MmEntry, vma: &VmaEntry) -> bool {
    is_ring(vma) && mm.aios.iter().any(|ring| ring.id == vma.start)
}

/// Whether a mapping is a ring.
pub fn is_ring(vma: &VmaEntry) -> bool {
    vma.status & status::AREA_AIORING != 0
}

/// Makes all contexts of a task.
pub fn restore(puppet: &Puppet, mem: &Mem, mm: &MmEntry, contents: &Contents) -> Result<()> {
    for ring in &mm.aios {
        let corrupt = |what| Error::inconsistent(format!("mm-{}", puppet.pid), what);
        let len = u64::from(ring.ring_len);
        let is_its =
            |vma: &&VmaEntry| is_ring(vma) && vma.start == ring.id && vma.end - vma.start == len;
        if !mm.vmas.iter().any(|vma| is_its(&vma)) || len > LARGEST_BYTES {
            let what = format!(
                "asynchronous I/O ring at {:#x} without its mapping",
                ring.id
            );
            return Err(corrupt(what));
        }
        let stored = contents.read_kept(ring.id..ring.id + len)?;
        let header = Header::parse(&stored)
            .filter(|header| header.fits(len))
            .ok_or_else(|| corrupt(format!("bad asynchronous I/O ring at {:#x}", ring.id)))?;
        Making { puppet, mem }.ring(ring, header, &stored)?;
    }
    Ok(())
}

/// What `struct aio_ring` begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    events: u32,
    head: u32,
    tail: u32,
}

impl Header {
    fn parse(ring: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = ring.get(at..at + 4)?;
            Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        Some(Self {
            events: word(4)?,
            head: word(8)?,
            tail: word(12)?,
        })
    }

    fn fits(&self, len: u64) -> bool {
        len > HEADER_BYTES
            && u64::from(self.events) == (len - HEADER_BYTES) / EVENT_BYTES
            && self.head < self.events
            && self.tail < self.events
    }

    /// How many requests bring the end of a new ring to `tail`: with the events going over its end, a whole turn more.
    fn requests(&self) -> u32 {
        self.tail
            + if self.tail < self.head {
                self.events
            } else {
                0
            }
    }
}

struct Making<'a> {
    puppet: &'a Puppet,
    mem: &'a Mem,
}

impl Making<'_> {
    fn ring(&self, wanted: &AioRingEntry, header: Header, stored: &[u8]) -> Result<()> {
        let puppet = self.puppet;
        let place = puppet.put(self.mem, &[0; 8])?;
        let args = [u64::from(wanted.nr_req), place, 0, 0, 0, 0];
        puppet.must("io_setup", libc::SYS_io_setup, args)?;
        let made = self.mem.read_u64(place)?;
        let now = self.mem.read_vec(made, HEADER_BYTES as usize)?;
        if Header::parse(&now).map(|now| now.events) != Some(header.events) {
            let what = format!(
                "pid {}: its asynchronous I/O ring has another size on this machine",
                puppet.pid
            );
            return Err(Error::NotRestorable { what });
        }
        self.advance(made, header)?;
        self.mem
            .write(made + HEADER_BYTES, &stored[HEADER_BYTES as usize..])?;
        self.mem.write(made + HEAD, &header.head.to_ne_bytes())?;
        let len = u64::from(wanted.ring_len);
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        let args = [made, len, len, flags, wanted.id, 0];
        puppet.must("mremap", libc::SYS_mremap, args).map(drop)
    }

    /// Completes requests until the end of the ring is where it was.
    fn advance(&self, ring: u64, header: Header) -> Result<()> {
        let wanted = header.requests();
        if wanted == 0 {
            return Ok(());
        }
        let puppet = self.puppet;
        let name = puppet.put(self.mem, b"\0")?;
        let file = puppet.must(
            "memfd_create",
            libc::SYS_memfd_create,
            [name, libc::MFD_CLOEXEC.into(), 0, 0, 0, 0],
        )?;
        let mut made = 0;
        while made < wanted {
            let count = (wanted - made).min(BATCH);
            let at = puppet.put(self.mem, &requests(puppet.data(), file as u32, count))?;
            let args = [ring, count.into(), at + REQUEST_BYTES as u64, 0, 0, 0];
            made += match puppet.call(libc::SYS_io_submit, args)? {
                Ok(0) => return Err(self.stuck(Errno::AGAIN)),
                Ok(count) => count as u32,
                Err(errno) => return Err(self.stuck(errno)),
            };
            // As if the program had collected them: the kernel sees by this that there is room again.
            let head = made.min(header.head);
            self.mem.write(ring + HEAD, &head.to_ne_bytes())?;
        }
        puppet
            .must("close", libc::SYS_close, [file, 0, 0, 0, 0, 0])
            .map(drop)
    }

    fn stuck(&self, source: Errno) -> Error {
        Error::Remote {
            call: "io_submit",
            pid: self.puppet.pid,
            source,
        }
    }
}

/// A request to read nothing from `file` and `count` pointers to it, as they are put at `at`.
fn requests(at: u64, file: u32, count: u32) -> Vec<u8> {
    const IOCB_CMD_PREAD: u16 = 0;
    let mut bytes = vec![0; 16];
    bytes.extend(IOCB_CMD_PREAD.to_ne_bytes());
    bytes.extend(0u16.to_ne_bytes());
    bytes.extend(file.to_ne_bytes());
    bytes.extend(at.to_ne_bytes());
    bytes.resize(REQUEST_BYTES, 0);
    bytes.extend((0..count).flat_map(|_| at.to_ne_bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_cannot_be_is_refused() {
        let header = |events: u32, head: u32, tail: u32| {
            let words = [7, events, head, tail, 0, 0, 0, 32];
            words.map(u32::to_ne_bytes).concat()
        };
        let good = Header::parse(&header(127, 3, 5)).unwrap();
        assert!(good.fits(4096));
        assert!(!good.fits(8192) && !good.fits(32) && !good.fits(0));
        assert!(!Header::parse(&header(127, 127, 5)).unwrap().fits(4096));
        assert!(!Header::parse(&header(127, 0, 127)).unwrap().fits(4096));
        assert_eq!(Header::parse(&[0; 15]), None);
    }

    #[test]
    fn a_full_turn_is_made_when_events_go_over_the_end() {
        let header = |head, tail| Header {
            events: 10,
            head,
            tail,
        };
        assert_eq!(header(0, 0).requests(), 0);
        assert_eq!(header(2, 5).requests(), 5);
        assert_eq!(header(5, 2).requests(), 12);
    }

    #[test]
    fn requests_are_one_that_is_pointed_to() {
        let bytes = requests(0x1000, 9, 3);
        assert_eq!(bytes.len(), REQUEST_BYTES + 3 * 8);
        assert_eq!(bytes[20..24], 9u32.to_ne_bytes());
        assert_eq!(
            bytes[REQUEST_BYTES..REQUEST_BYTES + 8],
            0x1000u64.to_ne_bytes()
        );
    }
}
