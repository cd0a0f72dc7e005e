//! Conversations and stored responses: what is written is read, by its owner alone, until it is deleted.

#![allow(clippy::unwrap_used, reason = "tests may")]

use proptest::prelude::*;
use puna_serve::database::Database;
use puna_serve::history::{self, Cursor, MAX_BYTES, MAX_QUERY, MAX_TITLE, Message, NewMessage, Page};
use puna_serve::keys::KeyId;
use puna_serve::responses::{self, Response};
use puna_serve::time::Time;
use puna_text::chat::Role;
use serde_json::json;
use std::fs;
use tempfile::TempDir;

fn database() -> (TempDir, Database) {
    let dir = tempfile::tempdir().unwrap();
    let database = Database::open(&dir.path().join("serve.db")).unwrap();
    (dir, database)
}

fn key(text: &str) -> KeyId {
    text.parse().unwrap()
}

fn at(millis: i64) -> Time {
    Time::from_millis(millis)
}

fn said(parent: Option<u32>, content: &str) -> NewMessage {
    NewMessage {
        parent,
        role: if parent.is_none() { Role::User } else { Role::Assistant },
        content: content.to_owned(),
        time: at(50),
        parameters: json!({ "temperature": 0.5, "stop": ["\u{0}"] }),
        tokens: Some(7),
        timings: json!({ "first_ms": 12 }),
    }
}

const ALL: Page = Page { limit: history::MAX_PAGE, after: None };

#[test]
fn an_edit_makes_a_branch() {
    let (_dir, mut database) = database();
    let database = &mut database;
    let id = history::create(database, None, "Sky", "llama", at(1)).unwrap().id;
    let mut append = |parent, content: &str| history::append(database, None, &id, &said(parent, content)).unwrap();
    assert_eq!(append(None, "Why is the sky blue?"), 1);
    assert_eq!(append(Some(1), "It scatters."), 2);
    assert_eq!(append(Some(2), "Why?"), 3);
    assert_eq!(append(None, "Why is the sea blue?"), 4);
    assert_eq!(append(Some(4), "It absorbs."), 5);
    assert_eq!(append(Some(1), "Rayleigh."), 6);
    let (conversation, messages) = history::read(database, None, &id).unwrap();
    assert_eq!((conversation.title.as_str(), conversation.created, conversation.updated), ("Sky", at(1), at(50)));
    let path = |last| {
        let path = history::path(&messages, last)?;
        Some(path.iter().map(|message: &&Message| message.id).collect::<Vec<_>>())
    };
    assert_eq!(path(3), Some(vec![1, 2, 3]));
    assert_eq!(path(5), Some(vec![4, 5]));
    assert_eq!(path(6), Some(vec![1, 6]));
    assert_eq!(path(7), None);
    let expected = said(Some(1), "Rayleigh.");
    let last = messages.last().unwrap();
    assert_eq!((last.parent, last.role, &last.content), (Some(1), Role::Assistant, &expected.content));
    assert_eq!((&last.parameters, last.tokens, &last.timings), (&expected.parameters, Some(7), &expected.timings));
    let error = history::append(database, None, &id, &said(Some(9), "?")).unwrap_err().to_string();
    assert_eq!(error, "there is no message in this conversation with the id \"9\"");
}

#[test]
fn lists_are_newest_first_and_go_on_where_they_ended() {
    let (_dir, mut database) = database();
    let database = &mut database;
    let owner = key("0123456789ab");
    // Three at a time.
    for n in 0..20 {
        history::create(database, Some(&owner), &n.to_string(), "llama", at(n / 3)).unwrap();
    }
    history::create(database, None, "another's", "llama", at(3)).unwrap();
    for limit in [1, 3, 7, 20, 100] {
        let mut all = Vec::new();
        let mut page = Page { limit, after: None };
        loop {
            let listed = history::list(database, Some(&owner), &page).unwrap();
            assert!(listed.items.len() <= limit);
            all.extend(listed.items);
            let Some(next) = listed.next else { break };
            // As a client hands it back.
            page.after = Some(next.to_string().parse().unwrap());
        }
        assert_eq!(all.len(), 20);
        assert!(all.is_sorted_by_key(|item| std::cmp::Reverse((item.updated, item.id.clone()))));
    }
    assert_eq!(history::list(database, Some(&owner), &Page { limit: 0, after: None }).unwrap().items.len(), 1);
    for text in ["", "x", "x.y", "."] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
    }
}

