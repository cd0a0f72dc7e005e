//! Models that are signed, and changed afterwards.

use super::certificates::samples::{DAY, NOW, Says, authority, chain, issue, root_like, signer};
use super::keys::samples::{p256, p384, p521};
use super::*;
use crate::bundle::{self, Keep};
use crate::digest::sha256;
use crate::manifest::{FORMAT, File};
use crate::model::Model;
use proptest::prelude::*;
use serde_json::Value;
use std::num::NonZeroU64;
use std::sync::LazyLock;

/// A folder with a model in it, and a place for signatures beside it.
struct World {
    dir: tempfile::TempDir,
}

const LONG: usize = 3_000;

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let world = World { dir };
        for (path, bytes) in [
            ("config.json", b"{}".to_vec()),
            ("weights/long.bin", (0..LONG).map(|i| (i * 7 + i / 251) as u8).collect()),
            ("weights.txt", b"weights".to_vec()),
            (".gitattributes", b"*".to_vec()),
        ] {
            world.write(path, &bytes);
        }
        world
    }

    fn model(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    fn signature(&self) -> PathBuf {
        self.dir.path().join("model.sig")
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let at = self.model().join(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, bytes).unwrap();
    }

    fn survey(&self, method: Method) -> Statement {
        let signature = self.signature();
        let selection =
            Selection { method, ignored: &[], allow_symlinks: false, only_files: false, signature: &signature };
        survey(&self.model(), &selection, 2, &quiet).unwrap()
    }

    fn sign(&self, method: Method, signer: &Signer) {
        write(&self.signature(), &signer.sign(&self.survey(method)).unwrap()).unwrap();
    }

    fn verify(&self, trust: &Trust) -> Result<Report, SigningError> {
        verify(&self.model(), &self.signature(), trust, false, 2, &quiet)
    }

    fn faults(&self, trust: &Trust) -> Vec<String> {
        self.verify(trust).unwrap().faults.iter().map(ToString::to_string).collect()
    }

    /// Changes the signature's JSON.
    fn tamper(&self, change: &dyn Fn(&mut Value)) {
        let mut json: Value = serde_json::from_slice(&std::fs::read(self.signature()).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(self.signature(), serde_json::to_vec(&json).unwrap()).unwrap();
    }
}

fn quiet(_: u64, _: u64) {}

fn shards() -> Method {
    Method::Shards(NonZeroU64::new(1000).unwrap())
}

fn by_key(seed: u8) -> (Signer, Trust) {
    let key = p256(seed);
    let trust = Trust::in_key(key.public());
    (Signer::with_key(key), trust)
}

#[test]
fn what_is_signed_is_verified() {
    for method in [Method::Files, shards()] {
        for key in [p256(1), p384(1), p521(1)] {
            let world = World::new();
            let trust = Trust::in_key(key.public());
            world.sign(method, &Signer::with_key(key));
            let report = world.verify(&trust).unwrap();
            assert!(report.faults.is_empty(), "{:?}", report.faults);
            assert_eq!((report.statement.files.len(), report.n_bytes), (3, LONG as u64 + 9));
            assert_eq!(report.statement.name, "model");
            assert!(matches!(&report.signatory, Signatory::Key(found) if *found == trust.keys[0].fingerprint()));
            // It may lie in the folder, too.
            std::fs::rename(world.signature(), world.model().join("other.sig")).unwrap();
            let inside = verify(&world.model(), &world.model().join("other.sig"), &trust, false, 1, &quiet).unwrap();
            assert!(inside.faults.is_empty(), "{:?}", inside.faults);
        }
    }
}

#[test]
fn what_is_not_as_it_was_is_named() {
    let (signer, trust) = by_key(1);
    let world = World::new();
    world.sign(Method::Files, &signer);
    world.write("weights/extra", b"");
    std::fs::remove_file(world.model().join("config.json")).unwrap();
    world.write("weights.txt", b"weight!");
    assert_eq!(
        world.faults(&trust),
        [
            "config.json: it is missing",
            "weights.txt: it was changed: its hash is another than the one that was signed",
            "weights/extra: it was not signed",
        ]
    );
    let lenient = verify(&world.model(), &world.signature(), &trust, true, 2, &quiet).unwrap();
    assert_eq!((lenient.faults.len(), lenient.n_unsigned), (2, 1));
    // A folder in place of a file.
    std::fs::create_dir(world.model().join("config.json")).unwrap();
    assert_eq!(world.faults(&trust)[0], "config.json: it is missing");
}

#[test]
fn shards_locate_a_change() {
    let (signer, trust) = by_key(1);
    let world = World::new();
    world.sign(shards(), &signer);
    let path = world.model().join("weights/long.bin");
    let whole = std::fs::read(&path).unwrap();
    for (changed, expected) in [
        (vec![5], "it was changed in bytes 0 to 1000"),
        (vec![999, 1000], "it was changed in bytes 0 to 2000"),
        (vec![0, 2999], "it was changed in bytes 0 to 1000, 2000 to 3000"),
    ] {
        let mut bytes = whole.clone();
        changed.iter().for_each(|&at: &usize| bytes[at] ^= 1);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(world.faults(&trust), [format!("weights/long.bin: {expected}")]);
    }
    std::fs::write(&path, &whole[..2000]).unwrap();
    assert_eq!(world.faults(&trust), ["weights/long.bin: expected 3000 bytes, found 2000"]);
    std::fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert_eq!(world.faults(&trust), ["weights/long.bin: expected 3000 bytes, found 3001"]);
    std::fs::write(&path, &whole).unwrap();
    // Such a signature can't have files of no bytes.
    world.write("empty", b"");
    let report = world.verify(&trust).unwrap();
    assert_eq!((report.faults.len(), report.n_empty), (0, 1));
}

#[cfg(unix)]
#[test]
fn links_are_followed_only_if_they_were_signed_so() {
    use std::os::unix::fs::symlink;
    let (signer, trust) = by_key(1);
    let world = World::new();
    world.sign(Method::Files, &signer);
    let (link, aside) = (world.model().join("weights.txt"), world.dir.path().join("aside"));
    std::fs::rename(&link, &aside).unwrap();
    symlink(&aside, &link).unwrap();
    assert_eq!(world.faults(&trust), ["weights.txt: it is a symbolic link"]);
    // Not even for those that were signed, where others are passed over.
    symlink(&aside, world.model().join("other")).unwrap();
    let lenient = verify(&world.model(), &world.signature(), &trust, true, 2, &quiet).unwrap();
    assert_eq!((lenient.faults.len(), lenient.n_unsigned), (1, 1));

    let signature = world.signature();
    let mut selection = Selection {
        method: Method::Files,
        ignored: &[],
        allow_symlinks: false,
        only_files: false,
        signature: &signature,
    };
    let error = survey(&world.model(), &selection, 1, &quiet).unwrap_err().to_string();
    assert!(error.contains("other: it is a symbolic link") && error.contains("--allow-symlinks"), "{error}");
    selection.allow_symlinks = true;
    let statement = survey(&world.model(), &selection, 1, &quiet).unwrap();
    write(&signature, &signer.sign(&statement).unwrap()).unwrap();
    assert!(world.faults(&trust).is_empty());
    std::fs::write(&aside, "other").unwrap();
    assert_eq!(world.faults(&trust).len(), 2);
    // A folder elsewhere is not looked into.
    symlink(world.dir.path(), world.model().join("folder")).unwrap();
    assert!(world.faults(&trust).contains(&"folder: it is a symbolic link, and not to a file".to_owned()));
}

#[test]
fn one_file_alone() {
    let (signer, trust) = by_key(1);
    let world = World::new();
    let (file, signature) = (world.model().join("weights/long.bin"), world.signature());
    for method in [Method::Files, shards()] {
        let selection =
            Selection { method, ignored: &[], allow_symlinks: false, only_files: false, signature: &signature };
        let statement = survey(&file, &selection, 1, &quiet).unwrap();
        write(&signature, &signer.sign(&statement).unwrap()).unwrap();
        let check = |path: &Path| verify(path, &signature, &trust, false, 1, &quiet);
        assert!(check(&file).unwrap().faults.is_empty());
        // It is the bytes that count, not what the file is called.
        assert_eq!(check(&world.model().join("weights.txt")).unwrap().faults.len(), 1);
        let error = check(&world.model()).unwrap_err().to_string();
        assert!(error.contains("name the file"), "{error}");
        // As the specification's text has it, by its name.
        let named = Statement { is_alone: false, ..statement };
        write(&signature, &signer.sign(&named).unwrap()).unwrap();
        assert!(check(&file).unwrap().faults.is_empty());
    }
}

#[test]
fn signatures_that_are_not_the_ones_asked_for() {
    let ((signer, trust), (_, other)) = (by_key(1), by_key(2));
    let world = World::new();
    world.sign(Method::Files, &signer);
    let refused = |trust: &Trust, expected: &str| {
        let error = world.verify(trust).unwrap_err().to_string();
        assert!(error.contains("model.sig") && error.contains(expected), "expected `{expected}`: {error}");
    };
    refused(&other, &format!("expected {}", other.keys[0].fingerprint()));
    let ([root, between, leaf], key) = chain();
    let roots = || Trust { keys: Vec::new(), roots: vec![root.clone()], at: NOW };
    refused(&roots(), "--key");
    // Whoever changes whose it says that it is, does not change whose it is.
    let hint = other.keys[0].fingerprint().to_string();
    world.tamper(&|json| json["verificationMaterial"]["publicKey"]["hint"] = hint.clone().into());
    refused(&other, "made with another key, or was changed");
    world.tamper(&|json| json["verificationMaterial"]["publicKey"] = serde_json::json!({}));
    refused(&other, "made with another key, or was changed");
    world.verify(&trust).unwrap();
    // Of several keys it may be any one's.
    let keys = || [other.keys[0].clone(), trust.keys[0].clone()].into();
    assert!(world.faults(&Trust { keys: keys(), roots: Vec::new(), at: 0 }).is_empty());
    world.sign(Method::Files, &signer);
    assert!(world.faults(&Trust { keys: keys(), roots: vec![root.clone()], at: NOW }).is_empty());
    // Another statement under the same signature.
    let statement = Statement { name: "other".into(), ..world.survey(Method::Files) };
    let payload = Bundle::parse(&signer.sign(&statement).unwrap()).unwrap().payload;
    let encoded = <base64ct::Base64 as base64ct::Encoding>::encode_string(&payload);
    world.tamper(&|json| json["dsseEnvelope"]["payload"] = encoded.clone().into());
    refused(&trust, "made with another key, or was changed");

    let before = serde_json::json!({ "_type": "t", "predicateType": "https://model_signing/Digests/v0.1" }).to_string();
    let encoded = <base64ct::Base64 as base64ct::Encoding>::encode_string(before.as_bytes());
    world.tamper(&|json| json["dsseEnvelope"]["payload"] = encoded.clone().into());
    refused(&trust, "before 1.0");

    world.sign(Method::Files, &Signer::with_certificate(key, Path::new("c"), vec![leaf, between], NOW).unwrap());
    world.verify(&roots()).unwrap();
    refused(&trust, "--root");
    refused(&Trust { keys: Vec::new(), roots: vec![root.clone()], at: NOW + 2 * DAY }, "valid from");
    let other = issue(Says { extensions: authority(None), ..root_like() }, &p521(9), &p521(9));
    refused(&Trust { keys: Vec::new(), roots: vec![other], at: NOW }, "does not lead to a root");
    world.tamper(&|json| {
        json["verificationMaterial"]["x509CertificateChain"]["certificates"][0]["rawBytes"] = "AAAA".into();
    });
    refused(&roots(), "not a certificate");
    std::fs::write(world.signature(), "").unwrap();
    refused(&roots(), "expected a Sigstore bundle");
    std::fs::remove_file(world.signature()).unwrap();
    refused(&roots(), "can't read it");
}

#[test]
fn a_certificate_signs_with_its_own_key() {
    let ([_, between, leaf], key) = chain();
    let path = Path::new("leaf.pem");
    let error = |key, chain, now| Signer::with_certificate(key, path, chain, now).err().unwrap().to_string();
    assert!(error(p256(9), vec![leaf.clone()], NOW).contains("another key"));
    assert!(error(p256(3), vec![leaf.clone()], NOW + 2 * DAY).contains("valid from"));
    assert!(error(p384(2), vec![between], NOW).contains("no digital signature"));
    assert!(error(p256(3), vec![], NOW).contains("expected a certificate"));
    let signer_of = Signer::with_certificate(key, path, vec![leaf], NOW).unwrap();
    assert_eq!(signer_of.signatory().to_string(), "CN=Somebody, for whom CN=Between vouches");
    // One that nobody else vouches for.
    let says = Says { subject: "CN=Self", issuer: "CN=Self", extensions: signer(), ..root_like() };
    let own = issue(says, &p384(4), &p384(4));
    let world = World::new();
    world.sign(shards(), &Signer::with_certificate(p384(4), path, vec![own.clone()], NOW).unwrap());
    assert!(world.faults(&Trust { keys: Vec::new(), roots: vec![own], at: NOW }).is_empty());
}

#[test]
fn nothing_that_is_no_signature_is_written_over() {
    let world = World::new();
    let (signer, _) = by_key(1);
    let json = signer.sign(&world.survey(Method::Files)).unwrap();
    let taken = world.model().join("config.json");
    let error = write(&taken, &json).unwrap_err().to_string();
    assert!(error.contains("something else than a signature"), "{error}");
    assert_eq!(std::fs::read(&taken).unwrap(), b"{}");
    write(&world.signature(), &json).unwrap();
    write(&world.signature(), &json).unwrap();
    assert!(write(&world.model(), &json).is_err());
}

#[test]
fn key_pairs_are_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("signing.key");
    let key = PrivateKey::generate().unwrap();
    let public = write_key_pair(&key, &path).unwrap();
    assert_eq!(public, dir.path().join("signing.key.pub"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(read_private_key(&path).unwrap().public() == read_public_key(&public).unwrap());
    let other = PrivateKey::generate().unwrap();
    let exists = |path: &Path| write_key_pair(&other, path).unwrap_err().to_string();
    assert!(exists(&path).contains("signing.key.pub: exists already"));
    std::fs::remove_file(&public).unwrap();
    assert!(exists(&path).contains("signing.key: exists already"));
    assert!(!public.exists());
    assert!(read_private_key(&path).unwrap().public() == key.public());
    let error = read_public_key(&path).unwrap_err().to_string();
    assert!(error.contains("signing.key: expected a public key"), "{error}");
    assert!(read_certificates(&dir.path().join("none")).unwrap_err().to_string().contains("can't read it"));
}

#[test]
fn nothing_to_sign() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".gitignore"), "*").unwrap();
    let signature = dir.path().join("model.sig");
    let selection = Selection {
        method: Method::Files,
        ignored: &[],
        allow_symlinks: false,
        only_files: false,
        signature: &signature,
    };
    let error = survey(dir.path(), &selection, 1, &quiet).unwrap_err().to_string();
    assert!(error.contains("no file to sign"), "{error}");
    std::fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
    let tiny = Selection { method: Method::Shards(NonZeroU64::MIN), ..selection };
    let error = survey(dir.path(), &tiny, 1, &quiet).unwrap_err().to_string();
    assert!(error.contains("larger shards"), "{error}");
    assert!(survey(&dir.path().join("none"), &selection, 1, &quiet).is_err());
}

