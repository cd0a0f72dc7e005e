//! From a prompt to the pieces of its answer: the one way from every API to the engine.

use crate::app::App;
use crate::error::ApiError;
use axum::http::StatusCode;
use puna_engine::{Constraint, Event, Finish, Limits, PromptScores, Request, Sampling, Scored};
use puna_session::{AnswerText, Ticket, random_seed};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Events that may wait for a reader; who is slower loses the rest of the answer.
const BUFFER: usize = 1024;

/// A prompt, and how it is to be answered.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// How to sample.
    pub sampling: Sampling,
    /// Tokens at most; none for as many as the context has room for.
    pub max_tokens: Option<usize>,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// Goes on after the model's own end tokens.
    pub ignore_end: bool,
    /// What the answer may look like.
    pub constraint: Option<Box<dyn Constraint>>,
    /// Which adapter sees it.
    pub adapter: Option<u32>,
    /// Most probable tokens that are named with each.
    pub top: usize,
    /// Whether the prompt is scored.
    pub prompt_scores: Option<PromptScores>,
    /// Whether the mean of the prompt's hidden states is wanted, and no answer; [`pool`] sets it.
    pub pool: bool,
}

impl Ask {
    /// A prompt that is answered until the model ends.
    pub fn new(prompt: Vec<u32>, sampling: Sampling, adapter: Option<u32>) -> Ask {
        Ask {
            prompt,
            sampling,
            max_tokens: None,
            stop: Vec::new(),
            ignore_end: false,
            constraint: None,
            adapter,
            top: 0,
            prompt_scores: None,
            pool: false,
        }
    }
}

/// A piece of an answer.
#[derive(Debug)]
pub enum Piece {
    /// So many tokens of the prompt were in the cache; the prompt is being computed.
    Begun {
        /// Tokens from the cache.
        cached: usize,
    },
    /// The score of the prompt's next token.
    PromptScore(Scored),
    /// A token, and what it adds to the text.
    Token(String, Scored),
    /// The end, and what was held back of the text.
    End(String, Reason),
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// By one of the model's end tokens, or the request's.
    EndToken,
    /// Before this text of the request.
    StopText(String),
    /// By the limit of tokens, or of the context.
    Length,
}

impl Reason {
    /// OpenAI's word.
    pub fn openai(&self) -> &'static str {
        match self {
            Reason::EndToken | Reason::StopText(_) => "stop",
            Reason::Length => "length",
        }
    }
}

/// Answers that are being made: `(which ask, piece)`. Dropped, it ends them all.
pub type Pieces = mpsc::Receiver<(usize, Result<Piece, ApiError>)>;

/// Begins to answer several prompts.
///
/// # Errors
/// When one of them can't be answered, or not now; then none is.
pub fn start(app: &Arc<App>, asks: Vec<Ask>) -> Result<Pieces, ApiError> {
    let answers = asks.into_iter().map(|ask| Answering::submit(app, ask)).collect::<Result<Vec<_>, _>>()?;
    let (send, receive) = mpsc::channel(BUFFER);
    for (idx, answering) in answers.into_iter().enumerate() {
        let (app, send) = (app.clone(), send.clone());
        tokio::spawn(async move { answering.forward(&app, idx, &send).await });
    }
    Ok(receive)
}

/// Begins to compute the mean of the final hidden states of a prompt's tokens. The future gives it; dropped, it ends that.
///
/// # Errors
/// When the prompt can't be computed, or not now.
pub fn pool(app: &App, ask: Ask) -> Result<impl Future<Output = Result<Vec<f32>, ApiError>>, ApiError> {
    let mut answering = Answering::submit(app, Ask { max_tokens: Some(0), pool: true, ..ask })?;
    Ok(async move {
        let mean = loop {
            match answering.events.recv().await {
                Some(Event::Pooled(mean)) => break Ok(mean),
                Some(Event::Failed(error)) => break Err(error.into()),
                Some(_) => {}
                None => break Err(broken_off()),
            }
        };
        app.metrics.whole.observe(answering.start.elapsed().as_secs_f64());
        mean
    })
}

