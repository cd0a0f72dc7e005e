//! `puna sign`: somebody vouches for a model.

use super::{anything, counted, now, store, with_bar};
use crate::show::{byte_bar, one_line};
use anyhow::Result;
use puna_cpu::Cpu;
use puna_text::Date;
use puna_vault::events;
use puna_vault::model::{EVENTS, Model, RECORDS};
use puna_vault::path::SafePath;
use puna_vault::signing::{self, Method, PrivateKey, Selection, Signatory, Signer, Statement};
use puna_vault::verify::{Depth, verify};
use serde_json::{Value, json};
use std::io::Write;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Sign a model, so that others can check that its files are the ones that you had
///
/// The signature is of the form of OpenSSF Model Signing 1.0, which other programs check, too. It says who vouches for these
/// bytes: the holder of a key, or whoever a certificate names. Every byte is read; a model that is kept is signed only if its
/// files are what they were. `puna verify MODEL --key KEY.pub` checks it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna sign --new-key ./everyday.key
  puna sign llama --key ./everyday.key
  puna sign ./Llama-3.2-1B-Instruct --key ./everyday.key --shards 1048576 -o ./small.sig --json")]
pub struct Args {
    /// A model of `puna list`, or any folder or file
    #[arg(required_unless_present = "new_key")]
    model: Option<String>,
    /// The private key to sign with, in PEM: on one of the curves P-256, P-384 and P-521, and not encrypted
    #[arg(long, value_name = "FILE", required_unless_present = "new_key")]
    key: Option<PathBuf>,
    /// A certificate that says whose key it is, in PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Certificates between it and a root; may be given several times
    #[arg(long, value_name = "FILE", requires = "certificate")]
    chain: Vec<PathBuf>,
    /// Where to write the signature [default: among the records of a model that is kept, model.sig in a folder, FILE.sig]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Signs each so many bytes of a file apart, so that damage is located; not every program checks such signatures
    #[arg(long, value_name = "BYTES")]
    shards: Option<NonZeroU64>,
    /// Leaves out a file or a folder, by its path in the model's folder; may be given several times
    #[arg(long, value_name = "PATH")]
    ignore: Vec<SafePath>,
    /// Takes links for the files that they lead to, as in Hugging Face's cache
    #[arg(long)]
    allow_symlinks: bool,
    /// Makes a pair of keys, FILE and FILE.pub, and signs nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "key", "output", "shards", "ignore", "allow_symlinks"])]
    new_key: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    if let Some(path) = &args.new_key {
        return new_key(path, args.json);
    }
    let model = args.model.as_deref().expect("clap asks for a model");
    let signer = signer(&args)?;
    let (path, kept) = anything(model)?;
    let signature = args.output.clone().unwrap_or_else(|| signing::usual_place(&path));
    let ignored: Vec<SafePath> =
        kept.iter().flat_map(|kept| signing::ignored_of(&kept.manifest)).chain(args.ignore.iter().cloned()).collect();
    let method = args.shards.map_or(Method::Files, Method::Shards);
    let selection = Selection {
        method,
        ignored: &ignored,
        allow_symlinks: args.allow_symlinks,
        only_files: false,
        signature: &signature,
    };
    let n_bytes = AtomicU64::new(0);
    let statement = with_bar(byte_bar("signing", 0), |progress| {
        let counting = |done, total| {
            n_bytes.store(total, Ordering::Relaxed);
            progress(done, total);
        };
        signing::survey(&path, &selection, Cpu::default_threads(), &counting)
    })?;
    let n_bytes = n_bytes.into_inner();
    if let Some(kept) = &kept {
        expect_whole(kept, &statement)?;
    }
    let bytes = signer.sign(&statement)?;
    signing::write(&signature, &bytes)?;
    let by = signer.signatory();
    if let Some(kept) = kept.as_ref().filter(|kept| store().is_ok_and(|store| store.has(kept))) {
        let payload = json!({ "signature": signature, "by": by_json(&by), "root": statement.root() });
        events::append(&kept.dir.join(RECORDS).join(EVENTS), now(), "signed", payload)?;
    }
    let mut out = std::io::stdout().lock();
    let says = says(&by, kept.as_ref());
    if args.json {
        let mut json = statement_json(&statement);
        json["bytes_read"] = n_bytes.into();
        json["signature"] = json!(signature);
        json["by"] = by_json(&by);
        json["says"] = says.into();
        writeln!(out, "{json}")?;
    } else {
        let what = counted(statement.files.len(), n_bytes);
        writeln!(out, "{}: {what}, signed by {}", signature.display(), one_line(&by.to_string()))?;
        writeln!(out, "{}", one_line(&says))?;
    }
    Ok(())
}

