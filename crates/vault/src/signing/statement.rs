//! What is signed: that a model has these files, with these hashes.
//!
//! A statement of in-toto (version 1) whose predicate is that of OpenSSF Model Signing 1.0, in the envelope that DSSE puts
//! a signature over. (<https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>,
//! <https://github.com/ossf/model-signing-spec>, <https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>)

use crate::digest::{Hex, sha256};
use crate::path::{PathError, SafePath};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU64;

/// What the bytes of a payload are, for the envelope.
pub(super) const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";
/// The predicate of the reference's first versions, which had all files as subjects.
const PREDICATE_BEFORE: &str = "https://model_signing/Digests/v0.1";
/// The name of a model that is one file, and no folder. (The specification's text has the file's name; the reference has
/// this, and accepts nothing else.)
const ALONE: &str = ".";

/// How a model is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One hash a file.
    Files,
    /// One hash for each so many bytes of a file; files of no bytes have none.
    Shards(NonZeroU64),
}

/// Hashes of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256, which every implementation has.
    Sha256,
    /// BLAKE2b of 512 bits.
    Blake2b,
    /// BLAKE3 of 256 bits.
    Blake3,
}

/// A model's files and their hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What its folder or file was called when it was signed. Means nothing.
    pub name: String,
    /// Whether it is a single file rather than a folder.
    pub is_alone: bool,
    /// How files are taken apart.
    pub method: Method,
    /// By which hash.
    pub hash: Hash,
    /// Whether links to files were taken for the files.
    pub allow_symlinks: bool,
    /// Files and folders that were left out, below the model's folder.
    pub ignored: Vec<String>,
    /// The files.
    pub files: BTreeMap<SafePath, Signed>,
}

/// What is signed of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Its length in bytes, which is signed only where it is taken apart.
    pub len: Option<u64>,
    /// Its hash, or those of its parts.
    pub hashes: Vec<Vec<u8>>,
}

/// A payload that is no statement that can be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Not even JSON of that form.
    #[error("what is signed is not a statement about a model: {0}")]
    Json(String),
    /// Some part of it is something else.
    #[error("what is signed is not as OpenSSF Model Signing 1.0 has it: expected {expected}, found {found}")]
    Unexpected {
        /// What was looked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A name that leads elsewhere, or that some file system can't have.
    #[error("what is signed has a file's name that is not used: {0}")]
    Path(#[from] PathError),
    /// A file of one name twice, or parts of a file that are not one file.
    #[error("what is signed contradicts itself: {0}")]
    Contradiction(String),
    /// A single file, held against a folder.
    #[error("one file was signed, not a folder: name the file")]
    Alone,
}

/// What must be right for the rest to be looked at.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Serialize, Deserialize)]
struct Subject {
    #[serde(default)]
    name: String,
    digest: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Serialize, Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    /// Some write it as a floating-point number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard_size: Option<serde_json::Number>,
    allow_symlinks: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ignore_paths: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

impl Hash {
    /// As statements have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Hash::Sha256 => "sha256",
            Hash::Blake2b => "blake2b",
            Hash::Blake3 => "blake3",
        }
    }

    fn n_bytes(self) -> usize {
        if self == Hash::Blake2b { 64 } else { 32 }
    }
}

impl Signed {
    /// The parts of a file of `len` bytes: how many there are, and where one lies, as its first byte and the one behind
    /// its last.
    pub(super) fn part(method: Method, len: u64, part_idx: usize) -> (u64, u64) {
        match method {
            Method::Files => (0, len),
            Method::Shards(size) => {
                let start = (part_idx as u64).saturating_mul(size.get()).min(len);
                (start, start.saturating_add(size.get()).min(len))
            }
        }
    }

    /// How many parts a file of `len` bytes has.
    pub(super) fn n_parts(method: Method, len: u64) -> u64 {
        match method {
            Method::Files => 1,
            Method::Shards(size) => len.div_ceil(size.get()),
        }
    }
}

/// The bytes that a signature of DSSE is over.
pub(super) fn envelope(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend(payload);
    bytes
}

