//! The server as clients meet it, with the model that is in the program.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;
mod server;

use model::{Files, SHAPE, text};
use puna_text::base64;
use serde_json::{Value, json};
use server::Server;

fn hello() -> Value {
    json!([{"role": "user", "content": "What is your name?"}])
}

#[test]
fn every_api_gives_the_same_answer() {
    let server = Server::start(&[]);
    let (status, answer) =
        server.post("/v1/chat/completions", &json!({"model": "cria", "messages": hello(), "temperature": 0}));
    assert_eq!(status, 200, "{answer}");
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(text.contains("cria"), "{text}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = &answer["usage"];
    assert_eq!(
        usage["total_tokens"],
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );

    let (status, answer) =
        server.post("/v1/messages", &json!({"messages": hello(), "temperature": 0, "max_tokens": 200}));
    assert_eq!(
        (status, &answer["content"][0]["text"], &answer["stop_reason"]),
        (200, &json!(text), &json!("end_turn"))
    );

    let chat = json!({"messages": hello(), "options": {"temperature": 0}, "stream": false});
    let (status, answer) = server.post("/api/chat", &chat);
    assert_eq!((status, &answer["message"]["content"], &answer["done"]), (200, &json!(text), &json!(true)));

    // The exact prompt, gone on with as it is.
    let (status, prompt) = server.post("/apply-template", &json!({"messages": hello()}));
    assert_eq!(status, 200, "{prompt}");
    let (_, ids) = server.post("/tokenize", &json!({"prompt": prompt["prompt"]}));
    assert_eq!(ids["tokens"], prompt["tokens"]);
    for given in [&prompt["prompt"], &prompt["tokens"]] {
        let (status, answer) =
            server.post("/v1/completions", &json!({"prompt": given, "temperature": 0, "max_tokens": 200}));
        assert_eq!((status, &answer["choices"][0]["text"]), (200, &json!(text)), "{answer}");
    }

    // Piece by piece it is the same.
    let body =
        json!({"messages": hello(), "temperature": 0, "stream": true, "stream_options": {"include_usage": true}});
    let (status, _, body) = server.ask("POST", "/v1/chat/completions", &[], &body.to_string());
    assert_eq!(status, 200);
    let events: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let events: Vec<Value> =
        events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    let pieces = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), text);
    assert!(events.last().unwrap()["usage"]["completion_tokens"].as_u64().unwrap() > 3);
}

