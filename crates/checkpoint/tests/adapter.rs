//! Adapters: both forms hold the same matrices, written files read back, and every bad one gives one error that names
//! what is wrong.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod material;

use material::*;
use proptest::prelude::*;
use puna_checkpoint::{
    Config, LayerTensor, Name, RopePairing,
    adapter::{self, Adapter, BaseIdentity, Digest, Form, Likeness, LowRank, Settings},
    gguf::MetadataValue,
    open,
    safetensors::Declaration,
};
use puna_format::Format;
use std::{collections::BTreeMap, fs, path::Path};

#[track_caller]
fn says(message: &str, expected: &str) {
    assert!(message.contains(expected), "expected `{expected}` in: {message}");
}

#[track_caller]
fn refused(path: &Path, expected: &[&str]) {
    let message = adapter::open(path, &config()).expect_err("expected an error").to_string();
    expected.iter().for_each(|expected| says(&message, expected));
}

fn q(layer: usize) -> Name {
    Name::Layer { layer, tensor: LayerTensor::Query }
}

fn k(layer: usize) -> Name {
    Name::Layer { layer, tensor: LayerTensor::Key }
}

/// An adapter written in both forms and opened again.
fn written(adapter: &Adapter) -> (Adapter, Adapter, Vec<Name>) {
    let dir = tempfile::tempdir().unwrap();
    let (peft, gguf) = (dir.path().join("peft"), dir.path().join("a.gguf"));
    adapter::write_peft(adapter, &peft, &config()).unwrap();
    let folded = adapter::write_gguf(adapter, &gguf, &config()).unwrap();
    (adapter::open(&peft, &config()).unwrap(), adapter::open(&gguf, &config()).unwrap(), folded)
}

// What the files mean.

#[test]
fn both_forms_open() {
    let dir = tempfile::tempdir().unwrap();
    let expected = adapter();
    for format in [Format::F32, Format::F16, Format::BF16] {
        peft(dir.path(), &expected, format);
        let found = adapter::open(dir.path(), &config()).unwrap();
        let decoded = |values: &[f32]| {
            let mut out = vec![0.0; values.len()];
            format.decode(&encode(format, values), &mut out);
            out
        };
        assert_eq!(found.matrices.len(), 22);
        assert_eq!(found.pairing, RopePairing::Halves);
        for (name, LowRank { a, b, .. }) in &expected.matrices {
            let matrix = &found.matrices[name];
            assert_eq!((matrix.rank, matrix.alpha, found.scale(matrix)), (4, 8.0, 2.0));
            assert_eq!((&matrix.a, &matrix.b), (&decoded(a), &decoded(b)), "{name}");
        }
        let base_name = Some("tiny".to_owned());
        assert_eq!(found.settings, Settings { dropout: 0.05, base_name, ..Settings::default() });
    }

    let path = dir.path().join("adapter.gguf");
    for format in [Format::F32, Format::F16, Format::BF16] {
        let (metadata, tensors) = gguf_adapter_parts(&expected, format);
        write_gguf(&path, &metadata, &tensors);
        let found = adapter::open(&path, &config()).unwrap();
        assert_eq!((found.matrices.len(), found.pairing), (22, RopePairing::Interleaved));
        assert!(found.matrices.values().all(|matrix| found.scale(matrix) == 2.0));
    }
    // Blocks, where rows are long enough.
    let (metadata, mut tensors) = gguf_adapter_parts(&expected, Format::F32);
    let (declaration, bytes) = &mut tensors[0];
    (declaration.format, *bytes) = (Format::Q8_0, encode(Format::Q8_0, &[0.5; 4 * 32]));
    let mut decoded = vec![0.0; 4 * 32];
    Format::Q8_0.decode(bytes, &mut decoded);
    write_gguf(&path, &metadata, &tensors);
    assert_eq!(adapter::open(&path, &config()).unwrap().matrices[&q(0)].a, decoded);
}

#[test]
fn a_listing_needs_no_base() {
    let dir = tempfile::tempdir().unwrap();
    peft(dir.path(), &adapter(), Format::BF16);
    let listing = adapter::list(dir.path()).unwrap();
    assert_eq!((listing.form, listing.matrices.len(), listing.files.len()), (Form::Peft, 22, 2));
    let stored = &listing.matrices[&Name::Output];
    assert_eq!((stored.rank(), stored.a.rows, stored.a.cols, stored.b.rows, stored.b.cols), (4, 4, DIM, VOCAB, 4));
    assert_eq!(listing.formats().into_iter().collect::<Vec<_>>(), [Format::BF16]);
    assert_eq!(listing.n_parameters(), adapter().n_parameters());
}

