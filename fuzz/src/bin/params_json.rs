//! `params.json`, with every way to take the vocabulary from a tensor: what is accepted has sizes that can be multiplied.
#![no_main]

use puna_checkpoint::fuzzing;
use puna_fuzz::{assert_config, bounded};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for embedding in [None, Some([40, 32].as_slice()), Some(&[u64::MAX, 1]), Some(&[])] {
        if let Ok(config) = bounded(bytes, 2, || fuzzing::params_json(bytes, embedding, 8)) {
            assert_config(&config);
        }
    }
});
