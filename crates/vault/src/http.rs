//! The one HTTP client: what it connects to, what it sends where, how long it waits, when it asks again.
//!
//! Redirects are followed here, hop by hop, since each is a decision: a token goes to the origin that it is for and
//! nowhere else, nothing goes from https to http, and no chain is endless. Parts of addresses that may be secret (user,
//! query) are in no message.

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, Method, Response, StatusCode};
use std::error::Error as _;
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use reqwest::Url;

/// More hops than any honest chain has.
const MAX_HOPS: usize = 10;

/// How the client behaves.
#[derive(Clone)]
pub struct Options {
    /// A PEM file of further certificates to trust, beside those of the system: for a company's proxy, or a mirror.
    pub extra_ca: Option<PathBuf>,
    /// Hosts to which plain http is allowed. This machine always is.
    pub plain_hosts: Vec<String>,
    /// How long a connection may take to be made.
    pub connect: Duration,
    /// How long an answer's headers, and each next piece of its body, may take.
    pub stall: Duration,
    /// How failures that may pass are waited out.
    pub patience: Patience,
    /// Told of each wait of [`Http::ask`].
    pub on_wait: Arc<dyn Fn(&Wait) + Send + Sync>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            extra_ca: None,
            plain_hosts: Vec::new(),
            connect: Duration::from_secs(20),
            stall: Duration::from_secs(30),
            patience: Patience::default(),
            on_wait: Arc::new(|_| ()),
        }
    }
}

/// How long failures that may pass are waited out.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// About how long the first wait is; each is twice the one before it.
    pub first: Duration,
    /// The longest wait that a server did not ask for.
    pub most: Duration,
    /// How long all waits together may be, since anything last went well.
    pub budget: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            first: Duration::from_millis(500),
            most: Duration::from_secs(30),
            // The hub counts requests in windows of five minutes.
            budget: Duration::from_secs(600),
        }
    }
}

/// Something is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// What went wrong.
    pub why: String,
    /// For how long.
    pub wait: Duration,
}

/// Counts the waits of one undertaking.
#[derive(Clone, Debug)]
pub struct Retry {
    patience: Patience,
    attempt: u32,
    waited: Duration,
}

impl Retry {
    /// Nothing has gone wrong yet.
    #[must_use]
    pub fn new(patience: Patience) -> Retry {
        Retry { patience, attempt: 0, waited: Duration::ZERO }
    }

    /// Something went well.
    pub fn reset(&mut self) {
        *self = Retry::new(self.patience);
    }

    /// How long to wait now that something went wrong, or `None` when that was too often. `asked` is what the server asks
    /// for; `random` are random bits, so that many clients do not come back at once.
    pub fn next(&mut self, asked: Option<Duration>, random: u64) -> Option<Duration> {
        let Patience { first, most, budget } = self.patience;
        let chance = random as f64 / u64::MAX as f64;
        let wait = match asked {
            Some(asked) => asked.saturating_add(first.mul_f64(chance)),
            None => {
                let doubled = first.saturating_mul(1 << self.attempt.min(20)).min(most);
                doubled.mul_f64(0.5 + 0.5 * chance)
            }
        };
        self.attempt += 1;
        self.waited = self.waited.checked_add(wait).filter(|waited| *waited <= budget)?;
        Some(wait)
    }
}

/// A secret that opens a server: never shown, never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(HeaderValue);

/// A text that is no [`Token`]. It does not say which text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a token of 1 to 4096 letters, digits and signs without spaces, found something else (not shown): copy it \
     again"
)]
pub struct TokenError;

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim();
        if text.is_empty() || text.len() > 4096 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError);
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| TokenError)?;
        value.set_sensitive(true);
        Ok(Token(value))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A token, and the one origin (scheme, host and port) that it may go to.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    token: Token,
    origin: reqwest::Url,
}

impl Credential {
    /// Binds a token to the origin of `url`.
    #[must_use]
    pub fn new(token: Token, url: &Url) -> Credential {
        Credential { token, origin: url.clone() }
    }

    fn is_for(&self, url: &Url) -> bool {
        self.origin.origin() == url.origin()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential(.. for {})", host(&self.origin))
    }
}

/// Which redirects are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hops {
    /// All that are safe.
    All,
    /// Those inside one origin, such as renames. The answer that leads elsewhere is given as it is.
    SameOrigin,
}

