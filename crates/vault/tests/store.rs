//! Models in a store: taken in, found, checked, repaired, removed; and whatever strangers or old disks do to them.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::synth::{self, Container, Shape, Weights};
use puna_vault::bundle::{self, Keep, KeepError};
use puna_vault::events;
use puna_vault::manifest::{File, Manifest};
use puna_vault::model::{EVENTS, MANIFEST, Model, RECORDS};
use puna_vault::path::SafePath;
use puna_vault::record::{self, Authority, Folder, Licensee, LicenseeKind};
use puna_vault::store::{Adopted, Origin, Staged, Store, StoreError};
use puna_vault::tree::{GROUP, Tree, extent, n_groups, node};
use puna_vault::verify::{Damage, Depth, Report, What, verify};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NOW: i64 = 1_795_891_560_000;
const DEEP: Depth = Depth::Deep { sha256: true };

fn quiet(_: u64, _: u64) {}

/// A random-weight model of three files longer than a group, and small ones.
fn weights(dir: &Path) {
    let json = r#"{"dim": 512, "n_layers": 2, "n_heads": 8, "ffn_dim": 1024, "vocab_size": 600}"#;
    let shape = Shape::from_json("small", json).unwrap();
    let seeded = |seed, out: &Path| {
        let format = "BF16".parse().unwrap();
        synth::write(&shape, format, Container::Safetensors, out, Weights::Random { seed }, &mut |_, _| ()).unwrap();
    };
    seeded(1, dir);
    for seed in [2, 3] {
        let other = dir.with_extension("other");
        seeded(seed, &other);
        fs::create_dir_all(dir.join("more")).unwrap();
        fs::rename(other.join("model.safetensors"), dir.join(format!("more/{seed}.safetensors"))).unwrap();
        fs::remove_dir_all(other).unwrap();
    }
    fs::write(dir.join("empty"), "").unwrap();
}

fn stage(dir: &Path, path: &str, bytes: &[u8]) -> Staged {
    let at = dir.join(path.replace('/', "-"));
    fs::write(&at, bytes).unwrap();
    let len = bytes.len() as u64;
    let nodes = (0..n_groups(len)).map(|group| {
        let (start, n) = extent(len, group);
        node(len, group, &bytes[start as usize..(start + n) as usize])
    });
    let tree = Tree::new(len, nodes.collect()).unwrap();
    Staged { path: path.parse().unwrap(), sha256: puna_vault::digest::sha256(bytes), tree, at }
}

fn stage_all(dir: &Path, from: &Path) -> Vec<Staged> {
    let mut staged = Vec::new();
    for path in files_in(from) {
        let name = path.strip_prefix(from).unwrap().to_str().unwrap().to_owned();
        staged.push(stage(dir, &name, &fs::read(&path).unwrap()));
    }
    staged
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() { found.extend(files_in(&path)) } else { found.push(path) }
    }
    found
}

fn origin(name: &str, revision: Option<&str>) -> Origin {
    Origin { name: name.parse().unwrap(), revision: revision.map(str::to_owned), source: "a test".into() }
}

struct Kept {
    dir: tempfile::TempDir,
    store: Store,
    model: Model,
}

impl Kept {
    fn new() -> Kept {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        weights(&from);
        let store = Store::open(&dir.path().join("home")).unwrap();
        let model = adopt(&store, dir.path(), "meta-llama/Small", &from).model;
        Kept { dir, store, model }
    }

    fn verify(&self, depth: Depth) -> Report {
        verify(&self.model, depth, 2, &quiet).unwrap()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.model.dir.join(path)
    }

    fn file(&self, path: &str) -> &File {
        self.model.manifest.files.iter().find(|file| file.path.as_str() == path).unwrap()
    }
}

fn adopt(store: &Store, dir: &Path, name: &str, from: &Path) -> Adopted {
    let staging = dir.join("staging");
    fs::create_dir_all(&staging).unwrap();
    store.adopt(&origin(name, None), &stage_all(&staging, from), NOW).unwrap()
}

