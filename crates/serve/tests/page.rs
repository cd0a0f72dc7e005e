//! What an answer on the page leaves behind when nobody looks any more.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod fake;

use fake::Gate;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use puna_serve::access::Access;
use puna_serve::app::App;
use puna_serve::guard::Guard;
use puna_serve::history::{self, Page};
use puna_serve::server::{self, Limits};
use puna_serve::store::Store;
use puna_text::chat::Role;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here takes, however busy the machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// The model stops in the middle of the answer, and so whoever keeps what was said can't wait for its end.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_is_kept_when_the_page_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("serve.db")).unwrap();
    let gate = Arc::new(Gate::default());
    gate.close_after(12);
    let app = App::new(fake::model(fake::CONTEXT, 2, gate.clone())).with_access(Access::recorded(store.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server::serve(listener, Arc::new(app), Guard::default(), Limits::default(), std::future::pending()));

    let kept = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let settings = json!({"max_completion_tokens": 300, "temperature": 0});
        let body = json!({"question": "Why?", "settings": settings}).to_string();
        let request = Request::post("/page/answer").header(header::HOST, address.to_string());
        let mut response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        // Until something of the answer is there.
        let mut seen = String::new();
        while !seen.contains("\"open\"") {
            let frame = response.frame().await.expect("the stream goes on").unwrap();
            seen += std::str::from_utf8(&frame.into_data().unwrap_or_default()).unwrap();
        }
        drop((response, sender));
        connection.abort();
        loop {
            let all = Page { limit: history::MAX_PAGE, after: None };
            let listed = store.call(move |database| history::list(database, None, &all)).await.unwrap();
            if let Some(conversation) = listed.items.first() {
                let id = conversation.id.clone();
                let (_, messages) = store.call(move |database| history::read(database, None, &id)).await.unwrap();
                if let Some(answer) = messages.into_iter().find(|message| message.role == Role::Assistant) {
                    return answer;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::time::timeout(DEADLINE, kept).await.expect("it is kept");
    assert!(!answer.content.is_empty());
    assert_eq!(answer.timings["end"], "stopped");
    gate.open();
}
