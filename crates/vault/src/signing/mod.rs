//! Signatures over models: OpenSSF Model Signing 1.0, by keys and by certificates.
//!
//! ```text
//! model.sig          a Sigstore bundle                                    bundle.rs
//!   whose it is      a key's fingerprint, or certificates                 keys.rs, certificates.rs
//!   an envelope      the signature over what follows
//!     a statement    each file, or each part of one, and its hash         statement.rs
//! ```
//!
//! A signature says who vouches for these bytes, and nothing about what they do. Whose it is is never taken from it: the
//! user names a key or roots. Nothing of the statement is believed before its signature is found right, and no file is
//! read that it does not name. Unless the user says otherwise, a folder has exactly the files that were signed.

mod bundle;
mod certificates;
mod files;
mod keys;
mod pem;
mod statement;

#[cfg(test)]
mod tests;

pub use bundle::BundleError;
pub use certificates::{Certificate, CertificateError};
pub use keys::{KeyError, PrivateKey, PublicKey};
pub use pem::PemError;
pub use statement::{Hash, Method, Signed, Statement, StatementError};

use crate::bundle::names_beside;
use crate::digest::Hex;
use crate::disk::{self, Disk, DiskError};
use crate::hashing::Progress;
use crate::manifest::Manifest;
use crate::model::{MANIFEST, Model, RECORDS, SIGNATURE};
use crate::path::SafePath;
use bundle::{Bundle, MAX_BUNDLE, Material};
use files::{Found, Job, Other, Rules};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What version control keeps beside a model, and is no part of it.
const VERSION_CONTROL: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];
/// Longest file of keys or certificates that is read, in bytes. Systems' lists of roots have some hundred kilobytes.
const MAX_KEYS: u64 = 4 << 20;
/// Shortest resource in a signature: a hash and what is written around it, as Base64.
const MIN_RESOURCE: u64 = 160;

/// A model that is not signed, or whose signature is not right.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file that holds no key.
    #[error("{}: {error}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: KeyError,
    },
    /// A file that holds no certificates.
    #[error("{}: {error}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: CertificateError,
    },
    /// Two keys.
    #[error("the certificate of {0} is for another key than the one that was given to sign with")]
    Pair(String),
    /// A certificate that does not vouch.
    #[error("{}: {error}", path.display())]
    Untrusted {
        /// The signature.
        path: PathBuf,
        /// What is wrong.
        error: CertificateError,
    },
    /// A file that is no signature.
    #[error("{}: {error}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: BundleError,
    },
    /// A signature over something else than a model.
    #[error("{}: the signature is right, but {error}", path.display())]
    Statement {
        /// The signature.
        path: PathBuf,
        /// What is wrong with it.
        error: StatementError,
    },
    /// A signature of another kind.
    #[error("{}: {found}", path.display())]
    Kind {
        /// The signature.
        path: PathBuf,
        /// Which, and what to do.
        found: &'static str,
    },
    /// A signature by another key.
    #[error("{}: signed by the key {found}, expected {expected}", path.display())]
    OtherKey {
        /// The signature.
        path: PathBuf,
        /// The key that it names.
        found: String,
        /// The keys one of which was to be its signer's.
        expected: String,
    },
    /// A signature that is none.
    #[error("{}: not a signature by {by}: it was made with another key, or was changed afterwards", path.display())]
    Forged {
        /// The signature.
        path: PathBuf,
        /// Whose it was to be.
        by: String,
    },
    /// A signature from before the specification.
    #[error(
        "{}: signed by a version of the reference implementation from before 1.0, which is not checked here; ask for a \
         newer signature",
        .0.display()
    )]
    Before(PathBuf),
    /// Nothing to sign.
    #[error("{}: there is no file to sign in it", .0.display())]
    Nothing(PathBuf),
    /// Something that can't be signed.
    #[error("{}: can't be signed: {fault}; leave it out with --ignore PATH{}", path.display(), links(fault))]
    Unsignable {
        /// The model.
        path: PathBuf,
        /// What is in the way.
        fault: Fault,
    },
    /// A signature that nobody would read.
    #[error("the signature would have more than 64 MiB: sign whole files, or larger shards")]
    TooLong,
    /// A file that is not to be lost.
    #[error("{}: there is something else than a signature of the kind that puna makes; name another file", .0.display())]
    Taken(PathBuf),
    /// A key that is not to be lost.
    #[error("{}: exists already; keys are never written over, name another file", .0.display())]
    KeyExists(PathBuf),
    /// A model in the store, or a bundle, whose files are not its manifest's.
    #[error("{path}: it is not what the manifest says; `puna verify --deep` tells more")]
    NotAsKept {
        /// The file.
        path: SafePath,
    },
}

