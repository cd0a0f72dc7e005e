//! What an answer may look like, in token ids: a [`Constraint`] says before every token which ones may come next.
//!
//! The engine knows no text. Who does makes the constraints: grammars of JSON, regular expressions and tool calls are in
//! the crate `puna-session`.

/// Says which tokens may come next. It is asked for, and told of, every token of one answer in turn.
pub trait Constraint: Send {
    /// Another one at the same place, for another answer. They share nothing that changes.
    fn fork(&self) -> Box<dyn Constraint>;

    /// The tokens that may come next, as bits, 32 in a word, the lowest id lowest; ids behind the last word may not come.
    /// There is at least one. Once the answer is complete, only tokens that end it are left.
    ///
    /// This can take a millisecond, needs only the tokens before, and may be called while the logits are computed: the
    /// result is kept until the next token.
    ///
    /// # Errors
    /// What may follow is too much work to find out.
    fn allowed(&mut self) -> Result<&[u32], ConstraintError>;

    /// Takes the token that was picked.
    ///
    /// # Errors
    /// The token is not one of those allowed; nothing has changed then.
    fn accept(&mut self, id: u32) -> Result<(), ConstraintError>;
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        (**self).fork()
    }
}

impl std::fmt::Debug for dyn Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("dyn Constraint")
    }
}

/// Why a constraint can't go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// A token that was not allowed.
    #[error("token {id} may not come here: expected one that the grammar of the answer allows")]
    NotAllowed {
        /// The token.
        id: u32,
    },
    /// The grammar can't say what may come next.
    #[error("the grammar of the answer, after {n_tokens} tokens: {problem}")]
    Failed {
        /// Tokens accepted before.
        n_tokens: usize,
        /// Why not.
        problem: String,
    },
}

/// Whether a token is among those [`Constraint::allowed`] gives.
pub fn allows(allowed: &[u32], id: u32) -> bool {
    allowed.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}
