//! The bytes of one file, from wherever they are now: requests, what their answers may be, and what is done when they
//! are otherwise.

use super::{DownloadError, Event, Location, Shared};
use crate::http::{Answer, Hops, HttpError, Request, Retry, host, random, shown};
use crate::path::SafePath;
use crate::tree::{GROUP, extent};
use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tokio::sync::Mutex as AsyncMutex;

/// How often in a row a file may be looked for again, because a server denies what was just located, or damaged bytes
/// come.
const MAX_DENIED: usize = 4;
/// So many bytes without a fault are progress: waiting begins anew.
const PROGRESS: u64 = 256 << 10;

/// A file that is somewhere else.
pub(super) struct Remote {
    shared: Arc<Shared>,
    pub(super) path: SafePath,
    pub(super) size: u64,
    /// What the location said at first, whose bytes must not be mixed with any other's.
    version: Option<String>,
    /// Where the file is, and how often it was looked for.
    located: AsyncMutex<(usize, Arc<Location>)>,
    /// The `ETag` that each host gave first.
    tags: Mutex<HashMap<String, String>>,
}

/// Takes groups as they are complete.
pub(super) trait Sink: Send + Sync {
    /// Takes a group; gives its buffer back.
    fn put(&self, group_idx: u64, bytes: Vec<u8>) -> impl Future<Output = Result<Put, DownloadError>> + Send;
}

/// What became of a group.
pub(super) enum Put {
    /// It is there.
    Kept(Vec<u8>),
    /// It is not what it should be.
    Damaged,
}

/// How far a fetch has come.
struct Cursor {
    /// What is to be fetched.
    groups: Range<u64>,
    /// The beginning of the first of them.
    bytes: Vec<u8>,
    /// Bytes since the last fault.
    n_good: u64,
    /// Faults since the last group for which looking for the file again may help.
    n_denied: usize,
}

/// Why a fetch ended before its end.
pub(super) enum Stop {
    /// The server gives whole files only, or broke off while it gave one: the file has to be begun anew.
    Restart(String),
    /// It can't be.
    Failed(DownloadError),
}

impl From<DownloadError> for Stop {
    fn from(error: DownloadError) -> Stop {
        Stop::Failed(error)
    }
}

/// What an answer is good for.
enum Verdict {
    /// Its body is what was asked for.
    Body,
    /// The server knows no ranges.
    Whole,
    /// The address is good for nothing any more.
    Denied,
    /// Later.
    Wait,
}

impl Remote {
    /// Looks for a file, and finds out how large it is. `size` is what its publisher says.
    pub(super) async fn locate(
        shared: Arc<Shared>,
        path: SafePath,
        size: Option<u64>,
    ) -> Result<Remote, DownloadError> {
        let location = shared.locate(&path).await?;
        let size = match (size, location.size) {
            (Some(expected), Some(found)) if expected != found => {
                return Err(DownloadError::Size { path, expected, found });
            }
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => return Err(DownloadError::NoSize { path, host: host(&location.url) }),
        };
        if size > super::MAX_FILE {
            return Err(DownloadError::TooLarge { path, size });
        }
        let version = location.version.clone();
        let located = AsyncMutex::new((0, Arc::new(location)));
        Ok(Remote { shared, path, size, version, located, tags: Mutex::default() })
    }

    pub(super) fn version(&self) -> Option<String> {
        self.version.clone()
    }

    /// Looks for the file again, unless somebody did after the `seen`-th time.
    async fn locate_again(&self, seen: usize) -> Result<(), DownloadError> {
        let mut located = self.located.lock().await;
        if located.0 != seen {
            return Ok(());
        }
        self.shared.progress.event(Event::Relocated { path: &self.path });
        let location = self.shared.locate(&self.path).await?;
        if let Some(found) = location.size.filter(|size| *size != self.size) {
            return Err(DownloadError::Size { path: self.path.clone(), expected: self.size, found });
        }
        if location.version != self.version {
            return Err(self.changed(self.version.as_deref(), location.version.as_deref()));
        }
        *located = (seen + 1, Arc::new(location));
        Ok(())
    }

    fn changed(&self, was: Option<&str>, is: Option<&str>) -> DownloadError {
        let short = |tag: Option<&str>| tag.unwrap_or("none").chars().take(80).collect();
        DownloadError::Changed { path: self.path.clone(), was: short(was), is: short(is) }
    }

