//! An adapter in GGUF: what is accepted fits together, and loads where it fits a base.
#![no_main]

use puna_checkpoint::fuzzing;
use puna_fuzz::{assert_adapter, bounded};

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    // The file is copied for it, since there is none to map.
    if let Some(listing) = bounded(file, 4, || fuzzing::gguf_adapter(file).ok()) {
        assert_adapter(&listing);
    }
});
