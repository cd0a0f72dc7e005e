//! Models that lie on this machine, in every form; and comparing them.

#![allow(clippy::unwrap_used, reason = "tests may")]

// Small models in every published form, with the same values.
#[path = "../../checkpoint/tests/material/mod.rs"]
mod material;

use puna_checkpoint::{LayerTensor, Name, WeightFormat, export, open};
use puna_format::Format;
use puna_vault::diff::{Diff, How, diff};
use puna_vault::digest::{Hex, sha256};
use puna_vault::import::{Import, ImportError, Imported, import};
use puna_vault::record::{self, Folder, MAX_DOCUMENT};
use puna_vault::store::Store;
use puna_vault::verify::{Depth, verify};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const NOW: i64 = 1_795_891_560_000;

struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("home")).unwrap();
        Place { dir, store }
    }

    fn folder(&self, name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path).unwrap();
        fill(&path);
        path
    }

    fn try_import(&self, path: &Path, change: impl FnOnce(&mut Import<'_>)) -> Result<Imported, ImportError> {
        let mut what =
            Import { path, name: "local/tiny".parse().unwrap(), revision: None, original: false, link: false };
        change(&mut what);
        let result = import(&self.store, &what, NOW, &|done, total| assert!(done <= total));
        assert_eq!(fs::read_dir(self.store.partial()).unwrap().count(), 0, "nothing is left on the way");
        result
    }

    #[track_caller]
    fn import(&self, path: &Path) -> Imported {
        let imported = self.try_import(path, |_| ()).unwrap_or_else(|error| panic!("{error}"));
        let model = &imported.adopted.model;
        let report = verify(model, Depth::Deep { sha256: true }, 2, &|_, _| ()).unwrap();
        assert!(report.faults.is_empty(), "{:?}", report.faults);
        open(&model.weights().unwrap()).unwrap_or_else(|error| panic!("{error}"));
        assert!(Folder::of(&model.dir).read().unwrap().is_some());
        imported
    }

    #[track_caller]
    fn refused(&self, path: &Path, expected: &str) {
        let error = self.try_import(path, |_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected:?} in: {error}");
        assert!(self.store.list().unwrap().models.is_empty());
    }
}

fn paths(imported: &Imported) -> Vec<&str> {
    let mut paths: Vec<&str> = imported.adopted.model.manifest.files.iter().map(|file| file.path.as_str()).collect();
    paths.sort_unstable();
    paths
}

#[test]
fn folders_and_files_in_every_form() {
    let place = Place::new();
    let directory = place.folder("hf", |dir| material::hugging_face_sharded(dir, 3));
    fs::create_dir(directory.join("original")).unwrap();
    material::meta(&directory.join("original"), 1, false);
    fs::create_dir(directory.join(".cache")).unwrap();
    fs::write(directory.join(".cache").join("x"), "x").unwrap();
    let imported = place.import(&directory);
    assert_eq!((paths(&imported).len(), imported.n_left_out), (5, 3));
    assert!(imported.adopted.model.manifest.source.starts_with("import of /"));
    let all = place.try_import(&directory, |what| what.original = true).unwrap();
    assert!(paths(&all).contains(&"original/consolidated.00.pth"));
    assert_eq!(all.adopted.shared, imported.adopted.model.manifest.size());

    let imported = place.import(&place.folder("meta", |dir| material::meta(dir, 2, false)));
    assert_eq!(paths(&imported), ["consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"]);

    let split = place.folder("split", |dir| material::gguf_split(dir, 3));
    let one = split.join("tiny-00002-of-00003.gguf");
    assert_eq!(paths(&place.import(&one)).len(), 3);
    assert_eq!(paths(&place.import(&split)).len(), 3);
    let single = place.folder("single", |dir| material::gguf(&dir.join("x.gguf"), Format::Q8_0));
    fs::write(single.join("README.md"), "x").unwrap();
    fs::write(single.join("config.json"), material::CONFIG_JSON).unwrap();
    assert_eq!(paths(&place.import(&single.join("x.gguf"))), ["x.gguf"]);
    assert_eq!(paths(&place.import(&single)), ["README.md", "config.json", "x.gguf"]);
    // What lies beside a file under its name goes along with it, and nothing else.
    for name in ["x.LICENSE", "x.README.md", "x.provenance.json", "x.json", "x.y.LICENSE", "y.NOTICE"] {
        fs::write(single.join(name), name).unwrap();
    }
    let own = ["x.LICENSE", "x.README.md", "x.gguf", "x.provenance.json"];
    assert_eq!(paths(&place.import(&single.join("x.gguf"))), own);
}