/// The engine's side was dropped: the engine died, or this reader was too slow for it.
fn broken_off() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "stream_dropped",
        "the answer was broken off: its reader was too slow, or the engine has stopped",
    )
}

/// One answer that is being made.
struct Answering {
    events: mpsc::Receiver<Event>,
    _ticket: Ticket,
    stop: Vec<String>,
    stop_tokens: Vec<u32>,
    start: Instant,
}

impl Answering {
    fn submit(app: &App, ask: Ask) -> Result<Answering, ApiError> {
        if ask.ignore_end && ask.constraint.is_some() {
            return Err(ApiError::field("ignore_eos", "expected false: the grammar says where the answer ends"));
        }
        // A text that names a special token means the token: it never appears in the text.
        let special = |text: &String| app.model.tokenizer.special(text);
        let mut stop_tokens: Vec<u32> = ask.stop.iter().filter_map(special).collect();
        let stop = ask.stop.into_iter().filter(|text| special(text).is_none()).collect();
        if !ask.ignore_end {
            stop_tokens.extend(&app.model.stop_tokens);
        }
        // All scores of a prompt may come before the reader is let run.
        let buffer = BUFFER + if ask.prompt_scores.is_some() { ask.prompt.len() } else { 0 };
        let (send, events) = mpsc::channel(buffer);
        let limits = Limits { max_tokens: ask.max_tokens.unwrap_or(usize::MAX), stop_tokens: stop_tokens.clone() };
        let request = Request {
            seed: random_seed(),
            constraint: ask.constraint,
            adapter: ask.adapter,
            top: ask.top,
            prompt_scores: ask.prompt_scores,
            pool: ask.pool,
            ..Request::new(ask.prompt, ask.sampling, limits)
        };
        let ticket = app.model.service.submit(request, Box::new(move |event| send.try_send(event).is_ok()))?;
        Ok(Answering { events, _ticket: ticket, stop, stop_tokens, start: Instant::now() })
    }

    /// Makes pieces of the events until the end, or until nobody listens.
    async fn forward(mut self, app: &App, idx: usize, send: &mpsc::Sender<(usize, Result<Piece, ApiError>)>) {
        let mut text = AnswerText::new(&app.model.tokenizer, &self.stop, self.stop_tokens.clone(), false);
        let mut last = None;
        loop {
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = send.closed() => return,
            };
            let piece = match event {
                Some(Event::Prefill { cached, done, total }) if done == total => Ok(Piece::Begun { cached }),
                Some(Event::Prefill { .. } | Event::Pooled(_)) => continue,
                Some(Event::PromptScore { score, .. }) => Ok(Piece::PromptScore(score)),
                Some(Event::Token(scored)) => {
                    let now = Instant::now();
                    match last.replace(now) {
                        None => app.metrics.first_token.observe((now - self.start).as_secs_f64()),
                        Some(before) => app.metrics.next_token.observe((now - before).as_secs_f64()),
                    }
                    let (piece, stopped) = text.push(scored.token.id);
                    if stopped {
                        let reason = Reason::StopText(text.stop_string().unwrap_or_default().to_owned());
                        let token = send.send((idx, Ok(Piece::Token(piece, scored)))).await;
                        if token.is_ok() {
                            // Nobody listens: then nobody needs the end.
                            let _ = send.send((idx, Ok(Piece::End(String::new(), reason)))).await;
                        }
                        return;
                    }
                    Ok(Piece::Token(piece, scored))
                }
                Some(Event::Finished(finish)) => {
                    let rest = text.finish();
                    let reason = match (finish, text.stop_string()) {
                        (Finish::Stop(_), _) => Reason::EndToken,
                        (_, Some(stop)) => Reason::StopText(stop.to_owned()),
                        (Finish::Length | Finish::Context, None) => Reason::Length,
                    };
                    Ok(Piece::End(rest, reason))
                }
                Some(Event::Failed(error)) => Err(error.into()),
                None => Err(broken_off()),
            };
            let ends = matches!(piece, Ok(Piece::End(..)) | Err(_));
            if ends {
                app.metrics.whole.observe(self.start.elapsed().as_secs_f64());
            }
            if send.send((idx, piece)).await.is_err() || ends {
                return;
            }
        }
    }
}
