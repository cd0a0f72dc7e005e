//! Rows of a Parquet file, as the same objects that JSON Lines would have.
//!
//! Read by hand, since the libraries for it take a file at its word: they panic on damage, recurse as deep as a schema is
//! nested, and reserve as much memory as a page says that it holds. Here nothing is believed that the file can't hold. What
//! is asked for by a number of the file is: the compressed bytes of a page, which lie in the file; an unpacked page, at
//! most what its codec can make of those; and a row, which has a limit of its own. Everything else grows by what is read.
//!
//! What writers write unless told otherwise is read: values as they are or from a dictionary, uncompressed, Snappy or gzip.
//! Reading order: `footer`, which tells the columns and where they lie; `schema`, how they make up a row; `column`, their
//! values one by one.

mod column;
mod footer;

mod levels;
mod schema;
mod thrift;

use super::{MAX_ROW_BYTES, Row};
use crate::data::fault::{DataError, Fault, Origin, Place};
use column::{Budget, Column, GZIP_RATIO, Head, VALUE_BYTES};
use footer::Group;
use schema::{Level, Node, Schema, Shape};
use serde_json::{Map, Value};
use std::io::{Read, Seek};
use std::sync::Arc;
use std::vec;

/// The rows of a file.
pub(super) struct ParquetRows<R> {
    file: R,
    name: Arc<str>,
    schema: Schema,
    /// Those that were not begun.
    groups: vec::IntoIter<Group>,
    /// Those of the group that is being read, and its rows that were not.
    columns: Vec<Column>,
    rows_left: u64,
    max_row_bytes: usize,
    /// Rows read so far.
    row: usize,
    is_over: bool,
}

impl<R: Read + Seek> Iterator for ParquetRows<R> {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Result<Row, DataError>> {
        if self.is_over {
            return None;
        }
        self.row += 1;
        let at = Origin { file: self.name.clone(), place: Place::Row(self.row) };
        match self.read() {
            Ok(Some(members)) => Some(Ok(Row { at, members })),
            Ok(None) => {
                self.is_over = true;
                None
            }
            Err(problem) => {
                // What comes behind damage is not where it should be.
                self.is_over = true;
                Some(Err(Fault { at, problem }.into()))
            }
        }
    }
}

impl<R: Read + Seek> ParquetRows<R> {
    /// At the first row of a file of `len` bytes.
    pub fn new(mut file: R, len: u64, name: Arc<str>) -> Result<ParquetRows<R>, String> {
        let footer = footer::read(&mut file, len)?;
        // Runs of equal values and dictionaries are a compression too, and hardly do better than gzip.
        let max = len.saturating_mul(GZIP_RATIO);
        let n_rows = footer.groups.iter().fold(0_u64, |sum, group| sum.saturating_add(group.n_rows));
        if n_rows > max {
            return Err(format!("expected at most {max} rows in a file of {len} bytes, found {n_rows}"));
        }
        Ok(ParquetRows {
            file,
            name,
            schema: footer.schema,
            groups: footer.groups.into_iter(),
            columns: Vec::new(),
            rows_left: 0,
            max_row_bytes: usize::try_from(max).unwrap_or(usize::MAX).min(MAX_ROW_BYTES),
            row: 0,
            is_over: false,
        })
    }

    fn read(&mut self) -> Result<Option<Map<String, Value>>, String> {
        while self.rows_left == 0 {
            if self.columns.iter().any(|column| column.head().is_some()) {
                return Err("expected the end of a row group, found more values".to_owned());
            }
            let Some(group) = self.groups.next() else { return Ok(None) };
            self.rows_left = group.n_rows;
            let columns = self.schema.leaves.iter().zip(group.chunks);
            let columns = columns.map(|(leaf, chunk)| Column::new(leaf.clone(), chunk, &mut self.file));
            self.columns = columns.collect::<Result<Vec<Column>, String>>()?;
        }
        self.rows_left -= 1;
        let budget = Budget::new(self.max_row_bytes);
        let mut record = Record { columns: &mut self.columns, file: &mut self.file, budget };
        let root = &self.schema.root;
        if !record.agree(root, |head| head.is_some_and(|head| head.repetition == 0))? {
            return Err("expected the start of a row, found another item of a list or the end".to_owned());
        }
        match record.read(root)? {
            Value::Object(members) => Ok(Some(members)),
            _ => Ok(None),
        }
    }
}

