//! Folders that are to be published, and what their licences ask for.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_vault::licence::{Licence, Occasion};
use puna_vault::obligations::{Applied, CheckError, Publication, Report, apply, check};
use puna_vault::record::{Channel, Folder, Found, Model, Record, Role, State};
use std::path::Path;

/// 28 November 2026.
const NOW: i64 = 1_795_896_960_000;
const NOTICE: &str = "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. All \
                      Rights Reserved.";
const POLICY: &str = "Llama 3.1 Acceptable Use Policy, as a test has it.";

/// A text with the title of the licence and the length of one; it is not Meta's.
fn agreement() -> String {
    format!("LLAMA 3.1 COMMUNITY LICENSE AGREEMENT\n{}", "Words of a test. ".repeat(60))
}

fn publication<'a>(dir: &'a Path, name: &'a str) -> Publication<'a> {
    Publication { dir, name: Some(name), licence: None, is_derived: None, base: None }
}

fn state(report: &Report, id: &str) -> State {
    row(report, id).state
}

fn row<'a>(report: &'a Report, id: &str) -> &'a puna_vault::obligations::Row {
    report.rows.iter().find(|row| row.obligation.id == id).unwrap_or_else(|| panic!("{id}"))
}

fn put(dir: &Path, file: &str, text: &str) {
    std::fs::write(dir.join(file), text).unwrap();
}

fn text(dir: &Path, file: &str) -> String {
    std::fs::read_to_string(dir.join(file)).unwrap()
}

/// Writes a record with texts of terms, as `puna pull` does.
fn record(dir: &Path) {
    let (agreement, folder) = (agreement(), Folder::of(dir));
    let found = |role, bytes| Found {
        role,
        bytes,
        source_url: None,
        channel: Channel::Hf,
        http: None,
        incorporated_by_url: false,
    };
    let found = [found(Role::Agreement, agreement.as_bytes()), found(Role::UsePolicy, POLICY.as_bytes())];
    let model = Model { vendor: "v".into(), id: "m".into(), revision: "r".into(), manifest_sha256: None };
    let record = Record::start(model, Licence::of_id("llama3.1"), None, &found, NOW).unwrap();
    found.iter().for_each(|found| assert!(folder.keep(found.bytes).is_ok()));
    folder.write(&record).unwrap();
}

#[test]
fn a_folder_that_lacks_everything_is_put_right() {
    let base = tempfile::tempdir().unwrap();
    record(base.path());
    let dir = tempfile::tempdir().unwrap();
    put(
        dir.path(),
        "README.md",
        "---\nbase_model: meta-llama/Llama-3.1-8B\nlicense: llama3.1\n---\n\n# Bard\n\nSings.",
    );
    let mut publication = Publication { base: Some(base.path()), ..publication(dir.path(), "me/Bard") };
    let report = check(&publication, Occasion::Push).unwrap();
    assert!(report.is_refused());
    assert_eq!(report.licences[0].1, "its card, which declares `llama3.1`");
    for id in ["L31-COPY", "L31-BUILT", "L31-NAME", "L31-NOTICE", "L31-LAW"] {
        assert_eq!(state(&report, id), State::Unmet, "{id}");
        assert!(row(&report, id).remedy.is_some(), "{id}");
    }
    assert_eq!(state(&report, "L31-GRANT"), State::NotApplicable);
    assert_eq!(state(&report, "L31-MAU"), State::NotApplicable);
    assert_eq!(state(&report, "L31-AUP-HUMAN"), State::NotChecked);
    assert_eq!(
        row(&report, "L31-NAME").remedy.as_deref().unwrap(),
        "call it `Llama-Bard`, or otherwise so that “Llama” comes first"
    );

    let applied = apply(&publication, &report).unwrap();
    let wrote = |id: &str, file: &str| Applied::Wrote { id: id.into(), file: file.into() };
    let expected = [
        wrote("L31-COPY", "LICENSE"),
        wrote("L31-BUILT", "README.md"),
        wrote("L31-NOTICE", "NOTICE"),
        wrote("L31-LAW", "USE_POLICY.md"),
    ];
    assert_eq!(applied, expected);
    assert_eq!(text(dir.path(), "NOTICE"), format!("{NOTICE}\n"));
    assert_eq!(text(dir.path(), "LICENSE"), agreement());
    assert_eq!(text(dir.path(), "USE_POLICY.md"), POLICY);
    let card = "---\nbase_model: meta-llama/Llama-3.1-8B\nlicense: llama3.1\n---\n\n# Bard\n\n**Built with Llama**\n\nSings.\n";
    assert_eq!(text(dir.path(), "README.md"), card);

    // The name is the only thing that a program can't put right. The texts are this test's, so they are known from a
    // record alone.
    record(dir.path());
    let report = check(&publication, Occasion::Push).unwrap();
    assert_eq!(report.rows.iter().filter(|row| row.state == State::Unmet).count(), 1);
    publication.name = Some("me/Llama-3.1-8B-Bard");
    let report = check(&publication, Occasion::Push).unwrap();
    assert!(!report.is_refused());
    assert!(apply(&publication, &report).unwrap().is_empty());
    let states = report.states(NOW);
    assert_eq!(states.len(), report.rows.len());
    assert_eq!(states[0].checked_at, "2026-11-28T20:16:00.000Z");
}

