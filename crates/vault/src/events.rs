//! What happened to a model: an append-only log of lines, each of which holds the SHA-256 of the line before.
//!
//! Whoever changes or takes away a line that others follow breaks the chain, and [`read`] says where. (The last line can
//! be taken away unseen; the chain is no signature.) A line is the bytes up to and with its line feed, so that
//! `sed -n 3p events.jsonl | sha256sum` is what the fourth line has.

use crate::digest::{Hex, sha256};
use crate::disk::{self, Disk, DiskError};
use puna_text::Date;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

/// Longest log that is read, in bytes.
const MAX_LOG: u64 = 64 << 20;
/// Longest line that is written, in bytes.
const MAX_LINE: usize = 1 << 20;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The SHA-256 of the line before; zeros in the first.
    pub prev: Hex<32>,
    /// When: `2026-11-28T19:56:00.000Z`.
    pub at: String,
    /// What: a word such as `kept` or `repaired`.
    pub kind: String,
    /// What belongs to it.
    pub payload: serde_json::Value,
}

/// A log as it was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// Its lines, up to the first that is broken.
    pub events: Vec<Event>,
    /// Where the chain is broken, if it is.
    pub broken: Option<Broken>,
    /// Bytes behind the last line feed: a line that was being written when the program or the machine ended.
    pub torn: usize,
}

/// The first line that does not follow from those before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the log is broken: {why}; the lines before it hold")]
pub struct Broken {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

/// A log that can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An event that is too long.
    #[error("an event of {found} bytes, expected at most {MAX_LINE}")]
    TooLong {
        /// Its length as a line.
        found: usize,
    },
}

/// Reads a log, and checks its chain. No file is an empty log.
///
/// # Errors
/// When the file can't be read, or is longer than 64 MiB. A broken chain is none: see [`Log::broken`].
pub fn read(path: &Path) -> Result<Log, EventsError> {
    Ok(disk::read_bounded(path, MAX_LOG)?.map(|bytes| parse(&bytes)).unwrap_or_default())
}

fn parse(bytes: &[u8]) -> Log {
    let whole = whole_lines(bytes);
    let mut log = Log { torn: bytes.len() - whole, ..Log::default() };
    let mut prev = Hex([0; 32]);
    for line in bytes[..whole].split_inclusive(|&byte| byte == b'\n') {
        let event = match serde_json::from_slice::<Event>(line) {
            Ok(event) if event.prev == prev => event,
            found => {
                let why = match found {
                    Ok(event) => {
                        format!("it follows a line of SHA-256 {}, but the line before it has {prev}", event.prev)
                    }
                    Err(error) => format!("not an event: {error}"),
                };
                log.broken = Some(Broken { line: log.events.len() + 1, why });
                return log;
            }
        };
        prev = sha256(line);
        log.events.push(event);
    }
    log
}

/// Length of the lines that end in a line feed.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)
}

/// Appends an event, and syncs. `now` is in milliseconds since 1970.
///
/// A torn last line goes to the file `<log>.torn` first, and an event of the kind `torn` says so: nothing is dropped in
/// silence. A chain that is broken further up is not mended, and still appended to.
///
/// # Errors
/// When the disk refuses, or the event is longer than 1 MiB.
pub fn append(path: &Path, now: i64, kind: &str, payload: serde_json::Value) -> Result<(), EventsError> {
    append_on(&Disk::default(), path, now, kind, payload)
}

pub(crate) fn append_on(
    disk: &Disk,
    path: &Path,
    now: i64,
    kind: &str,
    payload: serde_json::Value,
) -> Result<(), EventsError> {
    let open = || OpenOptions::new().read(true).append(true).open(path);
    let (opened, is_new) = match open() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Somebody else may be faster; and whatever he wrote, this goes behind it.
            let created = disk.create(path).map(drop);
            created
                .or_else(|error| if error.error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
            (open(), true)
        }
        opened => (opened, false),
    };
    let file = opened.map_err(DiskError::of("open it", path))?;
    // Where a file system has no locks, two who append at once can break the chain, and reading shows it.
    let _ = file.lock();
    let bytes = disk::read_bounded(path, MAX_LOG)?.unwrap_or_default();
    let (lines, torn) = bytes.split_at(whole_lines(&bytes));
    let last = lines[..lines.len().saturating_sub(1)].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let mut prev = if lines.is_empty() { Hex([0; 32]) } else { sha256(&lines[last..]) };

    let mut text = Vec::new();
    let mut add = |kind: &str, payload| {
        let event = Event { prev, at: Date::timestamp(now), kind: kind.to_owned(), payload };
        let mut line = serde_json::to_vec(&event).expect("an event is JSON");
        line.push(b'\n');
        if line.len() > MAX_LINE {
            return Err(EventsError::TooLong { found: line.len() });
        }
        prev = sha256(&line);
        text.extend(line);
        Ok(())
    };
    if !torn.is_empty() {
        add("torn", serde_json::json!({ "bytes": torn.len(), "sha256": sha256(torn) }))?;
    }
    add(kind, payload)?;
    if !torn.is_empty() {
        set_aside(disk, path, torn)?;
        disk.truncate(&file, path, lines.len() as u64)?;
    }
    disk.write(&file, path, &text)?;
    disk.sync(&file, path)?;
    if is_new {
        disk.sync_dir(path.parent().unwrap_or(path))?;
    }
    Ok(())
}

