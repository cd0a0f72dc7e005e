//! JSON as Python's `json.dumps` writes it: models were trained on its separators, indents and numbers.

use serde_json::Value;

/// Values nested deeper are refused, as the JSON parser does.
const MAX_DEPTH: usize = 128;

/// Longer texts are refused: far more than any context holds.
const MAX_BYTES: usize = 1 << 24;

/// The arguments of `json.dumps`.
#[derive(Clone, Debug)]
pub(crate) struct Style<'a> {
    /// Spaces for each level, one item a line; otherwise all in one line.
    pub(crate) indent: Option<usize>,
    /// Between items. Python's default has no space at a line's end.
    pub(crate) item_separator: &'a str,
    /// Between key and value.
    pub(crate) key_separator: &'a str,
    /// Characters that are not ASCII as `\u` escapes. Python does so unless told otherwise; templates are told otherwise.
    pub(crate) ensure_ascii: bool,
    /// Members by key; otherwise in the order of the file.
    pub(crate) sort_keys: bool,
}

impl Style<'_> {
    /// All in one line.
    pub(crate) const LINE: Style<'static> =
        Style { indent: None, item_separator: ", ", key_separator: ": ", ensure_ascii: false, sort_keys: false };

    /// One line per item, indented by four spaces a level.
    pub(crate) const INDENTED: Style<'static> = Style { indent: Some(4), item_separator: ",", ..Style::LINE };
}

/// The value is nested too deeply, or has too much text, to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// The value as JSON.
pub(crate) fn dumps(value: &Value, style: &Style<'_>) -> Result<String, TooLarge> {
    let mut text = String::new();
    write_value(&mut text, value, style, 0)?;
    Ok(text)
}

fn write_value(text: &mut String, value: &Value, style: &Style<'_>, depth: usize) -> Result<(), TooLarge> {
    if depth > MAX_DEPTH || text.len() > MAX_BYTES {
        return Err(TooLarge);
    }
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) => text.push_str(&float_repr(float)),
            None => text.push_str(&number.to_string()),
        },
        Value::String(string) => write_string(text, string, style.ensure_ascii),
        Value::Array(items) if items.is_empty() => text.push_str("[]"),
        Value::Array(items) => {
            text.push('[');
            for (idx, item) in items.iter().enumerate() {
                begin_item(text, style, idx, depth + 1);
                write_value(text, item, style, depth + 1)?;
            }
            new_line(text, style, depth);
            text.push(']');
        }
        Value::Object(members) if members.is_empty() => text.push_str("{}"),
        Value::Object(members) => {
            text.push('{');
            let mut members: Vec<_> = members.iter().collect();
            if style.sort_keys {
                members.sort_by_key(|(key, _)| *key);
            }
            for (idx, (key, value)) in members.into_iter().enumerate() {
                begin_item(text, style, idx, depth + 1);
                write_string(text, key, style.ensure_ascii);
                text.push_str(style.key_separator);
                write_value(text, value, style, depth + 1)?;
            }
            new_line(text, style, depth);
            text.push('}');
        }
    }
    Ok(())
}

fn begin_item(text: &mut String, style: &Style<'_>, idx: usize, depth: usize) {
    if idx > 0 {
        text.push_str(style.item_separator);
    }
    new_line(text, style, depth);
}

fn new_line(text: &mut String, style: &Style<'_>, depth: usize) {
    if let Some(indent) = style.indent {
        text.push('\n');
        text.extend(std::iter::repeat_n(' ', indent * depth));
    }
}

fn write_string(text: &mut String, string: &str, ensure_ascii: bool) {
    text.push('"');
    for c in string.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\0'..='\u{1f}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if ensure_ascii && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

/// Python's `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "NaN".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{float}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_as_python_does() {
        let value = json!({"b": [1, -2.5, 1e20, true, null, {}], "a": "é\u{1}\"\\\n🦙\u{7f}", "c": []});
        let line = "{\"b\": [1, -2.5, 1e+20, true, null, {}], \"a\": \"é\\u0001\\\"\\\\\\n🦙\u{7f}\", \"c\": []}";
        assert_eq!(dumps(&value, &Style::LINE).unwrap(), line);
        let ascii = Style { ensure_ascii: true, sort_keys: true, ..Style::LINE };
        assert_eq!(
            dumps(&value, &ascii).unwrap(),
            "{\"a\": \"\\u00e9\\u0001\\\"\\\\\\n\\ud83e\\udd99\u{7f}\", \"b\": [1, -2.5, 1e+20, true, null, {}], \"c\": []}"
        );
        let indented = "{\n    \"a\": [\n        1\n    ],\n    \"b\": {}\n}";
        assert_eq!(dumps(&json!({"a": [1], "b": {}}), &Style::INDENTED).unwrap(), indented);
    }

    #[test]
    fn floats_are_pythons() {
        for (float, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123_456_789.0, "123456789.0"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
        ] {
            assert_eq!(float_repr(float), text);
        }
    }

    #[test]
    fn depth_is_limited() {
        let mut value = json!(1);
        for _ in 0..MAX_DEPTH {
            value = json!([value]);
        }
        assert!(dumps(&value, &Style::LINE).is_ok());
        assert_eq!(dumps(&json!([value]), &Style::LINE), Err(TooLarge));
    }
}