#[test]
fn what_counts_as_the_text_of_a_licence() {
    let dir = tempfile::tempdir().unwrap();
    let publication = publication(dir.path(), "Llama-3.1-x");
    let copy = || check(&publication, Occasion::Push).unwrap();
    assert_eq!(row(&copy(), "L31-COPY").evidence, "there is no file LICENSE");
    put(dir.path(), "LICENSE", "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT");
    assert_eq!(state(&copy(), "L31-COPY"), State::Unmet);
    put(dir.path(), "LICENSE", &agreement());
    assert_eq!(state(&copy(), "L31-COPY"), State::NotChecked);
    assert!(row(&copy(), "L31-COPY").evidence.contains("compare it with"));
    record(dir.path());
    assert_eq!(state(&copy(), "L31-COPY"), State::Met);
    put(dir.path(), "LICENSE", &format!("{} ", agreement()));
    assert_eq!(state(&copy(), "L31-COPY"), State::NotChecked);
}

#[test]
fn what_counts_as_a_notice() {
    let dir = tempfile::tempdir().unwrap();
    let of = |file: &str, text: &[u8]| {
        std::fs::write(dir.path().join(file), text).unwrap();
        let report = check(&publication(dir.path(), "Llama-3.1-x"), Occasion::Push).unwrap();
        std::fs::remove_file(dir.path().join(file)).unwrap();
        state(&report, "L31-NOTICE")
    };
    for file in ["NOTICE", "notice.txt", "Notice.md", "Llama-3.1-x.NOTICE"] {
        assert_eq!(of(file, NOTICE.as_bytes()), State::Met, "{file}");
    }
    assert_eq!(of("NOTICE", NOTICE.replace(", Inc", ",\nInc").as_bytes()), State::Met);
    assert_eq!(of("NOTICE.pdf", NOTICE.as_bytes()), State::Unmet);
    assert_eq!(of("NOTICE", NOTICE.replace('©', "(c)").as_bytes()), State::Unmet);
    // In Latin-1.
    let latin: Vec<u8> = NOTICE.chars().map(|c| c as u8).collect();
    assert_eq!(of("NOTICE", &latin), State::Unmet);
}

#[test]
fn the_words_are_in_what_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let of = |card: &str| {
        put(dir.path(), "README.md", card);
        state(&check(&publication(dir.path(), "Llama-3.1-x"), Occasion::Push).unwrap(), "L31-BUILT")
    };
    assert_eq!(of("# x\nBuilt with\nLlama."), State::Met);
    assert_eq!(of("---\ncredit: Built with Llama\n---\n# x\n"), State::Unmet);
    assert_eq!(of("Built with llama"), State::Unmet);
}

