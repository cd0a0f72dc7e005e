//! Damaged files: whatever is flipped, cut or inserted, opening gives a model or an error, never a panic.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod material;

use material::*;
use proptest::prelude::*;
use puna_checkpoint::{RopePairing, adapter, gguf, open, pth, safetensors};
use puna_format::Format;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

#[derive(Clone, Debug)]
enum Change {
    Flip { at: prop::sample::Index, bit: u8 },
    Set { at: prop::sample::Index, to: Vec<u8> },
    Cut { at: prop::sample::Index },
    Insert { at: prop::sample::Index, what: Vec<u8> },
    Remove { at: prop::sample::Index, n: usize },
    Copy { from: prop::sample::Index, to: prop::sample::Index, n: usize },
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    use prop::sample::Index;
    // Numbers at which arithmetic goes wrong, in every width.
    let edge = prop_oneof![
        Just(vec![0xff; 8]),
        Just(vec![0; 8]),
        Just(vec![0xff; 4]),
        Just(0x8000_0000_0000_0000u64.to_le_bytes().to_vec()),
        Just(0x7fff_ffff_ffff_ffffu64.to_le_bytes().to_vec()),
        Just(0x2000_0000_0000_0001u64.to_le_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 1..9),
    ];
    let change = prop_oneof![
        4 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        4 => (any::<Index>(), edge.clone()).prop_map(|(at, to)| Change::Set { at, to }),
        1 => any::<Index>().prop_map(|at| Change::Cut { at }),
        1 => (any::<Index>(), edge).prop_map(|(at, what)| Change::Insert { at, what }),
        1 => (any::<Index>(), 1..64usize).prop_map(|(at, n)| Change::Remove { at, n }),
        1 => (any::<Index>(), any::<Index>(), 1..64usize).prop_map(|(from, to, n)| Change::Copy { from, to, n }),
    ];
    prop::collection::vec(change, 1..4)
}

/// Applies changes to the first `within` bytes, where the structure is.
fn changed(file: &[u8], changes: &[Change], within: usize) -> Vec<u8> {
    let mut file = file.to_vec();
    for change in changes {
        let len = file.len();
        let place = |at: &prop::sample::Index| at.index(within.min(len).max(1)).min(len);
        match change {
            _ if len == 0 => {}
            Change::Flip { at, bit } => file[place(at)] ^= 1 << bit,
            Change::Set { at, to } => {
                let at = place(at);
                let n = to.len().min(len - at);
                file[at..at + n].copy_from_slice(&to[..n]);
            }
            Change::Cut { at } => file.truncate(place(at)),
            Change::Insert { at, what } => {
                let at = place(at);
                file.splice(at..at, what.iter().copied());
            }
            Change::Remove { at, n } => {
                let at = place(at);
                file.drain(at..(at + n).min(len));
            }
            Change::Copy { from, to, n } => {
                let (from, to) = (place(from), place(to));
                let n = (*n).min(len - from).min(len - to);
                file.copy_within(from..from + n, to);
            }
        }
    }
    file
}

/// A directory of good files, made once.
fn good() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutate");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        for form in ["hf", "sharded", "fp8", "meta", "meta-fp8", "peft"] {
            fs::create_dir(dir.join(form)).unwrap();
        }
        hugging_face(&dir.join("hf"), Format::BF16);
        hugging_face_sharded(&dir.join("sharded"), 2);
        hugging_face_fp8(&dir.join("fp8"));
        meta(&dir.join("meta"), 4, false);
        meta_fp8(&dir.join("meta-fp8"));
        gguf(&dir.join("tiny.gguf"), Format::F16);
        peft(&dir.join("peft"), &material::adapter(), Format::BF16);
        let (metadata, tensors) = gguf_adapter_parts(&material::adapter(), Format::F16);
        write_gguf(&dir.join("adapter.gguf"), &metadata, &tensors);
        dir
    })
}

/// Opens a copy of a form in which one file was replaced.
fn open_with(form: &str, file: &str, bytes: &[u8]) {
    with(form, file, bytes, |dir| {
        if let Ok(model) = open(dir) {
            model.tensors().for_each(|tensor| drop(tensor.to_f32()));
        }
    });
}

/// Whatever opens is an adapter of finite values, which is written and read back.
fn open_adapter(path: &Path) {
    let Ok(adapter) = adapter::open(path, &config()) else { return };
    let out = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let written = out.path().join("peft");
    adapter::write_peft(&adapter, &written, &config()).unwrap();
    let expected = adapter.with_pairing(RopePairing::Halves, &config());
    assert_eq!(adapter::open(&written, &config()).unwrap(), expected);
}

