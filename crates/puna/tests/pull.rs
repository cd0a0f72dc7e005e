//! Models that are pulled, from a hub and a server of this test's own; and what is left of them when those turn.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "../../vault/tests/fake/mod.rs"]
mod fake;
// Small models in every published form, with the same values.
#[path = "../../checkpoint/tests/material/mod.rs"]
mod material;
mod model;

use fake::hub::{COMMIT, Hub, TOKEN};
use fake::{Reply, Server, md5_of};
use model::{Files, Run, binary, flip, kept_dir, licence, run, text};
use puna_checkpoint::{export, open};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const ID: &str = "meta-llama/Llama-3.1-8B-Tiny";
const OTHER_COMMIT: &str = "fedcba9876543210fedcba9876543210fedcba98";

/// `puna` with a home of its own and the hub at an address.
fn puna(files: &Files, hub: &str, token: Option<&str>, args: &[&str]) -> Run {
    let mut command = binary();
    command.args(args).env("PUNA_HOME", files.path("home")).current_dir(files.path(""));
    command.env("HF_ENDPOINT", hub).env("HOME", files.path("")).env_remove("HF_TOKEN").env_remove("HF_HOME");
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    run(&mut command, b"")
}

/// The files of a tiny Llama as a repository has them. `seed` makes other weights.
fn repository(files: &Files, name: &str, seed: u64) -> Vec<(String, Arc<Vec<u8>>)> {
    let shape = files.write("shape.json", model::SHAPE);
    let dir = files.path(name);
    let seed = seed.to_string();
    model::puna(&["synth", text(&shape), "--format", "BF16", "--seed", &seed, "-o", text(&dir)]).succeeded();
    let mut all: Vec<(String, Arc<Vec<u8>>)> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), Arc::new(fs::read(&path).unwrap()))
        })
        .collect();
    all.push(("LICENSE".into(), Arc::new(licence("You may do what you like.").into_bytes())));
    all.push(("USE_POLICY.md".into(), Arc::new(b"# Use policy\n\nBe good.\n".to_vec())));
    all.push(("original/consolidated.00.pth".into(), fake::bytes(5000, 7)));
    all
}

fn hub(files: &[(String, Arc<Vec<u8>>)]) -> Hub {
    let files: Vec<(&str, Arc<Vec<u8>>)> = files.iter().map(|(path, body)| (path.as_str(), Arc::clone(body))).collect();
    Hub::start(&files)
}

/// All files below a folder.
fn all_files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                all.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
    }
    all
}

/// All files below a folder, but for the records of terms, which grow.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let is_record = |path: &Path| path.ends_with("licence.json") || path.iter().any(|part| part == "terms");
    all_files(dir).into_iter().filter(|(path, _)| !is_record(path)).collect()
}

/// No file below a folder has it.
#[track_caller]
fn expect_nowhere(dir: &Path, secret: &str) {
    for (path, bytes) in all_files(dir) {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", path.display());
    }
}

/// `puna` with a home of its own and Meta's link, unless that is empty.
fn by_link(files: &Files, link: &str, args: &[&str]) -> Run {
    let mut command = binary();
    command.args(args).env("PUNA_HOME", files.path("home")).env_remove("PUNA_META_LINK");
    if !link.is_empty() {
        command.env("PUNA_META_LINK", link);
    }
    run(&mut command, b"")
}

