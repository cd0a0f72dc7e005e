//! Models that are kept: taken in, found by name, checked, signed, repaired, carried away, removed; their terms, and how open
//! they are.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, Run, binary, flip, kept_dir, licence, run, terminal, text};
use puna_vault::digest::sha256;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// What the licence of these tests allows.
const WORDS: &str = "You may do what you like.";

/// `puna` with a home of its own.
fn puna(files: &Files, args: &[&str]) -> Run {
    run(binary().args(args).env("PUNA_HOME", files.path("home")).current_dir(files.path("")), b"")
}

#[test]
fn a_model_is_kept_under_a_name() {
    let files = Files::new();
    let hf = files.model("Llama-bard", "BF16");
    let empty = puna(&files, &["list"]).succeeded();
    assert!(empty.stdout.is_empty() && empty.stderr.contains("no models are kept yet"), "{empty}");
    puna(&files, &["verify", "bard"]).refused(&["there is no model \"bard\" here", "none at all yet"]);

    let imported = puna(&files, &["import", text(&hf), "--name", "me/bard", "--json"]).json();
    assert_eq!(imported["name"], "me/bard");
    let gguf = files.model("second.gguf", "Q8_0");
    puna(&files, &["import", text(&gguf)]).succeeded();
    let listed = puna(&files, &["list", "--json"]).json();
    assert_eq!((listed["models"].as_array().unwrap().len(), &listed["broken"]), (2, &json!([])));
    let table = puna(&files, &["list"]).succeeded().stdout;
    assert!(table.contains("me/bard") && table.contains("local/second"), "{table}");

    // Every verb that takes a model takes its name; what lies in the working folder goes first.
    for name in ["bard", "me/bard", "second"] {
        puna(&files, &["inspect", name]).succeeded();
    }
    let ids = files.write("ids.json", "[1, 2, 3]");
    let run =
        |model: &str| puna(&files, &["run", model, "--ids-file", text(&ids), "--temperature", "0", "--json"]).json();
    assert_eq!(run("me/bard")["ids"], run(text(&hf))["ids"]);
    puna(&files, &["inspect", "nobody"]).refused(&["nobody"]);

    let shown = puna(&files, &["show", "bard", "--json"]).json();
    assert_eq!(shown["events"][0]["kind"], "kept");
    assert_eq!(shown["source"], format!("import of {}", hf.display()));
    let people = puna(&files, &["show", "bard"]).succeeded().stdout;
    assert!(people.contains("model.safetensors") && people.contains("config.json"), "{people}");

    let same = puna(&files, &["diff", "bard", text(&hf), "--json"]).json();
    assert_eq!((&same["same"], &same["different"]), (&json!(true), &json!([])));
    puna(&files, &["diff", "bard", "second"]).failed(&["differ"]);

    // What is removed is gone, and the room of the other is not touched.
    let removed = puna(&files, &["rm", "bard"]).succeeded().stdout;
    assert!(removed.contains("removed") && removed.contains("free now"), "{removed}");
    assert_eq!(puna(&files, &["list", "--json"]).json()["models"].as_array().unwrap().len(), 1);
    puna(&files, &["verify", "second", "--deep"]).succeeded();
    puna(&files, &["rm", "bard"]).refused(&["there is no model \"bard\" here", "local/second"]);
    let left = puna(&files, &["gc", "--dry-run", "--json"]).json();
    assert_eq!((&left["bytes"], &left["blobs"]), (&json!(0), &json!([])));
}

