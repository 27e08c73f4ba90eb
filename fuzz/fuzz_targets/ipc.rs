//! System V IPC.
#![no_main]

use cryopod_fuzz::parse_bodies;
use cryopod_image::Kind;

libfuzzer_sys::fuzz_target!(|body: &[u8]| parse_bodies(
    &[Kind::IpcnsShm, Kind::IpcnsSem, Kind::IpcnsMsg],
    body
));
