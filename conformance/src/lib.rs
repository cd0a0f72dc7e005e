//! puna against independent programs, on real model files that the repository does not carry.
//!
//! The tests are ignored by default, so that a plain test run shows that they did not run. `.ci/run` runs them where the
//! files are: `PUNA_TEST_MODELS=<folder> cargo test -p puna-conformance -- --ignored`.

use std::path::PathBuf;

/// The folder of the test models.
///
/// # Panics
/// When `PUNA_TEST_MODELS` does not name one.
pub fn models() -> PathBuf {
    std::env::var_os("PUNA_TEST_MODELS").expect("set PUNA_TEST_MODELS to the folder of the test models").into()
}

/// A file of the test models, by its path in their folder.
///
/// # Panics
/// When it can't be read.
pub fn read(path: &str) -> Vec<u8> {
    let path = models().join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
