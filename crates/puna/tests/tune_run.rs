//! Runs of `puna tune run` and `plan` on tiny models: what comes out, what goes on, what is refused.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, binary, puna, text, wait};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Rows that a model of a few thousand values can learn by heart.
fn rows(n: usize) -> String {
    let row = |i: usize| {
        let (user, assistant) = (format!("{} ?", ["a", "b", "c", "d"][i % 4]), ["one", "two", "three", "four"][i % 4]);
        json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]})
    };
    (0..n).map(|i| format!("{}\n", row(i))).collect()
}

struct Setup {
    files: Files,
    model: PathBuf,
    data: PathBuf,
}

fn set_up(format: &str) -> Setup {
    let files = Files::new();
    let model = files.model("m.gguf", format);
    let data = files.write("data.jsonl", rows(24));
    Setup { files, model, data }
}

impl Setup {
    fn args<'a>(&'a self, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["tune", "run", "-m", text(&self.model), "-d", text(&self.data), "-o", text(out)];
        args.extend(["--threads", "2", "--set", "length=128", "--set", "batch=2", "--set", "valid=0.2"]);
        // The prompts have a date in them; of some validation gets no better.
        args.extend(["--set", "date='23 Nov 2026'", "--set", "patience=0"]);
        args.extend(more);
        args
    }

    fn tune(&self, out: &Path, more: &[&str]) -> model::Run {
        puna(&self.args(out, more))
    }
}

fn adapter(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("adapter_model.safetensors")).unwrap()
}

/// Losses of the steps that stand in the log.
fn losses(out: &Path) -> Vec<f64> {
    let log = std::fs::read_to_string(out.join("log.jsonl")).unwrap();
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.filter(|record| record["event"] == "step").map(|record| record["loss"].as_f64().unwrap()).collect()
}

#[test]
fn an_adapter_is_learned_over_any_format() {
    for format in ["Q8_0", "Q4_0", "F16"] {
        let setup = set_up(format);
        let out = setup.files.path("out");
        let ended = setup.tune(&out, &["--set", "steps=12", "--set", "lr=2e-2", "--json"]).json();
        assert_eq!((&ended["end"], &ended["step"], &ended["output"]), (&json!("done"), &json!(12), &json!(text(&out))));
        let losses = losses(&out);
        assert_eq!(losses.len(), 12);
        assert!(losses[11] < 0.8 * losses[0], "{format}: {losses:?}");
        let inspected = puna(&["adapter", "inspect", text(&out), "-m", text(&setup.model), "--json"]).json();
        assert_eq!(inspected["matrices"].as_array().unwrap().len(), 14, "{inspected}");
        for file in ["tune.toml", "log.jsonl", "tensorboard", "checkpoints"] {
            assert!(out.join(file).exists(), "{file}");
        }
    }
}

