//! Names of checkpoints, as users give them: whatever is taken is a safe name of a directory.
#![no_main]

use cryopod_store::Ref;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(reference) = Ref::parse(text) {
        assert_eq!(reference.to_string(), text);
        assert!(!text.contains(['/', '\0']) && !text.starts_with('.'));
    }
});
