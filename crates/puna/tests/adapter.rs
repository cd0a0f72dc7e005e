//! `puna adapter`: what it shows, what it writes, and how it refuses bad adapters.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, puna, text};
use puna_checkpoint::adapter::{self, Adapter, BaseIdentity, Digest, LowRank, Settings};
use puna_checkpoint::{LayerTensor, Name, RopePairing, open};
use std::fs;
use std::path::Path;

/// q and v of both layers; the second q has another alpha.
fn adapter(model: &Path, settings: Settings) -> Adapter {
    let config = open(model).unwrap().config;
    let mut matrices = std::collections::BTreeMap::new();
    for (layer, tensor) in (0..2).flat_map(|layer| [LayerTensor::Query, LayerTensor::Value].map(|t| (layer, t))) {
        let name = Name::Layer { layer, tensor };
        let (rows, cols) = config.shape(name);
        let alpha = if (layer, tensor) == (1, LayerTensor::Query) { 8.0 } else { 16.0 };
        let a = (0..2 * cols).map(|i| i as f32 / 64.0).collect();
        let b = (0..2 * rows).map(|i| 1.0 - i as f32 / 32.0).collect();
        matrices.insert(name, LowRank { rank: 2, alpha, a, b });
    }
    Adapter { settings, pairing: RopePairing::Halves, matrices }
}

fn recorded(model: &Path) -> Settings {
    Settings {
        base_name: Some("the \u{1b}[31mbase".into()),
        base: Some(BaseIdentity::of(&open(model).unwrap())),
        chat_template: Some(Digest::of(b"template")),
        dropout: 0.25,
        ..Settings::default()
    }
}

/// A model, its quantized form, another model, and an adapter of the first.
fn prepared(settings: impl FnOnce(&Path) -> Settings) -> (Files, [std::path::PathBuf; 4]) {
    let files = Files::new();
    let (hf, q8) = (files.model("hf", "BF16"), files.path("q8.gguf"));
    let shape = files.path("shape.json");
    puna(&["synth", text(&shape), "--format", "Q8_0", "-o", text(&q8)]).succeeded();
    let other = files.path("other");
    puna(&["synth", text(&shape), "--format", "BF16", "--seed", "1", "-o", text(&other)]).succeeded();
    let dir = files.path("adapter");
    adapter::write_peft(&adapter(&hf, settings(&hf)), &dir, &open(&hf).unwrap().config).unwrap();
    (files, [hf, q8, other, dir])
}

#[test]
fn inspect_shows_what_is_there() {
    let (_files, [hf, q8, other, dir]) = prepared(recorded);
    let shown = puna(&["adapter", "inspect", text(&dir), "-m", text(&hf), "--tensors"]).succeeded().stdout;
    for expected in [
        "PEFT, 2 files",
        "4 matrices, ",
        "0.25 in training",
        "base          the ␛[31mbase · BF16, values ",
        "2 layers, width 64, 2 heads of 32, 1 KV heads",
        "attention.q        rank 2    scale 8 = 16/rank  layers 0\n",
        "attention.q        rank 2    scale 4 = 8/rank  layers 1\n",
        "attention.v        rank 2    scale 8 = 16/rank  layers 0-1\n",
        "layers.1.attention.v",
        "32 x 2 x 64",
        "hf: the base of the training\n",
    ] {
        assert!(shown.contains(expected), "expected `{expected}`: {shown}");
    }

    let inspect = |model: &Path| puna(&["adapter", "inspect", text(&dir), "-m", text(model), "--json"]).json();
    let json = inspect(&hf);
    assert_eq!(json["form"], "PEFT");
    assert_eq!(json["matrices"].as_array().unwrap().len(), 4);
    assert_eq!(json["matrices"][0]["name"], "layers.0.attention.q");
    assert_eq!((&json["matrices"][0]["scale"], &json["matrices"][0]["shape"][1]), (&8.0.into(), &64.into()));
    assert_eq!((&json["dropout"], &json["model"]["likeness"]), (&0.25.into(), &"same".into()));
    assert_eq!(json["chat_template"], Digest::of(b"template").to_string());
    assert_eq!(inspect(&other)["model"]["likeness"], "another");
    // Random weights of equal norms, made anew for each format.
    assert_eq!(inspect(&q8)["model"]["likeness"], "other_format");
    let alone = puna(&["adapter", "inspect", text(&dir), "--json"]).json();
    assert!(alone["model"].is_null());
}

