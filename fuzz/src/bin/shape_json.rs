//! The sizes that a user gives `puna synth`: what is accepted has sizes that can be multiplied.
#![no_main]

use puna_checkpoint::synth::Shape;
use puna_fuzz::{assert_config, bounded};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(json) = std::str::from_utf8(bytes) else { return };
    if let Ok(shape) = bounded(bytes, 2, || Shape::from_json("fuzzed", json)) {
        assert_config(shape.config());
    }
});