fn links(fault: &Fault) -> &'static str {
    if fault.what == What::Link { ", or take links for the files that they lead to, with --allow-symlinks" } else { "" }
}

/// Who signs.
pub struct Signer {
    key: PrivateKey,
    chain: Vec<Certificate>,
}

/// Whom the user trusts.
pub struct Trust {
    /// Whoever holds the private key to one of these.
    pub keys: Vec<PublicKey>,
    /// Those for whom one of these vouches, directly or through others.
    pub roots: Vec<Certificate>,
    /// When certificates are to be valid, in milliseconds since 1970.
    pub at: i64,
}

/// Who signed.
#[derive(Clone, Debug)]
pub enum Signatory {
    /// The holder of a key, by its fingerprint.
    Key(Hex<32>),
    /// The holder of a certificate.
    Certificate(Box<Certificate>),
}

/// What of a model is signed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'s> {
    /// One hash a file, or several.
    pub method: Method,
    /// Files and folders to leave out.
    pub ignored: &'s [SafePath],
    /// Whether links to files are taken for the files.
    pub allow_symlinks: bool,
    /// Whether what can't be signed is left out, rather than an error.
    pub only_files: bool,
    /// Where the signature is to lie; it is not signed itself.
    pub signature: &'s Path,
}

/// What a signature that is right says, and what of it is not so.
#[derive(Debug)]
pub struct Report {
    /// Who signed.
    pub signatory: Signatory,
    /// What was signed.
    pub statement: Statement,
    /// Bytes that were read.
    pub n_bytes: u64,
    /// Files that were not signed, and were to be passed over.
    pub n_unsigned: usize,
    /// Files of no bytes that were not signed: a signature by shards can't have them.
    pub n_empty: usize,
    /// What is not as it was signed, by name.
    pub faults: Vec<Fault>,
}

/// Something that is not as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it is called, in the model's folder.
    pub path: String,
    /// What is wrong with it.
    pub what: What,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is not there.
    Missing,
    /// It is there, and was not signed.
    Unsigned,
    /// It is a symbolic link.
    Link,
    /// It is a symbolic link to nothing, or to a folder.
    LinkToNoFile,
    /// It is a device, a pipe or a socket.
    NoFile,
    /// No file is signed under such a name; why.
    Name(String),
    /// It has another length, in bytes.
    Length {
        /// The one that was signed.
        signed: u64,
        /// The one that it has.
        found: u64,
    },
    /// It has another hash.
    Changed,
    /// Parts of it have other hashes.
    ChangedIn(Vec<Range<u64>>),
    /// It can't be read; why.
    Unreadable(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "{}: ", self.path)?;
        match &self.what {
            What::Missing => f.write_str("it is missing"),
            What::Unsigned => f.write_str("it was not signed"),
            What::Link => f.write_str("it is a symbolic link"),
            What::LinkToNoFile => f.write_str("it is a symbolic link, and not to a file"),
            What::NoFile => f.write_str("it is neither a file nor a folder"),
            What::Name(why) => write!(f, "no file can have that name on every system: {why}"),
            What::Length { signed, found } => write!(f, "expected {signed} bytes, found {found}"),
            What::Changed => f.write_str("it was changed: its hash is another than the one that was signed"),
            What::ChangedIn(ranges) => {
                f.write_str("it was changed in bytes ")?;
                for (i, range) in ranges.iter().take(SHOWN).enumerate() {
                    write!(f, "{}{} to {}", if i > 0 { ", " } else { "" }, range.start, range.end)?;
                }
                if ranges.len() > SHOWN {
                    write!(f, " and {} more ranges", ranges.len() - SHOWN)?;
                }
                Ok(())
            }
            What::Unreadable(why) => write!(f, "it can't be read: {why}"),
        }
    }
}

