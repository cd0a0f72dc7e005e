//! A file in which a prefix cache outlives its server.
//!
//! ```text
//! MAGIC | what computed it: 32 bytes | bytes of a page: u64 | pages … | 0: u8
//! page: n ids: u8 | parent: u8 | its number, or adapter: u32 | scope: 32 bytes | ids: u32… | keys and values | SHA-256
//! ```
//!
//! Integers are little-endian. Pages lie as [`Engine::kept`] lists them, so that a smaller cache takes those that were wanted
//! last, and a file that is damaged is good up to there. Keys and values are the back-end's own: whoever names a file says
//! what computed them, and nobody else's are taken. They and the tokens are texts of people, so the file is for its owner.

use puna_checkpoint::Pending;
use puna_checkpoint::adapter::Digest;
use puna_engine::{Engine, PAGE_LEN, Parent, Scope};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const MAGIC: &[u8; 16] = b"puna prefixes 1\n";

/// What a page's parent is.
const ROOT: u8 = 0;
const ROOT_OF_ADAPTER: u8 = 1;
const PAGE: u8 = 2;

/// Bytes before a page's token ids.
const HEAD: usize = 1 + 1 + 4 + 32;

/// What was read or written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Pages.
    pub pages: usize,
    /// Tokens in them.
    pub tokens: usize,
}

/// Why a file was not written, or not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file system's.
    #[error("{0}")]
    Read(io::Error),
    /// The same, when it was to be written.
    #[error(transparent)]
    Write(Box<puna_checkpoint::Error>),
    /// Whoever is told of the progress did not want the rest.
    #[error("it was stopped before its end")]
    Stopped,
    /// It is something else, which must not be overwritten.
    #[error("expected a file in which puna keeps prefixes, found another")]
    Foreign,
    /// Keys and values of another model, or computed in another way.
    #[error("expected prefixes that this model computed, with these adapters, on this processor, found others")]
    Other,
    /// Not what was written.
    #[error("page {page} is damaged")]
    Damaged {
        /// Its number, from 0.
        page: usize,
    },
    /// It can't be put into this engine.
    #[error(transparent)]
    Engine(#[from] puna_engine::Error),
}

impl From<puna_checkpoint::Error> for Fault {
    fn from(error: puna_checkpoint::Error) -> Fault {
        Fault::Write(Box::new(error))
    }
}

/// Whether a file of this name can be written: it must not turn out only when the server ends.
///
/// # Errors
/// Faults of the file system.
pub fn try_to_write(path: &Path) -> Result<(), Fault> {
    // Without its end it is removed again.
    Pending::create_private(path)?;
    Ok(())
}

/// Writes the prefix cache of an engine to a file, in place of what has that name. `computed_by` names whatever keys and values
/// depend on; [`read`] takes none by others. `progress(bytes done, bytes)` is called after each page; when it returns false,
/// the writing ends there.
///
/// # Errors
/// Faults of the file system, and [`Fault::Stopped`]; then the old file is still there.
pub fn write(
    engine: &Engine,
    path: &Path,
    computed_by: &Digest,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Counted, Fault> {
    let mut file = Pending::create_private(path)?;
    file.write(MAGIC)?;
    file.write(computed_by.bytes())?;
    let page_bytes = engine.model().kv_shape().page_bytes();
    file.write(&(page_bytes as u64).to_le_bytes())?;
    let kept = engine.kept();
    let (mut head, mut values) = (Vec::new(), Vec::new());
    let mut counted = Counted::default();
    for page in &kept {
        engine.read_page(page.page, &mut values);
        let (kind, number, scope) = match page.parent {
            Parent::Root(scope, None) => (ROOT, 0, scope),
            Parent::Root(scope, Some(adapter)) => (ROOT_OF_ADAPTER, adapter, scope),
            Parent::Page(number) => (PAGE, number, Scope::default()),
        };
        head.clear();
        head.extend([page.ids.len() as u8, kind]);
        head.extend(number.to_le_bytes());
        head.extend(scope.0);
        head.extend(page.ids.iter().flat_map(|id| id.to_le_bytes()));
        file.write(&head)?;
        file.write(&values)?;
        file.write(&Sha256::new().chain_update(&head).chain_update(&values).finalize())?;
        counted.pages += 1;
        counted.tokens += page.ids.len();
        if !progress((counted.pages * page_bytes) as u64, (kept.len() * page_bytes) as u64) {
            return Err(Fault::Stopped);
        }
    }
    file.write(&[0])?;
    file.finish()?;
    Ok(counted)
}

/// Puts what a file has into the prefix cache of an engine, as far as there is room; nothing where there is no file. What was
/// read before a fault is in the cache. `progress(bytes done, bytes)` is called after each page.
pub fn read(
    engine: &mut Engine,
    path: &Path,
    computed_by: &Digest,
    progress: &mut dyn FnMut(u64, u64),
) -> (Counted, Result<(), Fault>) {
    let mut counted = Counted::default();
    let result = match File::open(path) {
        Ok(file) => read_file(engine, &file, computed_by, &mut counted, progress),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Fault::Read(error)),
    };
    (counted, result)
}

