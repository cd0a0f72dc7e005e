//! Server-sent events: a body that is written while the answer is made.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Events that may wait until the connection takes them.
const BUFFER: usize = 64;

/// Writes events.
pub struct Events(mpsc::Sender<Bytes>);

/// Nobody reads any more.
pub struct Gone;

impl Events {
    /// `data: JSON`.
    pub async fn data(&self, value: &Value) -> Result<(), Gone> {
        self.send(format!("data: {value}\n\n")).await
    }

    /// `event: NAME`, `data: JSON`.
    pub async fn named(&self, name: &str, value: &Value) -> Result<(), Gone> {
        self.send(format!("event: {name}\ndata: {value}\n\n")).await
    }

    /// OpenAI's last event.
    pub async fn done(&self) -> Result<(), Gone> {
        self.send("data: [DONE]\n\n".to_owned()).await
    }

    /// A line of JSON, for Ollama's streams.
    pub async fn line(&self, value: &Value) -> Result<(), Gone> {
        self.send(format!("{value}\n")).await
    }

    /// Waits until nobody reads any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }

    async fn send(&self, text: String) -> Result<(), Gone> {
        self.0.send(Bytes::from(text)).await.map_err(|_| Gone)
    }
}

struct Stream(mpsc::Receiver<Bytes>);

impl futures_core::Stream for Stream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(Ok))
    }
}

/// A response of this content type, whose body `write` writes. When the connection is closed, that ends.
pub fn stream<F>(content_type: &'static str, write: impl FnOnce(Events) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (send, receive) = mpsc::channel(BUFFER);
    let gone = send.clone();
    let writing = write(Events(send));
    tokio::spawn(async move {
        // Who is gone needs no word of it; and is missed at once, not only when there is something to be said.
        tokio::select! {
            _ = writing => {}
            () = gone.closed() => {}
        }
    });
    let mut response = Body::from_stream(Stream(receive)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The content type of server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
/// The content type of lines of JSON.
pub const JSON_LINES: &str = "application/x-ndjson";