/// What is too long for a licence keeps no model out; whoever asks for its terms is told.
#[test]
fn texts_that_can_not_be_read() {
    let place = Place::new();
    let dir = place.folder("hf", |dir| material::hugging_face(dir, Format::BF16));
    fs::write(dir.join("LICENSE"), vec![b'x'; MAX_DOCUMENT as usize + 1]).unwrap();
    let model = place.try_import(&dir, |_| ()).unwrap().adopted.model;
    let error = record::of_model(&model, NOW).unwrap_err().to_string();
    assert!(error.contains("LICENSE"), "{error}");
}

/// What the hub's tools make of a folder: a link for each file, to one that has a hash for its name.
fn cache(place: &Place, of: &Path) -> PathBuf {
    let cache = place.folder("models--owner--name", |_| ());
    let snapshot = cache.join("snapshots").join("0123456789abcdef0123456789abcdef01234567");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(cache.join("blobs")).unwrap();
    fs::create_dir_all(cache.join("refs")).unwrap();
    fs::write(cache.join("refs").join("main"), "0123456789abcdef0123456789abcdef01234567").unwrap();
    for entry in fs::read_dir(of).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let name = match path.extension().is_some_and(|extension| extension == "safetensors") {
            true => sha256(&bytes).to_string(),
            false => {
                use sha1::Digest;
                let text = [format!("blob {}\0", bytes.len()).as_bytes(), &bytes].concat();
                Hex::<20>(sha1::Sha1::digest(text).into()).to_string()
            }
        };
        fs::write(cache.join("blobs").join(&name), bytes).unwrap();
        symlink(Path::new("../../blobs").join(name), snapshot.join(path.file_name().unwrap())).unwrap();
    }
    cache
}

#[test]
fn a_cache_of_the_hubs_tools() {
    let place = Place::new();
    let cache = cache(&place, &place.folder("hf", |dir| material::hugging_face(dir, Format::BF16)));
    let snapshot = cache.join("snapshots").join("0123456789abcdef0123456789abcdef01234567");
    let imported = place.import(&cache);
    assert_eq!(imported.adopted.model.manifest.revision, "0123456789abcdef0123456789abcdef01234567");
    assert_eq!((paths(&imported).len(), imported.n_checked), (3, 3));
    assert_eq!(place.import(&snapshot).adopted.shared, imported.adopted.model.manifest.size());

    let place = Place::new();
    let weights = snapshot.join("model.safetensors").canonicalize().unwrap();
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    place.refused(&cache, "the file is damaged or another");
    fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    symlink("/etc/hostname", snapshot.join("tokenizer.json")).unwrap();
    place.refused(&cache, "a symbolic link out of its folder");
    fs::create_dir(cache.join("snapshots").join("other")).unwrap();
    fs::write(cache.join("refs").join("main"), "../../x").unwrap();
    place.refused(&cache, "expected one snapshot, or a current one in refs/main, found 2");
}

#[test]
fn what_is_no_model_or_not_safe_to_take_in() {
    let place = Place::new();
    place.refused(&place.folder("empty", |_| ()), "a directory without config.json");
    let text = place.dir.path().join("text.gguf");
    fs::write(&text, "no model").unwrap();
    place.refused(&text, "nothing was imported");
    let linked = place.folder("linked", |dir| material::hugging_face(dir, Format::BF16));
    symlink("/etc/hostname", linked.join("NOTICE")).unwrap();
    place.refused(&linked, "a symbolic link out of its folder, which is not followed");
    fs::remove_file(linked.join("NOTICE")).unwrap();
    symlink("/", linked.join("sub")).unwrap();
    place.refused(&linked, "a symbolic link out of its folder, which is not followed");
    fs::remove_file(linked.join("sub")).unwrap();
    fs::write(linked.join("a:b"), "").unwrap();
    place.refused(&linked, "it has a character that a system gives a meaning; rename the file");
    place.refused(&place.dir.path().join("none"), "can't open it");
}