/// Whether a payload is of the form from before the specification, whose envelope was another, too, so that its signature
/// is none here.
pub(super) fn is_from_before(payload: &[u8]) -> bool {
    serde_json::from_slice::<Head>(payload).is_ok_and(|head| head.predicate_type == PREDICATE_BEFORE)
}

impl Statement {
    /// Reads a payload. Where the model is a single file, `alone` is its name.
    ///
    /// # Errors
    /// When it is no such statement, or contradicts itself.
    pub(super) fn parse(payload: &[u8], alone: Option<&SafePath>) -> Result<Statement, StatementError> {
        let json = |error: serde_json::Error| StatementError::Json(error.to_string());
        let head: Head = serde_json::from_slice(payload).map_err(json)?;
        expect("the type", STATEMENT, &head.kind)?;
        expect("the predicate", PREDICATE, &head.predicate_type)?;
        let Wire { subject, predicate, .. } = serde_json::from_slice(payload).map_err(json)?;
        let Predicate { serialization, resources } = predicate;
        let [subject] = <[Subject; 1]>::try_from(subject)
            .map_err(|subjects| unexpected("one subject".into(), &subjects.len().to_string()))?;
        if resources.is_empty() {
            return Err(unexpected("at least one file".into(), "none"));
        }
        let hash = [Hash::Sha256, Hash::Blake2b, Hash::Blake3]
            .into_iter()
            .find(|hash| hash.name() == serialization.hash_type)
            .ok_or_else(|| unexpected("the hash sha256, blake2b or blake3".into(), &serialization.hash_type))?;
        let method = method(&serialization)?;

        let mut concatenated = Vec::with_capacity(resources.len() * hash.n_bytes());
        let mut parts: BTreeMap<SafePath, Vec<(u64, u64, Vec<u8>)>> = BTreeMap::new();
        let mut is_alone = false;
        for resource in resources {
            let Resource { name, algorithm, digest } = resource;
            let is_right = match method {
                Method::Files => algorithm == hash.name(),
                // The one as the specification's text has it, the other as implementations write it.
                Method::Shards(size) => {
                    algorithm == hash.name() || algorithm == format!("{}-sharded-{size}", hash.name())
                }
            };
            if !is_right {
                return Err(unexpected(format!("{} for every file, as the statement says", hash.name()), &algorithm));
            }
            let digest = bytes(&digest, hash)?;
            concatenated.extend(&digest);
            let (path, start, end) = match method {
                Method::Files => (name.as_str(), 0, 0),
                Method::Shards(_) => shard(&name)?,
            };
            let path = if path == ALONE {
                is_alone = true;
                alone.ok_or(StatementError::Alone)?.clone()
            } else {
                path.parse()?
            };
            parts.entry(path).or_default().push((start, end, digest));
        }
        let root = subject.digest.get("sha256").map_or("", String::as_str);
        let found = sha256(&concatenated);
        if root.parse() != Ok(found) {
            let root = quote(root);
            return Err(StatementError::Contradiction(format!("its root is {root}, and its hashes give {found}")));
        }
        let files = parts.into_iter().map(|(path, parts)| join(&path, method, parts).map(|signed| (path, signed)));
        Ok(Statement {
            name: subject.name,
            is_alone,
            method,
            hash,
            allow_symlinks: serialization.allow_symlinks,
            ignored: serialization.ignore_paths,
            files: files.collect::<Result<_, _>>()?,
        })
    }