#[test]
fn a_model_is_pulled() {
    let files = Files::new();
    let repository = repository(&files, "tiny", 0);
    let fake = hub(&repository);
    fake.state.lock().unwrap().is_gated = true;
    let address = fake.hub.url("");
    let source = format!("hf:{ID}");
    let pull = |token, more: &[&str]| puna(&files, &address, token, &[&["pull", &source], more].concat());

    // Without a token the gate is shut, and that is told with the next step.
    pull(None, &["--accept-license"]).refused(&["no token was sent", "HF_TOKEN"]);
    let plan = pull(Some(TOKEN), &["--dry-run", "--json"]).json();
    assert_eq!((&plan["name"], &plan["revision"]), (&json!(ID), &json!(COMMIT)));
    assert!(plan["licence"].as_str().unwrap().contains("Llama 3.1"), "{plan}");
    assert!(plan["files"].as_array().unwrap().iter().all(|file| !file["path"].as_str().unwrap().contains("original")));
    // Nobody is there to be asked: no byte of weights comes.
    let refused = pull(Some(TOKEN), &[]);
    assert!(refused.code == Some(2) && refused.stderr.contains("--accept-license"), "{refused}");
    assert!(!fake.cdn.asked().iter().any(|ask| ask.headers.contains_key("range")));
    let record = puna(&files, &address, None, &["list", "--json"]).json();
    assert_eq!(record["models"], json!([]));

    let pulled = pull(Some(TOKEN), &["--accept-license"]).succeeded();
    for part in ["Llama 3.1", "free in", "tokens a second", "what its publisher says", "puna run Llama-3.1-8B-Tiny"] {
        assert!(pulled.stdout.contains(part), "{part}: {pulled}");
    }
    let offline = "http://127.0.0.1:9";
    puna(&files, offline, None, &["verify", ID, "--deep"]).succeeded();
    puna(&files, offline, None, &["run", ID, "Why?", "--max-tokens", "2"]).succeeded();
    let terms = puna(&files, offline, None, &["terms", "show", ID, "--json"]).json();
    assert_eq!(terms["acceptances"][0]["evidence"]["gate"], "manual");
    assert_eq!(terms["acceptances"][0]["terms"].as_array().unwrap().len(), 2);
    let shown = puna(&files, offline, None, &["show", ID, "--json"]).json();
    assert_eq!(shown["source"], format!("hf:{ID}@{COMMIT}"));
    let kept = kept_dir(&puna(&files, offline, None, &["list", "--json"]).json(), ID);
    for (path, body) in repository.iter().filter(|(path, _)| !path.contains('/')) {
        assert!(fs::read(kept.join(path)).unwrap() == **body, "{path}");
    }
    // Nothing of the way is left, and the token is nowhere.
    assert_eq!(fs::read_dir(files.path("home/partial")).unwrap().flatten().filter(|e| e.path().is_dir()).count(), 0);
    expect_nowhere(&files.path("home"), TOKEN);
    let sent = || fake.cdn.sent.load(Ordering::SeqCst);
    let before = sent();
    let again = pull(Some(TOKEN), &["--json"]).json();
    // The licence alone is read again.
    assert!(again["was_here"] == true && sent() - before < 5000, "{again}");
}

#[test]
fn what_is_damaged_is_fetched_again() {
    let files = Files::new();
    let fake = hub(&repository(&files, "tiny", 0));
    let address = fake.hub.url("");
    puna(&files, &address, None, &["pull", &format!("hf:{ID}"), "--accept-license"]).succeeded();
    let kept = kept_dir(&puna(&files, &address, None, &["list", "--json"]).json(), ID);
    let path = kept.join("model.safetensors");
    flip(&path, fs::metadata(&path).unwrap().len() as usize / 2);

    let offline = puna(&files, &address, None, &["verify", ID, "--deep", "--repair", "--offline"]);
    assert!(offline.code == Some(2), "{offline}");
    let repaired = puna(&files, &address, None, &["verify", ID, "--deep", "--repair", "--json"]).json();
    assert_eq!(repaired["repaired"], json!(["model.safetensors"]));
    puna(&files, &address, None, &["verify", ID, "--deep"]).succeeded();
}

