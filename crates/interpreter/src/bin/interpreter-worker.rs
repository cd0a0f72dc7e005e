//! The worker alone: what the tests start in the place of a server's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    match puna_interpreter::worker() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
