//! The binary is its own worker for code that a model writes.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_interpreter::{Error, Interpreter, Limits, VERB};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

const PUNA: &str = env!("CARGO_BIN_EXE_puna");

#[test]
fn code_runs_in_a_worker_of_the_binary() {
    let system = Path::new("/usr/bin/python3");
    let python = if system.exists() { system } else { Path::new("python3") };
    match Interpreter::start(Path::new(PUNA), python, Limits::default()) {
        Err(error @ (Error::Python { .. } | Error::Unprotected { .. })) => println!("SKIPPED: {error}"),
        interpreter => {
            let output = interpreter.unwrap().run("print(6 * 7)", &AtomicBool::new(false)).unwrap();
            assert_eq!(output.stdout.text, "42\n");
        }
    }
}

#[test]
fn the_verb_alone_is_refused() {
    let output = Command::new(PUNA).arg(VERB).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected a request on standard input, found none"));
    let help = Command::new(PUNA).arg("--help").output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains(VERB));
}