/// What is asked of a server.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Headers alone, without a body.
    pub head: bool,
    /// Where.
    pub url: &'a Url,
    /// Goes along to its own origin, until the first hop to another one.
    pub credential: Option<&'a Credential>,
    /// The first byte, and the one behind the last: not empty.
    pub range: Option<(u64, u64)>,
    /// Which redirects are followed.
    pub hops: Hops,
}

impl<'a> Request<'a> {
    /// All of what is at `url`, wherever that leads, without a token.
    #[must_use]
    pub fn get(url: &'a Url) -> Request<'a> {
        Request { head: false, url, credential: None, range: None, hops: Hops::All }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The certificates that the user gave are none, or TLS can't be set up.
    #[error("{path}: not a PEM file of certificates: {why}")]
    Certificates {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The client can't be made.
    #[error("the HTTP client can't be set up: {0}")]
    Client(String),
    /// Neither http nor https.
    #[error("expected an address of http or https with a host, found {0}")]
    Scheme(String),
    /// http to another machine.
    #[error(
        "{url}: everybody on the way could read and change what comes by plain http; use https, or allow plain http to {host} in the configuration"
    )]
    Plain {
        /// Where.
        url: String,
        /// The host.
        host: String,
    },
    /// From https to http.
    #[error("{from} redirects from https to plain http ({to}): refused")]
    Downgrade {
        /// Who redirects.
        from: String,
        /// Where to.
        to: String,
    },
    /// A redirect that leads nowhere.
    #[error("{from} redirects to something that is no address")]
    Location {
        /// Who redirects.
        from: String,
    },
    /// A redirect that leads back, or one more than any honest chain has.
    #[error("{from}: redirects go round in a circle, or are more than {MAX_HOPS}")]
    Loop {
        /// Where the chain began.
        from: String,
    },
    /// No connection.
    #[error("no connection to {host}: {why}")]
    Connect {
        /// Which host.
        host: String,
        /// Why not.
        why: String,
    },
    /// TLS failed.
    #[error(
        "no secure connection to {host}: {why}; if the certificate is said to be expired or not valid yet, look at this \
         machine's clock, and behind a proxy of your own name its certificate"
    )]
    Tls {
        /// Which host.
        host: String,
        /// Why not.
        why: String,
    },
    /// Nothing came.
    #[error("{host} sent nothing for {} s", .after.as_secs_f32())]
    Stall {
        /// Which host.
        host: String,
        /// For how long.
        after: Duration,
    },
    /// The connection broke.
    #[error("the connection to {host} broke: {why}")]
    Broken {
        /// Which host.
        host: String,
        /// How.
        why: String,
    },
    /// A body that should be short is not.
    #[error("{url}: expected at most {limit} bytes, found more")]
    TooLong {
        /// Of what.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// It was asked again and again in vain.
    #[error("gave up: {last}")]
    GaveUp {
        /// What went wrong the last time.
        last: String,
    },
}

impl HttpError {
    /// Whether the same request may go well later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, HttpError::Connect { .. } | HttpError::Stall { .. } | HttpError::Broken { .. })
    }
}

/// The client.
#[derive(Clone)]
pub struct Http {
    client: Client,
    options: Options,
    date: Arc<Mutex<Option<ServerDate>>>,
}

/// What a server's clock showed when it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerDate {
    /// The header `Date`.
    pub date: String,
    /// How much this machine's clock was ahead, in seconds.
    pub ahead: i64,
}

impl ServerDate {
    fn of(answer: &Answer) -> Option<ServerDate> {
        /// Of the one form that is sent. (RFC 9110, section 5.6.7.)
        const LEN: usize = "Sun, 06 Nov 1994 08:49:37 GMT".len();
        // Out of a cache it is the date when the answer came in there.
        let is_fresh = answer.header("age").is_none();
        let date = answer.header("date").filter(|date| is_fresh && date.len() == LEN)?;
        let here = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(ServerDate { date: date.to_owned(), ahead: i64::try_from(here).ok()? - http_date(date)? })
    }
}

