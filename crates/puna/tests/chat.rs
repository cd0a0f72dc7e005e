//! The interactive chat, typed into a pseudo-terminal.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, SHAPE, SPECIALS, binary, text, wait};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(600);
/// The line editor clears the line, then shows this. No answer can spell the escape character.
const PROMPT: &str = "\u{1b}[K>>> ";

/// A terminal with `puna` in it.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    /// All that was shown.
    shown: Vec<u8>,
    /// So much of it was looked at.
    read: usize,
}

impl Terminal {
    /// Starts `puna run MODEL` with these arguments; what it remembers is kept beside the model.
    fn new(files: &Files, model: &Path, args: &[&str]) -> Terminal {
        let fixed = ["run", text(model), "--temperature", "0", "--seed", "1", "--threads", "1"];
        Terminal::of(files, &[&fixed, args].concat())
    }

    /// Starts `puna` with these arguments.
    fn of(files: &Files, args: &[&str]) -> Terminal {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap();
        let screen = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let stdio = || Stdio::from(screen.try_clone().unwrap());
        let child = binary()
            .args(args)
            .env("TERM", "xterm")
            .env("HOME", files.path("home"))
            .env("XDG_STATE_HOME", files.path("state"))
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let keyboard = File::from(keyboard);
        let mut master = keyboard.try_clone().unwrap();
        let (send, receive) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // When the last program has left the terminal, Linux reports an error, others an end.
            while let Ok(n @ 1..) = master.read(&mut bytes) {
                if send.send(bytes[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, keyboard, screen: receive, shown: Vec::new(), read: 0 }
    }

    /// Reads on; false at the end.
    fn more(&mut self, start: Instant, awaited: &str) -> bool {
        let left = DEADLINE.saturating_sub(start.elapsed());
        match self.screen.recv_timeout(left) {
            Ok(bytes) => {
                self.shown.extend(bytes);
                true
            }
            Err(_) if left.is_zero() => self.fail(&format!("{awaited}: not shown in {DEADLINE:?}")),
            Err(_) => false,
        }
    }

    fn fail(&mut self, why: &str) -> ! {
        let _ = self.child.kill();
        panic!("{why}; the terminal showed:\n{}", String::from_utf8_lossy(&self.shown).escape_debug());
    }

    /// Waits for a text; what is shown up to there.
    fn until(&mut self, awaited: &str) -> String {
        let start = Instant::now();
        loop {
            let unread = &self.shown[self.read..];
            if let Some(at) = unread.windows(awaited.len()).position(|window| window == awaited.as_bytes()) {
                let until = String::from_utf8_lossy(&unread[..at]).into_owned();
                self.read += at + awaited.len();
                return until;
            }
            if !self.more(start, awaited) {
                self.fail(&format!("{awaited}: not shown before the end"));
            }
        }
    }

    /// Waits for so many more bytes.
    fn until_bytes(&mut self, n: usize) {
        let start = Instant::now();
        while self.shown.len() < self.read + n {
            if !self.more(start, "more text") {
                self.fail("the end came first");
            }
        }
        self.read += n;
    }

    /// Types a line, and waits until it is taken.
    fn enter(&mut self, line: &str) {
        self.keyboard.write_all(format!("{line}\r").as_bytes()).unwrap();
        self.until("\n");
    }

    /// Types a line, and waits for the next prompt; what is shown before that.
    fn say(&mut self, line: &str) -> String {
        self.enter(line);
        self.until(PROMPT)
    }

    #[track_caller]
    fn replies(&mut self, line: &str, expected: &[&str]) {
        let reply = self.say(line);
        for expected in expected {
            assert!(reply.contains(expected), "expected `{expected}` after `{line}`, found `{}`", reply.escape_debug());
        }
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// The conversation, by way of `/save`.
    fn messages(&mut self, files: &Files) -> Vec<[String; 2]> {
        let file = files.path("saved.json");
        // Not that of the last time.
        let _ = fs::remove_file(&file);
        self.say(&format!("/save {}", text(&file)));
        let saved: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        saved["messages"].as_array().unwrap().iter().map(|m| [text(&m["role"]), text(&m["content"])]).collect()
    }

    /// Waits for the program's end; all that was shown.
    fn end(mut self) -> String {
        let start = Instant::now();
        while self.more(start, "the end") {}
        assert_eq!(wait(&mut self.child, "the chat"), Some(0));
        String::from_utf8_lossy(&self.shown).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Without a model it is the one in the program, which says who it is.
#[test]
fn the_model_in_the_program() {
    let files = Files::new();
    let mut terminal = Terminal::of(&files, &["run", "--temperature", "0", "--max-tokens", "5", "--threads", "1"]);
    let greeting = terminal.until(PROMPT);
    for expected in ["cria: puna's own toy model", "open source", "puna run MODEL"] {
        assert!(greeting.contains(expected), "{greeting}");
    }
    terminal.say("Hello");
    assert_eq!(terminal.messages(&files).len(), 2);
    terminal.enter("/exit");
    terminal.end();
    let mut terminal = Terminal::new(&files, &files.model("m.gguf", "Q8_0"), &[]);
    let greeting = terminal.until(PROMPT);
    assert!(!greeting.contains("cria"), "{greeting}");
    terminal.enter("/exit");
    terminal.end();
}

#[test]
fn a_conversation() {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    let mut chat = Terminal::new(&files, &model, &["--ignore-eos", "--max-tokens", "8"]);
    chat.until("context 512 tokens · chat format: Llama 3.1's");
    chat.until(PROMPT);
    chat.replies(
        "Hello",
        &[
            "8 tokens, ",
            " tokens/s · ",
            " GB/s, ",
            " % of what this memory gives · context ",
            "cut off: the limit of tokens",
        ],
    );
    chat.replies("/show", &["temperature 0 · ", "seed 1 · max_tokens 8", "2 messages · context ", "of 512 tokens"]);

    chat.say("/set max_tokens 5");
    chat.replies("/set temperature 200", &["error: temperature: expected 0 to 100, found 200"]);
    chat.replies("/set temperature hot", &["error: /set temperature: expected a number, found \"hot\""]);
    chat.replies("/set colour red", &["error: /set: expected a setting, found \"colour\"; /help lists them"]);
    chat.replies("/show", &["temperature 0 · ", "max_tokens 5"]);
    chat.replies("And you?", &["5 tokens, "]);
    let two = chat.messages(&files);
    assert_eq!(two.iter().map(|[role, _]| role.as_str()).collect::<Vec<_>>(), ["user", "assistant"].repeat(2));
    assert_eq!((two[0][1].as_str(), two[2][1].as_str()), ("Hello", "And you?"));
    chat.replies("/retry", &["5 tokens, "]);
    assert_eq!(chat.messages(&files), two, "the most probable answer is the same again");
    chat.say("/undo");
    assert_eq!(chat.messages(&files), two[..2]);

    let kept = files.path("kept.json");
    fs::copy(files.path("saved.json"), &kept).unwrap();
    chat.say("/reset");
    chat.replies("/show", &["0 messages · context 0 of 512"]);
    chat.replies("/undo", &["error: /undo: expected a message to take back, found none yet"]);
    chat.replies("/retry", &["error: /retry: expected a message to answer, found none yet"]);
    chat.replies(&format!("/load {}", text(&kept)), &["2 messages"]);
    assert_eq!(chat.messages(&files), two[..2]);
    chat.replies("/load", &["error: /load: expected a file, found nothing"]);
    chat.replies("/load none.json", &["error: none.json: "]);
    assert_eq!(chat.messages(&files), two[..2]);

    chat.replies("/system", &["no instructions"]);
    chat.say("/system Answer in verse.");
    chat.replies("/system", &["Answer in verse."]);
    chat.say("/reset");
    chat.enter("\"\"\"One");
    chat.until("... ");
    chat.enter("two");
    chat.until("... ");
    chat.replies("three\"\"\"", &["5 tokens, "]);
    let messages = chat.messages(&files);
    assert_eq!(
        messages[..2],
        [["system", "Answer in verse."], ["user", "One\ntwo\nthree"]].map(|m| m.map(String::from))
    );
    assert_eq!(messages.len(), 3);

    chat.replies("/nonsense", &["error: /nonsense: expected a command, found none of that name; /help lists them"]);
    chat.replies("/help", &["/system [TEXT]", "/save FILE", "Ctrl-C stops an answer"]);
    // A digit is a token. The line wraps, so the line editor's own output has many lines.
    chat.enter(&"7".repeat(500));
    chat.until("error: the prompt has ");
    chat.until("expected at most 512, the context");
    chat.until(PROMPT);
    assert_eq!(chat.messages(&files), messages, "what can't be answered is taken back");
    // Ctrl-C where nothing is to be stopped, and Ctrl-D.
    chat.keyboard.write_all(b"\x03").unwrap();
    chat.until("Ctrl-D or /exit to leave");
    chat.until(PROMPT);
    chat.keyboard.write_all(b"\x04").unwrap();
    let shown = chat.end();
    assert!(!shown.contains("panicked"), "{shown}");

    let history = files.path("state").join("puna").join("history");
    let lines = fs::read_to_string(&history).unwrap();
    for line in ["Hello", "/set max_tokens 5", "And you?", "three\"\"\"", "/help"] {
        assert!(lines.lines().any(|l| l == line), "{line}: {lines}");
    }
    assert_eq!(fs::metadata(history).unwrap().permissions().mode() & 0o077, 0, "nobody else's business");
}

#[test]
fn an_interrupt_ends_the_answer_and_keeps_the_chat() {
    let files = Files::new();
    let model = files.model_of(&SHAPE.replace("512", "65536"), "m.gguf", "F16");
    let mut chat = Terminal::new(&files, &model, &["--ignore-eos"]);
    chat.until(PROMPT);
    chat.enter("Hello");
    // More than the progress bar before it takes: the answer has begun, and would have 65,000 tokens.
    chat.until_bytes(4000);
    chat.interrupt();
    chat.until(" · stopped");
    chat.until(PROMPT);
    let messages = chat.messages(&files);
    assert_eq!(messages.len(), 2, "what was said so far stays");
    assert!(messages[1][1].len() > 500, "{messages:?}");
    chat.say("/reset");
    chat.say("/set max_tokens 5");
    let reply = chat.say("Hello again");
    assert!(reply.contains("5 tokens, ") && !reply.contains("stopped"), "{reply}");
    chat.enter("/exit");
    chat.end();
}

#[test]
fn an_interrupt_ends_an_answer_that_shows_nothing() {
    let files = Files::new();
    let model = files.model_of(&SHAPE.replace("512", "65536"), "m.gguf", "F16");
    // A reserved token without end: no text.
    let bias = format!("{}=1000", SPECIALS + 100);
    let mut chat = Terminal::new(&files, &model, &["--logit-bias", &bias]);
    chat.until(PROMPT);
    chat.enter("Hello");
    chat.until("prompt ");
    chat.interrupt();
    chat.until(" · stopped");
    chat.until(PROMPT);
    chat.keyboard.write_all(b"\x04").unwrap();
    chat.end();
}

#[test]
fn answers_do_not_command_the_terminal() {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    // The tokens of printable bytes come first, then those of the others in order.
    let bias = format!("{}=1000", 94 + 12 + 82 + 0x1b);
    let terminal = Terminal::new(&files, &model, &["Hello", "--max-tokens", "3", "--logit-bias", &bias]);
    let shown = terminal.end();
    assert!(shown.contains("␛␛␛\r\n"), "{}", shown.escape_debug());
    assert!(!shown.contains("\u{1b}\u{1b}"));
}

/// Whichever verb loads a model; where standard error is no terminal, other tests see that nothing is shown.
#[test]
fn loading_shows_its_bytes() {
    let files = Files::new();
    let model = files.model("m.gguf", "Q8_0");
    let ids = files.write("ids.json", "[1, 2, 3]");
    let model = text(&model);
    for args in [
        &["run", model, "Hello", "--max-tokens", "1"][..],
        &["score", model, "--ids-file", text(&ids)],
        &["bench", model, "-p", "1", "-n", "1", "--repeats", "1"],
        &["bench", model, "--lookup", "-p", "4", "-n", "4", "--repeats", "1"],
    ] {
        let mut terminal = Terminal::of(&files, args);
        terminal.until("loading ");
        // Of 200 KiB in all, before the first tensor was taken.
        let bar = terminal.until(" KiB ");
        assert!(bar.contains(" 0 B/2"), "{args:?}: {bar}");
        terminal.end();
    }
}