/// What lm-evaluation-harness asks, and how it reads the answer.
#[test]
fn prompts_are_scored() {
    let server = Server::start(&[]);
    let (_, ids) = server.post("/tokenize", &json!({"prompt": "A llama eats grass."}));
    let ids = ids["tokens"].as_array().unwrap().clone();
    let body = json!({"prompt": [ids, ids[..2]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true});
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
    for (index, n) in [ids.len(), 2].into_iter().enumerate() {
        let choice = &answer["choices"][index];
        assert_eq!(choice["index"], index);
        let scores = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        let top = choice["logprobs"]["top_logprobs"].as_array().unwrap();
        assert_eq!((scores.len(), top.len()), (n + 1, n + 1));
        assert!(scores[0].is_null() && top[0].is_null());
        for (at, (score, top)) in scores.iter().zip(top).enumerate().skip(1) {
            let score = score.as_f64().unwrap();
            let named = &top[choice["logprobs"]["tokens"][at].as_str().unwrap()];
            assert_eq!(named.as_f64(), Some(score));
            assert!(top.as_object().unwrap().values().all(|other| other.as_f64().unwrap() <= 0.0));
        }
    }
}

#[test]
fn texts_become_vectors() {
    // Fewer places than texts: they are computed all the same, some at a time.
    for server in [Server::start(&[]), Server::start(&["--parallel", "1", "--queue", "1"])] {
        let embed = |body: Value| {
            let (status, answer) = server.post("/v1/embeddings", &body);
            assert_eq!((status, &answer["object"]), (200, &json!("list")), "{answer}");
            answer
        };
        let texts: Vec<String> = (0..40).map(|i| format!("{} llamas eat grass.", "So ".repeat(i))).collect();
        let all = embed(json!({"input": texts, "model": "cria", "user": "somebody"}));
        assert_eq!(all["data"].as_array().unwrap().len(), 40);
        for (index, one) in all["data"].as_array().unwrap().iter().enumerate() {
            assert_eq!((&one["index"], &one["object"]), (&json!(index), &json!("embedding")));
            let square: f64 = one["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap().powi(2)).sum();
            assert!((square - 1.0).abs() < 1e-5, "{index}: {square}");
        }
        // Alone, as token ids, as base64, under Ollama's API: the same to the last bit.
        let mut n_tokens = 0;
        for (index, text) in texts.iter().enumerate() {
            let (_, ids) = server.post("/tokenize", &json!({"prompt": text, "add_special_tokens": true}));
            n_tokens += ids["count"].as_u64().unwrap();
            if ![0, 17, 39].contains(&index) {
                continue;
            }
            let expected = &all["data"][index]["embedding"];
            let dim = expected.as_array().unwrap().len();
            let alone = embed(json!({"input": text, "dimensions": dim}));
            assert_eq!(&alone["data"][0]["embedding"], expected);
            assert_eq!(
                (&alone["usage"]["prompt_tokens"], &alone["usage"]["total_tokens"]),
                (&ids["count"], &ids["count"])
            );
            assert_eq!(&embed(json!({"input": ids["tokens"]}))["data"][0]["embedding"], expected);
            let twice = embed(json!({"input": [ids["tokens"], [1, 2, 3]], "encoding_format": "base64"}));
            let values = expected.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32);
            let mut encoded = String::new();
            base64::encode(&values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>(), &mut encoded);
            assert_eq!(twice["data"][0]["embedding"], encoded);
            let (status, ollama) = server.post("/api/embed", &json!({"input": [text], "truncate": false}));
            assert_eq!(
                (status, &ollama["embeddings"][0], &ollama["prompt_eval_count"]),
                (200, expected, &ids["count"])
            );
        }
        assert_eq!(all["usage"], json!({"prompt_tokens": n_tokens, "total_tokens": n_tokens}));
        // The name of a special token is only text here.
        let (_, special) = server.post("/tokenize", &json!({"prompt": "<|eot_id|>", "add_special_tokens": true}));
        assert_eq!(special["count"], 2);
        assert!(embed(json!({"input": "<|eot_id|>"}))["usage"]["total_tokens"].as_u64().unwrap() > 2);
    }
}

#[test]
fn what_has_no_vector_is_refused() {
    let server = Server::start(&[]);
    for (body, named) in [
        (json!({}), "input: expected a value"),
        (json!({"input": ""}), "input: expected texts with something in them"),
        (json!({"input": ["a", ""]}), "input: expected texts with something in them"),
        (json!({"input": []}), "input[0]: prompt: the prompt is empty"),
        (json!({"input": ["a", []]}), "input[1]: prompt: the prompt is empty"),
        (json!({"input": {"a": 1}}), "input: expected a text"),
        (json!({"input": ["a", 1]}), "input: expected a text"),
        (json!({"input": [1, -1]}), "input: expected a text"),
        (json!({"input": [1, 1_000_000]}), "input[0]: prompt: token id 1000000"),
        (json!({"input": ["a", "a ".repeat(5000)]}), "input[1]: the prompt has"),
        (json!({"input": vec!["a"; 3000]}), "input: expected at most 2048"),
        (json!({"input": "a", "dimensions": 7}), "dimensions: expected"),
        (json!({"input": "a", "dimensions": -1}), "dimensions: "),
        (json!({"input": "a", "encoding_format": "int8"}), "encoding_format: "),
        (json!({"input": "a", "stream": true}), "stream: "),
        (json!({"input": "a", "model": "text-embedding-3-small"}), "model: expected cria"),
    ] {
        let (status, answer) = server.post("/v1/embeddings", &body);
        assert!((400..500).contains(&status), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().starts_with(named), "{named}: {answer}");
        // Ollama's has no encodings, and the same errors in its own shape.
        if body.get("encoding_format").is_none() {
            let (status, ollama) = server.post("/api/embed", &body);
            assert!((400..500).contains(&status), "{ollama}");
            assert_eq!(ollama["error"], answer["error"]["message"]);
        }
    }
    let (status, answer) = server.post("/api/embed", &json!({"input": "a", "truncate": true}));
    assert_eq!(status, 400, "{answer}");
    assert!(answer["error"].as_str().unwrap().starts_with("truncate: expected false"), "{answer}");
}

/// cria knows nothing of schemas, so what fits one does so because nothing else could be said.
#[test]
fn answers_have_the_form_that_is_asked_for() {
    let server = Server::start(&[]);
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 12}, "legs": {"enum": [2, 4, 8]}},
        "required": ["name", "legs"], "additionalProperties": false});
    let fits = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{text}"));
        assert!(value["name"].is_string() && [2, 4, 8].contains(&value["legs"].as_u64().unwrap()), "{value}");
        assert_eq!(value.as_object().unwrap().len(), 2, "{value}");
    };
    let format = json!({"type": "json_schema", "json_schema": {"name": "animal", "schema": schema}});
    let (status, answer) = server.post(
        "/v1/chat/completions",
        &json!({"messages": hello(), "response_format": format, "n": 3, "temperature": 1.5}),
    );
    assert_eq!(status, 200, "{answer}");
    for choice in answer["choices"].as_array().unwrap() {
        assert_eq!(choice["finish_reason"], "stop");
        fits(choice["message"]["content"].as_str().unwrap());
    }
    let (status, answer) =
        server.post("/api/generate", &json!({"prompt": "A llama?", "format": schema, "stream": false}));
    assert_eq!(status, 200, "{answer}");
    fits(answer["response"].as_str().unwrap());
    for (structured, right) in [
        (
            json!({"choice": ["maybe so", "never"]}),
            &(|text: &str| ["maybe so", "never"].contains(&text)) as &dyn Fn(&str) -> bool,
        ),
        (json!({"regex": "[a-f]{3}[0-9]"}), &|text| text.len() == 4 && text.as_bytes()[3].is_ascii_digit()),
        (json!({"grammar": "start: \"x\" start | \"y\"\n"}), &|text| text.trim_start_matches('x') == "y"),
    ] {
        let body = json!({"prompt": "Once upon a time", "structured_outputs": structured, "max_tokens": 500, "temperature": 0});
        let (status, answer) = server.post("/v1/completions", &body);
        let choice = &answer["choices"][0];
        assert_eq!((status, &choice["finish_reason"]), (200, &json!("stop")), "{structured}: {answer}");
        assert!(right(choice["text"].as_str().unwrap()), "{structured}: {answer}");
    }
    // The context is short, and the format writes schemas at length.
    let schema = json!({"type": "object", "properties": {"n": {"enum": [2, 4]}}, "required": ["n"],
        "additionalProperties": false});
    let fits = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{text}"));
        assert!([2, 4].contains(&value["n"].as_u64().unwrap()), "{value}");
    };
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": schema}});
    let tools = json!([tool("feed"), tool("groom")]);
    for (choice, names) in [
        (json!("required"), &["feed", "groom"][..]),
        (json!({"type": "function", "function": {"name": "groom"}}), &["groom"]),
    ] {
        let body = json!({"messages": hello(), "tools": tools, "tool_choice": choice, "parallel_tool_calls": false});
        let (status, answer) = server.post("/v1/chat/completions", &body);
        assert_eq!((status, &answer["choices"][0]["finish_reason"]), (200, &json!("tool_calls")), "{answer}");
        let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1, "{answer}");
        assert!(names.contains(&calls[0]["function"]["name"].as_str().unwrap()), "{answer}");
        fits(calls[0]["function"]["arguments"].as_str().unwrap());
        // The answer goes back as it came, twice in one message too, with the results behind it.
        let call = |id: &str| json!({"id": id, "type": "function", "function": calls[0]["function"]});
        let messages = json!([hello()[0], {"role": "assistant", "content": null, "tool_calls": [call("a"), call("b")]},
            {"role": "tool", "tool_call_id": "b", "content": "fed"}, {"role": "tool", "tool_call_id": "a", "content": "fed"}]);
        let (status, answer) = server.post("/v1/chat/completions", &json!({"messages": messages, "max_tokens": 4}));
        assert_eq!(status, 200, "{answer}");
    }
    let tool = json!({"name": "feed", "input_schema": schema});
    let body = json!({"messages": hello(), "tools": [tool], "tool_choice": {"type": "any"}, "max_tokens": 200});
    let (status, answer) = server.post("/v1/messages", &body);
    assert_eq!((status, &answer["stop_reason"]), (200, &json!("tool_use")), "{answer}");
    fits(&answer["content"][0]["input"].to_string());

    for (change, named) in [
        (json!({"response_format": {"type": "yaml"}}), "response_format"),
        (json!({"response_format": {"type": "json_object", "schema": {}}}), "response_format"),
        (json!({"structured_outputs": {"regex": "("}}), "regular expression"),
        (json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}), "structured_outputs"),
        (json!({"structured_outputs": {"json": {"type": "array", "uniqueItems": true}}}), "schema"),
        (json!({"response_format": format, "structured_outputs": {"regex": "a"}}), "structured_outputs"),
        (json!({"response_format": format, "ignore_eos": true}), "ignore_eos"),
        (json!({"response_format": format, "tools": tools}), "tools"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": {"type": "function", "function": {"name": "shear"}}, "tools": tools}), "shear"),
        (
            json!({"response_format": format, "messages": [hello()[0], {"role": "assistant", "content": "I"}]}),
            "messages",
        ),
    ] {
        let mut body = json!({"messages": hello(), "max_tokens": 4});
        change.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        let (status, answer) = server.post("/v1/chat/completions", &body);
        assert_eq!(status, 400, "{change}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(named), "{change}: {answer}");
    }
}

