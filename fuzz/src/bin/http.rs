//! Bodies of requests, at every address that takes one. There is an answer, or an error of the client's that says what is
//! wrong. Nobody computes here: what could be answered is refused, since there is no room.
#![no_main]

#[path = "../../../crates/serve/tests/served/mod.rs"]
mod served;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use puna_fuzz::bounded;
use puna_serve::{app::App, guard::Guard, router::router};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;

/// An input's first byte is an index into these, and the rest a body.
const PATHS: [&str; 13] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/api/chat",
    "/api/generate",
    "/api/show",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/v1/embeddings",
    "/api/embed",
    "/v1/responses",
];

static SERVER: LazyLock<(Runtime, Router)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap_or_else(|error| panic!("{error}"));
    (runtime, router(Arc::new(App::new(served::model(0))), Arc::new(Guard::default())))
});

/// Status and body of the answer.
fn post(path: &str, body: &[u8]) -> (u16, Value) {
    let (runtime, router) = &*SERVER;
    let request = Request::post(path).header("host", "localhost").body(Body::from(body.to_vec()));
    let request = request.unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(async {
        let Ok(response) = router.clone().oneshot(request).await;
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_else(|error| panic!("{error}"));
        (status, serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{path}: {status}: {error}: {body:?}")))
    })
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((index, body)) = bytes.split_first() else { return };
    let path = PATHS[usize::from(*index) % PATHS.len()];
    // The schema of a tool is written with a value on a line of its own, indented as deep as it lies, and here each byte of it
    // is a token.
    let (status, answer) = bounded(bytes, 4096, || post(path, body));
    match status {
        200 => {
            if let Some(tokens) = answer["tokens"].as_array() {
                let known = |id: &Value| id.as_u64().is_some_and(|id| id < served::VOCAB as u64);
                assert!(tokens.iter().all(known), "{path}: {answer}");
            }
        }
        400 | 404 | 429 => {
            let message = answer["error"]["message"].as_str().or(answer["error"].as_str());
            assert!(message.is_some_and(|message| !message.is_empty()), "{path}: {status}: {answer}");
        }
        _ => panic!("{path}: {status}: {answer}"),
    }
});
