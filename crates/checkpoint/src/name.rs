//! One canonical naming of the tensors of a Llama, and what Hugging Face, Meta and GGUF call them.

use std::fmt;

/// A tensor of the model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Name {
    /// `[vocab, dim]`: one row a token.
    TokenEmbedding,
    /// A tensor of one transformer layer.
    Layer {
        /// Which layer, from 0.
        layer: usize,
        /// Which tensor of it.
        tensor: LayerTensor,
    },
    /// `[dim]`: weights of the norm before the output matrix.
    OutputNorm,
    /// `[vocab, dim]`: the output matrix; absent when it is tied to the embedding.
    Output,
}

/// A tensor of one layer. Shapes are `[rows, cols]` with y = W·x.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LayerTensor {
    /// `[dim]`: weights of the norm before attention.
    AttentionNorm,
    /// `[heads · head_dim, dim]`.
    Query,
    /// `[kv_heads · head_dim, dim]`.
    Key,
    /// `[kv_heads · head_dim, dim]`.
    Value,
    /// `[dim, heads · head_dim]`.
    AttentionOutput,
    /// `[dim]`: weights of the norm before the feed-forward network.
    FfnNorm,
    /// `[ffn, dim]`: the half of SwiGLU that goes through SiLU; Meta's `w1`.
    Gate,
    /// `[ffn, dim]`: the other half; Meta's `w3`.
    Up,
    /// `[dim, ffn]`; Meta's `w2`.
    Down,
}

/// Spellings of one tensor, without layer prefix.
struct Spelling {
    canonical: &'static str,
    hugging_face: &'static str,
    meta: &'static str,
    gguf: &'static str,
}

const TOP: [(Name, Spelling); 3] = [
    (
        Name::TokenEmbedding,
        Spelling {
            canonical: "token_embedding",
            hugging_face: "model.embed_tokens.weight",
            meta: "tok_embeddings.weight",
            gguf: "token_embd.weight",
        },
    ),
    (
        Name::OutputNorm,
        Spelling {
            canonical: "output_norm",
            hugging_face: "model.norm.weight",
            meta: "norm.weight",
            gguf: "output_norm.weight",
        },
    ),
    (
        Name::Output,
        Spelling { canonical: "output", hugging_face: "lm_head.weight", meta: "output.weight", gguf: "output.weight" },
    ),
];

/// In the order in which a layer uses them.
const LAYER: [(LayerTensor, Spelling); 9] = {
    use LayerTensor::*;
    const fn s(
        canonical: &'static str,
        hugging_face: &'static str,
        meta: &'static str,
        gguf: &'static str,
    ) -> Spelling {
        Spelling { canonical, hugging_face, meta, gguf }
    }
    [
        (AttentionNorm, s("attention_norm", "input_layernorm.weight", "attention_norm.weight", "attn_norm.weight")),
        (Query, s("attention.q", "self_attn.q_proj.weight", "attention.wq.weight", "attn_q.weight")),
        (Key, s("attention.k", "self_attn.k_proj.weight", "attention.wk.weight", "attn_k.weight")),
        (Value, s("attention.v", "self_attn.v_proj.weight", "attention.wv.weight", "attn_v.weight")),
        (
            AttentionOutput,
            s("attention.output", "self_attn.o_proj.weight", "attention.wo.weight", "attn_output.weight"),
        ),
        (FfnNorm, s("ffn_norm", "post_attention_layernorm.weight", "ffn_norm.weight", "ffn_norm.weight")),
        (Gate, s("ffn.gate", "mlp.gate_proj.weight", "feed_forward.w1.weight", "ffn_gate.weight")),
        (Up, s("ffn.up", "mlp.up_proj.weight", "feed_forward.w3.weight", "ffn_up.weight")),
        (Down, s("ffn.down", "mlp.down_proj.weight", "feed_forward.w2.weight", "ffn_down.weight")),
    ]
};

impl LayerTensor {
    /// All nine, in the order in which a layer uses them.
    pub const ALL: [LayerTensor; 9] = {
        let mut all = [LayerTensor::AttentionNorm; 9];
        let mut i = 0;
        while i < 9 {
            all[i] = LAYER[i].0;
            i += 1;
        }
        all
    };
}

