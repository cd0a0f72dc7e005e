//! Which tokens are trained, in every format and chat format.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod vocabulary;

use proptest::prelude::*;
use puna_text::Tokenizer;
use puna_text::chat::Dialect;
use puna_train::data::{DataError, Example, Limit, Overlong, Pair, Trained, examples, open, pairs};
use serde_json::{Value, json};
use vocabulary::{Files, encoder, llama2, llama3, spelled};

fn limit() -> Limit {
    Limit::new(100_000, Overlong::Error, 0).unwrap()
}

fn load(tokenizer: &Tokenizer, dialect: Dialect, trained: Trained, rows: &[Value]) -> Result<Vec<Example>, DataError> {
    let files = Files::new();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let source = open(&files.write("data.jsonl", lines), None)?.train;
    Ok(examples(&source, &encoder(tokenizer, dialect, trained), &limit())?.items)
}

/// One row, with what is not trained as `·` for each run of tokens.
#[track_caller]
fn shown(tokenizer: &Tokenizer, dialect: Dialect, trained: Trained, row: &Value) -> String {
    let example = &load(tokenizer, dialect, trained, std::slice::from_ref(row)).unwrap()[0];
    assert_eq!(example.ids.len(), example.trained.len());
    let mut text = String::new();
    for run in (0..example.ids.len())
        .collect::<Vec<_>>()
        .chunk_by(|one, other| example.trained[*one] == example.trained[*other])
    {
        if example.trained[run[0]] {
            text += &spelled(tokenizer, &example.ids[run[0]..=run[run.len() - 1]]);
        } else {
            text.push('·');
        }
    }
    text
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn conversation() -> Value {
    json!({"messages": [
        message("system", "s"), message("user", "u"), message("assistant", "a1"), message("user", "v"),
        message("assistant", "\n\na2 "),
    ]})
}

#[test]
fn content_and_terminator_are_trained() {
    let tokenizer = llama3();
    let row = conversation();
    let shown = |dialect, trained| shown(&tokenizer, dialect, trained, &row);
    assert_eq!(shown(Dialect::Template, Trained::Assistant), "·a1<|eot_id|>·a2<|eot_id|>");
    assert_eq!(shown(Dialect::Meta, Trained::Assistant), "·a1<|eot_id|>·\n\na2 <|eot_id|>");
    assert_eq!(shown(Dialect::Template, Trained::LastTurn), "·a2<|eot_id|>");
    assert_eq!(shown(Dialect::Template, Trained::Completion), "·a2<|eot_id|>");
    let everything = shown(Dialect::Meta, Trained::Everything);
    assert!(everything.starts_with("·<|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|>"), "{everything}");
    assert!(everything.ends_with("assistant<|end_header_id|>\n\n\n\na2 <|eot_id|>"), "{everything}");
}

#[test]
fn a_weight_of_0_is_never_trained() {
    let mut row = conversation();
    row["messages"][2]["weight"] = json!(0);
    row["messages"][4]["weight"] = json!(1);
    let tokenizer = llama3();
    assert_eq!(shown(&tokenizer, Dialect::Template, Trained::Assistant, &row), "·a2<|eot_id|>");
    let everything = shown(&tokenizer, Dialect::Meta, Trained::Everything, &row);
    assert!(everything.contains("assistant<|end_header_id|>\n\n·<|start_header_id|>user"), "{everything}");
    row["messages"][4]["weight"] = json!(0);
    let error = load(&tokenizer, Dialect::Template, Trained::Assistant, &[row]).unwrap_err().to_string();
    assert!(error.ends_with("data.jsonl:1: expected a token that is trained, found none"), "{error}");
}

#[test]
fn results_of_tools_are_given() {
    let call = |name: &str| {
        json!({"role": "assistant", "tool_calls": [
            {"type": "function", "function": {"name": name, "arguments": "{\"query\": \"q\"}"}}]})
    };
    let row = |name: &str| json!({"messages": [message("user", "u"), call(name), message("tool", "r"), message("assistant", "a")]});
    let tokenizer = llama3();
    let mut custom = row("f");
    custom["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    assert_eq!(
        shown(&tokenizer, Dialect::Template, Trained::Assistant, &custom),
        "·{\"name\": \"f\", \"parameters\": {\"query\": \"q\"}}<|eot_id|>·a<|eot_id|>"
    );
    assert_eq!(shown(&tokenizer, Dialect::Template, Trained::LastTurn, &custom), "·a<|eot_id|>");
    assert_eq!(
        shown(&tokenizer, Dialect::Template, Trained::Completion, &custom),
        "·{\"name\": \"f\", \"parameters\": {\"query\": \"q\"}}<|eot_id|>·a<|eot_id|>"
    );
    let mut builtin = row("brave_search");
    builtin["builtin_tools"] = json!(["brave_search"]);
    assert_eq!(
        shown(&tokenizer, Dialect::Template, Trained::Assistant, &builtin),
        "·<|python_tag|>brave_search.call(query=\"q\")<|eom_id|>·a<|eot_id|>"
    );
    let mut both = custom.clone();
    both["messages"][1]["content"] = json!("I'll look.");
    let error = load(&tokenizer, Dialect::Template, Trained::Assistant, &[both]).unwrap_err().to_string();
    assert!(error.contains("data.jsonl:1: message 1: expected a text or a tool call, found both"), "{error}");
}

#[test]
fn prompts_are_given() {
    let tokenizer = llama3();
    let row = json!({"prompt": [message("user", "u"), message("assistant", "x"), message("user", "v")],
        "completion": [message("assistant", "a")]});
    for trained in [Trained::Assistant, Trained::LastTurn, Trained::Completion] {
        assert_eq!(shown(&tokenizer, Dialect::Template, trained, &row), "·a<|eot_id|>");
    }
    let row = json!({"prompt": "1+1=a", "completion": "b"});
    assert_eq!(shown(&tokenizer, Dialect::Template, Trained::Assistant, &row), "·b<|end_of_text|>");
    assert_eq!(shown(&tokenizer, Dialect::Template, Trained::Everything, &row), "·1+1=ab<|end_of_text|>");
    let row = json!({"text": " ab"});
    assert_eq!(shown(&tokenizer, Dialect::Template, Trained::Assistant, &row), "· ab<|end_of_text|>");
    let row = json!({"instruction": "i", "input": "n", "output": "o", "history": [["q", "h"]]});
    assert_eq!(shown(&tokenizer, Dialect::Template, Trained::Assistant, &row), "·h<|eot_id|>·o<|eot_id|>");
    let row = json!({"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]});
    assert_eq!(shown(&tokenizer, Dialect::Template, Trained::Assistant, &row), "·a<|eot_id|>");
}

#[test]
fn a_completion_is_encoded_as_it_is_continued() {
    let tokenizer = llama3();
    let row = json!({"prompt": "a", "completion": "b a"});
    let example = &load(&tokenizer, Dialect::Template, Trained::Assistant, &[row]).unwrap()[0];
    let mut expected = vec![tokenizer.bos().unwrap()];
    for part in ["a", "b a"] {
        expected.extend(tokenizer.encode(part));
    }
    expected.push(tokenizer.end_of_text().unwrap());
    assert_eq!(example.ids, expected, "\"ab\" is a token, but not one that a model could give behind \"a\"");
    assert_eq!(example.trained, [false, false, true, true, true]);
}

#[test]
fn llama2s_answers_and_completions() {
    let tokenizer = llama2();
    let row = json!({"messages": [message("user", "u"), message("assistant", "ab"), message("user", "v"), message("assistant", "b")]});
    assert_eq!(shown(&tokenizer, Dialect::Llama2, Trained::Assistant, &row), "· ab </s>· b </s>");
    // The whole is one text to SentencePiece: no space comes between, and "ab" begins in the prompt.
    let row = json!({"prompt": "b a", "completion": "b b"});
    assert_eq!(shown(&tokenizer, Dialect::Llama2, Trained::Assistant, &row), "· b</s>");
    let row = json!({"prompt": "b a", "completion": " b"});
    assert_eq!(shown(&tokenizer, Dialect::Llama2, Trained::Assistant, &row), "· b</s>");
}

fn load_pairs(tokenizer: &Tokenizer, dialect: Dialect, row: &Value) -> Result<Pair, DataError> {
    let files = Files::new();
    let source = open(&files.write("data.jsonl", row.to_string()), None)?.train;
    let loaded = pairs(&source, &encoder(tokenizer, dialect, Trained::Assistant), &limit())?;
    Ok(loaded.items.into_iter().next().unwrap())
}

#[test]
fn pairs_share_their_prompt() {
    let tokenizer = llama3();
    let prompt = [message("user", "u")];
    let row =
        json!({"prompt": prompt, "chosen": [message("assistant", "a ")], "rejected": [message("assistant", "b")]});
    let pair = load_pairs(&tokenizer, Dialect::Template, &row).unwrap();
    assert!(spelled(&tokenizer, &pair.prompt).ends_with("<|start_header_id|>assistant<|end_header_id|>\n\n"));
    assert_eq!(spelled(&tokenizer, &pair.chosen), "a<|eot_id|>");
    assert_eq!(spelled(&tokenizer, &pair.rejected), "b<|eot_id|>");
    let openai = json!({"input": {"messages": prompt}, "preferred_output": row["chosen"], "non_preferred_output": row["rejected"]});
    let same = load_pairs(&tokenizer, Dialect::Template, &openai).unwrap();
    assert_eq!((same.prompt, same.chosen, same.rejected), (pair.prompt, pair.chosen, pair.rejected));
    let raw = json!({"prompt": "a", "chosen": "b", "rejected": " b"});
    let pair = load_pairs(&tokenizer, Dialect::Template, &raw).unwrap();
    assert_eq!(spelled(&tokenizer, &pair.prompt), "<|begin_of_text|>a");
    assert_eq!(spelled(&tokenizer, &pair.chosen), "b<|end_of_text|>");
    assert_eq!(spelled(&tokenizer, &pair.rejected), " b<|end_of_text|>");
    // "ab" begins in the prompt, " b" does not.
    let error = load_pairs(&llama2(), Dialect::Llama2, &raw).unwrap_err().to_string();
    assert!(error.contains("same tokens before both answers"), "{error}");
}

/// Turns of a conversation: text of the user, text of the assistant, and whether that is trained.
fn turns() -> impl Strategy<Value = (Option<String>, Vec<(String, String, bool)>)> {
    let text = || "(a|b|ab|é|🦙|\n|  ?|<\\|eot_id\\|>|x){0,6}";
    let turn = (text(), text().prop_map(|text| format!("{text}a")), any::<bool>());
    (prop::option::of(text()), prop::collection::vec(turn, 1..5))
}

proptest! {
    /// Trained tokens are the assistant's contents and their terminators and nothing else, and all others are those that
    /// a server gives: the start of the sequence is the prompt of each answer.
    #[test]
    fn trained_tokens_are_what_the_assistant_says((system, turns) in turns()) {
        let tokenizer = llama3();
        let mut messages: Vec<Value> = system.iter().map(|text| message("system", text)).collect();
        for (user, assistant, is_trained) in &turns {
            messages.push(message("user", user));
            let mut answer = message("assistant", assistant);
            answer["weight"] = json!(i32::from(*is_trained));
            messages.push(answer);
        }
        prop_assume!(turns.iter().any(|(_, _, is_trained)| *is_trained));
        for dialect in [Dialect::Template, Dialect::Meta] {
            let example = &load(&tokenizer, dialect, Trained::Assistant, &[json!({"messages": messages})]).unwrap()[0];
            let said = turns.iter().filter(|(_, _, is_trained)| *is_trained);
            let said: String = said.map(|(_, text, _)| format!("{}<|eot_id|>", dialect.trim(text))).collect();
            let trained: Vec<u32> =
                example.ids.iter().zip(&example.trained).filter(|(_, trained)| **trained).map(|(id, _)| *id).collect();
            prop_assert_eq!(spelled(&tokenizer, &trained), said);
            // The last answer follows the very tokens that it is asked for with.
            let mut asked: puna_text::chat::Conversation = serde_json::from_value(json!({
                "messages": messages[..messages.len() - 1], "date": "23 Nov 2026",
            })).unwrap();
            asked.add_generation_prompt = true;
            let served = puna_text::chat::render(&asked, dialect).unwrap().encode(&tokenizer).unwrap();
            prop_assert!(example.ids.starts_with(&served));
        }
    }

    #[test]
    fn llama2s_trained_tokens_too((_, turns) in turns()) {
        let tokenizer = llama2();
        let messages: Vec<Value> = turns.iter()
            .flat_map(|(user, assistant, _)| [message("user", user), message("assistant", assistant)])
            .collect();
        let example = &load(&tokenizer, Dialect::Llama2, Trained::Assistant, &[json!({"messages": messages})]).unwrap()[0];
        let said: String = turns.iter().map(|(_, text, _)| format!(" {} </s>", text.trim())).collect();
        let trained: Vec<u32> =
            example.ids.iter().zip(&example.trained).filter(|(_, trained)| **trained).map(|(id, _)| *id).collect();
        prop_assert_eq!(spelled(&tokenizer, &trained), said);
    }
}
