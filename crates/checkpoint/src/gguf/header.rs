//! The GGUF header: metadata and tensor directory, versions 2 and 3, little-endian. No model knowledge.
//!
//! Layout, all numbers little-endian: `"GGUF"`, u32 version, u64 tensors, u64 metadata pairs; each pair a string key,
//! u32 type, value; each tensor a string name, u32 number of dimensions, that many u64 (innermost first), u32
//! `ggml_type`, u64 offset into the data; padding to `general.alignment`; data. A string is u64 length and bytes.
//!
//! Memory: one allocation for the pairs and one for the tensors, each bounded by what the file must hold for them.
//! Arrays stay in the file; they are walked once to check them, and read from there.

use crate::error::shown;

/// Longest string.
const MAX_STRING: u64 = 16 << 20;
/// Most elements in an array.
const MAX_ARRAY: u64 = 64 << 20;
/// Most metadata pairs; real files have dozens.
const MAX_PAIRS: u64 = 4096;
/// Most tensors; the largest Llama has 1,137.
const MAX_TENSORS: u64 = 1 << 16;
/// Most dimensions of a tensor.
const MAX_DIMS: u32 = 4;
/// Alignment of data where the file says nothing.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Fewest bytes of a pair: an empty key is refused, so a key of 9, type, and a value of 1.
const MIN_PAIR: u64 = 9 + 4 + 1;
/// Fewest bytes of a tensor: name 9, number of dimensions, one dimension, type, offset.
const MIN_TENSOR: u64 = 9 + 4 + 8 + 4 + 8;

/// What is wrong with a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The first four bytes.
    #[error("begins with {0:02x?}, expected `GGUF`")]
    Magic([u8; 4]),
    /// The version of a file of the other byte order.
    #[error("a big-endian GGUF file; only little-endian ones are read")]
    BigEndian,
    /// The version.
    #[error("GGUF version {0}, expected 2 or 3")]
    Version(u32),
    /// The file ends in the header.
    #[error("the file ends at byte {file} inside of {what}, which needs {needed} bytes from byte {at}")]
    Short {
        /// What was being read.
        what: &'static str,
        /// Where it begins.
        at: u64,
        /// How long it is.
        needed: u64,
        /// Length of the file.
        file: u64,
    },
    /// A count is larger than the file or the limit allows.
    #[error("{what} is {found}, expected at most {limit} (byte {at})")]
    Count {
        /// What is counted.
        what: &'static str,
        /// Where it stands.
        at: u64,
        /// The count.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// A string is longer than the limit allows.
    #[error("{what} is {found} bytes long, expected at most {limit} (byte {at})")]
    Long {
        /// Which string.
        what: &'static str,
        /// Where its length stands.
        at: u64,
        /// The length.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// A string that is not UTF-8.
    #[error("{what} at byte {at} is not UTF-8")]
    NotUtf8 {
        /// Which string.
        what: &'static str,
        /// Where it begins.
        at: u64,
    },
    /// A string that must not be empty.
    #[error("{what} at byte {at} is empty")]
    Empty {
        /// Which string.
        what: &'static str,
        /// Where it begins.
        at: u64,
    },
    /// A type of a metadata value.
    #[error("metadata key `{key}` has type {found}, expected {expected}")]
    Type {
        /// The key.
        key: String,
        /// What the file says.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A key occurs twice.
    #[error("metadata key `{0}` occurs twice")]
    DuplicateKey(String),
    /// A tensor occurs twice.
    #[error("tensor `{0}` occurs twice")]
    DuplicateTensor(String),
    /// A metadata value out of its range.
    #[error("metadata key `{key}` is {found}, expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// What the file says.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// A required metadata key.
    #[error("metadata key `{0}` is missing")]
    Missing(&'static str),
    /// A property of a tensor.
    #[error("tensor `{tensor}`: {what} is {found}, expected {expected}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// The property.
        what: &'static str,
        /// What the file says.
        found: String,
        /// What would be accepted.
        expected: String,
    },
    /// Bytes after the last tensor.
    #[error("the file has {found} bytes, expected {expected}: there are bytes after the last tensor")]
    Trailing {
        /// Length of the file.
        found: u64,
        /// Where it should end.
        expected: u64,
    },
}

/// Type of a metadata value, numbered as in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
    };

    fn from_file(n: u32) -> Option<ValueType> {
        ValueType::ALL.into_iter().find(|t| *t as u32 == n)
    }

    /// Bytes of a value of fixed size.
    fn size(self) -> Option<u64> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }
}

