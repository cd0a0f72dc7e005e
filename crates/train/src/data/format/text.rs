//! Raw text: `{"text": …}`, or a text file, which is a row of this kind.

use super::fields::Fields;
use super::{Notes, Sample};

pub(super) fn parse(mut row: Fields, notes: &mut Notes) -> Result<Sample, String> {
    let text = row.required_text("text")?;
    row.finish(notes);
    if text.is_empty() {
        return Err("text: expected a text, found an empty one".to_owned());
    }
    Ok(Sample::Text(text))
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;
    use serde_json::{Value, json};

    fn parse(row: Value) -> Result<Sample, String> {
        Format::Text.parse(row.as_object().unwrap().clone(), &mut Notes::default())
    }

    #[test]
    fn is_a_text() {
        assert_eq!(parse(json!({"text": " a\n"})), Ok(Sample::Text(" a\n".to_owned())));
        for (row, expected) in [
            (json!({"text": ""}), "text: expected a text, found an empty one"),
            (json!({"text": ["a"]}), "text: expected a text, found a list"),
            (json!({}), "text: expected a text, found no such key beside nothing else"),
        ] {
            assert_eq!(parse(row).unwrap_err(), expected);
        }
    }
}