#[test]
fn metas_checklist() {
    let place = Place::new();
    let dir = place.folder("meta", |dir| material::meta(dir, 1, false));
    let md5 = |name: &str| {
        use md5::Digest;
        Hex::<16>(md5::Md5::digest(fs::read(dir.join(name)).unwrap()).into())
    };
    let list = format!(
        "{}  ./consolidated.00.pth\n{}  params.json\n{}  gone\n",
        md5("consolidated.00.pth"),
        md5("params.json"),
        md5("params.json")
    );
    fs::write(dir.join("checklist.chk"), list).unwrap();
    let imported = place.import(&dir);
    assert_eq!((imported.n_checked, &imported.absent[..]), (2, &["gone".to_owned()][..]));

    let place = Place::new();
    fs::write(dir.join("checklist.chk"), format!("{}  params.json\n", md5("consolidated.00.pth"))).unwrap();
    place.refused(&dir, "params.json: expected the MD5");
    fs::write(dir.join("checklist.chk"), format!("{}  ../params.json\n", md5("params.json"))).unwrap();
    place.refused(&dir, "checklist.chk: refused: ");
}

#[test]
fn linked_files_keep_their_modes() {
    let place = Place::new();
    let dir = place.folder("hf", |dir| material::hugging_face(dir, Format::BF16));
    let sealed = dir.join("model.safetensors");
    fs::set_permissions(&sealed, fs::Permissions::from_mode(0o440)).unwrap();
    let imported = place.try_import(&dir, |what| what.link = true).unwrap();
    let model = &imported.adopted.model.dir;
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(imported.linked, fs::metadata(&sealed).unwrap().len());
    assert_eq!(inode(&sealed), inode(&model.join("model.safetensors")));
    assert_ne!(inode(&dir.join("config.json")), inode(&model.join("config.json")));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&sealed), mode(&model.join("config.json"))), (0o440, 0o444));
    assert_ne!(mode(&dir.join("config.json")) & 0o200, 0);
}

/// Meta's model in the form of Hugging Face, whose rows of q and k are ordered otherwise.
fn exported(place: &Place, format: Option<Format>) -> PathBuf {
    let meta = place.folder("exported", |dir| material::meta(dir, 1, false));
    let out = place.dir.path().join(format!("as {format:?}"));
    let options = export::Options { format: format.map(WeightFormat::Pure), ..export::Options::default() };
    export::write(&open(&meta).unwrap(), &out, &options, &mut |_| None, &mut |_, _| ()).unwrap();
    out
}

fn compare(a: &Path, b: &Path) -> Diff {
    let (a, b) = (open(a).unwrap(), open(b).unwrap());
    let found = diff(&a, &b, 2, &|_, _| ());
    let back = diff(&b, &a, 1, &|_, _| ());
    assert_eq!((&found.equal, &found.only_a), (&back.equal, &back.only_b));
    found
}

#[test]
fn every_form_of_one_model_is_the_same_tensors() {
    let place = Place::new();
    let made = |name: &str, fill: &dyn Fn(&Path)| place.folder(name, fill);
    let base = exported(&place, None);
    let forms = [
        exported(&place, Some(Format::F16)),
        exported(&place, Some(Format::F32)),
        made("mp1", &|dir| material::meta(dir, 1, false)),
        made("mp2", &|dir| material::meta(dir, 2, false)),
        // More ranks than key and value heads: each of these is there twice.
        made("mp4", &|dir| material::meta(dir, 4, false)),
        made("gguf", &|dir| material::gguf(&dir.join("x.gguf"), Format::F16)).join("x.gguf"),
        made("split", &|dir| material::gguf_split(dir, 2)).join("tiny-00001-of-00002.gguf"),
    ];
    for form in &forms {
        let found = compare(&base, form);
        assert!(found.is_same(), "{}: {found:?}", form.display());
        assert_eq!((found.equal.len(), &found.settings), (3 * 9 + 3, &Vec::new()), "{}", form.display());
    }
    assert!(compare(&forms[2], &forms[5]).is_same());
    let shards = made("shards", &|dir| material::hugging_face_sharded(dir, 4));
    assert!(compare(&made("hf", &|dir| material::hugging_face(dir, Format::F32)), &shards).is_same());
    // What takes the order of rows for the same finds that they are not.
    assert!(!compare(&shards, &forms[2]).is_same());
}

