//! What the fuzz targets share. Run one with `cargo +nightly fuzz run TARGET`, from the root of the repository.

use cryopod_image::set::parse_bytes;
use cryopod_image::{Kind, framing};

/// Parses `body` as what follows the magic of each of these kinds, so that the fuzzer need not find the magic first.
pub fn parse_bodies(kinds: &[Kind], body: &[u8]) {
    for &kind in kinds {
        let _ = parse_bytes(kind, &[framing::header(kind).as_slice(), body].concat());
    }
}
