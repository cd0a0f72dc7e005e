//! Changes that end at each of their steps: by an error, by a kill, by a power cut.

use super::*;
use crate::bundle::{self, Keep};
use crate::disk::{Step, Watch};
use crate::events;
use crate::hashing::hash;
use crate::verify::{Depth, What, verify};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const NOW: i64 = 1_795_891_560_000;
const DEEP: Depth = Depth::Deep { sha256: false };

fn quiet(_: u64, _: u64) {}

/// A store, and files beside it that can be taken in.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["home", "staged", "aside"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        World { dir }
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn store(&self) -> Store {
        Store::open(&self.home()).unwrap();
        self.watched(Arc::new(|_, _, _| Ok(())))
    }

    fn watched(&self, watch: Watch) -> Store {
        Store { home: self.home(), disk: Disk { watch: Some(watch) } }
    }

    /// Files to take in.
    fn staged(&self, files: &[(&str, Vec<u8>)]) -> Vec<Staged> {
        /// Hashing is most of what these tests do.
        static KNOWN: Mutex<Vec<(Vec<u8>, Hex<32>, Tree)>> = Mutex::new(Vec::new());
        let hashed = |at: &Path, bytes: &[u8]| {
            let mut known = KNOWN.lock().unwrap();
            if let Some((_, sha256, tree)) = known.iter().find(|(of, ..)| of == bytes) {
                return (*sha256, tree.clone());
            }
            let hashed = hash(&File::open(at).unwrap(), at, bytes.len() as u64, None, &mut |_| Ok(())).unwrap();
            let sha256 = hashed.sha256.unwrap();
            known.push((bytes.to_owned(), sha256, hashed.tree.clone()));
            (sha256, hashed.tree)
        };
        let stage = |(i, (path, bytes)): (usize, &(&str, Vec<u8>))| {
            let at = self.dir.path().join("staged").join(i.to_string());
            std::fs::write(&at, bytes).unwrap();
            let (sha256, tree) = hashed(&at, bytes);
            Staged { path: path.parse().unwrap(), sha256, tree, at }
        };
        files.iter().enumerate().map(stage).collect()
    }

    fn adopt(&self, name: &str, files: &[(&str, Vec<u8>)]) -> Model {
        self.store().adopt(&origin(name), &self.staged(files), NOW).unwrap().model
    }
}

fn origin(name: &str) -> Origin {
    Origin { name: name.parse().unwrap(), revision: Some("main".into()), source: "a test".into() }
}

/// One file longer than a group, one in a folder, and one that is there twice.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let long = vec![7; crate::tree::GROUP as usize + 5];
    vec![("long.bin", long), ("a/b/short", b"short".to_vec()), ("copy", b"short".to_vec()), ("empty", Vec::new())]
}

fn is_whole(model: &Model) {
    let report = verify(model, DEEP, 1, &quiet).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
}

fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in disk::names_in(dir).unwrap() {
        match std::fs::symlink_metadata(&path).unwrap().is_dir() {
            true => found.extend(all_files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// What the system would still have to write.
#[derive(Default)]
struct Unsynced {
    steps_left: usize,
    was_ended: bool,
    is_dead: bool,
    /// Files whose bytes were not synced.
    dirty: Vec<u64>,
    /// Names that were not synced: the folder, and how it was before.
    names: Vec<(PathBuf, Undo)>,
    n_aside: usize,
}

enum Undo {
    RemoveDir(PathBuf),
    RemoveFile(PathBuf),
    Rename { from: PathBuf, to: PathBuf },
    Restore { path: PathBuf, aside: PathBuf },
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// A step fails, and what cleans up runs.
    Error,
    /// No step of this process is taken any more; the system writes all there is.
    Kill,
    /// What was not synced is lost.
    PowerCut,
    /// Names that were not synced are lost, each other one; bytes that were not synced are.
    HalfLost,
}

impl Unsynced {
    fn step(&mut self, end: End, aside: &Path, step: Step, path: &Path, from: Option<&Path>) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        if self.is_dead {
            return Err(io::Error::other("dead"));
        }
        if self.steps_left == 0 {
            (self.steps_left, self.was_ended) = (usize::MAX, true);
            self.is_dead = end != End::Error;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.steps_left -= 1;
        let parent = path.parent().unwrap().to_owned();
        let inode = || std::fs::metadata(path).map_or(0, |kind| kind.ino());
        let mut undo = |undo| self.names.push((parent.clone(), undo));
        self.n_aside += 1;
        let aside = aside.join(self.n_aside.to_string());
        match step {
            Step::MakeDir => undo(Undo::RemoveDir(path.to_owned())),
            Step::Create | Step::Link => undo(Undo::RemoveFile(path.to_owned())),
            Step::Rename => {
                if std::fs::hard_link(path, &aside).is_ok() {
                    undo(Undo::Restore { path: path.to_owned(), aside });
                }
                undo(Undo::Rename { from: from.unwrap().to_owned(), to: path.to_owned() });
            }
            Step::Remove if std::fs::hard_link(path, &aside).is_ok() => {
                undo(Undo::Restore { path: path.to_owned(), aside });
            }
            Step::Write => self.dirty.push(inode()),
            Step::Sync => {
                let synced = inode();
                self.dirty.retain(|inode| *inode != synced);
            }
            Step::SyncDir => self.names.retain(|(dir, _)| dir != path),
            Step::Remove | Step::RemoveDir | Step::Seal => {}
        }
        Ok(())
    }

    /// The power is off: what was not synced is not there.
    fn lose(&mut self, end: End, home: &Path) {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        if !matches!(end, End::PowerCut | End::HalfLost) {
            return;
        }
        for (i, (_, undo)) in std::mem::take(&mut self.names).into_iter().enumerate().rev() {
            if end == End::HalfLost && i % 2 == 0 {
                continue;
            }
            // Names may be gone with their folders.
            let _ = match undo {
                Undo::RemoveDir(dir) => std::fs::remove_dir_all(dir),
                Undo::RemoveFile(path) => std::fs::remove_file(path),
                Undo::Rename { from, to } => std::fs::rename(to, from),
                Undo::Restore { path, aside } => std::fs::rename(aside, path),
            };
        }
        for path in all_files(home) {
            let kind = std::fs::metadata(&path).unwrap();
            if self.dirty.contains(&kind.ino()) {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
                std::fs::write(&path, vec![0; kind.len() as usize]).unwrap();
                std::fs::set_permissions(&path, kind.permissions()).unwrap();
            }
        }
    }
}

/// Ends `change` at each of its steps in each way; `after` sees what is left.
fn at_every_step(prepare: &dyn Fn(&World), change: &dyn Fn(&Store, &World) -> bool, after: &dyn Fn(&World, bool, End)) {
    for end in [End::Error, End::Kill, End::PowerCut, End::HalfLost] {
        for steps_left in 0.. {
            assert!(steps_left < 1000, "the change does not end");
            let world = World::new();
            prepare(&world);
            let unsynced = Arc::new(Mutex::new(Unsynced { steps_left, ..Unsynced::default() }));
            let (heard, aside) = (unsynced.clone(), world.dir.path().join("aside"));
            let watch = move |step: Step, path: &Path, from: Option<&Path>| {
                heard.lock().unwrap().step(end, &aside, step, path, from)
            };
            let is_done = change(&world.watched(Arc::new(watch)), &world);
            let mut unsynced = unsynced.lock().unwrap();
            unsynced.lose(end, &world.home());
            after(&world, is_done, end);
            if !unsynced.was_ended {
                assert!(is_done, "every step was taken");
                break;
            }
        }
    }
}

/// Whatever was being done: all models that are there are whole.
fn models_are_whole(world: &World) -> Vec<Model> {
    let listing = world.store().list().unwrap();
    assert!(listing.broken.is_empty(), "{:?}", listing.broken);
    listing.models.iter().for_each(is_whole);
    for model in &listing.models {
        let log = events::read(&model.dir.join(RECORDS).join(model::EVENTS)).unwrap();
        assert_eq!(log.broken, None);
    }
    listing.models
}

#[test]
fn a_model_that_is_taken_in_is_there_and_whole_or_is_not_there() {
    let world = std::cell::RefCell::new(Vec::new());
    at_every_step(
        &|made| *world.borrow_mut() = made.staged(&files()),
        &|store, _| store.adopt(&origin("a/b"), &world.borrow(), NOW).is_ok(),
        &|made, is_done, _| {
            let models = models_are_whole(made);
            assert!(!is_done || models.len() == 1);
            // Nothing that is being done is garbage.
            made.store().gc(NOW, Duration::from_secs(1 << 40), false).unwrap();
            let again = made.store().adopt(&origin("a/b"), &world.borrow(), NOW + 1).unwrap();
            is_whole(&again.model);
            assert_eq!(models_are_whole(made).len(), 1);
            let garbage = made.store().gc(i64::MAX, Duration::ZERO, false).unwrap();
            assert!(garbage.blobs.is_empty(), "{garbage:?}");
            assert_eq!(models_are_whole(made).len(), 1);
            let files = all_files(&made.home().join("models"));
            assert_eq!(files.len(), 4 + 2, "{files:?}");
        },
    );
}

#[test]
fn what_was_begun_and_given_up_is_garbage() {
    let world = std::cell::RefCell::new(Vec::new());
    at_every_step(
        &|made| *world.borrow_mut() = made.staged(&files()),
        &|store, _| store.adopt(&origin("a/b"), &world.borrow(), NOW).is_ok(),
        &|made, is_done, _| {
            let n = models_are_whole(made).len();
            made.store().gc(i64::MAX, Duration::ZERO, false).unwrap();
            assert_eq!(models_are_whole(made).len(), n);
            assert!(n == 1 || !is_done);
            if n == 0 {
                let records = |path: &PathBuf| path.to_string_lossy().contains("events.jsonl");
                let left: Vec<_> = all_files(&made.home()).into_iter().filter(|path| !records(path)).collect();
                assert!(left.iter().all(|path| path.ends_with("lock")), "{left:?}");
            }
        },
    );
}

#[test]
fn a_model_that_is_removed_is_gone_or_whole_and_others_stay() {
    at_every_step(
        &|made| {
            made.adopt("a/b", &files());
            made.adopt("a/c", &files()[..2]);
        },
        &|store, _| store.remove(&store.find("a/b").unwrap(), NOW).is_ok(),
        &|made, is_done, _| {
            let models = models_are_whole(made);
            assert!(models.len() == 1 || !is_done && models.len() == 2);
            made.store().gc(i64::MAX, Duration::ZERO, false).unwrap();
            assert_eq!(models_are_whole(made).len(), models.len());
            if models.len() == 1 {
                assert_eq!(all_files(&made.home().join("store").join("blobs")).len(), 2);
                let left = all_files(&made.home().join("models").join("a").join("b"));
                assert!(left.iter().all(|path| path.ends_with("events.jsonl")), "{left:?}");
            }
        },
    );
}

/// Changes a byte of a file that can't be written.
fn damage(path: &Path, at: usize) {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn a_repair_that_ends_can_be_made_again() {
    let group = 1u64;
    let repair = |store: &Store| -> Result<(), StoreError> {
        let model = store.find("a/b")?;
        let file = model.manifest.files.iter().find(|file| file.path.as_str() == "long.bin").unwrap();
        let mut repair = store.repair(&model, file, &[])?;
        if repair.missing().contains(&group) {
            repair.write(group, &files()[0].1[crate::tree::GROUP as usize..])?;
        }
        repair.finish(NOW)
    };
    at_every_step(
        &|made| {
            let model = made.adopt("a/b", &files());
            made.adopt("a/c", &files()[..1]);
            damage(&model.dir.join("long.bin"), crate::tree::GROUP as usize + 1);
        },
        &|store, _| repair(store).is_ok(),
        &|made, is_done, _| {
            if !is_done {
                repair(&made.store()).unwrap();
            }
            assert_eq!(models_are_whole(made).len(), 2);
        },
    );
}

#[test]
fn a_bundle_is_whole_or_not_there() {
    at_every_step(
        &|made| drop(made.adopt("a/b", &files())),
        &|store, made| {
            let model = store.find("a/b").unwrap();
            let to = made.home().join("bundle");
            bundle::keep_on(
                &store.disk,
                Keep { model: &model, to: &to, beside: &[], with_person: false },
                1,
                NOW,
                &quiet,
            )
            .is_ok()
        },
        &|made, is_done, end| {
            let bundle = made.home().join("bundle");
            assert!(bundle.exists() || !is_done);
            if bundle.exists() {
                is_whole(&Model::open(&bundle).unwrap());
            }
            let left = disk::names_in(&made.home()).unwrap();
            let temporary = |path: &&PathBuf| path.to_string_lossy().contains(disk::TEMPORARY);
            assert!(end != End::Error || left.iter().filter(temporary).count() == 0, "{left:?}");
            models_are_whole(made);
        },
    );
}

#[test]
fn a_lock_that_locks_nothing() {
    let world = World::new();
    let files = files();
    let home = world.home();
    // Each change finds a lock of its own.
    let watch: Watch = Arc::new(move |_, _, _| {
        let _ = std::fs::remove_file(home.join("store").join("lock"));
        Ok(())
    });
    let worlds: Vec<World> = (0..4).map(|_| World::new()).collect();
    std::thread::scope(|scope| {
        for other in &worlds {
            let (store, staged) = (world.watched(watch.clone()), other.staged(&files));
            scope.spawn(move || store.adopt(&origin("a/b"), &staged, NOW).unwrap());
        }
    });
    // At worst a name is another file of the same bytes.
    let model = world.store().find("b").unwrap();
    let report = verify(&model, DEEP, 2, &quiet).unwrap();
    assert!(report.faults.iter().all(|fault| matches!(fault.what, What::Apart)), "{:?}", report.faults);
    world.adopt("a/b", &files);
    is_whole(&model);
}

#[test]
fn without_hard_links_files_are_copied() {
    let world = World::new();
    let watch: Watch = Arc::new(|step, _, _| match step {
        Step::Link => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    });
    let store = world.watched(watch);
    let size: u64 = files().iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let adopted = store.adopt(&origin("a/b"), &world.staged(&files()), NOW).unwrap();
    assert_eq!(adopted.copied, size);
    let report = verify(&adopted.model, DEEP, 1, &quiet).unwrap();
    assert!(report.is_whole() && report.faults.iter().all(|fault| matches!(fault.what, What::Apart)));
    // Once is enough.
    assert_eq!(store.adopt(&origin("a/b"), &world.staged(&files()), NOW).unwrap().copied, 0);
    damage(&adopted.model.dir.join("long.bin"), 7);
    let file = &adopted.model.manifest.files[0];
    let repair = store.repair(&adopted.model, file, &[]).unwrap();
    assert!(repair.missing().is_empty(), "the blob has it");
    repair.finish(NOW).unwrap();
    assert!(verify(&adopted.model, DEEP, 1, &quiet).unwrap().is_whole());
}

#[test]
fn from_another_file_system_files_are_copied_and_checked() {
    let world = World::new();
    let staging = world.dir.path().join("staged");
    let watch: Watch = Arc::new(move |step, _, from| match step {
        Step::Rename if from.is_some_and(|from| from.starts_with(&staging)) => {
            Err(io::ErrorKind::CrossesDevices.into())
        }
        _ => Ok(()),
    });
    let store = world.watched(watch);
    let mut staged = world.staged(&files());
    let right = staged[0].tree.clone();
    staged[0].tree = Tree::new(right.len(), vec![[7; 32], [8; 32]]).unwrap();
    let error = store.adopt(&origin("a/b"), &staged, NOW).unwrap_err().to_string();
    assert!(error.contains("to be kept as long.bin, but its BLAKE3 is"), "{error}");
    assert!(disk::names_in(&store.partial()).unwrap().is_empty());
    staged[0].tree = right;
    is_whole(&store.adopt(&origin("a/b"), &staged, NOW).unwrap().model);
    assert!(all_files(&world.dir.path().join("staged")).is_empty());
}

#[test]
fn what_can_only_be_read_can_be_read() {
    let world = World::new();
    let model = world.adopt("a/b", &files());
    for kind in [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied] {
        std::fs::remove_dir_all(world.home().join("partial")).unwrap();
        let store = world.watched(Arc::new(move |_, _, _| Err(kind.into())));
        is_whole(&store.find("b").unwrap());
        let error = store.adopt(&origin("a/c"), &world.staged(&files()), NOW).unwrap_err();
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
        assert!(matches!(store.remove(&model, NOW).unwrap_err(), StoreError::ReadOnly { .. }));
        store.gc(NOW, Duration::ZERO, true).unwrap();
        world.store().prepare().unwrap();
    }
}
