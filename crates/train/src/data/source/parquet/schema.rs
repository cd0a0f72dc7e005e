//! The columns of a file and the objects that they are the members of.
//!
//! A column holds one kind of values. With each value go two levels: from which of the lists around it on a new item
//! begins (repetition), and how far down its path is not null (definition).

use std::fmt;
use std::ops::Range;

/// JSON is read no deeper either.
const MAX_DEPTH: usize = 64;
const MAX_ELEMENTS: usize = 4096;
const MAX_PATH_BYTES: usize = 1024;

/// An element of the schema as it is written: groups are followed by their children.
pub(super) struct Element {
    pub name: String,
    /// None for a group.
    pub physical: Option<Physical>,
    pub repetition: Repetition,
    pub n_children: usize,
    pub converted: Converted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repetition {
    Required,
    Optional,
    Repeated,
}

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Physical {
    Boolean,
    Int32,
    Int64,
    Int96,
    Float,
    Double,
    Bytes,
    FixedBytes,
}

/// What values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Converted {
    None,
    Utf8,
    Map,
    List,
    Enum,
    Decimal,
    Date,
    Time,
    Timestamp,
    Uint,
    Int,
    Json,
    Bson,
    Interval,
}

/// The columns, and how a row is put together of them.
pub(super) struct Schema {
    pub leaves: Vec<Leaf>,
    /// An object with the members of a row.
    pub root: Node,
}

/// A column.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    /// The names on the way to it.
    pub path: String,
    pub physical: Physical,
    pub converted: Converted,
    pub max_repetition: u8,
    pub max_definition: u8,
}

/// A part of a row.
pub(super) struct Node {
    pub shape: Shape,
    /// The columns below it.
    pub leaves: Range<usize>,
    /// It is null where the definition level is less.
    pub definition: u8,
}

pub(super) enum Shape {
    Leaf,
    Object(Vec<(String, Node)>),
    List(Level, Box<Node>),
    /// Keys and values.
    Map(Level, Box<Node>, Box<Node>),
}

/// Levels of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    /// The repetition level of items behind the first.
    pub repetition: u8,
    /// The list is empty where the definition level is less.
    pub definition: u8,
}

impl Schema {
    /// Builds the tree that the elements are written as.
    pub fn new(elements: Vec<Element>) -> Result<Schema, String> {
        if elements.len() > MAX_ELEMENTS {
            return Err(format!("expected a schema of at most {MAX_ELEMENTS} elements, found {}", elements.len()));
        }
        let n = elements.len();
        let mut builder = Builder { elements, at: 0, leaves: Vec::new() };
        let root = builder.next("")?;
        if root.n_children == 0 {
            return Err("expected a schema with columns, found none".to_owned());
        }
        let root = builder.object(root.n_children, "", Level { repetition: 0, definition: 0 }, 0)?;
        if builder.at < n {
            return Err(format!("expected a schema of {} elements, found {n}", builder.at));
        }
        Ok(Schema { leaves: builder.leaves, root })
    }
}

struct Builder {
    elements: Vec<Element>,
    /// The next of them.
    at: usize,
    leaves: Vec<Leaf>,
}

/// An element without its name, which is part of the path.
#[derive(Clone, Copy)]
struct Kind {
    physical: Option<Physical>,
    repetition: Repetition,
    n_children: usize,
    converted: Converted,
}

impl Builder {
    fn next(&mut self, path: &str) -> Result<Kind, String> {
        let element = self.elements.get(self.at);
        let element = element.ok_or_else(|| format!("expected more elements in {path:?}, found the schema's end"))?;
        self.at += 1;
        let &Element { physical, repetition, n_children, converted, .. } = element;
        Ok(Kind { physical, repetition, n_children, converted })
    }

    /// The path of the next element.
    fn path(&self, parent: &str) -> Result<String, String> {
        let name = self.elements.get(self.at).map_or("", |element| &element.name);
        let path = if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
        if path.len() > MAX_PATH_BYTES {
            return Err(format!("expected names of at most {MAX_PATH_BYTES} bytes together, found {}", path.len()));
        }
        Ok(path)
    }

