//! Rows in JSON: one a line, or the items of an array. Neither holds more than one row in memory.

use super::{MAX_ROW_BYTES, Row};
use crate::data::fault::{DataError, Fault, Origin, Place};
use serde_json::Value;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

/// JSON Lines. Empty lines are passed over.
pub(super) struct JsonLines {
    reader: Box<dyn BufRead>,
    file: Arc<str>,
    /// Lines read so far.
    line: usize,
    is_over: bool,
}

impl JsonLines {
    pub fn new(reader: Box<dyn BufRead>, file: Arc<str>) -> JsonLines {
        JsonLines { reader, file, line: 0, is_over: false }
    }

    fn read(&mut self) -> Result<Option<Row>, DataError> {
        loop {
            let mut bytes = Vec::new();
            let mut limited = (&mut self.reader).take(MAX_ROW_BYTES as u64 + 1);
            let n = limited.read_until(b'\n', &mut bytes).inspect_err(|_| self.is_over = true);
            let n = n.map_err(|error| DataError::Read { path: self.file.to_string(), error })?;
            if n == 0 {
                self.is_over = true;
                return Ok(None);
            }
            self.line += 1;
            let at = Origin { file: self.file.clone(), place: Place::Line(self.line) };
            if n > MAX_ROW_BYTES {
                self.is_over = true;
                return Err(too_long(at));
            }
            let line = if self.line == 1 { without_mark(&bytes) } else { &bytes };
            let line = line.trim_ascii_end();
            if !line.is_empty() {
                return parse(line, at).map(Some);
            }
        }
    }
}

impl Iterator for JsonLines {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Result<Row, DataError>> {
        if self.is_over { None } else { self.read().transpose() }
    }
}

/// Items of a JSON array.
pub(super) struct JsonArray {
    reader: Box<dyn BufRead>,
    file: Arc<str>,
    /// Rows read so far.
    row: usize,
    is_over: bool,
}

impl JsonArray {
    pub fn new(reader: Box<dyn BufRead>, file: Arc<str>) -> JsonArray {
        JsonArray { reader, file, row: 0, is_over: false }
    }

    fn read(&mut self) -> Result<Option<Row>, DataError> {
        if self.row == 0 {
            // The bracket that the file was recognised by, and what is in front of it.
            self.reader.skip_until(b'[').map_err(|error| self.read_error(error))?;
        }
        self.row += 1;
        let at = Origin { file: self.file.clone(), place: Place::Row(self.row) };
        let mut item = Vec::new();
        let end = self.read_item(&mut item)?;
        if item.len() > MAX_ROW_BYTES {
            self.is_over = true;
            return Err(too_long(at));
        }
        let item = item.trim_ascii();
        match end {
            Some(b',') if !item.is_empty() => parse(item, at).map(Some),
            Some(b']') => {
                self.is_over = true;
                let is_more = |byte: &io::Result<u8>| !byte.as_ref().is_ok_and(u8::is_ascii_whitespace);
                let more = self.reader.by_ref().bytes().find(is_more).transpose();
                let more = more.map_err(|error| self.read_error(error))?;
                let problem = match (item, self.row) {
                    _ if more.is_some() => "expected the end of the file behind the array, found more",
                    ([], 1) => return Ok(None),
                    ([], _) => "expected a row behind the comma, found the end of the array",
                    _ => return parse(item, at).map(Some),
                };
                Err(Fault { at, problem: problem.to_owned() }.into())
            }
            _ => {
                self.is_over = true;
                let found = end.map_or("the end of the file".to_owned(), |byte| char::from(byte).to_string());
                Err(Fault { at, problem: format!("broken JSON: expected a row and then , or ], found {found}") }.into())
            }
        }
    }

    /// Reads up to the comma or bracket that ends an item; gives which, and none at the end of the file.
    fn read_item(&mut self, item: &mut Vec<u8>) -> Result<Option<u8>, DataError> {
        let mut depth = 0_usize;
        let (mut in_text, mut is_escaped) = (false, false);
        loop {
            let bytes = match self.reader.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.read_error(error)),
            };
            if bytes.is_empty() || item.len() > MAX_ROW_BYTES {
                return Ok(None);
            }
            let end = bytes.iter().position(|byte| {
                if in_text {
                    in_text = is_escaped || *byte != b'"';
                    is_escaped = !is_escaped && *byte == b'\\';
                    return false;
                }
                match byte {
                    b'"' => in_text = true,
                    b'[' | b'{' => depth += 1,
                    b']' | b'}' if depth > 0 => depth -= 1,
                    b',' | b']' | b'}' if depth == 0 => return true,
                    _ => {}
                }
                false
            });
            let n = end.unwrap_or(bytes.len());
            item.extend_from_slice(&bytes[..n]);
            let byte = end.map(|end| bytes[end]);
            self.reader.consume(n + usize::from(end.is_some()));
            if byte.is_some() {
                return Ok(byte);
            }
        }
    }

    fn read_error(&mut self, error: io::Error) -> DataError {
        self.is_over = true;
        DataError::Read { path: self.file.to_string(), error }
    }
}