/// A metadata value; strings and arrays lie in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either float.
    Float(f64),
    /// A bool.
    Bool(bool),
    /// A string.
    String(&'a str),
    /// An array of one type, already checked.
    Array {
        /// Type of the elements; no array.
        of: ValueType,
        /// Their number.
        len: u64,
        /// Their bytes.
        bytes: &'a [u8],
    },
}

impl<'a> Value<'a> {
    /// What it is, for messages.
    fn kind(&self) -> String {
        match self {
            Value::Unsigned(_) => "unsigned integer".into(),
            Value::Signed(_) => "signed integer".into(),
            Value::Float(_) => "float".into(),
            Value::Bool(_) => "bool".into(),
            Value::String(_) => "string".into(),
            Value::Array { of, len, .. } => format!("array of {len} {of:?}"),
        }
    }

    /// The strings of an array of strings.
    pub fn strings(&self) -> Option<impl ExactSizeIterator<Item = &'a str> + use<'a>> {
        let Value::Array { of: ValueType::String, len, bytes } = *self else { return None };
        let mut reader = Reader { file: bytes, at: 0 };
        let len = usize::try_from(len).ok()?;
        Some(
            (0..len).map(move |_| reader.string("element").expect("every element was read when the header was parsed")),
        )
    }
}

/// Dimensions as in the file: innermost first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    dims: [u64; MAX_DIMS as usize],
    n: u8,
}

impl std::ops::Deref for Dims {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.dims[..usize::from(self.n)]
    }
}

impl std::fmt::Debug for Dims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One tensor of the file.
#[derive(Clone, Copy, Debug)]
pub struct TensorInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dimensions, innermost first; none is zero.
    pub dims: Dims,
    /// Its `ggml_type`.
    pub ggml_type: u32,
    /// Where its data begins, from the beginning of the file.
    pub start: u64,
    /// Bytes of its data.
    pub len: u64,
}

/// A checked header.
#[derive(Debug)]
pub struct Header<'a> {
    /// 2 or 3.
    pub version: u32,
    /// Metadata, sorted by key.
    pub pairs: Vec<(&'a str, Value<'a>)>,
    /// Tensors, in the order of their data.
    pub tensors: Vec<TensorInfo<'a>>,
}

impl<'a> Header<'a> {
    /// Reads and checks the header of a whole file.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn parse(file: &'a [u8]) -> Result<Header<'a>, HeaderError> {
        let mut r = Reader { file, at: 0 };
        let magic = *r.array::<4>("magic")?;
        if magic != *b"GGUF" {
            return Err(HeaderError::Magic(magic));
        }
        let version = r.u32("version")?;
        if !(2..=3).contains(&version) {
            // A small number in the other byte order.
            return Err(if version.swap_bytes() < 0x1_0000 && version >= 0x1_0000 {
                HeaderError::BigEndian
            } else {
                HeaderError::Version(version)
            });
        }
        let n_tensors = r.u64("number of tensors")?;
        let n_pairs = r.u64("number of metadata pairs")?;
        let room = |r: &Reader<'_>, each| r.left() / each;
        let n_tensors = bounded("number of tensors", 8, n_tensors, MAX_TENSORS.min(room(&r, MIN_TENSOR)))?;
        let n_pairs = bounded("number of metadata pairs", 16, n_pairs, MAX_PAIRS.min(room(&r, MIN_PAIR)))?;