impl From<Other> for What {
    fn from(other: Other) -> What {
        match other {
            Other::Link => What::Link,
            Other::LinkToNoFile => What::LinkToNoFile,
            Other::NoFile => What::NoFile,
            Other::Name(why) => What::Name(why),
        }
    }
}

impl fmt::Display for Signatory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signatory::Key(fingerprint) => write!(f, "the key {fingerprint}"),
            Signatory::Certificate(certificate) => {
                write!(f, "{}, for whom {} vouches", certificate.subject(), certificate.issuer())
            }
        }
    }
}

impl Trust {
    /// Whoever holds a private key.
    #[must_use]
    pub fn in_key(key: PublicKey) -> Trust {
        Trust { keys: vec![key], roots: Vec::new(), at: 0 }
    }

    /// The public keys and the certificates in a folder, in files of PEM. `None` if there is no such folder.
    ///
    /// # Errors
    /// When a file has neither: whoever put it there meant somebody.
    pub fn in_folder(dir: &Path, now: i64) -> Result<Option<Trust>, SigningError> {
        if !dir.is_dir() {
            return Ok(None);
        }
        let mut trust = Trust { keys: Vec::new(), roots: Vec::new(), at: now };
        for path in disk::names_in(dir)? {
            match read_certificates(&path) {
                Err(SigningError::Certificates { error: CertificateError::None, .. }) => {
                    trust.keys.push(read_public_key(&path)?);
                }
                certificates => trust.roots.extend(certificates?),
            }
        }
        Ok(Some(trust))
    }
}

impl Signer {
    /// Signs with a key alone.
    #[must_use]
    pub fn with_key(key: PrivateKey) -> Signer {
        Signer { key, chain: Vec::new() }
    }

    /// Signs with a key that a certificate, the first of a chain, says whose it is. `now` is in milliseconds since 1970.
    ///
    /// # Errors
    /// When the certificate is another key's, or is not for this, or its time is not now.
    pub fn with_certificate(
        key: PrivateKey,
        path: &Path,
        chain: Vec<Certificate>,
        now: i64,
    ) -> Result<Signer, SigningError> {
        let error = |error| SigningError::Certificates { path: path.to_owned(), error };
        let leaf = chain.first().ok_or_else(|| error(CertificateError::None))?;
        if leaf.key().map_err(error)? != key.public() {
            return Err(SigningError::Pair(leaf.subject()));
        }
        // That a root vouches for it is for those to say who check.
        certificates::check(&chain, std::slice::from_ref(leaf), now).map_err(error)?;
        Ok(Signer { key, chain })
    }

    /// Who it is.
    #[must_use]
    pub fn signatory(&self) -> Signatory {
        match self.chain.first() {
            Some(leaf) => Signatory::Certificate(Box::new(leaf.clone())),
            None => Signatory::Key(self.key.public().fingerprint()),
        }
    }

    /// The file that says what a statement says, signed.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn sign(&self, statement: &Statement) -> Result<Vec<u8>, SigningError> {
        let material = if self.chain.is_empty() {
            Material::Key { hint: Some(self.key.public().fingerprint().to_string()) }
        } else {
            Material::Certificates(self.chain.iter().map(|certificate| certificate.der().to_vec()).collect())
        };
        let mut bundle = Bundle { payload: statement.to_json(), signature: Vec::new(), material };
        bundle.signature = self.key.sign(&bundle.signed());
        let json = bundle.to_json();
        if json.len() as u64 > MAX_BUNDLE { Err(SigningError::TooLong) } else { Ok(json) }
    }
}

/// Reads a private key from a PEM file.
///
/// # Errors
/// When it can't be read, or holds none.
pub fn read_private_key(path: &Path) -> Result<PrivateKey, SigningError> {
    let error = |error| SigningError::Key { path: path.to_owned(), error };
    PrivateKey::from_pem(&read(path, MAX_KEYS)?).map_err(error)
}

