//! Which model an adapter was trained on: a few lines that any form of the model can be held against within a second.
//!
//! Values are hashed as they decode, rows of q and k in one order, so that a Hugging Face directory, Meta's shards and
//! a GGUF file with the same values are the same base. Of every matrix four rows are hashed, spread over its height, so
//! that the largest model needs some thousand reads; of norms all values. A base that was trained further differs
//! everywhere and is told apart; one in which single rows were changed may not be.
//!
//! Norms are small and stay floats in every quantized file. So other norms mean another model, while equal norms and
//! other values mean the same model in another format, or a near relative of it: no hash can tell these two apart.

use crate::{Checkpoint, Config, ConfigError, RopePairing, Tensor};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn parse(hex: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let [high, low] = pair.map(|digit| char::from(digit).to_digit(16));
            *byte = u8::try_from(high? * 16 + low?).ok()?;
        }
        Some(Digest(bytes))
    }
}

/// Of all bytes of a checkpoint's weights, as they are stored. `progress(bytes)` is called as they are read, by several
/// threads.
pub fn digest_of_weights(checkpoint: &Checkpoint, progress: &(dyn Fn(u64) + Sync)) -> Digest {
    let of_tensor = |tensor: &Tensor| {
        let mut hash = Sha256::new();
        hash.update(format!("{} {} {} {}\n", tensor.name, tensor.format.name(), tensor.rows, tensor.cols));
        for part in &tensor.parts {
            hash.update(format!("{} {} {} {}\n", part.row0, part.rows, part.col0, part.cols));
            let scales = part.row_scales.iter().flat_map(|scales| scales.iter());
            scales.for_each(|scale| hash.update(scale.to_le_bytes()));
            for bytes in part.bytes.chunks(1 << 20) {
                hash.update(bytes);
                progress(bytes.len() as u64);
            }
        }
        hash.finalize().into()
    };
    let tensors: Vec<&Tensor> = checkpoint.tensors().collect();
    let parts: Vec<[u8; 32]> = tensors.into_par_iter().map(of_tensor).collect();
    Digest::of(parts.as_flattened())
}

impl From<Sha256> for Digest {
    fn from(hash: Sha256) -> Digest {
        Digest(hash.finalize().into())
    }
}

impl fmt::Display for Digest {
    /// 64 hexadecimal digits; as many of them as the precision says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self:.12})")
    }
}

/// What a base model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseIdentity {
    /// Its sizes, in words.
    pub sizes: String,
    /// The formats of its matrices, e.g. `Q4_K, Q6_K`.
    pub formats: String,
    /// Of all values of its norms.
    pub norms: Digest,
    /// Of some rows of every matrix.
    pub values: Digest,
}

/// How a model is like the one that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// Equal values.
    Same,
    /// Equal sizes and norms, other values in other formats.
    OtherFormat,
    /// Another model.
    Another {
        /// What tells them apart.
        what: &'static str,
        /// What was recorded.
        recorded: String,
        /// What the model has.
        found: String,
    },
}

/// Where the lines of a [`BaseIdentity`] and the hash of a template lie in the metadata of adapter files.
pub(super) const KEYS: [&str; 5] = [SIZES, FORMATS, NORMS, VALUES, CHAT_TEMPLATE];
const SIZES: &str = "puna.base.sizes";
const FORMATS: &str = "puna.base.formats";
const NORMS: &str = "puna.base.norms";
const VALUES: &str = "puna.base.values";
const CHAT_TEMPLATE: &str = "puna.chat_template";

/// Rows of a matrix that are hashed.
const SAMPLES: usize = 4;

impl BaseIdentity {
    /// Reads norms and some rows of every matrix.
    pub fn of(checkpoint: &Checkpoint) -> BaseIdentity {
        let config = &checkpoint.config;
        let (norms, matrices): (Vec<&Tensor>, Vec<&Tensor>) =
            checkpoint.tensors().partition(|tensor| tensor.name.is_norm());
        let all = |tensors: &[&Tensor]| {
            let parts: Vec<[u8; 32]> = tensors.par_iter().map(|tensor| sampled(tensor, config)).collect();
            Digest::of(parts.as_flattened())
        };
        let formats: BTreeSet<_> = matrices.iter().map(|tensor| tensor.format).collect();
        let formats: Vec<&str> = formats.into_iter().map(|format| format.name()).collect();
        BaseIdentity { sizes: sizes(config), formats: formats.join(", "), norms: all(&norms), values: all(&matrices) }
    }

    /// Holds the recorded identity against that of a model.
    pub fn likeness(&self, found: &BaseIdentity) -> Likeness {
        let short = |digest: &Digest| format!("{digest:.12}");
        if self.sizes != found.sizes {
            return Likeness::Another { what: "sizes", recorded: self.sizes.clone(), found: found.sizes.clone() };
        }
        let differs =
            |what, recorded, found| Likeness::Another { what, recorded: short(recorded), found: short(found) };
        if self.norms != found.norms {
            return differs("norms", &self.norms, &found.norms);
        }
        if self.values == found.values {
            return Likeness::Same;
        }
        if self.formats == found.formats {
            return differs("values", &self.values, &found.values);
        }
        Likeness::OtherFormat
    }
}