/// Opens a file to write it, whatever its mode says.
fn writable(path: &Path) -> fs::File {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    file
}

fn flip(path: &Path, at: u64, bit: u32) {
    let file = writable(path);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
}

fn damage(report: &Report) -> Vec<(&str, &Damage)> {
    let damage = report.faults.iter().filter_map(|fault| match &fault.what {
        What::Damaged(damage) => Some((fault.file.path.as_str(), damage)),
        _ => None,
    });
    damage.collect()
}

#[test]
fn files_are_kept_once_and_read_only() {
    let kept = Kept::new();
    let report = kept.verify(DEEP);
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    assert_eq!((report.n_files, report.n_bytes), (kept.model.manifest.files.len(), kept.model.manifest.size()));
    for file in &kept.model.manifest.files {
        let (at, blob) = (file.path.below(&kept.model.dir), kept.store.blob(file.blake3));
        let kind = fs::metadata(&at).unwrap();
        assert_eq!(kind.mode() & 0o777, 0o444);
        assert_eq!(kind.ino(), fs::metadata(blob).unwrap().ino());
    }
    assert!(files_in(&kept.dir.path().join("staging")).is_empty());
    let log = events::read(&kept.at(RECORDS).join(EVENTS)).unwrap();
    assert_eq!((log.events.len(), log.events[0].kind.as_str()), (1, "kept"));

    let again = adopt(&kept.store, kept.dir.path(), "meta-llama/Small", &kept.dir.path().join("from"));
    assert_eq!(again.shared, again.model.manifest.size());
    assert_eq!(again.model.manifest, kept.model.manifest);
    let other = adopt(&kept.store, kept.dir.path(), "me/Copy", &kept.dir.path().join("from"));
    let room = kept.store.room(&other.model).unwrap();
    assert_eq!((room.alone, room.shared.len()), (0, other.model.manifest.files.len()));
    assert_eq!(room.shared[0].1, [kept.model.full_name()]);
    assert!(room.on_disk > 0);
}

#[test]
fn models_are_found_by_what_people_type() {
    let kept = Kept::new();
    let found = |wanted: &str| kept.store.find(wanted).map(|model| model.dir);
    let revision = &kept.model.manifest.revision;
    assert_eq!(*revision, kept.model.manifest.root().to_string()[..16]);
    for wanted in ["meta-llama/Small", "Small", "small", "META-LLAMA/small", &format!("Small@{}", &revision[..5])] {
        assert_eq!(found(wanted).unwrap(), kept.model.dir, "{wanted}");
    }
    for wanted in ["", "Smal", "meta-llama", "Small@x", "other/Small", "../Small", "/"] {
        let message = found(wanted).unwrap_err().to_string();
        assert!(message.contains("there are meta-llama/Small@"), "{message}");
    }
    let staged = [stage(kept.dir.path(), "a.gguf", b"a")];
    kept.store.adopt(&origin("meta-llama/Small", Some("newer")), &staged, NOW + 1000).unwrap();
    assert!(found("Small").unwrap().ends_with("newer"));
    let staged = [stage(kept.dir.path(), "a-00001-of-00002.gguf", b"a"), stage(kept.dir.path(), "README.md", b"b")];
    let other = kept.store.adopt(&origin("other/Small", Some("newer")), &staged, NOW).unwrap().model;
    assert!(found("Small").unwrap_err().to_string().contains(" or other/Small@newer; say which"));
    assert!(found("other/Small").unwrap().ends_with("newer"));

    assert_eq!(kept.model.weights().unwrap(), kept.model.dir);
    assert!(kept.store.find("meta-llama/Small@newer").unwrap().weights().unwrap().ends_with("newer/a.gguf"));
    assert!(other.weights().unwrap().ends_with("a-00001-of-00002.gguf"));
    let more = [stage(kept.dir.path(), "b.gguf", b"b")];
    let other = kept.store.adopt(&origin("other/Small", Some("newer")), &more, NOW).unwrap().model;
    assert_eq!(other.manifest.files.len(), 3);
    assert!(other.weights().unwrap_err().to_string().contains("found 2 GGUF files"));

    let changed = [stage(kept.dir.path(), "b.gguf", b"c")];
    let error = kept.store.adopt(&origin("other/Small", Some("newer")), &changed, NOW).unwrap_err();
    assert!(error.to_string().contains("is here already, with another b.gguf"), "{error}");
}

