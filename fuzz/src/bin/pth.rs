//! A `.pth` file: members and tensors inside of it.
#![no_main]

use puna_checkpoint::pth::{Archive, read};
use puna_fuzz::{assert_inside, bounded};

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let Ok(archive) = bounded(file, 2, || Archive::parse(file)) else { return };
    for member in &archive.members {
        assert_inside(file, member.start, member.len);
    }
    let Ok(views) = bounded(file, 2, || read(file)) else { return };
    for view in &views {
        assert_inside(file, view.start, view.len);
        assert!(archive.members.iter().any(|m| m.start <= view.start && view.start + view.len <= m.start + m.len));
    }
});