    /// Fetches groups one after another, `whole` without asking for ranges.
    pub(super) async fn fetch(&self, groups: Range<u64>, whole: bool, sink: &impl Sink) -> Result<(), Stop> {
        let mut retry = Retry::new(self.shared.http.patience());
        let (last, last_len) = extent(self.size, groups.end - 1);
        let end = last + last_len;
        let mut cursor = Cursor { groups, bytes: Vec::new(), n_good: 0, n_denied: 0 };
        loop {
            let at = cursor.groups.start * GROUP + cursor.bytes.len() as u64;
            if whole && at > 0 {
                return Err(Stop::Restart("the connection broke".to_owned()));
            }
            let is_all = at == 0 && end == self.size;
            let (seen, location) = {
                let located = self.located.lock().await;
                (located.0, Arc::clone(&located.1))
            };
            let request = Request {
                head: false,
                url: &location.url,
                credential: location.credential.as_ref(),
                range: (!is_all && !whole).then_some((at, end)),
                hops: Hops::All,
            };
            let (why, asked) = match self.shared.http.send(&request).await {
                Err(error) if error.may_pass() => (error.to_string(), None),
                Err(source) => return Err(DownloadError::http(&self.path, source).into()),
                Ok(answer) => match self.judge(&answer, request.range, &location)? {
                    Verdict::Wait => (answer.to_string(), answer.asked_to_wait()),
                    Verdict::Whole => return Err(Stop::Restart(format!("{} gives no ranges", host(answer.url())))),
                    Verdict::Denied => {
                        cursor.n_denied += 1;
                        if cursor.n_denied > MAX_DENIED {
                            return Err(self.status(&answer).into());
                        }
                        self.locate_again(seen).await?;
                        continue;
                    }
                    Verdict::Body => match self.body(answer, is_all || whole, &mut cursor, &mut retry, sink).await? {
                        None => return Ok(()),
                        Some(why) => (why, None),
                    },
                },
            };
            cursor.n_good = 0;
            let Some(wait) = retry.next(asked, random()) else {
                return Err(DownloadError::http(&self.path, HttpError::GaveUp { last: why }).into());
            };
            self.shared.progress.event(Event::Waits { path: Some(&self.path), why: &why, wait });
            tokio::time::sleep(wait).await;
        }
    }