    fn object(&mut self, n_children: usize, path: &str, level: Level, depth: usize) -> Result<Node, String> {
        let first = self.leaves.len();
        let mut members = Vec::new();
        for _ in 0..n_children {
            let name = self.elements.get(self.at).map(|element| element.name.clone()).unwrap_or_default();
            members.push((name, self.node(path, level, depth + 1)?));
        }
        Ok(Node { shape: Shape::Object(members), leaves: first..self.leaves.len(), definition: 0 })
    }

    /// The next element, at the levels of its parent.
    fn node(&mut self, parent: &str, level: Level, depth: usize) -> Result<Node, String> {
        let path = self.path(parent)?;
        let kind = self.next(parent)?;
        match kind.repetition {
            Repetition::Required => self.value(kind, &path, level, depth),
            Repetition::Optional => {
                let definition = level.definition + 1;
                let node = self.value(kind, &path, Level { definition, ..level }, depth)?;
                Ok(Node { definition, ..node })
            }
            // A list that is not said to be one.
            Repetition::Repeated => {
                let level = inside(level);
                let item = self.value(kind, &path, level, depth)?;
                Ok(list(level, item))
            }
        }
    }

    /// What an element is when it is not null, or an item of it.
    fn value(&mut self, kind: Kind, path: &str, level: Level, depth: usize) -> Result<Node, String> {
        if depth > MAX_DEPTH {
            return Err(format!("column {path}: expected values nested at most {MAX_DEPTH} deep, found deeper ones"));
        }
        let first = self.leaves.len();
        match (kind.converted, kind.n_children) {
            (_, 0) => {
                self.leaves.push(leaf(kind, path, level)?);
                Ok(Node { shape: Shape::Leaf, leaves: first..first + 1, definition: 0 })
            }
            (Converted::List, 1) => self.list(path, level, depth + 1),
            (Converted::Map, 1) => self.map(path, level, depth + 1),
            (Converted::List | Converted::Map, n) => {
                Err(format!("column {path}: expected a list or map with one child, found {n}"))
            }
            (_, n) => self.object(n, path, level, depth),
        }
    }

    /// What is in a group that is said to be a list: a group around each item, or, as it was written once, the items.
    fn list(&mut self, path: &str, level: Level, depth: usize) -> Result<Node, String> {
        let name = self.elements.get(self.at).map(|element| element.name.clone()).unwrap_or_default();
        let path = self.path(path)?;
        let kind = self.repeated(&path)?;
        let level = inside(level);
        let is_around_lists = self.elements.get(self.at).is_some_and(|item| item.repetition == Repetition::Repeated);
        let is_named_so = name == "array" || name.ends_with("_tuple");
        let is_item = match kind.n_children {
            1 => is_named_so && !is_around_lists && kind.converted != Converted::List,
            _ => true,
        };
        let item = if is_item { self.value(kind, &path, level, depth)? } else { self.node(&path, level, depth)? };
        Ok(list(level, item))
    }

    fn map(&mut self, path: &str, level: Level, depth: usize) -> Result<Node, String> {
        let path = self.path(path)?;
        let kind = self.repeated(&path)?;
        let level = inside(level);
        let key = match kind.n_children {
            1 | 2 => self.node(&path, level, depth)?,
            n => return Err(format!("column {path}: expected a key and a value, found {n} children")),
        };
        if kind.n_children == 1 {
            return Ok(list(level, key));
        }
        let value = self.node(&path, level, depth)?;
        let leaves = key.leaves.start..value.leaves.end;
        Ok(Node { shape: Shape::Map(level, Box::new(key), Box::new(value)), leaves, definition: 0 })
    }

    fn repeated(&mut self, path: &str) -> Result<Kind, String> {
        let kind = self.next(path)?;
        if kind.repetition != Repetition::Repeated {
            return Err(format!("column {path}: expected a repeated element, found {:?}", kind.repetition));
        }
        Ok(kind)
    }
}