#[test]
fn a_template_is_held_against_the_models() {
    let (_files, [hf, _, _, dir]) = prepared(recorded);
    let line = |template: &str| {
        fs::write(hf.join("chat_template.jinja"), template).unwrap();
        puna(&["adapter", "inspect", text(&dir), "-m", text(&hf)]).succeeded().stdout
    };
    assert!(line("template").contains("its chat template is the one of the training"));
    assert!(line("another").contains("its chat template is not the one of the training"));
}

#[test]
fn convert_there_and_back() {
    let (files, [hf, q8, other, dir]) = prepared(|_| Settings::default());
    let (gguf, back) = (files.path("a.gguf"), files.path("back"));
    let convert = |from: &Path, model: &Path, to: &Path| {
        puna(&["adapter", "convert", text(from), "-m", text(model), "-o", text(to)])
    };
    let run = convert(&dir, &hf, &gguf).succeeded();
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains("other scales are multiplied into B: layers.1.attention.q\n"), "{run}");
    assert!(run.stderr.contains("a.gguf: 4 matrices"), "{run}");
    // Any form of the model has the sizes.
    assert!(!convert(&gguf, &q8, &back).succeeded().stderr.contains("note:"));
    let config = open(&hf).unwrap().config;
    let [first, last] = [&dir, &back].map(|path| adapter::open(path, &config).unwrap());
    assert_eq!(last.settings.base_name.as_deref(), Some(text(&q8)));
    for (name, matrix) in &first.matrices {
        let found = &last.matrices[name];
        assert_eq!((&found.a, found.alpha), (&matrix.a, 16.0));
        let ratio = matrix.alpha / 16.0;
        assert_eq!(found.b, matrix.b.iter().map(|value| value * ratio).collect::<Vec<_>>(), "{name}");
    }
    convert(&gguf, &hf, &back).refused(&["back: the directory is not empty; name a new one"]);
    // Nothing is recorded, so any model of the shape will do.
    convert(&dir, &other, &files.path("b.gguf")).succeeded();
}

#[test]
fn convert_wants_the_base() {
    let (files, [hf, q8, other, dir]) = prepared(recorded);
    let out = files.path("a.gguf");
    let convert = |model: &Path| puna(&["adapter", "convert", text(&dir), "-m", text(model), "-o", text(&out)]);
    convert(&other).refused(&["other: not the base that", "its values are", "expected"]);
    assert!(!out.exists());
    let run = convert(&q8).succeeded();
    assert!(run.stderr.contains("in another format, or a near relative"), "{run}");
    let config = open(&hf).unwrap().config;
    let kept = adapter::open(&out, &config).unwrap().settings;
    assert_eq!(kept, Settings { dropout: 0.0, ..recorded(&hf) });
}

#[test]
fn bad_adapters_are_refused() {
    let (files, [hf, _, _, dir]) = prepared(|_| Settings::default());
    let inspect = |path: &Path| puna(&["adapter", "inspect", text(path), "-m", text(&hf)]);
    inspect(&files.path("absent")).refused(&["absent"]);
    inspect(&hf).refused(&["hf: not an adapter", "without adapter_config.json"]);
    inspect(&hf.join("config.json")).refused(&["config.json: not an adapter"]);
    let config = dir.join("adapter_config.json");
    let json = fs::read_to_string(&config).unwrap();
    fs::write(&config, json.replace("\"use_dora\": false", "\"use_dora\": true")).unwrap();
    inspect(&dir).refused(&["adapter_config.json", "key `use_dora`: true, expected null, false or empty"]);
    fs::write(&config, json).unwrap();
    let shape = model::SHAPE.replace("\"n_kv_heads\": 1", "\"n_kv_heads\": 2");
    let wide = files.model_of(&shape, "wide", "BF16");
    puna(&["adapter", "inspect", text(&dir), "-m", text(&wide)])
        .refused(&["v_proj.lora_B.weight", "shape is [32, 2], expected [64, 2] for this base"]);
    puna(&["adapter", "convert", text(&dir), "-m", text(&wide), "-o", text(&files.path("x.gguf"))])
        .refused(&["shape is [32, 2], expected [64, 2]"]);
    puna(&["adapter", "convert", text(&dir), "-o", "x.gguf"]).misused(&["--model <MODEL>"]);
    assert_eq!(puna(&["adapter"]).code, Some(2));
}
