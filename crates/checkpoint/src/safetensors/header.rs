//! The header reader. Stricter than the format's reference where that costs no honest file anything: a name occurs
//! once, offsets are aligned to the element, every byte of the file belongs to one tensor.
//!
//! Memory: one allocation of one [`Entry`] per tensor, its number known before it is made; names are borrowed from the
//! file unless they contain escapes.

use crate::{error::shown, json::Text};
use serde::{
    Deserializer as _,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use std::{borrow::Cow, collections::BTreeMap, fmt};

/// Longest header, by the format's definition.
pub(super) const MAX_HEADER: u64 = 100_000_000;
/// More dimensions than any weight has.
const MAX_DIMS: usize = 4;
/// Bytes before the header.
const PREFIX: usize = 8;

/// What is wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file ends before its header does.
    #[error("safetensors header of {header} bytes in a file of {file}: the file is cut short or no safetensors")]
    Short {
        /// Length that the first eight bytes announce.
        header: u64,
        /// Length of the file.
        file: u64,
    },
    /// The header is longer than the format allows.
    #[error("safetensors header of {0} bytes, expected at most {MAX_HEADER}: damaged or no safetensors")]
    Long(u64),
    /// The header does not begin as JSON.
    #[error("safetensors header does not begin with `{{`")]
    NotJson,
    /// The header is not JSON of the right schema; the text names line and column.
    #[error("safetensors header: {0}")]
    Json(String),
    /// A name occurs twice.
    #[error("tensor `{0}` occurs twice in the safetensors header")]
    Duplicate(String),
    /// Dimensions multiply to more than can be addressed.
    #[error("tensor `{0}`: its dimensions are too large")]
    Overflow(String),
    /// Offsets and shape disagree.
    #[error("tensor `{tensor}`: data_offsets span {found} bytes, expected {expected} from dtype and shape")]
    Size {
        /// The tensor.
        tensor: String,
        /// Bytes between its offsets.
        found: u64,
        /// Bytes of its shape.
        expected: u64,
    },
    /// Elements of less than a byte don't fill whole bytes.
    #[error("tensor `{0}`: its elements do not fill whole bytes")]
    SubByte(String),
    /// The data begins between two elements.
    #[error("tensor `{tensor}`: begins at {start}, expected a multiple of its element, {element} bytes")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Where it begins in the data.
        start: u64,
        /// Size of one element.
        element: u64,
    },
    /// Two tensors share bytes, or bytes belong to none.
    #[error("tensor `{tensor}`: begins at {found}, expected {expected}: tensors must neither overlap nor leave gaps")]
    Layout {
        /// The tensor.
        tensor: String,
        /// Where it begins in the data.
        found: u64,
        /// Where the one before it ends.
        expected: u64,
    },
    /// The data has another length than the tensors.
    #[error("{found} bytes of data, expected {expected} by the header: the file is {}", if found < expected { "cut short" } else { "too long" })]
    Data {
        /// Bytes after the header.
        found: u64,
        /// Where the last tensor ends.
        expected: u64,
    },
}

/// Dimensions of a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [u64; MAX_DIMS],
    n: u8,
}

impl std::ops::Deref for Shape {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.dims[..usize::from(self.n)]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One tensor of the file.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Its type as the header spells it.
    pub dtype: &'static str,
    /// Its dimensions, outermost first.
    pub shape: Shape,
    /// Where its data begins, from the beginning of the file.
    pub start: u64,
    /// Bytes of its data.
    pub len: u64,
}

/// A checked header: every entry lies inside the file, and together they fill it.
#[derive(Debug)]
pub struct Header<'a> {
    /// The tensors, sorted by name.
    pub entries: Vec<Entry<'a>>,
}

