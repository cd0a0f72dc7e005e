//! The four classes of characters that the split pattern tells apart, by pinned tables.
//!
//! Ids must not change with the toolchain, so the tables are our own and of the Unicode version that tiktoken uses. The
//! standard library's `char::is_alphabetic` is another set: it holds marks and letter-like numbers too.

mod tables;

/// What a character is to the split pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// None of the others: punctuation, symbols, marks, controls, unassigned.
    Other = 0,
    /// `\p{L}`.
    Letter = 1,
    /// `\p{N}`.
    Number = 2,
    /// `\s`; carriage return and line feed, which the pattern singles out, are told by their byte.
    Space = 3,
}

impl Class {
    fn from_bits(bits: u8) -> Class {
        match bits & 3 {
            1 => Class::Letter,
            2 => Class::Number,
            3 => Class::Space,
            _ => Class::Other,
        }
    }
}

/// Two bits for every code point of the Basic Multilingual Plane: 16 KiB, where nearly all text lives.
static BASIC_PLANE: [u8; 0x1_0000 / 4] = basic_plane();

const fn basic_plane() -> [u8; 0x1_0000 / 4] {
    let mut plane = [0; 0x1_0000 / 4];
    fill(&mut plane, &tables::LETTERS, Class::Letter as u8);
    fill(&mut plane, &tables::NUMBERS, Class::Number as u8);
    fill(&mut plane, &tables::SPACES, Class::Space as u8);
    plane
}

const fn fill(plane: &mut [u8; 0x1_0000 / 4], ranges: &[(u32, u32)], bits: u8) {
    let mut idx = 0;
    while idx < ranges.len() {
        let (mut code, last) = ranges[idx];
        while code <= last && code < 0x1_0000 {
            plane[code as usize / 4] |= bits << (2 * (code % 4));
            code += 1;
        }
        idx += 1;
    }
}

/// The class of a character.
pub(crate) fn class(c: char) -> Class {
    let code = u32::from(c);
    match BASIC_PLANE.get(code as usize / 4) {
        Some(quad) => Class::from_bits(quad >> (2 * (code % 4))),
        None if contains(&tables::LETTERS, code) => Class::Letter,
        None if contains(&tables::NUMBERS, code) => Class::Number,
        None => Class::Other,
    }
}

fn contains(ranges: &[(u32, u32)], code: u32) -> bool {
    let after = ranges.partition_point(|&(first, _)| first <= code);
    after.checked_sub(1).and_then(|idx| ranges.get(idx)).is_some_and(|&(_, last)| code <= last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_syntax::hir::{Class as HirClass, HirKind};

    fn ranges(class: &str) -> Vec<(u32, u32)> {
        let hir = regex_syntax::parse(class).unwrap();
        let HirKind::Class(HirClass::Unicode(set)) = hir.kind() else { panic!("{class} is not a Unicode class") };
        set.ranges().iter().map(|range| (range.start().into(), range.end().into())).collect()
    }

    #[test]
    fn committed_tables_are_those_of_regex_syntax() {
        assert_eq!(ranges(r"\p{L}"), tables::LETTERS);
        assert_eq!(ranges(r"\p{N}"), tables::NUMBERS);
        assert_eq!(ranges(r"\s"), tables::SPACES);
    }

    #[test]
    fn every_character_has_the_class_of_its_range() {
        for c in '\0'..=char::MAX {
            let code = c.into();
            let expected = match () {
                () if contains(&tables::LETTERS, code) => Class::Letter,
                () if contains(&tables::NUMBERS, code) => Class::Number,
                () if contains(&tables::SPACES, code) => Class::Space,
                () => Class::Other,
            };
            assert_eq!(class(c), expected, "{c:?}");
        }
        assert!(tables::SPACES.iter().all(|&(_, last)| last < 0x1_0000), "white space is looked for in the plane only");
    }
}