#[test]
fn damage_is_found_and_repaired() {
    let files = Files::new();
    let hf = files.model("Llama-bard", "F32");
    puna(&files, &["import", text(&hf), "--name", "bard"]).succeeded();
    let whole = puna(&files, &["verify", "bard", "--deep", "--json"]).json();
    assert_eq!((&whole["whole"], &whole["faults"]), (&json!(true), &json!([])));
    let kept = kept_dir(&puna(&files, &["list", "--json"]).json(), "local/bard").join("model.safetensors");
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o444);

    let at = fs::metadata(&kept).unwrap().len() as usize - 5;
    flip(&kept, at);
    // Without reading, nothing is seen of it.
    puna(&files, &["verify", "bard"]).succeeded();
    let found = puna(&files, &["verify", "bard", "--deep", "--json"]).failed(&["not what they were"]);
    let json: Value = serde_json::from_str(found.stdout.trim()).unwrap();
    let fault = json["faults"].as_array().unwrap().iter().find(|fault| fault["damage"] == true).unwrap();
    let range = &fault["ranges"][0];
    assert!(range[0].as_u64().unwrap() <= at as u64 && (at as u64) < range[1].as_u64().unwrap(), "{json}");
    assert!(fault["tensors"].as_array().is_some_and(|tensors| !tensors.is_empty()), "{json}");
    puna(&files, &["keep", "bard", "--to", "bundle"]).refused(&["not what its manifest says"]);
    assert!(!files.path("bundle").exists());

    // No copy: nothing changes. Another copy, damaged elsewhere, has what is missing.
    puna(&files, &["verify", "bard", "--deep", "--repair"]).failed(&["not what they were"]);
    let repaired = puna(&files, &["verify", "bard", "--deep", "--repair-from", text(&hf), "--json"]).json();
    assert_eq!(repaired["repaired"], json!(["model.safetensors"]));
    puna(&files, &["verify", "bard", "--deep"]).succeeded();
    let shown = puna(&files, &["show", "bard", "--json"]).json();
    assert!(shown["events"].as_array().unwrap().len() >= 2, "{shown}");

    puna(&files, &["keep", "bard", "--to", "bundle"]).succeeded();
    puna(&files, &["keep", "bard", "--to", "bundle"]).refused(&["exists already"]);
    // A machine that has nothing but the folder.
    let other = Files::new();
    let bundle = files.path("bundle");
    puna(&other, &["verify", text(&bundle), "--deep"]).succeeded();
    puna(&other, &["inspect", text(&bundle)]).succeeded();
    let sums = Command::new("sha256sum").args(["-c", "--quiet", "SHA256SUMS"]).current_dir(&bundle).output();
    assert!(sums.is_ok_and(|sums| sums.status.success()), "as other programs see it");
    flip(&bundle.join("config.json"), 3);
    puna(&other, &["verify", text(&bundle), "--deep"]).failed(&["not what they were"]);
}

