//! Adapters in use: unmerged with `--adapter` and merged with `puna adapter merge`, which agree, and how both refuse
//! what does not fit.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, Run, VOCAB, flip, licence, puna, text};
use puna_checkpoint::adapter::{self, Adapter, BaseIdentity, Digest, LowRank, Settings};
use puna_checkpoint::{Checkpoint, Name, open};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// An adapter of every matrix, of rank 2, that changes a weight by about `size` of what it is.
fn adapter(base: &Checkpoint, seed: u32, size: f32, settings: Settings) -> Adapter {
    let config = &base.config;
    let mut state = seed;
    let mut next = || {
        // The generator of Numerical Recipes; its upper bits are as random as a test needs.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let adaptable = base.tensors().map(|tensor| tensor.name);
    let adaptable = adaptable.filter(|&name| !name.is_norm() && name != Name::TokenEmbedding);
    let matrices = adaptable.map(|name| {
        let (rows, cols) = config.shape(name);
        let a = (0..2 * cols).map(|_| next()).collect();
        // Weights of `puna synth` have the standard deviation 1/√cols.
        let b = (0..2 * rows).map(|_| size * next() / (cols as f32).sqrt()).collect();
        (name, LowRank { rank: 2, alpha: 4.0, a, b })
    });
    Adapter { settings, pairing: config.rope.pairing, matrices: matrices.collect() }
}

/// A model and two adapters of it, the first in PEFT's form, the second in llama.cpp's.
struct Made {
    files: Files,
    model: PathBuf,
    first: PathBuf,
    second: PathBuf,
}

impl Made {
    /// `name` tells the form of the model.
    fn new(name: &str, format: &str) -> Made {
        Made::with(name, format, 0.5, |_| Settings::default())
    }

    fn with(name: &str, format: &str, size: f32, settings: impl Fn(&Checkpoint) -> Settings) -> Made {
        let files = Files::new();
        let model = files.model(name, format);
        let base = open(&model).unwrap();
        let (first, second) = (files.path("first"), files.path("second.gguf"));
        adapter::write_peft(&adapter(&base, 1, size, settings(&base)), &first, &base.config).unwrap();
        adapter::write_gguf(&adapter(&base, 2, size, settings(&base)), &second, &base.config).unwrap();
        Made { files, model, first, second }
    }

    fn merge(&self, out: &Path, adapters: &[&str], args: &[&str]) -> Run {
        let all = [&["adapter", "merge", "-m", text(&self.model), "-o", text(out)], adapters, args].concat();
        puna(&all)
    }

    /// The logits after each of some tokens.
    #[track_caller]
    fn logits(&self, model: &Path, args: &[&str]) -> Vec<f32> {
        let ids: Vec<u32> = (0..24).map(|i| i * 61 % VOCAB).collect();
        let ids = self.files.write("ids.json", serde_json::to_string(&ids).unwrap());
        let out = self.files.path("logits.safetensors");
        let all = ["score", text(model), "--ids-file", text(&ids), "--logits", text(&out), "--kv", "f32", "--json"];
        puna(&[&all, args].concat()).succeeded();
        let bytes = fs::read(&out).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let logits = tensors.tensor("logits").unwrap().data().as_chunks::<4>().0.to_vec();
        logits.into_iter().map(f32::from_le_bytes).collect()
    }
}

/// How far apart, relative to the first.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |v: f64| v * v;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = a.iter().map(|a| square(f64::from(*a))).sum();
    (error / norm).sqrt()
}

#[test]
fn a_merged_model_answers_as_the_base_with_its_adapter() {
    // Sums of f32 in another order; of f16, 11 bits of each weight, over some layers; of 8-bit blocks with 8-bit inputs.
    for (name, format, out, target, tolerance) in [
        ("hf", "F32", "out", None, 1e-5),
        ("hf", "BF16", "out.gguf", Some("F32"), 1e-5),
        ("m.gguf", "F16", "out.gguf", Some("F32"), 1e-5),
        ("hf", "F16", "out", None, 3e-3),
        ("m.gguf", "Q8_0", "out.gguf", None, 5e-2),
    ] {
        let made = Made::new(name, format);
        let out = made.files.path(out);
        let args: Vec<&str> = target.iter().flat_map(|format| ["--format", format]).collect();
        made.merge(&out, &[text(&made.first)], &args).succeeded();
        let (base, adapted) =
            (made.logits(&made.model, &[]), made.logits(&made.model, &["--adapter", text(&made.first)]));
        let found = distance(&adapted, &made.logits(&out, &[]));
        assert!(found < tolerance, "{name} {format}: {found:.1e}");
        assert!(distance(&base, &adapted) > 0.2, "{name} {format}: the adapter does nothing");
    }
}