impl<'a> Header<'a> {
    /// Reads and checks the header of a whole file.
    ///
    /// # Errors
    /// See [`HeaderError`]; nothing is allocated before what it depends on was checked.
    pub fn parse(file: &'a [u8]) -> Result<Header<'a>, HeaderError> {
        let json = json_of(file)?;
        let end = PREFIX + json.len();

        let mut n = 0usize;
        read(json, &mut |_| n += 1)?;
        let mut entries = Vec::with_capacity(n);
        read(json, &mut |entry| entries.push(entry))?;

        entries.sort_unstable_by(|a, b| a.start.cmp(&b.start).then(a.len.cmp(&b.len)));
        let mut expected = 0u64;
        for entry in &entries {
            if entry.start != expected {
                return Err(HeaderError::Layout { tensor: shown(&entry.name), found: entry.start, expected });
            }
            check_size(entry)?;
            expected = entry.start.saturating_add(entry.len);
        }
        let data = (file.len() as u64).saturating_sub(end as u64);
        if data != expected {
            return Err(HeaderError::Data { found: data, expected });
        }
        for entry in &mut entries {
            // Both parts were just found to lie inside the file.
            entry.start = entry.start.saturating_add(end as u64);
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = entries.array_windows::<2>().find(|[a, b]| a.name == b.name) {
            return Err(HeaderError::Duplicate(shown(&pair[0].name)));
        }
        Ok(Header { entries })
    }

    /// The tensor of a name.
    pub fn get(&self, name: &str) -> Option<&Entry<'a>> {
        self.entries.binary_search_by(|entry| entry.name.as_ref().cmp(name)).ok().and_then(|i| self.entries.get(i))
    }
}

/// The values of some keys of `__metadata__`, of those that are there, from a file whose header was found to be sound.
///
/// # Errors
/// When a key occurs twice, or the header can't be read.
pub fn metadata(file: &[u8], keys: &[&'static str]) -> Result<BTreeMap<&'static str, String>, HeaderError> {
    let mut json = serde_json::Deserializer::from_slice(json_of(file)?);
    let mut found = BTreeMap::new();
    json.deserialize_map(Picking { keys, found: &mut found }).map_err(|e| HeaderError::Json(e.to_string()))?;
    Ok(found)
}

/// The JSON of a file.
fn json_of(file: &[u8]) -> Result<&[u8], HeaderError> {
    let file_len = file.len() as u64;
    let announced = file.first_chunk::<PREFIX>().map(|b| u64::from_le_bytes(*b));
    let header = announced.ok_or(HeaderError::Short { header: 0, file: file_len })?;
    if header > MAX_HEADER {
        return Err(HeaderError::Long(header));
    }
    let end = PREFIX.checked_add(header as usize).expect("MAX_HEADER is small");
    let json = file.get(PREFIX..end).ok_or(HeaderError::Short { header, file: file_len })?;
    if json.first() != Some(&b'{') {
        return Err(HeaderError::NotJson);
    }
    Ok(json)
}

fn check_size(entry: &Entry<'_>) -> Result<(), HeaderError> {
    let bits = bits(entry.dtype).expect("dtype was taken from DTYPES");
    let elements = entry.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    let size = elements.and_then(|n| n.checked_mul(bits)).ok_or_else(|| HeaderError::Overflow(shown(&entry.name)))?;
    if !size.is_multiple_of(8) {
        return Err(HeaderError::SubByte(shown(&entry.name)));
    }
    if size / 8 != entry.len {
        return Err(HeaderError::Size { tensor: shown(&entry.name), found: entry.len, expected: size / 8 });
    }
    let element = bits.div_ceil(8);
    if element.is_power_of_two() && !entry.start.is_multiple_of(element) {
        return Err(HeaderError::Misaligned { tensor: shown(&entry.name), start: entry.start, element });
    }
    Ok(())
}

/// Bits per element of every dtype of the format. Which of them are weights is decided elsewhere, by
/// [`puna_format::Format::from_safetensors_dtype`].
const DTYPES: [(&str, u64); 21] = [
    ("BOOL", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("U8", 8),
    ("I8", 8),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E8M0", 8),
    ("F8_E4M3FNUZ", 8),
    ("F8_E5M2FNUZ", 8),
    ("I16", 16),
    ("U16", 16),
    ("F16", 16),
    ("BF16", 16),
    ("I32", 32),
    ("U32", 32),
    ("F32", 32),
    ("F64", 64),
    ("I64", 64),
    ("U64", 64),
];

fn bits(dtype: &str) -> Option<u64> {
    DTYPES.iter().find(|(name, _)| *name == dtype).map(|(_, bits)| *bits)
}

/// Reads the JSON and hands over the entries one by one; offsets are still relative to the data.
fn read<'a>(json: &'a [u8], each: &mut dyn FnMut(Entry<'a>)) -> Result<(), HeaderError> {
    let mut json = serde_json::Deserializer::from_slice(json);
    json.deserialize_map(Top { each }).and_then(|()| json.end()).map_err(|e| HeaderError::Json(e.to_string()))
}

struct Top<'f, 'a> {
    each: &'f mut dyn FnMut(Entry<'a>),
}

impl<'a> Visitor<'a> for Top<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut metadata = false;
        while let Some(name) = map.next_key_seed(Text)? {
            if name == "__metadata__" {
                if std::mem::replace(&mut metadata, true) {
                    return Err(de::Error::custom("`__metadata__` occurs twice"));
                }
                map.next_value_seed(Metadata { keys: &[], found: &mut BTreeMap::new() })?;
            } else {
                let name_shown = || shown(&name);
                let (dtype, shape, [start, end]) = map.next_value_seed(Fields { name: &name_shown })?;
                let len = end.checked_sub(start).ok_or_else(|| {
                    de::Error::custom(format_args!("tensor `{}`: data_offsets end before they begin", shown(&name)))
                })?;
                (self.each)(Entry { name, dtype, shape, start, len });
            }
        }
        Ok(())
    }
}

/// A header of which only some of the metadata is kept.
struct Picking<'p> {
    keys: &'p [&'static str],
    found: &'p mut BTreeMap<&'static str, String>,
}