#[test]
fn differences_are_named() {
    let place = Place::new();
    let made = |name: &str, fill: &dyn Fn(&Path)| place.folder(name, fill);
    let base = exported(&place, Some(Format::F32));
    let quantized = made("q8", &|dir| material::gguf(&dir.join("x.gguf"), Format::Q8_0)).join("x.gguf");
    let found = compare(&base, &quantized);
    assert!(found.equal.iter().all(|name| name.is_norm()) && found.different.len() == 3 * 7 + 2);
    for different in &found.different {
        let How::Values { n, of, max, .. } = different.how else { panic!("{different}") };
        assert!(n <= of && max > 0.0 && max < 0.01, "{different}");
    }
    assert!(!compare(&base, &made("fp8", &|dir| material::hugging_face_fp8(dir))).is_same());

    // One value of one tensor, the last of a query matrix, which lies elsewhere in Meta's order.
    let changed = made("changed", &|dir| material::meta(dir, 2, false));
    let mut tensors = material::rank(1, 2, false);
    let name = Name::Layer { layer: 1, tensor: LayerTensor::Query };
    let query = tensors.iter_mut().find(|tensor| tensor.key == name.meta()).unwrap();
    let n = query.bytes.len();
    let old = query.bytes[n - 2..].to_vec();
    let mut value = [0.0];
    Format::BF16.decode(&old, &mut value);
    query.bytes[n - 2..].copy_from_slice(&material::encode(Format::BF16, &[value[0] + 0.5]));
    fs::write(changed.join("consolidated.01.pth"), material::pth(&tensors)).unwrap();
    let found = compare(&base, &changed);
    assert_eq!((found.different.len(), found.equal.len()), (1, 29));
    assert_eq!(found.different[0].name, name);
    let config = material::config();
    let first = (config.n_heads * config.head_dim - 1, config.dim - 1);
    let of = (config.n_heads * config.head_dim * config.dim) as u64;
    assert_eq!(found.different[0].how, How::Values { n: 1, of, max: 0.5, first });
    let message = found.different[0].to_string();
    assert!(message.ends_with("1 of 1024 values differ, by at most 0.5; the first in row 31, column 31"), "{message}");
}

#[test]
fn models_of_other_shapes_and_settings() {
    let place = Place::new();
    let made = |name: &str, fill: &dyn Fn(&Path)| place.folder(name, fill);
    let base = made("hf", &|dir| material::hugging_face(dir, Format::BF16));
    let tied = made("tied", &|dir| {
        material::hugging_face(dir, Format::BF16);
        let config = material::CONFIG_JSON
            .replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true")
            .replace("1e-05", "1e-06");
        fs::write(dir.join("config.json"), config).unwrap();
        let names: Vec<Name> = material::names().into_iter().filter(|name| *name != Name::Output).collect();
        material::safetensors(&dir.join("model.safetensors"), Format::BF16, &names);
    });
    let found = compare(&base, &tied);
    assert_eq!(found.different.len(), 1);
    assert_eq!(found.different[0].name, Name::Output);
    assert_eq!(found.settings, ["norm_eps: 0.00001 and 0.000001"]);
    let other = made("other", &|dir| {
        let json = r#"{"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "ffn_dim": 96, "vocab_size": 600}"#;
        use puna_checkpoint::synth;
        let shape = synth::Shape::from_json("other", json).unwrap();
        let (format, random) = ("BF16".parse().unwrap(), synth::Weights::Random { seed: 1 });
        synth::write(&shape, format, synth::Container::Safetensors, dir, random, &mut |_, _| ()).unwrap();
    });
    let found = compare(&base, &other);
    assert!(found.equal.is_empty() && found.only_a.len() == 9 && found.only_b.is_empty());
    let different = found.different.iter().find(|different| different.name == Name::OutputNorm).unwrap();
    assert!(different.to_string().ends_with(": [1, 32] and [1, 64]"), "{different}");
}
