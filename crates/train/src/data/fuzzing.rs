//! Rows from bytes instead of files, for the targets in `fuzz/`. No part of the interface.

use super::encode::Encoder;
use super::fault::DataError;
use super::fit::Limit;
use super::format::Format;
use super::load::{Encoding, encode, understand};
use super::source::{json_rows, parquet_rows};
use serde_json::Value;
use std::io::Cursor;

/// JSON Lines, or what follows the bracket of a JSON array.
pub fn rows(
    bytes: &[u8],
    is_array: bool,
    format: Format,
    encoder: &Encoder,
    limit: &Limit,
) -> Vec<Result<Encoding, DataError>> {
    json_rows(Box::new(Cursor::new(bytes.to_vec())), "rows".into(), is_array)
        .map(|row| Ok(encode(&understand(format, row?)?, encoder, limit)?))
        .collect()
}

/// The first rows of a Parquet file, at most `n`; their members in JSON.
pub fn parquet(bytes: &[u8], n: usize) -> Vec<Result<String, DataError>> {
    match parquet_rows(Cursor::new(bytes.to_vec()), bytes.len() as u64, "rows".into()) {
        Ok(rows) => rows.take(n).map(|row| Ok(Value::from(row?.members).to_string())).collect(),
        Err(error) => vec![Err(error)],
    }
}