impl Name {
    /// Every tensor of a model of `n_layers`, in the order of the forward pass; `Output` last.
    pub fn all(n_layers: usize) -> impl Iterator<Item = Name> {
        let layers = (0..n_layers)
            .flat_map(|layer| LayerTensor::ALL.into_iter().map(move |tensor| Name::Layer { layer, tensor }));
        [Name::TokenEmbedding].into_iter().chain(layers).chain([Name::OutputNorm, Name::Output])
    }

    /// The tensor of a Hugging Face name, e.g. `model.layers.3.self_attn.q_proj.weight`.
    pub fn from_hugging_face(name: &str) -> Option<Name> {
        parse(name, "model.layers.", |s| s.hugging_face)
    }

    /// The tensor of a name in Meta's files, e.g. `layers.3.attention.wq.weight`.
    pub fn from_meta(name: &str) -> Option<Name> {
        parse(name, "layers.", |s| s.meta)
    }

    /// The tensor of a name in GGUF, e.g. `blk.3.attn_q.weight`.
    pub fn from_gguf(name: &str) -> Option<Name> {
        parse(name, "blk.", |s| s.gguf)
    }

    /// Hugging Face's name.
    pub fn hugging_face(self) -> String {
        self.render("model.layers.", |s| s.hugging_face)
    }

    /// Meta's name.
    pub fn meta(self) -> String {
        self.render("layers.", |s| s.meta)
    }

    /// GGUF's name.
    pub fn gguf(self) -> String {
        self.render("blk.", |s| s.gguf)
    }

    /// Whether it is the weight vector of a norm.
    pub fn is_norm(self) -> bool {
        matches!(self, Name::OutputNorm | Name::Layer { tensor: LayerTensor::AttentionNorm | LayerTensor::FfnNorm, .. })
    }

    /// Whether its rows are rotated by position: those of q and k, whose order differs between forms.
    pub fn is_rotated(self) -> bool {
        matches!(self, Name::Layer { tensor: LayerTensor::Query | LayerTensor::Key, .. })
    }

    fn render(self, prefix: &str, of: fn(&Spelling) -> &'static str) -> String {
        match self {
            Name::Layer { layer, tensor } => {
                let (_, spelling) =
                    LAYER.iter().find(|(t, _)| *t == tensor).expect("every LayerTensor is in LAYER (tested)");
                format!("{prefix}{layer}.{}", of(spelling))
            }
            top => {
                let (_, spelling) = TOP.iter().find(|(n, _)| *n == top).expect("every other Name is in TOP (tested)");
                of(spelling).to_owned()
            }
        }
    }
}

fn parse(name: &str, prefix: &str, of: fn(&Spelling) -> &'static str) -> Option<Name> {
    if let Some((name, _)) = TOP.iter().find(|(_, s)| of(s) == name) {
        return Some(*name);
    }
    let (layer, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    // One spelling a number: `03` and `+3` would let two names mean one tensor.
    if layer.len() > 5 || !layer.bytes().all(|b| b.is_ascii_digit()) || (layer.len() > 1 && layer.starts_with('0')) {
        return None;
    }
    let layer = layer.parse().ok()?;
    let (tensor, _) = LAYER.iter().find(|(_, s)| of(s) == rest)?;
    Some(Name::Layer { layer, tensor: *tensor })
}

impl fmt::Display for Name {
    /// The canonical name, e.g. `layers.3.attention.q`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.render("layers.", |s| s.canonical))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_in_every_spelling() {
        let names: Vec<Name> = Name::all(3).collect();
        assert_eq!(names.len(), 3 * 9 + 3);
        for name in names {
            assert_eq!(Name::from_hugging_face(&name.hugging_face()), Some(name));
            assert_eq!(Name::from_meta(&name.meta()), Some(name));
            assert_eq!(Name::from_gguf(&name.gguf()), Some(name));
        }
        let q = Name::Layer { layer: 3, tensor: LayerTensor::Query };
        assert_eq!(q.to_string(), "layers.3.attention.q");
        assert_eq!(q.hugging_face(), "model.layers.3.self_attn.q_proj.weight");
    }

    #[test]
    fn one_spelling_a_number() {
        for bad in ["blk.03.attn_q.weight", "blk.+3.attn_q.weight", "blk..attn_q.weight", "blk.9999999.attn_q.weight"] {
            assert_eq!(Name::from_gguf(bad), None);
        }
        assert_eq!(Name::from_gguf("blk.3.attn_q.bias"), None);
    }
}