#[test]
fn every_flipped_bit_is_found_where_it_is() {
    let n = std::env::var("PUNA_FLIPS").map_or(50, |n| n.parse().expect("a number"));
    let kept = Kept::new();
    let mut random = 1u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let files: Vec<&File> = kept.model.manifest.files.iter().filter(|file| file.size > 0).collect();
    let total = kept.model.manifest.size();
    for i in 0..n {
        let mut at = next(total);
        let file = files.iter().find(|file| {
            let is_here = at < file.size;
            if !is_here {
                at -= file.size;
            }
            is_here
        });
        let (file, bit) = (file.unwrap(), next(8) as u32);
        let path = file.path.below(&kept.model.dir);
        flip(&path, at, bit);
        let report = kept.verify(Depth::Deep { sha256: i % 10 == 0 });
        let found = damage(&report);
        assert_eq!(report.faults.len(), 1, "{:?}", report.faults);
        assert_eq!((found[0].0, &found[0].1.groups), (file.path.as_str(), &vec![at / GROUP]));
        assert!(found[0].1.ranges[0].contains(&at));
        flip(&path, at, bit);
    }
    assert!(kept.verify(DEEP).faults.is_empty());
}

#[test]
fn damage_is_named() {
    let kept = Kept::new();
    let path = kept.at("more/2.safetensors");
    let size = kept.file("more/2.safetensors").size;
    assert!(size > 2 * GROUP);
    flip(&path, size - 1, 0);
    let report = kept.verify(Depth::Deep { sha256: false });
    let found = damage(&report);
    let tensors = &found[0].1.tensors;
    assert!(!tensors.is_empty() && tensors.iter().all(|name| name.contains('.')), "{tensors:?}");
    let first = n_groups(size) - 1;
    let message = report.faults[0].to_string();
    let expected = format!("more/2.safetensors: damaged in bytes {} to {size}, in the tensors ", first * GROUP);
    assert!(message.starts_with(&expected), "{message}");
    // In the directory of tensors itself.
    flip(&path, 9, 0);
    let report = kept.verify(DEEP);
    assert_eq!((&damage(&report)[0].1.groups, &damage(&report)[0].1.tensors), (&vec![0, first], &Vec::new()));

    writable(&kept.at("config.json")).set_len(3).unwrap();
    fs::remove_file(kept.at("tokenizer.json")).unwrap();
    fs::remove_file(kept.at("empty")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", kept.at("empty")).unwrap();
    fs::set_permissions(kept.at("model.safetensors"), fs::Permissions::from_mode(0o644)).unwrap();
    for depth in [Depth::Quick, DEEP] {
        let report = kept.verify(depth);
        let message = |what: &str| report.faults.iter().any(|fault| fault.to_string().contains(what));
        assert!(message("config.json: expected "), "{:?}", report.faults);
        assert!(message("tokenizer.json: it is missing"));
        assert!(message("empty: expected a regular file, found something else"));
        assert!(message("model.safetensors: it can be written"));
        assert_eq!(message("config.json: damaged in bytes 0 to "), depth == DEEP);
    }
}

#[test]
fn a_manifest_with_another_sha256_is_found() {
    let mut kept = Kept::new();
    kept.model.manifest.files[0].sha256 = puna_vault::digest::sha256(b"other");
    assert!(kept.verify(Depth::Deep { sha256: false }).faults.is_empty());
    let report = kept.verify(DEEP);
    assert!(matches!(report.faults[..], [ref fault] if matches!(fault.what, What::Sha256(_))), "{:?}", report.faults);
}

#[test]
fn a_sample_reads_a_share_of_each_file() {
    let kept = Kept::new();
    let of = |share, seed| kept.verify(Depth::Sample { share, seed });
    assert_eq!(of(1.0, 0).n_bytes, kept.model.manifest.size());
    let few = of(0.0, 1);
    assert!(few.faults.is_empty() && few.n_bytes < kept.model.manifest.size());
    flip(&kept.at("more/3.safetensors"), GROUP + 1, 3);
    let n_found = (0..64).filter(|seed| !of(0.0, *seed).is_whole()).count();
    assert!((1..64).contains(&n_found), "{n_found}");
    assert!(!of(1.0, 0).is_whole());
}

#[test]
fn a_lost_tree_is_told_and_restored() {
    let kept = Kept::new();
    fs::remove_dir_all(kept.store.home().join("store").join("trees")).unwrap();
    for depth in [Depth::Quick, Depth::Sample { share: 1.0, seed: 0 }, DEEP] {
        let report = kept.verify(depth);
        assert!(report.is_whole());
        assert_eq!(report.faults.iter().filter(|fault| matches!(fault.what, What::NoTree)).count(), 3);
    }
    flip(&kept.at("more/2.safetensors"), 5, 5);
    let report = kept.verify(DEEP);
    let size = kept.file("more/2.safetensors").size;
    let range = 0..size;
    assert_eq!(damage(&report)[0].1.ranges, std::slice::from_ref(&range));
    let error = kept.store.repair(&kept.model, kept.file("more/2.safetensors"), &[]).err().unwrap();
    assert!(error.to_string().contains("can only be fetched again as a whole"), "{error}");
    assert_eq!(kept.store.restore_trees(&kept.model).unwrap(), 2);
    flip(&kept.at("more/2.safetensors"), 5, 5);
    assert_eq!(kept.store.restore_trees(&kept.model).unwrap(), 1);
    assert!(kept.verify(DEEP).faults.is_empty());
}

#[test]
fn damage_is_repaired_by_group_and_from_other_copies() {
    let kept = Kept::new();
    let other = adopt(&kept.store, kept.dir.path(), "me/Copy", &kept.dir.path().join("from")).model;
    let (path, original) = ("more/2.safetensors", fs::read(kept.at("more/2.safetensors")).unwrap());
    let opened = fs::File::open(kept.at(path)).unwrap();
    flip(&kept.at(path), GROUP + 1, 2);
    flip(&kept.at(path), 2 * GROUP + 1, 2);

    let mut repair = kept.store.repair(&kept.model, kept.file(path), &[]).unwrap();
    assert_eq!(repair.missing().iter().copied().collect::<Vec<_>>(), [1, 2]);
    let group = |i: u64| {
        let (start, n) = extent(original.len() as u64, i);
        &original[start as usize..(start + n) as usize]
    };
    for (i, bytes) in [(1, group(2)), (1, group(0)), (9, group(0)), (1, &[][..])] {
        assert!(matches!(repair.write(i, bytes), Err(StoreError::WrongBytes { .. })));
    }
    repair.write(1, group(1)).unwrap();
    assert!(matches!(repair.finish(NOW), Err(StoreError::StillDamaged { n: 1, .. })));
    assert!(!kept.verify(DEEP).is_whole());
    assert!(files_in(&kept.store.partial()).is_empty());

    // A copy outside that is itself damaged, elsewhere.
    let outside = kept.dir.path().join("outside");
    fs::write(&outside, &original).unwrap();
    flip(&outside, 3, 0);
    let repair = kept.store.repair(&kept.model, kept.file(path), &[outside]).unwrap();
    assert!(repair.missing().is_empty());
    repair.finish(NOW).unwrap();
    for model in [&kept.model, &other] {
        assert!(verify(model, DEEP, 2, &quiet).unwrap().faults.is_empty());
        let log = events::read(&model.dir.join(RECORDS).join(EVENTS)).unwrap();
        let last = log.events.last().unwrap();
        assert_eq!((last.kind.as_str(), &last.payload["groups"]), ("repaired", &serde_json::json!([1, 2])));
    }
    // Who had the old file open has it still: nothing was written in place.
    assert_eq!(opened.metadata().unwrap().nlink(), 0);

    fs::remove_file(kept.at(path)).unwrap();
    kept.store.repair(&kept.model, kept.file(path), &[]).unwrap().finish(NOW).unwrap();
    assert!(kept.verify(DEEP).faults.is_empty());
}

#[test]
fn removed_models_leave_their_records_and_garbage_goes() {
    let kept = Kept::new();
    let other = adopt(&kept.store, kept.dir.path(), "me/Copy", &kept.dir.path().join("from")).model;
    fs::write(kept.at(RECORDS).join("licence.json"), "{}").unwrap();
    fs::create_dir(kept.at(RECORDS).join("terms")).unwrap();
    fs::write(kept.at(RECORDS).join("terms").join("a"), "terms").unwrap();
    fs::write(kept.at(RECORDS).join("openness.json"), "{}").unwrap();
    fs::write(kept.at("notes of mine"), "x").unwrap();
    kept.store.remove(&kept.model, NOW).unwrap();
    let error = kept.store.remove(&kept.model, NOW).unwrap_err().to_string();
    assert!(error.contains("here; there are me/Copy@"), "{error}");
    let name = |path: PathBuf| path.strip_prefix(&kept.model.dir).unwrap().to_str().unwrap().to_owned();
    let left: Vec<String> = files_in(&kept.model.dir).into_iter().map(name).collect();
    assert_eq!(left, [".puna/events.jsonl", ".puna/licence.json", ".puna/terms/a", "notes of mine"]);
    let listing = kept.store.list().unwrap();
    assert_eq!((listing.models.len(), listing.remains), (1, vec![kept.model.dir.clone()]));
    let garbage = |dry_run| kept.store.gc(NOW * 2, Duration::from_secs(60), dry_run).unwrap();
    assert_eq!(garbage(false), Default::default());
    assert!(verify(&other, DEEP, 2, &quiet).unwrap().faults.is_empty());

    kept.store.remove(&other, NOW).unwrap();
    let download = kept.store.partial().join("some");
    fs::create_dir(&download).unwrap();
    fs::write(download.join("part"), "part").unwrap();
    assert!(kept.store.gc(0, Duration::ZERO, true).unwrap().partial.is_empty());
    let told = garbage(true);
    assert!(download.exists());
    assert_eq!(told.partial, std::slice::from_ref(&download));
    // Small files of the same bytes are one blob.
    assert!(told.bytes > 3 * GROUP && told.trees.len() == 3 && told.blobs.len() >= 5);
    assert_eq!(garbage(false), told);
    assert_eq!(garbage(false), Default::default());
    assert!(files_in(&kept.store.home().join("store").join("blobs")).is_empty());

    let manifest = &kept.model.manifest;
    kept.store.forget(&manifest.name, &manifest.revision, NOW).unwrap();
    assert_eq!(files_in(&kept.model.dir), [kept.at("notes of mine")]);
    kept.store.forget(&other.manifest.name, &other.manifest.revision, NOW).unwrap();
    assert!(!other.dir.parent().unwrap().parent().unwrap().exists());
    let error = kept.store.forget(&other.manifest.name, "main", NOW).unwrap_err();
    assert!(error.to_string().contains("there is no model \"me/Copy@main\" here"), "{error}");
}

#[test]
fn a_broken_manifest_is_told_and_its_files_are_no_garbage() {
    let kept = Kept::new();
    let path = kept.at(RECORDS).join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    for broken in [&text[..text.len() / 2], &text.replace("\"more/2", "\"../../2"), &text.replace("Small", "small")] {
        fs::write(&path, broken).unwrap();
        let listing = kept.store.list().unwrap();
        assert_eq!((listing.models.len(), listing.broken.len()), (0, 1));
        let error = kept.store.gc(i64::MAX, Duration::ZERO, false).unwrap_err();
        assert!(error.to_string().starts_with("nothing was removed"), "{error}");
    }
    fs::write(&path, text).unwrap();
    assert!(kept.verify(DEEP).faults.is_empty());
}

#[test]
fn files_that_can_not_be_a_models() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("home")).unwrap();
    let refused = |paths: &[&str], expected: &str| {
        let staged: Vec<Staged> = paths.iter().map(|path| stage(dir.path(), path, b"x")).collect();
        let error = store.adopt(&origin("a/b", Some("main")), &staged, NOW).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(store.list().unwrap().models.is_empty());
    };
    refused(&["A", "a"], "two files of the model are called a, but for the case of letters");
    refused(&[".puna/manifest.json"], "the folder .puna is for puna's records");
    refused(&[".PUNA/x"], "the folder .puna is for puna's records");
    refused(&["a/b", "A"], "the model has a file a, and files in a folder of that name");
    for revision in ["", "..", "a/b", ".x", "nul", "é"] {
        let error = store.adopt(&origin("a/b", Some(revision)), &[], NOW).unwrap_err();
        assert!(matches!(error, StoreError::Revision(_)), "{error}");
    }
    let mut staged = [stage(dir.path(), "a", b"x")];
    fs::write(&staged[0].at, "xy").unwrap();
    let error = store.adopt(&origin("a/b", None), &staged, NOW).unwrap_err().to_string();
    assert!(error.contains("it has 2 bytes, expected 1"), "{error}");
    fs::remove_file(&staged[0].at).unwrap();
    let error = store.adopt(&origin("a/b", None), &staged, NOW).unwrap_err().to_string();
    assert!(error.contains("it is not there"), "{error}");
    std::os::unix::fs::symlink("/etc/hostname", &staged[0].at).unwrap();
    let error = store.adopt(&origin("a/b", None), &staged, NOW).unwrap_err().to_string();
    assert!(error.contains("it is no regular file"), "{error}");

    // A link in the place of a folder is not followed.
    staged[0] = stage(dir.path(), "sub/a", b"x");
    let model = store.model_dir(&"a/b".parse().unwrap(), "main").unwrap();
    fs::create_dir_all(&model).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, model.join("sub")).unwrap();
    let error = store.adopt(&origin("a/b", Some("main")), &staged, NOW).unwrap_err().to_string();
    assert!(error.contains("something else has its name"), "{error}");
    assert!(files_in(&elsewhere).is_empty());
}