#[test]
fn names() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str, card: &str, is_derived: Option<bool>, licence: &str| {
        put(dir.path(), "README.md", card);
        let publication = Publication { is_derived, licence: Licence::of_id(licence), ..publication(dir.path(), name) };
        let report = check(&publication, Occasion::Push).unwrap();
        state(&report, if licence == "llama3" { "L3-NAME" } else { "L31-NAME" })
    };
    assert_eq!(of("me/Llama-Bard", "", None, "llama3.1"), State::Met);
    assert_eq!(of("Llama/Bard", "", None, "llama3.1"), State::Unmet);
    assert_eq!(of("Llama-Bard", "", None, "llama3"), State::Unmet);
    assert_eq!(of("Llama-3-Bard", "", None, "llama3"), State::Met);
    // Passed on as it was received, and known to be so.
    assert_eq!(of("Meta-Llama-3-8B", "", Some(false), "llama3"), State::NotApplicable);
    assert_eq!(of("Meta-Llama-3-8B", "", None, "llama3"), State::Unmet);
    let card = "---\nbase_model: meta-llama/Llama-3.1-8B\n---\n";
    assert_eq!(of("Bard", card, None, "llama3.1"), State::Unmet);
}

#[test]
fn an_open_label_does_not_hide_llamas_licence() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "README.md", "---\nlicense: apache-2.0\nbase_model:\n- meta-llama/Llama-3.1-8B\n---\n# Bard\n");
    let report = check(&publication(dir.path(), "Bard"), Occasion::Push).unwrap();
    let ids: Vec<&str> = report.licences.iter().map(|(licence, _)| licence.id.as_str()).collect();
    assert_eq!(ids, ["apache-2.0", "llama3.1"]);
    assert!(report.is_refused());
    assert_eq!(state(&report, "L31-NAME"), State::Unmet);
    // Two licences have no room in one file.
    record(dir.path());
    put(dir.path(), "LICENSE", "Apache License\nVersion 2.0, January 2004\n");
    let report = check(&publication(dir.path(), "Bard"), Occasion::Push).unwrap();
    let applied = apply(&publication(dir.path(), "Bard"), &report).unwrap();
    assert!(
        applied.contains(&Applied::Wrote { id: "L31-COPY".into(), file: "llama3.1.LICENSE".into() }),
        "{applied:?}"
    );
    assert!(applied.iter().any(|done| matches!(done, Applied::Missing { id, .. } if id == "APACHE-COPY")));
    assert_eq!(text(dir.path(), "LICENSE"), "Apache License\nVersion 2.0, January 2004\n");
    assert_eq!(state(&check(&publication(dir.path(), "Bard"), Occasion::Push).unwrap(), "L31-COPY"), State::Met);
}

#[test]
fn what_is_there_stays_there() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "notice.txt", "Others' words");
    let publication = publication(dir.path(), "Llama-3.1-x");
    let report = check(&publication, Occasion::Push).unwrap();
    let applied = apply(&publication, &report).unwrap();
    assert_eq!(text(dir.path(), "notice.txt"), format!("Others' words\n{NOTICE}\n"));
    // Without a record there is no text to copy; the policy's address is known.
    assert!(matches!(&applied[0], Applied::Missing { id, why } if id == "L31-COPY" && why.contains("llama-models")));
    let card = text(dir.path(), "README.md");
    assert!(card.starts_with("# Llama-3.1-x\n\n**Built with Llama**\n"), "{card}");
    assert!(card.contains("<https://llama.meta.com/llama3_1/use-policy>"), "{card}");
    let report = check(&publication, Occasion::Push).unwrap();
    let unmet: Vec<&str> =
        report.rows.iter().filter(|row| row.state == State::Unmet).map(|row| row.obligation.id.as_str()).collect();
    assert_eq!(unmet, ["L31-COPY"]);
}

#[test]
fn open_models_and_unknown_ones() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "README.md", "---\nlicense: cc0-1.0\n---\n# cria\n");
    let report = check(&publication(dir.path(), "cria"), Occasion::Push).unwrap();
    assert!(report.rows.is_empty() && !report.is_refused());
    put(dir.path(), "README.md", "# something\n");
    let error = check(&publication(dir.path(), "something"), Occasion::Push).unwrap_err();
    assert!(matches!(error, CheckError::NoLicence(_)));
    assert!(error.to_string().contains("--licence"), "{error}");
    put(dir.path(), "LICENSE", &"x".repeat((1 << 20) + 1));
    let error = check(&publication(dir.path(), "something"), Occasion::Push).unwrap_err().to_string();
    assert!(error.contains("LICENSE: can't read it: expected at most 1048576 bytes"), "{error}");
}
