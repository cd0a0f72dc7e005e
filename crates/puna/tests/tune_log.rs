//! `puna tune log`: logs of runs that went well, badly, or not at all; in the terminal, as JSON, as a page.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, Run, puna, text};
#[cfg(unix)]
use model::{binary, terminal, wait};
use puna_train::log::{Checkpoint, End, FILE_NAME, Outcome, Record, Resume, Start, Step, Valid, Warning, Writer};
use puna_train::{Method, Objective};
#[cfg(unix)]
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
#[cfg(unix)]
use std::{io::Read, process::Stdio};

fn start(objective: Objective) -> Record {
    Record::Start(Start {
        time: 1_795_840_000.0,
        version: "0.1.0".to_owned(),
        model: "models/tiny.gguf".to_owned(),
        data: "data.jsonl".to_owned(),
        method: Method::Lora,
        objective,
        steps: 120,
        epochs: Some(3.0),
        sequences: 160,
        tokens: 20_480,
        trained_parameters: 5_120,
        threads: 2,
        device: "CPU, AVX2, 2 threads".to_owned(),
    })
}

/// A step of a run that learns, with some noise.
fn step(step: u64) -> Step {
    let noise = [0.2, -0.1, 0.0, -0.25, 0.15][step as usize % 5];
    Step {
        step,
        loss: 1.0 + 2.0 * 0.97f64.powf(step as f64) + noise,
        gradient_norm: 0.5 + noise,
        lr: 1e-4,
        tokens: 512,
        labels: 100,
        seconds: 0.5,
        changed: true,
        margin: None,
        accuracy: None,
    }
}

fn nan(at: u64) -> Record {
    Record::Step(Step { loss: f64::NAN, changed: false, ..step(at) })
}

fn valid(step: u64, loss: f64, best: bool) -> Record {
    Record::Valid(Valid { step, loss, labels: 50, best, accuracy: None })
}

fn end(step: u64, end: Outcome) -> Record {
    Record::End(End { step, end, seconds: 75.0, loss: None })
}

/// A run of 120 steps with four validations.
fn whole() -> Vec<Record> {
    let mut records = vec![start(Objective::Sft)];
    for at in 1..=120 {
        records.push(Record::Step(step(at)));
        match at {
            30 => records.push(valid(30, 2.0, true)),
            60 => records.push(valid(60, 1.5, true)),
            90 => records.push(valid(90, 1.4, true)),
            120 => records.push(valid(120, 1.45, false)),
            _ => {}
        }
    }
    records.push(Record::Checkpoint(Checkpoint { step: 120, path: "checkpoint-120".to_owned() }));
    records.push(end(120, Outcome::Done));
    records
}

/// Writes the log of a run into a directory of this name, and shows it.
fn shown(files: &Files, name: &str, records: &[Record], args: &[&str]) -> Run {
    let dir = files.directory(name);
    let mut writer = Writer::create(&dir.join(FILE_NAME)).unwrap();
    records.iter().for_each(|record| writer.write(record).unwrap());
    show(&dir, args)
}

fn show(run: &Path, args: &[&str]) -> Run {
    puna(&[&["tune", "log", text(run)], args].concat())
}

#[test]
fn the_terminal_shows_a_run() {
    let files = Files::new();
    let run = shown(&files, "run", &whole(), &[]).succeeded();
    let expected = SHOWN.trim_start_matches('\n').replace("RUN", text(&files.path("run")));
    assert_eq!(run.stdout, expected, "{run}");
    assert_eq!(run.stderr, "");
    assert!(run.stdout.lines().skip(1).all(|line| line.chars().count() <= 80), "{run}");
    // The log itself is as good as its directory.
    let again = show(&files.path("run").join(FILE_NAME), &[]).succeeded();
    assert_eq!(again.stdout.split_once('\n').unwrap().1, expected.split_once('\n').unwrap().1);
}

