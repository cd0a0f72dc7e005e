//! `/openapi.json`: what this server takes, from the same tables by which it reads.

use super::{anthropic_messages, ollama, openai, openai_chat, openai_completions, openai_embeddings};
use super::{openai_responses, tokens};
use crate::app::App;
use crate::constraint::CONSTRAINT;
use crate::fields::Field;
use crate::sampling::SAMPLING;
use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// An address that takes a body, and the tables of its fields.
pub struct Endpoint {
    /// Its path.
    pub path: &'static str,
    /// What it does.
    pub about: &'static str,
    /// Its fields.
    pub tables: &'static [&'static [Field]],
}

/// All addresses that take a body.
pub const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/v1/chat/completions",
        about: "Answers a conversation, as OpenAI does",
        tables: &[openai_chat::FIELDS, openai::BOTH, CONSTRAINT, SAMPLING],
    },
    Endpoint {
        path: "/v1/completions",
        about: "Continues prompts without a chat format, as OpenAI does",
        tables: &[openai_completions::FIELDS, openai::BOTH, CONSTRAINT, SAMPLING],
    },
    Endpoint {
        path: "/v1/embeddings",
        about: "Texts as vectors of length 1, as OpenAI does: the mean of the model's final hidden states over all tokens",
        tables: &[openai_embeddings::FIELDS],
    },
    Endpoint {
        path: "/v1/responses",
        about: "Answers, and stores the answer to be gone on from, as OpenAI does",
        tables: &[openai_responses::FIELDS, SAMPLING],
    },
    Endpoint {
        path: "/v1/messages",
        about: "Answers a conversation, as Anthropic does",
        tables: &[anthropic_messages::CONVERSATION, anthropic_messages::FIELDS],
    },
    Endpoint {
        path: "/v1/messages/count_tokens",
        about: "Counts the tokens of a conversation, as Anthropic does",
        tables: &[anthropic_messages::CONVERSATION],
    },
    Endpoint {
        path: "/api/chat",
        about: "Answers a conversation, as Ollama does",
        tables: &[ollama::BOTH, ollama::CHAT],
    },
    Endpoint {
        path: "/api/generate",
        about: "Answers a prompt, as Ollama does",
        tables: &[ollama::BOTH, ollama::GENERATE],
    },
    Endpoint {
        path: "/api/embed",
        about: "Texts as vectors, as Ollama does: those of /v1/embeddings",
        tables: &[ollama::EMBED],
    },
    Endpoint { path: "/api/show", about: "Describes the model, as Ollama does", tables: &[ollama::SHOW] },
    Endpoint { path: "/tokenize", about: "The tokens of a text", tables: &[tokens::TOKENIZE] },
    Endpoint { path: "/detokenize", about: "The text of tokens", tables: &[tokens::DETOKENIZE] },
    Endpoint {
        path: "/apply-template",
        about: "The exact prompt of a conversation, text and tokens",
        tables: &[tokens::APPLY_TEMPLATE],
    },
];

/// A table's JSON, which the tests have read.
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// The description of all endpoints, and of how a key is sent, if one is needed.
pub async fn describe(State(app): State<Arc<App>>) -> Json<Value> {
    let path = |endpoint: &Endpoint| {
        let property = |field: &Field| {
            let mut schema = parse(field.schema);
            schema["description"] = field.about.into();
            schema["example"] = parse(field.example);
            (field.name.to_owned(), schema)
        };
        let properties: Map<String, Value> =
            endpoint.tables.iter().flat_map(|table| table.iter()).map(property).collect();
        let schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
        let post = json!({
            "summary": endpoint.about,
            "requestBody": {"required": true, "content": {"application/json": {"schema": schema}}},
            "responses": {
                "200": {"description": "The answer"},
                "400": {"description": "A field that is at fault"},
                "401": {"description": "No key, or none that works"},
                "403": {"description": "A key that may not do this"},
                "429": {"description": "Too much at once: Retry-After says when to try again"},
            },
        });
        (endpoint.path.to_owned(), json!({"post": post}))
    };
    let paths: Map<String, Value> = ENDPOINTS.iter().map(path).collect();
    let info = json!({"title": "puna", "version": env!("CARGO_PKG_VERSION")});
    let schemes = json!({
        "bearer": {"type": "http", "scheme": "bearer"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    });
    // One of them is enough.
    let security = if app.access.needs_key() { json!([{"bearer": []}, {"x-api-key": []}]) } else { json!([]) };
    let components = json!({"securitySchemes": schemes});
    Json(json!({"openapi": "3.1.0", "info": info, "security": security, "paths": paths, "components": components}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_json_and_name_nothing_twice() {
        for Endpoint { path, tables, .. } in ENDPOINTS {
            let mut names = Vec::new();
            for field in tables.iter().flat_map(|table| table.iter()) {
                assert!(!names.contains(&field.name), "{path}: {}", field.name);
                names.push(field.name);
                assert!(serde_json::from_str::<Value>(field.schema).unwrap().is_object(), "{path}: {}", field.name);
                serde_json::from_str::<Value>(field.example).unwrap();
            }
        }
    }
}
