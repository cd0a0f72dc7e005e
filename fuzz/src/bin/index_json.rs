//! `model.safetensors.index.json`: no name leads out of the directory.
#![no_main]

use puna_checkpoint::fuzzing;
use puna_fuzz::bounded;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(files) = bounded(bytes, 4, || fuzzing::index_json(bytes)) else { return };
    for file in &files {
        assert!(file.ends_with(".safetensors") && !file.starts_with('.') && !file.contains(['/', '\\', ':', '\0']));
    }
});
