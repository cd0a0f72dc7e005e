//! Parquet files: whatever one says of sizes, no more is held than it can hold, and rows are objects.
#![no_main]

use puna_fuzz::bounded;
use puna_train::data::fuzzing::parquet;

const N_ROWS: usize = 100;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // A byte of gzip is a kilobyte; of a row there is a tree, and the text of it.
    for row in bounded(bytes, 4096, || parquet(bytes, N_ROWS)).into_iter().flatten() {
        assert!(row.starts_with('{'), "{row}");
    }
});
