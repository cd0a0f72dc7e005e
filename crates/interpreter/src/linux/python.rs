//! What a Python installation consists of. Python knows; it is asked once, outside of the sandbox, before any
//! stranger's code.

use super::failed;
use crate::Error;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const QUESTION: &str = "
import json, sys
assert sys.version_info >= (3, 6), sys.version
prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
print(json.dumps({'program': sys.executable, 'prefixes': prefixes, 'path': sys.path}))
";

/// What any dynamically linked program reads, and Python's own time zones.
const SYSTEM: [&str; 6] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"];

#[derive(Deserialize)]
struct Answer {
    program: PathBuf,
    prefixes: Vec<PathBuf>,
    path: Vec<PathBuf>,
}

/// A Python installation.
pub struct Installation {
    /// Python, by the path under which it finds its libraries. In a virtual environment that is a link.
    pub program: PathBuf,
    /// What it reads, none inside another.
    pub readable: Vec<PathBuf>,
}

impl Installation {
    /// The one that a path or a name in `PATH` stands for.
    pub fn of(python: &Path) -> Result<Self, Error> {
        let fail = |reason| Error::Python { python: python.into(), reason };
        let output = Command::new(python).args(["-I", "-c", QUESTION]).stdin(Stdio::null()).output();
        let output = output.map_err(|error| fail(error.to_string()))?;
        if !output.status.success() {
            return Err(fail(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())));
        }
        let answer: Answer = serde_json::from_slice(&output.stdout).map_err(failed("its answer")).map_err(fail)?;
        if !answer.program.is_absolute() {
            return Err(fail(format!("expected it to know its own path, found {:?}", answer.program)));
        }
        let program = answer.program.clone();
        let readable = answer.readable().map_err(failed("its files")).map_err(fail)?;
        Ok(Self { program, readable })
    }
}

impl Answer {
    fn readable(self) -> io::Result<Vec<PathBuf>> {
        let of_prefixes =
            self.prefixes.iter().flat_map(|prefix| ["lib", "lib64", "pyvenv.cfg"].map(|it| prefix.join(it)));
        let system = SYSTEM.map(PathBuf::from);
        let all = system.into_iter().chain(of_prefixes).chain(self.path).chain([self.program]);
        let all = all.filter(|path| path.exists()).collect::<BTreeSet<_>>();
        // Sorted, so that a folder comes before what is in it. Links are kept by their own names.
        let mut readable: Vec<(PathBuf, PathBuf)> = Vec::new();
        for path in all {
            let real = path.canonicalize()?;
            if real.parent().is_none() {
                return Err(io::Error::other(format!("expected folders, found all of {}", path.display())));
            }
            if !readable.iter().any(|(outer, _)| path.starts_with(outer) && real == path) {
                readable.push((path, real));
            }
        }
        Ok(readable.into_iter().map(|(path, _)| path).collect())
    }
}
