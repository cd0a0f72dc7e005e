//! An answer on the page: asked of the API, rendered while it comes, and kept.

use super::page_shared::{Page, owner, path, said};
use crate::error::ApiError;
use crate::fields::{Field, Fields};
use crate::history::{self, MAX_TITLE, NewMessage};
use crate::page::markdown::{Growing, News};
use crate::page::{settings, view};
use crate::sse::{self, Events, Gone};
use crate::time::Time;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use http_body_util::BodyExt;
use puna_text::chat::Role;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What a question has.
pub const FIELDS: &[Field] = &[
    Field {
        name: "conversation",
        schema: r#"{"type": "string"}"#,
        about: "Which conversation goes on; a new one without it",
        example: "null",
    },
    Field {
        name: "parent",
        schema: r#"{"type": "integer"}"#,
        about: "The message that the question follows; without a question, the one that is answered anew",
        example: "null",
    },
    Field { name: "question", schema: r#"{"type": "string"}"#, about: "What is asked", example: r#""Hello!""# },
    Field { name: "system", schema: r#"{"type": "string"}"#, about: "Instructions for the model", example: "null" },
    Field {
        name: "settings",
        schema: r#"{"type": "object"}"#,
        about: "Fields of /v1/chat/completions",
        example: r#"{"temperature": 0}"#,
    },
];

/// The page is told of what is new no more often than that …
const TICK: Duration = Duration::from_millis(50);

/// … and rendering takes no more than this share of the time: what is computed here, the model lacks.
const SHARE: u32 = 10;

/// Characters of a title that is made from a question.
const TITLE: usize = 60;

/// Stops the answer in a conversation; what was said stays.
pub async fn stop(State(page): State<Arc<Page>>, Path(id): Path<String>, parts: Parts) -> StatusCode {
    page.running.stop(owner(&parts).as_ref(), &id);
    StatusCode::NO_CONTENT
}

/// Answers a question.
pub async fn create(State(page): State<Arc<Page>>, parts: Parts, body: Bytes) -> Result<Response, ApiError> {
    let mut fields = Fields::read(&body, &[FIELDS], &[])?;
    let conversation: Option<String> = fields.take("conversation")?;
    let parent: Option<u32> = fields.take("parent")?;
    let question: Option<String> = fields.take("question")?;
    let system: Option<String> = fields.take("system")?;
    let chosen: Map<String, Value> = fields.take("settings")?.unwrap_or_default();
    if let Some(name) = chosen.keys().find(|name| !settings::names().any(|known| known == name.as_str())) {
        return Err(ApiError::field("settings", format!("the page has no setting {name:?}")));
    }
    let known = match &conversation {
        Some(id) => page.messages(&parts, id.clone()).await?,
        None => Vec::new(),
    };
    let before = parent.map_or(Ok(Vec::new()), |parent| path(&known, parent))?;
    if question.is_none() && before.last().is_none_or(|last| last.role != Role::User) {
        return Err(ApiError::field("question", "expected a question, or a parent that is one, found neither"));
    }

    let mut messages = said(system.as_deref(), before.into_iter());
    messages.extend(question.as_ref().map(|text| json!({"role": "user", "content": text})));
    let mut ask = json!(chosen);
    ask["messages"] = messages.into();
    ask["stream"] = true.into();
    ask["stream_options"] = json!({"include_usage": true});
    let start = Instant::now();
    // What is refused leaves no trace.
    let response = page.ask(&parts, "/v1/chat/completions", &ask).await;
    if !response.status().is_success() {
        return Ok(response);
    }

    let model = chosen.get("model").and_then(Value::as_str).unwrap_or(&page.app.model.name).to_owned();
    let mut parameters = Value::Object(chosen);
    parameters["model"] = model.clone().into();
    parameters["system"] = json!(system);
    let (id, asked) = page
        .store(&parts, move |database, owner| {
            let now = Time::now();
            let id = match conversation {
                Some(id) => id,
                None => history::create(database, owner, &title(question.as_deref()), &model, now)?.id,
            };
            let Some(content) = question else { return Ok((id, parent)) };
            let new = NewMessage {
                parent,
                role: Role::User,
                content,
                time: now,
                parameters: Value::Null,
                tokens: None,
                timings: Value::Null,
            };
            let asked = history::append(database, owner, &id, &new)?;
            Ok((id, Some(asked)))
        })
        .await?;
    let stopped = page.running.begin(owner(&parts), id.clone());
    let answer = Answer { page, parts, id, asked, parameters, start };
    Ok(sse::stream(sse::EVENT_STREAM, |events| {
        // A task of its own: a stream that nobody reads any more is dropped at once, and what was said is still to be kept.
        let writing = tokio::spawn(answer.write(response.into_body(), stopped, events));
        async { writing.await.unwrap_or(Err(Gone)) }
    }))
}

/// The first words of a question.
fn title(question: Option<&str>) -> String {
    let line = question.unwrap_or_default().lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    if line.chars().count() <= TITLE {
        return line.to_owned();
    }
    let cut: String = line.chars().take(TITLE).collect();
    let words = cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words);
    let title = format!("{words} …");
    debug_assert!(title.chars().count() <= MAX_TITLE);
    title
}

/// An answer that is being made.
struct Answer {
    page: Arc<Page>,
    parts: Parts,
    id: String,
    /// The question.
    asked: Option<u32>,
    parameters: Value,
    start: Instant,
}

/// How an answer came to its end.
enum End {
    /// As the API says.
    Finished(String),
    /// By the person.
    Stopped,
    /// By an error.
    Failed(String),
}

/// What came of an answer.
#[derive(Default)]
struct Course {
    growing: Growing,
    first: Option<Duration>,
    n_tokens: Option<u32>,
    finish: Option<String>,
}

impl Answer {
    /// Tells the page of the answer while it comes, and keeps it, whole or not.
    async fn write(self, body: Body, stopped: oneshot::Receiver<()>, events: Events) -> Result<(), Gone> {
        let mut course = Course::default();
        let told = self.begun(&events).await;
        let end = match told {
            Ok(()) => self.follow(body, stopped, &events, &mut course).await,
            Err(Gone) => Ok(End::Stopped),
        };
        // Whoever went away finds what had been said when he comes back.
        let (end, is_there) = match end {
            Ok(end) => (end, true),
            Err(Gone) => (End::Stopped, false),
        };
        let kept = self.keep(course, &end).await;
        if !is_there {
            return Err(Gone);
        }
        match (kept, end) {
            (Err(error), _) => events.data(&json!({"error": error.message()})).await,
            (Ok(answer), End::Failed(error)) => events.data(&json!({"answer": answer, "error": error})).await,
            (Ok(answer), _) => events.data(&json!({"answer": answer})).await,
        }
    }

    /// Tells where the answer belongs, and shows the question.
    async fn begun(&self, events: &Events) -> Result<(), Gone> {
        let question = self.html(self.asked).await.unwrap_or_default();
        events.data(&json!({"conversation": self.id, "question": question})).await
    }

    /// A message as the page shows it.
    async fn html(&self, id: Option<u32>) -> Result<String, ApiError> {
        let messages = self.page.messages(&self.parts, self.id.clone()).await?;
        let message = messages.iter().find(|message| Some(message.id) == id);
        Ok(message.map(|message| view::message(&self.page.app, &messages, message).into_string()).unwrap_or_default())
    }

    /// Reads the answer to its end, or until it is stopped.
    async fn follow(
        &self,
        mut body: Body,
        mut stopped: oneshot::Receiver<()>,
        events: &Events,
        course: &mut Course,
    ) -> Result<End, Gone> {
        let (mut next, mut is_new) = (tokio::time::Instant::now(), false);
        // How long it took the time before: that it took longer once says something of the machine, not of the answer.
        let mut before = Duration::ZERO;
        loop {
            tokio::select! {
                _ = &mut stopped => return Ok(End::Stopped),
                () = events.closed() => return Err(Gone),
                frame = body.frame() => match frame {
                    Some(Ok(frame)) => match course.take(&frame.into_data().unwrap_or_default(), self.start.elapsed()) {
                        Ok(more) => is_new |= more,
                        Err(error) => return Ok(End::Failed(error)),
                    },
                    Some(Err(error)) => return Ok(End::Failed(error.to_string())),
                    None => return Ok(match course.finish.take() {
                        Some(finish) => End::Finished(finish),
                        None => End::Failed("the answer was broken off".to_owned()),
                    }),
                },
                () = tokio::time::sleep_until(next), if is_new => {
                    let begin = Instant::now();
                    let News { finished, open } = course.render().await;
                    let took = begin.elapsed();
                    next = tokio::time::Instant::now() + TICK.max(took.min(before) * SHARE);
                    before = took;
                    is_new = false;
                    events.data(&json!({"finished": finished, "open": open})).await?;
                }
            }
        }
    }

    /// Keeps what was said. The answer as the page shows it; nothing, where nothing was said.
    async fn keep(&self, course: Course, end: &End) -> Result<String, ApiError> {
        let Course { growing, first, n_tokens, .. } = course;
        let content = growing.into_text();
        if content.is_empty() && !matches!(end, End::Finished(_)) {
            return Ok(String::new());
        }
        let whole = self.start.elapsed();
        // An answer that did not come to its end was not counted.
        let tokens = n_tokens.unwrap_or_else(|| self.page.app.model.tokenizer.encode(&content).len() as u32);
        let end = match end {
            End::Finished(reason) => reason,
            End::Stopped => "stopped",
            End::Failed(_) => "failed",
        };
        let new = NewMessage {
            parent: self.asked,
            role: Role::Assistant,
            content,
            time: Time::now(),
            parameters: self.parameters.clone(),
            tokens: Some(tokens),
            timings: json!({
                "first_ms": first.map(|first| first.as_millis() as u64),
                "whole_ms": whole.as_millis() as u64,
                "end": end,
            }),
        };
        let id = self.id.clone();
        let kept = self.page.store(&self.parts, move |database, owner| history::append(database, owner, &id, &new));
        let kept = kept.await?;
        self.html(Some(kept)).await
    }
}

impl Course {
    /// Takes events of the API's stream; whether there is more text.
    fn take(&mut self, data: &[u8], elapsed: Duration) -> Result<bool, String> {
        let mut is_new = false;
        // Each event is one frame of the body, as `sse` writes them.
        for line in data.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(b"data: ")) {
            let Ok(event) = serde_json::from_slice::<Value>(line) else { continue };
            if let Some(error) = event["error"]["message"].as_str() {
                return Err(error.to_owned());
            }
            let choice = &event["choices"][0];
            if let Some(text) = choice["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
                self.first.get_or_insert(elapsed);
                self.growing.push(text);
                is_new = true;
            }
            if let Some(reason) = choice["finish_reason"].as_str() {
                self.finish = Some(reason.to_owned());
            }
            if let Some(n_tokens) = event["usage"]["completion_tokens"].as_u64() {
                self.n_tokens = u32::try_from(n_tokens).ok();
            }
        }
        Ok(is_new)
    }

    /// Renders what is new, beside the threads that hold connections.
    async fn render(&mut self) -> News {
        let mut growing = std::mem::take(&mut self.growing);
        let text = growing.text().to_owned();
        let rendering = tokio::task::spawn_blocking(move || {
            let news = growing.render();
            (growing, news)
        });
        match rendering.await {
            Ok((growing, news)) => {
                self.growing = growing;
                news
            }
            // A fault of the renderer costs what it looks like, and not what was said.
            Err(_) => {
                self.growing.push(&text);
                News::default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_the_first_words() {
        assert_eq!(title(Some("\n  Why is the sky blue?  \nTell me.")), "Why is the sky blue?");
        let long = title(Some(&"word ".repeat(40)));
        assert!(long.ends_with("word …") && long.chars().count() <= TITLE + 2, "{long}");
        assert!(title(Some(&"ä".repeat(400))).chars().count() <= MAX_TITLE);
    }

    #[test]
    fn events_of_the_api_are_read() {
        let mut course = Course::default();
        let event = |value: Value| format!("data: {value}\n\n").into_bytes();
        let text = event(json!({"choices": [{"delta": {"content": "a"}, "finish_reason": null}]}));
        assert_eq!(course.take(&text, Duration::from_secs(1)), Ok(true));
        assert_eq!(course.take(&text, Duration::from_secs(2)), Ok(true));
        let end = event(json!({"choices": [{"delta": {}, "finish_reason": "length"}]}));
        assert_eq!(course.take(&end, Duration::from_secs(3)), Ok(false));
        assert_eq!(course.take(b"data: [DONE]\n\n", Duration::from_secs(3)), Ok(false));
        let usage = event(json!({"choices": [], "usage": {"completion_tokens": 2}}));
        assert_eq!(course.take(&usage, Duration::from_secs(3)), Ok(false));
        let found = (course.first, course.n_tokens, course.finish.as_deref(), course.growing.text());
        assert_eq!(found, (Some(Duration::from_secs(1)), Some(2), Some("length"), "aa"));
        let error = event(json!({"error": {"message": "broken"}}));
        assert_eq!(course.take(&error, Duration::ZERO), Err("broken".to_owned()));
    }
}
