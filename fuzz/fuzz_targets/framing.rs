//! Whole files of any kind, magic and all.
#![no_main]

use cryopod_image::Kind;
use cryopod_image::set::parse_bytes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for &kind in Kind::ALL {
        let _ = parse_bytes(kind, bytes);
    }
});
