//! The pickle of a checkpoint, by an allow-list: a dictionary from names to tensors, and nothing else.
//!
//! There is no object machine here. Twenty-odd opcodes, a handful of globals and two constructors are understood, all
//! that `torch.save` writes for a flat dictionary of tensors; anything else is an error that names opcode and offset.
//!
//! A value on the stack is eight bytes: a tag, and a position in the pickle or in one of a few tables, all of bounded
//! length. Strings and integers are read where they stand. Nothing recurses, so nesting and cycles cost nothing.
//! Opcodes: the comments of Python's `pickletools`.

use crate::error::shown;

/// Bounds well above what the largest Llama needs (1,137 tensors).
const MAX_STACK: usize = 1 << 13;
const MAX_MEMO: usize = 1 << 15;
const MAX_ITEMS: usize = 3 << 14;
const MAX_TUPLES: usize = 1 << 14;
const MAX_TENSORS: usize = 1 << 12;
const MAX_DICTS: usize = 1 << 13;
const MAX_ENTRIES: usize = 1 << 13;
/// Most dimensions of a tensor.
const MAX_DIMS: usize = 2;

/// What is wrong with a pickle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// An opcode that a dictionary of tensors does not need.
    #[error("opcode {} at byte {at} is not allowed: this is no plain dictionary of tensors", Opcode(*opcode))]
    Opcode {
        /// The opcode.
        opcode: u8,
        /// Where it stands.
        at: usize,
    },
    /// A global that a dictionary of tensors does not need.
    #[error("global `{name}` (opcode GLOBAL at byte {at}) is not allowed: this is no plain dictionary of tensors")]
    Global {
        /// Module and name.
        name: String,
        /// Where the opcode stands.
        at: usize,
    },
    /// The pickle ends before its STOP.
    #[error("cut short at byte {at}")]
    Short {
        /// Where the opcode stands.
        at: usize,
    },
    /// An opcode found something else than it takes.
    #[error("opcode {} at byte {at}: {why}", Opcode(*opcode))]
    Operand {
        /// The opcode.
        opcode: u8,
        /// Where it stands.
        at: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// More of something than any checkpoint has.
    #[error("opcode {} at byte {at}: more than {limit} {what}", Opcode(*opcode))]
    Limit {
        /// The opcode.
        opcode: u8,
        /// Where it stands.
        at: usize,
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// Bytes after STOP.
    #[error("{0} bytes after STOP")]
    Trailing(usize),
    /// The result is not a dictionary from names to tensors.
    #[error("the result is no dictionary from names to tensors: {0}")]
    Result(String),
}

/// An opcode for a message: its number, and its name if it is a known one.
struct Opcode(u8);

impl std::fmt::Display for Opcode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.0 {
            b'(' => "MARK",
            b'.' => "STOP",
            b'0' => "POP",
            b'1' => "POP_MARK",
            b'2' => "DUP",
            b'}' => "EMPTY_DICT",
            b'd' => "DICT",
            b's' => "SETITEM",
            b'u' => "SETITEMS",
            b')' => "EMPTY_TUPLE",
            b't' => "TUPLE",
            0x85 => "TUPLE1",
            0x86 => "TUPLE2",
            0x87 => "TUPLE3",
            b']' => "EMPTY_LIST",
            b'l' => "LIST",
            b'a' => "APPEND",
            b'e' => "APPENDS",
            b'J' => "BININT",
            b'K' => "BININT1",
            b'M' => "BININT2",
            b'I' => "INT",
            b'L' => "LONG",
            b'F' => "FLOAT",
            b'G' => "BINFLOAT",
            0x8a => "LONG1",
            0x8b => "LONG4",
            0x88 => "NEWTRUE",
            0x89 => "NEWFALSE",
            b'N' => "NONE",
            b'X' => "BINUNICODE",
            0x8c => "SHORT_BINUNICODE",
            0x8d => "BINUNICODE8",
            b'V' => "UNICODE",
            b'S' => "STRING",
            b'T' => "BINSTRING",
            b'U' => "SHORT_BINSTRING",
            b'B' => "BINBYTES",
            b'C' => "SHORT_BINBYTES",
            b'q' => "BINPUT",
            b'r' => "LONG_BINPUT",
            b'p' => "PUT",
            0x94 => "MEMOIZE",
            b'h' => "BINGET",
            b'j' => "LONG_BINGET",
            b'g' => "GET",
            b'c' => "GLOBAL",
            0x93 => "STACK_GLOBAL",
            b'P' => "PERSID",
            b'Q' => "BINPERSID",
            b'R' => "REDUCE",
            b'b' => "BUILD",
            b'i' => "INST",
            b'o' => "OBJ",
            0x81 => "NEWOBJ",
            0x92 => "NEWOBJ_EX",
            0x80 => "PROTO",
            0x82..=0x84 => "EXT",
            0x95 => "FRAME",
            _ => return write!(f, "0x{:02x}", self.0),
        };
        write!(f, "{name} (0x{:02x})", self.0)
    }
}