/// The levels of the items of a list at `level`. Nothing is nested deep enough for them to overflow.
fn inside(level: Level) -> Level {
    Level { repetition: level.repetition + 1, definition: level.definition + 1 }
}

fn list(level: Level, item: Node) -> Node {
    Node { leaves: item.leaves.clone(), shape: Shape::List(level, Box::new(item)), definition: 0 }
}

fn leaf(kind: Kind, path: &str, level: Level) -> Result<Leaf, String> {
    let Some(physical) = kind.physical else {
        return Err(format!("column {path}: expected values or columns inside of it, found neither"));
    };
    let converted = kind.converted;
    let is_readable = match physical {
        Physical::Boolean | Physical::Float | Physical::Double => converted == Converted::None,
        Physical::Int32 | Physical::Int64 => matches!(
            converted,
            Converted::None | Converted::Int | Converted::Uint | Converted::Date | Converted::Timestamp
        ),
        Physical::Bytes => {
            matches!(converted, Converted::None | Converted::Utf8 | Converted::Json | Converted::Enum)
        }
        Physical::Int96 | Physical::FixedBytes => false,
    };
    if !is_readable {
        return Err(format!(
            "column {path}: expected texts, numbers, truth values or times, found {physical} as {converted}"
        ));
    }
    let Level { repetition: max_repetition, definition: max_definition } = level;
    Ok(Leaf { path: path.to_owned(), physical, converted, max_repetition, max_definition })
}

impl Repetition {
    pub fn from_code(code: i64) -> Result<Repetition, String> {
        Ok(match code {
            0 => Repetition::Required,
            1 => Repetition::Optional,
            2 => Repetition::Repeated,
            _ => return Err(format!("expected a repetition (0 to 2), found {code}")),
        })
    }
}

impl Physical {
    pub fn from_code(code: i64) -> Result<Physical, String> {
        Ok(match code {
            0 => Physical::Boolean,
            1 => Physical::Int32,
            2 => Physical::Int64,
            3 => Physical::Int96,
            4 => Physical::Float,
            5 => Physical::Double,
            6 => Physical::Bytes,
            7 => Physical::FixedBytes,
            _ => return Err(format!("expected a type of values (0 to 7), found {code}")),
        })
    }
}

impl Converted {
    pub fn from_code(code: i64) -> Result<Converted, String> {
        Ok(match code {
            0 => Converted::Utf8,
            1 | 2 => Converted::Map,
            3 => Converted::List,
            4 => Converted::Enum,
            5 => Converted::Decimal,
            6 => Converted::Date,
            7 | 8 => Converted::Time,
            9 | 10 => Converted::Timestamp,
            11..=14 => Converted::Uint,
            15..=18 => Converted::Int,
            19 => Converted::Json,
            20 => Converted::Bson,
            21 => Converted::Interval,
            _ => return Err(format!("expected a meaning of values (0 to 21), found {code}")),
        })
    }
}

/// The names of Parquet's documentation.
impl fmt::Display for Physical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Physical::Boolean => "BOOLEAN",
            Physical::Int32 => "INT32",
            Physical::Int64 => "INT64",
            Physical::Int96 => "INT96",
            Physical::Float => "FLOAT",
            Physical::Double => "DOUBLE",
            Physical::Bytes => "BYTE_ARRAY",
            Physical::FixedBytes => "FIXED_LEN_BYTE_ARRAY",
        })
    }
}

impl fmt::Display for Converted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Converted::None => "NONE",
            Converted::Utf8 => "UTF8",
            Converted::Map => "MAP",
            Converted::List => "LIST",
            Converted::Enum => "ENUM",
            Converted::Decimal => "DECIMAL",
            Converted::Date => "DATE",
            Converted::Time => "TIME",
            Converted::Timestamp => "TIMESTAMP",
            Converted::Uint => "UINT",
            Converted::Int => "INT",
            Converted::Json => "JSON",
            Converted::Bson => "BSON",
            Converted::Interval => "INTERVAL",
        })
    }
}
