//! OpenAI's `/v1/models`.

use crate::access::Caller;
use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;

fn model(app: &App, name: &str) -> Value {
    let parent = (name != app.model.name).then_some(&app.model.name);
    json!({
        "id": name,
        "object": "model",
        "created": app.started.seconds(),
        "owned_by": "puna",
        "root": parent.unwrap_or(&app.model.name),
        "parent": parent,
        "max_model_len": app.model.service.context(),
    })
}

/// The model and its adapters, those that the caller may use.
pub async fn list(State(app): State<Arc<App>>, caller: Caller) -> Json<Value> {
    let models: Vec<Value> = app.names().filter(|name| caller.may_use(name)).map(|name| model(&app, name)).collect();
    Json(json!({"object": "list", "data": models}))
}

/// One of them.
pub async fn retrieve(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<Value>, ApiError> {
    app.adapter(Some(&name))?;
    Ok(Json(model(&app, &name)))
}
