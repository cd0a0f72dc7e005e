//! The files of the grammar: sections under lines `== name`, comments after `#`, empty lines of no meaning.

use crate::Error;

/// A line with its number, counted from one.
pub type Line = (usize, &'static str);

/// One section of a file.
pub struct Section {
    /// The file that it stands in.
    pub file: &'static str,
    /// What follows `==`.
    pub name: &'static str,
    /// The line of `==`.
    pub line: usize,
    /// Its lines, without comments and empty ones.
    pub lines: Vec<Line>,
}

/// Splits a file.
///
/// # Errors
/// When something stands before the first section.
pub fn split(file: &'static str, text: &'static str) -> Result<Vec<Section>, Error> {
    let mut sections: Vec<Section> = Vec::new();
    for (index, written) in text.lines().enumerate() {
        let (number, line) = (index + 1, written.trim_end());
        if line.is_empty() || line.starts_with('#') {
        } else if let Some(name) = line.strip_prefix("== ") {
            sections.push(Section { file, name, line: number, lines: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.lines.push((number, line));
        } else {
            return Err(error(file, number, format!("expected a line \"== name\" first, found {line:?}")));
        }
    }
    Ok(sections)
}

/// An error at a line of a file.
pub fn error(file: &'static str, line: usize, problem: String) -> Error {
    Error::File { file, line, problem }
}