impl Iterator for JsonArray {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Result<Row, DataError>> {
        if self.is_over { None } else { self.read().transpose() }
    }
}

fn too_long(at: Origin) -> DataError {
    Fault { at, problem: format!("expected a row of at most {} MiB, found a longer one", MAX_ROW_BYTES >> 20) }.into()
}

/// A text without the mark of byte order in front, which some editors write.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(bytes)
}

fn parse(bytes: &[u8], at: Origin) -> Result<Row, DataError> {
    let problem = match serde_json::from_slice(bytes) {
        Ok(Value::Object(members)) => return Ok(Row { at, members }),
        Ok(_) => "expected an object, found another JSON value".to_owned(),
        Err(error) => {
            // The library counts lines from where the row begins.
            let text = error.to_string();
            let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
            match at.place {
                Place::Line(_) => format!("broken JSON in column {}: {text}", error.column()),
                _ => format!("broken JSON: {text}"),
            }
        }
    };
    Err(Fault { at, problem }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::io::{BufReader, Cursor};

    /// A reader that gives few bytes at a time.
    fn reader(text: &str) -> Box<dyn BufRead> {
        Box::new(BufReader::with_capacity(3, Cursor::new(text.as_bytes().to_vec())))
    }

    fn lines(text: &str) -> Vec<Result<Row, DataError>> {
        JsonLines::new(reader(text), "f".into()).collect()
    }

    fn array(text: &str) -> Vec<Result<Row, DataError>> {
        JsonArray::new(reader(text), "f".into()).collect()
    }

    fn shown(rows: &[Result<Row, DataError>]) -> Vec<String> {
        let show = |row: &Result<Row, DataError>| match row {
            Ok(Row { at, members }) => format!("{at} {}", Value::from(members.clone())),
            Err(error) => error.to_string(),
        };
        rows.iter().map(show).collect()
    }

    #[test]
    fn lines_are_counted_and_one_broken_line_is_one_fault() {
        let rows = lines("\u{FEFF}{\"a\": 1}\r\n\n{\"a\": \n[1]\n{\"a\": \"\u{e9}\"}");
        assert_eq!(
            shown(&rows),
            [
                "f:1 {\"a\":1}",
                "f:3: broken JSON in column 5: EOF while parsing a value",
                "f:4: expected an object, found another JSON value",
                "f:5 {\"a\":\"\u{e9}\"}",
            ]
        );
        assert!(lines(" \n\n").is_empty());
    }

    #[test]
    fn items_of_an_array() {
        let rows = array(" [ {\"a\": \"],{\\\"\"}, {\"b\": [1, {\"c\": []}]}\n,3,{\"d\" 1}, {} ]\n");
        assert_eq!(
            shown(&rows),
            [
                "f: row 1 {\"a\":\"],{\\\"\"}",
                "f: row 2 {\"b\":[1,{\"c\":[]}]}",
                "f: row 3: expected an object, found another JSON value",
                "f: row 4: broken JSON: expected `:`",
                "f: row 5 {}",
            ]
        );
        assert!(array("[]").is_empty());
        for (text, expected) in [
            ("[{}", "f: row 1: broken JSON: expected a row and then , or ], found the end of the file"),
            ("[{},]", "f: row 2: expected a row behind the comma, found the end of the array"),
            ("[,{}]", "f: row 1: broken JSON: expected a row and then , or ], found ,"),
            ("[{}] x", "f: row 1: expected the end of the file behind the array, found more"),
            ("[{}}", "f: row 1: broken JSON: expected a row and then , or ], found }"),
        ] {
            assert_eq!(shown(&array(text)).last().map(String::as_str), Some(expected), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_a_fault() {
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(shown(&lines(&deep))[0].contains("recursion limit"));
        assert!(shown(&array(&format!("[{deep}]")))[0].contains("recursion limit"));
    }

    fn rows() -> impl Strategy<Value = Vec<Value>> {
        prop::collection::vec(("[a\"\\\\{}\\[\\],é\n]{0,6}", any::<i32>()), 0..6)
            .prop_map(|rows| rows.into_iter().map(|(text, n)| json!({"a": text, "b": [n, {"c": text}]})).collect())
    }

    proptest! {
        #[test]
        fn both_give_the_rows_that_were_written(rows in rows()) {
            let as_lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
            let as_array = serde_json::to_string_pretty(&rows).unwrap();
            for read in [lines(&as_lines), array(&as_array)] {
                let read: Vec<Value> = read.into_iter().map(|row| row.unwrap().members.into()).collect();
                prop_assert_eq!(&read, &rows);
            }
        }

        #[test]
        fn no_text_is_a_panic(text in "[\\[\\]{},:\"\\\\a1 \n]{0,40}") {
            lines(&text);
            array(&text);
        }
    }
}