impl Http {
    /// Sets the client up: TLS by rustls with what the system trusts, proxies as the environment says.
    ///
    /// # Errors
    /// When the file of further certificates is none, or the system's can't be read.
    pub fn new(options: Options) -> Result<Http, HttpError> {
        // There may be one already: then that one is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("puna/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(options.connect);
        if let Some(path) = &options.extra_ca {
            let error = |why: String| HttpError::Certificates { path: path.clone(), why };
            let pem = std::fs::read(path).map_err(|source| error(source.to_string()))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|source| error(causes(&source)))?;
            if certificates.is_empty() {
                return Err(error("there is none in it".to_owned()));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().map_err(|source| HttpError::Client(causes(&source)))?;
        Ok(Http { client, options, date: Arc::default() })
    }

    /// How failures are waited out.
    #[must_use]
    pub fn patience(&self) -> Patience {
        self.options.patience
    }

    /// The clock of the server that answered last, of those that tell theirs.
    #[must_use]
    pub fn server_date(&self) -> Option<ServerDate> {
        self.date.lock().expect("nothing panics with it").clone()
    }

    /// Asks once.
    ///
    /// # Errors
    /// Without an answer. An answer of any status is one.
    pub async fn send(&self, request: &Request<'_>) -> Result<Answer, HttpError> {
        let mut url = request.url.clone();
        let mut credential = request.credential;
        let mut seen = vec![url.clone()];
        loop {
            self.check(&url)?;
            // Once dropped it stays so, wherever the chain leads.
            credential = credential.filter(|credential| credential.is_for(&url));
            let answer = self.hop(request, &url, credential).await?;
            if !matches!(answer.status(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let next = answer.location()?;
            if request.hops == Hops::SameOrigin && next.origin() != url.origin() {
                return Ok(answer);
            }
            if url.scheme() == "https" && next.scheme() == "http" {
                return Err(HttpError::Downgrade { from: shown(&url), to: shown(&next) });
            }
            if seen.len() > MAX_HOPS || seen.contains(&next) {
                return Err(HttpError::Loop { from: shown(request.url) });
            }
            seen.push(next.clone());
            url = next;
        }
    }

    /// Asks until there is an answer that is not a failure which may pass, or patience ends. Denials (400 to 499, but for
    /// 408 and 429) are answers.
    ///
    /// # Errors
    /// As [`Http::send`], and when it gave up.
    pub async fn ask(&self, request: &Request<'_>) -> Result<Answer, HttpError> {
        let mut retry = Retry::new(self.options.patience);
        loop {
            let (why, asked) = match self.send(request).await {
                Ok(answer) if !answer.may_pass() => return Ok(answer),
                Ok(answer) => (answer.to_string(), answer.asked_to_wait()),
                Err(error) if error.may_pass() => (error.to_string(), None),
                Err(error) => return Err(error),
            };
            let Some(wait) = retry.next(asked, random()) else {
                return Err(HttpError::GaveUp { last: why });
            };
            (self.options.on_wait)(&Wait { why, wait });
            tokio::time::sleep(wait).await;
        }
    }

    /// A short file, such as the text of a licence. `None` where there is none, or a page in its place.
    ///
    /// # Errors
    /// As [`Http::ask`], and when it is longer than `limit` bytes.
    pub async fn text(&self, url: &Url, limit: u64) -> Result<Option<Vec<u8>>, HttpError> {
        let mut answer = self.ask(&Request::get(url)).await?;
        if answer.status() != 200 || answer.content_type().as_deref() == Some("text/html") {
            return Ok(None);
        }
        answer.body(limit).await.map(Some)
    }

    fn check(&self, url: &Url) -> Result<(), HttpError> {
        let Some(name) = url.host_str() else {
            return Err(HttpError::Scheme(shown(url)));
        };
        match url.scheme() {
            "https" => Ok(()),
            "http" if is_this_machine(url) || self.options.plain_hosts.iter().any(|allowed| allowed == name) => Ok(()),
            "http" => Err(HttpError::Plain { url: shown(url), host: name.to_owned() }),
            _ => Err(HttpError::Scheme(shown(url))),
        }
    }

    async fn hop(&self, request: &Request<'_>, url: &Url, to: Option<&Credential>) -> Result<Answer, HttpError> {
        let method = if request.head { Method::HEAD } else { Method::GET };
        let mut headers = HeaderMap::new();
        // Hashes and ranges are of the bytes as they are.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(credential) = to {
            headers.insert(header::AUTHORIZATION, credential.token.0.clone());
        }
        if let Some((from, to)) = request.range {
            let range = HeaderValue::from_str(&format!("bytes={from}-{}", to - 1)).expect("digits");
            headers.insert(header::RANGE, range);
        }
        let sent = self.client.request(method, url.clone()).headers(headers).send();
        let stall = self.options.stall;
        let response = match tokio::time::timeout(stall.saturating_add(self.options.connect), sent).await {
            Err(_) => return Err(HttpError::Stall { host: host(url), after: stall }),
            Ok(Err(error)) => return Err(classify(url, &error, self.options.connect)),
            Ok(Ok(response)) => response,
        };
        let answer = Answer { response, url: url.clone(), stall };
        if let Some(date) = ServerDate::of(&answer) {
            *self.date.lock().expect("nothing panics with it") = Some(date);
        }
        Ok(answer)
    }
}

/// A server's answer.
pub struct Answer {
    response: Response,
    url: Url,
    stall: Duration,
}

impl Answer {
    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Where it came from in the end.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// A header, if it is there and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// All values of a header.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// Where it redirects to.
    ///
    /// # Errors
    /// When that is no address.
    pub fn location(&self) -> Result<Url, HttpError> {
        let location = self.header("location").and_then(|location| self.url.join(location).ok());
        location.ok_or_else(|| HttpError::Location { from: shown(&self.url) })
    }

    /// Whether it says that the same request may go well later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self.status(), 408 | 429 | 500..=599)
    }

    /// How long the server asks to wait: `Retry-After`, or the time until a window of `RateLimit` ends.
    #[must_use]
    pub fn asked_to_wait(&self) -> Option<Duration> {
        let limited = || self.header("ratelimit").filter(|_| self.status() == 429).and_then(window);
        self.header("retry-after").and_then(|value| retry_after(value, self.header("date"))).or_else(limited)
    }

    /// What the body is said to be: `text/html`, without parameters.
    #[must_use]
    pub fn content_type(&self) -> Option<String> {
        let (kind, _) = self.header("content-type").map(|value| value.split_once(';').unwrap_or((value, "")))?;
        Some(kind.trim().to_ascii_lowercase())
    }

    /// The next piece of the body, `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks, or nothing comes.
    pub async fn chunk(&mut self) -> Result<Option<impl Deref<Target = [u8]> + Send + use<>>, HttpError> {
        match tokio::time::timeout(self.stall, self.response.chunk()).await {
            Err(_) => Err(HttpError::Stall { host: host(&self.url), after: self.stall }),
            Ok(Err(error)) => Err(HttpError::Broken { host: host(&self.url), why: causes(&error) }),
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }

    /// The whole body, which should be short.
    ///
    /// # Errors
    /// As [`Answer::chunk`], and when it is longer than `limit` bytes.
    pub async fn body(&mut self, limit: u64) -> Result<Vec<u8>, HttpError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(HttpError::TooLong { url: shown(&self.url), limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.response.status();
        write!(f, "{} answered {}", host(&self.url), status.as_u16())?;
        match StatusCode::canonical_reason(&status) {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// An address without what may be secret in it.
#[must_use]
pub fn shown(url: &Url) -> String {
    match url.host_str() {
        Some(_) => format!("{}://{}{}", url.scheme(), host(url), url.path()),
        None => format!("{}:..", url.scheme()),
    }
}

/// Host and port.
#[must_use]
pub fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("no host");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether an address is of this machine.
#[must_use]
pub fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Random bits for [`Retry::next`].
#[must_use]
pub fn random() -> u64 {
    // Without randomness clients wait equally long, no more.
    getrandom::u64().unwrap_or_default()
}

fn classify(url: &Url, error: &reqwest::Error, connect: Duration) -> HttpError {
    let host = host(url);
    let why = causes(error);
    if error.is_timeout() {
        return HttpError::Stall { host, after: connect };
    }
    // The chain ends in rustls's error, which is no public type of reqwest's.
    if why.contains("certificate") || why.contains("TLS") {
        return HttpError::Tls { host, why };
    }
    if error.is_connect() { HttpError::Connect { host, why } } else { HttpError::Broken { host, why } }
}

/// An error's causes without its address, which may hold a signature.
fn causes(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next.filter(|_| parts.len() < 8) {
        let part = cause.to_string();
        // Some print those below them, too.
        if parts.last().is_none_or(|last| !last.contains(&part)) {
            parts.push(part);
        }
        next = cause.source();
    }
    if parts.is_empty() {
        parts.push(if error.is_timeout() { "it took too long".to_owned() } else { "unknown cause".to_owned() });
    }
    parts.join(": ")
}

/// Seconds until `Retry-After`, a number or a date; the latter counts from the server's own date.
/// (RFC 9110, section 10.2.3.)
fn retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let seconds = http_date(value)?.checked_sub(http_date(date?)?)?;
    Some(Duration::from_secs(seconds.try_into().unwrap_or(0)))
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`. (RFC 9110, section 5.6.7.)
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let parts: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = parts[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let date = puna_text::Date::new(year.parse().ok()?, month as u8, day.parse().ok()?)?;
    let numbers: Vec<i64> =
        time.split(':').map(|part| part.parse::<u8>().ok().map(i64::from)).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = numbers[..] else {
        return None;
    };
    Some(date.days() * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

/// The seconds `t` of a `RateLimit` header: `"api";r=0;t=42`.
fn window(value: &str) -> Option<Duration> {
    let seconds = value.split([';', ',']).find_map(|part| part.trim().strip_prefix("t=")?.parse::<u32>().ok())?;
    Some(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_not_shown() {
        let token: Token = " hf_secret\n".parse().unwrap();
        let url = Url::parse("https://user:word@hub.test:8443/a?Signature=secret").unwrap();
        let credential = Credential::new(token.clone(), &url);
        assert_eq!(format!("{token:?} {credential:?}"), "Token(..) Credential(.. for hub.test:8443)");
        assert_eq!(shown(&url), "https://hub.test:8443/a");
        assert_eq!(shown(&Url::parse("data:secret").unwrap()), "data:..");
        for text in ["", " ", "a b", "a\nb", "é"] {
            assert_eq!(text.parse::<Token>(), Err(TokenError));
        }
    }

    #[test]
    fn a_token_is_for_one_origin() {
        let url = |text| Url::parse(text).unwrap();
        let credential = Credential::new("t".parse().unwrap(), &url("https://hub.test/x"));
        assert!(credential.is_for(&url("https://hub.test:443/y?z")));
        for other in ["http://hub.test/x", "https://hub.test:444/x", "https://a.hub.test/x", "https://hub.test.evil/"] {
            assert!(!credential.is_for(&url(other)), "{other}");
        }
    }

    #[test]
    fn addresses_of_this_machine() {
        for (url, expected) in [
            ("http://127.0.0.1:1/", true),
            ("http://[::1]/", true),
            ("http://localhost/", true),
            ("http://127.0.0.1.evil.test/", false),
            ("http://localhost.evil.test/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(is_this_machine(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn where_it_connects() {
        let http = Http::new(Options { plain_hosts: vec!["mirror.test".to_owned()], ..Options::default() }).unwrap();
        let check = |url: &str| http.check(&Url::parse(url).unwrap());
        for url in ["https://hub.test/", "http://mirror.test:8080/", "http://[::1]/", "http://localhost/"] {
            assert!(check(url).is_ok(), "{url}");
        }
        assert!(matches!(check("http://hub.test/?secret"), Err(HttpError::Plain { .. })));
        assert!(matches!(check("http://a.mirror.test/"), Err(HttpError::Plain { .. })));
        assert!(matches!(check("file:///etc/passwd"), Err(HttpError::Scheme(_))));
        assert!(matches!(check("ftp://hub.test/"), Err(HttpError::Scheme(_))));
    }

    #[test]
    fn waits() {
        let patience =
            Patience { first: Duration::from_secs(1), most: Duration::from_secs(8), budget: Duration::from_secs(30) };
        let mut retry = Retry::new(patience);
        let waits: Vec<u64> = std::iter::from_fn(|| retry.next(None, u64::MAX)).map(|wait| wait.as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 8]);
        retry.reset();
        assert_eq!(retry.next(None, 0), Some(Duration::from_millis(500)));
        assert_eq!(retry.next(Some(Duration::from_secs(20)), 0), Some(Duration::from_secs(20)));
        assert_eq!(retry.next(Some(Duration::from_secs(20)), 0), None);
        assert_eq!(retry.next(Some(Duration::MAX), 7), None);
    }

    #[test]
    fn how_long_a_server_asks_to_wait() {
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(retry_after("120", None), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:50:00 GMT", date), Some(Duration::from_secs(23)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:00 GMT", date), Some(Duration::ZERO));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:00 GMT", None), None);
        assert_eq!(window("\"resolvers\";r=0;t=42"), Some(Duration::from_secs(42)));
        for value in ["", "-1", "x", "99999999999999", "\"api\";r=0", "t=x"] {
            assert_eq!(retry_after(value, date), None, "{value}");
            assert_eq!(window(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_header_is_too_odd(value in "[ -~]{0,40}") {
            let _ = (retry_after(&value, Some(&value)), window(&value), http_date(&value));
        }
    }
}