/// A row that is being put together.
struct Record<'a, R> {
    columns: &'a mut [Column],
    file: &'a mut R,
    budget: Budget,
}

impl<R: Read + Seek> Record<'_, R> {
    /// Whether something is so of the next value in all columns below a node; an error where they tell different things.
    fn agree(&self, node: &Node, is_so: impl Fn(Option<Head>) -> bool) -> Result<bool, String> {
        let mut columns = self.columns[node.leaves.clone()].iter().map(|column| is_so(column.head()));
        let first = columns.next().unwrap_or(false);
        match columns.all(|other| other == first) {
            true => Ok(first),
            false => Err("expected columns of one shape, found lists of different lengths or nulls".to_owned()),
        }
    }

    fn is_there(&self, node: &Node, definition: u8) -> Result<bool, String> {
        self.agree(node, |head| head.is_some_and(|head| head.definition >= definition))
    }

    fn read(&mut self, node: &Node) -> Result<Value, String> {
        self.budget.take(VALUE_BYTES)?;
        if node.definition > 0 && !self.is_there(node, node.definition)? {
            self.pass(node)?;
            return Ok(Value::Null);
        }
        match &node.shape {
            Shape::Leaf => self.columns[node.leaves.start].next(self.file, &mut self.budget),
            Shape::Object(members) => {
                let mut object = Map::new();
                for (name, member) in members {
                    self.budget.take(name.len())?;
                    object.insert(name.clone(), self.read(member)?);
                }
                Ok(object.into())
            }
            Shape::List(level, item) => {
                let mut items = Vec::new();
                self.each(node, *level, |record| {
                    items.push(record.read(item)?);
                    Ok(())
                })?;
                Ok(items.into())
            }
            Shape::Map(level, key, value) => {
                let mut object = Map::new();
                self.each(node, *level, |record| {
                    let key = match record.read(key)? {
                        Value::String(key) => key,
                        other => other.to_string(),
                    };
                    object.insert(key, record.read(value)?);
                    Ok(())
                })?;
                Ok(object.into())
            }
        }
    }

    /// Reads the items of a list.
    fn each(
        &mut self,
        node: &Node,
        level: Level,
        mut read: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        if !self.is_there(node, level.definition)? {
            return self.pass(node);
        }
        loop {
            read(self)?;
            if !self.agree(node, |head| head.is_some_and(|head| head.repetition == level.repetition))? {
                return Ok(());
            }
        }
    }

    /// Passes over what is null or empty: it has one entry in every column.
    fn pass(&mut self, node: &Node) -> Result<(), String> {
        for column in &mut self.columns[node.leaves.clone()] {
            column.next(self.file, &mut self.budget)?;
        }
        Ok(())
    }
}

