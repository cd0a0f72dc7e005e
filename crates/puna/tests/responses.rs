//! `/v1/responses`: made, stored, gone on from, streamed, deleted; with the model that is in the program.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may")]

mod server;

use serde_json::{Value, json};
use server::{Server, events};
use std::process::Command;

const PATH: &str = "/v1/responses";
const QUESTION: &str = "What is your name?";

/// The text of a response that is one message.
fn text(response: &Value) -> String {
    let output = response["output"].as_array().unwrap();
    assert_eq!((output.len(), &output[0]["type"], &output[0]["role"]), (1, &json!("message"), &json!("assistant")));
    output[0]["content"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn responses_are_stored_and_gone_on_from() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start_in(home.path(), &[]);
    let body = json!({"model": "cria", "input": QUESTION, "temperature": 0, "metadata": {"a": "b"}});
    let (status, first) = server.post(PATH, &body);
    assert_eq!((status, &first["status"], &first["object"]), (200, &json!("completed"), &json!("response")), "{first}");
    assert!(text(&first).contains("cria"), "{first}");
    assert_eq!(
        (&first["metadata"]["a"], &first["store"], &first["temperature"]),
        (&json!("b"), &json!(true), &json!(0.0))
    );
    let usage = &first["usage"];
    let [input, output, total] =
        ["input_tokens", "output_tokens", "total_tokens"].map(|name| usage[name].as_u64().unwrap());
    assert!(input > 0 && output > 0 && total == input + output, "{usage}");
    // It is what the API for chats answers.
    let messages = json!([{"role": "user", "content": QUESTION}]);
    let (_, chat) = server.post("/v1/chat/completions", &json!({"messages": messages, "temperature": 0}));
    assert_eq!(chat["choices"][0]["message"]["content"], text(&first));
    assert_eq!(chat["usage"]["prompt_tokens"], usage["input_tokens"]);

    let id = first["id"].as_str().unwrap();
    let address = format!("{PATH}/{id}");
    assert_eq!(server.get(&address), (200, first.clone()));
    let next = json!({"previous_response_id": id, "input": [{"role": "user", "content": "And where do you live?"}],
        "temperature": 0, "instructions": "Be brief."});
    let (status, second) = server.post(PATH, &next);
    assert_eq!((status, &second["previous_response_id"]), (200, &json!(id)), "{second}");
    // The same as the whole conversation at once.
    let whole = json!([{"role": "system", "content": "Be brief."}, messages[0], {"role": "assistant", "content": text(&first)},
        {"role": "user", "content": "And where do you live?"}]);
    let (_, chat) = server.post("/v1/chat/completions", &json!({"messages": whole, "temperature": 0}));
    assert_eq!(chat["choices"][0]["message"]["content"], text(&second));
    assert_eq!(chat["usage"]["prompt_tokens"], second["usage"]["input_tokens"]);

    // What is stored outlives the server.
    drop(server);
    let server = Server::start_in(home.path(), &[]);
    assert_eq!(server.get(&address), (200, first.clone()));
    let (status, again) = server.post(PATH, &next);
    assert_eq!((status, text(&again)), (200, text(&second)));

    let many: Vec<Value> = (0..5).map(|n| json!({"role": "user", "content": n.to_string()})).collect();
    let (_, listed) = server.post(PATH, &json!({"input": many, "max_output_tokens": 2}));
    assert_eq!(
        (&listed["status"], &listed["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    let items = format!("{PATH}/{}/input_items", listed["id"].as_str().unwrap());
    let (status, page) = server.get(&format!("{items}?limit=2"));
    assert_eq!((status, &page["has_more"]), (200, &json!(true)), "{page}");
    let said = |page: &Value| -> String {
        page["data"].as_array().unwrap().iter().map(|item| item["content"][0]["text"].as_str().unwrap()).collect()
    };
    assert_eq!(said(&page), "43");
    let (_, page) = server.get(&format!("{items}?limit=100&after={}", page["last_id"].as_str().unwrap()));
    assert_eq!((said(&page).as_str(), &page["has_more"]), ("210", &json!(false)));
    assert_eq!(said(&server.get(&format!("{items}?order=asc")).1), "01234");
    for query in ["limit=0", "limit=101", "limit=x", "order=up", "after=x", "page=2"] {
        assert_eq!(server.get(&format!("{items}?{query}")).0, 400, "{query}");
    }
    assert_eq!(server.get(&format!("{address}?stream=true")).0, 400);

    let (status, error) = server.post(&format!("{address}/cancel"), &json!({}));
    assert!(status == 400 && error["error"]["message"].as_str().unwrap().contains("background"), "{error}");
    let (status, _, deleted) = server.ask("DELETE", &address, &[], "");
    assert_eq!((status, serde_json::from_str::<Value>(&deleted).unwrap()["deleted"].clone()), (200, json!(true)));
    for (method, path) in [
        ("GET", address.clone()),
        ("DELETE", address.clone()),
        ("POST", format!("{address}/cancel")),
        ("GET", format!("{PATH}/x")),
    ] {
        assert_eq!(server.ask(method, &path, &[], "").0, 404, "{method} {path}");
    }
    let (status, error) = server.post(PATH, &next);
    assert_eq!((status, &error["error"]["param"]), (400, &json!("previous_response_id")), "{error}");
}

#[test]
fn streams_tell_of_each_step() {
    let server = Server::start(&[]);
    let body = json!({"input": QUESTION, "temperature": 0, "stream": true, "include": ["message.output_text.logprobs"],
        "top_logprobs": 2});
    let (status, head, body) = server.ask("POST", PATH, &[], &body.to_string());
    assert!(status == 200 && head.contains("text/event-stream"), "{head}");
    let events = events(&body);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let named: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(named, kinds);
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], at, "{event}");
    }
    let mut once = kinds.clone();
    once.dedup();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(once, expected);
    let response = &events.last().unwrap()["response"];
    let deltas = || events.iter().filter(|event| event["type"] == "response.output_text.delta");
    assert_eq!(deltas().map(|event| event["delta"].as_str().unwrap()).collect::<String>(), text(response));
    let message = &response["output"][0];
    assert!(events[2..events.len() - 1].iter().all(|event| event["output_index"] == 0));
    assert!(deltas().all(|event| event["item_id"] == message["id"] && event["content_index"] == 0));
    let scores: Vec<Value> = deltas().flat_map(|event| event["logprobs"].as_array().unwrap().clone()).collect();
    assert_eq!(message["content"][0]["logprobs"], json!(scores));
    assert!(scores.iter().all(|score| score["top_logprobs"].as_array().unwrap().len() == 2), "{scores:?}");
    assert_eq!(scores.len() as u64, response["usage"]["output_tokens"].as_u64().unwrap() - 1, "the end is no text");
    // By its end it is stored.
    assert_eq!(server.get(&format!("{PATH}/{}", response["id"].as_str().unwrap())), (200, response.clone()));

    let tool = json!({"type": "function", "name": "feed", "parameters": {"type": "object", "properties":
        {"legs": {"enum": [2, 4]}}, "required": ["legs"], "additionalProperties": false}});
    let choice = json!({"type": "function", "name": "feed"});
    let asked = json!({"input": QUESTION, "tools": [tool], "tool_choice": choice, "parallel_tool_calls": false});
    let mut streamed = asked.clone();
    streamed["stream"] = true.into();
    let (_, _, body) = server.ask("POST", PATH, &[], &streamed.to_string());
    let events = self::events(&body);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds, expected);
    // The call goes back with its result, by name of the response or by itself.
    let (status, called) = server.post(PATH, &asked);
    assert_eq!(status, 200, "{called}");
    let call = &called["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("feed")));
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!([json!(2), json!(4)].contains(&arguments["legs"]), "{arguments}");
    let result = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "fed"});
    let by_name = json!({"previous_response_id": called["id"], "input": [result], "tools": [tool], "temperature": 0});
    let question = json!({"role": "user", "content": QUESTION});
    let by_itself = json!({"input": [question, call, result], "tools": [tool], "temperature": 0, "store": false});
    let answers = [&by_name, &by_itself].map(|body| server.post(PATH, body));
    assert_eq!(answers[0].0, 200, "{}", answers[0].1);
    assert_eq!(text(&answers[0].1), text(&answers[1].1));
    assert_eq!(answers[0].1["usage"]["input_tokens"], answers[1].1["usage"]["input_tokens"]);
    // What is not to be stored is not.
    assert_eq!(server.get(&format!("{PATH}/{}", answers[1].1["id"].as_str().unwrap())).0, 404);
}