/// A tensor that the pickle describes; its elements are contiguous and inside of its storage.
#[derive(Clone, Copy, Debug)]
pub struct PickledTensor<'a> {
    /// Its name.
    pub key: &'a str,
    /// The storage that holds it.
    pub storage: &'a str,
    /// Its type, spelled as safetensors does.
    pub dtype: &'static str,
    /// Bytes of one element.
    pub element_bytes: u64,
    /// Elements of the storage.
    pub storage_len: u64,
    /// Its first element.
    pub offset: u64,
    /// Its number of elements.
    pub n_elements: u64,
    dims: [u64; MAX_DIMS],
    n_dims: u8,
}

impl PickledTensor<'_> {
    /// Its dimensions, outermost first.
    pub fn shape(&self) -> &[u64] {
        &self.dims[..usize::from(self.n_dims)]
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Global {
    RebuildTensorV2,
    RebuildTensorV3,
    OrderedDict,
    /// Bytes without a type; the tensor brings its own.
    UntypedStorage,
    /// The class of a storage, by its place in `DTYPES`.
    Storage(u8),
    /// A type, by its place in `DTYPES`.
    Dtype(u8),
}

struct Dtype {
    storage: &'static str,
    dtype: &'static str,
    safetensors: &'static str,
    bytes: u64,
}

/// Types by the names of their storage classes and of themselves in `torch`.
const DTYPES: [Dtype; 9] = {
    const fn d(storage: &'static str, dtype: &'static str, safetensors: &'static str, bytes: u64) -> Dtype {
        Dtype { storage, dtype, safetensors, bytes }
    }
    [
        d("BFloat16Storage", "bfloat16", "BF16", 2),
        d("HalfStorage", "float16", "F16", 2),
        d("FloatStorage", "float32", "F32", 4),
        d("Float8_e4m3fnStorage", "float8_e4m3fn", "F8_E4M3", 1),
        d("DoubleStorage", "float64", "F64", 8),
        d("ByteStorage", "uint8", "U8", 1),
        d("CharStorage", "int8", "I8", 1),
        d("IntStorage", "int32", "I32", 4),
        d("LongStorage", "int64", "I64", 8),
    ]
};

fn global(module: &[u8], name: &[u8]) -> Option<Global> {
    let place = |of: fn(&Dtype) -> &'static str| {
        let i = DTYPES.iter().position(|d| of(d).as_bytes() == name)?;
        u8::try_from(i).ok()
    };
    match (module, name) {
        (b"torch._utils", b"_rebuild_tensor_v2") => Some(Global::RebuildTensorV2),
        (b"torch._utils", b"_rebuild_tensor_v3") => Some(Global::RebuildTensorV3),
        (b"collections", b"OrderedDict") => Some(Global::OrderedDict),
        (b"torch.storage" | b"torch", b"UntypedStorage") => Some(Global::UntypedStorage),
        (b"torch", _) => place(|d| d.storage).map(Global::Storage).or_else(|| place(|d| d.dtype).map(Global::Dtype)),
        _ => None,
    }
}

/// A value: small enough that a stack of them stays small.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Mark,
    None,
    Bool(bool),
    /// Position of the opcode.
    Int(u32),
    /// Position of the opcode.
    Str(u32),
    Tuple(u32),
    Dict(u32),
    Global(Global),
    Storage(u32),
    Tensor(u32),
}

#[derive(Clone, Copy)]
struct Storage {
    /// Position of the string.
    key: u32,
    /// None: bytes.
    dtype: Option<u8>,
    len: u64,
}

#[derive(Clone, Copy)]
struct Tensor {
    storage: u32,
    dtype: u8,
    n_dims: u8,
    offset: u64,
    dims: [u64; MAX_DIMS],
}