        let mut pairs: Vec<(&str, Value<'_>)> = Vec::with_capacity(n_pairs);
        for _ in 0..n_pairs {
            let key = r.name("metadata key")?;
            pairs.push((key, r.value(key)?));
        }
        pairs.sort_unstable_by_key(|(key, _)| *key);
        if let Some([(key, _), _]) = pairs.array_windows::<2>().find(|[(a, _), (b, _)]| a == b) {
            return Err(HeaderError::DuplicateKey(shown(key)));
        }
        let mut header = Header { version, pairs, tensors: Vec::new() };
        let alignment = header.alignment()?;

        let n_tensors = bounded("number of tensors", 8, n_tensors as u64, room(&r, MIN_TENSOR))?;
        let mut tensors = Vec::with_capacity(n_tensors);
        for _ in 0..n_tensors {
            tensors.push(r.tensor()?);
        }
        tensors.sort_unstable_by_key(|tensor: &TensorInfo<'_>| tensor.name);
        if let Some([tensor, _]) = tensors.array_windows::<2>().find(|[a, b]| a.name == b.name) {
            return Err(HeaderError::DuplicateTensor(shown(tensor.name)));
        }
        header.tensors = tensors;
        header.place(r.at, file.len() as u64, alignment)?;
        Ok(header)
    }

    fn alignment(&self) -> Result<u64, HeaderError> {
        const KEY: &str = "general.alignment";
        let Some(alignment) = self.unsigned(KEY)? else { return Ok(DEFAULT_ALIGNMENT) };
        if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT {
            return Ok(alignment);
        }
        Err(HeaderError::Value {
            key: KEY.into(),
            found: alignment.to_string(),
            expected: format!("a power of two up to {MAX_ALIGNMENT}"),
        })
    }

    /// Makes offsets absolute, and checks that tensors follow each other without overlap or gap but padding, to the
    /// end of the file.
    fn place(&mut self, header_end: u64, file: u64, alignment: u64) -> Result<(), HeaderError> {
        self.tensors.sort_unstable_by_key(|tensor| tensor.start);
        let data = header_end.next_multiple_of(alignment);
        let mut expected = 0u64;
        let mut end = if self.tensors.is_empty() { header_end } else { data };
        for tensor in &mut self.tensors {
            let wrong = |what, found: String, expected: String| HeaderError::Tensor {
                tensor: shown(tensor.name),
                what,
                found,
                expected,
            };
            if !tensor.start.is_multiple_of(alignment) {
                return Err(wrong("offset", tensor.start.to_string(), format!("a multiple of {alignment}")));
            }
            if tensor.start != expected {
                return Err(wrong(
                    "offset",
                    tensor.start.to_string(),
                    format!("{expected}, after the tensor before it"),
                ));
            }
            let start = data.checked_add(tensor.start);
            end = match start.and_then(|start| start.checked_add(tensor.len)) {
                Some(end) if end <= file => end,
                _ => {
                    let found = format!("{} bytes from {}", tensor.len, tensor.start);
                    let room = file.saturating_sub(data);
                    return Err(wrong(
                        "data",
                        found,
                        format!("it inside of the {room} bytes of data: the file is cut short"),
                    ));
                }
            };
            // Both sums were just found to be at most the file's length.
            tensor.start += data;
            expected = (end - data).next_multiple_of(alignment);
        }
        if file > end.next_multiple_of(alignment) {
            return Err(HeaderError::Trailing { found: file, expected: end });
        }
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.pairs.binary_search_by_key(&key, |(key, _)| key).ok().and_then(|i| self.pairs.get(i)).map(|(_, v)| v)
    }

    /// A non-negative integer of any width.
    ///
    /// # Errors
    /// When it is something else.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, HeaderError> {
        self.typed(key, "a non-negative integer", |value| match value {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A float of either width.
    ///
    /// # Errors
    /// When it is something else.
    pub fn float(&self, key: &str) -> Result<Option<f32>, HeaderError> {
        self.typed(key, "a float", |value| match value {
            Value::Float(x) => Some(*x as f32),
            _ => None,
        })
    }

    /// A bool.
    ///
    /// # Errors
    /// When it is something else.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, HeaderError> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// A string.
    ///
    /// # Errors
    /// When it is something else.
    pub fn string(&self, key: &str) -> Result<Option<&'a str>, HeaderError> {
        self.typed(key, "a string", |value| match value {
            Value::String(s) => Some(*s),
            _ => None,
        })
    }

    /// An array of elements of one type, as it is.
    ///
    /// # Errors
    /// When it is something else.
    pub fn array(&self, key: &str, of: ValueType) -> Result<Option<Value<'a>>, HeaderError> {
        let expected = match of {
            ValueType::String => "an array of strings",
            ValueType::F32 => "an array of f32",
            _ => "an array of i32",
        };
        self.typed(key, expected, |value| match value {
            Value::Array { of: found, .. } if *found == of => Some(*value),
            _ => None,
        })
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, HeaderError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(HeaderError::Type { key: shown(key), found: value.kind(), expected }),
        }
    }
}

