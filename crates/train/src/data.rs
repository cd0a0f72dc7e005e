//! Data to train on: from rows of a file to token ids, and which of them are trained.
//!
//! Reading order: [`open`] finds the files and the format of a data set and reads it row by row; `format` says what a row
//! means, one file a format; [`Encoder`] writes that as tokens; [`Limit`] is what becomes of those that are too long;
//! [`examples`] and [`pairs`] do all of it; [`pack`] puts examples together to sequences; [`check`] finds every fault of a
//! data set at once. Modules import only those listed below them.

pub mod check;
pub mod pack;

#[doc(hidden)]
pub mod fuzzing;

mod load;

mod encode;
mod fit;
mod source;

mod fault;
mod format;

pub use check::{Report, check};
pub use encode::{Encoded, Encoder, Example, Options, Pair, Trained};
pub use fault::{DataError, Fault, Origin, Place};
pub use fit::{Limit, Overlong};
pub use format::Format;
pub use load::{Counts, Encoding, Loaded, Outcome, encoded_rows, examples, pairs};
pub use source::{Source, Splits, open};
