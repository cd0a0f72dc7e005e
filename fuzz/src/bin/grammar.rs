//! A grammar from a stranger: it ends in an error or in a constraint, and that allows some token until it is complete or
//! gives up. The first byte says what the rest is, and which tokens are picked.
#![no_main]

use std::sync::{Arc, LazyLock};

use puna_engine::constraint::{Constraint, allows};
use puna_fuzz::byte_level;
use puna_session::{Grammar, GrammarCompiler, ToolCalls, ToolChoice};
use puna_text::{TokenId, chat::Conversation};

const N_TOKENS: usize = 24;

static COMPILER: LazyLock<(GrammarCompiler, TokenId)> = LazyLock::new(|| {
    let tokenizer = Arc::new(byte_level());
    let n_tokens = tokenizer.vocab_size() as TokenId;
    let stops = tokenizer.stop_tokens();
    (GrammarCompiler::new(tokenizer, &stops).unwrap_or_else(|error| panic!("{error}")), n_tokens)
});

fn grammar(kind: u8, rest: &[u8]) -> Option<Grammar> {
    let text = || std::str::from_utf8(rest).ok().map(str::to_owned);
    Some(match kind % 5 {
        0 => Grammar::JsonSchema(serde_json::from_slice(rest).ok()?),
        1 => Grammar::Regex(text()?),
        2 => Grammar::Lark(text()?),
        3 => Grammar::Choice(text()?.split('\n').map(str::to_owned).collect()),
        _ => {
            let conversation: Conversation = serde_json::from_slice(rest).ok()?;
            Grammar::ToolCalls(ToolCalls::of(&conversation, ToolChoice::Auto, true))
        }
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let Some(grammar) = grammar(*kind, rest) else { return };
    let (compiler, n_tokens) = &*COMPILER;
    let mut constraint = match compiler.compile(&grammar) {
        Ok(constraint) => constraint,
        Err(error) => return assert!(error.to_string().chars().count() < 1000, "{error}"),
    };
    for step in 0..N_TOKENS {
        let Ok(allowed) = constraint.allowed() else { return };
        let allowed = allowed.to_vec();
        let picks: Vec<TokenId> = (0..*n_tokens).filter(|id| allows(&allowed, *id)).collect();
        let id = picks[(usize::from(*kind) / 5 + 7 * step) % picks.len()];
        let refused = (0..*n_tokens).find(|id| !allows(&allowed, *id));
        assert!(refused.is_none_or(|id| constraint.accept(id).is_err()));
        if constraint.accept(id).is_err() {
            return;
        }
    }
});
