//! The routes without a connection: for a program that has the requests, and wants the very answers that clients get.

use crate::app::App;
use crate::guard::Guard;
use crate::router::router;
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, header};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;

/// A model that answers in this process.
#[derive(Clone)]
pub struct Offline(TowerToHyperService<Router>);

/// What a client would have got.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP's status.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Offline {
    /// Bodies of requests have at most `max_body` bytes.
    pub fn new(app: Arc<App>, max_body: usize) -> Offline {
        let guard = Guard { max_body, ..Guard::default() };
        Offline(TowerToHyperService::new(router(app, Arc::new(guard))))
    }

    /// Answers a POST. When the future is dropped, the request ends.
    ///
    /// # Panics
    /// When `path` is no path of a URL.
    pub async fn post(&self, path: &str, body: Vec<u8>) -> Reply {
        let request = Request::builder().method(Method::POST).uri(path).header(header::HOST, "localhost");
        let request = request.body(Body::from(body)).expect("a path of this program's own");
        let Ok(response) = self.0.call(request).await;
        let status = response.status().as_u16();
        // Bodies are made in this process: a stream of them that fails is one that ends.
        let body = response.into_body().collect().await.map(|body| body.to_bytes().into());
        Reply { status, body: body.unwrap_or_default() }
    }
}