#[test]
fn two_adapters_add_up_each_with_its_weight() {
    let made = Made::new("hf", "F32");
    let (first, second) = (text(&made.first), text(&made.second));
    let half = format!("{second}=-0.5");
    let unmerged = made.logits(&made.model, &["--adapter", first, "--adapter", &half]);
    let (both, one, twice) = (made.files.path("both"), made.files.path("one"), made.files.path("twice"));
    made.merge(&both, &[first, &half], &[]).succeeded();
    assert!(distance(&unmerged, &made.logits(&both, &[])) < 1e-5);
    // One merged after the other.
    made.merge(&one, &[first], &[]).succeeded();
    puna(&["adapter", "merge", "-m", text(&one), &half, "-o", text(&twice)]).succeeded();
    assert!(distance(&unmerged, &made.logits(&twice, &[])) < 1e-5);
    let whole = made.logits(&made.model, &["--adapter", first, "--adapter", second]);
    assert!(distance(&unmerged, &whole) > 0.1, "the weight does nothing");
}

#[test]
fn an_adapter_changes_the_answer() {
    let made = Made::new("m.gguf", "Q8_0");
    let answer = |args: &[&str]| {
        let all =
            ["run", text(&made.model), "Hello", "--temperature", "0", "--max-tokens", "12", "--ignore-eos", "--json"];
        puna(&[&all, args].concat()).json()["ids"].clone()
    };
    let base = answer(&[]);
    let adapted = answer(&["--adapter", text(&made.second)]);
    assert_ne!(base, adapted);
    assert_eq!(answer(&["--adapter", text(&made.second), "--speculate", "off"]), adapted);
    let bench = ["bench", text(&made.model), "--adapter", text(&made.first), "-p", "8", "-n", "2", "--repeats", "1"];
    assert!(puna(&bench).succeeded().stdout.contains("decode"));
}

#[test]
fn what_rounding_did_is_told() {
    // A twentieth of a step of 4 bits.
    let made = Made::with("m.gguf", "Q4_0", 0.01, |_| Settings::default());
    let out = made.files.path("out.gguf");
    let run = made.merge(&out, &[text(&made.first)], &["--tensors"]).succeeded();
    for expected in
        ["1 adapter merged into 15 matrices", "layers.0.attention.q", "15 matrices", "Q4_0", " of the change"]
    {
        assert!(run.stdout.contains(expected), "expected `{expected}`: {run}");
    }
    assert!(run.stderr.contains("warning: rounding moves the weights "), "{run}");
    assert!(run.stderr.contains("puna run --adapter"), "{run}");
    fs::remove_file(&out).unwrap();
    for beside in ["out.README.md", "out.provenance.json"] {
        fs::remove_file(made.files.path(beside)).unwrap();
    }

    let json = made.merge(&out, &[text(&made.first)], &["--json"]).json();
    assert_eq!((json["tensors"].as_array().unwrap().len(), &json["name"]), (15, &"out".into()));
    let tensor = &json["tensors"][0];
    assert_eq!((&tensor["name"], &tensor["format"]), (&"layers.0.attention.q".into(), &"Q4_0".into()));
    let of = |key: &str| json["all"][key].as_f64().unwrap();
    assert!(of("error_of_change") > 0.5 && of("change_kept") < 1.0 && of("error_of_weights") < 0.1, "{json}");

    let exact = made.files.path("exact.gguf");
    let run = made.merge(&exact, &[text(&made.first)], &["--format", "F32", "--json"]).succeeded();
    assert!(!run.stderr.contains("warning"), "{run}");
    assert_eq!(run.json()["all"]["change_kept"], 1.0);
}