/// From a row to a model that answers otherwise.
#[test]
fn an_adapter_changes_the_answer() {
    let setup = set_up("Q8_0");
    let row = json!({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Why not."}]});
    std::fs::write(&setup.data, format!("{row}\n")).unwrap();
    let out = setup.files.path("out");
    setup.tune(&out, &["--set", "steps=60", "--set", "lr=2e-2"]).succeeded();
    let args = ["run", text(&setup.model), "Why?", "--temperature", "0", "--max-tokens", "20"];
    let before = puna(&args).succeeded().stdout;
    let after = puna(&[&args[..], &["--adapter", text(&out)]].concat()).succeeded().stdout;
    assert!(before != after && after == "Why not.\n", "{before:?} {after:?}");
}

#[test]
fn a_run_that_was_killed_goes_on_bit_for_bit() {
    let setup = set_up("Q8_0");
    let more = ["--set", "steps=40", "--set", "lr=1e-2", "--set", "save_every=3", "--set", "dropout=0.1"];
    let whole = setup.files.path("whole");
    setup.tune(&whole, &more).succeeded();
    // One was killed before it had settings, too.
    let killed = setup.files.directory("killed");
    std::fs::write(killed.join(".tune.toml.1.part"), "").unwrap();
    let mut attempts = 0;
    loop {
        let resume = killed.join("tune.toml").exists();
        let more = if resume { [&more[..], &["--resume"]].concat() } else { more.to_vec() };
        let mut command = binary();
        command.args(setup.args(&killed, &more)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // Later each time, so that some time it gets to the end; wherever it is then, in a checkpoint too.
        std::thread::sleep(Duration::from_millis(40 + 37 * attempts));
        child.kill().unwrap();
        wait(&mut child, "a run that is killed");
        attempts += 1;
        assert!(attempts < 300, "it never gets to the end");
        if killed.join("adapter_config.json").exists() {
            break;
        }
    }
    setup.tune(&killed, &[&more[..], &["--resume"]].concat()).succeeded();
    assert_eq!(losses(&killed), losses(&whole));
    assert!(adapter(&killed) == adapter(&whole), "after {attempts} attempts");
}

#[cfg(unix)]
#[test]
fn ctrl_c_writes_a_checkpoint() {
    use rustix::process::{Pid, Signal, kill_process};
    let setup = set_up("Q8_0");
    let (whole, out) = (setup.files.path("whole"), setup.files.path("out"));
    let more = ["--set", "steps=1000", "--set", "save_every=1000", "--set", "eval_every=1000"];
    setup.tune(&whole, &more).succeeded();
    let mut command = binary();
    command.args(setup.args(&out, &more)).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    while !out.join("log.jsonl").exists() || losses(&out).is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Two at once would spoil each other's checkpoints.
    setup.tune(&out, &[&more[..], &["--resume"]].concat()).refused(&["found another process at it"]);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success() && stderr.contains("go on with --resume"), "{stderr}");
    setup.tune(&out, &[&more[..], &["--resume"]].concat()).succeeded();
    assert!(adapter(&out) == adapter(&whole));
}

/// A disk that is full is played by a limit on the size of files.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_older_checkpoint() {
    let setup = set_up("Q8_0");
    let (whole, out) = (setup.files.path("whole"), setup.files.path("out"));
    let more = ["--set", "save_every=2", "--set", "eval_every=1000"];
    setup.tune(&whole, &[&more[..], &["--set", "steps=8"]].concat()).succeeded();
    setup.tune(&out, &[&more[..], &["--set", "steps=8"]].concat()).succeeded();
    // Back to the middle of the run: what came behind is gone.
    std::fs::remove_dir_all(out.join("checkpoints/step-00000008")).unwrap();
    let mut shell = std::process::Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    shell.args(["-c", script, env!("CARGO_BIN_EXE_puna")]).args(setup.args(&out, &["--resume"]));
    let failed = model::run(&mut shell, b"");
    assert_eq!(failed.code, Some(2), "{failed}");
    let message = failed.stderr.lines().last().unwrap();
    assert!(message.starts_with("error: ") && message.contains("state.bin: File too large"), "{failed}");
    assert!(out.join("checkpoints/step-00000006").is_dir());
    setup.tune(&out, &["--resume"]).succeeded();
    assert!(adapter(&out) == adapter(&whole));
}

#[test]
fn all_weights_are_learned() {
    let setup = set_up("F32");
    let data = setup.files.write("learned.txt", "one two three four ".repeat(6));
    let setup = Setup { data, ..setup };
    let out = setup.files.path("full");
    let more = ["--set", "method=full", "--set", "steps=10", "--set", "lr=3e-3", "--save-as", "Q8_0", "--json"];
    let ended = setup.tune(&out, &more).json();
    let losses = losses(&out);
    assert!(losses[9] < 0.8 * losses[0], "{losses:?}");
    let model = out.join("model/model.gguf");
    assert_eq!(ended["output"], text(&model));
    // The model has what was learned, and its format.
    let (before, after) = (perplexity(&setup, &setup.model), perplexity(&setup, &model));
    assert!(after < 0.8 * before, "{before} {after}");
    let listed = puna(&["inspect", text(&model), "--json"]).succeeded();
    assert!(listed.stdout.contains("Q8_0"), "{listed}");
    // A model that is derived from Llama is called so; that is known before anything is learned.
    let other = setup.files.path("other");
    let licence = [&more[..], &["--licence", "llama3.1"]].concat();
    setup.tune(&other, &licence).refused(&["--name: expected a name that begins with `Llama", "found `other`"]);
    assert!(!other.join("log.jsonl").exists());
    // A directory becomes a directory.
    let model = setup.files.model("hf", "BF16");
    let out = setup.files.path("full-hf");
    let args = ["tune", "run", "-m", text(&model), "-d", text(&setup.data), "-o", text(&out), "--set", "length=128"];
    let more = ["--set", "method=full", "--set", "steps=2", "--licence", "none"];
    puna(&[&args[..], &more].concat()).succeeded();
    assert!(out.join("model/config.json").is_file() && out.join("model/tokenizer.json").is_file());
    assert!(perplexity(&setup, &out.join("model")) > 1.0);
}

fn perplexity(setup: &Setup, model: &Path) -> f64 {
    let args = ["score", text(model), "--text-file", text(&setup.data), "--context", "32", "--json"];
    let score = puna(&args).json();
    score["perplexity"].as_f64().unwrap_or_else(|| panic!("{score}"))
}

#[test]
fn models_begin_from_nothing() {
    let files = Files::new();
    let texts = files.write("texts.txt", "the puna is high and the grass is dry. ".repeat(200));
    let rows = (0..64).map(|_| format!("{}\n", json!({"text": "the puna is high and the grass is dry."})));
    let data = files.write("rows.jsonl", rows.collect::<String>());
    let (tokenizer, sizes, out) = (files.path("tokenizer.model"), files.write("tiny.json", SIZES), files.path("out"));
    puna(&["tokenizer", "train", text(&texts), "-o", text(&tokenizer), "--vocab-size", "540"]).succeeded();
    let args = ["tune", "run", "--init", text(&sizes), "--tokenizer", text(&tokenizer), "-d", text(&data)];
    let more = ["-o", text(&out), "--set", "steps=30", "--set", "batch=4", "--set", "lr=1e-2", "--threads", "2"];
    puna(&[&args[..], &more].concat()).succeeded();
    let losses = losses(&out);
    // At first it knows nothing: every token is as likely as any other.
    assert!((losses[0] - 540f64.ln()).abs() < 0.3, "{losses:?}");
    assert!(losses[29] < 0.5, "{losses:?}");
    let model = out.join("model/model.gguf");
    let answer = puna(&["run", text(&model), "--raw", "the puna", "--temperature", "0", "--max-tokens", "20"]);
    assert_eq!(answer.succeeded().stdout, " is high and the grass is dry.\n");
    let refused = puna(&[&args[..], &["-o", text(&files.path("lora")), "--set", "method=lora"]].concat());
    refused.refused(&["method: expected full", "found lora"]);

    // Where only what somebody signed is opened, a run begins with random numbers of its own all the same.
    let trusted = files.directory("home").join("trusted");
    std::fs::create_dir(&trusted).unwrap();
    puna(&["sign", "--new-key", text(&files.path("key"))]).succeeded();
    std::fs::copy(files.path("key.pub"), trusted.join("key.pub")).unwrap();
    let kept = |args: &[&str]| model::run(binary().args(args).env("PUNA_HOME", files.path("home")), b"");
    let out = files.path("signed");
    kept(&[&args[..], &["-o", text(&out), "--set", "steps=1", "--set", "batch=4"]].concat()).succeeded();
    kept(&["inspect", text(&out.join("model/model.gguf"))]).refused(&["not opened"]);
}

/// A model of one layer.
const SIZES: &str = r#"{"dim": 64, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 96, "context_length": 256,
  "tied_embeddings": true}"#;

