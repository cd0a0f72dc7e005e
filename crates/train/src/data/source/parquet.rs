//! Rows of a Parquet file, as the same objects that JSON Lines would have.

use super::{Row, Rows, read_error, source_error};
use crate::data::fault::{DataError, Fault, Origin, Place};
use ::parquet::basic::{Compression, ConvertedType, Type};
use ::parquet::errors::Result as ParquetResult;
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::reader::RowIter;
use ::parquet::record::{Field, Row as Record};
use ::parquet::schema::types::ColumnDescriptor;
use serde_json::{Map, Value};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// The rows of a file.
pub(super) fn rows(path: &Path, name: Arc<str>) -> Result<Rows, DataError> {
    let file = File::open(path).map_err(|error| read_error(path, error))?;
    let reader = guarded(|| SerializedFileReader::new(file)).map_err(|problem| source_error(path, problem))?;
    check(reader.metadata()).map_err(|problem| source_error(path, problem))?;
    let records = RowIter::from_file_into(Box::new(reader));
    Ok(Box::new(ParquetRows { records, file: name, row: 0, is_over: false }))
}

struct ParquetRows {
    records: RowIter<'static>,
    file: Arc<str>,
    /// Rows read so far.
    row: usize,
    is_over: bool,
}

impl Iterator for ParquetRows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Result<Row, DataError>> {
        if self.is_over {
            return None;
        }
        self.row += 1;
        let at = Origin { file: self.file.clone(), place: Place::Row(self.row) };
        match guarded(|| self.records.next().transpose()) {
            Ok(Some(record)) => Some(Ok(Row { at, members: object(record) })),
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

/// What the library makes of a file. It is written for files of friends: some kinds of damage make it panic.
fn guarded<T>(read: impl FnOnce() -> ParquetResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("expected a Parquet file: {error}")),
        Err(_) => Err("expected a Parquet file, found one that is damaged".to_owned()),
    }
}

/// Refuses what the library can't read, before it finds out half-way.
fn check(metadata: &ParquetMetaData) -> Result<(), String> {
    for column in metadata.file_metadata().schema_descr().columns() {
        if !is_readable(column) {
            let (path, physical, converted) = (column.path(), column.physical_type(), column.converted_type());
            return Err(format!(
                "column {path}: expected texts, numbers, truth values or times, found {physical} as {converted}"
            ));
        }
    }
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        match column.compression() {
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) => {}
            other => {
                let path = column.column_path();
                return Err(format!("column {path}: expected no compression, Snappy or gzip, found {other}"));
            }
        }
    }
    Ok(())
}

fn is_readable(column: &ColumnDescriptor) -> bool {
    let converted = column.converted_type();
    match column.physical_type() {
        Type::BOOLEAN | Type::FLOAT | Type::DOUBLE => true,
        Type::INT32 => matches!(
            converted,
            ConvertedType::NONE
                | ConvertedType::INT_8
                | ConvertedType::INT_16
                | ConvertedType::INT_32
                | ConvertedType::UINT_8
                | ConvertedType::UINT_16
                | ConvertedType::UINT_32
                | ConvertedType::DATE
        ),
        Type::INT64 => matches!(
            converted,
            ConvertedType::NONE
                | ConvertedType::INT_64
                | ConvertedType::UINT_64
                | ConvertedType::TIMESTAMP_MILLIS
                | ConvertedType::TIMESTAMP_MICROS
        ),
        Type::BYTE_ARRAY => {
            matches!(converted, ConvertedType::NONE | ConvertedType::UTF8 | ConvertedType::JSON | ConvertedType::ENUM)
        }
        Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY => false,
    }
}

fn object(record: Record) -> Map<String, Value> {
    record.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect()
}

fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) | Field::Date(value) => value.into(),
        Field::Long(value) | Field::TimestampMillis(value) | Field::TimestampMicros(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float(value) => value.into(),
        Field::Double(value) => value.into(),
        Field::Str(text) => text.into(),
        // Some writers do not say that a column is text.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => bytes.data().to_vec().into(),
        },
        Field::Group(record) => object(record).into(),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => map
            .entries()
            .iter()
            .map(|(key, item)| {
                let key = match value(key.clone()) {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                (key, value(item.clone()))
            })
            .collect(),
        // Kinds of columns that were refused.
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Format, open};
    use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    use serde_json::json;
    use std::fs;

    /// Two rows: messages of one and of two turns, and an id that is null in the second.
    fn conversations(compression: Compression) -> Vec<u8> {
        let schema = "message rows {
            required group messages (LIST) { repeated group list { required group element {
                optional binary role (UTF8);
                optional binary content (UTF8);
            } } }
            optional int64 id;
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut bytes = Vec::new();
        let mut file = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
        let mut group = file.next_row_group().unwrap();
        // A level of 2 is a value; a repetition of 0 begins a row.
        let repetitions = [0, 1, 0, 1, 1, 1];
        for texts in [["user", "assistant", "user", "assistant", "user", "assistant"], ["u", "a", "é", "b", "w", "c"]]
        {
            let values: Vec<ByteArray> = texts.into_iter().map(ByteArray::from).collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&[2; 6]), Some(&repetitions)).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[7], Some(&[1, 0]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        file.close().unwrap();
        bytes
    }

    #[test]
    fn rows_are_those_of_json_lines() {
        let dir = tempfile::tempdir().unwrap();
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(Default::default())] {
            let path = dir.path().join("data.parquet");
            fs::write(&path, conversations(compression)).unwrap();
            let source = open(&path, None).unwrap().train;
            assert_eq!(source.format(), Format::Chat);
            let rows: Vec<Value> = source.rows().map(|row| row.unwrap().members.into()).collect();
            let message = |role: &str, content: &str| json!({"role": role, "content": content});
            assert_eq!(
                rows,
                [
                    json!({"messages": [message("user", "u"), message("assistant", "a")], "id": 7}),
                    json!({"messages": [message("user", "é"), message("assistant", "b"), message("user", "w"), message("assistant", "c")], "id": null}),
                ]
            );
            let at = source.rows().nth(1).unwrap().unwrap().at;
            assert_eq!(at.to_string(), format!("{}: row 2", path.display()));
        }
    }

    /// Whatever byte is wrong, reading ends with rows or with an error.
    #[test]
    fn damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.parquet");
        let good = conversations(Compression::SNAPPY);
        let mut n_refused = 0;
        for at in (4..good.len()).step_by(3) {
            let mut bytes = good.clone();
            bytes[at] ^= 0x55;
            fs::write(&path, &bytes).unwrap();
            let is_refused = match open(&path, Some(Format::Chat)).unwrap().train.rows().take(10).last() {
                Some(row) => row.is_err(),
                None => true,
            };
            n_refused += usize::from(is_refused);
        }
        assert!(n_refused > 20, "{n_refused}");
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        let error = open(&path, None).unwrap_err().to_string();
        assert!(error.contains("data.parquet: expected a Parquet file"), "{error}");
    }
}