#[test]
fn words_are_found_in_titles_and_messages() {
    let (_dir, mut database) = database();
    let database = &mut database;
    let mut create = |title: &str, content: &str, time| {
        let id = history::create(database, None, title, "llama", at(time)).unwrap().id;
        history::append(database, None, &id, &said(None, content)).unwrap();
        id
    };
    let sky = create("Über den Himmel", "Why is the \"sky\" blue, and not violet?", 100);
    let sea = create("The sea", "Blue whales sing.", 200);
    let mut search = |words: &str| {
        let found = history::search(database, None, words, &ALL).unwrap().items;
        found.into_iter().map(|found| (found.conversation.id, found.snippet)).collect::<Vec<_>>()
    };
    let sky_in = |words: &str| (sky.clone(), Some(words.to_owned()));
    assert_eq!(
        search("blue"),
        [(sea.clone(), Some("Blue whales sing.".to_owned())), sky_in("Why is the \"sky\" blue, and not violet?")]
    );
    assert_eq!(search("BLU vio"), [sky_in("Why is the \"sky\" blue, and not violet?")]);
    assert_eq!(search("uber him"), [(sky.clone(), None)]);
    assert_eq!(search("\"sky\"").len(), 1);
    assert_eq!(search("blue himmel"), [], "one in the title, one in a message");
    for none in ["", "  ", "!!", "sings", "\"", "nothing OR blue", "content:blue", "blu*e", "\u{0}"] {
        assert_eq!(search(none), [], "{none:?}");
    }
    history::rename(database, None, &sea, "The ocean").unwrap();
    let mut titles = |words: &str| history::search(database, None, words, &ALL).unwrap().items.len();
    assert_eq!((titles("ocean"), titles("sea")), (1, 0));
    let error = history::search(database, None, &"x".repeat(MAX_QUERY + 1), &ALL).unwrap_err().to_string();
    assert_eq!(error, "search: expected at most 200 characters, found 201");
}

#[test]
fn what_is_another_owners_is_not_there() {
    let (_dir, mut database) = database();
    let database = &mut database;
    let (mine, yours) = (key("0123456789ab"), key("ba9876543210"));
    let id = history::create(database, Some(&mine), "secret", "llama", at(1)).unwrap().id;
    history::append(database, Some(&mine), &id, &said(None, "secret")).unwrap();
    let response =
        Response { id: "resp_1".to_owned(), created: at(1), previous: None, input: json!("secret"), output: json!([]) };
    responses::add(database, Some(&mine), &response).unwrap();
    for owner in [Some(&yours), None] {
        let missing = format!("there is no conversation {id:?}");
        let refused = [
            history::read(database, owner, &id).map(drop),
            history::rename(database, owner, &id, "x"),
            history::delete(database, owner, &id),
            history::append(database, owner, &id, &said(None, "x")).map(drop),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().to_string(), missing);
        }
        assert_eq!(history::list(database, owner, &ALL).unwrap().items, []);
        assert_eq!(history::search(database, owner, "secret", &ALL).unwrap().items, []);
        let next = Response { id: "resp_2".to_owned(), previous: Some("resp_1".to_owned()), ..response.clone() };
        let refused = [
            responses::read(database, owner, "resp_1").map(drop),
            responses::chain(database, owner, "resp_1").map(drop),
            responses::delete(database, owner, "resp_1"),
            responses::add(database, owner, &next),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().to_string(), "there is no response \"resp_1\"");
        }
        let taken = responses::add(database, owner, &response).unwrap_err().to_string();
        assert_eq!(taken, "response \"resp_1\" exists already");
    }
    assert_eq!(history::read(database, Some(&mine), &id).unwrap().1.len(), 1);
    assert_eq!(responses::read(database, Some(&mine), "resp_1").unwrap(), response);
}

#[test]
fn what_is_deleted_is_nowhere_in_the_files() {
    let (dir, mut database) = database();
    let database = &mut database;
    let holds = |word: &str| {
        let files = fs::read_dir(dir.path()).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
        files.filter(|bytes| bytes.windows(word.len()).any(|window| window == word.as_bytes())).count()
    };
    let kept = history::create(database, None, "kept", "llama", at(1)).unwrap().id;
    let id = history::create(database, None, "aardvark", "llama", at(1)).unwrap().id;
    let mut parent = None;
    // Deeper than triggers and foreign keys may call each other.
    for n in 0..1500 {
        let content = if n % 100 == 0 { format!("wombat {n} ").repeat(900) } else { "wombat".to_owned() };
        parent = Some(history::append(database, None, &id, &said(parent, &content)).unwrap());
        if n % 100 == 0 {
            history::append(database, None, &kept, &said(None, "numbat")).unwrap();
        }
    }
    let response = Response {
        id: "resp_1".to_owned(),
        created: at(1),
        previous: None,
        input: json!("quokka"),
        output: json!("quokka"),
    };
    responses::add(database, None, &response).unwrap();
    for word in ["aardvark", "wombat", "quokka"] {
        assert!(holds(word) > 0, "{word}");
    }
    history::delete(database, None, &id).unwrap();
    responses::delete(database, None, "resp_1").unwrap();
    for word in ["aardvark", "wombat", "quokka"] {
        assert_eq!(holds(word), 0, "{word}");
    }
    assert!(holds("numbat") > 0);
    assert_eq!(history::search(database, None, "wombat", &ALL).unwrap().items, []);
    assert_eq!(history::search(database, None, "numbat", &ALL).unwrap().items.len(), 1);
}

