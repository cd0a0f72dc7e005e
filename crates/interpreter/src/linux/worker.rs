//! The hidden verb: reads one request, and is the supervisor or the process that becomes Python.

use super::protocol::{Report, Request, Sandbox};
use super::{confinement, failed, supervisor};
use crate::{Error, MAX_CODE, SCRATCH};
use std::io::{BufRead, ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Longer requests are none: the longest code, escaped, and the paths.
const MAX_REQUEST: u64 = 8 * MAX_CODE as u64;

/// What a program does when it is started with [`VERB`](crate::VERB), before it has threads.
///
/// # Errors
///
/// [`Error::Worker`] if standard input holds no request, or Python can't be started.
pub fn worker() -> Result<(), Error> {
    work().map_err(Error::Worker)
}

fn work() -> Result<(), String> {
    let mut line = Vec::new();
    // More than the line may be read into the buffer, but nothing follows before there is an answer.
    let read = std::io::stdin().lock().take(MAX_REQUEST).read_until(b'\n', &mut line);
    read.map_err(failed("standard input"))?;
    let request = line.strip_suffix(b"\n").ok_or("expected a request on standard input, found none")?;
    match serde_json::from_slice(request).map_err(failed("the request"))? {
        Request::Supervise { sandbox, code, parent } => answer(&supervisor::supervise(&sandbox, &code, parent)),
        Request::Confine(sandbox) => {
            let report: Report = confinement::confine(&sandbox);
            answer(&report)?;
            if report.is_ok() { Err(become_python(&sandbox)) } else { Ok(()) }
        }
    }
}

fn answer(what: &impl serde::Serialize) -> Result<(), String> {
    let mut line = serde_json::to_vec(what).map_err(failed("the answer"))?;
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    output.write_all(&line).and_then(|()| output.flush()).map_err(failed("the answer"))
}

/// Returns only to say what went wrong.
fn become_python(sandbox: &Sandbox) -> String {
    let home = Path::new(if sandbox.namespaces { SCRATCH } else { "/" });
    let error = Command::new(&sandbox.python)
        // Isolated from its environment, without caches of compiled files, text in UTF-8, the program on standard
        // input.
        .args(["-I", "-B", "-X", "utf8", "-"])
        .env_clear()
        .envs([("HOME", home), ("TMPDIR", home)])
        .envs([("LANG", "C.UTF-8"), ("TZ", "UTC")])
        // Libraries for numbers would start as many threads as there are cores. Those are the model's.
        .envs([("OMP_NUM_THREADS", "1"), ("OPENBLAS_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1")])
        .current_dir(home)
        .exec();
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => {
            " (of a server that runs as root, code runs as nobody, who must be able to read it)"
        }
        _ => "",
    };
    format!("{}: {error}{hint}", sandbox.python.display())
}
