//! How figures and progress look on the terminal. All of it goes to standard error.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of bytes; hidden where standard error is not a terminal.
pub fn byte_bar(what: &str, total: u64) -> ProgressBar {
    bar(what, total, "{msg:12} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// A bar of tokens.
pub fn token_bar(what: &str, total: u64) -> ProgressBar {
    bar(what, total, "{msg:12} {bar:40} {human_pos}/{human_len} tokens {per_sec} {eta}")
}

fn bar(what: &str, total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("a valid template");
    ProgressBar::new(total).with_style(style).with_message(what.to_string())
}

/// Bytes for people: `4.65 GiB`.
pub fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}
