//! From a grammar to the tokens that may come next.

use std::sync::Arc;

use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::toktrie::SimpleVob;
use llguidance::{Matcher, ParserFactory};
use puna_engine::constraint::{Constraint, ConstraintError, allows};
use puna_text::{TokenId, Tokenizer};

use super::{Grammar, GrammarError, vocabulary};

/// The library recurses as deeply as a grammar is nested; this is some times what as many levels as are
/// allowed take.
const STACK_BYTES: usize = 64 << 20;

/// Makes constraints of grammars, for one vocabulary. For the 128,256 tokens of Llama 3 it takes a
/// second and 64 MB to make, so share it.
pub struct GrammarCompiler {
    factory: ParserFactory,
    stop_tokens: Vec<TokenId>,
}

impl GrammarCompiler {
    /// For a tokenizer whose `stop_tokens` end an answer.
    ///
    /// # Errors
    /// There are no stop tokens, or they are not in the vocabulary, or it is too large.
    pub fn new(tokenizer: Arc<Tokenizer>, stop_tokens: &[TokenId]) -> Result<GrammarCompiler, GrammarError> {
        let environment = vocabulary::environment(tokenizer, stop_tokens)?;
        let mut factory = ParserFactory::new_simple(&environment)
            .map_err(|error| GrammarError::Vocabulary(summary(&error.to_string())))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(GrammarCompiler { factory, stop_tokens: stop_tokens.to_vec() })
    }

    /// A constraint for one answer. It takes some milliseconds; a grammar that would take more than some hundred is refused.
    ///
    /// # Errors
    /// The grammar is too large, wrong, or says something that can't be enforced or that nothing fits; names it.
    pub fn compile(&self, grammar: &Grammar) -> Result<GrammarConstraint, GrammarError> {
        let what = grammar.what();
        let library_grammar = grammar.to_library()?;
        let (matcher, allowed) = std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("grammar".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || self.start(library_grammar))
                .map_err(|error| format!("no thread to compile it in: {error}"))?
                .join()
                // The library turns its own panics into errors.
                .unwrap_or_else(|_| Err("compiling it failed".to_owned()))
        })
        .map_err(|problem| GrammarError::invalid(what, problem))?;
        Ok(GrammarConstraint { matcher, stop_tokens: self.stop_tokens.clone(), allowed: Some(allowed), n_tokens: 0 })
    }

    /// The grammar at its beginning, and which tokens may come there.
    fn start(&self, grammar: TopLevelGrammar) -> Result<(Matcher, SimpleVob), String> {
        let parser = self.factory.create_parser(grammar).map_err(|error| summary(&format!("{error:#}")))?;
        let mut matcher = Matcher::new(Ok(parser));
        let allowed = matcher.compute_mask_or_eos().map_err(|error| summary(&error.to_string()))?;
        Ok((matcher, allowed))
    }
}

/// The library's limits, in its own units of work.
fn limits() -> ParserLimits {
    ParserLimits {
        // Some 50 ms; an ordinary schema takes some hundreds.
        initial_lexer_fuel: 100_000,
        // Some 15 ms a token.
        step_lexer_fuel: 200_000,
        // A kilobyte or two each.
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        // Compiling would walk the whole vocabulary, for a time that depends on the grammar.
        precompute_large_lexemes: false,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// The library's messages go on with extracts of the grammar, or with where in itself it failed; and they cite regular
/// expressions in full.
fn summary(message: &str) -> String {
    const MAX_CHARS: usize = 400;
    let mut lines = message.lines().map(str::trim);
    let first = lines.next().unwrap_or_default();
    // Parsers of regular expressions say last what is wrong.
    let reason = lines.find(|line| line.starts_with("error: ")).unwrap_or_default();
    let line = match first.strip_prefix("panic: ") {
        // One of its own checks, such as that numbers do not overflow.
        Some(failure) => format!("the library of grammars fails on it: {failure}"),
        None if first == StopReason::NoExtensionBias.to_string() => "no text fits it".to_owned(),
        None => [first, reason].join(" ").trim().to_owned(),
    };
    let n_chars = line.chars().count();
    if n_chars <= MAX_CHARS {
        return line;
    }
    let head: String = line.chars().take(MAX_CHARS / 2).collect();
    let tail: String = line.chars().skip(n_chars - MAX_CHARS / 2).collect();
    format!("{head} … {tail}")
}

/// The constraint of one answer.
pub struct GrammarConstraint {
    matcher: Matcher,
    stop_tokens: Vec<TokenId>,
    /// What may come next, once it is known.
    allowed: Option<SimpleVob>,
    n_tokens: usize,
}

impl Clone for GrammarConstraint {
    /// Another one at the same place, for another answer to the same question. They share nothing.
    fn clone(&self) -> GrammarConstraint {
        GrammarConstraint {
            matcher: self.matcher.deep_clone(),
            stop_tokens: self.stop_tokens.clone(),
            allowed: self.allowed.clone(),
            n_tokens: self.n_tokens,
        }
    }
}

impl GrammarConstraint {
    fn failed(&self, error: impl ToString) -> ConstraintError {
        ConstraintError::Failed { n_tokens: self.n_tokens, problem: summary(&error.to_string()) }
    }
}

impl Constraint for GrammarConstraint {
    fn fork(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }

    fn allowed(&mut self) -> Result<&[u32], ConstraintError> {
        let allowed = match self.allowed.take() {
            Some(allowed) => allowed,
            None => self.matcher.compute_mask_or_eos().map_err(|error| self.failed(error))?,
        };
        Ok(self.allowed.insert(allowed).as_slice())
    }

    fn accept(&mut self, id: u32) -> Result<(), ConstraintError> {
        if !allows(self.allowed()?, id) {
            return Err(ConstraintError::NotAllowed { id });
        }
        // Behind the end there is nothing to take.
        if !(self.matcher.is_stopped() && self.stop_tokens.contains(&id)) {
            self.matcher.consume_token(id).map_err(|error| self.failed(error))?;
        }
        self.allowed = None;
        self.n_tokens += 1;
        Ok(())
    }
}
