//! What every request passes first: who may ask, from where, and how much.
//!
//! A page of a stranger that runs in this machine's browser can send requests to this machine. It can't hide where it
//! comes from (`Origin`), and when it has its own name point here, it can't hide that name (`Host`): both are checked.

use crate::app::App;
use crate::error::ApiError;
use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// What is let through.
#[derive(Clone, Debug)]
pub struct Guard {
    /// Names besides `localhost` and addresses under which the server may be called.
    pub hosts: Vec<String>,
    /// Other sites whose pages may call it, as `https://example.org`.
    pub origins: Vec<String>,
    /// Bytes of a body at most.
    pub max_body: usize,
    /// How long a body may take, and how long nothing of it may come.
    pub body_time: Duration,
    /// See `body_time`.
    pub stall_time: Duration,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard {
            hosts: Vec::new(),
            origins: Vec::new(),
            max_body: 4 << 20,
            body_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(10),
        }
    }
}

impl Guard {
    /// The host that is called must be this machine's: an address, `localhost`, or a name that was configured. A name that
    /// somebody else has point here is none of these.
    fn host(&self, headers: &HeaderMap) -> Result<String, ApiError> {
        let forbidden = |message: String| ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", message);
        let mut hosts = headers.get_all(header::HOST).iter();
        // Of two, who looks at the other one would see another server.
        let host = hosts.next().filter(|_| hosts.next().is_none()).and_then(|host| host.to_str().ok());
        let host = host.ok_or_else(|| forbidden("Host: expected the name of this server, once".into()))?;
        let name = without_port(host);
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        if address
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
        {
            return Ok(host.to_owned());
        }
        Err(forbidden(format!(
            "Host: expected a name of this server, found {name:?}; --allow-host {name} lets it through"
        )))
    }

    /// Whether the page that asks, if a page asks, is this server's own. If not, the origin that may ask.
    fn origin<'a>(&self, headers: &'a HeaderMap, host: &str) -> Result<Option<&'a HeaderValue>, ApiError> {
        let Some(value) = headers.get(header::ORIGIN) else { return Ok(None) };
        let origin = value.to_str().unwrap_or_default();
        if origin
            .strip_prefix("http://")
            .or(origin.strip_prefix("https://"))
            .is_some_and(|of| of.eq_ignore_ascii_case(host))
        {
            return Ok(None);
        }
        if self.origins.iter().any(|known| known.eq_ignore_ascii_case(origin)) {
            return Ok(Some(value));
        }
        let message = format!("Origin: pages of {origin:?} may not ask this server; --allow-origin {origin} lets them");
        Err(ApiError::new(StatusCode::FORBIDDEN, "origin_not_allowed", message))
    }

    /// The whole body, if it comes in time and is not too large.
    async fn body(&self, body: Body) -> Result<Bytes, ApiError> {
        let too_slow = || ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", "the body did not come in time");
        let mut body = body;
        let mut bytes = Vec::new();
        let reading = async {
            loop {
                let frame = tokio::time::timeout(self.stall_time, body.frame()).await.map_err(|_| too_slow())?;
                let data = match frame {
                    None => return Ok(()),
                    Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                    Some(Err(error)) => {
                        let message = format!("the body could not be read: {error}");
                        return Err(ApiError::new(StatusCode::BAD_REQUEST, "body_broken", message));
                    }
                };
                if bytes.len() + data.len() > self.max_body {
                    let message =
                        format!("the body has more than {} bytes, the most that this server takes", self.max_body);
                    return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
                }
                bytes.extend_from_slice(&data);
            }
        };
        tokio::time::timeout(self.body_time, reading).await.map_err(|_| too_slow())??;
        Ok(bytes.into())
    }
}

/// `name:port` without the port; an IPv6 address keeps its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Lets a request through, or answers it.
pub async fn check(State((app, guard)): State<(Arc<App>, Arc<Guard>)>, request: Request, next: Next) -> Response {
    // A length beside chunks is passed over, and somebody in between may have gone by it: to him, what follows the last chunk
    // is the body, and here it would be another request.
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let endpoint = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let path = request.uri().path().to_owned();
    let passed = pass(&app, &guard, &endpoint, request, next).await;
    let mut response = passed.unwrap_or_else(|error| error.response_of(&path));
    if chunked {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    app.metrics.count(&endpoint, response.status().as_u16());
    response
}

async fn pass(
    app: &App,
    guard: &Guard,
    endpoint: &str,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let host = guard.host(request.headers())?;
    let origin = guard.origin(request.headers(), &host)?.cloned();
    if request.method() == Method::OPTIONS
        && let Some(origin) = &origin
    {
        return Ok(preflight(origin));
    }
    // Whoever may not ask is told before anything of the body is taken.
    if let Some(verified) = app.access.verify(request.headers(), endpoint)? {
        request.extensions_mut().insert(verified);
    }
    if request.method() == Method::POST && app.drains() {
        let message = "the server is shutting down";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message).retry_after(5));
    }
    let (parts, body) = request.into_parts();
    let body = guard.body(body).await?;
    let answer = next.run(Request::from_parts(parts, body.into()));
    // What panics is a fault of this program, and no reason to leave the client without a word.
    let mut response = AssertUnwindSafe(answer).catch_unwind().await.map_err(|_| {
        let message = "the server failed on this request; that is a fault of the program";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    })?;
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    Ok(response)
}

/// Tells a browser that pages of this origin may ask.
fn preflight(origin: &HeaderValue) -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()),
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE")),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type, x-api-key")),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
        (header::VARY, HeaderValue::from_static("Origin")),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_names_of_this_machine_are_called() {
        let guard = Guard { hosts: vec!["llama.example".into()], ..Guard::default() };
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]", "llama.example:80"] {
            assert!(guard.host(&headers(host, None)).is_ok(), "{host}");
        }
        for host in ["evil.test", "evil.test:8080", "localhost.evil.test", "127.0.0.1.evil.test", "localhost:80:80", ""]
        {
            assert!(guard.host(&headers(host, None)).is_err(), "{host}");
        }
        assert!(guard.host(&HeaderMap::new()).is_err());
    }

    #[test]
    fn pages_of_strangers_may_not_ask() {
        let guard = Guard { origins: vec!["https://app.example".into()], ..Guard::default() };
        let check = |origin: &str| {
            guard.origin(&headers("localhost:8080", Some(origin)), "localhost:8080").map(|o| o.is_some()).ok()
        };
        assert_eq!(check("http://localhost:8080"), Some(false));
        assert_eq!(check("https://app.example"), Some(true));
        for origin in
            ["http://localhost:3000", "http://evil.test", "null", "http://localhost:8080.evil.test", "file://"]
        {
            assert_eq!(check(origin), None, "{origin}");
        }
    }
}
