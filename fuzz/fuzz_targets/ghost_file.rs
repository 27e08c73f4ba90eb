//! Contents of unlinked files, plain and in chunks.
#![no_main]

use cryopod_fuzz::parse_bodies;
use cryopod_image::Kind;

libfuzzer_sys::fuzz_target!(|body: &[u8]| parse_bodies(&[Kind::GhostFile], body));