    /// The payload that is signed.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let (resources, root) = self.resources();
        let shard_size = match self.method {
            Method::Files => None,
            Method::Shards(size) => Some(size.get().into()),
        };
        let predicate = Predicate {
            serialization: Serialization {
                method: if shard_size.is_some() { "shards" } else { "files" }.into(),
                hash_type: self.hash.name().into(),
                shard_size,
                allow_symlinks: self.allow_symlinks,
                ignore_paths: self.ignored.clone(),
            },
            resources,
        };
        let wire = Wire {
            kind: STATEMENT.into(),
            subject: vec![Subject { name: self.name.clone(), digest: [("sha256".into(), root.to_string())].into() }],
            predicate_type: PREDICATE.into(),
            predicate,
        };
        serde_json::to_vec(&wire).expect("a statement is JSON")
    }

    /// One hash over all: the SHA-256 of the hashes in the order of the names.
    #[must_use]
    pub fn root(&self) -> Hex<32> {
        self.resources().1
    }

    fn resources(&self) -> (Vec<Resource>, Hex<32>) {
        let algorithm = match self.method {
            Method::Files => self.hash.name().to_owned(),
            Method::Shards(size) => format!("{}-sharded-{size}", self.hash.name()),
        };
        let mut named: Vec<(String, &[u8])> = Vec::new();
        for (path, signed) in &self.files {
            let path = if self.is_alone { ALONE } else { path.as_str() };
            for (part_idx, hash) in signed.hashes.iter().enumerate() {
                let name = match self.method {
                    Method::Files => path.to_owned(),
                    Method::Shards(_) => {
                        let (start, end) = Signed::part(self.method, signed.len.unwrap_or(u64::MAX), part_idx);
                        format!("{path}:{start}:{end}")
                    }
                };
                named.push((name, hash));
            }
        }
        named.sort();
        let root = sha256(&named.iter().flat_map(|(_, hash)| *hash).copied().collect::<Vec<u8>>());
        let resources = named.into_iter().map(|(name, hash)| {
            let digest = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            Resource { name, algorithm: algorithm.clone(), digest }
        });
        (resources.collect(), root)
    }
}

fn method(serialization: &Serialization) -> Result<Method, StatementError> {
    let size = serialization.shard_size.as_ref();
    match serialization.method.as_str() {
        "files" => Ok(Method::Files),
        "shards" => {
            // Whole numbers are exact in an f64 up to 2⁵³.
            let whole = |size: f64| (size.fract() == 0.0 && (1.0..=9e15).contains(&size)).then_some(size as u64);
            let bytes = size.and_then(|size| size.as_u64().or_else(|| size.as_f64().and_then(whole)));
            let found = || size.map_or("none".into(), ToString::to_string);
            let bytes = bytes.and_then(NonZeroU64::new);
            Ok(Method::Shards(bytes.ok_or_else(|| unexpected("a shard_size of some bytes".into(), &found()))?))
        }
        other => Err(unexpected("the method files or shards".into(), other)),
    }
}

/// The path of a part, its first byte, and the one behind its last.
fn shard(name: &str) -> Result<(&str, u64, u64), StatementError> {
    let parse = || {
        let mut parts = name.rsplitn(3, ':');
        let (end, start, path) = (parts.next()?, parts.next()?, parts.next()?);
        Some((path, start.parse().ok()?, end.parse().ok()?))
    };
    parse().ok_or_else(|| unexpected("the name of a shard, PATH:START:END".into(), name))
}

fn bytes(digest: &str, hash: Hash) -> Result<Vec<u8>, StatementError> {
    let bytes = if hash.n_bytes() == 64 {
        digest.parse::<Hex<64>>().map(|hash| hash.0.to_vec())
    } else {
        digest.parse::<Hex<32>>().map(|hash| hash.0.to_vec())
    };
    bytes.map_err(|_| unexpected(format!("{} hexadecimal digits", 2 * hash.n_bytes()), digest))
}

/// A file of its parts, which must be all of it, each once.
fn join(path: &SafePath, method: Method, mut parts: Vec<(u64, u64, Vec<u8>)>) -> Result<Signed, StatementError> {
    let size = match method {
        Method::Files if parts.len() == 1 => {
            return Ok(Signed { len: None, hashes: parts.into_iter().map(|(_, _, hash)| hash).collect() });
        }
        Method::Files => return Err(StatementError::Contradiction(format!("{path} is there twice"))),
        Method::Shards(size) => size.get(),
    };
    parts.sort();
    let mut len = 0;
    for (i, (start, end, _)) in parts.iter().enumerate() {
        let is_last = i + 1 == parts.len();
        let n = end.saturating_sub(*start);
        if *start != len || n == 0 || n > size || (n < size && !is_last) {
            let why = format!("the shards of {path} are not its bytes one behind another, {size} in each");
            return Err(StatementError::Contradiction(why));
        }
        len = *end;
    }
    Ok(Signed { len: Some(len), hashes: parts.into_iter().map(|(_, _, hash)| hash).collect() })
}

