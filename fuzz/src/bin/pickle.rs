//! The pickle of a `.pth` file alone, without the checksum in front of it: tensors inside of their storages.
#![no_main]

use puna_checkpoint::pth::interpret;
use puna_fuzz::bounded;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(tensors) = bounded(bytes, 2, || interpret(bytes)) else { return };
    for tensor in &tensors {
        let end = tensor.offset.checked_add(tensor.n_elements);
        assert!(end.is_some_and(|end| end <= tensor.storage_len), "{tensor:?}");
        let n_elements = tensor.shape().iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
        assert_eq!(n_elements, Some(tensor.n_elements), "{tensor:?}");
    }
});
