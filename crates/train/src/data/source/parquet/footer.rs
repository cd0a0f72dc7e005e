//! The end of a file: which columns there are, and where they lie.

use super::schema::{Converted, Element, Physical, Repetition, Schema};
use super::thrift::{Kind, Thrift};
use std::io::{BufReader, Read, Seek, SeekFrom};

/// Thousands of row groups of hundreds of columns take less.
const MAX_FOOTER_BYTES: u64 = 16 << 20;
const MAX_NAME_BYTES: u64 = 256;
const MAGIC: [u8; 4] = *b"PAR1";
const ENCRYPTED_MAGIC: [u8; 4] = *b"PARE";

/// What the footer says, checked against the length of the file.
pub(super) struct Footer {
    pub schema: Schema,
    pub groups: Vec<Group>,
}

/// Some of the rows.
pub(super) struct Group {
    pub n_rows: u64,
    /// One for each column of the schema.
    pub chunks: Vec<Chunk>,
}

/// The values of a column in a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub codec: Codec,
    /// Bytes in the file.
    pub start: u64,
    pub end: u64,
    /// Null ones are counted too.
    pub n_values: u64,
}

/// How pages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Snappy,
    Gzip,
}

/// Reads the footer of a file of `len` bytes.
pub(super) fn read(file: &mut (impl Read + Seek), len: u64) -> Result<Footer, String> {
    // The magic at the start, and a footer of at least no bytes.
    let end = len.checked_sub(8).filter(|&end| end >= 4).ok_or("expected a Parquet file, found one that is cut off")?;
    let mut tail = [0; 8];
    file.seek(SeekFrom::Start(end)).and_then(|_| file.read_exact(&mut tail)).map_err(|error| error.to_string())?;
    let [a, b, c, d, magic @ ..] = tail;
    if magic == ENCRYPTED_MAGIC {
        return Err("expected a Parquet file, found one that is encrypted".to_owned());
    }
    if magic != MAGIC {
        return Err("expected a Parquet file with PAR1 at its end, found another end; it may be cut off".to_owned());
    }
    let footer_len = u64::from(u32::from_le_bytes([a, b, c, d]));
    let start = end.checked_sub(footer_len).filter(|&start| start >= 4);
    let start = start.ok_or_else(|| format!("expected a footer inside of {len} bytes, found one of {footer_len}"))?;
    if footer_len > MAX_FOOTER_BYTES {
        return Err(format!("expected a footer of at most {MAX_FOOTER_BYTES} bytes, found {footer_len}"));
    }
    file.seek(SeekFrom::Start(start)).map_err(|error| error.to_string())?;
    parse(&mut Thrift::new(BufReader::new(file), footer_len), start)
}

fn parse(thrift: &mut Thrift<impl Read>, data_end: u64) -> Result<Footer, String> {
    let (mut schema, mut groups) = (None, None);
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        match id {
            2 => {
                let mut elements = Vec::new();
                for _ in 0..thrift.structs(kind)? {
                    elements.push(element(thrift)?);
                }
                schema = Some(Schema::new(elements)?);
            }
            4 => {
                let schema = schema.as_ref().ok_or("expected the schema before the row groups, found none")?;
                let mut list = Vec::new();
                for _ in 0..thrift.structs(kind)? {
                    list.push(group(thrift, schema, data_end)?);
                }
                groups = Some(list);
            }
            _ => thrift.skip(kind)?,
        }
    }
    let schema = schema.ok_or("expected a schema, found none")?;
    let groups = groups.ok_or("expected row groups, found none")?;
    // Else the same bytes could be read over and over again.
    let chunks = groups.iter().flat_map(|group| &group.chunks);
    let len = chunks.fold(0_u64, |sum, chunk| sum.saturating_add(chunk.end - chunk.start));
    if len > data_end {
        return Err(format!("expected values in different places before byte {data_end}, found {len} bytes of them"));
    }
    Ok(Footer { schema, groups })
}

fn element(thrift: &mut Thrift<impl Read>) -> Result<Element, String> {
    let (mut physical, mut repetition, mut name) = (None, Repetition::Required, None);
    let (mut n_children, mut converted, mut logical) = (0, None, None);
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        match id {
            1 => physical = Some(Physical::from_code(thrift.int(kind)?)?),
            3 => repetition = Repetition::from_code(thrift.int(kind)?)?,
            4 => name = Some(thrift.text(kind, MAX_NAME_BYTES)?),
            5 => n_children = thrift.count(kind)?,
            6 => converted = Some(Converted::from_code(thrift.int(kind)?)?),
            10 => logical = logical_type(thrift, kind)?,
            _ => thrift.skip(kind)?,
        }
    }
    let name = name.ok_or("expected a name of a column, found none")?;
    // The newer way to say what values mean is only looked at where the older is missing: they agree.
    let converted = converted.or(logical).unwrap_or(Converted::None);
    Ok(Element { name, physical, repetition, n_children, converted })
}