/// Reads a public key from a PEM file.
///
/// # Errors
/// When it can't be read, or holds none.
pub fn read_public_key(path: &Path) -> Result<PublicKey, SigningError> {
    let error = |error| SigningError::Key { path: path.to_owned(), error };
    PublicKey::from_pem(&read(path, MAX_KEYS)?).map_err(error)
}

/// Reads all certificates of a PEM file.
///
/// # Errors
/// When it can't be read, or holds none.
pub fn read_certificates(path: &Path) -> Result<Vec<Certificate>, SigningError> {
    let error = |error| SigningError::Certificates { path: path.to_owned(), error };
    Certificate::from_pem(&read(path, MAX_KEYS)?).map_err(error)
}

/// Writes a new pair of keys: the private one to `path`, for nobody but this user to read, and the public one to `path`
/// with `.pub` behind it, which is told.
///
/// # Errors
/// When either file exists, or the disk refuses.
pub fn write_key_pair(key: &PrivateKey, path: &Path) -> Result<PathBuf, SigningError> {
    let public = with_suffix(path, ".pub");
    if std::fs::symlink_metadata(&public).is_ok() {
        return Err(SigningError::KeyExists(public));
    }
    write_new(path, key.to_pem().as_bytes(), 0o600)?;
    if let Err(error) = write_new(&public, key.public().to_pem().as_bytes(), 0o644) {
        // The error that led here is the one to tell.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(public)
}

#[cfg_attr(not(unix), expect(unused_variables, reason = "there are no such modes"))]
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SigningError> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let mut file = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => SigningError::KeyExists(path.to_owned()),
        _ => DiskError::of("create it", path)(error).into(),
    })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a key is none, and would be in the way.
        let _ = std::fs::remove_file(path);
        return Err(DiskError::of("write it", path)(error).into());
    }
    Ok(Disk::default().sync_dir(path.parent().unwrap_or(path))?)
}

