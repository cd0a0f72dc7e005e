//! Prints `src/unicode/tables.rs` from the Unicode data of `regex-syntax`, the library that reads the split pattern in
//! tiktoken: `cargo run -p puna-text --example unicode_tables > crates/text/src/unicode/tables.rs`.

use regex_syntax::hir::{Class, HirKind};

/// The ranges that a character class of a regular expression covers.
fn ranges(class: &str) -> Vec<(u32, u32)> {
    let hir = regex_syntax::parse(class).expect("a constant pattern");
    let HirKind::Class(Class::Unicode(set)) = hir.kind() else { panic!("{class} is not a Unicode class") };
    set.ranges().iter().map(|range| (u32::from(range.start()), u32::from(range.end()))).collect()
}

fn main() {
    println!("//! Ranges of code points, both ends included; written by `examples/unicode_tables.rs`, not by hand.");
    println!("//! Unicode 16.0, from regex-syntax 0.8.12.");
    for (name, class, words) in [
        ("LETTERS", r"\p{L}", "General category L."),
        ("NUMBERS", r"\p{N}", "General category N."),
        ("SPACES", r"\s", "The property White_Space."),
    ] {
        let ranges = ranges(class);
        println!("\n/// {words}");
        println!("#[rustfmt::skip]");
        println!("pub(super) const {name}: [(u32, u32); {}] = [", ranges.len());
        for row in ranges.chunks(5) {
            let row: Vec<String> = row.iter().map(|(first, last)| format!("(0x{first:X}, 0x{last:X}),")).collect();
            println!("    {}", row.join(" "));
        }
        println!("];");
    }
}