/// What the newer way to write the meaning of values is in the older. None where that has no word for it.
fn logical_type(thrift: &mut Thrift<impl Read>, kind: Kind) -> Result<Option<Converted>, String> {
    if kind != Kind::Struct {
        return Err("expected the meaning of a column, found no structure".to_owned());
    }
    let mut converted = None;
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        converted = match id {
            1 => Some(Converted::Utf8),
            2 => Some(Converted::Map),
            3 => Some(Converted::List),
            4 => Some(Converted::Enum),
            5 => Some(Converted::Decimal),
            6 => Some(Converted::Date),
            7 => Some(Converted::Time),
            8 => Some(Converted::Timestamp),
            10 if kind == Kind::Struct => {
                converted = Some(integer(thrift)?);
                continue;
            }
            12 => Some(Converted::Json),
            13 => Some(Converted::Bson),
            _ => None,
        };
        thrift.skip(kind)?;
    }
    Ok(converted)
}

fn integer(thrift: &mut Thrift<impl Read>) -> Result<Converted, String> {
    let mut is_signed = true;
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        match (id, kind) {
            (2, Kind::True | Kind::False) => is_signed = kind == Kind::True,
            _ => thrift.skip(kind)?,
        }
    }
    // The width is that of the physical type.
    Ok(if is_signed { Converted::Int } else { Converted::Uint })
}

fn group(thrift: &mut Thrift<impl Read>, schema: &Schema, data_end: u64) -> Result<Group, String> {
    let (mut chunks, mut n_rows) = (None, None);
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        match id {
            1 => {
                let n = thrift.structs(kind)?;
                if n != schema.leaves.len() {
                    let expected = schema.leaves.len();
                    return Err(format!("expected row groups of {expected} columns as the schema's, found {n}"));
                }
                let mut list = Vec::new();
                for leaf in &schema.leaves {
                    let chunk = chunk(thrift, data_end);
                    list.push(chunk.map_err(|problem| format!("column {}: {problem}", leaf.path))?);
                }
                chunks = Some(list);
            }
            3 => n_rows = Some(thrift.offset(kind)?),
            _ => thrift.skip(kind)?,
        }
    }
    let chunks = chunks.ok_or("expected the columns of a row group, found none")?;
    Ok(Group { chunks, n_rows: n_rows.ok_or("expected the rows of a row group, found none")? })
}

fn chunk(thrift: &mut Thrift<impl Read>, data_end: u64) -> Result<Chunk, String> {
    let mut chunk = None;
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        match id {
            1 => return Err("expected values in this file, found the name of another".to_owned()),
            3 if kind == Kind::Struct => chunk = Some(column(thrift, data_end)?),
            _ => thrift.skip(kind)?,
        }
    }
    chunk.ok_or("expected where its values are, found nothing".to_owned())
}

fn column(thrift: &mut Thrift<impl Read>, data_end: u64) -> Result<Chunk, String> {
    let (mut codec, mut n_values, mut len, mut start, mut dictionary) = (None, None, None, None, None);
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        match id {
            4 => codec = Some(Codec::from_code(thrift.int(kind)?)?),
            5 => n_values = Some(thrift.offset(kind)?),
            7 => len = Some(thrift.offset(kind)?),
            9 => start = Some(thrift.offset(kind)?),
            // 0 is written for none too.
            11 => dictionary = Some(thrift.offset(kind)?).filter(|&start| start > 0),
            _ => thrift.skip(kind)?,
        }
    }
    let (Some(codec), Some(n_values), Some(len), Some(start)) = (codec, n_values, len, start) else {
        return Err("expected how and where its values are, found less".to_owned());
    };
    let start = dictionary.map_or(start, |dictionary| dictionary.min(start));
    match start.checked_add(len) {
        Some(end) if end <= data_end => Ok(Chunk { codec, start, end, n_values }),
        _ => {
            Err(format!("expected values before byte {data_end}, where the footer is, found {len} bytes from {start}"))
        }
    }
}

impl Codec {
    fn from_code(code: i64) -> Result<Codec, String> {
        let other = match code {
            0 => return Ok(Codec::None),
            1 => return Ok(Codec::Snappy),
            2 => return Ok(Codec::Gzip),
            3 => "LZO",
            4 => "Brotli",
            5 | 7 => "LZ4",
            6 => "Zstandard",
            _ => return Err(format!("expected no compression, Snappy or gzip, found the code {code}")),
        };
        Err(format!("expected no compression, Snappy or gzip, found {other}"))
    }
}