#[test]
fn scales_are_those_of_peft() {
    let dir = tempfile::tempdir().unwrap();
    let config_json = |text: String| fs::write(dir.path().join("adapter_config.json"), text).unwrap();
    let scale = |name| {
        let adapter = adapter::open(dir.path(), &config()).unwrap();
        adapter.scale(&adapter.matrices[&name])
    };
    peft(dir.path(), &adapter(), Format::F32);
    config_json(ADAPTER_JSON.replace(r#""use_rslora": false"#, r#""use_rslora": true"#));
    assert_eq!(scale(q(0)), 8.0 / 2.0);
    config_json(ADAPTER_JSON.replace(r#""lora_alpha": 8"#, r#""lora_alpha": 0.5"#));
    assert_eq!(scale(q(0)), 0.5 / 4.0);
    // The first pattern that matches the end of a path counts.
    let patterns = r#""alpha_pattern": {"layers.1.self_attn.q_proj": 2, "^q_proj": 3, "q_proj": 5,
        "^model.layers.2.self_attn.k_proj": 6, "lm_head": -7}"#;
    config_json(ADAPTER_JSON.replace(r#""alpha_pattern": {}"#, patterns));
    let scales = [q(0), q(1), q(2), k(1), k(2), Name::Output].map(scale);
    assert_eq!(scales, [5.0, 2.0, 5.0, 8.0, 6.0, -7.0].map(|alpha| alpha / 4.0));

    let matrices: Vec<_> = adaptable().into_iter().map(|name| (name, if name == q(1) { 6 } else { 4 }, 8.0)).collect();
    peft(dir.path(), &adapter_of(&matrices, RopePairing::Halves, 1), Format::F32);
    config_json(
        ADAPTER_JSON
            .replace(r#""rank_pattern": {}"#, r#""rank_pattern": {"model\\.layers\\.1\\.self_attn\\.q_proj": 6}"#),
    );
    assert_eq!((scale(q(0)), scale(q(1))), (2.0, (8.0f64 / 6.0) as f32));

    // llama.cpp: alpha over the rank, and 1 where there is none.
    let path = dir.path().join("a.gguf");
    let (metadata, tensors) = gguf_adapter_parts(&adapter(), Format::F32);
    for alpha in [None, Some(0.0), Some(4.0)] {
        let mut metadata = metadata.clone();
        metadata.retain(|(key, _)| key != "adapter.lora.alpha");
        metadata.extend(alpha.map(|alpha| ("adapter.lora.alpha".to_owned(), MetadataValue::F32(alpha))));
        write_gguf(&path, &metadata, &tensors);
        let adapter = adapter::open(&path, &config()).unwrap();
        assert_eq!(adapter.scale(&adapter.matrices[&q(0)]), 1.0);
    }
}

#[test]
fn targets_are_held_against_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let all = peft_tensors(&adapter(), Format::F32);
    let weights = dir.path().join("adapter_model.safetensors");
    let with = |targets: &str, rest: &str, keep: &dyn Fn(&str) -> bool| {
        let start = ADAPTER_JSON.find(r#""target_modules""#).unwrap();
        let end = start + ADAPTER_JSON[start..].find(']').unwrap() + 1;
        let text = format!("{}\"target_modules\": {targets}{}", &ADAPTER_JSON[..start], &ADAPTER_JSON[end..]);
        let text = ["exclude_modules", "layers_to_transform"].iter().fold(text, |text, key| {
            if rest.contains(key) { text.replace(&format!("\"{key}\": null,"), "") } else { text }
        });
        let text = if rest.is_empty() { text } else { text.replacen('{', &format!("{{{rest},"), 1) };
        fs::write(dir.path().join("adapter_config.json"), text).unwrap();
        let kept: Tensors = all.iter().filter(|(declaration, _)| keep(&declaration.name)).cloned().collect();
        write_safetensors(&weights, &kept);
    };
    let accepted = |n: usize| assert_eq!(adapter::open(dir.path(), &config()).unwrap().matrices.len(), n);
    let is_q = |name: &str| name.contains("q_proj");
    let is_linear = |name: &str| !name.contains("lm_head");

    with(r#"["q_proj"]"#, "", &is_q);
    accepted(3);
    with(r#"["self_attn.q_proj"]"#, "", &is_q);
    accepted(3);
    with(r#""all-linear""#, "", &is_linear);
    accepted(21);
    with(r#""all-linear""#, "", &|_| true);
    refused(dir.path(), &["lm_head.lora_A.weight", "does not name its module as a target"]);
    with(r#""all-linear""#, "", &is_q);
    refused(dir.path(), &["18 required tensors are missing: layers.0.attention.k, layers.0.attention.v"]);
    // Regular expressions are not interpreted: what is there counts.
    with(r#"".*\\.(q|k)_proj""#, "", &is_q);
    accepted(3);
    with(r#"["q_proj", "k_proj"]"#, "", &is_q);
    refused(dir.path(), &["adapter_config.json", "`target_modules` is k_proj, expected modules that"]);
    with(r#"["k_proj"]"#, "", &is_q);
    refused(dir.path(), &["layers.0.self_attn.q_proj.lora_A.weight", "does not name its module as a target"]);
    with(r#"["proj"]"#, "", &is_q);
    refused(dir.path(), &["does not name its module as a target"]);
    with(r#"["q_proj"]"#, "", &|name| is_q(name) && !name.contains("layers.2"));
    refused(dir.path(), &["1 required tensors are missing: layers.2.attention.q"]);
    with(r#"["q_proj"]"#, r#""layers_to_transform": [0, 1]"#, &|name| is_q(name) && !name.contains("layers.2"));
    accepted(2);
    with(r#"["q_proj"]"#, r#""layers_to_transform": 1"#, &is_q);
    refused(dir.path(), &["layers.0.self_attn.q_proj.lora_A.weight", "does not name its module as a target"]);
    with(r#"["q_proj"]"#, r#""exclude_modules": ["layers.2.self_attn.q_proj"]"#, &|name| {
        is_q(name) && !name.contains("layers.2")
    });
    accepted(2);
    with(r#"["q_proj"]"#, r#""exclude_modules": ["q_proj"]"#, &is_q);
    refused(dir.path(), &["does not name its module as a target"]);
    with(r#"["model.layers.2.self_attn.q_proj", "lm_head"]"#, "", &|name| {
        name.contains("layers.2.self_attn.q_proj") || !is_linear(name)
    });
    accepted(2);
}

#[test]
fn a_copy_of_the_base_is_left_alone() {
    // PEFT writes one beside adapters of the output matrix.
    let dir = tempfile::tempdir().unwrap();
    peft(dir.path(), &adapter(), Format::F32);
    let weights = dir.path().join("adapter_model.safetensors");
    let with_copy = |module: &str, shape: [usize; 2]| {
        let name = format!("base_model.model.{module}.base_layer.weight");
        let copy = Declaration { name, format: Format::F32, shape: shape.to_vec() };
        let mut tensors = peft_tensors(&adapter(), Format::F32);
        tensors.push((copy, encode(Format::F32, &values(Name::Output))));
        write_safetensors(&weights, &tensors);
    };
    with_copy("lm_head", [VOCAB, DIM]);
    assert_eq!(adapter::open(dir.path(), &config()).unwrap().matrices, adapter().matrices);
    assert_eq!(adapter::list(dir.path()).unwrap().base_copies[&Name::Output].rows, VOCAB);
    with_copy("lm_head", [VOCAB / 2, DIM * 2]);
    refused(dir.path(), &["lm_head.base_layer.weight", "shape is [20, 64], expected [40, 32]"]);
    with_copy("model.embed_tokens", [VOCAB, DIM]);
    refused(dir.path(), &["embed_tokens.base_layer.weight", "a matrix of the base"]);
}

// Conversion.

/// An adapter with some of the matrices, of various ranks and alphas.
fn adapters() -> impl Strategy<Value = Adapter> {
    let settings = (any::<bool>(), 0..10u8, prop::option::of("[a-z/]{1,8}"), any::<bool>());
    let chosen = prop::collection::vec(prop::option::of((1..6usize, -3..4i8)), 22);
    (chosen, any::<bool>(), any::<u64>(), settings).prop_filter_map(
        "no matrix",
        |(chosen, interleaved, seed, (rank_stabilized, dropout, base_name, recorded))| {
            let matrices: Vec<(Name, usize, f32)> = adaptable()
                .into_iter()
                .zip(chosen)
                .filter_map(|(name, chosen)| {
                    let (rank, alpha) = chosen?;
                    Some((name, rank, if alpha == 0 { 0.3 } else { 4.0 * f32::from(alpha) }))
                })
                .collect();
            let pairing = if interleaved { RopePairing::Interleaved } else { RopePairing::Halves };
            let mut adapter = adapter_of(&matrices, pairing, seed);
            adapter.settings = Settings {
                rank_stabilized,
                dropout: f32::from(dropout) / 10.0,
                base_name,
                base: recorded.then(|| BaseIdentity {
                    sizes: "some \"sizes\"".into(),
                    formats: "BF16".into(),
                    norms: Digest::of(&seed.to_le_bytes()),
                    values: Digest::of(b"values"),
                }),
                chat_template: recorded.then(|| Digest::of(b"template")),
            };
            (!adapter.matrices.is_empty()).then_some(adapter)
        },
    )
}

/// scale·B·A, `[rows, cols]`.
fn product(adapter: &Adapter, name: Name) -> Vec<f32> {
    let matrix = &adapter.matrices[&name];
    let (rows, cols) = config().shape(name);
    let scale = f64::from(adapter.scale(matrix));
    let entry = |i: usize| {
        let (row, col) = (i / cols, i % cols);
        let sum: f64 = (0..matrix.rank)
            .map(|j| f64::from(matrix.b[row * matrix.rank + j]) * f64::from(matrix.a[j * cols + col]))
            .sum();
        (scale * sum) as f32
    };
    (0..rows * cols).map(entry).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn written_files_read_back(adapter in adapters()) {
        let (peft, gguf, folded) = written(&adapter);
        let expected = adapter.clone().with_pairing(RopePairing::Halves, &config());
        prop_assert_eq!(&peft, &expected);
        // Once more, from what was read.
        prop_assert_eq!(&written(&peft).0, &expected);

        // llama.cpp's form has one alpha and no other settings.
        let expected = adapter.with_pairing(RopePairing::Interleaved, &config());
        let kept = Settings { rank_stabilized: false, dropout: 0.0, ..expected.settings.clone() };
        prop_assert_eq!(&gguf.settings, &kept);
        for (&name, matrix) in &expected.matrices {
            let found = &gguf.matrices[&name];
            prop_assert_eq!(&found.a, &matrix.a);
            if !folded.contains(&name) {
                prop_assert_eq!(&found.b, &matrix.b);
                let (found, expected) = (gguf.scale(found), expected.scale(matrix));
                prop_assert!((found / expected - 1.0).abs() < 3e-7, "{} {}", found, expected);
            }
            for (found, expected) in product(&gguf, name).iter().zip(product(&expected, name)) {
                prop_assert!((found - expected).abs() <= 2e-6 * expected.abs() + 1e-5, "{name} {found} {expected}");
            }
        }
        let alphas: Vec<f32> = gguf.matrices.values().map(|matrix| matrix.alpha).collect();
        prop_assert!(alphas.iter().all(|alpha| *alpha == alphas[0]), "{alphas:?}");
    }
}

#[test]
fn there_and_back_is_bit_equal() {
    for rank in [1, 4] {
        let matrices: Vec<_> =
            adaptable().into_iter().map(|name| (name, rank + (name == q(1)) as usize, 8.0)).collect();
        let adapter = adapter_of(&matrices, RopePairing::Halves, 3);
        let (peft, gguf, folded) = written(&adapter);
        assert!(folded.is_empty() && peft == adapter);
        let (back, again, _) = written(&gguf);
        assert_eq!((&back, &again), (&adapter, &gguf));
    }
}

#[test]
fn other_alphas_are_multiplied_into_b() {
    let matrices: Vec<_> =
        adaptable().into_iter().map(|name| (name, 4, if name == q(1) { 2.0 } else { 8.0 })).collect();
    let adapter = adapter_of(&matrices, RopePairing::Interleaved, 3);
    let (_, gguf, folded) = written(&adapter);
    assert_eq!(folded, [q(1)]);
    let quarter: Vec<f32> = adapter.matrices[&q(1)].b.iter().map(|value| value / 4.0).collect();
    assert_eq!((gguf.matrices[&q(1)].alpha, &gguf.matrices[&q(1)].b), (8.0, &quarter));
    assert_eq!(gguf.matrices[&q(0)], adapter.matrices[&q(0)]);
}

/// Scores of attention, which do not know the order of rows: each form's q and k are turned by its own pairs.
#[test]
fn row_orders_give_the_same_attention() {
    let Config { head_dim, n_heads, n_kv_heads, .. } = config();
    let (halves, interleaved, _) = written(&adapter());
    assert_eq!((halves.pairing, interleaved.pairing), (RopePairing::Halves, RopePairing::Interleaved));
    let mut next = noise(5);
    let x: [Vec<f32>; 2] = [(), ()].map(|()| (0..DIM).map(|_| next()).collect());
    // A head's values at a position, as pairs that were turned.
    let turned = |adapter: &Adapter, name: Name, head: usize, position: usize| -> Vec<[f64; 2]> {
        let delta = product(adapter, name);
        let value = |row: usize| -> f64 {
            let row = &delta[(head * head_dim + row) * DIM..][..DIM];
            row.iter().zip(&x[position]).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        };
        (0..head_dim / 2)
            .map(|pair| {
                let (first, second) = match adapter.pairing {
                    RopePairing::Halves => (value(pair), value(pair + head_dim / 2)),
                    RopePairing::Interleaved => (value(2 * pair), value(2 * pair + 1)),
                };
                let (sin, cos) = (3.0 * position as f64 / 7f64.powi(pair as i32)).sin_cos();
                [first * cos - second * sin, first * sin + second * cos]
            })
            .collect()
    };
    for layer in 0..3 {
        for (q_head, k_head) in (0..n_heads).flat_map(|q| (0..n_kv_heads).map(move |k| (q, k))) {
            let score = |adapter: &Adapter| -> f64 {
                let (q, k) = (turned(adapter, q(layer), q_head, 1), turned(adapter, k(layer), k_head, 0));
                q.iter().flatten().zip(k.iter().flatten()).map(|(q, k)| q * k).sum()
            };
            let (expected, found) = (score(&halves), score(&interleaved));
            assert!(
                (found - expected).abs() < 1e-4 * expected.abs() + 1e-4,
                "{layer} {q_head} {k_head}: {expected} {found}"
            );
            // The rows do differ.
            let mut same = interleaved.clone();
            same.pairing = RopePairing::Halves;
            assert!((score(&same) - expected).abs() > 1e-3 * expected.abs());
        }
    }
    // Nothing else changed places.
    for (name, matrix) in &halves.matrices {
        let is_rotated = matches!(name, Name::Layer { tensor: LayerTensor::Query | LayerTensor::Key, .. });
        assert_eq!(interleaved.matrices[name].b == matrix.b, !is_rotated, "{name}");
        assert_eq!(interleaved.matrices[name].a, matrix.a);
    }
}

#[test]
fn writers_refuse_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let (peft, gguf) = (dir.path().join("peft"), dir.path().join("a.gguf"));
    let refused = |change: &dyn Fn(&mut Adapter), expected: &str| {
        let mut adapter = adapter();
        change(&mut adapter);
        says(&adapter::write_peft(&adapter, &peft, &config()).unwrap_err().to_string(), expected);
        says(&adapter::write_gguf(&adapter, &gguf, &config()).unwrap_err().to_string(), expected);
        assert!(!peft.exists() && !gguf.exists());
    };
    let q = |adapter: &mut Adapter, change: &dyn Fn(&mut LowRank)| change(adapter.matrices.get_mut(&q(1)).unwrap());
    refused(&|adapter| adapter.matrices.clear(), "without a matrix");
    refused(&|adapter| q(adapter, &|matrix| matrix.a.truncate(127)), "layers.1.attention.q: 127 and 128 values");
    refused(&|adapter| q(adapter, &|matrix| matrix.rank = 0), "expected [0, 32] and [32, 0]");
    refused(&|adapter| q(adapter, &|matrix| matrix.b[3] = f32::NAN), "a value is NaN");
    refused(&|adapter| q(adapter, &|matrix| matrix.alpha = 0.0), "layers.1.attention.q: alpha is 0");
    refused(
        &|adapter| drop(adapter.matrices.insert(Name::OutputNorm, adapter.matrices[&Name::Output].clone())),
        "output_norm",
    );
    let far = Name::Layer { layer: 3, tensor: LayerTensor::Up };
    refused(&|adapter| drop(adapter.matrices.insert(far, adapter.matrices[&Name::Output].clone())), "layers.3.ffn.up");

    // A model whose output is its embedding.
    let tied = Config { tied_embeddings: true, ..config() };
    says(&adapter::write_gguf(&adapter(), &gguf, &tied).unwrap_err().to_string(), "a.gguf: the base's output matrix");
    adapter::write_peft(&adapter(), &peft, &tied).unwrap();
    says(&adapter::write_peft(&adapter(), &peft, &tied).unwrap_err().to_string(), "the directory is not empty");
}

// The base.

#[test]
fn one_base_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let hf = dir.path().join("hf");
    fs::create_dir(&hf).unwrap();
    hugging_face(&hf, Format::BF16);
    let recorded = BaseIdentity::of(&open(&hf).unwrap());
    assert_eq!(recorded.formats, "BF16");
    says(&recorded.sizes, "3 layers, width 32, 4 heads of 8, 2 KV heads, feed-forward 96, vocabulary 40");
    let likeness = |path: &Path| recorded.likeness(&BaseIdentity::of(&open(path).unwrap()));
    hugging_face(&hf, Format::F32);
    assert_eq!(likeness(&hf), Likeness::Same);

    // The same values as GGUF has them, the rows of q and k interleaved.
    let path = dir.path().join("base.gguf");
    let (metadata, straight) = gguf_parts(Format::F16);
    write_gguf(&path, &metadata, &straight);
    assert!(matches!(likeness(&path), Likeness::OtherFormat), "rows in another order");
    let mut tensors = straight.clone();
    for (declaration, bytes) in &mut tensors {
        if !declaration.name.contains("attn_q") && !declaration.name.contains("attn_k") {
            continue;
        }
        let row = declaration.shape[1] * 2;
        let rows: Vec<Vec<u8>> = bytes.chunks(row).map(<[u8]>::to_vec).collect();
        // Heads of 8: each pair side by side.
        let order = |row: usize| row / 8 * 8 + [0, 4, 1, 5, 2, 6, 3, 7][row % 8];
        *bytes = (0..rows.len()).flat_map(|row| rows[order(row)].clone()).collect();
    }
    write_gguf(&path, &metadata, &tensors);
    assert_eq!(likeness(&path), Likeness::Same);

    // Coarser values, the norms the same.
    gguf(&path, Format::Q8_0);
    assert_eq!(likeness(&path), Likeness::OtherFormat);
    // The same format and other values, and other norms.
    let change = |name: &str| {
        hugging_face(&hf, Format::BF16);
        let weights = hf.join("model.safetensors");
        let file = fs::read(&weights).unwrap();
        let entry = puna_checkpoint::safetensors::Header::parse(&file).unwrap().get(name).unwrap().clone();
        let mut file = file.clone();
        file[entry.start as usize..][..entry.len as usize].fill(1);
        fs::write(&weights, file).unwrap();
        likeness(&hf)
    };
    let told = |likeness| if let Likeness::Another { what, .. } = likeness { what } else { panic!("{likeness:?}") };
    assert_eq!(told(change("model.layers.1.mlp.up_proj.weight")), "values");
    assert_eq!(told(change("model.layers.1.input_layernorm.weight")), "norms");
}

#[test]
fn a_recorded_base_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let (mut metadata, tensors) = gguf_adapter_parts(&adapter(), Format::F32);
    metadata.push(("puna.base.norms".into(), MetadataValue::String("00".repeat(32))));
    write_gguf(&path, &metadata, &tensors);
    refused(&path, &["a.gguf", "key `puna.base.sizes` is missing"]);
    metadata.pop();
    metadata.push(("puna.chat_template".into(), MetadataValue::String("0".into())));
    write_gguf(&path, &metadata, &tensors);
    refused(&path, &["`puna.chat_template` is 0, expected 64 hexadecimal digits"]);
    metadata.pop();
    metadata.push(("puna.chat_template".into(), MetadataValue::U32(0)));
    write_gguf(&path, &metadata, &tensors);
    refused(&path, &["`puna.chat_template` has type unsigned integer, expected a string"]);
}

// Bad files.

#[test]
fn adapter_config_json() {
    let dir = tempfile::tempdir().unwrap();
    peft(dir.path(), &adapter(), Format::F32);
    let add = |pair: &str| ADAPTER_JSON.replacen('{', &format!("{{{pair},"), 1);
    let change = |from: &str, to: &str| {
        assert!(ADAPTER_JSON.contains(from), "{from}");
        ADAPTER_JSON.replace(from, to)
    };
    let cases = [
        (change("LORA", "VERA"), "`peft_type` is VERA, expected `LORA`"),
        (change(r#""peft_type": "LORA","#, ""), "`peft_type` is missing"),
        (change(r#""r": 4,"#, ""), "`r` is missing"),
        (change(r#""r": 4"#, r#""r": 0"#), "`r` is 0, expected 1 to 65536"),
        (change(r#""r": 4"#, r#""r": -4"#), "key `r`"),
        (change(r#""r": 4"#, r#""r": 8"#), "rank is 4, expected 8 as `r` of adapter_config.json says"),
        (change(r#""lora_alpha": 8,"#, ""), "`lora_alpha` is missing"),
        (change(r#""lora_alpha": 8"#, r#""lora_alpha": 0"#), "`lora_alpha` is 0, expected a number from"),
        (change(r#""lora_alpha": 8"#, r#""lora_alpha": 1e300"#), "`lora_alpha` is 1"),
        (change(r#""lora_alpha": 8"#, r#""lora_alpha": NaN"#), "expected value"),
        (change("0.05", "1"), "`lora_dropout` is 1"),
        (change(r#""bias": "none""#, r#""bias": "all""#), "`bias`: all, expected null or one of: none"),
        (change("CAUSAL_LM", "SEQ_CLS"), "`task_type`: SEQ_CLS, expected null or one of: CAUSAL_LM"),
        (
            change(r#""init_lora_weights": true"#, r#""init_lora_weights": "pissa_niter_4""#),
            "`init_lora_weights`: pissa_niter_4",
        ),
        (
            change(r#""use_dora": false"#, r#""use_dora": true"#),
            "`use_dora`: true, expected null, false or empty: DoRA",
        ),
        (change(r#""lora_bias": false"#, r#""lora_bias": true"#), "`lora_bias`: true"),
        (change(r#""fan_in_fan_out": false"#, r#""fan_in_fan_out": true"#), "`fan_in_fan_out`: true"),
        (
            change(r#""modules_to_save": null"#, r#""modules_to_save": ["embed_tokens"]"#),
            "`modules_to_save`: embed_tokens",
        ),
        (change(r#""modules_to_save": null"#, r#""modules_to_save": ["a", "b"]"#), "`modules_to_save`: a list"),
        (
            change(r#""trainable_token_indices": null"#, r#""trainable_token_indices": [5]"#),
            "`trainable_token_indices`: 5",
        ),
        (change(r#""layer_replication": null"#, r#""layer_replication": [[0, 1]]"#), "`layer_replication`: a list"),
        (change(r#""layers_pattern": null"#, r#""layers_pattern": "h""#), "`layers_pattern`: h"),
        (change(r#""corda_config": null"#, r#""corda_config": {"a": 1}"#), "`corda_config`: an object, expected null"),
        (add(r#""use_next_thing": true"#), "`use_next_thing`: true, expected null, false or empty: it is not known"),
        (add(r#""next_strength": 0.5"#), "`next_strength`: 0.5"),
        (add(r#""next_number": -1"#), "`next_number`: -1"),
        (add(r#""r": 4"#), "`r` occurs twice"),
        (add(r#""rank_pattern": {"a": 1}"#), "`rank_pattern`: occurs twice"),
        (
            change(r#""rank_pattern": {}"#, r#""rank_pattern": {"q_proj": 2}"#),
            "rank is 4, expected 2 as `rank_pattern`",
        ),
        (
            change(r#""rank_pattern": {}"#, r#""rank_pattern": {"(q|k)_proj": 4}"#),
            "`rank_pattern` is (q|k)_proj, expected names",
        ),
        (change(r#""rank_pattern": {}"#, r#""rank_pattern": {"q_proj": 0}"#), "`rank_pattern` is 0"),
        (change(r#""alpha_pattern": {}"#, r#""alpha_pattern": {"": 4}"#), "`alpha_pattern` is , expected names"),
        (change(r#""alpha_pattern": {}"#, r#""alpha_pattern": {"q_proj": "4"}"#), "`q_proj`"),
        (change(r#""alpha_pattern": {}"#, r#""alpha_pattern": []"#), "`alpha_pattern`"),
        (
            change(r#""layers_to_transform": null"#, r#""layers_to_transform": [0]"#),
            "layers.1.self_attn.q_proj.lora_A.weight",
        ),
        (change(r#""layers_to_transform": null"#, r#""layers_to_transform": [-1]"#), "`layers_to_transform`"),
        (change(r#", "lm_head"]"#, "]"), "lm_head.lora_A.weight"),
        (change(r#""lm_head"]"#, r#""lm_head", "gate"]"#), "`target_modules` is gate"),
        (change(r#""lm_head"]"#, r#""lm_head", 1]"#), "`target_modules`"),
        (add(&format!(r#""exclude_modules2": [], "x": {}1{}"#, "[".repeat(200), "]".repeat(200))), "recursion limit"),
        (String::new(), "EOF"),
        ("[]".into(), "expected the configuration of an adapter"),
        (ADAPTER_JSON.to_owned() + "x", "trailing characters"),
    ];
    for (text, expected) in cases {
        fs::write(dir.path().join("adapter_config.json"), text).unwrap();
        refused(dir.path(), &[expected]);
    }
    // What is off is no matter, whatever it is.
    for pair in [r#""x": null"#, r#""x": false"#, r#""x": []"#, r#""x": {}"#, r#""x": """#] {
        fs::write(dir.path().join("adapter_config.json"), add(pair)).unwrap();
        assert!(adapter::open(dir.path(), &config()).is_ok(), "{pair}");
    }
    for pair in [r#""runtime_config": {"ephemeral_gpu_offload": false}"#, r#""x": [null]"#] {
        fs::write(dir.path().join("adapter_config.json"), add(pair)).unwrap();
        assert_eq!(adapter::open(dir.path(), &config()).is_ok(), pair.contains("runtime"), "{pair}");
    }
    let everywhere = change(r#""layers_to_transform": null"#, r#""layers_to_transform": []"#);
    fs::write(dir.path().join("adapter_config.json"), everywhere).unwrap();
    assert!(adapter::open(dir.path(), &config()).is_ok());
    let gaussian = change(r#""init_lora_weights": true"#, r#""init_lora_weights": "gaussian""#);
    fs::write(dir.path().join("adapter_config.json"), gaussian).unwrap();
    assert!(adapter::open(dir.path(), &config()).is_ok());
    fs::write(dir.path().join("adapter_config.json"), vec![b' '; 17 << 20]).unwrap();
    refused(dir.path(), &["17825792 bytes, expected at most 16777216"]);
}

#[test]
fn peft_weights() {
    let dir = tempfile::tempdir().unwrap();
    peft(dir.path(), &adapter(), Format::F32);
    let weights = dir.path().join("adapter_model.safetensors");
    let write = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = peft_tensors(&adapter(), Format::F32);
        change(&mut tensors);
        write_safetensors(&weights, &tensors);
    };
    let at = |name: Name, side: &str| {
        let tensors = peft_tensors(&adapter(), Format::F32);
        tensors.iter().position(|(declaration, _)| declaration.name == peft_name(name, side)).unwrap()
    };
    let (a, b) = (at(q(1), "A"), at(q(1), "B"));
    let called = "`base_model.model.model.layers.1.self_attn.q_proj.lora_";
    write(&|_| {});
    assert!(adapter::open(dir.path(), &config()).is_ok());

    write(&|tensors| drop(tensors.remove(b)));
    refused(dir.path(), &[called, "lora_A.weight`: the other factor, B, is missing"]);
    write(&|tensors| drop(tensors.remove(a)));
    refused(dir.path(), &[called, "lora_B.weight`: the other factor, A, is missing"]);
    write(&|tensors| tensors[a].0.shape = vec![2, 64]);
    refused(dir.path(), &[called, "lora_B.weight`: shape is [32, 4], expected rows of 2, the rank of A"]);
    write(&|tensors| {
        tensors[a].0.shape = vec![4, 16];
        tensors[a].1.truncate(4 * 16 * 4);
    });
    refused(dir.path(), &[called, "lora_A.weight`: shape is [4, 16], expected [4, 32] for this base"]);
    write(&|tensors| {
        tensors[b].0.shape = vec![16, 4];
        tensors[b].1.truncate(4 * 16 * 4);
    });
    refused(dir.path(), &[called, "lora_B.weight`: shape is [16, 4], expected [32, 4] for this base"]);
    write(&|tensors| tensors[a].0.shape = vec![4 * 32]);
    refused(dir.path(), &[called, "shape is [128], expected two dimensions"]);
    write(&|tensors| {
        (tensors[a].0.shape, tensors[b].0.shape) = (vec![0, 32], vec![32, 0]);
        (tensors[a].1, tensors[b].1) = (vec![], vec![]);
    });
    refused(dir.path(), &[called, "rank is 0, expected 1 to 65536"]);
    write(&|tensors| tensors[b].1[4 * 7..4 * 8].copy_from_slice(&f32::NAN.to_le_bytes()));
    refused(dir.path(), &[called, "lora_B.weight`: a value is NaN at row 1, column 3, expected a finite number"]);
    write(&|tensors| tensors[a].1[..4].copy_from_slice(&f32::INFINITY.to_le_bytes()));
    refused(dir.path(), &[called, "a value is inf at row 0, column 0"]);

    let renamed = |to: &str, expected: &str| {
        write(&|tensors| tensors[a].0.name = to.into());
        refused(dir.path(), &[&format!("unknown tensor `{to}`"), expected]);
    };
    renamed("model.layers.1.self_attn.q_proj.lora_A.weight", "begins with `base_model.model.`");
    renamed("base_model.model.model.layers.1.self_attn.q_proj.lora_A.default.weight", "ends with `.lora_A.weight`");
    renamed("base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector", "ends with `.lora_A.weight`");
    renamed("base_model.model.model.layers.1.self_attn.qkv_proj.lora_A.weight", "no such module");
    renamed("base_model.model.model.layers.01.self_attn.q_proj.lora_A.weight", "no such module");
    renamed("base_model.model.model.layers.9999.self_attn.q_proj.lora_A.weight", "no Llama has so many layers");
    renamed("base_model.model.model.norm.lora_A.weight", "no norms and no token embedding");
    renamed("base_model.model.model.embed_tokens.lora_A.weight", "no norms and no token embedding");
    renamed(
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "adapters of the token embedding are not supported",
    );
    renamed("base_model.model.lm_head.weight", "ends with `.lora_A.weight`");
    write(&|tensors| {
        tensors[a].0.format = Format::F8E4M3;
        tensors[a].1.truncate(4 * 32);
        let last = tensors.remove(a);
        tensors.push(last);
    });
    refused(dir.path(), &[called, "dtype is F8_E4M3, expected F32, F16 or BF16"]);
    write(&|tensors| tensors.clear());
    refused(dir.path(), &["not an adapter: expected low-rank matrices, found none"]);

    write(&|_| {});
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    refused(dir.path(), &["adapter_model.safetensors", "cut short"]);
    fs::write(&weights, &whole[..100]).unwrap();
    refused(dir.path(), &["adapter_model.safetensors", "cut short"]);
    fs::remove_file(&weights).unwrap();
    refused(dir.path(), &["adapter_config.json without adapter_model.safetensors"]);
    fs::write(dir.path().join("adapter_model.bin"), "").unwrap();
    refused(dir.path(), &["found adapter_model.bin, a pickle"]);
    fs::remove_file(dir.path().join("adapter_config.json")).unwrap();
    refused(dir.path(), &["a directory without adapter_config.json"]);
    let file = dir.path().join("x");
    fs::write(&file, "hello").unwrap();
    refused(&file, &["x: not an adapter: expected a directory of PEFT's"]);
    refused(&dir.path().join("absent"), &["absent"]);
}

#[test]
fn another_number_of_layers() {
    let dir = tempfile::tempdir().unwrap();
    peft(dir.path(), &adapter(), Format::F32);
    let open = |n_layers| adapter::open(dir.path(), &Config { n_layers, ..config() }).unwrap_err().to_string();
    says(&open(2), "layers.2.self_attn.q_proj.lora_A.weight`: the base has fewer layers");
    says(&open(4), "7 required tensors are missing: layers.3.attention.q");
}

#[test]
fn gguf_files() {
    use MetadataValue::{F32, String as Str, Strings, U32};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let (metadata, tensors) = gguf_adapter_parts(&adapter(), Format::F32);
    let with = |key: &str, value: Option<MetadataValue>| {
        let mut metadata: Vec<_> = metadata.iter().filter(|(k, _)| k != key).cloned().collect();
        metadata.extend(value.map(|value| (key.to_owned(), value)));
        write_gguf(&path, &metadata, &tensors);
    };
    let cases = [
        ("general.type", None, "`general.type` is missing"),
        ("general.type", Some(Str("model".into())), "`general.type` is model, expected `adapter`"),
        ("general.architecture", Some(Str("qwen3".into())), "`general.architecture` is qwen3, expected `llama`"),
        ("adapter.type", Some(Str("control_vector".into())), "`adapter.type` is control_vector, expected `lora`"),
        ("adapter.lora.alpha", Some(F32(f32::NAN)), "`adapter.lora.alpha` is NaN, expected 0 or a number"),
        ("adapter.lora.alpha", Some(F32(1e-20)), "`adapter.lora.alpha` is 0.0"),
        ("adapter.lora.alpha", Some(U32(8)), "`adapter.lora.alpha` has type unsigned integer, expected a float"),
        ("adapter.lora.prompt_prefix", Some(Str("x".into())), "`adapter.lora.prompt_prefix` is present"),
        (
            "adapter.alora.invocation_tokens",
            Some(MetadataValue::I32s(vec![1])),
            "`adapter.alora.invocation_tokens` is present",
        ),
    ];
    for (key, value, expected) in cases {
        with(key, value);
        refused(&path, &["a.gguf", expected]);
    }
    for (key, value) in [
        ("adapter.lora.task_name", Str("retrieval".into())),
        ("adapter.lora.prompt_prefix", Str(String::new())),
        ("adapter.alora.invocation_tokens", Strings(vec![])),
        ("general.name", Str("x".into())),
    ] {
        with(key, Some(value));
        assert!(adapter::open(&path, &config()).is_ok(), "{key}");
    }

    let write = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        write_gguf(&path, &metadata, &tensors);
    };
    let place = |called: &str| tensors.iter().position(|(declaration, _)| declaration.name == called).unwrap();
    let (a, b) = (place("blk.1.attn_k.weight.lora_a"), place("blk.1.attn_k.weight.lora_b"));
    write(&|tensors| drop(tensors.remove(b)));
    refused(&path, &["`blk.1.attn_k.weight.lora_a`: the other factor, B, is missing"]);
    write(&|tensors| tensors[a].0.shape = vec![2, 2, 32]);
    refused(&path, &["`blk.1.attn_k.weight.lora_a`: shape is [32, 2, 2], expected two dimensions"]);
    write(&|tensors| tensors[b].0.shape = vec![8, 8]);
    refused(&path, &["`blk.1.attn_k.weight.lora_b`: shape is [8, 8], expected rows of 4, the rank of A"]);
    write(&|tensors| tensors[b].1[..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes()));
    refused(&path, &["`blk.1.attn_k.weight.lora_b`: a value is -inf at row 0, column 0"]);
    for (name, expected) in [
        ("blk.1.attn_k.weight", "expected a name that ends with `.lora_a`"),
        ("blk.1.attn_norm.weight", "expected a name that ends with `.lora_a`"),
        ("blk.1.attn_qkv.weight.lora_a", "the Llama architecture has none of this name"),
        ("token_embd.weight.lora_a", "no norms and no token embedding"),
        ("blk.4.attn_k.weight.lora_a", "the base has fewer layers"),
    ] {
        write(&|tensors| {
            tensors[a].0.name = name.into();
            if name.starts_with("blk.4") {
                tensors[b].0.name = name.replace("lora_a", "lora_b");
            }
        });
        refused(&path, &[&format!("unknown tensor `{name}`"), expected]);
    }
    write(&|tensors| tensors.clear());
    refused(&path, &["expected low-rank matrices, found none"]);
    write(&|_| {});
    let whole = fs::read(&path).unwrap();
    for len in [3, 20, 1000, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(adapter::open(&path, &config()).is_err(), "{len}");
    }
    // A model is no adapter, and an adapter no model.
    gguf(&path, Format::F16);
    refused(&path, &["`general.type` is missing"]);
    write(&|_| {});
    says(&open(&path).unwrap_err().to_string(), "`llama.embedding_length` is missing");
}

#[test]
fn metadata_of_safetensors_is_picked() {
    let file = |json: &str| [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    let pick = |json: &str| puna_checkpoint::safetensors::metadata(&file(json), &["a", "c"]);
    let some = r#"{"__metadata__":{"a":"1","b":"2","\u0063":"\u0033"}}"#;
    assert_eq!(pick(some).unwrap(), BTreeMap::from([("a", "1".to_owned()), ("c", "3".to_owned())]));
    assert!(pick("{}").unwrap().is_empty());
    says(&pick(r#"{"__metadata__":{"a":"1","b":"2","a":"1"}}"#).unwrap_err().to_string(), "`a` occurs twice");
}
