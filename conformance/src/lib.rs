//! puna against independent programs, on real model files that the repository does not carry.
//!
//! The tests are ignored by default, so that a plain test run shows that they did not run. `.ci/run` runs them where the
//! files are: `PUNA_TEST_MODELS=<folder> cargo test -p puna-conformance -- --ignored`.

use serde_json::Value;
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

/// A JSON file of the test models, by its path in their folder.
///
/// # Panics
/// When it can't be read, or is no JSON.
pub fn read_json(path: &str) -> Value {
    serde_json::from_slice(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What training with other programs gave, by the name of its file.
///
/// # Panics
/// When it can't be read.
pub fn golden(name: &str) -> Value {
    read_json(&format!("bard/golden/train/{name}"))
}

/// A list of ids, of places or of masks.
///
/// # Panics
/// When it is another list, or none.
pub fn numbers(list: &Value) -> Vec<u32> {
    let numbers = list
        .as_array()
        .and_then(|list| list.iter().map(|number| number.as_u64().and_then(|number| number.try_into().ok())).collect());
    numbers.unwrap_or_else(|| panic!("expected numbers of 32 bits, found {list}"))
}