struct Machine<'a> {
    pickle: &'a [u8],
    /// The opcode being run, for messages, and its position.
    opcode: u8,
    at: usize,
    stack: Vec<Value>,
    memo: Vec<Value>,
    /// Elements of all tuples; a tuple is a range of it.
    items: Vec<Value>,
    tuples: Vec<(u32, u32)>,
    n_dicts: usize,
    /// Entries of all dictionaries: which, key, value.
    entries: Vec<(u32, Value, Value)>,
    storages: Vec<Storage>,
    tensors: Vec<Tensor>,
}

/// Reads the pickle of a flat dictionary of tensors.
///
/// # Errors
/// See [`PickleError`].
pub fn interpret(pickle: &[u8]) -> Result<Vec<PickledTensor<'_>>, PickleError> {
    let mut machine = Machine {
        pickle,
        opcode: 0,
        at: 0,
        stack: Vec::new(),
        memo: Vec::new(),
        items: Vec::new(),
        tuples: Vec::new(),
        n_dicts: 0,
        entries: Vec::new(),
        storages: Vec::new(),
        tensors: Vec::new(),
    };
    let end = machine.run()?;
    if end != pickle.len() {
        return Err(PickleError::Trailing(pickle.len().saturating_sub(end)));
    }
    machine.result()
}

type Step<T = ()> = Result<T, PickleError>;