/// In every state that the hub can turn to, what was pulled stays: its bytes, its terms, and that it runs.
#[test]
fn a_withdrawn_model_stays() {
    let files = Files::new();
    let repository = repository(&files, "tiny", 0);
    let fake = hub(&repository);
    fake.state.lock().unwrap().is_gated = true;
    let address = fake.hub.url("");
    let source = format!("hf:{ID}");
    puna(&files, &address, Some(TOKEN), &["pull", &source, "--accept-license"]).succeeded();
    let home = files.path("home");
    let kept = kept_dir(&puna(&files, &address, None, &["list", "--json"]).json(), ID);
    let (before, blobs) = (contents(&kept), contents(&home.join("store")));
    let terms =
        |part: &str| puna(&files, "http://127.0.0.1:9", None, &["terms", "show", ID, "--json"]).json()[part].clone();
    let accepted = terms("acceptances");
    assert_eq!(accepted.as_array().unwrap().len(), 1);

    let other = self::repository(&files, "other", 1);
    let other: BTreeMap<String, Arc<Vec<u8>>> = other.into_iter().collect();
    let changed_terms = || {
        let mut files: BTreeMap<String, Arc<Vec<u8>>> = repository.iter().cloned().collect();
        files.insert("LICENSE".into(), Arc::new(licence("You may do nothing.").into_bytes()));
        files
    };
    type Turn<'a> = Box<dyn Fn(&mut fake::hub::State) + 'a>;
    let denied =
        |status, code, message| -> Turn { Box::new(move |state| state.denial = Some((status, code, message))) };
    let turns: Vec<(&str, &str, Turn)> = vec![
        ("available", "as it was", Box::new(|_| ())),
        ("gone", "404", denied(404, "RepoNotFound", "Repository not found")),
        ("unclear", "401", denied(401, "", "")),
        ("access_blocked", "refused", denied(403, "GatedRepo", "Your request has been rejected by the authors.")),
        ("gated", "not asked for", denied(403, "GatedRepo", "Access is restricted and you are not in the list.")),
        ("disabled", "disabled", denied(403, "", "Access to this resource is disabled.")),
        ("renamed", "renamed", Box::new(|state| state.renamed = Some("meta-llama/Llama-New"))),
        (
            "available",
            "other weights",
            Box::new(|state| (state.files, state.commit) = (other.clone(), OTHER_COMMIT.into())),
        ),
        (
            "available",
            "other terms",
            Box::new(|state| (state.files, state.commit) = (changed_terms(), OTHER_COMMIT.into())),
        ),
    ];
    for (state, what, turn) in turns {
        {
            let mut now = fake.state.lock().unwrap();
            (now.denial, now.renamed, now.commit) = (None, None, COMMIT.into());
            now.files = repository.iter().cloned().collect();
            turn(&mut now);
        }
        // Asking is all that anybody does who has the model.
        let seen = puna(&files, &address, Some(TOKEN), &["upstream", ID, "--json"]).json();
        assert_eq!(seen["state"], state, "{what}: {seen}");
        match what {
            "renamed" => assert_eq!(seen["renamed"], "meta-llama/Llama-New"),
            "other weights" => {
                let roots = (seen["weights"]["kept"].as_str().unwrap(), seen["weights"]["there"].as_str().unwrap());
                // Who pulls it again is stopped, and sees both.
                puna(&files, &address, Some(TOKEN), &["pull", &source, "--accept-license"]).failed(&[roots.0, roots.1]);
            }
            "other terms" => assert_eq!(seen["new_terms"].as_array().unwrap().len(), 1),
            _ => assert!(seen["new_terms"].as_array().unwrap().is_empty() && seen["weights"].is_null(), "{seen}"),
        }
        expect_kept(&files, what);
        assert_eq!(contents(&kept), before, "{what}");
        assert_eq!(contents(&home.join("store")), blobs, "{what}");
        assert_eq!(terms("acceptances"), accepted, "{what}");
    }
    // Nobody is there at all.
    let vanished = puna(&files, "https://hub.invalid", Some(TOKEN), &["upstream", ID, "--json"]).json();
    assert_eq!(vanished["state"], "unreachable", "{vanished}");
    expect_kept(&files, "vanished");
    assert_eq!((contents(&kept), contents(&home.join("store"))), (before, blobs));
    let seen = terms("upstream");
    let states: Vec<&str> = seen.as_array().unwrap().iter().map(|seen| seen["state"].as_str().unwrap()).collect();
    assert_eq!(
        states,
        [
            "available",
            "gone",
            "unclear",
            "access_blocked",
            "gated",
            "disabled",
            "renamed",
            "available",
            "available",
            "unreachable"
        ]
    );
}

/// A kept model verifies, runs, shows its terms with dates, and can be carried away, all without a connection.
#[track_caller]
fn expect_kept(files: &Files, what: &str) {
    let nobody = "http://127.0.0.1:9";
    let offline = |args: &[&str]| puna(files, nobody, None, args);
    offline(&["verify", ID, "--deep"]).succeeded();
    offline(&["run", ID, "Why?", "--max-tokens", "2"]).succeeded();
    let shown = offline(&["terms", "show", ID]).succeeded().stdout;
    assert!(shown.contains("accepted 20"), "{what}: {shown}");
    offline(&["openness", ID]).succeeded();
    let bundle = files.path("bundle");
    offline(&["keep", ID, "--to", text(&bundle)]).succeeded();
    let other = Files::new();
    puna(&other, nobody, None, &["verify", text(&bundle), "--deep"]).succeeded();
    let published = puna(&other, nobody, None, &["publish", "--check", text(&bundle), "--json"]);
    assert!(matches!(published.code, Some(0 | 2)) && published.stdout.contains("L31-"), "{what}: {published}");
    puna(&other, nobody, None, &["import", text(&bundle), "--name", ID]).succeeded();
    let carried = puna(&other, nobody, None, &["terms", "show", ID, "--json"]).json();
    assert_eq!(carried["acceptances"][0]["kind"], "imported", "{what}: {carried}");
    fs::remove_dir_all(bundle).unwrap();
}

