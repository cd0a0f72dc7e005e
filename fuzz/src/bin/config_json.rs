//! `config.json`, and the files beside it: what is accepted has sizes that can be multiplied.
#![no_main]

use puna_checkpoint::fuzzing;
use puna_fuzz::{assert_config, bounded};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = bounded(bytes, 2, || fuzzing::config_json(bytes)) {
        assert_config(&config);
    }
    let _ = bounded(bytes, 2, || fuzzing::generation_config_json(bytes));
    let _ = bounded(bytes, 2, || fuzzing::tokenizer_config_json(bytes));
});
