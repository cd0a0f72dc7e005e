//! Prefix caches in files: an engine that read one answers as the engine that wrote it, and whatever is in a file does no harm.

#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "../../engine/tests/fake/mod.rs"]
#[allow(dead_code, reason = "each program uses a part")]
mod fake;

use fake::Fake;
use proptest::prelude::*;
use puna_checkpoint::adapter::Digest;
use puna_engine::{BatchLimits, Batcher, Engine, Event, Limits, PAGE_LEN, Request, Sampling, Scope, Token};
use puna_session::kept::{self, Counted, Fault};
use std::fs;
use std::path::Path;

const CONTEXT: usize = 10 * PAGE_LEN;
const VOCAB: usize = 50;

fn engine(n_tokens: usize) -> Engine {
    Fake { config: Fake::new(VOCAB, CONTEXT, 7).config, ..Fake::new(VOCAB, n_tokens, 7) }.engine()
}

fn by() -> Digest {
    Digest::of(b"this test")
}

fn text(seed: u64, n: usize) -> Vec<u32> {
    (0..n as u64).map(|i| (((seed + 1) * (i + 3) * (i + 5)) % VOCAB as u64) as u32).collect()
}

/// Computes a text, and leaves it in the cache. Gives the token that follows, with its score, and how many were computed.
fn compute(batcher: &mut Batcher, scope: u8, adapter: Option<u32>, ids: &[u32]) -> (Token, usize) {
    let limits = Limits { max_tokens: 1, stop_tokens: Vec::new() };
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let request = Request { scope: Scope([scope; 32]), adapter, ..Request::new(ids.to_vec(), greedy, limits) };
    batcher.submit(request).unwrap();
    let (mut token, mut n_cached) = (None, 0);
    while batcher.step(&mut |_, event| match event {
        Event::Prefill { cached, .. } => n_cached = cached,
        Event::Token(scored) => token = Some(scored.token),
        Event::Failed(error) => panic!("{error}"),
        _ => {}
    }) {}
    (token.unwrap(), ids.len() - n_cached)
}

fn batcher(engine: Engine) -> Batcher {
    Batcher::new(engine, None, BatchLimits::default())
}

fn read(engine: &mut Engine, path: &Path) -> (Counted, Result<(), Fault>) {
    kept::read(engine, path, &by(), &mut |_, _| {})
}

/// Three texts in a file, of which two begin alike; and how many pages they take.
fn written(path: &Path) -> usize {
    let mut batcher = batcher(engine(CONTEXT));
    let long = text(1, 3 * PAGE_LEN + 9);
    let other = [&long[..PAGE_LEN], &text(2, 20)].concat();
    compute(&mut batcher, 1, None, &long);
    compute(&mut batcher, 1, None, &other);
    compute(&mut batcher, 2, Some(3), &text(3, PAGE_LEN));
    let counted = kept::write(batcher.engine(), path, &by(), &mut |_, _| true).unwrap();
    assert_eq!(counted, Counted { pages: 6, tokens: 4 * PAGE_LEN + 29 });
    counted.pages
}

#[test]
fn what_was_written_is_not_computed_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prefixes");
    let n_pages = written(&path);
    let mut engine = engine(CONTEXT);
    let (counted, result) = read(&mut engine, &path);
    result.unwrap();
    assert_eq!(counted.pages, n_pages);
    let long = text(1, 3 * PAGE_LEN + 9);
    let mut batcher = batcher(engine);
    let unread = &mut self::batcher(self::engine(CONTEXT));
    for (scope, adapter, ids, n_expected) in [
        (1, None, long.clone(), 1),
        (1, None, [&long[..], &text(5, 7)].concat(), 7),
        (1, None, [&long[..PAGE_LEN], &text(2, 20)].concat(), 1),
        (2, Some(3), [text(3, PAGE_LEN), text(4, 3)].concat(), 3),
        // Another's.
        (2, None, long.clone(), long.len()),
        (2, Some(2), text(3, PAGE_LEN), PAGE_LEN),
    ] {
        let (token, n_computed) = compute(&mut batcher, scope, adapter, &ids);
        assert_eq!(n_computed, n_expected, "{scope} {adapter:?} {}", ids.len());
        assert_eq!(token, compute(unread, scope, adapter, &ids).0);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_smaller_cache_takes_what_was_wanted_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prefixes");
    written(&path);
    let mut engine = engine(2 * PAGE_LEN);
    let (counted, result) = read(&mut engine, &path);
    result.unwrap();
    assert_eq!(counted.pages, 2);
    assert_eq!(compute(&mut batcher(engine), 2, Some(3), &[text(3, PAGE_LEN), text(4, 3)].concat()).1, 3);
}

