//! The values of a column, one by one, page by page.
//!
//! What a page says of its size is held against what its codec can make of the bytes that are there, before any memory is
//! asked for, and a page is read only as far as it said. Counts of values reserve nothing: values are read one by one.

use super::footer::{Chunk, Codec};
use super::levels::Runs;
use super::schema::{Converted, Leaf, Physical};
use super::take;
use super::thrift::{Kind, Thrift};
use flate2::read::MultiGzDecoder;
use serde_json::Value;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;

/// A byte of gzip is no more than so many.
pub(super) const GZIP_RATIO: u64 = 1032;
/// Snappy repeats at most 64 bytes with three.
const SNAPPY_RATIO: u64 = 22;
/// Headers may quote the least and the greatest value of a page.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// A column of a row group.
pub(super) struct Column {
    leaf: Leaf,
    chunk: Chunk,
    /// Where the next page begins in the file.
    at: u64,
    /// Values that no page has held so far.
    values_left: u64,
    dictionary: Option<Dictionary>,
    page: Page,
    head: Option<Head>,
}

/// What a value of a row takes besides its text.
pub(super) const VALUE_BYTES: usize = size_of::<Value>();

/// What a row may still take, in bytes. A dictionary or a run repeats as much as it likes with a few bytes.
pub(super) struct Budget {
    left: usize,
    all: usize,
}

impl Budget {
    /// Bytes for a row.
    pub fn new(all: usize) -> Budget {
        Budget { left: all, all }
    }

    /// Takes bytes, before they are asked for.
    pub fn take(&mut self, n: usize) -> Result<(), String> {
        let left = self.left.checked_sub(n);
        self.left = left.ok_or_else(|| format!("expected a row of at most {} bytes, found a longer one", self.all))?;
        Ok(())
    }
}

/// The levels of the next value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub repetition: u8,
    pub definition: u8,
}

/// Values that pages name by their places.
struct Dictionary {
    bytes: Vec<u8>,
    /// Where texts lie; empty for values that are all of one size.
    texts: Vec<Range<usize>>,
    n_values: usize,
}

/// A page of values.
struct Page {
    bytes: Vec<u8>,
    /// Values whose levels were not read so far.
    left: usize,
    repetitions: Runs,
    definitions: Runs,
    values: Values,
}

enum Values {
    /// As they are, from here in the page.
    Plain(usize),
    /// Truth values as they are, from this bit in the page.
    Bits(usize),
    /// Truth values in runs.
    Runs(Runs),
    /// Places in the dictionary.
    Places(Runs),
}

/// What is written before a page.
struct Header {
    kind: i64,
    /// Bytes, unpacked and in the file.
    len: usize,
    packed_len: usize,
    n_values: usize,
    encoding: i64,
    repetition_encoding: i64,
    definition_encoding: i64,
    /// Of [`VALUES_2`].
    repetitions_len: usize,
    definitions_len: usize,
    is_compressed: bool,
}

/// Kinds of pages: values behind their levels, the same with levels that are not compressed, dictionaries, and what is not
/// needed.
const VALUES: i64 = 0;
const VALUES_2: i64 = 3;
const DICTIONARY: i64 = 2;
const INDEX: i64 = 1;

impl Column {
    /// At the first value.
    pub fn new(leaf: Leaf, chunk: Chunk, file: &mut (impl Read + Seek)) -> Result<Column, String> {
        let none = || Runs::new(0, 0, 0);
        let page =
            Page { bytes: Vec::new(), left: 0, repetitions: none(), definitions: none(), values: Values::Plain(0) };
        let (at, values_left) = (chunk.start, chunk.n_values);
        let mut column = Column { leaf, chunk, at, values_left, dictionary: None, page, head: None };
        column.advance(file)?;
        Ok(column)
    }

    /// The levels of the next value. None behind the last.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// The next value, null where its definition level says so.
    pub fn next(&mut self, file: &mut (impl Read + Seek), budget: &mut Budget) -> Result<Value, String> {
        let Some(head) = self.head else {
            return Err(self.problem("expected another value, found the end"));
        };
        let value = match head.definition == self.leaf.max_definition {
            true => self.value(budget).map_err(|problem| self.problem(&problem))?,
            false => Value::Null,
        };
        self.advance(file)?;
        Ok(value)
    }

    fn problem(&self, problem: &str) -> String {
        format!("column {}: {problem}", self.leaf.path)
    }

    fn advance(&mut self, file: &mut (impl Read + Seek)) -> Result<(), String> {
        self.head = self.levels(file).map_err(|problem| self.problem(&problem))?;
        Ok(())
    }