#[test]
fn homes_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    for home in [&file, &file.join("below")] {
        let error = Store::open(home).err().unwrap().to_string();
        assert!(error.contains("expected a folder for models, found a file"), "{error}");
    }
    let store = Store::open(&dir.path().join("new").join("home")).unwrap();
    assert!(store.list().unwrap().models.is_empty() && !store.home().exists());
    store.prepare().unwrap();
    assert!(store.home().join("models").is_dir());

    // Whoever may do everything is not kept out by modes.
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(locked.join("probe"), "").is_err() {
        let error = Store::open(&locked).unwrap().prepare().unwrap_err();
        assert!(error.to_string().contains("but nothing can be changed"), "{error}");
    }
}

#[test]
fn two_processes_take_in_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    weights(&from);
    let me = std::env::current_exe().unwrap();
    let start = |i: usize| {
        let staging = dir.path().join(format!("staging{i}"));
        fs::create_dir(&staging).unwrap();
        let mut command = std::process::Command::new(&me);
        command.args(["--exact", "in_another_process", "--nocapture"]);
        command.env("PUNA_TEST_DIR", dir.path()).env("PUNA_TEST_STAGING", staging);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let children: Vec<_> = (0..4).map(start).collect();
    assert!(children.into_iter().all(|mut child| child.wait().unwrap().success()));
    let store = Store::open(&dir.path().join("home")).unwrap();
    let listing = store.list().unwrap();
    assert_eq!(listing.models.len(), 1);
    assert!(verify(&listing.models[0], DEEP, 2, &quiet).unwrap().faults.is_empty());
    let log = events::read(&listing.models[0].dir.join(RECORDS).join(EVENTS)).unwrap();
    assert_eq!((log.events.len(), log.broken), (1, None));
}

