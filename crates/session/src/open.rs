//! From a model's files to its tokenizer, and back.

use crate::Error;
use puna_checkpoint::{Checkpoint, Config, TokenizerSource};
use puna_text::{GgufVocabulary, Tokenizer};
use std::path::Path;

/// The tokenizer of a checkpoint.
///
/// # Errors
/// When it has none, or one that can't be read, or one with more tokens than the model.
pub fn tokenizer(checkpoint: &Checkpoint, path: &Path) -> Result<Tokenizer, Error> {
    let tokenizer = match &checkpoint.tokenizer {
        TokenizerSource::Tiktoken(file) | TokenizerSource::TokenizerJson(file) => load_tokenizer(file)?,
        TokenizerSource::Gguf(v) => {
            let vocabulary = GgufVocabulary {
                model: v.model.clone(),
                pre: v.pre.clone(),
                tokens: v.tokens.clone(),
                token_types: v.token_types.clone(),
                scores: v.scores.clone(),
                merges: v.merges.clone(),
                bos: v.bos,
                eos: v.eos,
                add_bos: v.add_bos,
                add_space_prefix: v.add_space_prefix,
            };
            Tokenizer::from_gguf(&vocabulary)
                .map_err(|error| Error::Tokenizer { path: path.display().to_string(), error })?
        }
        TokenizerSource::None => {
            return Err(Error::Mismatch {
                what: path.display().to_string(),
                expected: "a tokenizer.json, a tokenizer.model or a tokenizer in the GGUF's metadata".into(),
                found: "none of them".into(),
            });
        }
    };
    if tokenizer.vocab_size() > checkpoint.config.vocab_size {
        return Err(Error::Mismatch {
            what: format!("{}: vocabulary", path.display()),
            expected: format!("at most {} tokens, as the model has", checkpoint.config.vocab_size),
            found: format!("{} in the tokenizer", tokenizer.vocab_size()),
        });
    }
    Ok(tokenizer)
}

/// A tokenizer as the metadata of a GGUF file; `path` is where it came from, for messages.
///
/// # Errors
/// When it is one of SentencePiece.
pub fn gguf_vocabulary(tokenizer: &Tokenizer, path: &Path) -> Result<puna_checkpoint::GgufVocabulary, Error> {
    let v = tokenizer.to_gguf().map_err(|error| Error::Tokenizer { path: path.display().to_string(), error })?;
    Ok(puna_checkpoint::GgufVocabulary {
        model: v.model,
        pre: v.pre,
        tokens: v.tokens,
        token_types: v.token_types,
        scores: v.scores,
        merges: v.merges,
        bos: v.bos,
        eos: v.eos,
        add_bos: v.add_bos,
        add_space_prefix: v.add_space_prefix,
    })
}

/// Checks that a draft model can guess tokens for another: it must know the same tokens by the same ids, as many as the
/// model has.
///
/// # Errors
/// Names both models, and the first token in which they differ.
pub fn check_draft(
    (model, tokenizer, path): (&Config, &Tokenizer, &Path),
    (draft, draft_tokenizer, draft_path): (&Config, &Tokenizer, &Path),
) -> Result<(), Error> {
    let what = format!("draft model {}", draft_path.display());
    let expected = |what: &str| format!("the vocabulary of {}, {what}", path.display());
    if let Some(id) = tokenizer.first_difference(draft_tokenizer) {
        let name = |tokenizer: &Tokenizer| match tokenizer.token_bytes(id) {
            Some(bytes) => format!("{:?} as token {id}", String::from_utf8_lossy(bytes)),
            None => format!("no token {id}"),
        };
        return Err(Error::Mismatch { what, expected: expected(&name(tokenizer)), found: name(draft_tokenizer) });
    }
    if model.vocab_size != draft.vocab_size {
        let n_tokens = |config: &Config| format!("{} tokens", config.vocab_size);
        return Err(Error::Mismatch { what, expected: expected(&n_tokens(model)), found: n_tokens(draft) });
    }
    Ok(())
}

/// A tokenizer from its own file: `tokenizer.json`, or Meta's `tokenizer.model`.
pub fn load_tokenizer(file: &Path) -> Result<Tokenizer, Error> {
    let path = file.display().to_string();
    let bytes = std::fs::read(file).map_err(|error| Error::Read { path: path.clone(), error })?;
    let json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let result = if json { Tokenizer::from_tokenizer_json(&bytes) } else { Tokenizer::from_tiktoken(&bytes) };
    result.map_err(|error| Error::Tokenizer { path, error })
}
