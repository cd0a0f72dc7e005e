//! Members of an object, taken one by one by those who know them; the others are noted in the end.

use super::Notes;
use serde_json::{Map, Value};

/// An object of which not everything was taken yet.
pub(super) struct Fields {
    /// Where it stands in the row; empty for the row itself.
    path: String,
    members: Map<String, Value>,
}

impl Fields {
    pub fn of_row(members: Map<String, Value>) -> Fields {
        Fields { path: String::new(), members }
    }

    /// An object within a row.
    pub fn of(value: Value, path: &str) -> Result<Fields, String> {
        match value {
            Value::Object(members) => Ok(Fields { path: path.to_owned(), members }),
            other => Err(format!("{path}: expected an object, found {}", kind(&other))),
        }
    }

    /// The path of a member.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A member, whatever it is; `null` is none.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.members.remove(key).filter(|value| !value.is_null())
    }

    /// A member that must be there.
    pub fn required(&mut self, key: &str, what: &str) -> Result<Value, String> {
        self.take(key).ok_or_else(|| self.missing(key, what))
    }

    fn missing(&self, key: &str, what: &str) -> String {
        let keys: Vec<&str> = self.members.keys().map(String::as_str).collect();
        let found = if keys.is_empty() { "nothing else".to_owned() } else { keys.join(", ") };
        format!("{}: expected {what}, found no such key beside {found}", self.path_of(key))
    }

    /// A text, if there is one.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("{}: expected a text, found {}", self.path_of(key), kind(&other))),
        }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &str) -> Result<String, String> {
        self.text(key)?.ok_or_else(|| self.missing(key, "a text"))
    }

    /// A list that must be there.
    pub fn required_list(&mut self, key: &str) -> Result<Vec<Value>, String> {
        list(self.required(key, "a list")?, &self.path_of(key))
    }

    /// What is left: keys that nobody knows.
    pub fn finish(self, notes: &mut Notes) {
        // Numbers of messages would make a key of each.
        let mut path = String::new();
        let mut in_number = false;
        for c in self.path.chars() {
            in_number = (in_number || c == '[') && c != ']';
            if !in_number && c != ']' {
                path.push(c);
            }
        }
        let unknown = self.members.into_iter().filter(|(_, value)| !value.is_null());
        notes.unknown_keys.extend(unknown.map(|(key, _)| if path.is_empty() { key } else { format!("{path}.{key}") }));
    }
}

/// A list.
pub(super) fn list(value: Value, path: &str) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(format!("{path}: expected a list, found {}", kind(&other))),
    }
}

/// What a value is, for people.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