fn expect(what: &str, expected: &str, found: &str) -> Result<(), StatementError> {
    if expected == found { Ok(()) } else { Err(unexpected(format!("{what} {expected}"), found)) }
}

fn unexpected(expected: String, found: &str) -> StatementError {
    StatementError::Unexpected { expected, found: quote(found) }
}

/// A stranger's text in a message.
fn quote(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn statement(method: Method) -> Statement {
        let file = |len: u64, byte: u8| Signed {
            len: matches!(method, Method::Shards(_)).then_some(len),
            hashes: (0..Signed::n_parts(method, len)).map(|i| vec![byte + i as u8; 32]).collect(),
        };
        Statement {
            name: "model".into(),
            is_alone: false,
            method,
            hash: Hash::Sha256,
            allow_symlinks: false,
            ignored: vec![".git".into()],
            files: [("a/b", 2500, 1), ("a.txt", 100, 20)]
                .map(|(path, n, b)| (path.parse().unwrap(), file(n, b)))
                .into(),
        }
    }

    fn shards() -> Method {
        Method::Shards(NonZeroU64::new(1000).unwrap())
    }

    fn parse(json: &Value) -> Result<Statement, StatementError> {
        Statement::parse(&serde_json::to_vec(json).unwrap(), None)
    }

    /// With its root put right.
    fn rooted(mut json: Value) -> Value {
        let resources = json["predicate"]["resources"].as_array().unwrap();
        let hashes = resources.iter().flat_map(|r| r["digest"].as_str().unwrap().parse::<Hex<32>>().unwrap().0);
        let root = sha256(&hashes.collect::<Vec<u8>>());
        json["subject"][0]["digest"]["sha256"] = root.to_string().into();
        json
    }

    #[test]
    fn statements_are_read_as_written() {
        for method in [Method::Files, shards()] {
            let written = statement(method);
            let json = written.to_json();
            assert_eq!(Statement::parse(&json, None).unwrap(), written);
            let json: Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(json["subject"][0]["digest"]["sha256"], written.root().to_string());
            let names: Vec<&str> = json["predicate"]["resources"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| r["name"].as_str().unwrap())
                .collect();
            match method {
                Method::Files => assert_eq!(names, ["a.txt", "a/b"]),
                Method::Shards(_) => {
                    assert_eq!(names, ["a.txt:0:100", "a/b:0:1000", "a/b:1000:2000", "a/b:2000:2500"]);
                    assert_eq!(json["predicate"]["serialization"]["shard_size"], 1000);
                    assert_eq!(json["predicate"]["resources"][0]["algorithm"], "sha256-sharded-1000");
                }
            }
        }
        // The root by hand.
        let hashes = [[20; 32], [1; 32]].concat();
        assert_eq!(statement(Method::Files).root(), sha256(&hashes));
    }

    #[test]
    fn one_file_alone() {
        let mut written = statement(Method::Files);
        written.files.retain(|path, _| path.as_str() == "a.txt");
        written.is_alone = true;
        let json = written.to_json();
        assert!(String::from_utf8_lossy(&json).contains("\"name\":\".\""));
        let name = "a.txt".parse().unwrap();
        assert_eq!(Statement::parse(&json, Some(&name)).unwrap(), written);
        assert_eq!(Statement::parse(&json, None), Err(StatementError::Alone));
    }

    #[test]
    fn what_others_write() {
        let mut json: Value = serde_json::from_slice(&statement(shards()).to_json()).unwrap();
        json["predicate"]["serialization"]["shard_size"] = json!(1e3);
        json["predicate"]["serialization"].as_object_mut().unwrap().remove("ignore_paths");
        for resource in json["predicate"]["resources"].as_array_mut().unwrap() {
            resource["algorithm"] = "sha256".into();
            resource["annotations"] = json!({ "of": "somebody" });
        }
        // Another order of names gives another root, and is the same model.
        json["predicate"]["resources"].as_array_mut().unwrap().reverse();
        let parsed = parse(&rooted(json)).unwrap();
        assert_eq!(parsed.files, statement(shards()).files);
        assert!(parsed.ignored.is_empty());
    }

    #[test]
    fn what_is_refused() {
        let files: Value = serde_json::from_slice(&statement(Method::Files).to_json()).unwrap();
        let parts: Value = serde_json::from_slice(&statement(shards()).to_json()).unwrap();
        let refused = |json: &Value, change: &dyn Fn(&mut Value), expected: &str| {
            let mut json = json.clone();
            change(&mut json);
            let error = parse(&json).unwrap_err().to_string();
            assert!(error.contains(expected), "expected `{expected}`: {error}");
        };
        refused(&files, &|json| json["_type"] = "https://in-toto.io/Statement/v0.1".into(), "Statement/v0.1");
        refused(&files, &|json| json["predicateType"] = "https://slsa.dev/provenance/v1".into(), "slsa");
        refused(&files, &|json| json["subject"] = json!([]), "one subject");
        refused(&files, &|json| json["subject"][0]["digest"] = json!({}), "its root is");
        refused(&files, &|json| json["predicate"]["resources"] = json!([]), "at least one file");
        refused(
            &files,
            &|json| drop(json["predicate"].as_object_mut().unwrap().remove("serialization")),
            "serialization",
        );
        refused(&files, &|json| json["predicate"]["serialization"]["hash_type"] = "md5".into(), "md5");
        refused(&files, &|json| json["predicate"]["serialization"]["method"] = "tensors".into(), "tensors");
        refused(&files, &|json| json["predicate"]["resources"][0]["algorithm"] = "blake3".into(), "blake3");
        refused(&files, &|json| json["predicate"]["resources"][0]["digest"] = "00".into(), "64 hexadecimal digits");
        refused(&files, &|json| json["predicate"]["resources"][0]["digest"] = "00".repeat(32).into(), "its root is");
        for name in ["../a", "/etc/passwd", "a/../../b", "a//b", "", "C:\\a", "./a"] {
            refused(
                &files,
                &|json| json["predicate"]["resources"][0]["name"] = name.into(),
                "expected a relative path",
            );
        }
        refused(&files, &|json| json["predicate"]["resources"][0]["name"] = ".".into(), "name the file");
        refused(&files, &|json| json["predicate"]["resources"][0]["name"] = "a/b".into(), "twice");

        for size in [json!(0), json!(-1), json!(0.5), json!(1e300), json!(null)] {
            refused(&parts, &|json| json["predicate"]["serialization"]["shard_size"] = size.clone(), "shard_size");
        }
        for name in ["a.txt", "a.txt:0", "a.txt:0:x", "a.txt:-1:5"] {
            refused(&parts, &|json| json["predicate"]["resources"][0]["name"] = name.into(), "PATH:START:END");
        }
        for name in ["a.txt:1:100", "a.txt:0:0", "a.txt:0:1001", "a/b:0:100", "a.txt:100:0"] {
            refused(&parts, &|json| json["predicate"]["resources"][0]["name"] = name.into(), "one behind another");
        }
        refused(
            &parts,
            &|json| json["predicate"]["resources"][2]["name"] = "a/b:1000:1999".into(),
            "one behind another",
        );
    }

    #[test]
    fn the_envelope_is_that_of_the_specification() {
        assert_eq!(envelope("text/plain", "für 1".as_bytes()), "DSSEv1 10 text/plain 6 für 1".as_bytes());
    }

    proptest! {
        #[test]
        fn anything_is_read(
            names in prop::collection::vec(r"([a./:0-9]{0,6}(:[0-9]{1,20}){0,2})", 0..6),
            size in any::<u64>(),
            method in prop::sample::select(vec!["files", "shards"]),
        ) {
            let resources: Vec<Value> =
                names.iter().map(|name| json!({ "name": name, "algorithm": "sha256", "digest": "00".repeat(32) })).collect();
            let json = json!({
                "_type": STATEMENT, "subject": [{ "name": "m", "digest": { "sha256": "" } }], "predicateType": PREDICATE,
                "predicate": {
                    "serialization": { "method": method, "hash_type": "sha256", "shard_size": size, "allow_symlinks": false },
                    "resources": resources,
                },
            });
            if let Ok(parsed) = parse(&rooted(json)) {
                let again = parsed.to_json();
                prop_assert_eq!(Statement::parse(&again, None).unwrap(), parsed);
            }
        }
    }
}
