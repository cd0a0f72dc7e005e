//! The chat format against the published template (by Python's jinja2) and Meta's reference encoder.

#![allow(clippy::unwrap_used, reason = "a test")]

use puna_conformance::{golden, numbers, read, read_json};
use puna_text::chat::{Content, Conversation, Dialect, Message, Role, ToolCall, render};
use puna_text::template::{SpecialTokens, Template, is_llama31};
use puna_text::{TokenId, Tokenizer};

fn llama3() -> Tokenizer {
    Tokenizer::from_tiktoken(&read("llama3-tokenizer/tokenizer.model")).unwrap()
}

/// Name, conversation, and the text or the error.
fn template_vectors() -> Vec<(String, Conversation, Result<String, String>)> {
    let vectors = read_json("llama3-tokenizer/chat-template-vectors.json");
    let vectors: Vec<_> = vectors
        .as_array()
        .unwrap()
        .iter()
        .map(|vector| {
            let conversation = serde_json::from_value(vector["input"].clone()).unwrap();
            let expected = match vector["text"].as_str() {
                Some(text) => Ok(text.to_owned()),
                None => Err(vector["error"].as_str().unwrap().to_owned()),
            };
            (vector["name"].as_str().unwrap().to_owned(), conversation, expected)
        })
        .collect();
    assert_eq!(vectors.len(), 18);
    vectors
}

fn published_template() -> String {
    read_json("bard/hf/tokenizer_config.json")["chat_template"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn native_format_is_the_published_templates() {
    let tokenizer = llama3();
    for (name, conversation, expected) in template_vectors() {
        let prompt = render(&conversation, Dialect::Template);
        let text = prompt.as_ref().map(|prompt| prompt.text()).map_err(|error| error.to_string());
        assert_eq!(text, expected, "{name}");
        let Ok(prompt) = prompt else { continue };
        let ids = prompt.encode(&tokenizer).unwrap();
        assert_eq!(String::from_utf8(tokenizer.decode(&ids)), Ok(prompt.text()), "{name}");
        assert_eq!(ids[0], 128_000, "{name}");
        assert_eq!(ids.iter().filter(|id| **id == 128_000).count(), 1, "{name}");
        // One header for every message, and one for each of the system's and the answer's where the vector has none.
        let n_headers = ids.iter().filter(|id| **id == 128_006).count();
        let n_system = usize::from(conversation.messages[0].role != Role::System);
        let n_expected = conversation.messages.len() + n_system + usize::from(conversation.add_generation_prompt);
        assert_eq!(n_headers, n_expected, "{name}");
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn published_template_runs_in_the_sandbox() {
    let source = published_template();
    assert!(is_llama31(&source));
    // Reworded without effect, and with one.
    assert!(is_llama31(&source.replace("{#- System message + builtin tools #}", "")));
    assert!(!is_llama31(&source.replace("Today Date: ", "Today: ")));
    assert!(!is_llama31(&source.replace("<|eom_id|>", "<|eot_id|>")));
    let template = Template::new(&source).unwrap();
    let tokenizer = llama3();
    let tokens = SpecialTokens::new(&tokenizer, tokenizer.special("<|eot_id|>"));
    for (name, conversation, expected) in template_vectors() {
        let rendered = template.render(&conversation, &tokens);
        match expected {
            Ok(text) => {
                let rendered = rendered.unwrap();
                assert_eq!(rendered.text(), text, "{name}");
                // Not the text only: the same parts are special tokens, with the names in users' messages kept apart.
                let native = render(&conversation, Dialect::Template).unwrap();
                assert_eq!(rendered.segments(), native.segments(), "{name}");
            }
            Err(message) => assert!(rendered.unwrap_err().to_string().contains(&message), "{name}"),
        }
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn meta_dialect_is_the_reference_encoders() {
    let tokenizer = llama3();
    let vectors = read_json("llama3-tokenizer/meta-encoder-vectors.json");
    assert_eq!(vectors.as_array().unwrap().len(), 7);
    for vector in vectors.as_array().unwrap() {
        let messages = vector["messages"].as_array().unwrap().iter().map(|message| {
            let calls = message["tool_calls"].as_array().unwrap().iter().map(|call| ToolCall {
                id: None,
                name: call["tool_name"].as_str().unwrap().to_owned(),
                arguments: call["arguments"].clone(),
            });
            Message {
                role: serde_json::from_value(message["role"].clone()).unwrap(),
                content: Content::Text(message["content"].as_str().unwrap().to_owned()),
                tool_calls: calls.collect(),
                tool_call_id: None,
                end_of_message: message["stop_reason"] == "end_of_message",
            }
        });
        let prompt = render(&Conversation::new(messages.collect()), Dialect::Meta).unwrap();
        assert_eq!(prompt.text(), vector["text"].as_str().unwrap(), "{}", vector["name"]);
        let ids: Vec<TokenId> = numbers(&vector["ids"]);
        assert_eq!(prompt.encode(&tokenizer).unwrap(), ids, "{}", vector["name"]);
    }
}

#[test]
#[ignore = "needs the test models: set PUNA_TEST_MODELS"]
fn trained_chats_have_the_ids_of_their_prompts() {
    // Whole examples as they were trained on: the template's rendering, tokenized by transformers.
    let tokenizer = Tokenizer::from_tokenizer_json(&read("bard/hf/tokenizer.json")).unwrap();
    let examples = golden("sft.json");
    let examples = examples.as_array().or_else(|| examples["examples"].as_array()).expect("a list of examples");
    assert_eq!(examples.len(), 16);
    for example in examples {
        let mut conversation: Conversation =
            serde_json::from_value(serde_json::json!({"messages": example["messages"]})).unwrap();
        conversation.add_generation_prompt = false;
        let ids: Vec<TokenId> = numbers(&example["ids"]);
        let text = String::from_utf8(tokenizer.decode(&ids)).unwrap();
        let date = text.split("Today Date: ").nth(1).and_then(|rest| rest.split('\n').next());
        conversation.date = date.unwrap_or_default().to_owned();
        let prompt = render(&conversation, if date.is_some() { Dialect::Template } else { Dialect::Meta }).unwrap();
        assert_eq!(prompt.text(), text);
        assert_eq!(prompt.encode(&tokenizer).unwrap(), ids);
    }
}
