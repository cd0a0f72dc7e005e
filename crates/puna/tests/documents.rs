//! Every command that the documents and the help texts show is run, on small random models of the names that they use.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::adapter::{self, Adapter, LowRank, Settings};
use puna_checkpoint::{LayerTensor, Name};
use puna_interpreter::{Error, Interpreter};
use puna_train::log;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

#[path = "../../vault/tests/fake/mod.rs"]
mod fake;

const PUNA: &str = env!("CARGO_BIN_EXE_puna");

/// Commands for developers, which start builds of their own; the continuous integration runs them, but for the peers and
/// cria's training, which take hours (the first steps of the latter are a test), and what measures a server that runs.
/// `.ci/clients` runs what needs its clients.
const ELSEWHERE: [&str; 9] = [
    "cargo test ",
    "PUNA_DISCONNECTS=10000 cargo test ",
    "cargo run --release -p puna-format --example throughput Q4_0",
    "taskset -c 0 cargo run ",
    ".ci/",
    "lm_eval run ",
    "cd bench/peers && cargo run ",
    "cria/retrain ",
    "python3 bench/serve/",
];

/// The sizes that stand in for any shape.
const SHAPE: &str = r#"{"dim": 256, "n_layers": 1, "n_heads": 4, "n_kv_heads": 1, "ffn_dim": 256, "vocab_size": 2048,
    "context_length": 131072}"#;

#[test]
fn commands_in_documents_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut documents = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    markdown(&root.join("docs"), &mut documents);
    let mut commands = Vec::new();
    for document in &documents {
        let text = fs::read_to_string(document).unwrap();
        let shown = text.lines().filter_map(|line| line.trim_start().strip_prefix("$ "));
        commands.extend(shown.map(|command| (document.display().to_string(), command.to_owned())));
    }
    commands.retain(|(_, command)| !ELSEWHERE.iter().any(|start| command.starts_with(start)));
    assert!(commands.len() > 20, "{commands:?}");
    run_all(&commands);
}

#[test]
fn commands_in_help_run() {
    let verbs = [
        "run",
        "serve",
        "batch",
        "score",
        "bench",
        "inspect",
        "tokenize",
        "tokenizer",
        "chat-format",
        "synth",
        "adapter",
        "tune",
        "key",
        "usage",
        "pull",
        "import",
        "list",
        "show",
        "sign",
        "verify",
        "diff",
        "keep",
        "rm",
        "gc",
        "upstream",
        "terms",
        "publish",
        "openness",
    ];
    let below = [
        "bench serve",
        "adapter inspect",
        "adapter convert",
        "adapter merge",
        "tune check",
        "tune show",
        "tune plan",
        "tune run",
        "tune log",
        "key new",
        "key list",
        "key revoke",
        "terms show",
        "terms accept",
        "terms diff",
        "terms export",
        "terms end",
    ];
    let help = |verb: &str| text(&Command::new(PUNA).arg("help").args(verb.split_whitespace()).output().unwrap());
    let listed = help("");
    let mut commands = Vec::new();
    for verb in verbs.iter().chain(&below) {
        let (above, name) = verb.rsplit_once(' ').unwrap_or(("", verb));
        assert!(help(above).contains(&format!("\n  {name} ")), "{verb}: {listed}");
        let help = help(verb);
        let (_, examples) = help.split_once("Examples:").unwrap_or_else(|| panic!("{verb}: no examples in {help}"));
        let shown =
            examples.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| line.starts_with("puna "));
        let before = commands.len();
        commands.extend(shown.map(|command| (format!("puna help {verb}"), command.to_owned())));
        assert!(commands.len() > before, "{verb}: {help}");
    }
    // A verb that is new is to be listed here.
    let n_listed = |listed: &str| {
        let (_, verbs) = listed.split_once("Commands:\n").unwrap();
        verbs.lines().take_while(|line| line.starts_with("  ")).count()
    };
    assert_eq!(n_listed(&listed), verbs.len() + 1, "the verbs and help itself: {listed}");
    for verb in ["bench", "adapter", "tune", "key", "terms"] {
        let n_below = below.iter().filter(|name| name.starts_with(verb)).count();
        assert_eq!(n_listed(&help(verb)), n_below + 1, "the same below {verb}");
    }
    run_all(&commands);
}