/// The metadata of a file as its bytes have it, in its order: each key, and the bytes of its type and value.
///
/// # Errors
/// See [`HeaderError`]; none for a file that [`Header::parse`] has read.
pub(crate) fn encoded_metadata(file: &[u8]) -> Result<Vec<(&str, &[u8])>, HeaderError> {
    let mut r = Reader { file, at: 0 };
    r.take("magic, version and number of tensors", 4 + 4 + 8)?;
    let n = r.u64("number of metadata pairs")?;
    let n = bounded("number of metadata pairs", 16, n, MAX_PAIRS.min(r.left() / MIN_PAIR))?;
    let mut pairs = Vec::with_capacity(n);
    for _ in 0..n {
        let key = r.name("metadata key")?;
        let start = r.at;
        r.value(key)?;
        let end = r.at;
        r.at = start;
        pairs.push((key, r.take("a metadata value", end - start)?));
    }
    Ok(pairs)
}

fn bounded(what: &'static str, at: u64, found: u64, limit: u64) -> Result<usize, HeaderError> {
    match usize::try_from(found) {
        Ok(n) if found <= limit => Ok(n),
        _ => Err(HeaderError::Count { what, at, found, limit }),
    }
}

struct Reader<'a> {
    file: &'a [u8],
    at: u64,
}

impl<'a> Reader<'a> {
    fn left(&self) -> u64 {
        (self.file.len() as u64).saturating_sub(self.at)
    }