/// The next `N` bytes of a page.
fn take<'a, const N: usize>(page: &'a [u8], at: &mut usize, end: usize) -> Result<&'a [u8; N], String> {
    let bytes = page.get(..end).and_then(|page| page.get(*at..)).and_then(<[u8]>::first_chunk);
    let bytes = bytes.ok_or("expected more values of a page, found its end")?;
    *at += N;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Format, open};
    use ::parquet::basic::{Compression, Encoding};
    use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
    use ::parquet::file::properties::{WriterProperties, WriterVersion};
    use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
    use ::parquet::schema::parser::parse_message_type;
    use proptest::collection::vec as list_of;
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::json;
    use std::fs;
    use std::io::Cursor;

    /// What the other program writes of a column: values, and levels of all entries.
    #[derive(Default)]
    struct Entries<T> {
        values: Vec<T>,
        definitions: Vec<i16>,
        repetitions: Vec<i16>,
    }

    impl<T> Entries<T> {
        /// An entry that is null or empty at `definition`, or a value.
        fn push(&mut self, repetition: i16, definition: i16, value: Option<T>) {
            self.values.extend(value);
            self.definitions.push(definition);
            self.repetitions.push(repetition);
        }
    }

    fn write<D: DataType>(group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>, entries: &Entries<D::T>) {
        let mut column = group.next_column().unwrap().unwrap();
        let writer = column.typed::<D>();
        writer.write_batch(&entries.values, Some(&entries.definitions), Some(&entries.repetitions)).unwrap();
        column.close().unwrap();
    }

    #[derive(Clone, Debug)]
    struct Conversation {
        id: Option<i64>,
        is_good: bool,
        messages: Vec<(Option<String>, String)>,
        counts: Option<Vec<Option<i32>>>,
        scores: Option<Vec<(String, f64)>>,
        words: Vec<Vec<String>>,
    }

    const SCHEMA: &str = "message rows {
        optional int64 id;
        required boolean is_good;
        required group messages (LIST) { repeated group list { required group element {
            optional binary role (UTF8);
            required binary content (UTF8);
        } } }
        optional group counts (LIST) { repeated group list { optional int32 element; } }
        optional group scores (MAP) { repeated group key_value { required binary key (UTF8); required double value; } }
        required group words (LIST) { repeated group array (LIST) { repeated binary array; } }
    }";

    fn conversation() -> impl Strategy<Value = Conversation> {
        let text = || prop_oneof!["a|b|", "[ -~é🦙]{0,40}"];
        let fields = (
            option::of(any::<i64>()),
            any::<bool>(),
            list_of((option::of(text()), text()), 0..5),
            option::of(list_of(option::of(-2..2_i32), 0..40)),
            option::of(prop::collection::btree_map(text(), -1e300..1e300, 0..3)),
            list_of(list_of(text(), 0..3), 0..3),
        );
        fields.prop_map(|(id, is_good, messages, counts, scores, words)| {
            let scores = scores.map(|scores| scores.into_iter().collect());
            Conversation { id, is_good, messages, counts, scores, words }
        })
    }

    fn properties() -> impl Strategy<Value = WriterProperties> {
        let codecs = vec![Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(Default::default())];
        let version = prop_oneof![Just(WriterVersion::PARQUET_1_0), Just(WriterVersion::PARQUET_2_0)];
        let truth = prop_oneof![Just(Encoding::PLAIN), Just(Encoding::RLE)];
        (prop::sample::select(codecs), version, any::<bool>(), truth, 1..9_usize).prop_map(
            |(codec, version, is_dictionary, truth, batch)| {
                WriterProperties::builder()
                    .set_compression(codec)
                    .set_writer_version(version)
                    .set_dictionary_enabled(is_dictionary)
                    .set_dictionary_page_size_limit(100)
                    .set_encoding(Encoding::PLAIN)
                    .set_column_encoding("is_good".into(), truth)
                    .set_column_dictionary_enabled("is_good".into(), false)
                    .set_data_page_size_limit(100)
                    .set_write_batch_size(batch)
                    .build()
            },
        )
    }

    /// The file that another program writes.
    fn file(groups: &[Vec<Conversation>], properties: WriterProperties) -> Vec<u8> {
        let mut bytes = Vec::new();
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
        for rows in groups {
            let mut group = file.next_row_group().unwrap();
            write_group(&mut group, rows);
            group.close().unwrap();
        }
        file.close().unwrap();
        bytes
    }

    fn write_group(group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>, rows: &[Conversation]) {
        let text = |text: &String| Some(ByteArray::from(text.as_str()));
        // The repetition level of an item of an outermost list.
        let later = |at: usize| i16::from(at > 0);
        let (mut ids, mut are_good) = (Entries::default(), Entries::default());
        let (mut roles, mut contents, mut counts) = (Entries::default(), Entries::default(), Entries::default());
        let (mut keys, mut scores, mut words) = (Entries::default(), Entries::default(), Entries::default());
        for row in rows {
            ids.push(0, i16::from(row.id.is_some()), row.id);
            are_good.push(0, 0, Some(row.is_good));
            if row.messages.is_empty() {
                roles.push(0, 0, None);
                contents.push(0, 0, None);
            }
            for (at, (role, content)) in row.messages.iter().enumerate() {
                roles.push(later(at), 1 + i16::from(role.is_some()), role.as_ref().and_then(text));
                contents.push(later(at), 1, text(content));
            }
            match row.counts.as_deref() {
                None => counts.push(0, 0, None),
                Some([]) => counts.push(0, 1, None),
                Some(items) => {
                    for (at, &item) in items.iter().enumerate() {
                        counts.push(later(at), 2 + i16::from(item.is_some()), item);
                    }
                }
            }
            match row.scores.as_deref() {
                None | Some([]) => {
                    keys.push(0, i16::from(row.scores.is_some()), None);
                    scores.push(0, i16::from(row.scores.is_some()), None);
                }
                Some(items) => {
                    for (at, (key, score)) in items.iter().enumerate() {
                        keys.push(later(at), 2, text(key));
                        scores.push(later(at), 2, Some(*score));
                    }
                }
            }
            if row.words.is_empty() {
                words.push(0, 0, None);
            }
            for (at, items) in row.words.iter().enumerate() {
                if items.is_empty() {
                    words.push(later(at), 1, None);
                }
                for (item_at, item) in items.iter().enumerate() {
                    words.push(if item_at > 0 { 2 } else { later(at) }, 2, text(item));
                }
            }
        }
        write::<Int64Type>(group, &ids);
        write::<BoolType>(group, &are_good);
        write::<ByteArrayType>(group, &roles);
        write::<ByteArrayType>(group, &contents);
        write::<Int32Type>(group, &counts);
        write::<ByteArrayType>(group, &keys);
        write::<DoubleType>(group, &scores);
        write::<ByteArrayType>(group, &words);
    }

    fn expected(row: &Conversation) -> Value {
        let messages = row.messages.iter().map(|(role, content)| json!({"role": role, "content": content}));
        let scores = row.scores.iter().flatten().map(|(key, score)| (key.clone(), json!(score)));
        let scores = row.scores.is_some().then(|| scores.collect::<Map<String, Value>>());
        json!({
            "id": row.id,
            "is_good": row.is_good,
            "messages": messages.collect::<Vec<Value>>(),
            "counts": row.counts,
            "scores": scores,
            "words": row.words,
        })
    }

    fn read(bytes: Vec<u8>) -> Result<Vec<Value>, String> {
        let len = bytes.len() as u64;
        let rows = ParquetRows::new(Cursor::new(bytes), len, "data".into())?;
        rows.map(|row| row.map(|row| row.members.into()).map_err(|error| error.to_string())).collect()
    }

    proptest! {
        #[test]
        fn rows_are_what_another_program_wrote(
            groups in list_of(list_of(conversation(), 0..20), 0..3),
            properties in properties(),
        ) {
            let rows: Vec<Value> = groups.iter().flatten().map(expected).collect();
            prop_assert_eq!(read(file(&groups, properties)).unwrap(), rows);
        }
    }

    #[test]
    fn a_file_is_told_by_its_first_bytes_and_rows_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let messages = vec![(Some("user".to_owned()), "u".to_owned()), (Some("assistant".to_owned()), "a".to_owned())];
        let row = Conversation { id: None, is_good: true, messages, counts: None, scores: None, words: Vec::new() };
        let bytes = file(&[vec![row.clone(), row]], WriterProperties::new());
        fs::write(&path, &bytes).unwrap();
        let source = open(&path, None).unwrap().train;
        assert_eq!(source.format(), Format::Chat);
        let at = source.rows().nth(1).unwrap().unwrap().at;
        assert_eq!(at.to_string(), format!("{}: row 2", path.display()));

        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = open(&path, None).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains("expected a Parquet file"), "{error}");
    }
}