#[test]
fn other_weights_are_kept_beside() {
    let files = Files::new();
    let fake = hub(&repository(&files, "tiny", 0));
    let address = fake.hub.url("");
    let source = format!("hf:{ID}");
    puna(&files, &address, None, &["pull", &source, "--accept-license"]).succeeded();
    let other = repository(&files, "other", 1);
    {
        let mut now = fake.state.lock().unwrap();
        now.files = other.into_iter().collect();
        now.commit = OTHER_COMMIT.into();
    }
    let sent = || fake.cdn.sent.load(Ordering::SeqCst);
    let before = sent();
    let pulled = puna(&files, &address, None, &["pull", &source, "--accept-license", "--beside", "--json"]).json();
    assert_eq!(pulled["revision"], OTHER_COMMIT);
    // What both have came once.
    let weights = fs::metadata(files.path("other/model.safetensors")).unwrap().len();
    assert!(pulled["shared_bytes"].as_u64().unwrap() > 0 && sent() - before < 2 * weights, "{pulled}");
    let listed = puna(&files, &address, None, &["list", "--json"]).json();
    assert_eq!(listed["models"].as_array().unwrap().len(), 2);
}

#[test]
fn a_gguf_file_is_pulled() {
    let files = Files::new();
    let gguf = Arc::new(fs::read(files.model("Llama-3.1-Tiny-Q8_0.gguf", "Q8_0")).unwrap());
    let text_of = licence("You may do what you like.").into_bytes();
    let server = {
        let gguf = Arc::clone(&gguf);
        Server::start(move |ask| match ask.path.as_str() {
            "/m/Llama-3.1-Tiny-Q8_0.gguf" => Reply::file(ask, &gguf),
            "/m/LICENSE" => Reply::new(200, text_of.clone()),
            _ => Reply::new(404, ""),
        })
    };
    let url = server.url("/m/Llama-3.1-Tiny-Q8_0.gguf?token=secret");
    let pulled = puna(&files, "", None, &["pull", &url, "--accept-license", "--json"]).json();
    assert_eq!(pulled["name"], "127.0.0.1/Llama-3.1-Tiny-Q8_0");
    assert!(!pulled.to_string().contains("secret"));
    puna(&files, "", None, &["run", "Llama-3.1-Tiny-Q8_0", "Why?", "--max-tokens", "2"]).succeeded();
    puna(&files, "", None, &["pull", &server.url("/x.gguf")]).refused(&["answered 404"]);
    // Without terms nothing comes, unless they are given.
    let server = {
        let gguf = Arc::clone(&gguf);
        Server::start(move |ask| match ask.path.as_str() {
            "/Llama-3.1-Bare.gguf" => Reply::file(ask, &gguf),
            _ => Reply::new(404, ""),
        })
    };
    let url = server.url("/Llama-3.1-Bare.gguf");
    puna(&files, "", None, &["pull", &url, "--accept-license"]).failed(&["--license-file"]);
    let terms = files.write("terms.txt", licence("You may do what you like."));
    puna(&files, "", None, &["pull", &url, "--accept-license", "--license-file", text(&terms)]).succeeded();
}

