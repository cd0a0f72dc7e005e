//! How the server is: `/health`, `/ready`, `/metrics`.

use crate::app::App;
use crate::metrics;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// The server lives.
pub async fn health() -> &'static str {
    "ok\n"
}

/// The server can answer: its engine runs, its keys can be read, and no shutdown has begun. Anybody may ask this, so it says
/// nothing of files.
pub async fn ready(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    let faults = app.access.faults();
    if app.drains() {
        (StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down\n")
    } else if !app.model.service.status().alive {
        (StatusCode::SERVICE_UNAVAILABLE, "the engine does not answer\n")
    } else if faults.keys {
        (StatusCode::SERVICE_UNAVAILABLE, "the database of keys can't be read: whoever needs a key is refused\n")
    } else if faults.usage {
        (StatusCode::OK, "ready, but usage can't be written to the database\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// What is measured, for Prometheus.
pub async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::render(&app)).into_response()
}