#[test]
fn preferences_are_learned() {
    let setup = set_up("Q8_0");
    let pair = |i: usize| {
        let prompt = format!("{i} ?");
        format!("{}\n", json!({"prompt": prompt, "chosen": "yes, it is", "rejected": "no"}))
    };
    let data = setup.files.write("pairs.jsonl", (0..12).map(pair).collect::<String>());
    let out = setup.files.path("out");
    let args = ["tune", "run", "-m", text(&setup.model), "-d", text(&data), "-o", text(&out)];
    let more =
        ["--set", "length=128", "--set", "batch=4", "--set", "steps=8", "--set", "lr=1e-2", "--set", "valid=0.2"];
    puna(&[&args[..], &more].concat()).succeeded();
    let losses = losses(&out);
    assert!((losses[0] - std::f64::consts::LN_2).abs() < 1e-6, "like the reference at first: {losses:?}");
    assert!(losses[7] < 0.5 * losses[0], "{losses:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let setup = set_up("Q8_0");
    let out = setup.files.path("out");
    setup.tune(&out, &["--set", "rank=0"]).refused(&["rank: expected 1 to 4096, found 0"]);
    setup.tune(&out, &["--set", "rnk=4"]).refused(&["--set rnk=4", "rnk"]);
    setup.tune(&out, &["--set", "length=4096"]).refused(&["length: expected at most 512", "found 4096"]);
    setup.tune(&out, &["--set", "objective=dpo"]).refused(&["expected rows for dpo", "rows for sft"]);
    setup.tune(&out, &["--resume"]).refused(&["expected a run to go on with"]);
    setup.tune(&out, &["--set", "length=8"]).refused(&["data.jsonl:1", "8"]);
    setup.tune(&out, &["--set", "steps=2"]).succeeded();
    setup.tune(&out, &["--set", "steps=2"]).refused(&["expected a new directory, found a run", "--resume"]);
    setup.tune(&out, &["--resume", "--set", "rank=4"]).refused(&["rank: expected 16, as the run began, found 4"]);
    // Other rows.
    let data = std::fs::read_to_string(&setup.data).unwrap();
    std::fs::write(&setup.data, data.replace("three", "seven")).unwrap();
    setup.tune(&out, &["--resume"]).refused(&["expected a run on this data"]);
    std::fs::write(&setup.data, "{\"messages\": [").unwrap();
    setup.tune(&setup.files.path("other"), &[]).refused(&["data.jsonl:1"]);
}

#[test]
fn a_plan_adds_up() {
    let setup = set_up("Q8_0");
    let args = ["tune", "plan", "-m", text(&setup.model), "-d", text(&setup.data), "--set", "length=128"];
    let plan = puna(&[&args[..], &["--json"]].concat()).json();
    let items = plan["memory"].as_array().unwrap();
    let sum: u64 = items.iter().map(|item| item["bytes"].as_u64().unwrap()).sum();
    assert_eq!(plan["bytes"], sum);
    assert_eq!(plan["fits"], true);
    // Seven matrices of two layers, rank 16: q, k, v, o, gate, up, down of width 64 and 96.
    assert_eq!(plan["parameters"], 2 * 16 * ((64 + 64) + (64 + 32) + (64 + 32) + (64 + 64) + 3 * (64 + 96)));
    let shown = puna(&args).succeeded();
    for expected in ["memory, ", "moments of the optimizer", "in all", "it fits", "tokens/s", "--set recompute=\"on\""]
    {
        assert!(shown.stdout.contains(expected), "{expected}: {shown}");
    }
}