/// All Markdown files below a directory.
fn markdown(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
}

fn run_all(commands: &[(String, String)]) {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path());
    let (hub, elsewhere) = publishers(dir.path());
    for (place, command) in commands {
        // The real shapes take gigabytes; nothing else of a command is changed.
        let mut line = command.replace("cargo run --release --", "puna");
        for shape in ["llama-3.1-8b", "llama-3.1-405b", "llama-3.2-1b"] {
            line = line.replace(&format!("synth {shape}"), "synth shape.json");
        }
        // What is pulled comes from this test.
        for verb in ["puna pull", "puna upstream"] {
            line = line.replace(verb, &format!("HF_ENDPOINT={} {verb}", hub.hub.url("")));
        }
        line = line.replace("https://example.com", &elsewhere.url(""));
        // A run begins in a new directory; the same example may stand in two places.
        if let (true, Some((_, out))) =
            (line.contains("tune run") && !line.contains("--resume"), line.split_once(" -o "))
        {
            let out = dir.path().join(out.split_whitespace().next().unwrap());
            if out.exists() {
                fs::remove_dir_all(out).unwrap();
            }
        }
        // So do a batch and a plot with a new file.
        for out in ["answers.jsonl", "llama.jsonl", "load.svg"] {
            let out = dir.path().join(out);
            if !line.contains("--resume") && out.exists() {
                fs::remove_file(out).unwrap();
            }
        }
        if line.contains("--tool code_interpreter") {
            match Interpreter::start(Path::new(PUNA), Path::new("python3"), puna_interpreter::Limits::default()) {
                Err(error @ (Error::Python { .. } | Error::Unprotected { .. } | Error::System { .. })) => {
                    println!("SKIPPED, {error}: {command}");
                    continue;
                }
                started => drop(started.unwrap()),
            }
        }
        if line.starts_with("puna serve") {
            line = while_serving(&line, ":");
        } else if line.contains("--url http://127.0.0.1:8080") {
            line = while_serving("puna serve", &line.replace("127.0.0.1:8080", "$address"));
        } else if line.starts_with("curl ") {
            if Command::new("curl").arg("--version").output().is_err() {
                println!("SKIPPED, there is no curl: {command}");
                continue;
            }
            let asks = line.replace("curl ", "curl -sf ").replace("127.0.0.1:8080", "$address");
            line = while_serving("puna serve", &asks);
        }
        let output = sh(dir.path(), &line);
        assert!(output.status.success(), "{place}: {command}\n{}", text(&output));
    }
}

/// A server, on any free port, and what is done while it answers at `$address`.
fn while_serving(server: &str, line: &str) -> String {
    let server = server.replace("--port 8000", "");
    format!(
        "rm -f served; {server} --port 0 2> served & pid=$!; \
         for i in $(seq 600); do grep -q '^serving.*ends' served && break; sleep 0.1; done; \
         cat served; address=$(sed -n 's|^serving .* on https*://\\([^ ]*\\).*|\\1|p' served); [ -n \"$address\" ]; \
         {line}; kill $pid; wait $pid"
    )
}

