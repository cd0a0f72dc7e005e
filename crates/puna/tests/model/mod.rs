//! Tiny models, written by `puna synth`, and runs of `puna` that end within a deadline.

#![allow(dead_code, clippy::unwrap_used, reason = "each test binary uses a part; tests may unwrap")]

use serde_json::Value;
use std::fmt::Display;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Heads of 32 values, so that every KV format fits; a context that is soon full.
pub const SHAPE: &str = r#"{"dim": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "ffn_dim": 96, "vocab_size": 1024,
  "context_length": 512}"#;
pub const VOCAB: u32 = 1024;
pub const CONTEXT: usize = 512;
/// Tokens below are text, the 256 from here on special, in Llama 3.1's order.
pub const SPECIALS: u32 = VOCAB - 256;

/// What a model is told to be today, where its answer is compared: prompts have the date in them.
pub const DATE: &str = "23 Nov 2026";

/// Longer than anything here takes, however busy the machine.
const DEADLINE: Duration = Duration::from_secs(600);

/// A directory of files, gone with the test.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and says where.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// A new directory.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    /// A model of [`SHAPE`]: a GGUF file if the name ends so, else a Hugging Face directory.
    pub fn model(&self, name: &str, format: &str) -> PathBuf {
        self.model_of(SHAPE, name, format)
    }

    pub fn model_of(&self, shape: &str, name: &str, format: &str) -> PathBuf {
        let (shape, out) = (self.write("shape.json", shape), self.path(name));
        puna(&["synth", text(&shape), "--format", format, "-o", text(&out)]).succeeded();
        out
    }
}

/// A terminal: what whoever sits there sees and types, and the end that a program is given.
#[cfg(unix)]
pub fn terminal() -> (fs::File, std::os::fd::OwnedFd) {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&screen).unwrap();
    unlockpt(&screen).unwrap();
    let name = ptsname(&screen, Vec::new()).unwrap();
    let end = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (screen.into(), end)
}

/// A text of which only the title is anything like the licence's.
pub fn licence(words: &str) -> String {
    format!("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n\n{}", format!("{words}\n").repeat(40))
}

/// Changes one bit of a file that is not to be changed.
#[cfg(unix)]
pub fn flip(path: &Path, at: usize) {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
}

/// Where `puna list --json` says that a model lies.
pub fn kept_dir(listed: &Value, name: &str) -> PathBuf {
    let model = listed["models"].as_array().unwrap().iter().find(|model| model["name"] == name);
    model.unwrap_or_else(|| panic!("{name}: {listed}"))["dir"].as_str().unwrap().into()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a run of `puna` left behind.
pub struct Run {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `puna` with nothing on standard input.
pub fn puna(args: &[&str]) -> Run {
    run(binary().args(args), b"")
}

/// The program, not started yet.
pub fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_puna"))
}

/// Runs a command on this standard input; kills it and fails when it takes longer than anything should.
pub fn run(command: &mut Command, input: &[u8]) -> Run {
    let name = format!("{command:?}");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("puna starts");
    let mut stdin = child.stdin.take().unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    std::thread::scope(|scope| {
        // It may end without reading; that is its right.
        scope.spawn(move || drop(stdin.write_all(input)));
        let (stdout, stderr) = (scope.spawn(|| read(stdout)), scope.spawn(|| read(stderr)));
        let code = wait(&mut child, &name);
        Run { command: name, code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    })
}

fn read(mut pipe: impl Read) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).expect("what puna says is UTF-8");
    text
}

/// The exit code; none after a signal.
pub fn wait(child: &mut Child, name: &str) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if start.elapsed() > DEADLINE {
            child.kill().unwrap();
            panic!("{name}: still running after {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Run { command, code, stdout, stderr } = self;
        write!(f, "{command}\nexit code {code:?}\nstandard output: {stdout}\nstandard error: {stderr}")
    }
}

impl Run {
    /// Exit code 0.
    #[track_caller]
    pub fn succeeded(self) -> Run {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// The one JSON object on standard output, after exit code 0.
    #[track_caller]
    pub fn json(self) -> Value {
        let run = self.succeeded();
        assert_eq!(run.stdout.lines().count(), 1, "{run}");
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"))
    }

    /// Bad input: exit code 2, nothing on standard output, and one line that says all of `expected`.
    #[track_caller]
    pub fn refused(self, expected: &[&str]) {
        assert_eq!(self.code, Some(2), "{self}");
        assert_eq!(self.stdout, "", "{self}");
        let message = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no whole line: {self}"));
        assert!(message.starts_with("error: ") && !message.contains('\n'), "one line expected: {self}");
        for expected in expected {
            assert!(message.contains(expected), "expected `{expected}`: {self}");
        }
    }

    /// What was looked at is not as it should be: that is told, and what was found beside it.
    #[track_caller]
    pub fn failed(self, expected: &[&str]) -> Run {
        assert_eq!(self.code, Some(2), "{self}");
        for expected in expected {
            assert!(self.stderr.contains(expected), "expected `{expected}`: {self}");
        }
        self
    }

    /// A command line that can't be parsed: exit code 2, nothing on standard output, and clap's own message.
    #[track_caller]
    pub fn misused(self, expected: &[&str]) {
        assert_eq!(self.code, Some(2), "{self}");
        assert_eq!(self.stdout, "", "{self}");
        assert!(self.stderr.starts_with("error: ") && self.stderr.contains("--help"), "{self}");
        for expected in expected {
            assert!(self.stderr.contains(expected), "expected `{expected}`: {self}");
        }
    }
}