/// The model of a [`World`], as it is kept.
fn kept(world: &World) -> Model {
    let files = ["config.json", "weights.txt", "weights/long.bin", ".gitattributes"].map(|path| {
        let bytes = std::fs::read(world.model().join(path)).unwrap();
        let blake3 = Hex(*blake3::hash(&bytes).as_bytes());
        File { path: path.parse().unwrap(), size: bytes.len() as u64, sha256: sha256(&bytes), blake3 }
    });
    let manifest = Manifest {
        format: FORMAT.into(),
        name: "local/model".parse().unwrap(),
        revision: "main".into(),
        source: "a test".into(),
        kept_at: "2026-11-28T19:56:00.000Z".into(),
        files: files.to_vec(),
    };
    world.write(".puna/manifest.json", &serde_json::to_vec(&manifest).unwrap());
    Model::open(&world.model()).unwrap()
}

#[test]
fn a_kept_model_is_signed_for_its_bundles_too() {
    let world = World::new();
    let model = kept(&world);
    let (signer, trust) = by_key(1);
    let signature = usual_place(&model.dir);
    assert_eq!(signature, model.dir.join(".puna/manifest.sig"));
    let ignored = ignored_of(&model.manifest);
    for method in [Method::Files, shards()] {
        let selection =
            Selection { method, ignored: &ignored, allow_symlinks: false, only_files: false, signature: &signature };
        let statement = survey(&model.dir, &selection, 2, &quiet).unwrap();
        expect_kept(&statement, &model.manifest).unwrap();
        write(&signature, &signer.sign(&statement).unwrap()).unwrap();
        let to = world.dir.path().join(format!("bundle-{}", method != Method::Files));
        let what = Keep { model: &model, to: &to, beside: &[], with_person: false };
        bundle::keep(what, 2, NOW, &quiet).unwrap();
        let report = verify(&to, &usual_place(&to), &trust, false, 2, &quiet).unwrap();
        assert!(report.faults.is_empty() && report.statement.files.len() == 3, "{report:?}");
    }
    // Nothing but what the manifest has is signed as the model.
    let check = |expected: &str| {
        let selection = Selection {
            method: Method::Files,
            ignored: &ignored,
            allow_symlinks: false,
            only_files: false,
            signature: &signature,
        };
        let statement = survey(&model.dir, &selection, 2, &quiet).unwrap();
        let error = expect_kept(&statement, &model.manifest).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    world.write("more", b"more");
    check("more: ");
    std::fs::remove_file(world.model().join("more")).unwrap();
    world.write("config.json", b"[]");
    check("config.json: ");
    std::fs::remove_file(world.model().join("config.json")).unwrap();
    check("config.json: ");
    assert_eq!(usual_place(&world.model().join("weights")), world.model().join("weights/model.sig"));
    assert_eq!(usual_place(&world.model().join("weights.txt")), world.model().join("weights.txt.sig"));
}

static KEY: LazyLock<PublicKey> = LazyLock::new(|| p256(1).public());

proptest! {
    /// Whatever is changed of a signature, it says what was signed or nothing.
    #[test]
    fn a_changed_signature_says_nothing_else(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        static SIGNED: LazyLock<(World, Statement, Vec<u8>)> = LazyLock::new(|| {
            let world = World::new();
            let statement = world.survey(Method::Files);
            let json = by_key(1).0.sign(&statement).unwrap();
            (world, statement, json)
        });
        let (world, statement, json) = &*SIGNED;
        let trust = Trust::in_key(KEY.clone());
        let mut json = json.clone();
        let at = at.index(json.len());
        json[at] ^= 1 << bit;
        std::fs::write(world.signature(), json).unwrap();
        if let Ok(report) = world.verify(&trust) {
            prop_assert!(report.statement == *statement && report.faults.is_empty());
        }
    }
}