#[test]
fn licence_and_name_go_along() {
    let files = Files::new();
    let base = files.model("Llama-3.1-8B", "F32");
    let licence = licence("You may do what you like.");
    fs::write(base.join("LICENSE"), &licence).unwrap();
    fs::write(base.join("USE_POLICY.md"), "# Llama 3.1 Acceptable Use Policy").unwrap();
    let checkpoint = open(&base).unwrap();
    let adapter = adapter(&checkpoint, 1, 0.5, Settings::default());
    let path = files.path("adapter");
    adapter::write_peft(&adapter, &path, &checkpoint.config).unwrap();
    let merge = |out: &Path, args: &[&str]| {
        puna(&[&["adapter", "merge", "-m", text(&base), text(&path), "-o", text(out)], args].concat())
    };
    let out = files.path("bard");
    merge(&out, &[]).refused(&[
        "--name: expected a name that begins with `Llama`, found `bard`",
        "the Llama 3.1 Community License of ",
        "by the file LICENSE beside it",
        "--licence none",
    ]);
    assert!(!out.exists());
    let run = merge(&out, &["--name", "Llama-Bard", "--json"]).succeeded();
    assert!(!run.stderr.contains("note:"), "{run}");
    let json = run.json();
    assert_eq!((&json["name"], &json["licence"]), (&"Llama-Bard".into(), &"llama3.1".into()));
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("LICENSE"), licence);
    assert!(out.join("USE_POLICY.md").is_file());
    let notice = "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. All Rights \
                  Reserved.";
    assert_eq!(read("NOTICE"), format!("{notice}\n"));
    let card = read("README.md");
    for expected in ["license: llama3.1\n", "# Llama-Bard\n", "**Built with Llama**", "adapter (times 1)", notice] {
        assert!(card.contains(expected), "expected `{expected}`: {card}");
    }
    // It may be passed on as it is.
    let check = ["publish", "--check", text(&out), "--base", text(&base), "--name", "Llama-Bard", "--json"];
    assert_eq!(puna(&check).json()["refused"], false);

    // By the name alone, when the texts are gone; the text is then still to be had.
    fs::remove_file(base.join("LICENSE")).unwrap();
    fs::remove_file(base.join("USE_POLICY.md")).unwrap();
    merge(&files.path("x"), &[]).refused(&["by the name `Llama-3.1-8B`"]);
    let run = merge(&files.path("Llama-x"), &[]).succeeded();
    assert!(run.stderr.contains("note: The text of the Llama 3.1 Community License did not lie beside"), "{run}");
    let free = files.path("free");
    assert!(merge(&free, &["--licence", "none", "--json"]).json()["licence"].is_null());
    assert!(!free.join("NOTICE").exists() && free.join("README.md").is_file());
    merge(&files.path("y"), &["--licence", "llama9"]).misused(&["llama9", "llama3.3 or none"]);
}