fn new_key(path: &Path, json: bool) -> Result<()> {
    let key = PrivateKey::generate()?;
    let public = signing::write_key_pair(&key, path)?;
    let fingerprint = key.public().fingerprint();
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", json!({ "private": path, "public": public, "fingerprint": fingerprint }))?;
        return Ok(());
    }
    writeln!(out, "{}: the private key; whoever has it signs in your name, so keep it to yourself", path.display())?;
    writeln!(out, "{}: the public key, for everybody who is to check what you sign", public.display())?;
    writeln!(out, "{fingerprint}: its fingerprint, by which others can see that they have the right one")?;
    Ok(())
}

fn signer(args: &Args) -> Result<Signer> {
    let key = signing::read_private_key(args.key.as_deref().expect("clap asks for a key"))?;
    let Some(path) = &args.certificate else { return Ok(Signer::with_key(key)) };
    let mut chain = signing::read_certificates(path)?;
    for path in &args.chain {
        chain.extend(signing::read_certificates(path)?);
    }
    Ok(Signer::with_certificate(key, path, chain, now())?)
}

/// Nobody is to vouch for what is damaged.
fn expect_whole(kept: &Model, statement: &Statement) -> Result<()> {
    signing::expect_kept(statement, &kept.manifest)?;
    if statement.method != Method::Files {
        // The hashes of parts are not in the manifest.
        let report = with_bar(byte_bar("verifying", 0), |progress| {
            verify(kept, Depth::Deep { sha256: false }, Cpu::default_threads(), progress)
        })?;
        if let Some(fault) = report.faults.iter().find(|fault| fault.what.is_damage()) {
            anyhow::bail!("{}: not signed, because it is damaged: {fault}", kept.full_name());
        }
    }
    Ok(())
}

/// What such a signature means, and what it does not.
fn says(by: &Signatory, kept: Option<&Model>) -> String {
    let what = match kept {
        Some(kept) => format!("what this machine received ({})", kept.manifest.source),
        None => "what lies on this machine".to_owned(),
    };
    let who = match by {
        Signatory::Key(_) => "whoever holds the key".to_owned(),
        Signatory::Certificate(certificate) => certificate.subject(),
    };
    format!(
        "It says that this is {what}, in the name of {who}. It does not say who made the model, nor that it is good."
    )
}

/// Who signed.
pub fn by_json(by: &Signatory) -> Value {
    match by {
        Signatory::Key(fingerprint) => json!({ "method": "key", "fingerprint": fingerprint }),
        Signatory::Certificate(certificate) => {
            let (from, to) = certificate.valid();
            json!({
                "method": "certificate", "subject": certificate.subject(), "issuer": certificate.issuer(),
                "fingerprint": certificate.fingerprint(), "valid_from": Date::timestamp(from),
                "valid_to": Date::timestamp(to),
            })
        }
    }
}

/// What was signed.
pub fn statement_json(statement: &Statement) -> Value {
    let (method, shard_size) = match statement.method {
        Method::Files => ("files", None),
        Method::Shards(size) => ("shards", Some(size)),
    };
    json!({
        "name": statement.name, "root": statement.root(), "n_files": statement.files.len(), "method": method,
        "shard_size": shard_size, "hash": statement.hash.name(), "allow_symlinks": statement.allow_symlinks,
        "ignored": statement.ignored,
    })
}