/// What `two_processes_take_in_the_same_model` starts; by itself nothing.
#[test]
fn in_another_process() {
    let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let Some((dir, staging)) = path("PUNA_TEST_DIR").zip(path("PUNA_TEST_STAGING")) else { return };
    let store = Store::open(&dir.join("home")).unwrap();
    store.adopt(&origin("a/b", None), &stage_all(&staging, &dir.join("from")), NOW).unwrap();
}

fn of<'a>(model: &'a Model, to: &'a Path, beside: &'a [(SafePath, Vec<u8>)]) -> Keep<'a> {
    Keep { model, to, beside, with_person: false }
}

#[test]
fn bundles_stand_alone() {
    let kept = Kept::new();
    let (folder, mut record) = record::of_model(&kept.model, NOW).unwrap();
    let name = Some("Ada".to_owned());
    record.licensee = Some(Licensee { kind: LicenseeKind::Person, name, region: None, authority: Authority::Oneself });
    folder.write(&record).unwrap();
    let to = kept.dir.path().join("bundle");
    let beside = [("NOTICE".parse().unwrap(), b"notice".to_vec())];
    let made = bundle::keep(of(&kept.model, &to, &beside), 2, NOW, &quiet).unwrap();
    assert_eq!(made.n_files + 1, files_in(&to).len());
    fs::remove_dir_all(kept.store.home()).unwrap();

    let moved = kept.dir.path().join("elsewhere");
    fs::rename(&to, &moved).unwrap();
    let model = Model::open(&moved).unwrap();
    let report = verify(&model, DEEP, 2, &quiet).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    // Who it was is nobody's business elsewhere.
    assert_eq!(Folder::of(&moved).read().unwrap(), Some(record.redacted()));
    let sums = || {
        let mut command = std::process::Command::new("sha256sum");
        command.args(["--check", "--quiet", "--strict", "SHA256SUMS"]).current_dir(&moved).output().unwrap()
    };
    let checked = sums();
    assert!(checked.status.success() && checked.stdout.is_empty(), "{checked:?}");
    flip(&moved.join("more/2.safetensors"), GROUP, 0);
    assert!(!sums().status.success());
    assert_eq!(damage(&verify(&model, DEEP, 2, &quiet).unwrap())[0].1.groups, [1]);

    let to = kept.dir.path().join("again");
    let store = Store::open(&kept.dir.path().join("home")).unwrap();
    let small = store.adopt(&origin("a/b", None), &[stage(kept.dir.path(), "a", b"a")], NOW).unwrap().model;
    let error = bundle::keep(of(&model, &to, &[]), 2, NOW, &quiet).unwrap_err();
    assert!(matches!(error, KeepError::Damaged { .. }), "{error}");
    assert!(!to.exists());
    let twice = [("BIN".parse().unwrap(), Vec::new()), ("BIN".parse().unwrap(), Vec::new())];
    let error = bundle::keep(of(&small, &to, &twice), 2, NOW, &quiet).unwrap_err();
    assert!(matches!(error, KeepError::Taken(_)), "{error}");
    let error = bundle::keep(of(&model, &moved, &[]), 2, NOW, &quiet).unwrap_err();
    assert!(matches!(error, KeepError::Exists(_)), "{error}");
    assert_eq!(fs::read_dir(kept.dir.path()).unwrap().count(), 4, "nothing is left of what failed");
}

#[test]
fn a_bundle_of_a_model_with_names_like_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("home")).unwrap();
    let staged: Vec<Staged> =
        ["sha256sums", "READ-ME-FIRST.txt", "a b"].map(|path| stage(dir.path(), path, b"x")).into();
    let model = store.adopt(&origin("a/b", None), &staged, NOW).unwrap().model;
    let to = dir.path().join("bundle");
    bundle::keep(of(&model, &to, &[]), 1, NOW, &quiet).unwrap();
    let sums = fs::read_to_string(to.join("puna-SHA256SUMS")).unwrap();
    assert!(sums.contains("  puna-READ-ME-FIRST.txt\n") && sums.contains("  a b\n"), "{sums}");
    let manifest = Manifest::parse(&fs::read(to.join(RECORDS).join(MANIFEST)).unwrap()).unwrap();
    assert_eq!(manifest, model.manifest);
}
