//! Which path is answered by which file.

use crate::app::App;
use crate::error::ApiError;
use crate::guard::{self, Guard};
use crate::routes::{
    anthropic_messages, ollama, openai_chat, openai_completions, openai_embeddings, openai_models, openai_responses,
    openapi, page, page_answer, page_shared, state, tokens,
};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use std::sync::Arc;

/// All routes, behind the guard.
pub fn router(app: Arc<App>, guard: Arc<Guard>) -> Router {
    let api = Router::new()
        .route("/v1/chat/completions", post(openai_chat::create))
        .route("/v1/completions", post(openai_completions::create))
        .route("/v1/embeddings", post(openai_embeddings::create))
        .route("/v1/responses", post(openai_responses::create))
        .route("/v1/responses/{id}", get(openai_responses::retrieve).delete(openai_responses::delete))
        .route("/v1/responses/{id}/input_items", get(openai_responses::input_items))
        .route("/v1/responses/{id}/cancel", post(openai_responses::cancel))
        .route("/v1/models", get(openai_models::list))
        .route("/v1/models/{*name}", get(openai_models::retrieve))
        .route("/v1/messages", post(anthropic_messages::create))
        .route("/v1/messages/count_tokens", post(anthropic_messages::count_tokens))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/api/embed", post(ollama::embed))
        .route("/api/tags", get(ollama::tags))
        .route("/api/show", post(ollama::show))
        .route("/api/version", get(ollama::version))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route("/tokenizer_info", get(tokens::info))
        .route("/openapi.json", get(openapi::describe))
        .route("/health", get(state::health))
        .route("/ready", get(state::ready))
        .route("/metrics", get(state::metrics))
        // The guard has taken the body by then, and has a limit of its own.
        .layer(DefaultBodyLimit::disable())
        .with_state(app.clone());
    let page = page_shared::Page { app: app.clone(), api: api.clone(), running: page_shared::Running::default() };
    let page = Router::new()
        .route("/", get(page::frame))
        .route("/page/{file}", get(page::asset))
        .route("/page/about", get(page::about))
        .route("/page/answer", post(page_answer::create))
        .route("/page/conversations", get(page::list))
        .route("/page/conversations/{id}", get(page::show).post(page::rename).delete(page::delete))
        .route("/page/conversations/{id}/stop", post(page_answer::stop))
        .route("/page/conversations/{id}/prompt/{message}", get(page::prompt))
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn(page::headers))
        .with_state(Arc::new(page));
    api.merge(page)
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this address takes another method")
        })
        .layer(from_fn_with_state((app, guard), guard::check))
}