const SHOWN: &str = "
RUN · finished
model       models/tiny.gguf
data        data.jsonl · 160 sequences and 20,480 tokens an epoch
training    LoRA, SFT · 5,120 parameters trained
device      CPU, AVX2, 2 threads
started     28 Nov 2026 (UTC) with puna 0.1.0
progress    step 120 of 120 · epoch 3.00 of 3
speed       1,024 tokens/s · 61,440 tokens so far
time        1 min 0 s in steps · 1 min 15 s in all
loss        1.0880 · mean over about 10 steps
validation  1.4500 after step 120 · the best was 1.4000 after step 90

     │⢀⡀·⡀
     │ ⠈⠊⠘⠒⣄⡀
 2.5 ┤  ····⠈⠒⣄⡀
     │     ····⠈⠑⣄⣀
     │     ·· · ···⠑⣄⣀
     │        · ·· ···⠑⠤⢄⡀
 2.0 ┤           · ·· · ○⠈⠢⠤⣀
     │              · ·  ·   ⠉⠒⠢⣀⣀
     │                 · ·  ·  · ·⠉⠱⠤⢄⡀·
 1.5 ┤                    ·  · ·  ··  ⠈⠉⠉⠢⠒○⢄⣀⣀ ··  ·  ·     ●                 ○
     │                          ·  · ·· ·· ·· ·⠑⠊⠑⠢⠤⠢⢄⣀⢄⡀⢀⡀ ·· ·· ·· ··  ·  ·  ·
     │                                ·  ·  · ·· ·· ····⠈⠁⠈⠉⠉⠉⠉⠒⠑⠒⠔⠒⠒⠤⠔⠤⣀⠤⠤⣀⡠⢄⣀⡠
 1.0 ┤                                      ·  ·  ·   ·  ·  ·· · ·· ·· ·  ·  ·
     │                                                         ·  ·  ·  ·  ·  ·
     └┬───────────┬───────────┬────────────┬───────────┬───────────┬───────────┬
step  0          20          40           60          80          100        120
      ⠒⠒ training loss, mean over about 10 steps   ·· single steps
      ○ validation   ● the best

validation
  after step        loss
          30      2.0000
          60      1.5000
          90      1.4000  ● the best
         120      1.4500
";

