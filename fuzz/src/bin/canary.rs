//! A target that must fail: whoever runs the targets checks with it that a failure is noticed.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(!bytes.starts_with(b"bug"), "the canary's bug is found, as it must be");
});