    fn levels(&mut self, file: &mut (impl Read + Seek)) -> Result<Option<Head>, String> {
        while self.page.left == 0 {
            if self.values_left == 0 {
                return Ok(None);
            }
            self.read_page(file)?;
        }
        self.page.left -= 1;
        let Page { bytes, repetitions, definitions, .. } = &mut self.page;
        let level = |runs: &mut Runs, max: u8| match max {
            0 => Ok(0),
            _ => match runs.next(bytes)? {
                level if level <= u32::from(max) => Ok(level as u8),
                level => Err(format!("expected a level of at most {max}, found {level}")),
            },
        };
        let repetition = level(repetitions, self.leaf.max_repetition)?;
        let definition = level(definitions, self.leaf.max_definition)?;
        Ok(Some(Head { repetition, definition }))
    }

    fn read_page(&mut self, file: &mut (impl Read + Seek)) -> Result<(), String> {
        let left = self.chunk.end - self.at;
        file.seek(SeekFrom::Start(self.at)).map_err(|error| error.to_string())?;
        let mut thrift = Thrift::new(BufReader::new(file), left.min(MAX_HEADER_BYTES));
        let header = read_header(&mut thrift)?;
        let left = left - thrift.position();
        if header.packed_len as u64 > left {
            return Err(format!("expected a page inside of {left} bytes, found one of {}", header.packed_len));
        }
        self.at = self.chunk.end - left + header.packed_len as u64;
        match header.kind {
            VALUES | VALUES_2 => {
                let left = self.values_left.checked_sub(header.n_values as u64);
                self.values_left = left.ok_or_else(|| {
                    format!("expected {} more values, found a page of {}", self.values_left, header.n_values)
                })?;
                let bytes = unpack(&header, self.chunk.codec, thrift.into_input())?;
                self.page = self.page(&header, bytes)?;
            }
            DICTIONARY if self.dictionary.is_some() => return Err("expected one dictionary, found two".to_owned()),
            DICTIONARY => {
                let bytes = unpack(&header, self.chunk.codec, thrift.into_input())?;
                self.dictionary = Some(self.dictionary(&header, bytes)?);
            }
            INDEX => {}
            other => return Err(format!("expected a kind of pages (0 to 3), found {other}")),
        }
        Ok(())
    }

    fn page(&self, header: &Header, bytes: Vec<u8>) -> Result<Page, String> {
        let (mut at, end) = (0, bytes.len());
        let mut levels = |max: u8, encoding: i64, len: usize| {
            let len = match header.kind {
                // Of levels that are all 0 nothing is written.
                VALUES if max == 0 => 0,
                VALUES if encoding != RLE => {
                    return Err(format!("expected levels in the encoding RLE, found {}", encoding_name(encoding)));
                }
                VALUES => u32::from_le_bytes(*take(&bytes, &mut at, end)?) as usize,
                _ => len,
            };
            let start = at;
            if len > end - start {
                return Err(format!("expected levels inside of {} bytes, found {len} bytes of them", end - start));
            }
            at += len;
            Ok(Runs::new(start, at, (u8::BITS - max.leading_zeros()) as u8))
        };
        let repetitions = levels(self.leaf.max_repetition, header.repetition_encoding, header.repetitions_len)?;
        let definitions = levels(self.leaf.max_definition, header.definition_encoding, header.definitions_len)?;
        let values = match (header.encoding, self.leaf.physical) {
            (PLAIN, Physical::Boolean) => Values::Bits(at * 8),
            (PLAIN, _) => Values::Plain(at),
            (PLAIN_DICTIONARY | RLE_DICTIONARY, _) => {
                // A page of nulls has no places, and no width of them.
                let width = bytes.get(at).copied().unwrap_or(0);
                if width > 32 {
                    return Err(format!("expected places of at most 32 bits, found {width}"));
                }
                Values::Places(Runs::new(end.min(at + 1), end, width))
            }
            // Behind their length.
            (RLE, Physical::Boolean) => Values::Runs(Runs::new(end.min(at + 4), end, 1)),
            (encoding, _) => {
                return Err(format!(
                    "expected the encoding PLAIN, RLE_DICTIONARY or, of truth values, RLE, found {}",
                    encoding_name(encoding)
                ));
            }
        };
        Ok(Page { bytes, left: header.n_values, repetitions, definitions, values })
    }

