//! What is counted before a grammar is compiled. Nothing here recurses.

use serde_json::Value;

use super::GrammarError;

/// Bytes of a schema or a grammar.
pub(super) const MAX_BYTES: usize = 64 << 10;
/// Bytes of the schemas of all tools together.
pub(super) const MAX_TOOLS_BYTES: usize = 256 << 10;
/// Tools that can be offered at a time.
pub(super) const MAX_TOOLS: usize = 128;
/// Levels and properties of a schema, rules of a grammar, strings to choose from.
pub(super) const MAX_NESTING: usize = 1000;

/// Properties of one object in a schema: compiling takes time by their square, and so many that are optional may come next.
const MAX_PROPERTIES: usize = 400;

/// Refuses what is larger than `limit`.
pub(super) fn check(what: &str, found: usize, unit: &'static str, limit: usize) -> Result<(), GrammarError> {
    if found > limit {
        return Err(GrammarError::TooLarge { what: what.to_owned(), limit, unit, found });
    }
    Ok(())
}

/// Refuses JSON that is too deep or too long; gives its bytes, of strings and structure, which are about those of its text.
pub(super) fn check_json(what: &str, value: &Value) -> Result<usize, GrammarError> {
    let (mut bytes, mut n_properties) = (0, 0);
    let mut open = vec![(value, 1)];
    while let Some((value, depth)) = open.pop() {
        check(what, depth, "levels of nesting", MAX_NESTING)?;
        bytes += match value {
            Value::String(text) => text.len() + 3,
            Value::Object(fields) => 2 + fields.keys().map(|key| key.len() + 3).sum::<usize>(),
            _ => 3,
        };
        check(what, bytes, "bytes", MAX_BYTES)?;
        if let Some(properties) = value.get("properties").and_then(Value::as_object) {
            check(what, properties.len(), "properties in an object", MAX_PROPERTIES)?;
            n_properties += properties.len();
            check(what, n_properties, "properties", MAX_NESTING)?;
        }
        match value {
            Value::Array(values) => open.extend(values.iter().map(|value| (value, depth + 1))),
            Value::Object(fields) => open.extend(fields.values().map(|value| (value, depth + 1))),
            _ => {}
        }
    }
    Ok(bytes)
}

/// Refuses a Lark grammar that is too long, has too many rules, or could be nested too deeply: brackets are counted
/// wherever they stand, because a string that hides one from a count is easily made.
pub(super) fn check_lark(what: &str, text: &str) -> Result<(), GrammarError> {
    check(what, text.len(), "bytes", MAX_BYTES)?;
    let is_rule =
        |line: &&str| line.starts_with(|c: char| c.is_ascii_alphabetic() || "_!?".contains(c)) && line.contains(':');
    check(what, text.lines().map(str::trim_start).filter(is_rule).count(), "rules", MAX_NESTING)?;
    if text.contains("::") {
        // They count, and compiling one that counts to 2^64 would not end.
        let problem = "has `::`; rules with parameters are not taken (in a string, write `:\\u003a`)";
        return Err(GrammarError::invalid(what, problem));
    }
    let n_parentheses = text.bytes().filter(|byte| *byte == b'(').count();
    check(what, n_parentheses, "opening parentheses", MAX_NESTING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn depth_and_size_are_counted() {
        let nested = |depth| (1..depth).fold(json!({}), |inner, _| json!({"items": inner}));
        assert!(check_json("schema", &nested(MAX_NESTING)).is_ok());
        let error = check_json("schema", &nested(MAX_NESTING + 1)).expect_err("too deep");
        assert_eq!(error.to_string(), "schema: expected at most 1000 levels of nesting, found 1001");
        assert!(check_json("schema", &json!({"enum": vec![1; MAX_BYTES / 3 - 5]})).is_ok());
        let error = check_json("schema", &json!({"enum": vec![1; MAX_BYTES / 3]})).expect_err("too long");
        assert!(error.to_string().starts_with("schema: expected at most 65536 bytes"), "{error}");
        let text = "a".repeat(MAX_BYTES);
        assert!(check_json("schema", &json!({ text: 1 })).is_err());
    }

    #[test]
    fn rules_and_parentheses_are_counted() {
        let rules = |n| (0..n).map(|i| format!("  r{i}: \"a:b\"\n// c: d\n")).collect::<String>();
        assert!(check_lark("grammar", &rules(MAX_NESTING)).is_ok());
        assert!(check_lark("grammar", &rules(MAX_NESTING + 1)).is_err());
        assert!(check_lark("grammar", &format!("start: {}", "(".repeat(MAX_NESTING + 1))).is_err());
        assert!(check_lark("grammar", &" ".repeat(MAX_BYTES + 1)).is_err());
    }
}