impl<'a> Visitor<'a> for Picking<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Text)? {
            if name == "__metadata__" {
                map.next_value_seed(Metadata { keys: self.keys, found: self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// `__metadata__`: strings to strings, of which some keys are wanted.
struct Metadata<'p> {
    keys: &'p [&'static str],
    found: &'p mut BTreeMap<&'static str, String>,
}

impl<'a> DeserializeSeed<'a> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'a>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Text)? {
            let value = map.next_value_seed(Text)?;
            if let Some(key) = self.keys.iter().find(|wanted| **wanted == key)
                && self.found.insert(*key, value.into_owned()).is_some()
            {
                return Err(de::Error::custom(format_args!("`{key}` occurs twice in `__metadata__`")));
            }
        }
        Ok(())
    }
}

struct Fields<'f> {
    name: &'f dyn Fn() -> String,
}

impl<'a> DeserializeSeed<'a> for Fields<'_> {
    type Value = (&'static str, Shape, [u64; 2]);

    fn deserialize<D: de::Deserializer<'a>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Fields<'_> {
    type Value = (&'static str, Shape, [u64; 2]);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dtype, shape and data_offsets of tensor `{}`", (self.name)())
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        let fail = |what: &str| de::Error::custom(format_args!("tensor `{}`: {what}", (self.name)()));
        while let Some(key) = map.next_key_seed(Text)? {
            let repeated = match key.as_ref() {
                "dtype" => {
                    let found = map.next_value_seed(Text)?;
                    let known = DTYPES.iter().find(|(name, _)| *name == found).map(|(name, _)| *name);
                    let known = known.ok_or_else(|| fail(&format!("unknown dtype `{}`", shown(&found))))?;
                    dtype.replace(known).is_some()
                }
                "shape" => shape.replace(map.next_value_seed(Numbers::<MAX_DIMS>)?).is_some(),
                "data_offsets" => {
                    let (numbers, n) = map.next_value_seed(Numbers::<2>)?;
                    if n != 2 {
                        return Err(fail("data_offsets are not two numbers"));
                    }
                    offsets.replace(numbers).is_some()
                }
                other => return Err(fail(&format!("unknown key `{}`", shown(other)))),
            };
            if repeated {
                return Err(fail(&format!("`{key}` occurs twice")));
            }
        }
        let dtype = dtype.ok_or_else(|| fail("`dtype` is missing"))?;
        let (dims, n) = shape.ok_or_else(|| fail("`shape` is missing"))?;
        let offsets = offsets.ok_or_else(|| fail("`data_offsets` is missing"))?;
        Ok((dtype, Shape { dims, n }, offsets))
    }
}

/// At most `N` whole numbers.
struct Numbers<const N: usize>;

impl<'a, const N: usize> DeserializeSeed<'a> for Numbers<N> {
    type Value = ([u64; N], u8);

    fn deserialize<D: de::Deserializer<'a>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'a, const N: usize> Visitor<'a> for Numbers<N> {
    type Value = ([u64; N], u8);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {N} whole numbers")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut numbers = [0; N];
        let mut n = 0u8;
        while let Some(number) = seq.next_element()? {
            *numbers.get_mut(usize::from(n)).ok_or_else(|| de::Error::invalid_length(N + 1, &self))? = number;
            n += 1;
        }
        Ok((numbers, n))
    }
}