#[test]
fn what_is_too_large_is_refused() {
    let (_dir, mut database) = database();
    let database = &mut database;
    let title = "ä".repeat(MAX_TITLE);
    let id = history::create(database, None, &title, "llama", at(1)).unwrap().id;
    let error = history::rename(database, None, &id, &format!("{title}x")).unwrap_err().to_string();
    assert_eq!(error, "title: expected at most 200 characters, found 201");
    let large = "x".repeat(MAX_BYTES / 2);
    history::append(database, None, &id, &said(None, &large)).unwrap();
    let error = history::append(database, None, &id, &said(None, &large)).unwrap_err().to_string();
    assert!(error.starts_with("conversation: expected at most 33554432 bytes in all messages, found 335"), "{error}");
    assert_eq!(history::read(database, None, &id).unwrap().1.len(), 1);
    let response = |id: &str, previous: Option<&str>, input: String| Response {
        id: id.to_owned(),
        created: at(1),
        previous: previous.map(str::to_owned),
        input: input.into(),
        output: json!(null),
    };
    assert!(responses::add(database, None, &response("a", None, "x".repeat(responses::MAX_BYTES))).is_err());
    responses::add(database, None, &response("a", None, large.clone())).unwrap();
    responses::add(database, None, &response("b", Some("a"), large)).unwrap();
    assert_eq!(responses::chain(database, None, "a").unwrap().len(), 1);
    let error = responses::chain(database, None, "b").unwrap_err().to_string();
    assert_eq!(error, "earlier responses: expected at most 33554432 bytes, found more");
}

#[test]
fn responses_go_on_from_each_other() {
    let (_dir, mut database) = database();
    let database = &mut database;
    let id = |n: usize| format!("resp_{n}");
    let response = |n: usize| Response {
        id: id(n),
        created: at(n as i64),
        previous: n.checked_sub(1).map(id),
        input: json!({ "n": n, "text": "\u{0} \u{1f600}" }),
        output: json!([n]),
    };
    for n in 0..responses::MAX_CHAIN + 1 {
        responses::add(database, None, &response(n)).unwrap();
    }
    assert_eq!(responses::chain(database, None, &id(3)).unwrap(), (0..4).map(response).collect::<Vec<_>>());
    assert_eq!(responses::chain(database, None, &id(responses::MAX_CHAIN - 1)).unwrap().len(), responses::MAX_CHAIN);
    let error = responses::chain(database, None, &id(responses::MAX_CHAIN)).unwrap_err().to_string();
    assert_eq!(error, "earlier responses: expected at most 1000 responses, found more");
    responses::delete(database, None, &id(1)).unwrap();
    let error = responses::chain(database, None, &id(3)).unwrap_err().to_string();
    assert_eq!(error, "there is no response \"resp_1\"");
    assert!(responses::read(database, None, &id(1)).is_err() && responses::read(database, None, &id(2)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_text_is_kept_found_and_searched_for(
        title in any::<String>(),
        content in any::<String>(),
        words in prop_oneof![any::<String>(), "[\"'*:^(){}+-]{1,9}(AND|OR|NOT|NEAR)?[a-z\"(*]{0,5}"],
    ) {
        let (_dir, mut database) = database();
        let title: String = title.chars().take(MAX_TITLE).collect();
        let words: String = words.chars().take(MAX_QUERY).collect();
        let id = history::create(&mut database, None, &title, "llama", at(1)).unwrap().id;
        history::append(&mut database, None, &id, &said(None, &content)).unwrap();
        history::search(&mut database, None, &words, &ALL).unwrap();
        let (conversation, messages) = history::read(&mut database, None, &id).unwrap();
        prop_assert_eq!((&conversation.title, &messages[0].content), (&title, &content));
    }
}