#[test]
fn a_kept_model_is_signed_by_a_key() {
    let files = Files::new();
    let hf = files.model("Llama-bard", "BF16");
    puna(&files, &["import", text(&hf), "--name", "bard"]).succeeded();
    let made = puna(&files, &["sign", "--new-key", "mine.key", "--json"]).json();
    assert_eq!(fs::metadata(files.path("mine.key")).unwrap().permissions().mode() & 0o777, 0o600);
    puna(&files, &["sign", "--new-key", "mine.key"]).refused(&["mine.key.pub: exists already"]);
    puna(&files, &["sign", "--new-key", "other.key"]).succeeded();

    let verify = |args: &[&str]| puna(&files, &[&["verify"], args].concat());
    verify(&["bard", "--key", "mine.key.pub"]).refused(&["manifest.sig"]);
    let signed = puna(&files, &["sign", "bard", "--key", "mine.key", "--json"]).json();
    assert_eq!((&signed["by"]["fingerprint"], &signed["by"]["method"]), (&made["fingerprint"], &json!("key")));
    assert!(signed["says"].as_str().unwrap().contains("what this machine received (import of "), "{signed}");
    let checked = verify(&["bard", "--key", "mine.key.pub", "--json"]).json();
    assert_eq!((&checked["as_signed"], &checked["root"]), (&json!(true), &signed["root"]));
    let by = format!("signed by the key {}, expected ", made["fingerprint"].as_str().unwrap());
    verify(&["bard", "--key", "other.key.pub"]).refused(&[&by]);
    verify(&["bard", "--key", "mine.key"]).refused(&["expected a public key, found PRIVATE KEY"]);
    verify(&["bard", "--key", "mine.key.pub", "--deep"]).misused(&["--deep"]);
    verify(&["bard", "--signature", "x"]).misused(&["--key"]);
    let shown = puna(&files, &["show", "bard", "--json"]).json();
    assert_eq!(shown["events"].as_array().unwrap().last().unwrap()["kind"], "signed");
    assert_eq!(shown["signature"], signed["signature"]);
    // A bundle takes it along.
    puna(&files, &["keep", "bard", "--to", "bundle"]).succeeded();
    verify(&["./bundle", "--key", "mine.key.pub"]).succeeded();
    let other = files.write("bundle/extra.py", "import os");
    let found = verify(&["./bundle", "--key", "mine.key.pub"]).failed(&["1 files are not as they were signed"]);
    assert!(found.stdout.contains("extra.py: it was not signed"), "{found}");
    verify(&["./bundle", "--key", "mine.key.pub", "--ignore-unsigned"]).succeeded();
    fs::remove_file(other).unwrap();

    // Nobody vouches for what is damaged, in whichever way it is signed.
    let kept = kept_dir(&puna(&files, &["list", "--json"]).json(), "local/bard").join("model.safetensors");
    flip(&kept, 1000);
    let found = verify(&["bard", "--key", "mine.key.pub", "--json"]).failed(&["not as they were signed"]);
    let found: Value = serde_json::from_str(found.stdout.trim()).unwrap();
    assert_eq!(found["faults"][0]["path"], "model.safetensors");
    puna(&files, &["sign", "bard", "--key", "mine.key"]).refused(&["model.safetensors", "puna verify --deep"]);
    puna(&files, &["sign", "bard", "--key", "mine.key", "--shards", "4096"]).refused(&["damaged"]);
}

#[test]
fn a_folder_is_signed_by_a_certificate() {
    let files = Files::new();
    let hf = files.model("Llama-bard", "BF16");
    for name in ["root.pem", "between.pem", "signer.pem", "signer.key"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/signing").join(name);
        fs::copy(from, files.path(name)).unwrap();
    }
    let sign = |args: &[&str]| puna(&files, &[&["sign", text(&hf), "--certificate"], args].concat());
    sign(&["between.pem", "--key", "signer.key"]).refused(&["CN=Between is for another key"]);
    sign(&["signer.pem"]).misused(&["--key"]);
    let people = sign(&["signer.pem", "--key", "signer.key", "--chain", "between.pem"]).succeeded().stdout;
    assert!(people.contains("for whom CN=Between vouches") && people.contains("does not say who made"), "{people}");

    let verify = |args: &[&str]| puna(&files, &[&["verify", text(&hf)], args].concat());
    let checked = verify(&["--root", "root.pem", "--json"]).json();
    assert_eq!((&checked["as_signed"], &checked["by"]["issuer"]), (&json!(true), &json!("CN=Between")));
    verify(&["--root", "root.pem", "--at", "2027-03-01"]).succeeded();
    verify(&["--root", "root.pem", "--at", "2001-03-01"]).refused(&["is valid from"]);
    verify(&["--root", "root.pem", "--at", "soon"]).misused(&["2026-11-28"]);
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls/cert.pem");
    verify(&["--root", text(&tls)]).refused(&["does not lead to a root that you trust"]);
    puna(&files, &["sign", "--new-key", "mine.key"]).succeeded();
    verify(&["--key", "mine.key.pub"]).refused(&["--root FILE"]);

    // Shards tell where.
    let shards = ["signer.pem", "--key", "signer.key", "--chain", "between.pem", "--shards", "1000", "-o", "apart.sig"];
    sign(&shards).succeeded();
    // The other signature lies in the folder.
    let ignored = sign(&[&shards[..], &["--ignore", "model.sig", "--json"]].concat()).json();
    assert!(ignored["ignored"].as_array().unwrap().contains(&json!("model.sig")), "{ignored}");
    let weights = hf.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    bytes[2500] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let found =
        verify(&["--root", "root.pem", "--signature", "apart.sig", "--json"]).failed(&["not as they were signed"]);
    let found: Value = serde_json::from_str(found.stdout.trim()).unwrap();
    assert_eq!(
        found["faults"],
        json!([{
            "path": "model.safetensors", "what": "model.safetensors: it was changed in bytes 2000 to 3000", "ranges": [[2000, 3000]],
        }])
    );
    // What is not a signature is not written over.
    sign(&["signer.pem", "--key", "signer.key", "-o", "root.pem"]).refused(&["something else than a signature"]);
}

