//! What a GGUF file says about a Llama, as our reader and others understand it.

use super::writer::MetadataValue::{self, Bool, F32, F32s, I32s, String as Str, Strings, U32};
use crate::{
    GgufVocabulary,
    config::{Config, RopeScaling},
};

/// The metadata of a model.
///
/// Two things are the writer's duty: rows of q and k in the order of
/// [`RopePairing::Interleaved`](crate::RopePairing::Interleaved), and, where the scaling is neither none nor linear, the
/// tensor `rope_freqs.weight` with [`Rope::divisors`](crate::Rope::divisors).
pub fn metadata(
    name: &str,
    config: &Config,
    vocabulary: &GgufVocabulary,
    chat_template: Option<&str>,
) -> Vec<(String, MetadataValue)> {
    // Sizes were checked to be far below 2³².
    let size = |n: usize| U32(u32::try_from(n).unwrap_or(u32::MAX));
    let mut pairs: Vec<(&str, MetadataValue)> = vec![
        ("general.architecture", Str("llama".into())),
        ("general.name", Str(name.into())),
        ("general.quantization_version", U32(2)),
        ("llama.block_count", size(config.n_layers)),
        ("llama.context_length", size(config.context_length)),
        ("llama.embedding_length", size(config.dim)),
        ("llama.feed_forward_length", size(config.ffn_dim)),
        ("llama.attention.head_count", size(config.n_heads)),
        ("llama.attention.head_count_kv", size(config.n_kv_heads)),
        ("llama.attention.key_length", size(config.head_dim)),
        ("llama.attention.value_length", size(config.head_dim)),
        ("llama.attention.layer_norm_rms_epsilon", F32(config.norm_eps)),
        ("llama.rope.dimension_count", size(config.head_dim)),
        ("llama.rope.freq_base", F32(config.rope.theta)),
        ("llama.vocab_size", size(config.vocab_size)),
    ];
    if let RopeScaling::Linear { factor } = config.rope.scaling {
        pairs.push(("llama.rope.scaling.type", Str("linear".into())));
        pairs.push(("llama.rope.scaling.factor", F32(factor)));
    }
    pairs.push(("tokenizer.ggml.model", Str(vocabulary.model.clone())));
    pairs.extend(vocabulary.pre.clone().map(|pre| ("tokenizer.ggml.pre", Str(pre))));
    pairs.push(("tokenizer.ggml.tokens", Strings(vocabulary.tokens.clone())));
    if !vocabulary.token_types.is_empty() {
        pairs.push(("tokenizer.ggml.token_type", I32s(vocabulary.token_types.clone())));
    }
    if !vocabulary.scores.is_empty() {
        pairs.push(("tokenizer.ggml.scores", F32s(vocabulary.scores.clone())));
    }
    // Byte-level BPE needs the key even where there is nothing to merge.
    if vocabulary.model == "gpt2" || !vocabulary.merges.is_empty() {
        pairs.push(("tokenizer.ggml.merges", Strings(vocabulary.merges.clone())));
    }
    pairs.extend(vocabulary.bos.map(|id| ("tokenizer.ggml.bos_token_id", U32(id))));
    pairs.extend(vocabulary.eos.map(|id| ("tokenizer.ggml.eos_token_id", U32(id))));
    pairs.extend(vocabulary.add_bos.map(|add| ("tokenizer.ggml.add_bos_token", Bool(add))));
    pairs.extend(vocabulary.add_space_prefix.map(|add| ("tokenizer.ggml.add_space_prefix", Bool(add))));
    pairs.extend(chat_template.map(|template| ("tokenizer.chat_template", Str(template.into()))));
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