impl<'a> Machine<'a> {
    /// Runs to STOP; the position after it.
    fn run(&mut self) -> Step<usize> {
        let mut next = 0usize;
        loop {
            self.at = next;
            self.opcode = self.byte(next)?;
            let body = next.saturating_add(1);
            // Every opcode below sets where its arguments end.
            next = body;
            let place = u32::try_from(self.at).map_err(|_| self.operand("a position beyond 4 GiB"))?;
            match self.opcode {
                0x80 => {
                    let version = self.byte(body)?;
                    if self.at != 0 || version != 2 {
                        return Err(self.operand("expected protocol 2 at the beginning"));
                    }
                    next = body + 1;
                }
                b'.' => return Ok(next),
                b'(' => self.push(Value::Mark)?,
                b'}' => {
                    let dict = self.new_dict()?;
                    self.push(dict)?;
                }
                b'N' => self.push(Value::None)?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'K' | b'M' | b'J' | 0x8a => {
                    let len = self.int_len()?;
                    self.bytes(body, len)?;
                    next = body + len;
                    self.push(Value::Int(place))?;
                }
                b'X' => {
                    let len = self.u32(body)?;
                    let bytes = self.bytes(body + 4, len)?;
                    if std::str::from_utf8(bytes).is_err() {
                        return Err(self.operand("a string that is not UTF-8"));
                    }
                    next = body + 4 + len;
                    self.push(Value::Str(place))?;
                }
                b')' => self.tuple(0)?,
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let mark = self.mark()?;
                    let n = self.stack.len() - mark - 1;
                    self.tuple(n)?;
                    // The tuple stands above the mark now; it takes the mark's place.
                    let tuple = self.pop()?;
                    self.stack.truncate(mark);
                    self.push(tuple)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(key, value)?;
                }
                b'u' => {
                    let mark = self.mark()?;
                    let pairs = self.stack.split_off(mark);
                    let pairs = pairs.get(1..).unwrap_or_default();
                    if !pairs.len().is_multiple_of(2) {
                        return Err(self.operand("a key without a value"));
                    }
                    for pair in pairs.as_chunks::<2>().0 {
                        self.set(pair[0], pair[1])?;
                    }
                }
                b'q' => {
                    let i = usize::from(self.byte(body)?);
                    next = body + 1;
                    self.put(i)?;
                }
                b'r' => {
                    let i = self.u32(body)?;
                    next = body + 4;
                    self.put(i)?;
                }
                b'h' => {
                    let i = usize::from(self.byte(body)?);
                    next = body + 1;
                    self.get(i)?;
                }
                b'j' => {
                    let i = self.u32(body)?;
                    next = body + 4;
                    self.get(i)?;
                }
                b'c' => {
                    let (module, rest) = self.line(body)?;
                    let (name, rest) = self.line(rest)?;
                    next = rest;
                    let global = global(module, name).ok_or_else(|| {
                        let [module, name] = [module, name].map(|b| shown(&String::from_utf8_lossy(b)));
                        PickleError::Global { name: format!("{module}.{name}"), at: self.at }
                    })?;
                    self.push(Value::Global(global))?;
                }
                b'Q' => self.storage()?,
                b'R' => self.reduce()?,
                b'b' => {
                    // The attributes of an OrderedDict, of which `torch.save` writes `_metadata`: of no interest.
                    let state = self.pop()?;
                    let object = self.top()?;
                    if !matches!((object, state), (Value::Dict(_), Value::Dict(_))) {
                        return Err(self.operand("expected a dictionary and its attributes"));
                    }
                }
                opcode => return Err(PickleError::Opcode { opcode, at: self.at }),
            }
        }
    }

    fn result(mut self) -> Result<Vec<PickledTensor<'a>>, PickleError> {
        let fail = |what: String| PickleError::Result(what);
        let &[Value::Dict(dict)] = self.stack.as_slice() else {
            return Err(fail(format!("{} values are left", self.stack.len())));
        };
        self.entries.retain(|&(of, _, _)| of == dict);
        let mut tensors = Vec::with_capacity(self.entries.len());
        for &(_, key, value) in &self.entries {
            let Value::Str(key) = key else { return Err(fail("a key is no string".into())) };
            let key = self.str_at(key);
            let Value::Tensor(i) = value else { return Err(fail(format!("`{}` is no tensor", shown(key)))) };
            let tensor = self.tensors.get(i as usize).expect("a tensor's number comes from the table");
            let storage = self.storages.get(tensor.storage as usize).expect("a storage's number comes from the table");
            let dtype = DTYPES.get(usize::from(tensor.dtype)).expect("a type's number comes from DTYPES");
            // Both were checked when the tensor was made.
            let storage_len = match storage.dtype {
                Some(_) => storage.len,
                None => storage.len / dtype.bytes,
            };
            let n_elements = tensor.dims[..usize::from(tensor.n_dims)].iter().product();
            tensors.push(PickledTensor {
                key,
                storage: self.str_at(storage.key),
                dtype: dtype.safetensors,
                element_bytes: dtype.bytes,
                storage_len,
                offset: tensor.offset,
                n_elements,
                dims: tensor.dims,
                n_dims: tensor.n_dims,
            });
        }
        tensors.sort_unstable_by_key(|tensor| tensor.key);
        if let Some([tensor, _]) = tensors.array_windows::<2>().find(|[a, b]| a.key == b.key) {
            return Err(fail(format!("`{}` occurs twice", shown(tensor.key))));
        }
        Ok(tensors)
    }

    // Reading.

    fn byte(&self, i: usize) -> Step<u8> {
        self.pickle.get(i).copied().ok_or(PickleError::Short { at: self.at })
    }

    fn bytes(&self, i: usize, len: usize) -> Step<&'a [u8]> {
        let end = i.checked_add(len);
        end.and_then(|end| self.pickle.get(i..end)).ok_or(PickleError::Short { at: self.at })
    }

    fn u32(&self, i: usize) -> Step<usize> {
        let bytes = self.bytes(i, 4)?.first_chunk().expect("four bytes were read");
        Ok(u32::from_le_bytes(*bytes) as usize)
    }

    /// The bytes up to a line end, and the position after it.
    fn line(&self, i: usize) -> Step<(&'a [u8], usize)> {
        let rest = self.pickle.get(i..).unwrap_or_default();
        let len = rest.iter().position(|&b| b == b'\n').ok_or(PickleError::Short { at: self.at })?;
        Ok((&rest[..len], i + len + 1))
    }

    /// Bytes after the opcode of the integer at hand.
    fn int_len(&self) -> Step<usize> {
        match self.opcode {
            b'K' => Ok(1),
            b'M' => Ok(2),
            b'J' => Ok(4),
            _ => {
                let n = usize::from(self.byte(self.at + 1)?);
                if n > 8 {
                    return Err(self.operand("an integer of more than 64 bits"));
                }
                Ok(1 + n)
            }
        }
    }

    /// The integer whose opcode stands at `at`, if it is not negative.
    fn int_at(&self, at: u32) -> Option<u64> {
        let rest = self.pickle.get(at as usize..)?;
        let (opcode, rest) = rest.split_first()?;
        match opcode {
            b'K' => Some(u64::from(*rest.first()?)),
            b'M' => Some(u64::from(u16::from_le_bytes(*rest.first_chunk()?))),
            b'J' => u64::try_from(i32::from_le_bytes(*rest.first_chunk()?)).ok(),
            _ => {
                let (n, rest) = rest.split_first()?;
                let digits = rest.get(..usize::from(*n))?;
                // Little-endian two's complement.
                if digits.last().is_some_and(|top| top & 0x80 != 0) {
                    return None;
                }
                Some(digits.iter().rev().fold(0, |value, &digit| value << 8 | u64::from(digit)))
            }
        }
    }

    /// The string whose opcode stands at `at`; it was checked when it was pushed.
    fn str_at(&self, at: u32) -> &'a str {
        let at = at as usize;
        let read = || {
            let len = u32::from_le_bytes(*self.pickle.get(at + 1..)?.first_chunk()?) as usize;
            std::str::from_utf8(self.pickle.get(at + 5..at + 5 + len)?).ok()
        };
        read().expect("a string was checked when it was pushed")
    }

    // The stack, the memo and the tables.

    fn operand(&self, why: &'static str) -> PickleError {
        PickleError::Operand { opcode: self.opcode, at: self.at, why }
    }

    /// The number of the next entry of a table of `len`.
    fn room(&self, len: usize, limit: usize, what: &'static str) -> Step<u32> {
        match u32::try_from(len) {
            Ok(n) if len < limit => Ok(n),
            _ => Err(PickleError::Limit { opcode: self.opcode, at: self.at, what, limit }),
        }
    }

    fn push(&mut self, value: Value) -> Step {
        self.room(self.stack.len(), MAX_STACK, "values on the stack")?;
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Step<Value> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err(self.operand("nothing to take from the stack")),
            Some(value) => Ok(value),
        }
    }

    fn top(&self) -> Step<Value> {
        self.stack.last().copied().ok_or_else(|| self.operand("nothing on the stack"))
    }

    fn mark(&self) -> Step<usize> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark);
        mark.ok_or_else(|| self.operand("no mark on the stack"))
    }

    fn put(&mut self, i: usize) -> Step {
        let value = self.top()?;
        if value == Value::Mark {
            return Err(self.operand("a mark can't be remembered"));
        }
        if let Some(slot) = self.memo.get_mut(i) {
            *slot = value;
            return Ok(());
        }
        // Python numbers them in order; a gap would be memory for nothing.
        if i != self.memo.len() {
            return Err(self.operand("memo numbers out of order"));
        }
        self.room(i, MAX_MEMO, "values in the memo")?;
        self.memo.push(value);
        Ok(())
    }

    fn get(&mut self, i: usize) -> Step {
        let value = self.memo.get(i).copied().ok_or_else(|| self.operand("nothing of this number in the memo"))?;
        self.push(value)
    }

    /// Makes the last `n` values a tuple.
    fn tuple(&mut self, n: usize) -> Step {
        let number = self.room(self.tuples.len(), MAX_TUPLES, "tuples")?;
        let first = self.stack.len().checked_sub(n).ok_or_else(|| self.operand("too little on the stack"))?;
        if self.stack.iter().skip(first).any(|value| *value == Value::Mark) {
            return Err(self.operand("a mark inside of a tuple"));
        }
        self.room(self.items.len().saturating_add(n), MAX_ITEMS, "values in tuples")?;
        let (start, len) = (self.items.len() as u32, n as u32);
        self.items.extend(self.stack.drain(first..));
        self.tuples.push((start, len));
        self.push(Value::Tuple(number))
    }

    fn items(&self, value: Value) -> Option<&[Value]> {
        let Value::Tuple(i) = value else { return None };
        let &(start, len) = self.tuples.get(i as usize)?;
        self.items.get(start as usize..)?.get(..len as usize)
    }

    fn new_dict(&mut self) -> Step<Value> {
        let number = self.room(self.n_dicts, MAX_DICTS, "dictionaries")?;
        self.n_dicts += 1;
        Ok(Value::Dict(number))
    }

    /// Sets an entry of the dictionary on the stack.
    fn set(&mut self, key: Value, value: Value) -> Step {
        let Value::Dict(dict) = self.top()? else { return Err(self.operand("expected a dictionary")) };
        if value == Value::Mark || !matches!(key, Value::Str(_) | Value::Int(_)) {
            return Err(self.operand("expected a name and a value"));
        }
        self.room(self.entries.len(), MAX_ENTRIES, "entries in dictionaries")?;
        self.entries.push((dict, key, value));
        Ok(())
    }

    // The two constructors and the storages.

    /// `('storage', class, key, device, number of elements)`.
    fn storage(&mut self) -> Step {
        let id = self.pop()?;
        let storage = match self.items(id) {
            Some(&[Value::Str(kind), Value::Global(class), Value::Str(key), Value::Str(_), Value::Int(len)])
                if self.str_at(kind) == "storage" =>
            {
                let dtype = match class {
                    Global::Storage(dtype) => Some(Some(dtype)),
                    Global::UntypedStorage => Some(None),
                    _ => None,
                };
                dtype.zip(self.int_at(len)).map(|(dtype, len)| Storage { key, dtype, len })
            }
            _ => None,
        };
        let storage = storage.ok_or_else(|| self.operand("not the id of a storage"))?;
        let number = self.room(self.storages.len(), MAX_TENSORS, "storages")?;
        self.storages.push(storage);
        self.push(Value::Storage(number))
    }

    fn reduce(&mut self) -> Step {
        let (args, callable) = (self.pop()?, self.pop()?);
        let made = match callable {
            Value::Global(Global::OrderedDict) => {
                if self.items(args) != Some(&[]) {
                    return Err(self.operand("an OrderedDict made from something"));
                }
                self.new_dict()?
            }
            Value::Global(version @ (Global::RebuildTensorV2 | Global::RebuildTensorV3)) => {
                let tensor = self.rebuild(version, args)?;
                let number = self.room(self.tensors.len(), MAX_TENSORS, "tensors")?;
                self.tensors.push(tensor);
                Value::Tensor(number)
            }
            _ => return Err(self.operand("only tensors and OrderedDict are made")),
        };
        self.push(made)
    }

    /// Storage, offset, shape, stride, requires_grad, hooks; version 3 adds the type.
    fn rebuild(&self, version: Global, args: Value) -> Step<Tensor> {
        let wrong = || self.operand("not the arguments of a tensor");
        let args = self.items(args).ok_or_else(wrong)?;
        let (args, rest) = args.split_at_checked(6).ok_or_else(wrong)?;
        let &[Value::Storage(storage_idx), Value::Int(offset), shape, stride, Value::Bool(_), Value::Dict(_)] = args
        else {
            return Err(wrong());
        };
        let storage = self.storages.get(storage_idx as usize).ok_or_else(wrong)?;
        let (dtype, len) = match (version, storage.dtype, rest) {
            (Global::RebuildTensorV2, Some(dtype), []) => (dtype, storage.len),
            (Global::RebuildTensorV3, None, &[Value::Global(Global::Dtype(dtype))]) => {
                let bytes = DTYPES.get(usize::from(dtype)).map_or(1, |d| d.bytes);
                if !storage.len.is_multiple_of(bytes) {
                    return Err(self.operand("a storage of no whole number of elements"));
                }
                (dtype, storage.len / bytes)
            }
            _ => return Err(wrong()),
        };
        let (Some(shape), Some(stride)) = (self.items(shape), self.items(stride)) else { return Err(wrong()) };
        if shape.len() > MAX_DIMS || stride.len() != shape.len() {
            return Err(self.operand("a tensor of more than two dimensions"));
        }
        let number = |value: &Value| match value {
            Value::Int(at) => self.int_at(*at),
            _ => None,
        };
        let offset = self.int_at(offset).ok_or_else(wrong)?;
        let mut dims = [0; MAX_DIMS];
        let mut n_elements = 1u64;
        // From the innermost dimension outwards, the stride is the number of elements inside.
        for (i, (dim, stride)) in shape.iter().zip(stride).enumerate().rev() {
            let (dim, stride) = number(dim).zip(number(stride)).ok_or_else(wrong)?;
            if dim != 1 && stride != n_elements {
                return Err(self.operand("a tensor that is not contiguous"));
            }
            n_elements = n_elements.checked_mul(dim).ok_or_else(|| self.operand("dimensions that are too large"))?;
            *dims.get_mut(i).ok_or_else(wrong)? = dim;
        }
        if offset.checked_add(n_elements).is_none_or(|end| end > len) {
            return Err(self.operand("a tensor that reaches past its storage"));
        }
        Ok(Tensor { storage: storage_idx, dtype, n_dims: shape.len() as u8, offset, dims })
    }
}
