//! A client of one server, which must be on this machine: nothing else is ever called.

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Instant;
use tokio::net::TcpStream;

/// Bytes of a body that is kept at most.
const MAX_BODY: usize = 1 << 20;

/// Where a server of this machine listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let wrong = || format!("expected an address of this machine, as http://127.0.0.1:8080, found {text:?}");
        let place = text.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
        let place = place.strip_suffix("/v1").unwrap_or(place);
        let address = match place.strip_prefix("localhost:") {
            Some(port) => port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
            None => place.parse().ok(),
        };
        address.filter(|address: &SocketAddr| address.ip().is_loopback()).map(Address).ok_or_else(wrong)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

/// Tokens of a request, as the server counted them.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: u64,
    /// Of the answer.
    pub completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: u64,
}

impl Usage {
    /// Tokens of the prompt that were in the cache.
    pub fn cached_tokens(&self) -> u64 {
        self.prompt_tokens_details.map_or(0, |details| details.cached_tokens)
    }
}

/// What became of a request.
pub enum Outcome {
    /// It was answered.
    Answered {
        /// When each piece of text came.
        pieces: Vec<Instant>,
        /// When the answer was complete.
        end: Instant,
        usage: Usage,
    },
    /// The server has no room for it now.
    Refused {
        end: Instant,
        /// Seconds after which it is worth trying again.
        retry_after: f64,
    },
    /// Anything else.
    Failed(String),
}

impl Address {
    /// Sends a request over a connection of its own. What the connection says later of an error is in the body that
    /// ends too early.
    async fn send(self, method: Method, path: &str, body: String) -> Result<Response<hyper::body::Incoming>> {
        let stream = TcpStream::connect(self.0).await.with_context(|| format!("connecting to {self}"))?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.0.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        Ok(sender.send_request(request).await?)
    }

    /// The name of the first model that is served.
    pub async fn model(self) -> Result<String> {
        let response = self.send(Method::GET, "/v1/models", String::new()).await?;
        let body = whole(response.into_body()).await?;
        let models: Value = serde_json::from_slice(&body).with_context(|| format!("{self}/v1/models"))?;
        let name = models["data"][0]["id"].as_str();
        Ok(name.with_context(|| format!("{self}/v1/models: expected the name of a model, found none"))?.to_owned())
    }

    /// Asks for a chat completion that is streamed, with its usage, and waits for its end.
    pub async fn ask(self, body: &Value) -> Outcome {
        self.stream(body).await.unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")))
    }

    async fn stream(self, body: &Value) -> Result<Outcome> {
        let response = self.send(Method::POST, "/v1/chat/completions", body.to_string()).await?;
        let (head, mut body) = response.into_parts();
        match head.status {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => {
                let seconds = head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                whole(body).await?;
                return Ok(Outcome::Refused { end: Instant::now(), retry_after: seconds.unwrap_or(1.0) });
            }
            status => bail!("{status}: {}", String::from_utf8_lossy(&whole(body).await?)),
        }
        let (mut rest, mut pieces, mut usage) = (Vec::new(), Vec::new(), None);
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            rest.extend_from_slice(&data);
            let now = Instant::now();
            while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = rest.drain(..end + 2).collect();
                let Some(data) = event.strip_prefix(b"data: ") else { continue };
                if data.trim_ascii() == b"[DONE]" {
                    let usage = usage.context("expected the usage of the answer, found none")?;
                    return Ok(Outcome::Answered { pieces, end: now, usage });
                }
                let event: Event = serde_json::from_slice(data).context("an event of the stream")?;
                if let Some(error) = event.error {
                    bail!("{error}");
                }
                if event.usage.is_some() {
                    usage = event.usage;
                }
                let said = |choice: &Choice| choice.delta.content.as_ref().is_some_and(|text| !text.is_empty());
                if event.choices.iter().any(said) {
                    pieces.push(now);
                }
            }
            if rest.len() > MAX_BODY {
                bail!("an event of the stream: expected at most {MAX_BODY} bytes, found more");
            }
        }
        bail!("the answer was broken off")
    }
}

/// An event of a streamed chat completion.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

/// A whole body.
async fn whole(mut body: impl Body<Data = Bytes, Error = hyper::Error> + Unpin) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        bytes.extend_from_slice(&frame?.into_data().unwrap_or_default());
        if bytes.len() > MAX_BODY {
            bail!("the body: expected at most {MAX_BODY} bytes, found more");
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_called() {
        for text in ["http://127.0.0.1:8080", "http://localhost:8080/", "http://127.0.0.1:8080/v1"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), "http://127.0.0.1:8080", "{text}");
        }
        assert!("http://[::1]:80".parse::<Address>().is_ok());
        for text in [
            "http://10.0.0.1:80",
            "http://example.org:80",
            "https://127.0.0.1:80",
            "http://0.0.0.0:80",
            "127.0.0.1:80",
            "http://localhost",
            "http://localhost:80@example.org:80",
            "",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
