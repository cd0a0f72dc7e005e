use super::*;

const TODAY: &str = "2026-11-28";

fn llama() -> &'static Entry {
    Entry::of("meta-llama/Llama-3.1-8B").unwrap()
}

fn cria() -> &'static Entry {
    Entry::of("cria").unwrap()
}

/// A card of an entry in which something is otherwise.
fn changed(entry: &Entry, change: impl FnOnce(&mut Entry)) -> Card {
    let mut entry = entry.clone();
    change(&mut entry);
    let model = entry.models[0].clone();
    Card::build(&model, Facts::default(), None, &entry)
}

fn part(entry: &mut Entry, part: Part) -> &mut ComponentData {
    entry.component.iter_mut().find(|data| data.name == part).unwrap()
}

fn answer(card: &Card, framework: usize, criterion: &str) -> Answer {
    let found = card.assessments[framework].criteria.iter().find(|found| found.name == criterion);
    found.unwrap_or_else(|| panic!("{criterion}")).answer
}

#[test]
fn llama_is_open_weights_under_a_restricted_licence() {
    let card = Card::new("meta-llama/Meta-Llama-3.1-405B-Instruct", Facts::default(), None, TODAY);
    assert_eq!(card.called, "open weights, restricted licence");
    assert_eq!(card.licence.as_deref(), Some("LicenseRef-scancode-llama-3.1-license-2024"));
    let [osaid, mof, _] = &card.assessments[..] else { panic!() };
    assert_eq!((osaid.verdict.as_str(), osaid.is_open), ("not open source AI", Some(false)));
    for (criterion, expected) in [
        ("use", Answer::No),
        ("study", Answer::Partly),
        ("modify", Answer::Partly),
        ("share", Answer::Partly),
        ("data information", Answer::No),
        ("code", Answer::No),
        ("parameters", Answer::No),
    ] {
        assert_eq!(answer(&card, 0, criterion), expected, "{criterion}");
    }
    assert_eq!((mof.verdict.as_str(), mof.is_open), ("no class", Some(false)));
    assert!(mof.criteria[0].why.contains("data card: not published"));

    let card = Card::new("meta-llama/Llama-3.1-405B-Instruct", Facts::default(), None, TODAY);
    let index = &card.assessments[2];
    assert_eq!(index.verdict, "1 open, 5 partial, 6 closed of 12 (29 %)");
    assert_eq!(index.counts, Some(Counts { open: 1, partial: 5, closed: 6, percent: 29.2 }));
    let other = Card::new("meta-llama/Llama-3.1-8B", Facts::default(), None, TODAY);
    assert_eq!(other.assessments[2].verdict, "not assessed");
    let value = |card: &Card, name: &str| {
        card.claims.iter().filter(|claim| claim.name == name).map(|claim| claim.value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(value(&other, "training time"), ["1.46 million hours of H100 GPUs"]);
    assert_eq!(value(&card, "training time"), ["30.84 million hours of H100 GPUs"]);
    assert!(value(&other, "fine-tuning data").is_empty() && value(&card, "fine-tuning data").len() == 1);
    assert_eq!(other.user_rights.keep_if_withdrawn, Some(true));
}

#[test]
fn cria_is_open_source() {
    let card = Card::new("cria", Facts::default(), None, TODAY);
    assert_eq!(card.called, "open source AI");
    assert_eq!(card.licence.as_deref(), Some("CC0-1.0"));
    assert_eq!(card.assessments[0].is_open, Some(true));
    assert_eq!(card.assessments[1].verdict, "Class II, open tooling");
    assert_eq!(
        card.assessments[1].criteria[2].why,
        "intermediate weights: not published; research paper: not published"
    );
    assert_eq!(card.assessments[2].verdict, "not assessed");
}

#[test]
fn one_component_changes_the_verdict() {
    let verdicts = |change: &dyn Fn(&mut Entry)| {
        let card = changed(cria(), change);
        (card.called.clone(), card.assessments[1].verdict.clone())
    };
    let open = "open source AI".to_owned();
    let not = "open weights, open licence; not open source AI".to_owned();
    let (one, two, three) = ("Class I, open science", "Class II, open tooling", "Class III, open model");
    assert_eq!(verdicts(&|_| {}), (open.clone(), two.into()));
    // Whatever the definition needs is enough to lose the name.
    for needed in [
        Part::Architecture,
        Part::DataCard,
        Part::DataPreprocessingCode,
        Part::TrainingCode,
        Part::EvaluationCode,
        Part::InferenceCode,
    ] {
        assert_eq!(verdicts(&|entry| part(entry, needed).present = Presence::No).0, not, "{needed:?}");
        let partly = verdicts(&|entry| part(entry, needed).present = Presence::Partly).0;
        assert_eq!(partly, not, "{needed:?}");
    }
    assert_eq!(verdicts(&|entry| part(entry, Part::TrainingCode).present = Presence::No).1, three);
    assert_eq!(verdicts(&|entry| part(entry, Part::DataCard).present = Presence::No).1, "no class");
    let closed = verdicts(&|entry| part(entry, Part::FinalParameters).present = Presence::No);
    assert_eq!(closed, ("closed".into(), "no class".into()));
    let whole = verdicts(&|entry| {
        part(entry, Part::IntermediateParameters).present = Presence::Yes;
        part(entry, Part::IntermediateParameters).licence = vec!["CC0-1.0".into()];
        part(entry, Part::ResearchPaper).present = Presence::Yes;
        part(entry, Part::ResearchPaper).licence = vec!["CC-BY-4.0".into()];
    });
    assert_eq!(whole, (open.clone(), one.into()));
    // A paper is as good as a report; code wants a licence that OSI has approved, and data do not.
    let paper = verdicts(&|entry| {
        part(entry, Part::TechnicalReport).present = Presence::No;
        part(entry, Part::ResearchPaper).present = Presence::Yes;
        part(entry, Part::ResearchPaper).licence = vec!["CC-BY-4.0".into()];
    });
    assert_eq!(paper, (open.clone(), two.into()));
    let cc0 = |needed| verdicts(&|entry: &mut Entry| part(entry, needed).licence = vec!["CC0-1.0".into()]).0;
    assert_eq!((cc0(Part::DataCard), cc0(Part::TrainingCode)), (open.clone(), not));
    // What is not known is not no.
    let unknown = verdicts(&|entry| part(entry, Part::DataCard).present = Presence::NotKnown);
    assert_eq!(unknown.0, "open weights, open licence; whether it is open source AI is not known");
    assert_eq!(unknown.1, "not known");
    let llamas = |entry: &mut Entry| part(entry, Part::FinalParameters).licence = vec!["llama3.1".into()];
    assert_eq!(verdicts(&llamas), ("open weights, restricted licence".into(), "no class".into()));
    let unnamed = |entry: &mut Entry| part(entry, Part::FinalParameters).licence = vec!["something".into()];
    assert_eq!(verdicts(&unnamed).0, "weights whose terms are not known");
    let choice = |entry: &mut Entry| part(entry, Part::FinalParameters).licence = vec!["llama3.1".into(), "MIT".into()];
    assert_eq!(verdicts(&choice).0, open);
}

#[test]
fn nothing_but_the_rules_opens_llama() {
    // All that is missing, and the licence of what is there.
    let card = changed(llama(), |entry| {
        for data in &mut entry.component {
            data.present = Presence::Yes;
            data.licence = vec!["Apache-2.0".into()];
        }
    });
    assert_eq!(card.called, "open source AI");
    assert_eq!(card.assessments[1].verdict, "Class I, open science");
    // All that is missing alone is not enough, nor is the licence.
    let card = changed(llama(), |entry| entry.component.iter_mut().for_each(|data| data.present = Presence::Yes));
    assert_eq!(card.called, "open weights, restricted licence");
    let card = changed(llama(), |entry| {
        entry.component.iter_mut().for_each(|data| data.licence = vec!["Apache-2.0".into()]);
    });
    assert_eq!(card.called, "open weights, open licence; not open source AI");
}

#[test]
fn the_index_is_counted() {
    let card = changed(llama(), |entry| {
        entry.models[0] = "meta-llama/Llama-3.1-405B-Instruct".into();
        let index = entry.european_index.as_mut().unwrap();
        *index.parameters.get_mut("training code").unwrap() = assess::Openness::Open;
    });
    assert_eq!(card.assessments[2].verdict, "2 open, 4 partial, 6 closed of 12 (33 %)");
}

#[test]
fn the_data_are_whole() {
    for entry in entries() {
        let parts: std::collections::BTreeSet<Part> = entry.component.iter().map(|data| data.name).collect();
        assert_eq!((parts.len(), entry.component.len()), (Part::ALL.len(), Part::ALL.len()));
        for data in &entry.component {
            assert!(data.licence.iter().all(|id| Licence::of_id(id).is_some()), "{data:?}");
            assert!(data.source.is_some(), "{data:?}");
        }
    }
    assess::check(llama().european_index.as_ref().unwrap());
    // What is said of cria can be looked up.
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let sources = cria().component.iter().filter_map(|data| data.source.as_ref());
    for source in sources.chain(cria().claim.iter().map(|claim| &claim.source)) {
        assert!(root.join(source).exists(), "{source}");
    }
}

#[test]
fn of_unknown_models_nothing_is_said() {
    let facts = Facts { bytes: Some(8_030_261_248), files: Some(4), ..Facts::default() };
    let card = Card::new("someone/something", facts.clone(), None, TODAY);
    assert_eq!(card.called, "weights whose terms are not known");
    assert_eq!(card.assessments[0].verdict, "not known");
    assert_eq!(card.assessments[1].verdict, "not known");
    assert!(card.components.iter().all(|component| component.present != Presence::No));
    let text = card.to_string();
    assert!(
        text.contains("8,030,261,248") && text.contains("training data                        not known"),
        "{text}"
    );
    assert!(!text.contains(" no\n"), "{text}");

    let open = Card::new("someone/something", facts.clone(), Licence::of_id("apache-2.0"), TODAY);
    assert_eq!(open.called, "open weights, open licence; whether it is open source AI is not known");
    let llama = Card::new("someone/Llama-3.1-8B-Bard", facts, Licence::of_id("llama3.1"), TODAY);
    assert_eq!(llama.called, "open weights, restricted licence");
    assert_eq!(llama.assessments[0].verdict, "not open source AI");
    let nothing = Card::new("someone/something", Facts::default(), None, TODAY);
    assert_eq!(nothing.called, "not known");
}

#[test]
fn open_source_is_said_of_nothing_else() {
    for card in [
        Card::new("meta-llama/Llama-3.1-8B", Facts::default(), None, TODAY),
        Card::new("x/y", Facts::default(), None, TODAY),
    ] {
        for text in [
            card.to_string(),
            card.to_html(),
            card.to_json(),
            card.to_spdx("t").to_string(),
            card.to_cyclonedx("t").to_string(),
        ] {
            let said = text.to_lowercase().replace("not open source ai", "").replace("open source ai definition", "");
            assert!(!said.replace("european open source ai index", "").contains("open source ai"), "{said}");
        }
    }
}

#[test]
fn pages_are_escaped_and_whole() {
    let facts = Facts { format: Some("<img src=x onerror=alert(1)>".into()), ..Facts::default() };
    let page = Card::new("a/<script>alert(1)</script>", facts, None, "2026-11-28\"><b>").to_html();
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("<b>"), "{page}");
    assert!(page.contains("&lt;script&gt;") && page.contains("prefers-color-scheme: dark"));
    let page = Card::new("meta-llama/Llama-3.1-8B", Facts::default(), None, TODAY).to_html();
    assert!(!page.contains(" src=") && !page.contains("@import") && !page.contains("url("), "needs something else");
    for part in Part::ALL {
        assert!(page.contains(part.label()), "{part:?}");
    }
}

#[test]
fn json_has_all_parts() {
    let json: serde_json::Value =
        serde_json::from_str(&Card::new("cria", Facts::default(), None, TODAY).to_json()).unwrap();
    assert_eq!(json["format"], FORMAT);
    assert_eq!(json["components"].as_array().unwrap().len(), 17);
    assert_eq!(json["components"][0]["name"], "architecture");
    assert_eq!(json["components"][0]["open"], true);
    assert_eq!(json["facts"]["params"], serde_json::Value::Null);
    assert_eq!(json["claims"][0]["only"], serde_json::Value::Null);
    assert_eq!(json["assessments"][0]["criteria"][0]["answer"], "yes");
}

#[test]
fn spdx_documents() {
    let facts =
        Facts { hash_root: Some(Hex([7; 32])), revision: Some("0e9e39f2".into()), params: Some(8), ..Facts::default() };
    let card = Card::new("meta-llama/Llama-3.1-8B", facts, None, TODAY);
    let spdx = card.to_spdx("2026-11-28T20:16:00Z");
    let graph = spdx["@graph"].as_array().unwrap();
    let of_type = |kind: &str| graph.iter().find(|element| element["type"] == kind).unwrap_or_else(|| panic!("{kind}"));
    let package = of_type("ai_AIPackage");
    assert_eq!(package["releaseTime"], "2024-07-23T00:00:00Z");
    assert_eq!(package["software_packageVersion"], "0e9e39f2");
    assert_eq!(package["software_primaryPurpose"], "model");
    assert_eq!(package["software_downloadLocation"], "https://huggingface.co/meta-llama/Llama-3.1-8B");
    assert_eq!(package["verifiedUsing"][0]["hashValue"], "07".repeat(32));
    assert_eq!(package["suppliedBy"], of_type("Organization")["spdxId"]);
    let licence = of_type("simplelicensing_LicenseExpression");
    assert_eq!(licence["simplelicensing_licenseExpression"], "LicenseRef-scancode-llama-3.1-license-2024");
    // The AI profile asks for one of each.
    for kind in ["hasDeclaredLicense", "hasConcludedLicense"] {
        let links: Vec<_> = graph.iter().filter(|element| element["relationshipType"] == kind).collect();
        assert_eq!(links.len(), 1);
        assert_eq!((&links[0]["from"], &links[0]["to"][0]), (&package["spdxId"], &licence["spdxId"]));
    }
    // Every element that is named is there, once.
    let ids: Vec<&str> = graph.iter().filter_map(|element| element["spdxId"].as_str()).collect();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());
    assert!(!of_type("SpdxDocument")["comment"].as_str().unwrap().contains("Not known"));

    let unknown = Card::new("x/y", Facts::default(), None, TODAY).to_spdx("2026-11-28T20:16:00Z");
    let comment = unknown["@graph"][2]["comment"].as_str().unwrap();
    assert!(comment.ends_with("Not known: releaseTime, suppliedBy, downloadLocation, packageVersion."), "{comment}");
    assert!(unknown.to_string().contains("NoAssertion"));
    let three = Card::new("x/y", Facts { bytes: Some(1), ..Facts::default() }, Licence::of_id("llama3.3"), TODAY);
    assert!(three.to_spdx("t").to_string().contains("\"LicenseRef-llama3.3\""));
}

#[test]
fn cyclonedx_documents() {
    let bom = Card::new("cria", Facts { hash_root: Some(Hex([7; 32])), ..Facts::default() }, None, TODAY)
        .to_cyclonedx("2026-11-28T20:16:00Z");
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    let model = &bom["components"][0];
    assert_eq!(model["type"], "machine-learning-model");
    assert_eq!(model["licenses"][0]["license"]["id"], "CC0-1.0");
    assert_eq!(model["hashes"][0]["content"], "07".repeat(32));
    assert_eq!(model["modelCard"]["modelParameters"]["architectureFamily"], "llama");
    let llama = Card::new("meta-llama/Llama-3.1-8B", Facts::default(), None, TODAY).to_cyclonedx("t");
    assert_eq!(llama["components"][0]["licenses"][0]["license"]["name"], "Llama 3.1 Community License");
    assert_eq!(llama["components"][0]["licenses"][0]["license"]["id"], serde_json::Value::Null);
}
