//! An adapter of PEFT's, its configuration up to the first zero and then its tensors: as with `adapter_gguf`.
#![no_main]

use puna_checkpoint::fuzzing;
use puna_fuzz::{assert_adapter, bounded};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some(end) = input.iter().position(|byte| *byte == 0) else { return };
    let (config, weights) = (&input[..end], &input[end + 1..]);
    // The tensors are copied for it, since there is no file to map.
    if let Some(listing) = bounded(input, 4, || fuzzing::peft_adapter(config, weights).ok()) {
        assert_adapter(&listing);
    }
});
