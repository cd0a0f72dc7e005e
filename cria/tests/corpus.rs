//! What the whole corpus promises, on a part of it that is quick to make.
#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_cria::corpus::{Messages, Role, Text};
use puna_cria::statistics::Statistics;
use puna_cria::{Corpus, Request, check};
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// A quarter of the recommended size, in both parts.
static CORPUS: LazyLock<Corpus> = LazyLock::new(|| generate(5, 5_000, 10_000));

fn generate(seed: u64, stories: usize, dialogues: usize) -> Corpus {
    Corpus::generate(&Request { seed, stories, dialogues, valid_percent: 5 }).unwrap()
}

fn all_stories() -> impl Iterator<Item = &'static Text> {
    CORPUS.stories.train.iter().chain(&CORPUS.stories.valid)
}

fn all_dialogues() -> impl Iterator<Item = &'static Messages> {
    CORPUS.dialogues.train.iter().chain(&CORPUS.dialogues.valid)
}

/// FNV-1a over everything, in order.
fn hash(corpus: &Corpus) -> u64 {
    let stories = corpus.stories.train.iter().chain(&corpus.stories.valid).map(|story| story.text.as_str());
    let dialogues = corpus.dialogues.train.iter().chain(&corpus.dialogues.valid);
    let contents = dialogues.flat_map(|dialogue| dialogue.messages.iter().map(|message| message.content.as_str()));
    let bytes = stories.chain(contents).flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn equal_seeds_give_equal_corpora() {
    let corpus = hash(&generate(1, 300, 600));
    assert_eq!(corpus, hash(&generate(1, 300, 600)));
    assert_ne!(corpus, hash(&generate(2, 300, 600)));
    // The same on every machine. It changes with every change of a sentence, and then is to be written here anew.
    assert_eq!(corpus, GOLDEN, "{corpus:#018x}");
}

const GOLDEN: u64 = 0xef77_571e_9662_4541;

#[test]
fn as_many_documents_as_asked_for_and_those_by_hand() {
    let (few, more) = (generate(3, 10, 20), generate(3, 110, 220));
    let n = |corpus: &Corpus| {
        let [stories, dialogues] = [&corpus.stories.train, &corpus.stories.valid].map(Vec::len);
        (stories + dialogues, corpus.dialogues.train.len() + corpus.dialogues.valid.len())
    };
    assert_eq!(n(&more), (n(&few).0 + 100, n(&few).1 + 200));
    assert!(n(&few).0 >= 160 && n(&few).1 >= 220 + 150);
}

#[test]
fn every_text_keeps_the_rules() {
    for story in all_stories() {
        assert_eq!(check::written(&story.text), None, "{}", story.text);
    }
    for dialogue in all_dialogues() {
        let turns = match dialogue.messages.as_slice() {
            [first, turns @ ..] if first.role == Role::System => turns,
            turns => turns,
        };
        assert!(!turns.is_empty() && turns.len() % 2 == 0, "{dialogue:?}");
        for pair in turns.chunks(2) {
            assert_eq!((pair[0].role, pair[1].role), (Role::User, Role::Assistant), "{dialogue:?}");
            assert_eq!(check::said(&pair[0].content), None, "{dialogue:?}");
            assert_eq!(check::written(&pair[1].content), None, "{dialogue:?}");
        }
    }
}

#[test]
fn nothing_to_measure_on_was_trained_on() {
    let stories: HashSet<&str> = CORPUS.stories.train.iter().map(|story| story.text.as_str()).collect();
    let dialogues: HashSet<String> = CORPUS.dialogues.train.iter().map(|dialogue| format!("{dialogue:?}")).collect();
    let answers: HashSet<&str> = CORPUS
        .dialogues
        .train
        .iter()
        .flat_map(|dialogue| dialogue.messages.iter().map(|message| message.content.as_str()))
        .collect();
    assert!(CORPUS.stories.valid.len() > 150 && CORPUS.dialogues.valid.len() > 300);
    for story in &CORPUS.stories.valid {
        assert!(!stories.contains(story.text.as_str()), "{}", story.text);
        assert!(!answers.contains(story.text.as_str()), "{}", story.text);
    }
    for dialogue in &CORPUS.dialogues.valid {
        assert!(!dialogues.contains(&format!("{dialogue:?}")), "{dialogue:?}");
    }
}

#[test]
fn no_document_comes_twice() {
    let stories: HashSet<&str> = all_stories().map(|story| story.text.as_str()).collect();
    assert_eq!(stories.len(), all_stories().count());
    let dialogues: HashSet<String> = all_dialogues().map(|dialogue| format!("{dialogue:?}")).collect();
    assert_eq!(dialogues.len(), all_dialogues().count());
}

#[test]
fn the_vocabulary_is_small_and_what_is_said_varied() {
    let (mut stories, mut all) = (Statistics::default(), Statistics::default());
    for story in all_stories() {
        stories.add(&story.text);
        all.add(&story.text);
    }
    for message in all_dialogues().flat_map(|dialogue| &dialogue.messages) {
        all.add(&message.content);
    }
    assert!(all.n_vocabulary() <= 2500, "{} different words", all.n_vocabulary());
    let share = stories.n_different() as f64 / stories.sentences as f64;
    assert!(share > 0.35, "{share} of the sentences of {} stories are different", stories.texts);
}

#[test]
fn no_word_of_the_grammar_is_left_over() {
    for text in all_dialogues().flat_map(|dialogue| &dialogue.messages).map(|message| &message.content) {
        assert!(!text.contains(['{', '}', '[', ']', '|']), "{text}");
    }
}

#[test]
fn a_name_is_always_of_a_girl_or_always_of_a_boy() {
    let mut kinds: HashMap<&str, &str> = HashMap::new();
    for message in all_dialogues().flat_map(|dialogue| &dialogue.messages) {
        let said = message.content.strip_prefix("The story is about ").and_then(|rest| rest.strip_suffix('.'));
        let Some((name, kind)) = said.and_then(|said| said.split_once(", ")) else { continue };
        if ["a girl", "a boy"].contains(&kind) {
            assert_eq!(*kinds.entry(name).or_insert(kind), kind, "{name}");
        }
    }
    assert!(kinds.len() > 30, "{kinds:?}");
}
