//! Errors as clients know them: a status, and a body in the shape of the API that was asked.

use crate::database;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use puna_session::Refusal;
use serde_json::{Value, json};

/// What went wrong with a request.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    /// A word for programs, in OpenAI's list where that has one.
    code: &'static str,
    message: String,
    /// The field of the request that is at fault.
    param: Option<String>,
    /// Seconds after which it is worth trying again.
    retry_after: Option<u64>,
}

impl ApiError {
    /// An error of this status.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, message: message.into(), param: None, retry_after: None }
    }

    /// A request that can't be answered as it is, because of this field.
    pub fn field(name: &str, message: impl std::fmt::Display) -> ApiError {
        let message = format!("{name}: {message}");
        ApiError { param: Some(name.to_owned()), ..ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", message) }
    }

    /// Says that it is about one of the values that a field has.
    #[must_use]
    pub fn at(self, name: &str, idx: usize) -> ApiError {
        ApiError { message: format!("{name}[{idx}]: {}", self.message), param: Some(name.to_owned()), ..self }
    }

    /// Says when it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> ApiError {
        self.retry_after = Some(seconds);
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// A word for programs.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// What went wrong, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// OpenAI's and Anthropic's name for the kind of error.
    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The body in OpenAI's shape.
    pub fn openai(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind(), "param": self.param, "code": self.code}})
    }

    /// The body in Anthropic's shape.
    pub fn anthropic(&self) -> Value {
        json!({"type": "error", "error": {"type": self.kind(), "message": self.message}})
    }

    /// The body in Ollama's shape.
    pub fn ollama(&self) -> Value {
        json!({"error": self.message})
    }

    /// A response in the shape of the API that has this path.
    pub fn response_of(&self, path: &str) -> Response {
        if path.starts_with("/v1/messages") {
            self.with_body(&self.anthropic())
        } else if path.starts_with("/api/") {
            self.with_body(&self.ollama())
        } else {
            self.with_body(&self.openai())
        }
    }

    /// A response with this body.
    pub fn with_body(&self, body: &Value) -> Response {
        let mut response = (self.status, axum::Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.with_body(&self.openai())
    }
}

impl From<puna_engine::Error> for ApiError {
    fn from(error: puna_engine::Error) -> ApiError {
        use puna_engine::Error;
        let message = error.to_string();
        match error {
            Error::Parameter { name, expected, found } => {
                let name = if name == "typical" { "typical_p" } else { name };
                ApiError::field(name, format!("expected {expected}, found {found}"))
            }
            Error::TooLong { found, context } => ApiError::new(
                StatusCode::BAD_REQUEST,
                "context_length_exceeded",
                format!("the prompt has {found} tokens: expected at most {context}, the context of this server"),
            ),
            Error::Constraint(_) => ApiError::new(StatusCode::BAD_REQUEST, "invalid_grammar", message),
            Error::Empty => ApiError::field("prompt", message),
            Error::Model(puna_llama::Error::Token { .. }) => ApiError::field("prompt", message),
            Error::NotFinite { .. } => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_nan", message),
            Error::Model(_) | Error::Kept { .. } => {
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_error", message)
            }
        }
    }
}

impl From<database::Error> for ApiError {
    fn from(error: database::Error) -> ApiError {
        let (status, code) = match &error {
            database::Error::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            database::Error::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid_value"),
            database::Error::Busy { .. } | database::Error::Locked { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "database_busy")
            }
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "database_error"),
        };
        ApiError::new(status, code, error.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let message = refusal.to_string();
        match refusal {
            Refusal::Bad(error) => error.into(),
            Refusal::Requests { .. } | Refusal::Tokens { .. } => {
                ApiError::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message).retry_after(1)
            }
            Refusal::Stopped => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "engine_stopped", message),
        }
    }
}
