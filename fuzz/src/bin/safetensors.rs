//! A safetensors header: extents inside of the file, and the same meaning for the format's reference reader.
#![no_main]

use puna_checkpoint::safetensors::Header;
use puna_fuzz::{assert_inside, bounded};

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let Ok(header) = bounded(file, 2, || Header::parse(file)) else { return };
    let reference = safetensors::SafeTensors::deserialize(file).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(header.entries.len(), reference.len());
    for entry in &header.entries {
        assert_inside(file, entry.start, entry.len);
        let theirs = reference.tensor(&entry.name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(theirs.data(), &file[entry.start as usize..][..entry.len as usize]);
        assert!(theirs.shape().iter().map(|&dim| dim as u64).eq(entry.shape.iter().copied()));
        assert_eq!(serde_json::to_value(theirs.dtype()).ok(), Some(entry.dtype.into()));
    }
});
