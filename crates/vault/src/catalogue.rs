//! The Llama 3.1 models by name: where they are published, and what must arrive. Data is in `catalogue.toml`.

use crate::digest::Hex;
use crate::manifest::ModelName;
use crate::path::SafePath;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A model of the catalogue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What `puna pull` takes: `llama-3.1-8b-instruct`.
    pub name: String,
    /// The repository of the Hugging Face hub.
    pub repository: ModelName,
    /// Which of the three.
    pub size: Size,
    /// Whether it was trained to follow instructions.
    pub instruct: bool,
    /// Whether most of its feed-forward matrices are 8-bit floats, rather than all of them bf16.
    pub fp8: bool,
    /// Which terms it comes with.
    pub licence: String,
    /// How many safetensors files the hub has of it.
    pub shards: u32,
    /// The sum of their sizes in bytes, if known. It is a little more than [`Model::tensor_bytes`].
    pub file_bytes: Option<u64>,
    /// The commit of the hub at which `files` were looked at.
    pub commit: Option<String>,
    /// Files whose hashes are known beforehand, at `commit`.
    #[serde(default)]
    pub files: Vec<Pinned>,
    /// Meta's own forms of it, by a signed link.
    pub native: Vec<Native>,
}

/// A file whose hash is known beforehand.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// Its path in the repository.
    pub path: SafePath,
    /// In bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Hex<32>,
}

/// One of Meta's own forms of a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Native {
    /// What Meta calls it: `Llama3.1-405B:bf16-mp8`.
    pub id: String,
    /// The folder below the signed link.
    pub folder: String,
    /// What the folder was called before, which older links may need.
    pub old_folders: Vec<String>,
    /// How many ways the matrices are split: one `consolidated.NN.pth` each.
    pub shards: u32,
    /// The size of each in bytes, if Meta's own client has it.
    pub shard_bytes: Option<u64>,
    /// MD5 of files of which it was published elsewhere.
    #[serde(default)]
    pub md5: BTreeMap<SafePath, Hex<16>>,
}

/// The sizes of Llama 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// 8 billion parameters.
    #[serde(rename = "8b")]
    B8,
    /// 70 billion parameters.
    #[serde(rename = "70b")]
    B70,
    /// 405 billion parameters.
    #[serde(rename = "405b")]
    B405,
}

/// What follows of [`Size`]; the same for all: vocabulary of 128,256, heads of 128, and 8 heads of keys and values.
struct Shape {
    d: u64,
    n_layers: u64,
    d_ff: u64,
}

const VOCABULARY: u64 = 128_256;
const HEAD_SIZE: u64 = 128;
const N_KV_HEADS: u64 = 8;

impl Size {
    fn shape(self) -> Shape {
        match self {
            Size::B8 => Shape { d: 4_096, n_layers: 32, d_ff: 14_336 },
            Size::B70 => Shape { d: 8_192, n_layers: 80, d_ff: 28_672 },
            Size::B405 => Shape { d: 16_384, n_layers: 126, d_ff: 53_248 },
        }
    }

    /// Bytes of all tensors in bf16, split `n_shards` ways.
    ///
    /// Norms are repeated in every shard. With more shards than heads of keys and values, those are repeated, too.
    fn bf16_bytes(self, n_shards: u64) -> u64 {
        let Shape { d, n_layers, d_ff } = self.shape();
        let d_kv = N_KV_HEADS.max(n_shards) * HEAD_SIZE;
        let norms = d + 2 * n_layers * d;
        2 * (2 * VOCABULARY * d + n_layers * (2 * d * d + 2 * d * d_kv + 3 * d * d_ff) + n_shards * norms)
    }

    /// Bytes that 8-bit floats save: in the feed-forward matrices of all layers but the first and the last.
    fn saved_by_fp8(self) -> u64 {
        let Shape { d, n_layers, d_ff } = self.shape();
        (n_layers - 2) * 3 * d * d_ff
    }

    /// Bytes of the scales of those matrices, an f32 for each row.
    fn scale_bytes(self) -> u64 {
        let Shape { d, n_layers, d_ff } = self.shape();
        (n_layers - 2) * (2 * d_ff + d) * 4
    }

    /// How many parameters the model has.
    #[must_use]
    pub fn parameters(self) -> u64 {
        self.bf16_bytes(1) / 2
    }
}

impl Model {
    /// Bytes of all tensors as the hub has them. Its files have a little more, for their headers.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        let bf16 = self.size.bf16_bytes(1);
        if self.fp8 { bf16 - self.size.saved_by_fp8() + self.size.scale_bytes() } else { bf16 }
    }

    /// Bytes of all tensors in one of Meta's own forms, without the files of scales.
    #[must_use]
    pub fn native_tensor_bytes(&self, native: &Native) -> u64 {
        let bf16 = self.size.bf16_bytes(native.shards.into());
        if self.fp8 { bf16 - self.size.saved_by_fp8() } else { bf16 }
    }

    /// What is known beforehand of a file at a commit.
    #[must_use]
    pub fn pinned(&self, commit: &str, path: &SafePath) -> Option<&Pinned> {
        let known = self.commit.as_deref() == Some(commit);
        self.files.iter().find(|file| known && file.path == *path)
    }
}

impl Native {
    /// The names of the files that it must have, beside `checklist.chk`.
    #[must_use]
    pub fn files(&self, fp8: bool) -> Vec<String> {
        let shards = (0..self.shards).map(|shard_idx| format!("consolidated.{shard_idx:02}.pth"));
        let scales = (0..self.shards).filter(|_| fp8).map(|shard_idx| format!("fp8_scales_{shard_idx}.pt"));
        ["params.json", "tokenizer.model"].map(str::to_owned).into_iter().chain(shards).chain(scales).collect()
    }
}