/// A hub on which every repository is the same Llama, and a server with one GGUF file under all names.
fn publishers(dir: &Path) -> (fake::hub::Hub, fake::Server) {
    let base = dir.join("Llama-3.1-8B-Instruct");
    let mut files = Vec::new();
    for entry in fs::read_dir(&base).unwrap() {
        let path = entry.unwrap().path();
        files.push((path.file_name().unwrap().to_str().unwrap().to_owned(), Arc::new(fs::read(&path).unwrap())));
    }
    let files: Vec<(&str, Arc<Vec<u8>>)> = files.iter().map(|(name, body)| (name.as_str(), Arc::clone(body))).collect();
    let (gguf, licence) =
        (Arc::new(fs::read(dir.join("model.gguf")).unwrap()), fs::read(base.join("LICENSE")).unwrap());
    let elsewhere = fake::Server::start(move |ask| match ask.path.as_str() {
        "/LICENSE" => fake::Reply::new(200, licence.clone()),
        path if path.ends_with(".gguf") => fake::Reply::file(ask, &gguf),
        _ => fake::Reply::new(404, ""),
    });
    (fake::hub::Hub::start(&files), elsewhere)
}

/// A directory with all that the commands name.
fn prepare(dir: &Path) {
    fs::create_dir(dir.join("bin")).unwrap();
    std::os::unix::fs::symlink(PUNA, dir.join("bin/puna")).unwrap();
    fs::write(dir.join("shape.json"), SHAPE).unwrap();
    let ids: Vec<u32> = (0..200).map(|i| i * 7 % 1000).collect();
    fs::write(dir.join("ids.json"), serde_json::to_string(&ids).unwrap()).unwrap();
    fs::write(dir.join("prompt.json"), "[1, 2, 3]").unwrap();
    fs::write(dir.join("chat.json"), r#"[{"role": "user", "content": "Hello <|eot_id|>"}]"#).unwrap();
    let person = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "born": {"type": "integer",
        "minimum": 1, "maximum": 2100}}, "required": ["name", "born"], "additionalProperties": false}"#;
    fs::write(dir.join("person.json"), person).unwrap();
    fs::write(dir.join("date.lark"), "start: DAY \" \" MONTH\nDAY: /[1-9]|[12][0-9]/\nMONTH: \"May\" | \"June\"\n")
        .unwrap();
    fs::write(dir.join("question.txt"), "Why?").unwrap();
    fs::write(dir.join("letter.txt"), "Dear reader,\n").unwrap();
    fs::write(dir.join("wiki.test.raw"), "All work and no play makes Jack a dull boy. ".repeat(100)).unwrap();
    fs::write(dir.join("tokenizer.model"), tiktoken()).unwrap();
    for name in ["cert.pem", "key.pem"] {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name), dir.join(name)).unwrap();
    }
    for name in ["root.pem", "between.pem", "signer.pem", "signer.key"] {
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/signing").join(name), dir.join(name)).unwrap();
    }
    fs::create_dir(dir.join("books")).unwrap();
    fs::write(dir.join("books/first.txt"), "It was a dark and stormy night. ".repeat(9)).unwrap();
    fs::write(dir.join("books/second.md"), "# The second\n\nIt was a bright day.\n").unwrap();
    fs::write(dir.join("chats.jsonl"), r#"{"messages": [{"role": "user", "content": "It was, was it?"}]}"#).unwrap();
    let chat = r#"{"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Why not."}]}"#;
    fs::write(dir.join("data.jsonl"), format!("{chat}\n")).unwrap();
    let request = r#"{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
        "body": {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 3}}"#;
    fs::write(dir.join("requests.jsonl"), request.replace('\n', " ")).unwrap();
    let pair = r#"{"prompt": "1 + 2 =", "chosen": " 3", "rejected": " 12"}"#;
    fs::write(dir.join("pairs.jsonl"), format!("{pair}\n")).unwrap();
    fs::write(dir.join("tune.toml"), "rank = 4\n").unwrap();
    fs::write(dir.join("sizes.json"), r#"{"dim": 64, "n_layers": 1, "n_heads": 2, "ffn_dim": 96}"#).unwrap();
    fs::create_dir(dir.join("corpus")).unwrap();
    fs::write(dir.join("corpus/texts.txt"), "It was a dark and stormy night. ".repeat(9)).unwrap();
    fs::create_dir(dir.join("data")).unwrap();
    fs::write(dir.join("data/train.jsonl"), format!("{chat}\n")).unwrap();
    fs::write(dir.join("data/valid.jsonl"), format!("{chat}\n")).unwrap();
    for (format, output) in [
        ("Q8_0", "model.gguf"),
        ("Q8_0", "Llama-3.1-8B-Instruct-Q8_0.gguf"),
        ("BF16", "Llama-3.1-8B"),
        ("BF16", "Llama-3.1-8B-Instruct"),
        ("BF16", "Llama-3.1-8B-Bard"),
        ("BF16", "Llama-3.2-1B-Instruct"),
        ("BF16", "model"),
    ] {
        let output = sh(dir, &format!("puna synth shape.json --format {format} -o {output}"));
        assert!(output.status.success(), "{}", text(&output));
    }
    // Only its title is anything like the licence's.
    let licence = format!("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n\n{}", "You may do what you like. ".repeat(40));
    fs::write(dir.join("Llama-3.1-8B-Instruct/LICENSE"), licence).unwrap();
    adapters(dir);
    // For servers that want one to be there.
    let output = sh(dir, "puna key new --name everyday");
    assert!(output.status.success(), "{}", text(&output));
    fs::create_dir(dir.join("my-run")).unwrap();
    tuning_log(&dir.join("my-run").join(log::FILE_NAME));
}