#[test]
fn what_is_not_honoured_is_named() {
    let server = Server::start(&[]);
    let schema = json!({"type": "object", "properties": {"legs": {"enum": [2, 4]}}, "required": ["legs"],
        "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "animal", "schema": schema, "strict": true});
    let (status, answer) = server.post(PATH, &json!({"input": "A llama?", "text": {"format": format}}));
    assert_eq!(status, 200, "{answer}");
    let legs = serde_json::from_str::<Value>(&text(&answer)).unwrap()["legs"].clone();
    assert!([json!(2), json!(4)].contains(&legs), "{answer}");
    for (field, value) in [
        ("input", json!(7)),
        ("input", json!([{"type": "item_reference", "id": "x"}])),
        ("input", json!([{"type": "function_call_output", "call_id": "x", "output": "1"}])),
        ("input", json!([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}])),
        ("text", json!({"verbosity": "low"})),
        ("text", json!({"format": {"type": "yaml"}})),
        ("tools", json!([{"type": "file_search"}])),
        ("tools", json!([{"type": "code_interpreter"}])),
        ("tools", json!([{"type": "web_search"}])),
        ("tool_choice", json!("required")),
        ("tool_choice", json!({"type": "allowed_tools"})),
        ("max_output_tokens", json!(0)),
        ("max_tool_calls", json!(9)),
        ("top_logprobs", json!(2)),
        ("include", json!(["reasoning.encrypted_content"])),
        ("truncation", json!("auto")),
        ("background", json!(true)),
        ("metadata", json!({"a": 1})),
        ("reasoning", json!({"effort": "low"})),
        ("conversation", json!("x")),
        ("temperature", json!(-1)),
        ("model", json!("gpt-5")),
        ("previous_response_id", json!("resp_x")),
    ] {
        let mut body = json!({"input": "Hi", "max_output_tokens": 1});
        body[field] = value.clone();
        let (status, answer) = server.post(PATH, &body);
        assert!((400..500).contains(&status), "{field}: {value}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().starts_with(field), "{field}: {value}: {answer}");
    }
}

/// Each key sees its own responses alone.
#[test]
fn other_keys_responses_are_not_there() {
    let home = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_puna"));
        let output = command.env("PUNA_HOME", home.path()).args(["key", "new", "--name", name]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        format!("authorization: Bearer {}", String::from_utf8(output.stdout).unwrap().trim())
    };
    let (mine, other) = (key("mine"), key("other"));
    let server = Server::start_in(home.path(), &["--require-key"]);
    let ask = |method: &str, path: &str, key: &str, body: &Value| {
        let (status, _, body) = server.ask(method, path, &[key], &body.to_string());
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (status, response) = ask("POST", PATH, &mine, &json!({"input": "Hi", "max_output_tokens": 4}));
    assert_eq!(status, 200, "{response}");
    let id = &response["id"];
    let address = format!("{PATH}/{}", id.as_str().unwrap());
    for path in [address.clone(), format!("{address}/input_items")] {
        assert_eq!(ask("GET", &path, &other, &json!({})).0, 404, "{path}");
        assert_eq!(server.get(&path).0, 401, "{path}");
    }
    assert_eq!(ask("DELETE", &address, &other, &json!({})).0, 404);
    let next = json!({"input": "Hi", "previous_response_id": id, "max_output_tokens": 4});
    assert_eq!(ask("POST", PATH, &other, &next).0, 400);
    assert_eq!(ask("POST", PATH, &mine, &next).0, 200);
    assert_eq!(ask("GET", &address, &mine, &json!({})), (200, response));
}

/// Without a database there are answers, and nothing is stored.
#[test]
fn without_a_database_nothing_is_stored() {
    let home = tempfile::NamedTempFile::new().unwrap();
    let server = Server::start_in(home.path(), &[]);
    let (status, response) = server.post(PATH, &json!({"input": "Hi", "max_output_tokens": 4}));
    assert_eq!((status, &response["store"]), (200, &json!(false)), "{response}");
    assert_eq!(server.get(&format!("{PATH}/{}", response["id"].as_str().unwrap())).0, 404);
    for (field, value) in [("store", json!(true)), ("previous_response_id", response["id"].clone())] {
        let (status, error) = server.post(PATH, &json!({"input": "Hi", field: value}));
        assert_eq!((status, &error["error"]["param"]), (400, &json!(field)), "{error}");
    }
}