    /// Reads a body to the end of the groups; or gives what went wrong with it, if another request may help.
    async fn body(
        &self,
        mut answer: Answer,
        is_all: bool,
        cursor: &mut Cursor,
        retry: &mut Retry,
        sink: &impl Sink,
    ) -> Result<Option<String>, DownloadError> {
        while !cursor.groups.is_empty() {
            let chunk = match answer.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(Some(format!("{} ended before the end", host(answer.url())))),
                Err(error) => return Ok(Some(error.to_string())),
            };
            self.shared.pace.take(chunk.len()).await;
            if cursor.groups.start == 0 && cursor.bytes.is_empty() && is_page(&chunk, &self.path) {
                return Err(self.page(&answer));
            }
            cursor.n_good += chunk.len() as u64;
            if cursor.n_good >= PROGRESS {
                retry.reset();
            }
            let mut rest = &chunk[..];
            while !rest.is_empty() && !cursor.groups.is_empty() {
                let (from, len) = extent(self.size, cursor.groups.start);
                cursor.bytes.reserve_exact(len as usize - cursor.bytes.len());
                let (now, later) = rest.split_at(rest.len().min(len as usize - cursor.bytes.len()));
                cursor.bytes.extend_from_slice(now);
                rest = later;
                self.shared.received(&self.path, now.len() as u64);
                if (cursor.bytes.len() as u64) < len {
                    continue;
                }
                match sink.put(cursor.groups.start, std::mem::take(&mut cursor.bytes)).await? {
                    Put::Kept(buffer) => {
                        cursor.bytes = buffer;
                        cursor.bytes.clear();
                        cursor.groups.start += 1;
                        cursor.n_denied = 0;
                    }
                    Put::Damaged => {
                        let why = format!("{} sent damaged bytes", host(answer.url()));
                        self.shared.progress.event(Event::Dropped { path: &self.path, bytes: len, why: &why });
                        cursor.n_denied += 1;
                        if cursor.n_denied > MAX_DENIED {
                            return Err(DownloadError::Damaged { path: self.path.clone(), from, to: from + len });
                        }
                        return Ok(Some(why));
                    }
                }
            }
            if cursor.groups.is_empty() && is_all {
                self.expect_end(&mut answer, rest.len()).await?;
            }
        }
        Ok(None)
    }

    /// Of a whole file nothing may come behind its end: it would be another file than was listed.
    async fn expect_end(&self, answer: &mut Answer, n_rest: usize) -> Result<(), DownloadError> {
        let mut more = n_rest as u64;
        // A connection that breaks here took nothing away.
        if let (0, Ok(Some(chunk))) = (more, answer.chunk().await) {
            more = chunk.len() as u64;
        }
        match more {
            0 => Ok(()),
            _ => Err(DownloadError::Size { path: self.path.clone(), expected: self.size, found: self.size + more }),
        }
    }

    fn judge(&self, answer: &Answer, range: Option<(u64, u64)>, at: &Location) -> Result<Verdict, DownloadError> {
        let size = |found| DownloadError::Size { path: self.path.clone(), expected: self.size, found };
        let protocol = |why: String| DownloadError::Protocol { path: self.path.clone(), host: host(answer.url()), why };
        match answer.status() {
            200 | 206 => {}
            401 | 403 | 404 | 410 => return Ok(Verdict::Denied),
            416 => {
                let total = answer.header("content-range").and_then(|range| range.strip_prefix("bytes */"));
                return match total.and_then(|total| total.trim().parse().ok()) {
                    Some(found) if found != self.size => Err(size(found)),
                    _ => Err(protocol("it refuses a range inside of the file".to_owned())),
                };
            }
            _ if answer.may_pass() => return Ok(Verdict::Wait),
            _ => return Err(self.status(answer)),
        }
        if answer.content_type().is_some_and(|kind| matches!(&*kind, "text/html" | "application/xhtml+xml")) {
            return Err(self.page(answer));
        }
        if let Some(encoding) = answer.header("content-encoding").filter(|encoding| *encoding != "identity") {
            return Err(protocol(format!("it sends the file encoded as {encoding:?}, which was not asked for")));
        }
        self.check_tag(answer, at)?;
        let length = answer.header("content-length").map(|length| length.trim().parse::<u64>());
        let length = match length {
            Some(Err(_)) => return Err(protocol("its Content-Length is no number".to_owned())),
            Some(Ok(length)) => Some(length),
            None => None,
        };
        match (range, answer.status()) {
            (None, 200) | (Some(_), 200) if length.is_some_and(|length| length != self.size) => {
                Err(size(length.unwrap_or_default()))
            }
            (None, 200) => Ok(Verdict::Body),
            (Some(_), 200) => Ok(Verdict::Whole),
            (None, _) => Err(protocol("it sends a range that was not asked for".to_owned())),
            (Some((from, to)), _) => {
                let header = answer.header("content-range").unwrap_or_default();
                let Some((first, last, total)) = content_range(header) else {
                    return Err(protocol(format!("expected the bytes {from} to {to}, found {header:?}")));
                };
                if let Some(total) = total.filter(|total| *total != self.size) {
                    return Err(size(total));
                }
                if first != from || last >= to {
                    return Err(protocol(format!("expected the bytes {from} to {to}, found {header:?}")));
                }
                Ok(Verdict::Body)
            }
        }
    }

    /// One host must give one `ETag`, and that of the location where it is the same address's.
    fn check_tag(&self, answer: &Answer, at: &Location) -> Result<(), DownloadError> {
        let Some(tag) = answer.header("etag") else {
            return Ok(());
        };
        if at.same_tag && at.version.as_deref().is_some_and(|version| version != tag) {
            return Err(self.changed(at.version.as_deref(), Some(tag)));
        }
        let mut tags = self.tags.lock().expect("nothing panics with it");
        let first = tags.entry(host(answer.url())).or_insert_with(|| tag.to_owned());
        if first != tag {
            return Err(self.changed(Some(first), Some(tag)));
        }
        Ok(())
    }

    fn page(&self, answer: &Answer) -> DownloadError {
        DownloadError::Page { path: self.path.clone(), url: shown(answer.url()) }
    }

    fn status(&self, answer: &Answer) -> DownloadError {
        DownloadError::Status { path: self.path.clone(), answer: answer.to_string() }
    }
}

/// The first and the last byte, and the size of the file: `bytes 0-9/100`, or `bytes 0-9/*`.
pub(super) fn content_range(header: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = header.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, last, total))
}

/// Whether a file begins as a page for browsers does, of a portal that wants a log-in for instance. Texts for people may.
fn is_page(begin: &[u8], path: &SafePath) -> bool {
    let begin = begin.trim_ascii_start();
    let is = |tag: &[u8]| begin.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag));
    (is(b"<!doctype") || is(b"<html")) && !path.as_str().to_ascii_lowercase().ends_with(".md")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_of_answers() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0, 9, Some(100))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5, 5, None)));
        for header in
            ["", "bytes */100", "bytes 9-0/100", "bytes 0-100/100", "bytes 0-9/-1", "items 0-9/100", "bytes 0-9"]
        {
            assert_eq!(content_range(header), None, "{header}");
        }
    }

    #[test]
    fn pages() {
        let weights = "a.safetensors".parse().unwrap();
        assert!(is_page(b"\n <!DOCTYPE html><html>", &weights));
        assert!(is_page(b"<HTML lang=en>", &weights));
        assert!(!is_page(b"<htm", &weights) && !is_page(b"", &weights) && !is_page(b"{}", &weights));
        assert!(!is_page(b"<html>", &"README.md".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn no_header_is_too_odd(header in "(bytes )?[0-9*/-]{0,60}") {
            if let Some((first, last, total)) = content_range(&header) {
                prop_assert!(first <= last && total.is_none_or(|total| last < total));
            }
        }
    }
}
