//! The headers of a Parquet file are written in Thrift's compact protocol: fields with a number and a kind each, unknown
//! ones to be passed over.
//!
//! Reads forward, no further than it may, and never reserves memory for what a header only announces.

use std::io::{self, Read};

/// Structures in structures that are passed over.
const MAX_DEPTH: usize = 64;
const EXPECTED_BYTES: &str = "expected more bytes of a header, found its end";

/// What is written of a field or of an item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    True,
    False,
    Byte,
    Int,
    Double,
    Bytes,
    List,
    Map,
    Struct,
    Uuid,
}

/// A reader of headers.
pub(super) struct Thrift<R> {
    input: R,
    /// Bytes that may still be read.
    left: u64,
    /// Bytes read so far.
    position: u64,
}

impl<R: Read> Thrift<R> {
    /// Reads at most `limit` bytes.
    pub fn new(input: R, limit: u64) -> Thrift<R> {
        Thrift { input, left: limit, position: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The input, behind what was read.
    pub fn into_input(self) -> R {
        self.input
    }

    /// The next field of a structure: its kind, and in `id` its number instead of that of the field before (0 at the
    /// start). None at the end of the structure.
    pub fn field(&mut self, id: &mut i16) -> Result<Option<Kind>, String> {
        let byte = self.byte()?;
        if byte & 0xF == 0 {
            return Ok(None);
        }
        let next = match byte >> 4 {
            0 => i16::try_from(self.zigzag()?).ok(),
            delta => id.checked_add(i16::from(delta)),
        };
        *id = next.ok_or("expected a field's number of 16 bits, found a larger one")?;
        kind(byte & 0xF).map(Some)
    }

    /// An integer of any width.
    pub fn int(&mut self, found: Kind) -> Result<i64, String> {
        expect(found, Kind::Int)?;
        self.zigzag()
    }

    /// A small integer that can't be negative.
    pub fn count(&mut self, found: Kind) -> Result<usize, String> {
        let int = self.int(found)?;
        let count = u32::try_from(int).ok().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| format!("expected a size, found {int}"))
    }

    /// An offset or a length in a file.
    pub fn offset(&mut self, found: Kind) -> Result<u64, String> {
        let int = self.int(found)?;
        u64::try_from(int).map_err(|_| format!("expected an offset, found {int}"))
    }

    /// A text.
    pub fn text(&mut self, found: Kind, max_bytes: u64) -> Result<String, String> {
        expect(found, Kind::Bytes)?;
        let len = self.varint()?;
        if len > max_bytes {
            return Err(format!("expected a name of at most {max_bytes} bytes, found {len}"));
        }
        self.take(len)?;
        let mut bytes = Vec::new();
        let n = (&mut self.input).take(len).read_to_end(&mut bytes).map_err(failed)?;
        if n as u64 != len {
            return Err(EXPECTED_BYTES.to_owned());
        }
        String::from_utf8(bytes).map_err(|_| "expected a name in UTF-8, found other bytes".to_owned())
    }

    /// How many structures a list has; they follow.
    pub fn structs(&mut self, found: Kind) -> Result<usize, String> {
        expect(found, Kind::List)?;
        let (len, item) = self.list()?;
        if len > 0 {
            expect(item, Kind::Struct)?;
        }
        // Each takes a byte at least.
        if len > self.left { Err(EXPECTED_BYTES.to_owned()) } else { Ok(len as usize) }
    }

    /// Passes over a field.
    pub fn skip(&mut self, found: Kind) -> Result<(), String> {
        self.skip_nested(found, 0)
    }

    fn skip_nested(&mut self, found: Kind, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("expected headers nested at most {MAX_DEPTH} deep, found deeper ones"));
        }
        match found {
            Kind::True | Kind::False => Ok(()),
            Kind::Byte => self.byte().map(drop),
            Kind::Int => self.varint().map(drop),
            Kind::Double => self.skip_bytes(8),
            Kind::Uuid => self.skip_bytes(16),
            Kind::Bytes => {
                let len = self.varint()?;
                self.skip_bytes(len)
            }
            Kind::Struct => {
                let mut id = 0;
                while let Some(found) = self.field(&mut id)? {
                    self.skip_nested(found, depth + 1)?;
                }
                Ok(())
            }
            Kind::List => {
                let (len, item) = self.list()?;
                (0..len).try_for_each(|_| self.skip_item(item, depth))
            }
            Kind::Map => {
                let len = self.varint()?;
                if len == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                let (key, value) = (kind(kinds >> 4)?, kind(kinds & 0xF)?);
                (0..len).try_for_each(|_| {
                    self.skip_item(key, depth)?;
                    self.skip_item(value, depth)
                })
            }
        }
    }

    /// An item takes a byte at least, truth values too, so that what announces many ends with the input.
    fn skip_item(&mut self, item: Kind, depth: usize) -> Result<(), String> {
        match item {
            Kind::True | Kind::False => self.byte().map(drop),
            _ => self.skip_nested(item, depth + 1),
        }
    }

    fn list(&mut self) -> Result<(u64, Kind), String> {
        let byte = self.byte()?;
        let len = match byte >> 4 {
            15 => self.varint()?,
            len => u64::from(len),
        };
        // Some writers give no kind to an empty list.
        let item = if len == 0 { Kind::Byte } else { kind(byte & 0xF)? };
        Ok((len, item))
    }

    fn zigzag(&mut self) -> Result<i64, String> {
        let int = self.varint()?;
        Ok((int >> 1) as i64 ^ -((int & 1) as i64))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut int = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            int |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(int);
            }
        }
        Err("expected an integer of 64 bits, found a larger one".to_owned())
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take(1)?;
        let mut byte = [0];
        self.input.read_exact(&mut byte).map_err(failed)?;
        Ok(byte[0])
    }

    fn skip_bytes(&mut self, n: u64) -> Result<(), String> {
        self.take(n)?;
        match io::copy(&mut (&mut self.input).take(n), &mut io::sink()).map_err(failed)? {
            skipped if skipped == n => Ok(()),
            _ => Err(EXPECTED_BYTES.to_owned()),
        }
    }

    fn take(&mut self, n: u64) -> Result<(), String> {
        self.left = self.left.checked_sub(n).ok_or(EXPECTED_BYTES)?;
        self.position += n;
        Ok(())
    }
}

fn kind(code: u8) -> Result<Kind, String> {
    Ok(match code {
        1 => Kind::True,
        2 => Kind::False,
        3 => Kind::Byte,
        4..=6 => Kind::Int,
        7 => Kind::Double,
        8 => Kind::Bytes,
        // A set is written as a list is.
        9 | 10 => Kind::List,
        11 => Kind::Map,
        12 => Kind::Struct,
        13 => Kind::Uuid,
        _ => return Err(format!("expected the kind of a field, found {code}")),
    })
}

fn expect(found: Kind, expected: Kind) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("expected a field of the kind {expected:?}, found {found:?}")) }
}

fn failed(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => EXPECTED_BYTES.to_owned(),
        _ => error.to_string(),
    }
}
