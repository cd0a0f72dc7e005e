//! Models written anew: what is not changed is the same bit for bit, what is changed is as near as its format allows and
//! the report says how near, and nothing is left of what could not be written.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod material;

use material::*;
use proptest::prelude::*;
use puna_checkpoint::{
    Checkpoint, Config, Layout, Name, RopePairing, Tensor, TokenizerSource, WeightFormat,
    export::{Deviation, Options, Rounded, write, write_merged},
    gguf::MetadataValue,
    open,
    synth::{self, Container, Shape, Weights},
};
use puna_format::Format;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A directory with a model in it, and room beside it.
struct Made {
    dir: tempfile::TempDir,
    model: Checkpoint,
}

impl Made {
    fn gguf(format: Format) -> Made {
        Made::new(|dir| {
            let path = dir.join("base.gguf");
            gguf(&path, format);
            path
        })
    }

    fn directory(make: impl FnOnce(&Path)) -> Made {
        Made::new(|dir| {
            let path = dir.join("base");
            fs::create_dir(&path).unwrap();
            make(&path);
            path
        })
    }

    fn new(make: impl FnOnce(&Path) -> PathBuf) -> Made {
        let dir = tempfile::tempdir().unwrap();
        let path = make(dir.path());
        let model = open(&path).unwrap_or_else(|e| panic!("{e}"));
        Made { dir, model }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join(if self.model.layout == Layout::Gguf { "out.gguf" } else { "out" })
    }

    /// Writes it and opens what was written.
    #[track_caller]
    fn written(
        &self,
        options: &Options,
        values: &mut dyn FnMut(&Tensor) -> Option<Vec<f32>>,
    ) -> (Checkpoint, Vec<Rounded>) {
        let mut last = (0, 0);
        let out = self.out();
        let rounded = write(&self.model, &out, options, values, &mut |done, total| {
            assert!(done > last.0 && done <= total);
            last = (done, total);
        });
        let rounded = rounded.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(last.0, last.1);
        (open(&out).unwrap_or_else(|e| panic!("{e}")), rounded)
    }

    #[track_caller]
    fn refused(&self, out: &str, options: &Options, expected: &[&str]) {
        let before = listed(self.dir.path());
        let result = write(&self.model, &self.dir.path().join(out), options, &mut |_| None, &mut |_, _| ());
        let message = result.expect_err("expected an error").to_string();
        for expected in expected {
            assert!(message.contains(expected), "expected `{expected}` in: {message}");
        }
        assert_eq!(listed(self.dir.path()), before);
    }
}