#[test]
fn terms_are_read_accepted_and_carried_on() {
    let files = Files::new();
    let base = files.model("Llama-3.1-8B", "BF16");
    fs::write(base.join("LICENSE"), licence(WORDS)).unwrap();
    puna(&files, &["import", text(&base), "--name", "meta-llama/Llama-3.1-8B"]).succeeded();
    let shown = puna(&files, &["terms", "show", "meta-llama/Llama-3.1-8B", "--text"]).succeeded().stdout;
    assert!(shown.contains("Llama 3.1 Community License") && shown.contains("not accepted"), "{shown}");
    assert!(shown.contains("You may do what you like.") && shown.contains("L31-NOTICE"), "{shown}");
    // Nobody is there to be asked.
    puna(&files, &["terms", "accept", "meta-llama/Llama-3.1-8B"]).refused(&["--accept-license"]);
    puna(&files, &["terms", "accept", "meta-llama/Llama-3.1-8B", "--accept-license"]).succeeded();
    let record = puna(&files, &["terms", "show", "meta-llama/Llama-3.1-8B", "--json"]).json();
    assert_eq!(record["acceptances"][0]["terms"], json!([record["terms"][0]["sha256_raw"]]));

    let other = files.write("other.txt", licence(WORDS).replace("like.\nYou", "want.\nYou"));
    let diff = puna(&files, &["terms", "diff", "meta-llama/Llama-3.1-8B", "--with", text(&other)]).succeeded().stdout;
    assert!(diff.contains("[-like.-]") && diff.contains("{+want.+}"), "{diff}");
    puna(&files, &["terms", "export", "meta-llama/Llama-3.1-8B", "--to", "terms"]).succeeded();
    let hash = record["terms"][0]["sha256_raw"].as_str().unwrap();
    assert_eq!(fs::read_to_string(files.path("terms").join("terms").join(hash)).unwrap(), licence(WORDS));

    // What was accepted outlives the model.
    let dir = kept_dir(&puna(&files, &["list", "--json"]).json(), "meta-llama/Llama-3.1-8B");
    puna(&files, &["rm", "meta-llama/Llama-3.1-8B"]).succeeded();
    assert!(dir.join(".puna/licence.json").is_file() && !dir.join("config.json").exists());
}