/// By the link of Meta's e-mail, in Meta's own form: a link that ends midway, the next one, a repair, and whether these are
/// the weights that the hub has.
#[test]
fn metas_own_files_are_pulled() {
    let files = Files::new();
    let dir = files.directory("Llama-3.1-8B-Instruct");
    material::meta(&dir, 1, false);
    let names = ["consolidated.00.pth", "params.json", "tokenizer.model"];
    let lines = names.map(|name| format!("{}  {name}\n", md5_of(&fs::read(dir.join(name)).unwrap())));
    fs::write(dir.join("checklist.chk"), lines.concat()).unwrap();
    let agreement = licence("You may do what you like.").into_bytes();
    let ended = AtomicBool::new(false);
    let server = Server::start(move |ask| {
        // The first link is good until weights are asked for.
        let is_probe = ask.range() == Some((0, Some(1)));
        let is_first = ask.query.contains("Signature=first");
        if is_first && ask.path.ends_with(".pth") && !is_probe {
            ended.store(true, Ordering::SeqCst);
        }
        let ended = is_first && ended.load(Ordering::SeqCst);
        let body = match ask.path.as_str() {
            "/LICENSE" => Some(agreement.clone()),
            path => path.strip_prefix("/Llama-3.1-8B-Instruct/").and_then(|name| fs::read(dir.join(name)).ok()),
        };
        match body {
            Some(body) if ask.method == "GET" && !ended => {
                Reply::file(ask, &Arc::new(body)).header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
            }
            _ => Reply::new(403, "<Error/>"),
        }
    });
    let link = |signature: &str| server.url(&format!("/*?Policy=p&Signature={signature}&Key-Pair-Id=k"));
    let puna = |link: &str, args: &[&str]| by_link(&files, link, args);
    let pull = ["pull", "meta:Llama3.1-8B-Instruct", "--accept-license", "--json"];
    puna(&link("first"), &pull).refused(&["older than 24 hours", "everything that came is kept"]);
    let pulled = puna(&link("second"), &pull).json();
    assert_eq!(pulled["name"], "meta/Llama-3.1-8B-Instruct");

    let verify = ["verify", "Llama-3.1-8B-Instruct", "--deep"];
    puna("", &verify).succeeded();
    let terms = puna("", &["terms", "show", "Llama-3.1-8B-Instruct", "--json"]).json();
    assert_eq!(terms["acceptances"].as_array().unwrap().len(), 1);
    // Its clock was far behind.
    let clock = &terms["acceptances"][0]["clock"];
    assert_eq!(clock["server_date"], "Sun, 06 Nov 1994 08:49:37 GMT");
    assert!(clock["skew_s"].as_i64().unwrap() > 1_000_000_000, "{clock}");
    let kept = kept_dir(&puna("", &["list", "--json"]).json(), "meta/Llama-3.1-8B-Instruct");
    let path = kept.join("consolidated.00.pth");
    flip(&path, fs::metadata(&path).unwrap().len() as usize / 2);
    let repair = [&verify[..], &["--repair"]].concat();
    let without = puna("", &repair);
    assert!(without.code == Some(2) && without.stderr.contains("PUNA_META_LINK"), "{without}");
    puna(&link("third"), &repair).succeeded();
    puna("", &verify).succeeded();
    // The links are nowhere.
    expect_nowhere(&files.path("home"), "Signature=");

    // As the hub has it, in safetensors, with the rows of queries and keys in another order.
    let (other, options) = (files.path("hub"), export::Options::default());
    export::write(
        &open(&files.path("Llama-3.1-8B-Instruct")).unwrap(),
        &other,
        &options,
        &mut |_| None,
        &mut |_, _| (),
    )
    .unwrap();
    puna("", &["import", text(&other), "--name", "hub"]).succeeded();
    let compared = puna("", &["diff", "Llama-3.1-8B-Instruct", "hub", "--json"]).json();
    assert!(compared["same"] == true, "{compared}");
}

#[test]
fn what_can_not_be_pulled() {
    let files = Files::new();
    let fake = hub(&repository(&files, "tiny", 0));
    let address = fake.hub.url("");
    let pull = |source: &str| puna(&files, &address, None, &["pull", source, "--accept-license"]);
    pull("llama3.1-8b").refused(&["did you mean llama-3.1-8b?"]);
    pull("./nowhere").refused(&["there is no such file or folder"]);
    pull("hf:nobody").refused(&["expected hf:owner/name"]);
    pull(&format!("hf:{ID}@nothing")).refused(&["no such branch, tag or commit"]);
    pull("meta:Llama3.1-8B-Instruct").refused(&["PUNA_META_LINK"]);
    pull("https://llama3-1.llamameta.net/*?Policy=p&Signature=s").refused(&["does not say which model"]);
    // Known beforehand, and not what comes: the hub of this test has other files at this commit.
    fake.state.lock().unwrap().commit = "0e9e39f249a16976918f6564b8830bc894c89659".into();
    pull("llama-3.1-8b-instruct").refused(&["these are not the files that were published"]);
    // A link that opens nothing any more.
    let server = Server::start(|_| Reply::new(403, "<Error/>"));
    let link = server.url("/*?Policy=p&Signature=verysecret&Key-Pair-Id=k");
    let refused = by_link(&files, &link, &["pull", "meta:Llama3.1-8B-Instruct", "--accept-license"]);
    assert!(!refused.stderr.contains("verysecret"), "{refused}");
    refused.refused(&["older than 24 hours", "everything that came is kept"]);
}

#[test]
fn a_licence_that_ended_ends_use() {
    let files = Files::new();
    let fake = hub(&repository(&files, "tiny", 0));
    let address = fake.hub.url("");
    puna(&files, &address, None, &["pull", &format!("hf:{ID}"), "--accept-license"]).succeeded();
    puna(&files, &address, None, &["terms", "end", ID, "--reason", "our notice"]).succeeded();
    let used = puna(&files, &address, None, &["run", ID, "Why?"]);
    assert!(used.code == Some(2) && used.stderr.contains("our notice"), "{used}");
    // It is the user's all the same: it is checked, shown and carried away.
    puna(&files, &address, None, &["verify", ID, "--deep"]).succeeded();
    puna(&files, &address, None, &["show", ID]).succeeded();
}
