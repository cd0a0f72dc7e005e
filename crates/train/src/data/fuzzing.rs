//! Rows in JSON from bytes instead of files, for the targets in `fuzz/`. No part of the interface.

use super::encode::Encoder;
use super::fault::DataError;
use super::fit::Limit;
use super::format::Format;
use super::load::{Encoding, encode, understand};
use super::source::json_rows;
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