#[test]
fn what_is_not_honoured_is_named() {
    let server = Server::start(&[]);
    for (field, value) in [
        ("temprature", json!(1)),
        ("temperature", json!("hot")),
        ("temperature", json!(-1)),
        ("top_p", json!(1e308)),
        ("n", json!(0)),
        ("max_tokens", json!(-1)),
        ("top_logprobs", json!(3)),
        ("logit_bias", json!({"x": 1})),
        ("model", json!("gpt-4o")),
        ("stop", json!({"a": 1})),
    ] {
        let mut body = json!({"messages": hello()});
        body[field] = value.clone();
        let (status, answer) = server.post("/v1/chat/completions", &body);
        assert!((400..500).contains(&status), "{field}: {value}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().starts_with(field), "{answer}");
    }
    let (status, answer) = server.post("/v1/completions", &json!({"prompt": "a ".repeat(5000)}));
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("context_length_exceeded")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("at most 1024"), "{answer}");
    let (status, _, body) = server.ask("POST", "/v1/messages", &[], r#"{"messages": []}"#);
    assert_eq!(status, 400, "{body}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["type"], "error");
    assert_eq!(server.ask("GET", "/nothing", &[], "").0, 404);
    assert_eq!(server.ask("GET", "/v1/completions", &[], "").0, 405);
    let deep = format!(r#"{{"messages": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(server.ask("POST", "/v1/chat/completions", &[], &deep).0, 400);
}

#[test]
fn strangers_are_refused() {
    let server = Server::start(&["--allow-origin", "https://app.example"]);
    assert_eq!(server.ask("GET", "/v1/models", &["host: evil.test"], "").0, 403);
    assert_eq!(server.ask("GET", "/v1/models", &["origin: http://evil.test"], "").0, 403);
    let (status, head, _) = server.ask("GET", "/v1/models", &["origin: https://app.example"], "");
    assert_eq!(status, 200);
    assert!(head.contains("access-control-allow-origin: https://app.example"), "{head}");
    let (status, _, body) = server.ask("GET", "/openapi.json", &[], "");
    assert_eq!(status, 200);
    assert!(serde_json::from_str::<Value>(&body).unwrap()["paths"]["/v1/completions"].is_object());
    assert_eq!(server.ask("GET", "/ready", &[], "").0, 200);
    let (_, _, metrics) = server.ask("GET", "/metrics", &[], "");
    assert!(metrics.contains("vllm:num_requests_running"), "{metrics}");
}

/// A model's own template is a stranger's program: what it does wrong is told to whoever asks, and the server lives.
#[test]
fn malicious_templates_end_with_an_answer() {
    let files = Files::new();
    let model = files.model_of(&SHAPE.replace("512", "4096"), "derived", "BF16");
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
    // They write what everyone's do, until somebody says the word.
    for (payload, expected) in [
        (loops, "fuel"),
        ("{{ raise_exception('only poems, please') }}", "only poems, please"),
        ("{% include '/etc/passwd' %}", "/etc/passwd"),
        ("{{ messages.__class__.__mro__ }}", "undefined"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ] {
        let template = format!(
            "{{% for m in messages %}}{{{{ m.content }}}}{{% if m.content == 'now' %}}{payload}{{% endif %}}{{% endfor %}}"
        );
        let config = json!({ "chat_template": template }).to_string();
        std::fs::write(model.join("tokenizer_config.json"), config).unwrap();
        let server = Server::start(&[text(&model), "--chat-format", "model"]);
        let ask = |path: &str, word: &str| {
            let messages = json!([{"role": "user", "content": word}]);
            server.post(path, &json!({"messages": messages, "max_tokens": 1, "stream": false}))
        };
        for path in ["/v1/chat/completions", "/v1/messages"] {
            let (status, answer) = ask(path, "now");
            assert!(status == 400 && answer.to_string().contains(expected), "{payload}: {status} {answer}");
            let (status, answer) = ask(path, "Hello");
            assert_eq!(status, 200, "{payload}: {answer}");
        }
    }
}

#[test]
fn the_page_may_do_little() {
    let server = Server::start(&[]);
    for path in ["/", "/page/script.js", "/page/style.css", "/page/icon.svg", "/page/about", "/page/conversations"] {
        let (status, head, body) = server.ask("GET", path, &[], "");
        assert_eq!(status, 200, "{path}: {body}");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(head.contains(header), "{path}: {header}: {head}");
        }
        assert!(!head.contains("unsafe-"), "{path}: {head}");
    }
    let (_, head, frame) = server.ask("GET", "/", &[], "");
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert_eq!(frame.matches("<script").count(), frame.matches("<script src=\"page/script.js\"").count());
    let handles = |rest: &str| rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).starts_with('=');
    assert!(!frame.split(" on").skip(1).any(handles) && !frame.contains(" style="), "{frame}");
    // Nobody needs a key for the frame, so it tells nothing.
    assert!(!frame.contains("cria"), "{frame}");
    assert_eq!(server.ask("GET", "/page/nothing.js", &[], "").0, 404);
    // Other sites' pages reach none of it.
    let evil = ["origin: http://evil.test"];
    for (method, path) in
        [("GET", "/"), ("POST", "/page/answer"), ("DELETE", "/page/conversations/a"), ("POST", "/page/conversations/a")]
    {
        let (status, _, body) = server.ask(method, path, &evil, "{}");
        assert!(status == 403 && body.contains("origin_not_allowed"), "{method} {path}: {status} {body}");
    }
}

/// The events of an answer on the page.
fn answered(server: &Server, question: &Value) -> Vec<Value> {
    let (status, _, body) = server.ask("POST", "/page/answer", &[], &question.to_string());
    assert_eq!(status, 200, "{body}");
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|event| serde_json::from_str(event).unwrap()).collect()
}

#[test]
fn the_page_keeps_conversations() {
    let server = Server::start(&[]);
    let get = |path: &str| server.ask("GET", path, &[], "");
    let settings = json!({"temperature": 0});
    let asked = json!({"question": "What is a <b>cria</b>?", "system": "Be brief.", "settings": settings});
    let events = answered(&server, &asked);
    let id = events[0]["conversation"].as_str().unwrap().to_owned();
    assert!(events[0]["question"].as_str().unwrap().contains("What is a &lt;b&gt;cria&lt;/b&gt;?"), "{events:?}");
    assert!(events.iter().any(|event| event["open"].is_string()), "{events:?}");
    let answer = events.last().unwrap()["answer"].as_str().unwrap();
    assert!(answer.contains("tokens/s") && answer.contains("data-message=\"2\""), "{answer}");

    // Another answer, and another question in the place of the first.
    let again = answered(&server, &json!({"conversation": id, "parent": 1, "settings": settings}));
    assert!(again.last().unwrap()["answer"].as_str().unwrap().contains("2 of 2"), "{again:?}");
    answered(&server, &json!({"conversation": id, "question": "Good morning!", "settings": settings}));
    let (_, _, newest) = get(&format!("/page/conversations/{id}"));
    assert!(newest.contains("Good morning!") && !newest.contains("&lt;b&gt;"), "{newest}");
    let (_, _, first) = get(&format!("/page/conversations/{id}?at=2"));
    assert!(first.contains("&lt;b&gt;cria") && first.contains("1 of 2") && !first.contains("Good morning!"), "{first}");
    let (status, _, prompt) = get(&format!("/page/conversations/{id}/prompt/2"));
    let text: String = prompt.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect();
    assert!(status == 200 && text.contains("Be brief.") && text.contains("&lt;|begin_of_text|&gt;"), "{prompt}");

    // Found by its words, in its title and in what was said.
    assert!(get("/page/conversations?words=brief").2.contains("Nothing here"));
    for words in ["cria", "morn"] {
        assert!(get(&format!("/page/conversations?words={words}")).2.contains(&id), "{words}");
    }
    let path = format!("/page/conversations/{id}");
    assert_eq!(server.ask("POST", &path, &[], r#"{"title": "<i>Crias</i>"}"#).0, 204);
    assert!(get("/page/conversations").2.contains("&lt;i&gt;Crias&lt;/i&gt;"));
    assert_eq!(server.ask("POST", &format!("{path}/stop"), &[], "").0, 204);
    assert_eq!(server.ask("DELETE", &path, &[], "").0, 204);
    assert_eq!((get(&path).0, server.ask("DELETE", &path, &[], "").0), (404, 404));
}

#[test]
fn what_the_page_is_refused_leaves_no_trace() {
    let server = Server::start(&[]);
    for (asked, named) in [
        (json!({"question": "Hello!", "settings": {"temperature": 1000}}), "temperature"),
        (json!({"question": "Hello!", "settings": {"n": 3}}), "settings"),
        (json!({"question": "Hello!", "settings": {"model": "gpt-4o"}}), "model"),
        (json!({"question": "a ".repeat(5000)}), "at most 1024"),
        (json!({"question": "Hello!", "conversation": "none"}), "conversation"),
        (json!({"question": "Hello!", "parent": 7}), "message"),
        (json!({}), "question"),
        (json!({"question": 1}), "question"),
        (json!({"words": 1}), "words"),
    ] {
        let (status, answer) = server.post("/page/answer", &asked);
        assert!((400..500).contains(&status), "{asked}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(named), "{answer}");
    }
    assert!(server.ask("GET", "/page/conversations", &[], "").2.contains("Nothing here"));
    assert_eq!(server.ask("GET", "/page/conversations?after=x", &[], "").0, 400);
}