/// Where a model's signature lies unless somebody names another place: among the records of one that is kept, in the
/// folder of another, or beside a file.
#[must_use]
pub fn usual_place(path: &Path) -> PathBuf {
    let records = path.join(RECORDS);
    if records.join(MANIFEST).is_file() {
        records.join(SIGNATURE)
    } else if path.is_dir() {
        path.join("model.sig")
    } else {
        with_suffix(path, ".sig")
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Writes a signature, in place of another of the same form.
///
/// # Errors
/// When something else is there, or the disk refuses.
pub fn write(path: &Path, signature: &[u8]) -> Result<(), SigningError> {
    let there = disk::read_bounded(path, MAX_BUNDLE)?;
    if there.is_some_and(|there| Bundle::parse(&there).is_err()) {
        return Err(SigningError::Taken(path.to_owned()));
    }
    let temporary = path.with_file_name(disk::temporary_name());
    Ok(Disk::default().write_whole(&temporary, path, signature)?)
}

/// Hashes what is to be signed of a folder or a file.
///
/// # Errors
/// When there is something that can't be signed, or nothing that can, or it can't be read.
pub fn survey(
    path: &Path,
    selection: &Selection<'_>,
    n_threads: usize,
    progress: Progress<'_>,
) -> Result<Statement, SigningError> {
    let Selection { method, allow_symlinks, .. } = *selection;
    let place = Place::of(path)?;
    let mut ignored: BTreeSet<String> = VERSION_CONTROL.map(str::to_owned).into();
    ignored.extend(selection.ignored.iter().map(ToString::to_string));
    ignored.extend(place.inside(selection.signature));
    let found = place.list(&Rules { ignored: &ignored, allow_symlinks, wanted: None })?;
    let unsignable = |path: &str, what| SigningError::Unsignable {
        path: place.root.clone(),
        fault: Fault { path: path.to_owned(), what },
    };
    if let Some((name, other)) = found.others.into_iter().next().filter(|_| !selection.only_files) {
        return Err(unsignable(&name, other.into()));
    }
    let n_parts = found.files.values().fold(0, |sum: u64, &len| sum.saturating_add(Signed::n_parts(method, len)));
    if n_parts > MAX_BUNDLE / MIN_RESOURCE {
        return Err(SigningError::TooLong);
    }
    if n_parts == 0 {
        return Err(SigningError::Nothing(path.to_owned()));
    }
    let jobs: Vec<Job> = found.files.iter().map(|(path, &len)| Job { path: path.below(&place.root), len }).collect();
    let hashes = files::hash(&jobs, Hash::Sha256, method, n_threads, progress);
    let mut signed = BTreeMap::new();
    for ((path, len), hashes) in found.files.into_iter().zip(hashes) {
        let hashes: Result<Vec<Vec<u8>>, String> = hashes.into_iter().collect();
        let hashes = hashes.map_err(|why| unsignable(path.as_str(), What::Unreadable(why)))?;
        if !hashes.is_empty() {
            let len = (method != Method::Files).then_some(len);
            signed.insert(path, Signed { len, hashes });
        }
    }
    Ok(Statement {
        name: place.name,
        is_alone: place.alone.is_some(),
        method,
        hash: Hash::Sha256,
        allow_symlinks,
        ignored: ignored.into_iter().collect(),
        files: signed,
    })
}

/// What a signature leaves out of a model that is kept: its records, and what `puna keep` puts beside its files.
#[must_use]
pub fn ignored_of(manifest: &Manifest) -> Vec<SafePath> {
    let beside = names_beside(manifest.files.iter().map(|file| file.path.as_str()));
    let names = beside.iter().map(String::as_str).chain([RECORDS]);
    names.map(|name| name.parse().expect("it is the name of a file")).collect()
}

/// Whether what is to be signed are the files of a manifest, as far as their hashes are comparable.
///
/// # Errors
/// With the first that is not.
pub fn expect_kept(statement: &Statement, manifest: &Manifest) -> Result<(), SigningError> {
    let error = |path: &SafePath| Err(SigningError::NotAsKept { path: path.clone() });
    let is_left_out = |path: &str| {
        let of = |ignored: &String| path.strip_prefix(ignored.as_str());
        statement.ignored.iter().filter_map(of).any(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let kept: BTreeMap<&SafePath, Hex<32>> = manifest.files.iter().map(|file| (&file.path, file.sha256)).collect();
    if let Some(path) = statement.files.keys().find(|path| !kept.contains_key(path)) {
        return error(path);
    }
    for file in manifest.files.iter().filter(|file| !is_left_out(file.path.as_str())) {
        let is_kept = match (statement.method, statement.files.get(&file.path)) {
            (Method::Files, Some(signed)) => signed.hashes.iter().all(|hash| hash[..] == file.sha256.0),
            (Method::Files, None) => false,
            (Method::Shards(_), Some(signed)) => signed.len == Some(file.size),
            (Method::Shards(_), None) => file.size == 0,
        };
        if !is_kept {
            return error(&file.path);
        }
    }
    Ok(())
}

/// Checks the signature that lies with a model that is kept, against its manifest: none of its files is read.
///
/// # Errors
/// When the signature is not right, or is over other files than those of the manifest.
pub fn verify_kept(model: &Model, trust: &Trust) -> Result<Signatory, SigningError> {
    let (signatory, statement) = read_signature(&usual_place(&model.dir), trust, None)?;
    expect_kept(&statement, &model.manifest)?;
    Ok(signatory)
}

/// Checks a folder or a file against a signature. With `ignore_unsigned`, further files are no fault.
///
/// # Errors
/// When the signature is not right: nothing is known then. Files that are not as they were signed are
/// [`Report::faults`].
pub fn verify(
    path: &Path,
    signature: &Path,
    trust: &Trust,
    ignore_unsigned: bool,
    n_threads: usize,
    progress: Progress<'_>,
) -> Result<Report, SigningError> {
    let place = Place::of(path)?;
    let (signatory, statement) = read_signature(signature, trust, place.alone.as_ref())?;

    let mut ignored: BTreeSet<String> = VERSION_CONTROL.map(str::to_owned).into();
    ignored.extend(statement.ignored.iter().map(|path| path.trim_end_matches('/').to_owned()));
    ignored.extend(place.inside(signature));
    let rules = Rules { ignored: &ignored, allow_symlinks: statement.allow_symlinks, wanted: Some(&statement.files) };
    let found = place.list(&rules)?;

    let mut faults: BTreeMap<String, What> = BTreeMap::new();
    let (mut n_unsigned, mut n_empty) = (0, 0);
    for (path, &len) in found.files.iter().filter(|(path, _)| !statement.files.contains_key(path)) {
        if len == 0 && statement.method != Method::Files {
            n_empty += 1;
        } else if ignore_unsigned {
            n_unsigned += 1;
        } else {
            faults.insert(path.to_string(), What::Unsigned);
        }
    }
    for (name, other) in found.others {
        let is_signed = name.parse::<SafePath>().is_ok_and(|path| statement.files.contains_key(&path));
        if ignore_unsigned && !is_signed {
            n_unsigned += 1;
        } else {
            faults.insert(name, other.into());
        }
    }
    let mut jobs = Vec::new();
    let mut of_jobs = Vec::new();
    for (path, signed) in &statement.files {
        match (found.files.get(path), signed.len) {
            (None, _) => {
                faults.entry(path.to_string()).or_insert(What::Missing);
            }
            (Some(&found), Some(signed)) if found != signed => {
                faults.insert(path.to_string(), What::Length { signed, found });
            }
            (Some(&len), _) => {
                jobs.push(Job { path: path.below(&place.root), len });
                of_jobs.push((path, signed));
            }
        }
    }
    let hashes = files::hash(&jobs, statement.hash, statement.method, n_threads, progress);
    for (((path, signed), job), hashes) in of_jobs.into_iter().zip(&jobs).zip(hashes) {
        let what = compare(statement.method, job.len, &signed.hashes, &hashes);
        faults.extend(what.map(|what| (path.to_string(), what)));
    }
    let n_bytes = jobs.iter().fold(0, |sum: u64, job| sum.saturating_add(job.len));
    let faults = faults.into_iter().map(|(path, what)| Fault { path, what }).collect();
    Ok(Report { signatory, statement, n_bytes, n_unsigned, n_empty, faults })
}

/// Who signed, if it is somebody whom the user trusts, and what; `alone` is the name of the file, if it is one.
fn read_signature(
    path: &Path,
    trust: &Trust,
    alone: Option<&SafePath>,
) -> Result<(Signatory, Statement), SigningError> {
    let bundle = Bundle::parse(&read(path, MAX_BUNDLE)?)
        .map_err(|error| SigningError::Bundle { path: path.to_owned(), error })?;
    let signatory = authenticate(&bundle, path, trust)?;
    let statement = Statement::parse(&bundle.payload, alone)
        .map_err(|error| SigningError::Statement { path: path.to_owned(), error })?;
    Ok((signatory, statement))
}

/// Who signed, if it is somebody whom the user trusts.
fn authenticate(bundle: &Bundle, path: &Path, trust: &Trust) -> Result<Signatory, SigningError> {
    let kind = |found| Err(SigningError::Kind { path: path.to_owned(), found });
    let Trust { keys, roots, at } = trust;
    let (key, signatory) = match &bundle.material {
        Material::Key { .. } if keys.is_empty() => {
            return kind("signed by a key without certificates: name the public key, --key FILE");
        }
        Material::Key { hint } => {
            let is_named = |key: &&PublicKey| hint.as_ref().is_none_or(|hint| *hint == key.fingerprint().to_string());
            let named: Vec<&PublicKey> = keys.iter().filter(is_named).collect();
            // A signature need not say by which key it is.
            let by = named.iter().find(|key| key.verifies(&bundle.signed(), &bundle.signature));
            let Some(key) = by.or(named.first()) else {
                let found = hint.iter().flat_map(|hint| hint.chars()).take(80).collect();
                let expected: Vec<String> = keys.iter().map(|key| key.fingerprint().to_string()).collect();
                return Err(SigningError::OtherKey { path: path.to_owned(), found, expected: expected.join(" or ") });
            };
            ((*key).clone(), Signatory::Key(key.fingerprint()))
        }
        Material::Certificates(_) if roots.is_empty() => {
            return kind("signed by somebody with a certificate: name the certificates that you trust, --root FILE");
        }
        Material::Certificates(chain) => {
            let untrusted = |error| SigningError::Untrusted { path: path.to_owned(), error };
            let chain = chain.iter().map(|der| Certificate::from_der(der)).collect::<Result<Vec<_>, _>>();
            let chain = chain.map_err(untrusted)?;
            certificates::check(&chain, roots, *at).map_err(untrusted)?;
            let leaf = chain.into_iter().next().expect("a chain without certificates leads nowhere");
            (leaf.key().map_err(untrusted)?, Signatory::Certificate(Box::new(leaf)))
        }
    };
    if !key.verifies(&bundle.signed(), &bundle.signature) {
        if statement::is_from_before(&bundle.payload) {
            return Err(SigningError::Before(path.to_owned()));
        }
        return Err(SigningError::Forged { path: path.to_owned(), by: signatory.to_string() });
    }
    Ok(signatory)
}

/// What is wrong with a file, by the hashes of its parts.
fn compare(method: Method, len: u64, signed: &[Vec<u8>], found: &[Result<Vec<u8>, String>]) -> Option<What> {
    if let Some(why) = found.iter().find_map(|found| found.as_ref().err()) {
        return Some(What::Unreadable(why.clone()));
    }
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (part_idx, (signed, found)) in signed.iter().zip(found).enumerate() {
        if found.as_ref() != Ok(signed) {
            let (start, end) = Signed::part(method, len, part_idx);
            match ranges.last_mut() {
                Some(range) if range.end == start => range.end = end,
                _ => ranges.push(start..end),
            }
        }
    }
    match method {
        _ if ranges.is_empty() => None,
        Method::Files => Some(What::Changed),
        Method::Shards(_) => Some(What::ChangedIn(ranges)),
    }
}

/// Where a model lies.
struct Place {
    /// Its folder, or the one that its file is in.
    root: PathBuf,
    /// The name of its file, if it is one.
    alone: Option<SafePath>,
    /// What it is called.
    name: String,
}

impl Place {
    fn of(path: &Path) -> Result<Place, SigningError> {
        let kind = std::fs::metadata(path).map_err(DiskError::of("look at it", path))?;
        let canonical = path.canonicalize().map_err(DiskError::of("look at it", path))?;
        let name = canonical.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if kind.is_dir() {
            return Ok(Place { root: path.to_owned(), alone: None, name });
        }
        let unsignable =
            |what| SigningError::Unsignable { path: path.to_owned(), fault: Fault { path: name.clone(), what } };
        if !kind.is_file() {
            return Err(unsignable(What::NoFile));
        }
        let alone = name.parse::<SafePath>().map_err(|error| unsignable(What::Name(error.why.into())))?;
        let root = canonical.parent().unwrap_or(&canonical).to_owned();
        Ok(Place { root, alone: Some(alone), name })
    }

    fn list(&self, rules: &Rules<'_>) -> Result<Found, DiskError> {
        let Some(name) = &self.alone else { return files::list(&self.root, rules) };
        let path = name.below(&self.root);
        let kind = std::fs::metadata(&path).map_err(DiskError::of("look at it", &path))?;
        Ok(Found { files: [(name.clone(), kind.len())].into(), others: BTreeMap::new() })
    }

    /// What a file is called below the model's folder, if it is there or would be.
    fn inside(&self, file: &Path) -> Option<String> {
        if self.alone.is_some() {
            return None;
        }
        let parent = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let at = parent.canonicalize().ok()?.join(file.file_name()?);
        let below = at.strip_prefix(self.root.canonicalize().ok()?).ok()?;
        let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
        parts.map(|parts| parts.join("/"))
    }
}

/// Reads a small file that must be there.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, DiskError> {
    let absent = || DiskError::of("read it", path)(io::ErrorKind::NotFound.into());
    disk::read_bounded(path, limit)?.ok_or_else(absent)
}
