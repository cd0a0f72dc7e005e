//! The server's side: one worker a run.

use super::process::Worker;
use super::protocol::{Reply, Request, Sandbox};
use super::python::Installation;
use crate::{Error, Limits, MAX_CODE, Output, Protections, Status};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Tries what must be impossible, and prints a list of what was not.
const ESCAPES: &str = r#"
import os, socket

def permitted(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError:
        return False
    return True

print([what for what, attempt, *arguments in [
    ("a socket of the internet", socket.socket, socket.AF_INET),
    ("a socket of this machine", socket.socket, socket.AF_UNIX),
    ("a process", os.fork),
    ("another program", os.execv, "/bin/sh", ["sh", "-c", "echo a shell"]),
    ("a signal to another process", os.kill, -1, 0),
    ("reading /etc/passwd", open, "/etc/passwd"),
    ("reading /proc", open, "/proc/self/environ"),
    ("a file in /", open, "/puna-interpreter", "w"),
    ("a file in /tmp", open, "/tmp/puna-interpreter", "w"),
] if permitted(attempt, *arguments)])
"#;

/// Runs code in a sandbox, each piece in a new one. May be used by several threads at once.
pub struct Interpreter {
    worker: PathBuf,
    sandbox: Sandbox,
    protections: Protections,
}

impl Interpreter {
    /// Finds out how Python is installed and what this kernel can do, and tries whether it really keeps code in.
    ///
    /// `worker` is a program that calls [`worker`](crate::worker()) when its first argument is [`VERB`](crate::VERB):
    /// the server's own, `/proc/self/exe`. `python` is a path, or a name to look for in `PATH`.
    ///
    /// # Errors
    ///
    /// [`Error::Python`] if there is no Python, or none that runs in the sandbox; [`Error::Unprotected`] if this kernel
    /// gives too little; [`Error::Leaky`] if something was possible that must not be.
    pub fn start(worker: &Path, python: &Path, limits: Limits) -> Result<Self, Error> {
        match Self::try_start(worker, python, limits.clone(), true) {
            Err(Error::Worker(namespaces)) => match Self::try_start(worker, python, limits, false) {
                Err(Error::Worker(landlock)) => Err(Error::Unprotected { namespaces, landlock }),
                Ok(mut interpreter) => {
                    interpreter.protections.namespaces = Err(namespaces);
                    Ok(interpreter)
                }
                error => error,
            },
            result => result,
        }
    }

    /// As where there are no namespaces; for tests.
    #[doc(hidden)]
    pub fn start_without_namespaces(worker: &Path, python: &Path, limits: Limits) -> Result<Self, Error> {
        let mut interpreter = Self::try_start(worker, python, limits, false)?;
        interpreter.protections.namespaces = Err("not wanted".into());
        Ok(interpreter)
    }

    fn try_start(worker: &Path, python: &Path, limits: Limits, namespaces: bool) -> Result<Self, Error> {
        let Installation { program, readable } = Installation::of(python)?;
        let sandbox = Sandbox { python: program, readable, limits, namespaces };
        let (protections, output) = ask(worker, &sandbox, ESCAPES, &AtomicBool::new(false))?;
        if output.status != Status::Exited(0) {
            let reason = format!("in the sandbox it ended with {}: {}", output.status, output.stderr.text.trim());
            return Err(Error::Python { python: python.into(), reason });
        }
        match output.stdout.text.trim() {
            "[]" => Ok(Self { worker: worker.into(), sandbox, protections }),
            permitted => Err(Error::Leaky { permitted: permitted.into() }),
        }
    }

    /// What keeps the code in.
    pub fn protections(&self) -> &Protections {
        &self.protections
    }

    /// Runs code, and returns when it has ended and nothing is left of it. Setting `stop` ends it early.
    ///
    /// Don't let the calling thread end before: the kernel would take that for the end of the server.
    ///
    /// # Errors
    ///
    /// [`Error::Code`] if it is longer than [`MAX_CODE`]; [`Error::Stopped`]; [`Error::Worker`] if the sandbox can't be
    /// set up as it was at the start. What goes wrong in the code itself is in the [`Output`].
    pub fn run(&self, code: &str, stop: &AtomicBool) -> Result<Output, Error> {
        if code.len() > MAX_CODE {
            return Err(Error::Code { found: code.len(), limit: MAX_CODE });
        }
        ask(&self.worker, &self.sandbox, code, stop).map(|(_, output)| output)
    }
}

fn ask(worker: &Path, sandbox: &Sandbox, code: &str, stop: &AtomicBool) -> Result<(Protections, Output), Error> {
    let (sandbox, code) = (sandbox.clone(), code.to_owned());
    let limits = sandbox.limits.clone();
    let mut worker = Worker::start(worker)?;
    worker.send(&Request::Supervise { sandbox, code, parent: std::process::id() })?;
    let reply = worker.receive(&limits, stop)?;
    let reply = serde_json::from_slice::<Reply>(&reply);
    reply.map_err(|error| Error::Worker(format!("expected a reply, found none: {error}")))?.map_err(Error::Worker)
}
