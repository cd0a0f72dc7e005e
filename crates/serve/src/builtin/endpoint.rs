//! An HTTP address of this machine that answers queries: the operator's own program, which may ask others.
//!
//! This server opens no connection that leaves the machine. So an endpoint is a loopback address, and whatever has to be
//! asked outside is asked by the program that listens there, which also has the keys for it.

use axum::body::Body;
use axum::http::{Request, StatusCode, Uri, header, uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Bytes of an answer at most.
const MAX_ANSWER: usize = 64 << 10;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where queries go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    address: SocketAddr,
    path: uri::PathAndQuery,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let expected = |found: &str| {
            format!(
                "expected an address of this machine such as http://127.0.0.1:9000/search, found {found}: puna connects to \
                 nothing outside; let a program of yours listen there that asks whom you like"
            )
        };
        let uri: Uri = text.parse().map_err(|_| expected(&format!("{text:?}")))?;
        let authority = uri.authority().filter(|_| uri.scheme() == Some(&uri::Scheme::HTTP));
        let authority = authority.ok_or_else(|| expected(&format!("{text:?}")))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let ip = host.parse::<IpAddr>().ok().filter(IpAddr::is_loopback);
        let ip = ip.filter(|_| !authority.as_str().contains('@')).ok_or_else(|| expected(&format!("{authority:?}")))?;
        let port = match &authority.as_str()[authority.host().len()..] {
            "" => Some(80),
            port => port.strip_prefix(':').and_then(|port| port.parse().ok()),
        };
        let port = port.ok_or_else(|| expected(&format!("{authority:?}")))?;
        let path = uri.path_and_query().cloned().unwrap_or(uri::PathAndQuery::from_static("/"));
        Ok(Endpoint { address: SocketAddr::new(ip, port), path })
    }
}

impl Endpoint {
    /// Posts `{"query": …}` and gives what comes back, as text.
    ///
    /// # Errors
    /// When nothing usable comes back in time; the text is for the model and for clients, and tells nothing of the address.
    pub async fn ask(&self, query: &str) -> Result<String, String> {
        let late = |_| format!("no answer within {} s", PATIENCE.as_secs());
        tokio::time::timeout(PATIENCE, self.exchange(query)).await.map_err(late)?
    }

    async fn exchange(&self, query: &str) -> Result<String, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|_| "it can't be reached".to_owned())?;
        let broken = |_| "the connection broke".to_owned();
        let (mut send, connection) =
            http1::Builder::new().handshake::<_, Body>(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::post(self.path.as_str())
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/plain")
            .header(header::CONNECTION, "close")
            .body(Body::from(json!({ "query": query }).to_string()))
            .map_err(|_| "the query can't be sent".to_owned())?;
        let answer = async {
            let response = send.send_request(request).await.map_err(broken)?;
            let status = response.status();
            if status != StatusCode::OK {
                return Err(format!("expected the status 200, found {}", status.as_u16()));
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
                Some(_) => format!("expected an answer of at most {MAX_ANSWER} bytes, found a longer one"),
                None => "the connection broke within the answer".to_owned(),
            })?;
            let text = String::from_utf8(body.to_bytes().to_vec());
            text.map_err(|_| "expected an answer in UTF-8, found something else".to_owned())
        };
        // The connection is driven as long as the answer is waited for, and dropped with it.
        tokio::pin!(connection, answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // Its end hands over what was read.
            _ = &mut connection => answer.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn addresses_of_this_machine_alone() {
        for (text, address) in [
            ("http://127.0.0.1:9000/search?a=1", "127.0.0.1:9000"),
            ("http://127.0.0.1", "127.0.0.1:80"),
            ("http://[::1]:90/", "[::1]:90"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().address, address.parse().unwrap(), "{text}");
        }
        for text in [
            "https://127.0.0.1/",
            "http://10.0.0.1/",
            "http://example.org/",
            "http://localhost:80/",
            "http://127.0.0.1@10.0.0.1/",
            "http://a@127.0.0.1/",
            "http://0.0.0.0/",
            "http://127.0.0.1:90000/",
            "http://127.0.0.1:/",
            "127.0.0.1:9000",
            "/search",
            "",
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.contains("http://127.0.0.1:9000/search"), "{text}: {error}");
        }
    }

    /// What an endpoint that answers with these bytes gives, and what it was sent.
    fn ask(answer: &[u8]) -> (Result<String, String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint: Endpoint = format!("http://{}/find", listener.local_addr().unwrap()).parse().unwrap();
        let answer = answer.to_vec();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"}") {
                let n = stream.read(&mut buffer).unwrap();
                asked.extend_from_slice(&buffer[..n]);
            }
            // Whoever has read enough goes away.
            let _ = stream.write_all(&answer);
            String::from_utf8(asked).unwrap()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let result = runtime.block_on(endpoint.ask("gold \"price\""));
        (result, serving.join().unwrap())
    }

    #[test]
    fn answers_are_bounded_and_read_in_every_form() {
        let (answer, asked) = ask(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n42");
        assert_eq!(answer.as_deref(), Ok("42"));
        assert!(asked.starts_with("POST /find HTTP/1.1\r\nhost: 127.0.0.1:"), "{asked}");
        assert!(asked.ends_with(r#"{"query":"gold \"price\""}"#), "{asked}");
        assert_eq!(ask(b"HTTP/1.1 200 OK\r\n\r\nto the end").0.as_deref(), Ok("to the end"));
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(ask(chunked).0.as_deref(), Ok("abc"));
        let mut large = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        large.resize(MAX_ANSWER + 100, b'x');
        assert!(ask(&large).0.unwrap_err().contains("at most 65536 bytes"));
        assert!(ask(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\xff").0.unwrap_err().contains("UTF-8"));
        assert!(ask(b"HTTP/1.1 302 Found\r\nlocation: http://10.0.0.1/\r\n\r\n").0.unwrap_err().contains("302"));
        assert!(ask(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n42").0.unwrap_err().contains("broke within"));
        assert!(ask(b"what?").0.is_err());
        assert!(ask(b"").0.is_err());
    }
}
