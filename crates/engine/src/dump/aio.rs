//! Asynchronous I/O contexts (io_setup(2)): a ring of events that the kernel maps into the process.
//!
//! Completed events that nobody has collected are in the ring. Requests that are still under way cannot be seen from
//! anywhere; a request on a file completes by itself while the process stands still, one that waits for a pipe or a
//! socket is lost.

use cryopod_image::criu::AioRingEntry;

use crate::error::Result;
use crate::proc::maps::Mapping;
use crate::remote::visit::Visit;

/// `struct aio_ring` up to the events.
pub const HEADER_BYTES: u64 = 32;
/// `struct io_event`.
pub const EVENT_BYTES: u64 = 32;

/// Whether a mapping is a ring.
pub fn is_ring(mapping: &Mapping) -> bool {
    mapping.name.starts_with(b"/[aio]")
}

/// The contexts of the visited process. A child inherits the mapping of its parent's ring but no context with it, which
/// is told by asking for no events.
pub fn dump(visit: &mut Visit<'_>, maps: &[Mapping]) -> Result<Vec<AioRingEntry>> {
    let mut rings = Vec::new();
    for ring in maps.iter().filter(|mapping| is_ring(mapping)) {
        let args = [ring.start, 0, 0, 0, 0, 0];
        if visit.call(libc::SYS_io_getevents, args)?.is_ok() {
            rings.push(AioRingEntry {
                id: ring.start,
                nr_req: requests(ring.size_bytes()) as u32,
                ring_len: ring.size_bytes() as u32,
            });
        }
    }
    Ok(rings)
}

/// How many requests to ask for to get a ring of `bytes`: the kernel doubles them, adds two, and fills the last page.
fn requests(bytes: u64) -> u64 {
    (bytes.saturating_sub(HEADER_BYTES) / EVENT_BYTES).saturating_sub(2) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_asked_for_in_requests() {
        // 128 requests: 258 events of 32 bytes and the header take three pages, which hold 383.
        assert_eq!(requests(3 * 4096), 190);
        assert_eq!(requests(0), 0);
    }
}
