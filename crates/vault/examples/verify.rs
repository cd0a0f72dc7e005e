//! Speed of a deep check of a model, beside that of the disk and of the hashes:
//!
//! ```console
//! $ cargo run --release -p puna-vault --example verify -- gb 8 threads 2 dir /tmp
//! ```
//!
//! Makes a model of `gb` gigabytes in `files` files below `dir`. Reads it cold (as far as the system lets itself be
//! asked to forget it) and from memory. The limit is what the disk gives to the same number of threads that read and do
//! nothing else, or what the hashes do with bytes that are in memory, whichever is lower.

use puna_vault::manifest::{FORMAT, File, Manifest};
use puna_vault::model::{MANIFEST, Model, RECORDS, TREES};
use puna_vault::tree::{GROUP, Tree, node};
use puna_vault::verify::{Depth, verify};
use puna_vault::{digest, tree};
use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let text = |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1).cloned());
    let number = |name: &str, default: u64| text(name).map_or(Ok(default), |n| n.parse());
    let (gb, n_threads) = (number("gb", 4)?, number("threads", 2)? as usize);
    let n_files = number("files", 4)?.max(1);
    let dir = PathBuf::from(text("dir").unwrap_or_else(|| std::env::temp_dir().display().to_string()));
    let dir = dir.join(format!("puna-verify-{}", std::process::id()));
    let done = run(&dir, gb * 1_000_000_000 / n_files, n_files, n_threads);
    std::fs::remove_dir_all(&dir)?;
    done
}

fn run(dir: &Path, size: u64, n_files: u64, n_threads: usize) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(dir.join(RECORDS).join(TREES))?;
    let files = (0..n_files).map(|i| make(dir, i, size)).collect::<Result<Vec<File>, Box<dyn Error>>>()?;
    let manifest = Manifest {
        format: FORMAT.into(),
        name: "local/random".parse()?,
        revision: "1".into(),
        source: "example".into(),
        kept_at: "2026-11-28T19:56:00.000Z".into(),
        files,
    };
    std::fs::write(dir.join(RECORDS).join(MANIFEST), serde_json::to_vec(&manifest)?)?;
    let model = Model::open(dir)?;
    let total = manifest.size();
    println!("{n_files} files, {:.2} GB in all, {n_threads} threads", total as f64 / 1e9);

    let hashes = |sha256: bool| {
        let bytes = vec![7; GROUP as usize];
        rate(total, || {
            std::thread::scope(|scope| {
                for _ in 0..n_threads {
                    scope.spawn(|| {
                        for _ in 0..total / GROUP / n_threads as u64 {
                            std::hint::black_box(node(2 * GROUP, 0, &bytes));
                            if sha256 {
                                std::hint::black_box(digest::sha256(&bytes));
                            }
                        }
                    });
                }
            });
        })
    };
    let (blake3, both) = (hashes(false), hashes(true));
    println!("hashes alone    BLAKE3 {blake3:.2} GB/s, BLAKE3 and SHA-256 {both:.2} GB/s");
    for is_cold in [true, false] {
        let read = || {
            forget_if(is_cold, dir, &manifest);
            rate(total, || read_all(dir, &manifest, n_threads))
        };
        let check = |sha256| {
            forget_if(is_cold, dir, &manifest);
            rate(total, || {
                let report = verify(&model, Depth::Deep { sha256 }, n_threads, &|_, _| ()).expect("it can be read");
                assert!(report.faults.is_empty(), "{:?}", report.faults);
            })
        };
        // Before and after, since disks that others use are not always as fast.
        let (before, quick, full, after) = (read(), check(false), check(true), read());
        let disk = before.max(after);
        let share = |rate: f64, limit: f64| format!("{rate:.2} GB/s, {:.0} % of the limit", 100.0 * rate / limit);
        println!("{}", if is_cold { "from the disk" } else { "from memory" });
        println!("  reading alone           {before:.2} and {after:.2} GB/s");
        println!("  deep, BLAKE3            {}", share(quick, disk.min(blake3)));
        println!("  deep, with SHA-256 too  {}", share(full, disk.min(both)));
    }
    Ok(())
}

/// Bytes of which no two groups are equal.
fn make(dir: &Path, number: u64, size: u64) -> Result<File, Box<dyn Error>> {
    let path = format!("{number}.bin");
    let mut file = std::fs::File::create(dir.join(&path))?;
    let mut bytes: Vec<u8> = (0..GROUP).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let mut sha256 = digest::Hasher::new(size, None);
    let mut nodes = Vec::new();
    for group in 0..tree::n_groups(size) {
        let n = tree::extent(size, group).1 as usize;
        bytes[..8].copy_from_slice(&(number << 32 | group).to_le_bytes());
        nodes.push(node(size, group, &bytes[..n]));
        sha256.update(&bytes[..n]);
        file.write_all(&bytes[..n])?;
    }
    file.sync_all()?;
    let tree = Tree::new(size, nodes).ok_or("one node a group")?;
    let at = dir.join(RECORDS).join(TREES).join(&tree.root().to_string()[..2]);
    std::fs::create_dir_all(&at)?;
    std::fs::write(at.join(tree.root().to_string()), tree.to_bytes())?;
    let sha256 = sha256.finish().map_err(|found| found.to_string())?;
    Ok(File { path: path.parse()?, size, sha256, blake3: tree.root() })
}

/// GB/s.
fn rate(bytes: u64, run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    bytes as f64 / 1e9 / start.elapsed().as_secs_f64()
}

fn forget_if(is_cold: bool, dir: &Path, manifest: &Manifest) {
    for file in manifest.files.iter().filter(|_| is_cold) {
        let file = std::fs::File::open(file.path.below(dir)).expect("it was made");
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a regular file");
        drop(file);
    }
}

/// Reads all groups, in order, one at a time a thread.
fn read_all(dir: &Path, manifest: &Manifest, n_threads: usize) {
    for file in &manifest.files {
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..n_threads {
                scope.spawn(|| {
                    let open = std::fs::File::open(file.path.below(dir)).expect("it was made");
                    let mut bytes = vec![0; GROUP as usize];
                    loop {
                        let (start, n) = tree::extent(file.size, next.fetch_add(1, Ordering::Relaxed));
                        if n == 0 {
                            break;
                        }
                        let read = std::os::unix::fs::FileExt::read_exact_at(&open, &mut bytes[..n as usize], start);
                        read.expect("it was made");
                    }
                });
            }
        });
    }
}