/// Keeps a torn line beside the log, behind those that were kept before.
fn set_aside(disk: &Disk, path: &Path, torn: &[u8]) -> Result<(), DiskError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".torn");
    let beside = path.with_file_name(name);
    let mut kept = disk::read_bounded(&beside, MAX_LOG)?.unwrap_or_default();
    kept.extend(torn);
    kept.push(b'\n');
    disk.write_whole(&path.with_file_name(disk::temporary_name()), &beside, &kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn log(n: usize) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        for i in 0..n {
            append(&path, 1_795_891_560_000 + i as i64, "kept", json!({ "number": i })).unwrap();
        }
        (dir, path)
    }

    #[test]
    fn a_chain_of_lines() {
        let (_dir, path) = log(3);
        let found = read(&path).unwrap();
        assert_eq!((found.events.len(), &found.broken, found.torn), (3, &None, 0));
        assert_eq!(found.events[2].payload, json!({ "number": 2 }));
        assert!(found.events[0].at.starts_with("2026-11-28T"), "{}", found.events[0].at);
        let text = std::fs::read_to_string(&path).unwrap();
        let second = text.split_inclusive('\n').nth(1).unwrap();
        assert_eq!(found.events[2].prev, sha256(second.as_bytes()));
        assert_eq!(read(&path.with_file_name("none")).unwrap(), Log::default());
        let long = append(&path, 0, "kept", json!("x".repeat(MAX_LINE))).unwrap_err();
        assert!(long.to_string().contains("expected at most 1048576"));
        assert_eq!(read(&path).unwrap(), found);
    }

    #[test]
    fn who_begins_a_log_at_once_loses_nothing() {
        for _ in 0..50 {
            let (_dir, path) = log(0);
            let barrier = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for i in 0..4 {
                    let (barrier, path) = (&barrier, &path);
                    scope.spawn(move || {
                        barrier.wait();
                        append(path, 0, "kept", json!(i)).unwrap();
                    });
                }
            });
            let found = read(&path).unwrap();
            assert_eq!((found.events.len(), found.broken, found.torn), (4, None, 0));
        }
    }

    #[test]
    fn a_line_that_was_changed_or_taken_away_is_found() {
        let (_dir, path) = log(4);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let broken = |text: String| parse(text.as_bytes()).broken.map(|broken| broken.line);
        assert_eq!(broken(text.replace("\"number\":1", "\"number\":7")), Some(3));
        assert_eq!(broken([lines[0], lines[2], lines[3]].concat()), Some(2));
        assert_eq!(broken([lines[1], lines[2]].concat()), Some(1));
        assert_eq!(broken(text.replacen("kept", "ke\"pt", 1)), Some(1));
        assert_eq!(broken(lines[..3].concat()), None);
    }

    #[test]
    fn a_torn_line_is_set_aside() {
        let (_dir, path) = log(2);
        let whole = std::fs::read(&path).unwrap();
        let torn = b"{\"prev\":\"00";
        std::fs::write(&path, [&whole[..], torn].concat()).unwrap();
        let found = read(&path).unwrap();
        assert_eq!((found.events.len(), found.torn), (2, torn.len()));
        append(&path, 0, "kept", json!({})).unwrap();
        let found = read(&path).unwrap();
        let kinds: Vec<&str> = found.events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["kept", "kept", "torn", "kept"]);
        assert_eq!((&found.broken, found.torn), (&None, 0));
        assert_eq!(found.events[2].payload["sha256"], sha256(torn).to_string());
        let aside = std::fs::read(path.with_file_name("events.jsonl.torn")).unwrap();
        assert_eq!(aside, [torn, &b"\n"[..]].concat());
    }

    proptest! {
        #[test]
        fn any_change_of_a_line_that_others_follow_is_found(at in 0usize..1000, bit in 0u8..8) {
            let (_dir, path) = log(4);
            let mut bytes = std::fs::read(&path).unwrap();
            let last = bytes.iter().take(bytes.len() - 1).rposition(|&byte| byte == b'\n').unwrap();
            let at = at % last;
            bytes[at] ^= 1 << bit;
            let log = parse(&bytes);
            prop_assert!(log.broken.is_some());
        }

        #[test]
        fn anything_is_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let log = parse(&bytes);
            prop_assert!(log.torn <= bytes.len());
        }
    }
}