/// The SHA-256 of `tokenizer.model`, which is the same file for all models of Llama 3.1.
pub const TOKENIZER: &str = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55";

/// All models.
#[must_use]
pub fn models() -> &'static [Model] {
    #[derive(Deserialize)]
    struct Catalogue {
        model: Vec<Model>,
    }
    static MODELS: LazyLock<Vec<Model>> = LazyLock::new(|| {
        let catalogue: Catalogue = toml::from_str(include_str!("catalogue.toml")).expect("a test reads it");
        catalogue.model
    });
    &MODELS
}

/// The model of this name, whatever the case of its letters.
#[must_use]
pub fn find(name: &str) -> Option<&'static Model> {
    models().iter().find(|model| model.name.eq_ignore_ascii_case(name))
}

/// One of Meta's own forms: by Meta's id, or by the catalogue's name, which stands for the first of its forms.
#[must_use]
pub fn find_native(name: &str) -> Option<(&'static Model, &'static Native)> {
    let all = || models().iter().flat_map(|model| model.native.iter().map(move |native| (model, native)));
    let by_id = all().find(|(_, native)| native.id.eq_ignore_ascii_case(name));
    by_id.or_else(|| all().find(|(model, _)| model.name.eq_ignore_ascii_case(name)))
}

/// The known name that is most like this one, if any is.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Far longer texts are like none of them, and take long to compare.
    let name: Vec<char> = name.chars().take(100).collect::<String>().to_lowercase().chars().collect();
    let scored = known.map(|known| (distance(&name, &known.to_lowercase().chars().collect::<Vec<_>>()), known));
    let (distance, nearest) = scored.min_by_key(|(distance, _)| *distance)?;
    (3 * distance <= name.len()).then_some(nearest)
}

/// How many letters must be put in, left out or changed to make one text of another (Levenshtein).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_catalogue_is_whole() {
        let names: BTreeSet<&str> = models().iter().map(|model| model.name.as_str()).collect();
        assert_eq!((models().len(), names.len()), (8, 8));
        let ids: BTreeSet<&str> = models().iter().flat_map(|m| &m.native).map(|native| native.id.as_str()).collect();
        assert_eq!(ids.len(), 10);
        assert!(TOKENIZER.parse::<Hex<32>>().is_ok());
        for model in models() {
            assert_eq!(model.commit.is_some(), !model.files.is_empty());
            for native in &model.native {
                assert!(native.files(model.fp8).iter().all(|file| file.parse::<SafePath>().is_ok()));
                assert_eq!(find_native(&native.id).unwrap().1.folder, native.folder);
            }
        }
        let instruct = find("Llama-3.1-8B-Instruct").unwrap();
        let weights = instruct.files.iter().filter(|file| file.path.as_str().ends_with(".safetensors"));
        assert_eq!(weights.map(|file| file.size).sum::<u64>(), instruct.file_bytes.unwrap());
        let config = "config.json".parse().unwrap();
        assert_eq!(instruct.pinned(instruct.commit.as_deref().unwrap(), &config).unwrap().size, 855);
        assert!(instruct.pinned("main", &config).is_none());
        assert_eq!(find_native("llama-3.1-405b-fp8").unwrap().1.files(true).len(), 18);
    }

    /// The table of the vault's notes, which two independent measurements confirm.
    #[test]
    fn bytes_follow_from_the_architecture() {
        let hub = |name: &str| find(name).unwrap().tensor_bytes();
        assert_eq!(hub("llama-3.1-8b"), 16_060_522_496);
        assert_eq!(hub("llama-3.1-70b"), 141_107_412_992);
        assert_eq!(hub("llama-3.1-405b"), 811_706_777_600);
        assert_eq!(hub("llama-3.1-405b-fp8"), 487_229_259_776);
        let native = |id: &str| find_native(id).map(|(model, native)| model.native_tensor_bytes(native)).unwrap();
        assert_eq!(native("Llama3.1-8B"), 16_060_522_496);
        assert_eq!(native("Llama3.1-70B-Instruct"), 8 * 17_640_734_720);
        assert_eq!(native("Llama3.1-405B:bf16-mp8"), 811_764_809_728);
        assert_eq!(native("Llama3.1-405B:bf16-mp16"), 820_286_849_024);
        assert_eq!(native("Llama3.1-405B-Instruct"), 8 * 60_903_292_928);
        assert_eq!(Size::B405.parameters(), 405_853_388_800);
    }

    #[test]
    fn sizes_of_files_are_a_little_more() {
        for model in models() {
            if let Some(file_bytes) = model.file_bytes {
                assert!((1..1_000_000).contains(&(file_bytes - model.tensor_bytes())), "{}", model.name);
            }
            for native in &model.native {
                let Some(bytes) = native.shard_bytes else { continue };
                let overhead = bytes - model.native_tensor_bytes(native) / u64::from(native.shards);
                assert!((100_000..500_000).contains(&overhead), "{}: {overhead}", native.id);
            }
        }
    }

    #[test]
    fn near_misses() {
        let nearest = |name| nearest(name, models().iter().map(|model| model.name.as_str()));
        assert_eq!(nearest("llama3.1-8b-instruct"), Some("llama-3.1-8b-instruct"));
        assert_eq!(nearest("LLAMA-3.1-70"), Some("llama-3.1-70b"));
        assert_eq!(nearest("mistral-7b"), None);
        assert_eq!(nearest(&"x".repeat(1 << 20)), None);
    }
}