    fn dictionary(&self, header: &Header, bytes: Vec<u8>) -> Result<Dictionary, String> {
        if !matches!(header.encoding, PLAIN | PLAIN_DICTIONARY) {
            return Err(format!("expected a dictionary in PLAIN, found {}", encoding_name(header.encoding)));
        }
        let n_values = header.n_values;
        let mut texts = Vec::new();
        if self.leaf.physical == Physical::Bytes {
            let mut at = 0;
            for _ in 0..n_values {
                texts.push(text(&bytes, &mut at)?);
            }
        }
        Ok(Dictionary { bytes, texts, n_values })
    }

    /// The next value that is not null.
    fn value(&mut self, budget: &mut Budget) -> Result<Value, String> {
        let Page { bytes, values, .. } = &mut self.page;
        let (physical, converted) = (self.leaf.physical, self.leaf.converted);
        match values {
            Values::Plain(at) if physical == Physical::Bytes => {
                let text = text(bytes, at)?;
                bytes_value(&bytes[text], converted, budget)
            }
            Values::Plain(at) => number(bytes, at, physical, converted),
            Values::Bits(bit) => {
                let byte = bytes.get(*bit / 8).ok_or("expected more truth values, found the end of the page")?;
                let value = byte >> (*bit % 8) & 1 == 1;
                *bit += 1;
                Ok(value.into())
            }
            Values::Runs(runs) => Ok((runs.next(bytes)? == 1).into()),
            Values::Places(runs) => {
                let place = runs.next(bytes)? as usize;
                let dictionary = self.dictionary.as_ref().ok_or("expected a dictionary before values, found none")?;
                if place >= dictionary.n_values {
                    return Err(format!("expected a place in a dictionary of {}, found {place}", dictionary.n_values));
                }
                let bytes = &dictionary.bytes;
                match physical {
                    Physical::Bytes => bytes_value(&bytes[dictionary.texts[place].clone()], converted, budget),
                    Physical::Int32 | Physical::Float => number(bytes, &mut (place * 4), physical, converted),
                    _ => number(bytes, &mut (place * 8), physical, converted),
                }
            }
        }
    }
}

const PLAIN: i64 = 0;
const PLAIN_DICTIONARY: i64 = 2;
const RLE: i64 = 3;
const RLE_DICTIONARY: i64 = 8;

fn encoding_name(code: i64) -> String {
    let name = match code {
        PLAIN => "PLAIN",
        PLAIN_DICTIONARY => "PLAIN_DICTIONARY",
        RLE => "RLE",
        4 => "BIT_PACKED",
        5 => "DELTA_BINARY_PACKED",
        6 => "DELTA_LENGTH_BYTE_ARRAY",
        7 => "DELTA_BYTE_ARRAY",
        RLE_DICTIONARY => "RLE_DICTIONARY",
        9 => "BYTE_STREAM_SPLIT",
        _ => return format!("the code {code}"),
    };
    name.to_owned()
}

fn read_header(thrift: &mut Thrift<impl Read>) -> Result<Header, String> {
    let mut header = Header {
        kind: -1,
        len: 0,
        packed_len: 0,
        n_values: 0,
        encoding: -1,
        repetition_encoding: -1,
        definition_encoding: -1,
        repetitions_len: 0,
        definitions_len: 0,
        is_compressed: true,
    };
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (1, _) => header.kind = thrift.int(kind)?,
            (2, _) => header.len = thrift.count(kind)?,
            (3, _) => header.packed_len = thrift.count(kind)?,
            (5 | 7 | 8, Kind::Struct) => read_kind(thrift, id, &mut header)?,
            _ => thrift.skip(kind)?,
        }
    }
    Ok(header)
}

/// What only one kind of pages has: values (5), dictionaries (7), values of the second kind (8).
fn read_kind(thrift: &mut Thrift<impl Read>, parent: i16, header: &mut Header) -> Result<(), String> {
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        match (parent, id, kind) {
            (_, 1, _) => header.n_values = thrift.count(kind)?,
            (5 | 7, 2, _) | (8, 4, _) => header.encoding = thrift.int(kind)?,
            (5, 3, _) => header.definition_encoding = thrift.int(kind)?,
            (5, 4, _) => header.repetition_encoding = thrift.int(kind)?,
            (8, 5, _) => header.definitions_len = thrift.count(kind)?,
            (8, 6, _) => header.repetitions_len = thrift.count(kind)?,
            (8, 7, Kind::True | Kind::False) => header.is_compressed = kind == Kind::True,
            _ => thrift.skip(kind)?,
        }
    }
    Ok(())
}