#[test]
fn what_was_merged_says_what_it_was_made_from() {
    let made = Made::new("hf", "BF16");
    let record = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let peft = made.files.path("again");
    puna(&["adapter", "convert", text(&made.second), "-m", text(&made.model), "-o", text(&peft)]).succeeded();
    assert_eq!(record(peft.join("provenance.json"))["made_from"][1]["name"], "second.gguf");

    let out = made.files.path("out");
    made.merge(&out, &[text(&made.first), &format!("{}=0.5", text(&peft))], &["--format", "F16"]).succeeded();
    let found = record(out.join("provenance.json"));
    assert_eq!((&found["format"], &found["verb"]), (&json!("puna.provenance/1"), &json!("adapter merge")));
    assert_eq!(found["options"], json!({ "weights": [1.0, 0.5], "format": "F16" }));
    let parents = found["made_from"].as_array().unwrap();
    let of = |key: &str| parents.iter().map(|parent| parent[key].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("role"), ["base", "adapter", "adapter"]);
    assert_eq!(of("name"), ["hf", "first", "again"]);
    // The chain goes on where the files between are gone, and says of which base each was.
    assert_eq!(parents[2]["provenance"]["verb"], "adapter convert");
    assert_eq!(parents[2]["provenance"]["made_from"][0]["root"], parents[0]["root"]);

    // Of a file, it lies beside it; of a kept model, among its files, and is shown.
    let home = made.files.path("home");
    let kept = |args: &[&str]| model::run(model::binary().args(args).env("PUNA_HOME", &home), b"");
    kept(&["import", text(&out), "--name", "merged"]).succeeded();
    let shown = kept(&["show", "merged"]).succeeded().stdout;
    for expected in ["made      by `adapter merge` of puna", "from the base hf, ", "  by `adapter convert` of puna"] {
        assert!(shown.contains(expected), "expected `{expected}`: {shown}");
    }
    assert_eq!(kept(&["show", "merged", "--json"]).json()["provenance"], found);
    let last = made.files.path("last.gguf");
    kept(&["adapter", "merge", "-m", "merged", text(&made.first), "-o", text(&last), "--licence", "none"]).succeeded();
    let base = &record(made.files.path("last.provenance.json"))["made_from"][0].clone();
    assert!(base["name"].as_str().unwrap().starts_with("local/merged@"), "{base}");
    assert_eq!((&base["provenance"], &base["root"]), (&found, &kept(&["show", "merged", "--json"]).json()["root"]));
    // What lies beside a GGUF file under its name is kept with it.
    kept(&["import", text(&last), "--name", "last"]).succeeded();
    assert_eq!(kept(&["show", "last", "--json"]).json()["provenance"]["made_from"][0], *base);
    // What the store knows better is told.
    let warning = || kept(&["inspect", text(&last)]).succeeded().stderr;
    assert_eq!(warning(), "");
    let path = made.files.path("last.provenance.json");
    let whole = record(path.clone());
    for (key, value, expected) in [
        ("root", json!("0".repeat(64)), "; the one that is kept here is "),
        ("provenance", json!(null), "says otherwise what it was made from itself"),
    ] {
        let mut changed = whole.clone();
        changed["made_from"][0][key] = value;
        fs::write(&path, changed.to_string()).unwrap();
        let warning = warning();
        assert!(warning.contains("made from the base local/merged@") && warning.contains(expected), "{warning}");
    }
    fs::write(&path, r#"{"format": "puna.provenance/1"}"#).unwrap();
    assert!(warning().contains("last.provenance.json: not a record of what a model was made from"));
}

#[test]
fn where_somebody_is_trusted_only_what_they_signed_is_opened() {
    let made = Made::new("hf", "BF16");
    let (home, here) = (made.files.path("home"), made.files.path(""));
    let kept = |args: &[&str]| model::run(model::binary().args(args).env("PUNA_HOME", &home).current_dir(&here), b"");
    kept(&["import", "hf", "--name", "base"]).succeeded();
    for key in ["mine.key", "other.key"] {
        kept(&["sign", "--new-key", key]).succeeded();
    }
    let sign = |what: &str, key: &str| {
        kept(&["sign", what, "--key", key]).succeeded();
    };
    let merge = |out: &str| kept(&["adapter", "merge", "-m", "base", "first", "-o", out, "--licence", "none"]);
    merge("a").succeeded();

    let trusted = home.join("trusted");
    fs::create_dir(&trusted).unwrap();
    fs::copy(made.files.path("mine.key.pub"), trusted.join("mine")).unwrap();
    merge("b").refused(&["not opened", "manifest.sig: it is not signed", text(&trusted)]);
    sign("base", "other.key");
    merge("b").refused(&["not opened", "signed by the key"]);
    sign("base", "mine.key");
    merge("b").refused(&["not opened", "model.sig: it is not signed"]);
    sign("first", "mine.key");
    merge("b").succeeded();
    // Of a folder that is not kept, all files have to be signed; of an adapter, its own.
    fs::write(made.files.path("first/log.jsonl"), "{}").unwrap();
    merge("c").succeeded();
    sign("b", "mine.key");
    kept(&["inspect", "b"]).succeeded();
    fs::write(made.files.path("b/extra"), "").unwrap();
    kept(&["inspect", "b"]).refused(&["extra: it was not signed"]);
    kept(&["keep", "base", "--to", "bundle"]).succeeded();
    kept(&["inspect", "bundle"]).succeeded();
    let weights = made.files.path("bundle/model.safetensors");
    flip(&weights, fs::metadata(&weights).unwrap().len() as usize - 1);
    kept(&["inspect", "bundle"]).refused(&["model.safetensors: it was changed"]);
    // The one in the program needs nobody's signature.
    kept(&["inspect", "cria"]).succeeded();

    let config = made.files.path("first/adapter_config.json");
    let changed = fs::read_to_string(&config).unwrap() + "\n";
    fs::write(&config, changed).unwrap();
    merge("d").refused(&["adapter_config.json: it was changed"]);
    fs::write(trusted.join("nobody"), "hello").unwrap();
    merge("d").refused(&["nobody: expected PEM"]);
}

#[test]
fn a_gguf_file_says_its_licence_itself() {
    let made = Made::new("m.gguf", "F16");
    let out = made.files.path("Llama-Bard.gguf");
    made.merge(&out, &[text(&made.first)], &["--licence", "llama3.2"]).succeeded();
    let bytes = fs::read(&out).unwrap();
    let header = puna_checkpoint::gguf::Header::parse(&bytes).unwrap();
    let of = |key: &str| header.string(key).unwrap().unwrap();
    assert_eq!((of("general.name"), of("general.license")), ("Llama-Bard", "llama3.2"));
    assert!(of("general.description").starts_with("Built with Llama. Llama 3.2 is licensed under"));
    let notice = fs::read_to_string(made.files.path("Llama-Bard.NOTICE")).unwrap();
    assert!(notice.starts_with("Llama 3.2 is licensed under the Llama 3.2 Community License"), "{notice}");
    // It is found in what was merged.
    puna(&["adapter", "merge", "-m", text(&out), text(&made.first), "-o", text(&made.files.path("again.gguf"))])
        .refused(&["expected a name that begins with `Llama`", "by the file NOTICE beside it"]);
}

#[test]
fn the_base_and_its_template_are_held_against_the_record() {
    let record = |base: &Checkpoint| Settings {
        base: Some(BaseIdentity::of(base)),
        chat_template: Some(Digest::of(b"template")),
        ..Settings::default()
    };
    let made = Made::with("hf", "F32", 0.5, record);
    let other = made.files.path("other");
    puna(&["synth", text(&made.files.path("shape.json")), "--format", "F32", "--seed", "1", "-o", text(&other)])
        .succeeded();
    let first = text(&made.first);
    let expected = ["other: not the base that", "first was trained on: its values are", "expected"];
    puna(&["run", text(&other), "Hello", "--adapter", first]).refused(&expected);
    let out = made.files.path("out");
    puna(&["adapter", "merge", "-m", text(&other), first, "-o", text(&out)]).refused(&expected);
    assert!(!out.exists());

    let run = |template: &str| {
        fs::write(made.model.join("chat_template.jinja"), template).unwrap();
        let args = ["run", text(&made.model), "--raw", "Hello", "--max-tokens", "1", "--adapter", first];
        puna(&args).succeeded().stderr
    };
    assert!(run("another").contains("is not the one that"));
    assert!(!run("template").contains("warning"));
}

#[test]
fn what_does_not_fit_is_refused() {
    let made = Made::new("hf", "F32");
    let (first, out) = (text(&made.first), made.files.path("out"));
    let shape = model::SHAPE.replace("\"n_kv_heads\": 1", "\"n_kv_heads\": 2");
    let wide = made.files.model_of(&shape, "wide", "F32");
    puna(&["run", text(&wide), "Hello", "--adapter", first]).refused(&[
        "first",
        "k_proj.lora_B.weight",
        "shape is [32, 2], expected [64, 2] for this base",
    ]);
    puna(&["adapter", "merge", "-m", text(&wide), first, "-o", text(&out)]).refused(&["shape is [32, 2]"]);
    puna(&["run", text(&wide), "Hello", "--adapter", "absent"]).refused(&["absent"]);
    puna(&["run", text(&wide), "Hello", "--adapter", "a=x"]).misused(&["expected a number behind `=`, found `x`"]);
    let none = ["--licence", "none"];
    made.merge(&made.model, &[first], &none).refused(&["hf: exists already; name something new"]);
    let gguf = Made::new("m.gguf", "F16");
    gguf.merge(&out, &[text(&gguf.first)], &none).refused(&["a GGUF file does not become a directory"]);
    made.merge(&out, &[first], &["--format", "Q8_0", "--licence", "none"])
        .refused(&["Q8_0 has no place in safetensors"]);
    made.merge(&out, &[first], &["--format", "Q9"]).misused(&["Q9"]);
    made.merge(&out, &[], &[]).misused(&["ADAPTER"]);
    assert!(!out.exists());
}
