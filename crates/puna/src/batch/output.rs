//! What is answered: a line for each request, in the order in which they end.

use super::lines::Lines;
use anyhow::{Context, Result, bail};
use puna_serve::app::new_id;
use puna_serve::offline::Reply;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::collections::HashSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of an answer at most, where one is read again.
const MAX_LEN: usize = 1 << 30;

/// At most so much is lost when the machine loses its power.
const UNSYNCED: Duration = Duration::from_secs(1);

/// A line of the file; its keys tell it from a request, which has a `custom_id`, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    #[serde(rename = "id")]
    _id: String,
    custom_id: String,
    #[serde(rename = "response")]
    _response: IgnoredAny,
    #[serde(rename = "error")]
    _error: IgnoredAny,
}

/// A file that grows line by line; no second process writes to it meanwhile.
pub struct Output {
    path: PathBuf,
    file: File,
    synced: Instant,
}

impl Output {
    /// A new file.
    pub fn begin(path: &Path) -> Result<Output> {
        Output::open(path, OpenOptions::new().write(true).create_new(true))
    }

    /// Goes on with a file. What it answers already is taken out of `missing`; a last line that is not whole is cut
    /// off.
    pub fn resume(path: &Path, missing: &mut HashSet<String>) -> Result<Output> {
        let name = || path.display().to_string();
        let mut output = Output::open(path, OpenOptions::new().read(true).write(true))?;
        let mut lines = Lines::new(path, output.file.try_clone().with_context(name)?, MAX_LEN);
        let mut end = None;
        while lines.advance()? {
            if !lines.is_whole() {
                end = Some(lines.start());
                break;
            }
            let answer: Answer = lines.parse("an answer of a batch")?;
            if !missing.remove(&answer.custom_id) {
                bail!(
                    "{}: expected the answer to a request that the input has and no other line answers, found {:?}",
                    lines.place(),
                    answer.custom_id
                );
            }
        }
        if let Some(end) = end {
            output.file.set_len(end).with_context(name)?;
        }
        output.file.seek(SeekFrom::End(0)).with_context(name)?;
        Ok(output)
    }

    fn open(path: &Path, options: &OpenOptions) -> Result<Output> {
        let name = || path.display().to_string();
        let file = options.open(path).with_context(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Output { path: path.to_owned(), file, synced: Instant::now() }),
            Err(TryLockError::WouldBlock) => {
                bail!("{}: expected a file that nobody works on, found another process at it", name())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(name),
        }
    }

    /// Adds a line. The body is a JSON object without line ends, and stays as it is to the last digit.
    pub fn append(&mut self, custom_id: &str, reply: &Reply) -> Result<()> {
        let (id, request_id, custom_id) = (new_id("batch_req_"), new_id("req_"), Value::from(custom_id));
        let status = reply.status;
        let response = format!("{{\"status_code\":{status},\"request_id\":\"{request_id}\",\"body\":");
        let mut line = format!("{{\"id\":\"{id}\",\"custom_id\":{custom_id},\"response\":{response}").into_bytes();
        line.extend(&reply.body);
        line.extend(b"},\"error\":null}\n");
        self.file.write_all(&line).with_context(|| self.path.display().to_string())?;
        if self.synced.elapsed() >= UNSYNCED { self.sync() } else { Ok(()) }
    }

    /// Waits until all lines are on the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().with_context(|| self.path.display().to_string())?;
        self.synced = Instant::now();
        Ok(())
    }
}