    fn take(&mut self, what: &'static str, n: u64) -> Result<&'a [u8], HeaderError> {
        let short = HeaderError::Short { what, at: self.at, needed: n, file: self.file.len() as u64 };
        let end = self.at.checked_add(n);
        let range = end.and_then(|end| Some(usize::try_from(self.at).ok()?..usize::try_from(end).ok()?));
        let bytes = range.and_then(|range| self.file.get(range)).ok_or(short)?;
        self.at += n;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<&'a [u8; N], HeaderError> {
        let bytes = self.take(what, N as u64)?;
        Ok(bytes.first_chunk().expect("take gives as many bytes as asked for"))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, HeaderError> {
        self.array(what).map(|b| u32::from_le_bytes(*b))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, HeaderError> {
        self.array(what).map(|b| u64::from_le_bytes(*b))
    }

    fn string(&mut self, what: &'static str) -> Result<&'a str, HeaderError> {
        let at = self.at;
        let len = self.u64(what)?;
        if len > MAX_STRING {
            return Err(HeaderError::Long { what, at, found: len, limit: MAX_STRING });
        }
        std::str::from_utf8(self.take(what, len)?).map_err(|_| HeaderError::NotUtf8 { what, at })
    }

    fn name(&mut self, what: &'static str) -> Result<&'a str, HeaderError> {
        let at = self.at;
        match self.string(what)? {
            "" => Err(HeaderError::Empty { what, at }),
            name => Ok(name),
        }
    }

    fn value_type(&mut self, key: &str) -> Result<ValueType, HeaderError> {
        let n = self.u32("type of a metadata value")?;
        ValueType::from_file(n).ok_or_else(|| HeaderError::Type {
            key: shown(key),
            found: n.to_string(),
            expected: "a type from 0 to 12",
        })
    }

    fn value(&mut self, key: &str) -> Result<Value<'a>, HeaderError> {
        const WHAT: &str = "a metadata value";
        Ok(match self.value_type(key)? {
            ValueType::U8 => Value::Unsigned(u64::from(self.array::<1>(WHAT)?[0])),
            ValueType::I8 => Value::Signed(i64::from(i8::from_le_bytes(*self.array(WHAT)?))),
            ValueType::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(*self.array(WHAT)?))),
            ValueType::I16 => Value::Signed(i64::from(i16::from_le_bytes(*self.array(WHAT)?))),
            ValueType::U32 => Value::Unsigned(u64::from(self.u32(WHAT)?)),
            ValueType::I32 => Value::Signed(i64::from(i32::from_le_bytes(*self.array(WHAT)?))),
            ValueType::U64 => Value::Unsigned(self.u64(WHAT)?),
            ValueType::I64 => Value::Signed(i64::from_le_bytes(*self.array(WHAT)?)),
            ValueType::F32 => Value::Float(f64::from(f32::from_le_bytes(*self.array(WHAT)?))),
            ValueType::F64 => Value::Float(f64::from_le_bytes(*self.array(WHAT)?)),
            ValueType::Bool => match self.array::<1>(WHAT)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                n => {
                    return Err(HeaderError::Value {
                        key: shown(key),
                        found: format!("a bool of byte {n}"),
                        expected: "0 or 1".into(),
                    });
                }
            },
            ValueType::String => Value::String(self.string(WHAT)?),
            ValueType::Array => {
                let of = self.value_type(key)?;
                let at = self.at;
                let len = self.u64("length of an array")?;
                // Every element takes at least a byte, a string at least eight.
                let limit = MAX_ARRAY.min(self.left() / of.size().unwrap_or(8));
                if len > limit {
                    return Err(HeaderError::Count { what: "length of an array", at, found: len, limit });
                }
                let start = self.at;
                match of.size() {
                    Some(size) => {
                        self.take("an array", len * size)?;
                    }
                    None if of == ValueType::String => {
                        for _ in 0..len {
                            self.string("a string of an array")?;
                        }
                    }
                    None => {
                        let found = "array of arrays".into();
                        return Err(HeaderError::Type { key: shown(key), found, expected: "no nested arrays" });
                    }
                }
                let n = self.at - start;
                self.at = start;
                Value::Array { of, len, bytes: self.take("an array", n)? }
            }
        })
    }

    /// A tensor; its `start` is still relative to the data.
    fn tensor(&mut self) -> Result<TensorInfo<'a>, HeaderError> {
        let name = self.name("tensor name")?;
        let wrong =
            |what, found: String, expected: String| HeaderError::Tensor { tensor: shown(name), what, found, expected };
        let n_dims = self.u32("number of dimensions")?;
        if !(1..=MAX_DIMS).contains(&n_dims) {
            return Err(wrong("number of dimensions", n_dims.to_string(), format!("1 to {MAX_DIMS}")));
        }
        let mut dims = Dims { dims: [1; 4], n: n_dims as u8 };
        for dim in dims.dims.iter_mut().take(n_dims as usize) {
            *dim = self.u64("a dimension")?;
        }
        let ggml_type = self.u32("type of a tensor")?;
        let start = self.u64("offset of a tensor")?;
        if dims.contains(&0) {
            return Err(wrong("shape", format!("{dims:?}"), "no dimension of 0".into()));
        }
        let format = puna_format::Format::from_ggml_type(ggml_type)
            .ok_or_else(|| wrong("ggml_type", ggml_type.to_string(), "a format that puna knows".into()))?;
        let cols = usize::try_from(dims.dims[0]).ok();
        let row = cols.and_then(|cols| format.row_bytes(cols)).ok_or_else(|| {
            let expected = match format.info().block_elems as u64 {
                block if dims.dims[0].is_multiple_of(block) => "a row that can be addressed".into(),
                block => format!("a multiple of {block} for {format}"),
            };
            wrong("row length", dims.dims[0].to_string(), expected)
        })?;
        let len = dims.dims[1..].iter().try_fold(row as u64, |n, &d| n.checked_mul(d));
        let len = len
            .filter(|&len| len <= i64::MAX as u64)
            .ok_or_else(|| wrong("shape", format!("{dims:?}"), "a tensor that can be addressed".into()))?;
        Ok(TensorInfo { name, dims, ggml_type, start, len })
    }
}
