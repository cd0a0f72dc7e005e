//! A GGUF file: extents inside of it, and every weight of a model can be decoded.
#![no_main]

use puna_checkpoint::{fuzzing, gguf::Header};
use puna_fuzz::{assert_inside, bounded};

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let Ok(header) = bounded(file, 2, || Header::parse(file)) else { return };
    for tensor in &header.tensors {
        assert_inside(file, tensor.start, tensor.len);
        assert!(tensor.dims.iter().all(|&dim| dim > 0));
    }
    // The file is copied for it, since there is none to map.
    let Some(model) = bounded(file, 4, || fuzzing::gguf(file).ok()) else { return };
    for tensor in model.tensors() {
        assert_eq!(tensor.to_f32().len(), tensor.rows * tensor.cols);
    }
});