fn read_file(
    engine: &mut Engine,
    file: &File,
    computed_by: &Digest,
    counted: &mut Counted,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Fault> {
    let n_all = file.metadata().map_err(Fault::Read)?.len();
    let page_bytes = engine.model().kv_shape().page_bytes();
    let mut file = BufReader::with_capacity(1 << 20, file);
    if !same(&mut file, MAGIC)? {
        return Err(Fault::Foreign);
    }
    if !same(&mut file, computed_by.bytes())? || !same(&mut file, &(page_bytes as u64).to_le_bytes())? {
        return Err(Fault::Other);
    }
    let mut n_done = (MAGIC.len() + 32 + 8) as u64;
    let mut restoring = engine.restore();
    // A page of the largest size, so that no file says how much memory is taken.
    let mut page = vec![0; HEAD + 4 * PAGE_LEN + page_bytes];
    loop {
        let damaged = Fault::Damaged { page: counted.pages };
        if !fill(&mut file, &mut page[..1])? {
            return Err(damaged);
        }
        let n_ids = usize::from(page[0]);
        if n_ids == 0 {
            // The end; behind it there would be a page whose first byte became this.
            return if fill(&mut file, &mut page[..1])? { Err(damaged) } else { Ok(()) };
        }
        let n_bytes = HEAD + 4 * n_ids + page_bytes;
        let mut sum = [0; 32];
        if n_ids > PAGE_LEN || !fill(&mut file, &mut page[1..n_bytes])? || !fill(&mut file, &mut sum)? {
            return Err(damaged);
        }
        if sum[..] != Sha256::digest(&page[..n_bytes])[..] {
            return Err(damaged);
        }
        let (head, values) = page[..n_bytes].split_at(HEAD + 4 * n_ids);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let scope = |bytes: &[u8]| Scope(std::array::from_fn(|i| bytes[i]));
        let parent = match (head[1], number(&head[2..6])) {
            (ROOT, _) => Parent::Root(scope(&head[6..HEAD]), None),
            (ROOT_OF_ADAPTER, adapter) => Parent::Root(scope(&head[6..HEAD]), Some(adapter)),
            (PAGE, page) => Parent::Page(page),
            _ => return Err(damaged),
        };
        let ids: Vec<u32> = head[HEAD..].chunks_exact(4).map(number).collect();
        if !restoring.page(parent, &ids, values)? {
            return Ok(());
        }
        counted.pages += 1;
        counted.tokens += n_ids;
        n_done += (n_bytes + sum.len()) as u64;
        progress(n_done, n_all);
    }
}

/// Whether these bytes come next.
fn same(file: &mut impl Read, expected: &[u8]) -> Result<bool, Fault> {
    let mut found = vec![0; expected.len()];
    Ok(fill(file, &mut found)? && found == expected)
}

/// Reads as many bytes; false when the file has fewer left.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> Result<bool, Fault> {
    match file.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true).map_err(Fault::Read),
    }
}
