//! What the page's routes have in common.

use crate::app::App;
use crate::database::{self, Database};
use crate::error::ApiError;
use crate::history::{self, Message};
use crate::keys::{KeyId, Verified};
use axum::Router;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What the page's routes share.
pub struct Page {
    /// What the server answers with.
    pub app: Arc<App>,
    /// The API. The page asks it as every program does, so what it can do is what they can do.
    pub api: Router,
    /// Answers that are being made.
    pub running: Running,
}

impl Page {
    /// Asks the API on behalf of a request: with its headers, and what the guard knows of it.
    pub async fn ask(&self, parts: &Parts, path: &'static str, body: &Value) -> Response {
        let mut request = Request::post(path).body(Body::from(body.to_string())).expect("a path of ours");
        *request.headers_mut() = parts.headers.clone();
        request.headers_mut().remove(header::CONTENT_LENGTH);
        *request.extensions_mut() = parts.extensions.clone();
        let Ok(response) = TowerToHyperService::new(self.api.clone()).call(request).await;
        response
    }

    /// Lets the store do something for whoever asks.
    pub async fn store<T: Send + 'static>(
        &self,
        parts: &Parts,
        work: impl FnOnce(&mut Database, Option<&KeyId>) -> Result<T, database::Error> + Send + 'static,
    ) -> Result<T, ApiError> {
        let Some(store) = self.app.access.store() else {
            let message =
                "the page keeps conversations in a database, and this server has none; it said why at its start";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_database", message));
        };
        let owner = owner(parts);
        Ok(store.call(move |database| work(database, owner.as_ref())).await?)
    }

    /// A conversation's messages.
    pub async fn messages(&self, parts: &Parts, id: String) -> Result<Vec<Message>, ApiError> {
        let read = self.store(parts, move |database, owner| history::read(database, owner, &id)).await?;
        Ok(read.1)
    }
}

/// Whose conversations a request sees: its key's, or those of all who need none.
pub fn owner(parts: &Parts) -> Option<KeyId> {
    parts.extensions.get::<Verified>().map(|verified| verified.key.id.clone())
}

/// The messages that lead to one.
pub fn path(messages: &[Message], last: u32) -> Result<Vec<&Message>, ApiError> {
    history::path(messages, last).ok_or_else(|| {
        let message = format!("there is no message in this conversation with the id \"{last}\"");
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    })
}

/// Answers that are being made.
#[derive(Default)]
pub struct Running(Mutex<Vec<Answering>>);

/// One of them. Dropped, it ends.
struct Answering {
    owner: Option<KeyId>,
    conversation: String,
    stop: oneshot::Sender<()>,
}

impl Running {
    fn all(&self) -> MutexGuard<'_, Vec<Answering>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What resolves when the answer is to be stopped.
    pub fn begin(&self, owner: Option<KeyId>, conversation: String) -> oneshot::Receiver<()> {
        let (stop, stopped) = oneshot::channel();
        let mut all = self.all();
        all.retain(|answering| !answering.stop.is_closed());
        all.push(Answering { owner, conversation, stop });
        stopped
    }

    /// Stops all answers in a conversation.
    pub fn stop(&self, owner: Option<&KeyId>, conversation: &str) {
        self.all().retain(|answering| answering.owner.as_ref() != owner || answering.conversation != conversation);
    }
}

/// Messages as the API takes them.
pub fn said<'a>(system: Option<&str>, messages: impl Iterator<Item = &'a Message>) -> Vec<Value> {
    let system = system.map(|text| json!({"role": "system", "content": text}));
    system.into_iter().chain(messages.map(|said| json!({"role": said.role, "content": said.content}))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_owner_stops_an_answer() {
        let running = Running::default();
        let key = || Some("0123456789ab".parse::<KeyId>().unwrap());
        let mut stopped = running.begin(key(), "a".into());
        running.stop(None, "a");
        running.stop(key().as_ref(), "b");
        assert!(stopped.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        running.stop(key().as_ref(), "a");
        assert!(stopped.try_recv() == Err(oneshot::error::TryRecvError::Closed));
    }
}