#[test]
fn terms_are_accepted_at_a_terminal() {
    let files = Files::new();
    let base = files.model("Llama-3.1-8B", "BF16");
    fs::write(base.join("LICENSE"), licence(WORDS)).unwrap();
    fs::write(base.join("USE_POLICY.md"), "Be kind.").unwrap();
    puna(&files, &["import", text(&base), "--name", "meta-llama/Llama-3.1-8B"]).succeeded();
    let asked = |answer: &str| {
        let (mut screen, keyboard) = terminal();
        screen.write_all(answer.as_bytes()).unwrap();
        let mut command = binary();
        command.args(["terms", "accept", "meta-llama/Llama-3.1-8B"]).env("PUNA_HOME", files.path("home"));
        let output = command.stdin(keyboard).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let record = || puna(&files, &["terms", "show", "meta-llama/Llama-3.1-8B", "--json"]).json();
    let (accepted, said) = asked("no\n");
    assert!(!accepted && said.contains("nothing was recorded"), "{said}");
    assert_eq!(record()["acceptances"], json!([]));
    let (accepted, said) = asked("accept\n");
    assert!(accepted, "{said}");
    let record = record();
    let accepted = &record["acceptances"][0];
    let texts = record["terms"].as_array().unwrap().iter().map(|text| text["sha256_raw"].clone());
    assert_eq!(accepted["terms"], texts.collect::<Value>());
    let (shown, _) = said.split_once("Type `accept`").unwrap();
    assert!(shown.contains(WORDS) && shown.contains("Be kind.") && shown.contains("you have read the use policy"));
    assert!(shown.contains("no more than 700 million monthly users in the month before 2024-07-23"), "{shown}");
    assert_eq!(accepted["attest"], json!({"legal_capacity": true, "aup_read": true, "mau_gt_700m": false}));
    assert_eq!(accepted["shown_sha256"], sha256(shown.as_bytes()).to_string());
}

#[test]
fn what_is_passed_on_is_checked() {
    let files = Files::new();
    let base = files.model("Llama-3.1-8B", "BF16");
    fs::write(base.join("LICENSE"), licence(WORDS)).unwrap();
    let derived = files.model("bard", "BF16");
    fs::write(derived.join("README.md"), "---\nbase_model: meta-llama/Llama-3.1-8B\n---\n\n# Bard\n").unwrap();
    let check = ["publish", "--check", text(&derived), "--base", text(&base)];
    let refused = puna(&files, &check).failed(&["not to be passed on like this"]);
    assert!(refused.stdout.contains("L31-NAME") && refused.stdout.contains("L31-NOTICE"), "{refused}");
    // A program writes files; a name is for people to find.
    puna(&files, &[&check[..], &["--fix"]].concat()).failed(&["not to be passed on like this"]);
    let fixed = puna(&files, &[&check[..], &["--name", "Llama-Bard", "--json"]].concat()).json();
    assert_eq!(fixed["refused"], false);
    let notice = fs::read_to_string(derived.join("NOTICE")).unwrap();
    assert!(notice.contains("Copyright © Meta Platforms, Inc. All Rights Reserved."), "{notice}");
    assert_eq!(fs::read_to_string(derived.join("LICENSE")).unwrap(), licence(WORDS));
    assert!(fs::read_to_string(derived.join("README.md")).unwrap().contains("Built with Llama"));
}

#[test]
fn open_is_what_the_rules_say() {
    let files = Files::new();
    let called =
        |model: &str| puna(&files, &["openness", model, "--json"]).json()["called"].as_str().unwrap().to_owned();
    assert!(called("cria").contains("open source"), "{}", called("cria"));
    let llama = called("meta-llama/Llama-3.1-405B");
    assert!(llama.contains("open weights") && !llama.contains("source"), "{llama}");
    puna(&files, &["openness", "nobody/nothing"]).refused(&["nothing is known"]);
    let shown = puna(&files, &["openness", "meta-llama/Llama-3.1-8B-Instruct"]).succeeded().stdout;
    assert!(shown.contains("What frameworks make of it"), "{shown}");
    puna(&files, &["openness", "cria", "--html", "c.html", "--spdx", "c.spdx.json", "--cyclonedx", "c.cdx.json"])
        .succeeded();
    let json = |name: &str| serde_json::from_slice::<Value>(&fs::read(files.path(name)).unwrap()).unwrap();
    assert_eq!(json("c.cdx.json")["bomFormat"], "CycloneDX");
    assert!(json("c.spdx.json")["@graph"].is_array());
    assert!(fs::read_to_string(files.path("c.html")).unwrap().starts_with("<!"));
}