#[test]
fn other_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prefixes");
    assert!(matches!(read(&mut engine(CONTEXT), &path), (Counted { pages: 0, .. }, Ok(()))));
    written(&path);
    let (counted, result) = kept::read(&mut engine(CONTEXT), &path, &Digest::of(b"another"), &mut |_, _| {});
    assert!(counted.pages == 0 && matches!(result, Err(Fault::Other)), "{result:?}");
    fs::write(&path, "What a herd of llamas needs").unwrap();
    assert!(matches!(read(&mut engine(CONTEXT), &path).1, Err(Fault::Foreign)));
    assert!(matches!(read(&mut engine(CONTEXT), dir.path()).1, Err(Fault::Read(_))));
    let error = kept::write(&engine(CONTEXT), &dir.path().join("no").join("prefixes"), &by(), &mut |_, _| true);
    assert!(matches!(error, Err(Fault::Write(_))));
    // A file that is not wanted to its end leaves the old one, and nothing beside it.
    let mut batcher = batcher(engine(CONTEXT));
    compute(&mut batcher, 1, None, &text(1, 3 * PAGE_LEN));
    assert!(matches!(kept::write(batcher.engine(), &path, &by(), &mut |_, _| false), Err(Fault::Stopped)));
    assert_eq!(fs::read(&path).unwrap(), b"What a herd of llamas needs");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Puts right sums behind the pages of a file.
fn sum(file: &mut [u8], page_bytes: usize) {
    use sha2::{Digest, Sha256};
    let mut at = 56;
    while let Some(n) =
        file.get(at).map(|n| 38 + 4 * usize::from(*n) + page_bytes).filter(|n| at + n + 32 <= file.len())
    {
        let sum = Sha256::digest(&file[at..at + n]);
        file[at + n..at + n + 32].copy_from_slice(&sum);
        at += n + 32;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is in a file, the engine stays whole; and what is damaged is seen.
    #[test]
    fn damaged_files_do_no_harm(
        changes in prop::collection::vec((56usize..8000, any::<u8>()), 0..4), length in 0usize..9000, with_sums: bool
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prefixes");
        let n_pages = written(&path);
        let whole = fs::read(&path).unwrap();
        let mut file = whole.clone();
        file.truncate(length);
        for (at, value) in changes {
            if let Some(byte) = file.get_mut(at) {
                *byte = value;
            }
        }
        let mut engine = engine(CONTEXT);
        let page_bytes = engine.model().kv_shape().page_bytes();
        if with_sums {
            sum(&mut file, page_bytes);
        }
        fs::write(&path, &file).unwrap();
        let (counted, result) = read(&mut engine, &path);
        prop_assert!(counted.pages <= n_pages);
        if !with_sums {
            prop_assert_eq!(file == whole, result.is_ok(), "{:?}", result);
        }
        // Every page can still be had.
        let ids = text(9, CONTEXT);
        prop_assert_eq!(compute(&mut batcher(engine), 3, None, &ids).1, CONTEXT);
        if result.is_ok() && !with_sums {
            prop_assert_eq!(counted.pages, n_pages);
        }
    }
}