fn with(form: &str, file: &str, bytes: &[u8], open: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for entry in fs::read_dir(good().join(form)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() == file {
            fs::write(dir.path().join(file), bytes).unwrap();
        } else {
            fs::hard_link(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    open(dir.path());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn gguf_files(changes in changes()) {
        let file = fs::read(good().join("tiny.gguf")).unwrap();
        let data = gguf::Header::parse(&file).unwrap().tensors[0].start as usize;
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(path.path(), changed(&file, &changes, data)).unwrap();
        if let Ok(model) = open(path.path()) {
            model.tensors().for_each(|tensor| drop(tensor.to_f32()));
        }
    }

    #[test]
    fn safetensors_files(changes in changes()) {
        for form in ["hf", "fp8"] {
            let file = fs::read(good().join(form).join("model.safetensors")).unwrap();
            let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
            open_with(form, "model.safetensors", &changed(&file, &changes, header));
        }
    }

    #[test]
    fn pth_files(changes in changes(), tail in any::<bool>()) {
        for (form, name) in [("meta", "consolidated.01.pth"), ("meta-fp8", "fp8_scales_0.pt")] {
            let file = fs::read(good().join(form).join(name)).unwrap();
            let bytes = if tail {
                // The directory is at the end: the same changes counted from there.
                let mut file = file;
                file.reverse();
                let mut file = changed(&file, &changes, 4000);
                file.reverse();
                file
            } else {
                changed(&file, &changes, 4000)
            };
            open_with(form, name, &bytes);
        }
    }

    #[test]
    fn json_files(changes in changes()) {
        for (form, name) in [
            ("hf", "config.json"),
            ("sharded", "model.safetensors.index.json"),
            ("meta", "params.json"),
        ] {
            let file = fs::read(good().join(form).join(name)).unwrap();
            open_with(form, name, &changed(&file, &changes, usize::MAX));
        }
    }

    #[test]
    fn adapters(changes in changes()) {
        let file = fs::read(good().join("adapter.gguf")).unwrap();
        let data = gguf::Header::parse(&file).unwrap().tensors[0].start as usize;
        let path = tempfile::NamedTempFile::new().unwrap();
        fs::write(path.path(), changed(&file, &changes, data)).unwrap();
        open_adapter(path.path());

        let file = fs::read(good().join("peft").join("adapter_model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
        with("peft", "adapter_model.safetensors", &changed(&file, &changes, header), open_adapter);
        let file = fs::read(good().join("peft").join("adapter_config.json")).unwrap();
        with("peft", "adapter_config.json", &changed(&file, &changes, usize::MAX), open_adapter);
    }

    #[test]
    fn pickles(changes in changes()) {
        let good = pickle(&rank(0, 1, false));
        let _ = pth::interpret(&changed(&good, &changes, usize::MAX));
    }

    /// What we accept, the format's reference implementation accepts, with the same meaning.
    #[test]
    fn safetensors_reference_agrees(changes in changes()) {
        let file = fs::read(good().join("fp8").join("model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
        agrees(&changed(&file, &changes, header));
    }

    /// The same on small headers, where changes hit something more often.
    #[test]
    fn safetensors_reference_agrees_on_small_files(changes in changes()) {
        let json = r#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"y":{"dtype":"F4","shape":[4],"data_offsets":[8,10]}}"#;
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend(json.as_bytes());
        file.extend([0; 10]);
        agrees(&changed(&file, &changes, usize::MAX));
    }
}

#[test]
fn safetensors_reference_reads_what_we_write() {
    for form in ["hf", "fp8"] {
        let file = fs::read(good().join(form).join("model.safetensors")).unwrap();
        assert!(safetensors::Header::parse(&file).is_ok());
        agrees(&file);
    }
}

fn agrees(file: &[u8]) {
    let Ok(ours) = safetensors::Header::parse(file) else { return };
    let theirs = ::safetensors::SafeTensors::deserialize(file).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ours.entries.len(), theirs.len());
    for entry in &ours.entries {
        let view = theirs.tensor(&entry.name).unwrap();
        let shape: Vec<usize> = entry.shape.iter().map(|&d| d as usize).collect();
        assert_eq!(view.shape(), shape);
        assert_eq!(view.data(), &file[entry.start as usize..(entry.start + entry.len) as usize]);
        let theirs = serde_json::to_value(view.dtype()).unwrap();
        assert_eq!(theirs, entry.dtype);
    }
}