/// What a terminal of so many columns is sent.
#[cfg(unix)]
fn on_terminal(run: &Path, columns: u16, no_color: &str) -> String {
    let (mut screen, output) = terminal();
    tcsetwinsize(&output, Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let mut command = binary();
    command.args(["tune", "log", text(run)]).env("NO_COLOR", no_color).stdin(Stdio::null()).stdout(output);
    let mut child = command.spawn().unwrap();
    // The terminal ends with the last program that holds it; Linux calls that an error.
    drop(command);
    let mut sent = Vec::new();
    let _ = screen.read_to_end(&mut sent);
    assert_eq!(wait(&mut child, "tune log"), Some(0));
    String::from_utf8(sent).unwrap().replace("\r\n", "\n")
}

#[test]
#[cfg(unix)]
fn a_terminal_has_colours_and_a_width() {
    let files = Files::new();
    let elsewhere = shown(&files, "run", &whole(), &[]).succeeded().stdout;
    let sent = on_terminal(&files.path("run"), 80, "");
    assert_ne!(sent, elsewhere);
    for colour in ["\u{1b}[1m", "\u{1b}[2m", "\u{1b}[33m", "\u{1b}[36m", "\u{1b}[0m"] {
        assert!(sent.contains(colour), "{sent}");
    }
    let mut parts = sent.split("\u{1b}[");
    let first = parts.next().unwrap().to_owned();
    let plain = parts.fold(first, |plain, part| plain + part.split_once('m').unwrap().1);
    assert_eq!(plain, elsewhere);
    assert_eq!(on_terminal(&files.path("run"), 80, "1"), elsewhere);
    for (columns, width) in [(132, 132), (60, 60), (7, 40)] {
        let sent = on_terminal(&files.path("run"), columns, "1");
        let axis = sent.lines().find(|line| line.contains('└')).unwrap();
        assert_eq!(axis.chars().count(), width, "{sent}");
    }
}

#[test]
fn json_has_figures_and_series() {
    let files = Files::new();
    let mut records = whole();
    let warning = Record::Warning(Warning { step: 1, message: "a row is long".to_owned() });
    records.insert(2, warning);
    let object = shown(&files, "run", &records, &["--json", "--smoothing", "0.5"]).json();
    assert_eq!(object["state"], "finished");
    assert_eq!(object["start"]["model"], "models/tiny.gguf");
    assert_eq!((&object["step"], &object["tokens"]), (&json!(120), &json!(120 * 512)));
    assert_eq!((&object["tokens_per_second"], &object["seconds_in_steps"]), (&json!(1024.0), &json!(60.0)));
    assert_eq!((&object["seconds_in_all"], &object["seconds_left"]), (&json!(75.0), &Value::Null));
    assert_eq!((&object["best"]["step"], &object["best"]["loss"]), (&json!(90), &json!(1.4)));
    assert_eq!(object["validation"].as_array().unwrap().len(), 4);
    assert_eq!(object["checkpoints"], json!([{"step": 120, "path": "checkpoint-120"}]));
    assert_eq!(object["warnings"], json!([{"step": 1, "message": "a row is long"}]));
    let training = object["training"].as_array().unwrap();
    assert_eq!(training.len(), 120);
    assert_eq!((&training[0]["step"], &training[0]["lr"]), (&json!(1), &json!(1e-4)));
    let losses: Vec<f64> = training.iter().map(|step| step["loss"].as_f64().unwrap()).collect();
    let smoothed: Vec<f64> = training.iter().map(|step| step["smoothed_loss"].as_f64().unwrap()).collect();
    assert!((smoothed[0] - losses[0]).abs() < 1e-9);
    assert!((smoothed[1] - (losses[0] + 2.0 * losses[1]) / 3.0).abs() < 1e-9);
    assert_eq!(object["smoothed_loss"].as_f64(), smoothed.last().copied());
}

#[test]
fn a_run_that_goes_on_says_for_how_long() {
    let files = Files::new();
    let mut records = whole()[..41].to_vec();
    let run = shown(&files, "run", &records, &[]).succeeded();
    for expected in [" · running\n", "step 39 of 120 · epoch 0.97 of 3 · last record ", "about 40.5 s left"] {
        assert!(run.stdout.contains(expected), "{expected}: {run}");
    }
    records.push(end(39, Outcome::Stopped));
    let run = shown(&files, "stopped", &records, &[]).succeeded();
    assert!(run.stdout.contains(" · stopped\n") && run.stdout.contains("1 min 15 s in all\n"), "{run}");
    records.push(Record::Resume(Resume { time: 1_795_850_000.0, step: 39, steps: None }));
    let run = shown(&files, "resumed", &records, &[]).succeeded();
    assert!(run.stdout.contains(" · running\n") && run.stdout.contains(" · resumed after step 39 ·"), "{run}");
    // Before the first step, and after one.
    let run = shown(&files, "new", &[start(Objective::Sft)], &[]).succeeded();
    assert!(run.stdout.contains("\nprogress    step 0 of 120"), "{run}");
    assert!(run.stdout.ends_with("\nno step was taken yet\n"), "{run}");
    let run = shown(&files, "one", &[start(Objective::Sft), Record::Step(step(1))], &[]).succeeded();
    assert!(run.stdout.contains("\nstep  0"), "{run}");
}

#[test]
fn a_run_that_failed_is_shown_all_the_same() {
    let files = Files::new();
    let [first, second] = [1, 2].map(|at| Record::Step(step(at)));
    let diverged = [start(Objective::Sft), first.clone(), second, nan(3), nan(4), nan(5), end(5, Outcome::Failed)];
    let failed = [start(Objective::Sft), first, end(1, Outcome::Failed)];
    for (name, records, state, error) in [
        ("diverged", &diverged[..], "diverged", "the run diverged: the last 3 steps changed nothing, because loss or"),
        ("failed", &failed[..], "failed", "the run failed after step 1"),
    ] {
        let run = shown(&files, name, records, &[]);
        assert_eq!(run.code, Some(2), "{run}");
        assert!(run.stdout.contains(&format!(" · {state}\n")) && run.stdout.contains("└"), "{run}");
        let log = files.path(name).join(FILE_NAME);
        assert!(run.stderr.starts_with(&format!("error: {}: {error}", text(&log))), "{run}");
        let run = show(&files.path(name), &["--json"]);
        assert_eq!((run.code, run.stderr.contains(error)), (Some(2), true), "{run}");
        let object: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(object["state"], state);
        let page = files.path(&format!("{name}.html"));
        let run = show(&files.path(name), &["--html", text(&page)]);
        assert_eq!((run.code, run.stderr.contains(error)), (Some(2), true), "{run}");
        assert!(fs::read_to_string(&page).unwrap().contains(&format!("<span class=\"state bad\">{state}</span>")));
    }
    let run = shown(&files, "never", &[start(Objective::Sft), nan(1), nan(2)], &[]).succeeded();
    assert!(run.stdout.contains("\nno step had a finite loss\n"), "{run}");
    assert!(run.stdout.contains("\nwarnings\n           1  2 steps from here to step 2 changed nothing: "), "{run}");
}

#[test]
fn long_tables_say_what_they_leave_out() {
    let files = Files::new();
    let mut records = vec![start(Objective::Sft)];
    for at in 1..=40 {
        let loss = if at == 7 { 1.0 } else { 2.0 };
        records.push(valid(at, loss, at == 1 || at == 7));
        records.push(Record::Warning(Warning { step: at, message: format!("warning\n\u{1b}[2J{at}") }));
    }
    let run = shown(&files, "run", &records, &[]).succeeded();
    assert!(run.stdout.contains("           7      1.0000  ● the best\n          29      2.0000\n"), "{run}");
    assert!(run.stdout.contains("            27 earlier ones: --json has them\n"), "{run}");
    assert!(run.stdout.contains("          29  warning ␛[2J29\n"), "{run}");
    assert!(run.stdout.contains("              28 earlier ones: --json has them\n"), "{run}");
}

/// Every element that is opened is closed, in order; the texts of the page.
fn balanced(page: &str) -> Vec<String> {
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let (mut open, mut texts) = (Vec::new(), Vec::new());
    while let Some((before, after)) = rest.split_once('<') {
        assert!(!before.contains('>'), "{before}");
        texts.push(before.to_owned());
        let (tag, after) = after.split_once('>').unwrap();
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{open:?}");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        rest = after;
        // Nor does a style have tags in it.
        assert!(name != "style" || tag.starts_with('/') || after.find('<') == after.find("</style>"));
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?}");
    texts
}

#[test]
fn the_page_is_whole_and_loads_nothing() {
    let files = Files::new();
    let page = files.path("report.html");
    let mut records = whole();
    records[3] = nan(3);
    let message = "<script>alert(\"&\")</script>".to_owned();
    records.insert(4, Record::Warning(Warning { step: 3, message }));
    let run = shown(&files, "run", &records, &["--html", text(&page)]).succeeded();
    assert_eq!(run.stdout, "");
    assert!(run.stderr.starts_with(&format!("{}: ", text(&page))), "{run}");
    let found = fs::read_to_string(&page).unwrap();
    let texts = balanced(&found);
    for expected in
        ["tiny.gguf", "finished", "Loss", "Learning rate", "Norm of the gradient", "Tokens a second", "1,024"]
    {
        assert!(texts.iter().any(|text| text == expected), "{expected}");
    }
    assert!(!texts.iter().any(|text| text == "Margin of chosen over rejected"));
    assert!(found.contains("<td>&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;</td>"));
    assert!(found.contains("<title>the best validation after step 90: 1.4000</title>"));
    assert!(found.contains("default-src 'none'") && found.contains("prefers-color-scheme: dark"));
    for outside in ["<script", "<link", "<img", "http:", "https:", "url(", "@import", "NaN", "inf"] {
        assert!(!found.contains(outside), "{outside}");
    }
    // It is not written over by accident.
    show(&files.path("run"), &["--html", text(&page)]).refused(&["report.html: the file exists", "--force"]);
    fs::write(&page, "mine").unwrap();
    show(&files.path("run"), &["--html", text(&page)]).refused(&["report.html: the file exists"]);
    assert_eq!(fs::read_to_string(&page).unwrap(), "mine");
    show(&files.path("run"), &["--html", text(&page), "--force"]).succeeded();
    assert_eq!(fs::read_to_string(&page).unwrap(), found);
}

#[test]
fn preferences_have_margin_and_accuracy() {
    let files = Files::new();
    let page = files.path("report.html");
    let mut records = vec![start(Objective::Dpo)];
    for at in 1..=20 {
        let margin = Some(at as f64 / 10.0 - 0.5);
        records.push(Record::Step(Step { margin, accuracy: Some(0.75), ..step(at) }));
    }
    records.push(Record::Valid(Valid { step: 20, loss: 0.5, labels: 9, best: true, accuracy: Some(0.875) }));
    let run = shown(&files, "run", &records, &[]).succeeded();
    assert!(run.stdout.contains("LoRA, DPO") && run.stdout.contains("160 pairs and"), "{run}");
    assert!(run.stdout.contains("  after step        loss    accuracy\n"), "{run}");
    assert!(run.stdout.contains("          20      0.5000      87.5 %  ● the best\n"), "{run}");
    show(&files.path("run"), &["--html", text(&page)]).succeeded();
    let found = fs::read_to_string(&page).unwrap();
    let texts = balanced(&found);
    for expected in ["Margin of chosen over rejected", "Pairs with a margin above 0", "100 %", "87.5 %"] {
        assert!(texts.iter().any(|text| text == expected), "{expected}");
    }
}

#[test]
fn pages_of_odd_runs_are_whole() {
    let files = Files::new();
    let page = files.path("report.html");
    let zero = Step { loss: 0.0, gradient_norm: 0.0, lr: 0.0, seconds: 0.0, tokens: 0, ..step(1) };
    let huge = Step { loss: 1e308, gradient_norm: f64::MAX, ..step(u64::MAX - 1) };
    let start = || start(Objective::Sft);
    for (name, records) in [
        ("new", vec![start()]),
        ("one", vec![start(), Record::Step(step(1))]),
        ("never", vec![start(), nan(1)]),
        ("zero", vec![start(), Record::Step(zero.clone())]),
        ("huge", vec![start(), Record::Step(zero), Record::Step(huge)]),
        ("untrained", vec![start(), valid(0, 2.0, true)]),
        ("unheard", vec![start(), valid(3, f64::NAN, false)]),
    ] {
        let run = shown(&files, name, &records, &["--html", text(&page), "--force"]).succeeded();
        let found = fs::read_to_string(&page).unwrap();
        balanced(&found);
        assert!(!found.contains("NaN") && !found.contains("inf"), "{run}");
        show(&files.path(name), &[]).succeeded();
        show(&files.path(name), &["--json"]).succeeded();
    }
}

#[test]
fn what_is_no_log_is_refused() {
    let files = Files::new();
    let dir = files.directory("run");
    show(&dir, &[]).refused(&["run/log.jsonl: ", "No such file"]);
    show(&files.path("none"), &[]).refused(&["none: ", "No such file"]);
    let mut writer = Writer::create(&dir.join(FILE_NAME)).unwrap();
    writer.write(&start(Objective::Sft)).unwrap();
    writer.write(&Record::Step(step(1))).unwrap();
    let good = fs::read_to_string(dir.join(FILE_NAME)).unwrap();
    for (contents, expected) in [
        (format!("{good}{{\"event\":\"nap\"}}\n"), "log.jsonl:3: unknown variant `nap`"),
        (format!("{good}\u{1b}[2J\n"), "log.jsonl:3: broken JSON"),
        (good.lines().rev().map(|line| format!("{line}\n")).collect(), "log.jsonl:1: expected the start of a run"),
        (String::new(), "log.jsonl: expected the log of a training run, found no record"),
    ] {
        files.write("run/log.jsonl", contents);
        for args in [&[][..], &["--json"], &["--html", "/nowhere/report.html"]] {
            show(&dir, args).refused(&[expected]);
        }
    }
    // A line that is being written is not there yet.
    files.write("run/log.jsonl", format!("{good}{{\"event\":\"st"));
    show(&dir, &[]).succeeded();
    show(&dir, &["--html", "/nowhere/report.html"]).refused(&["report.html", "No such file"]);
    show(&dir, &["--html", text(&dir)]).refused(&["run: the file exists"]);
    show(&dir, &["--smoothing", "1"]).misused(&["expected 0 to below 1, found 1"]);
    show(&dir, &["--smoothing", "NaN"]).misused(&["expected 0 to below 1, found NaN"]);
    show(&dir, &["--force"]).misused(&["--html"]);
    show(&dir, &["--json", "--html", "x.html"]).misused(&["--json"]);
}