/// The log of a run of three steps.
fn tuning_log(path: &Path) {
    let mut writer = log::Writer::create(path).unwrap();
    let start = r#"{"event": "start", "time": 1795840000, "version": "0.1.0", "model": "Llama-3.1-8B-Instruct",
        "data": "data.jsonl", "method": "lora", "objective": "sft", "steps": 3, "sequences": 1, "tokens": 40,
        "trained_parameters": 1024, "threads": 2, "device": "CPU"}"#;
    writer.write(&serde_json::from_str(start).unwrap()).unwrap();
    for step in 1..=3 {
        let step = format!(
            r#"{{"event": "step", "step": {step}, "loss": {}, "gradient_norm": 1, "lr": 1e-4, "tokens": 40,
                "labels": 5, "seconds": 0.5, "changed": true}}"#,
            3 - step
        );
        writer.write(&serde_json::from_str(&step).unwrap()).unwrap();
    }
}

/// An adapter in both forms, of rank 1 on q.
fn adapters(dir: &Path) {
    let config = puna_checkpoint::open(&dir.join("Llama-3.1-8B-Instruct")).unwrap().config;
    let name = Name::Layer { layer: 0, tensor: LayerTensor::Query };
    let (rows, cols) = config.shape(name);
    let matrix = LowRank { rank: 1, alpha: 2.0, a: vec![0.1; cols], b: vec![0.2; rows] };
    let settings = Settings { base_name: Some("Llama-3.1-8B-Instruct".into()), ..Settings::default() };
    let matrices = [(name, matrix)].into();
    let adapter = Adapter { settings, pairing: config.rope.pairing, matrices };
    adapter::write_peft(&adapter, &dir.join("my-adapter"), &config).unwrap();
    adapter::write_gguf(&adapter, &dir.join("my-adapter.gguf"), &config).unwrap();
}

/// The smallest vocabulary in the form of Meta's `tokenizer.model`: every byte a token.
fn tiktoken() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let line = |byte: u8| {
        let digits = [DIGITS[usize::from(byte >> 2)], DIGITS[usize::from(byte << 6 >> 2)]];
        format!("{}== {byte}\n", String::from_utf8_lossy(&digits))
    };
    (0..=u8::MAX).map(line).collect()
}

/// Runs a line of shell in `dir`, with one question on standard input.
fn sh(dir: &Path, line: &str) -> Output {
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let script = format!("printf 'Hello' | {{ {line}; }}");
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]).current_dir(dir).env("PATH", path).env("PUNA_HOME", dir.join("home"));
    shell.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
