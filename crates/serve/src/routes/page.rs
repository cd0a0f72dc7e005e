//! The page at `/`, its files, and the conversations that it keeps.

use super::page_shared::{Page, path, said};
use crate::access::Caller;
use crate::error::ApiError;
use crate::fields::{Field, Fields};
use crate::history::{self, Cursor, Found, Listed};
use crate::page::{ASSETS, POLICY, view};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;

/// Conversations that are listed at once.
const LISTED: usize = 50;

/// Says of every response of the page what it may do in a browser.
pub async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        // A page of yesterday's program must not meet today's, nor what was said lie in a browser's cache.
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The page.
pub async fn frame() -> Html<String> {
    Html(view::frame().into_string())
}

/// A file that the page is made of.
pub async fn asset(Path(name): Path<String>) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => ([(header::CONTENT_TYPE, asset.content_type)], asset.content).into_response(),
        None => ApiError::new(StatusCode::NOT_FOUND, "not_found", "the page has no such file").into_response(),
    }
}

/// What there is to say of the model, as HTML for several places.
pub async fn about(State(page): State<Arc<Page>>, caller: Caller) -> Json<Value> {
    Json(view::about(&page.app, &caller))
}

/// Which conversations are listed.
#[derive(serde::Deserialize)]
pub struct Search {
    #[serde(default)]
    words: String,
    after: Option<Cursor>,
}

/// The newest conversations, or those that have some words.
pub async fn list(
    State(page): State<Arc<Page>>,
    Query(Search { words, after }): Query<Search>,
    parts: Parts,
) -> Result<Html<String>, ApiError> {
    let part = history::Page { limit: LISTED, after };
    let found = page.store(&parts, move |database, owner| {
        if !words.trim().is_empty() {
            return history::search(database, owner, &words, &part);
        }
        let Listed { items, next } = history::list(database, owner, &part)?;
        let items = items.into_iter().map(|conversation| Found { conversation, snippet: None }).collect();
        Ok(Listed { items, next })
    });
    Ok(Html(view::list(&found.await?).into_string()))
}

/// Where a conversation is read to.
#[derive(serde::Deserialize)]
pub struct Place {
    /// A message; the newest without it.
    at: Option<u32>,
}

/// The messages of a conversation that lead to one of them.
pub async fn show(
    State(page): State<Arc<Page>>,
    Path(id): Path<String>,
    Query(Place { at }): Query<Place>,
    parts: Parts,
) -> Result<Html<String>, ApiError> {
    let messages = page.messages(&parts, id).await?;
    let Some(newest) = messages.last() else { return Ok(Html(String::new())) };
    let last = at.unwrap_or(newest.id);
    path(&messages, last)?;
    let rendering = tokio::task::spawn_blocking(move || {
        let path = history::path(&messages, last).unwrap_or_default();
        view::thread(&page.app, &messages, &path).into_string()
    });
    rendering.await.map(Html).map_err(|_| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the conversation could not be shown")
    })
}

/// Fields of a conversation that may be changed.
pub const CHANGE: &[Field] =
    &[Field { name: "title", schema: r#"{"type": "string"}"#, about: "What people call it", example: r#""Llamas""# }];

/// Gives a conversation another title.
pub async fn rename(
    State(page): State<Arc<Page>>,
    Path(id): Path<String>,
    parts: Parts,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let title: String = Fields::read(&body, &[CHANGE], &[])?.require("title")?;
    page.store(&parts, move |database, owner| history::rename(database, owner, &id, title.trim())).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a conversation.
pub async fn delete(
    State(page): State<Arc<Page>>,
    Path(id): Path<String>,
    parts: Parts,
) -> Result<StatusCode, ApiError> {
    page.store(&parts, move |database, owner| history::delete(database, owner, &id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The exact prompt that leads to a message.
pub async fn prompt(
    State(page): State<Arc<Page>>,
    Path((id, message)): Path<(String, u32)>,
    parts: Parts,
) -> Result<Response, ApiError> {
    /// What `/apply-template` tells.
    #[derive(serde::Deserialize)]
    struct Written {
        tokens: Vec<u32>,
        pieces: Vec<String>,
    }
    let messages = page.messages(&parts, id).await?;
    let path = path(&messages, message)?;
    // What is asked is the answer; its prompt is what came before it.
    let (answer, before) = path.split_last().expect("a path ends with its last message");
    let system = answer.parameters["system"].as_str();
    let body = json!({"messages": said(system, before.iter().copied())});
    let response = page.ask(&parts, "/apply-template", &body).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    let broken = |error: String| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error);
    let body = response.into_body().collect().await.map_err(|error| broken(error.to_string()))?.to_bytes();
    let written: Written = serde_json::from_slice(&body).map_err(|error| broken(error.to_string()))?;
    Ok(Html(view::prompt(&written.tokens, &written.pieces).into_string()).into_response())
}