fn listed(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn format(format: Format) -> Options {
    Options { format: Some(WeightFormat::Pure(format)), ..Options::default() }
}

/// The rows of a tensor in the order of Hugging Face.
fn in_halves(tensor: &Tensor, config: &Config) -> Vec<f32> {
    let values = tensor.to_f32();
    let (half, head) = (config.head_dim / 2, config.head_dim);
    if !tensor.name.is_rotated() || config.rope.pairing == RopePairing::Halves {
        return values;
    }
    let row = |row: usize| {
        let i = row % head;
        let stored = row - i + i % half * 2 + i / half;
        &values[stored * tensor.cols..][..tensor.cols]
    };
    (0..tensor.rows).flat_map(row).copied().collect()
}

fn same_values(found: &Checkpoint, expected: &Checkpoint) {
    assert_eq!(found.tensors().count(), expected.tensors().count());
    for tensor in expected.tensors() {
        let other = found.tensor(tensor.name).unwrap();
        assert_eq!(other.format, tensor.format, "{}", tensor.name);
        assert_eq!(in_halves(other, &found.config), in_halves(tensor, &expected.config), "{}", tensor.name);
    }
}

// Copies.

#[test]
fn a_gguf_file_stays_as_it_is() {
    for format in [Format::F32, Format::BF16, Format::Q8_0, Format::Q4_0] {
        let made = Made::gguf(format);
        let (copy, rounded) = made.written(&Options::default(), &mut |_| None);
        assert_eq!(rounded, []);
        same_values(&copy, &made.model);
        assert_eq!((&copy.config, &copy.tokenizer), (&made.model.config, &made.model.tokenizer));
        assert_eq!((&copy.chat_template, &copy.generation), (&made.model.chat_template, &made.model.generation));
        // The writer orders tensors as it always does, and puts the factors last: so did the material.
        assert_eq!(fs::read(made.out()).unwrap(), fs::read(made.dir.path().join("base.gguf")).unwrap());
    }
}

#[test]
fn a_split_set_becomes_one_file() {
    let made = Made::new(|dir| {
        gguf_split(dir, 3);
        dir.join("tiny-00001-of-00003.gguf")
    });
    let (copy, _) = made.written(&Options::default(), &mut |_| None);
    same_values(&copy, &made.model);
    assert_eq!(copy.files.len(), 1);
    assert_eq!(copy.tokenizer, made.model.tokenizer);
}

#[test]
fn metadata_is_kept_and_replaced() {
    let odd: Vec<(String, MetadataValue)> = vec![
        ("general.file_type".into(), MetadataValue::U32(7)),
        ("general.license".into(), MetadataValue::String("mit".into())),
        ("general.tags".into(), MetadataValue::Strings(vec!["a".into(), "b".into()])),
        // A u64, which the writer has no value for.
        ("odd.number".into(), MetadataValue::Encoded([10u32.to_le_bytes().as_slice(), &[7; 8]].concat())),
        ("split.count".into(), MetadataValue::U32(1)),
    ];
    let made = Made::new(|dir| {
        let (mut metadata, tensors) = gguf_parts(Format::Q8_0);
        metadata.extend(odd);
        let path = dir.join("base.gguf");
        write_gguf(&path, &metadata, &tensors);
        path
    });
    let replaced = vec![("general.license".into(), MetadataValue::String("llama3.1".into()))];
    let header = |options: Options, check: &dyn Fn(&puna_checkpoint::gguf::Header<'_>)| {
        let (_, _) = made.written(&options, &mut |_| None);
        let bytes = fs::read(made.out()).unwrap();
        check(&puna_checkpoint::gguf::Header::parse(&bytes).unwrap());
        fs::remove_file(made.out()).unwrap();
    };
    header(Options { metadata: replaced, ..Options::default() }, &|header| {
        assert_eq!(header.string("general.license").unwrap(), Some("llama3.1"));
        assert_eq!(header.string("general.name").unwrap(), Some("tiny"));
        assert_eq!(header.unsigned("general.file_type").unwrap(), Some(7));
        assert_eq!(header.unsigned("odd.number").unwrap(), Some(0x0707_0707_0707_0707));
        let tags = header.get("general.tags").unwrap().strings().unwrap();
        assert_eq!(tags.collect::<Vec<_>>(), ["a", "b"]);
        assert!(header.get("split.count").is_none());
    });
    header(format(Format::F16), &|header| {
        assert!(header.get("general.file_type").is_none());
        assert_eq!(header.string("general.license").unwrap(), Some("mit"));
    });
}

#[test]
fn a_directory_stays_as_it_is() {
    for shards in [1, 4] {
        let made = Made::directory(|dir| {
            hugging_face_sharded(dir, 4);
            if shards == 1 {
                fs::remove_file(dir.join("model.safetensors.index.json")).unwrap();
                (1..=4).for_each(|i| {
                    fs::remove_file(dir.join(format!("model-{i:05}-of-00004.safetensors"))).unwrap();
                });
                safetensors(&dir.join("model.safetensors"), Format::F16, &names());
            }
            fs::write(dir.join("tokenizer.json"), "{\"a\": 1}").unwrap();
            fs::write(dir.join("chat_template.jinja"), "{{ messages }}").unwrap();
            fs::write(dir.join("generation_config.json"), "{\"temperature\": 0.5}").unwrap();
            fs::write(dir.join("README.md"), "about the base").unwrap();
        });
        let beside = vec![("README.md".into(), b"about the new one".to_vec())];
        let (copy, rounded) = made.written(&Options { beside, ..Options::default() }, &mut |_| None);
        assert_eq!(rounded, []);
        same_values(&copy, &made.model);
        assert_eq!((&copy.config, &copy.generation), (&made.model.config, &made.model.generation));
        assert_eq!(copy.chat_template.as_deref(), Some("{{ messages }}"));
        let read = |name: &str| fs::read_to_string(made.out().join(name)).unwrap();
        assert_eq!((read("config.json").as_str(), read("tokenizer.json").as_str()), (CONFIG_JSON, "{\"a\": 1}"));
        assert_eq!(read("README.md"), "about the new one");
    }
}

#[test]
fn fp8_stays_with_its_factors() {
    let made = Made::directory(hugging_face_fp8);
    let (copy, _) = made.written(&Options::default(), &mut |_| None);
    same_values(&copy, &made.model);
    let down = names().into_iter().find(|&name| is_fp8(name)).unwrap();
    assert_eq!(copy.tensor(down).unwrap().format, Format::F8E4M3);
}

#[test]
fn fp8_becomes_another_format() {
    let made = Made::directory(hugging_face_fp8);
    let (copy, _) = made.written(&format(Format::F32), &mut |_| None);
    for tensor in made.model.tensors() {
        let other = copy.tensor(tensor.name).unwrap();
        assert_eq!((other.format, other.to_f32()), (Format::F32, tensor.to_f32()), "{}", tensor.name);
    }
    let config = fs::read_to_string(made.out().join("config.json")).unwrap();
    assert!(config.contains("\"torch_dtype\": \"float32\"") && !config.contains("quantization_config"), "{config}");
}

#[test]
fn metas_directory_becomes_hugging_faces() {
    for (ranks, llama2) in [(1, false), (2, false), (4, true)] {
        let made = Made::directory(|dir| meta(dir, ranks, llama2));
        let (copy, _) = made.written(&Options::default(), &mut |_| None);
        same_values(&copy, &made.model);
        assert_eq!(copy.layout, Layout::HuggingFace);
        assert_eq!(copy.config.rope.pairing, RopePairing::Halves);
        let expected = Config { rope: copy.config.rope.clone(), ..made.model.config.clone() };
        assert_eq!(copy.config, expected);
        assert_eq!(copy.config.rope.scaling, made.model.config.rope.scaling);
        assert_eq!(copy.tokenizer, TokenizerSource::Tiktoken(made.out().join("tokenizer.model")));
    }
    let made = Made::directory(meta_fp8);
    made.refused("out", &Options::default(), &["down_proj", "several factors a row", "choose another format"]);
    let (copy, _) = made.written(&format(Format::F32), &mut |_| None);
    for tensor in made.model.tensors() {
        let other = copy.tensor(tensor.name).unwrap();
        assert_eq!(in_halves(other, &copy.config), in_halves(tensor, &made.model.config), "{}", tensor.name);
    }
}

#[test]
fn a_directory_becomes_a_gguf_file() {
    for (made, ranks) in
        [(Made::directory(|dir| hugging_face(dir, Format::BF16)), 0), (Made::directory(|dir| meta(dir, 2, false)), 2)]
    {
        let mut tokens = vocabulary();
        tokens.tokens.truncate(38);
        tokens.token_types.truncate(38);
        let metadata = vec![("general.name".into(), MetadataValue::String("mine".into()))];
        let options = Options { vocabulary: Some(tokens), metadata, ..Options::default() };
        let out = made.dir.path().join("out.gguf");
        write(&made.model, &out, &options, &mut |_| None, &mut |_, _| ()).unwrap_or_else(|e| panic!("{ranks}: {e}"));
        let copy = open(&out).unwrap();
        for tensor in made.model.tensors() {
            let other = copy.tensor(tensor.name).unwrap();
            let format = if tensor.name.is_norm() { Format::F32 } else { Format::BF16 };
            assert_eq!(other.format, format, "{}", tensor.name);
            assert_eq!(in_halves(other, &copy.config), in_halves(tensor, &made.model.config), "{}", tensor.name);
        }
        let (found, expected) = (copy.config.rope.divisors(8), made.model.config.rope.divisors(8));
        assert_eq!((found, copy.config.rope.pairing), (expected, RopePairing::Interleaved));
        let TokenizerSource::Gguf(found) = &copy.tokenizer else { panic!("no vocabulary") };
        assert_eq!((found.tokens[37].as_str(), found.tokens[39].as_str()), ("t37", "[PAD39]"));
        assert_eq!((found.token_types[37], found.token_types[39]), (1, 5));
    }
}

#[test]
fn another_format_is_the_nearest_of_what_there_was() {
    let made = Made::new(|dir| {
        let json = r#"{"dim": 512, "n_layers": 3, "n_heads": 8, "n_kv_heads": 2, "ffn_dim": 768, "vocab_size": 600}"#;
        let (shape, path) = (Shape::from_json("tiny", json).unwrap(), dir.join("base.gguf"));
        let weights = Weights::Random { seed: 3 };
        synth::write(&shape, WeightFormat::Pure(Format::F16), Container::Gguf, &path, weights, &mut |_, _| ()).unwrap();
        path
    });
    for mix in ["BF16", "Q8_0", "Q6_K", "Q4_K_M"] {
        let options = Options { format: Some(mix.parse().unwrap()), ..Options::default() };
        let (copy, _) = made.written(&options, &mut |_| None);
        for tensor in copy.tensors() {
            let base = made.model.tensor(tensor.name).unwrap().to_f32();
            let mut expected = vec![0.0; base.len()];
            tensor.format.decode(&encode(tensor.format, &base), &mut expected);
            assert_eq!(tensor.to_f32(), expected, "{mix} {}", tensor.name);
            assert_eq!(tensor.name.is_norm(), tensor.format == Format::F32, "{mix} {}", tensor.name);
        }
        fs::remove_file(made.out()).unwrap();
    }
}

// Changes.

/// The deviation, computed anew from what was asked for and what there is.
fn deviation(base: &[f32], asked: &[f32], found: &[f32]) -> Deviation {
    let terms = base.iter().zip(asked).zip(found).map(|((base, asked), found)| {
        let (w, e) = (f64::from(*asked), f64::from(*found) - f64::from(*asked));
        let change = w - f64::from(*base);
        Deviation { weights: w * w, change: change * change, error: e * e, along: e * change }
    });
    terms.sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn new_values_are_rounded_to_the_format_and_reported(
        of_gguf in any::<bool>(),
        which in 0usize..30,
        format in prop::sample::select(vec![Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0]),
        seed in 0u64..1 << 30,
        size in -12i32..1,
    ) {
        let made = if of_gguf {
            Made::gguf(format)
        } else {
            Made::directory(|dir| match format {
                Format::F32 | Format::F16 | Format::BF16 => hugging_face(dir, format),
                _ => hugging_face_fp8(dir),
            })
        };
        let name = names()[which];
        let mut next = noise(seed);
        let tensor = made.model.tensor(name).unwrap();
        let base = tensor.to_f32();
        let asked: Vec<f32> = base.iter().map(|value| value + 2f32.powi(size) * next()).collect();
        let (copy, rounded) = made.written(&Options::default(), &mut |tensor| {
            (tensor.name == name).then(|| asked.clone())
        });
        let found = copy.tensor(name).unwrap();
        prop_assert_eq!(found.format, tensor.format);
        prop_assert_eq!(rounded.len(), 1);
        prop_assert_eq!((rounded[0].name, rounded[0].format), (name, tensor.format));
        let (reported, expected) = (rounded[0].deviation, deviation(&base, &asked, &found.to_f32()));
        for (reported, expected, size) in [
            (reported.weights, expected.weights, expected.weights),
            (reported.change, expected.change, expected.change),
            (reported.error, expected.error, expected.error),
            (reported.along, expected.along, (expected.change * expected.error).sqrt()),
        ] {
            prop_assert!((reported - expected).abs() <= 1e-12 * size, "{} {}", reported, expected);
        }
        // Half a step of the number formats, and what the blocks and FP8 should reach.
        let bound = match tensor.format {
            Format::F32 => 0.0,
            Format::F16 => 2f64.powi(-11),
            Format::BF16 => 2f64.powi(-8),
            Format::Q8_0 => 0.01,
            _ => 0.1,
        };
        prop_assert!(reported.of_weights().unwrap() <= bound, "{:?} {:?}", tensor.format, reported.of_weights());
        if tensor.format == Format::F32 {
            prop_assert_eq!((reported.error, reported.kept()), (0.0, Some(1.0)));
        }
        for other in made.model.tensors().filter(|tensor| tensor.name != name) {
            prop_assert_eq!(copy.tensor(other.name).unwrap().to_f32(), other.to_f32());
        }
    }
}

#[test]
fn a_change_below_half_a_step_is_lost_and_the_report_says_so() {
    let made = Made::gguf(Format::BF16);
    let name = names()[2];
    let base = made.model.tensor(name).unwrap().to_f32();
    let (_, rounded) = made.written(&Options::default(), &mut |tensor| {
        (tensor.name == name).then(|| base.iter().map(|value| value * (1.0 + 2f32.powi(-10))).collect())
    });
    let deviation = rounded[0].deviation;
    assert_eq!((deviation.of_change(), deviation.kept()), (Some(1.0), Some(0.0)));
    let nothing = Deviation::default();
    assert_eq!((nothing.of_weights(), nothing.of_change(), nothing.kept()), (None, None, None));
}

#[test]
fn adapters_are_merged_in_every_form() {
    let (q, v) = (adaptable()[0], adaptable()[2]);
    let first = adapter();
    let second = adapter_of(&[(q, 2, -3.0), (v, 5, 1.0)], RopePairing::Interleaved, 9);
    // W + Σ scale·B·A, rows as Hugging Face has them, in f64.
    let expected = |base: &Checkpoint, name: Name| -> Vec<f64> {
        let (rows, cols) = config().shape(name);
        let base = in_halves(base.tensor(name).unwrap(), &base.config);
        let mut out: Vec<f64> = base.into_iter().map(f64::from).collect();
        for (adapter, weight) in [(&first, 1.0), (&second.clone().with_pairing(RopePairing::Halves, &config()), -0.5)] {
            let Some(matrix) = adapter.matrices.get(&name) else { continue };
            let scale = weight * f64::from(matrix.alpha) / matrix.rank as f64;
            for (i, out) in out.iter_mut().enumerate() {
                let product = |j: usize| {
                    f64::from(matrix.b[i / cols * matrix.rank + j]) * f64::from(matrix.a[j * cols + i % cols])
                };
                *out += scale * (0..matrix.rank).map(product).sum::<f64>();
            }
        }
        assert_eq!(out.len(), rows * cols);
        out
    };
    for made in [
        Made::gguf(Format::F32),
        Made::directory(|dir| hugging_face(dir, Format::F32)),
        Made::directory(|dir| meta(dir, 2, false)),
    ] {
        let adapters = vec![(first.clone(), 1.0), (second.clone(), -0.5)];
        let options = format(Format::F32);
        let rounded = write_merged(&made.model, adapters, &made.out(), &options, &mut |_, _| ()).unwrap();
        assert_eq!(rounded.len(), adaptable().len());
        let merged = open(&made.out()).unwrap();
        for tensor in merged.tensors() {
            for (found, expected) in in_halves(tensor, &merged.config).iter().zip(expected(&made.model, tensor.name)) {
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{}: {found} {expected}", tensor.name);
            }
        }
    }
}

// Refusals.

#[test]
fn what_can_not_be_written_is_refused_and_leaves_nothing() {
    let (of_gguf, of_hf) = (Made::gguf(Format::Q8_0), Made::directory(|dir| hugging_face(dir, Format::BF16)));
    let none = Options::default();
    of_gguf.refused("out", &none, &["out: a GGUF file does not become a directory"]);
    of_hf.refused("out.gguf", &none, &["out.gguf: a GGUF file needs a vocabulary"]);
    let mut long = vocabulary();
    long.tokens.push("more".into());
    let long = Options { vocabulary: Some(long), ..Options::default() };
    of_hf.refused("out.gguf", &long, &["a vocabulary of 41 tokens, expected at most the model's 40"]);
    let fp8 = Made::directory(hugging_face_fp8);
    let with_vocabulary = Options { vocabulary: Some(vocabulary()), ..Options::default() };
    fp8.refused("out.gguf", &with_vocabulary, &["ffn_gate", "F8_E4M3 has no place in GGUF; choose another format"]);
    of_hf.refused("out", &format(Format::Q8_0), &["Q8_0 has no place in safetensors"]);
    let fp8 = Options { format: Some(WeightFormat::Fp8), ..Options::default() };
    of_hf.refused("out", &fp8, &["FP8 is kept where a model has it"]);
    of_gguf.refused("out.gguf", &fp8, &["FP8 has no place in GGUF"]);
    of_gguf.refused("out.gguf", &format(Format::Q4_K), &["token_embd.weight", "Q4_K needs rows of a multiple of 256"]);
    of_gguf.refused("base.gguf", &none, &["base.gguf: exists already; name something new"]);
    of_hf.refused("base", &none, &["base: exists already; name something new"]);
    fs::write(of_gguf.dir.path().join("out.NOTICE"), "").unwrap();
    let beside = Options { beside: vec![("NOTICE".into(), Vec::new())], ..Options::default() };
    of_gguf.refused("out.gguf", &beside, &["out.NOTICE: exists already"]);

    for made in [of_gguf, of_hf] {
        let before = listed(made.dir.path());
        let bad = names()[3];
        let result = write(
            &made.model,
            &made.out(),
            &none,
            &mut |tensor| {
                let mut values = (tensor.name == bad).then(|| tensor.to_f32())?;
                values[tensor.cols + 3] = f32::NAN;
                Some(values)
            },
            &mut |_, _| (),
        );
        let message = result.unwrap_err().to_string();
        assert!(message.contains(&format!("{bad}: a new value is NaN at row 1, column 3")), "{message}");
        assert_eq!(listed(made.dir.path()), before);
    }
}

#[test]
fn files_lie_beside_a_gguf_file_under_its_name() {
    let made = Made::gguf(Format::F16);
    let options = Options { beside: vec![("NOTICE".into(), b"text".to_vec())], ..Options::default() };
    made.written(&options, &mut |_| None);
    assert_eq!(fs::read(made.dir.path().join("out.NOTICE")).unwrap(), b"text");
}

#[test]
fn an_adapter_must_fit_to_be_merged() {
    let made = Made::directory(|dir| {
        hugging_face(dir, Format::F32);
        let tied = CONFIG_JSON.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
        fs::write(dir.join("config.json"), tied).unwrap();
        let tied: Vec<Name> = names().into_iter().filter(|&name| name != Name::Output).collect();
        safetensors(&dir.join("model.safetensors"), Format::F32, &tied);
    });
    let refused = |adapter| {
        let adapters = vec![(adapter, 1.0)];
        write_merged(&made.model, adapters, &made.out(), &Options::default(), &mut |_, _| ()).unwrap_err().to_string()
    };
    let message = refused(adapter());
    assert!(message.contains("output matrix is its token embedding"), "{message}");
    let q = adaptable()[0];
    let mut short = adapter_of(&[(q, 2, 1.0)], RopePairing::Halves, 1);
    short.matrices.get_mut(&q).unwrap().b.pop();
    let message = refused(short);
    assert!(message.contains("layers.0.attention.q: 64 and 63 values, expected [2, 32] and [32, 2]"), "{message}");
    let endless = adapter_of(&[(q, 2, 1e30)], RopePairing::Halves, 1);
    let message = refused(endless);
    assert!(message.contains("alpha is"), "{message}");
}
