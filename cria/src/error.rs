//! What can be wrong with the corpus' own files, or with what is asked of it.

/// Why no corpus was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A line of the grammar, or of a piece that was written by hand, is not as it should be.
    #[error("{file}:{line}: {problem}")]
    File {
        /// Path below the crate's root.
        file: &'static str,
        /// Counted from one.
        line: usize,
        /// What was expected, and what was found.
        problem: String,
    },
    /// The grammar made a text that breaks a rule of [`crate::check`].
    #[error("a {kind} breaks a rule: {problem}: {text:?}")]
    Text {
        /// Story or dialogue.
        kind: &'static str,
        /// Which rule, and where.
        problem: String,
        /// The whole text.
        text: String,
    },
    /// More documents were asked for than the grammar can make.
    #[error("expected {expected} different {kind}, found {found} in as many tries as are worth while")]
    TooMany {
        /// Stories or dialogues.
        kind: &'static str,
        /// How many were asked for.
        expected: usize,
        /// How many there are.
        found: usize,
    },
}