/// Reads a page and unpacks it.
fn unpack(header: &Header, codec: Codec, file: impl Read) -> Result<Vec<u8>, String> {
    let &Header { len, packed_len, .. } = header;
    let codec = if header.is_compressed { codec } else { Codec::None };
    // Levels that are not compressed stand in front.
    let n_plain = match header.kind {
        VALUES_2 => header.repetitions_len.saturating_add(header.definitions_len),
        _ => 0,
    };
    let smaller = len.min(packed_len);
    if n_plain > smaller {
        return Err(format!("expected levels inside of a page of {smaller} bytes, found {n_plain} bytes of them"));
    }
    let n_packed = (packed_len - n_plain) as u64;
    let (range, n_unpacked) = match codec {
        Codec::None => (n_packed..=n_packed, len - n_plain),
        Codec::Snappy => (0..=n_packed * SNAPPY_RATIO, len - n_plain),
        Codec::Gzip => (0..=n_packed * GZIP_RATIO, len - n_plain),
    };
    if !range.contains(&(n_unpacked as u64)) {
        let max = range.end();
        return Err(format!("expected a page of at most {max} bytes out of {n_packed}, found one of {n_unpacked}"));
    }
    // The file has as many: the chunk ends inside of it, and the page inside of the chunk.
    let mut bytes = Vec::with_capacity(packed_len);
    file.take(packed_len as u64).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() != packed_len {
        return Err(format!("expected a page of {packed_len} bytes, found the end of the file"));
    }
    if codec == Codec::None {
        return Ok(bytes);
    }
    let (plain, packed) = bytes.split_at(n_plain);
    let mut unpacked = plain.to_vec();
    match codec {
        // A page of nulls may have nothing behind its levels, not even what a codec makes of nothing.
        _ if n_unpacked == 0 => {}
        Codec::Snappy => {
            let found = snap::raw::decompress_len(packed).map_err(|error| error.to_string())?;
            if found != n_unpacked {
                return Err(format!("expected a page of {n_unpacked} bytes, found one of {found}"));
            }
            unpacked.resize(len, 0);
            let decompressed = snap::raw::Decoder::new().decompress(packed, &mut unpacked[n_plain..]);
            decompressed.map_err(|error| error.to_string())?;
        }
        Codec::Gzip | Codec::None => {
            let mut decoder = MultiGzDecoder::new(packed).take(n_unpacked as u64 + 1);
            decoder.read_to_end(&mut unpacked).map_err(|error| error.to_string())?;
        }
    }
    if unpacked.len() != len {
        return Err(format!("expected a page of {len} bytes, found {} or more", unpacked.len()));
    }
    Ok(unpacked)
}

/// Where the text lies that begins at `at` with its length.
fn text(bytes: &[u8], at: &mut usize) -> Result<Range<usize>, String> {
    let len = u32::from_le_bytes(*take(bytes, at, bytes.len())?) as usize;
    let left = bytes.len() - *at;
    if len > left {
        return Err(format!("expected a text inside of {left} bytes, found one of {len}"));
    }
    let start = *at;
    *at += len;
    Ok(start..*at)
}

fn bytes_value(bytes: &[u8], converted: Converted, budget: &mut Budget) -> Result<Value, String> {
    budget.take(bytes.len())?;
    match std::str::from_utf8(bytes) {
        // Some writers do not say that a column is text.
        Ok(text) => Ok(text.into()),
        Err(_) if converted == Converted::None => {
            budget.take(bytes.len().saturating_mul(VALUE_BYTES))?;
            Ok(bytes.to_vec().into())
        }
        Err(_) => Err("expected a text in UTF-8, found other bytes".to_owned()),
    }
}

fn number(bytes: &[u8], at: &mut usize, physical: Physical, converted: Converted) -> Result<Value, String> {
    let end = bytes.len();
    Ok(match (physical, converted) {
        (Physical::Int32, Converted::Uint) => u32::from_le_bytes(*take(bytes, at, end)?).into(),
        (Physical::Int32, _) => i32::from_le_bytes(*take(bytes, at, end)?).into(),
        (Physical::Float, _) => f32::from_le_bytes(*take(bytes, at, end)?).into(),
        (Physical::Int64, Converted::Uint) => u64::from_le_bytes(*take(bytes, at, end)?).into(),
        (Physical::Int64, _) => i64::from_le_bytes(*take(bytes, at, end)?).into(),
        (Physical::Double, _) => f64::from_le_bytes(*take(bytes, at, end)?).into(),
        (other, _) => return Err(format!("expected numbers, found {other}")),
    })
}