/// The identity and the hash of the template that `pairs` hold: all four lines of the former or none.
pub(super) fn from_metadata(
    pairs: &BTreeMap<&'static str, String>,
) -> Result<(Option<BaseIdentity>, Option<Digest>), ConfigError> {
    let text = |key: &'static str| pairs.get(key).cloned().ok_or(ConfigError::Missing(key));
    let digest = |key: &'static str| {
        let text = text(key)?;
        Digest::parse(&text).ok_or_else(|| ConfigError::range(key, text, "64 hexadecimal digits"))
    };
    let template = pairs.contains_key(CHAT_TEMPLATE).then(|| digest(CHAT_TEMPLATE)).transpose()?;
    if [SIZES, FORMATS, NORMS, VALUES].iter().all(|key| !pairs.contains_key(key)) {
        return Ok((None, template));
    }
    let base =
        BaseIdentity { sizes: text(SIZES)?, formats: text(FORMATS)?, norms: digest(NORMS)?, values: digest(VALUES)? };
    Ok((Some(base), template))
}

/// The pairs that [`from_metadata`] reads.
pub(super) fn to_metadata(base: Option<&BaseIdentity>, template: Option<Digest>) -> Vec<(&'static str, String)> {
    let mut pairs = Vec::new();
    if let Some(base) = base {
        pairs.push((SIZES, base.sizes.clone()));
        pairs.push((FORMATS, base.formats.clone()));
        pairs.push((NORMS, base.norms.to_string()));
        pairs.push((VALUES, base.values.to_string()));
    }
    pairs.extend(template.map(|digest| (CHAT_TEMPLATE, digest.to_string())));
    pairs
}

fn sizes(config: &Config) -> String {
    let Config { dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab_size, .. } = config;
    format!(
        "{n_layers} layers, width {dim}, {n_heads} heads of {head_dim}, {n_kv_heads} KV heads, feed-forward {ffn_dim}, \
         vocabulary {vocab_size}"
    )
}

/// The hash of a tensor's name, shape and rows, those of q and k in the order of Hugging Face.
fn sampled(tensor: &Tensor, config: &Config) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(format!("{} {} {}\n", tensor.name, tensor.rows, tensor.cols));
    let mut values = vec![0f32; tensor.cols];
    let mut bytes = Vec::with_capacity(tensor.cols * 4);
    let n = SAMPLES.min(tensor.rows);
    for sample in 0..n {
        let row = (2 * sample + 1) * tensor.rows / (2 * n);
        tensor.decode_row(config.stored_row(tensor.name, row, RopePairing::Halves), &mut values);
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        hash.update(&bytes);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> BaseIdentity {
        BaseIdentity {
            sizes: "s".into(),
            formats: "BF16".into(),
            norms: Digest::of(b"norms"),
            values: Digest::of(b"values"),
        }
    }

    #[test]
    fn digests_read_back() {
        let digest = Digest::of(b"abc");
        // The example of FIPS 180-4.
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((digest.to_string().as_str(), format!("{digest:.4}").as_str()), (hex, "ba78"));
        assert_eq!(Digest::parse(hex), Some(digest));
        for bad in ["", &hex[1..], &hex.replace('b', "g"), &hex.replacen("ba", "+a", 1), &format!("{hex}0")] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn models_are_told_apart() {
        let recorded = identity();
        assert_eq!(recorded.likeness(&identity()), Likeness::Same);
        let told = |change: &dyn Fn(&mut BaseIdentity)| {
            let mut found = identity();
            change(&mut found);
            match recorded.likeness(&found) {
                Likeness::Another { what, .. } => what,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(&|found| found.sizes = "t".into()), "sizes");
        assert_eq!(told(&|found| found.norms = Digest::of(b"")), "norms");
        assert_eq!(told(&|found| found.values = Digest::of(b"")), "values");
        let other = BaseIdentity { formats: "Q8_0".into(), values: Digest::of(b""), ..identity() };
        assert_eq!(recorded.likeness(&other), Likeness::OtherFormat);
        // Another container for the same values.
        assert_eq!(recorded.likeness(&BaseIdentity { formats: "F32".into(), ..identity() }), Likeness::Same);
    }

    #[test]
    fn metadata_is_whole_or_absent() {
        let pairs = |base: Option<&BaseIdentity>| to_metadata(base, None).into_iter().collect::<BTreeMap<_, _>>();
        assert_eq!(from_metadata(&pairs(None)).unwrap(), (None, None));
        let whole = pairs(Some(&identity()));
        assert_eq!(from_metadata(&whole).unwrap(), (Some(identity()), None));
        for key in [SIZES, FORMATS, NORMS, VALUES] {
            let mut part = whole.clone();
            part.remove(key);
            let message = from_metadata(&part).unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
        let mut bad = whole;
        bad.insert(NORMS, "12".into());
        assert_eq!(
            from_metadata(&bad).unwrap_err().to_string(),
            "`puna.base.norms` is 12, expected 64 hexadecimal digits"
        );
        let template = BTreeMap::from([(CHAT_TEMPLATE, Digest::of(b"t").to_string())]);
        assert_eq!(from_metadata(&template).unwrap(), (None, Some(Digest::of(b"t"))));
    }
}
