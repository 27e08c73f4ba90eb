//! Descriptions of checkpoints in a store: what is taken can be written, and is the same when it is read again.
#![no_main]

use cryopod_store::CheckpointMeta;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(meta) = CheckpointMeta::from_slice(bytes) {
        let written = meta.to_vec().expect("what is taken can be written");
        let again = CheckpointMeta::from_slice(&written).expect("what is written can be taken");
        assert_eq!(again.to_vec().expect("it was written before"), written);
    }
});
