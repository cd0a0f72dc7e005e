//! From a prompt to the pieces of its answer: the one way from every API to the engine.

use crate::access::Caller;
use crate::app::App;
use crate::builtin::Step;
use crate::error::ApiError;
use crate::meter::Meter;
use axum::http::StatusCode;
use puna_engine::{Constraint, Event, Finish, Limits, PromptScores, Request, Sampling, Scope, Scored};
use puna_session::{AnswerText, Ticket, random_seed};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Events of the engine that may wait to be made into pieces; who is slower loses the rest of the answer.
const EVENTS: usize = 8192;

/// Pieces that may wait for a reader.
const PIECES: usize = 1024;

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
    /// Whether the mean of the prompt's hidden states is wanted, and no answer; [`Pooling`] sets it.
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
#[derive(Clone, Debug)]
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
    /// What a tool does for the answer.
    Tool(Step),
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
    /// By the limit of calls of tools, or of their time.
    Tools,
}

impl Reason {
    /// OpenAI's word.
    pub fn openai(&self) -> &'static str {
        match self {
            Reason::EndToken | Reason::StopText(_) => "stop",
            Reason::Length | Reason::Tools => "length",
        }
    }
}

/// Answers that are being made: `(which ask, piece)`. Dropped, it ends them all.
pub type Pieces = mpsc::Receiver<(usize, Result<Piece, ApiError>)>;

/// Begins to answer several prompts, all for one caller, with one adapter or none. They are taken one by one, so that no more
/// of them are ever made than are let in.
///
/// # Errors
/// When one of them can't be answered, or not now; then none is.
pub fn start(app: &Arc<App>, caller: Caller, asks: impl IntoIterator<Item = Ask>) -> Result<Pieces, ApiError> {
    let mut asks = asks.into_iter().peekable();
    let request = Metered::new(app, caller, asks.peek().and_then(|ask| ask.adapter));
    let pieces = request.start(asks).inspect_err(|error| request.refuse(error))?;
    request.complete();
    Ok(pieces)
}

/// A request that is answered in rounds, and counts as one.
pub struct Metered {
    app: Arc<App>,
    meter: Arc<Meter>,
    scope: Scope,
}

impl Metered {
    /// Of a caller who asks the model with one adapter, or none.
    pub fn new(app: &Arc<App>, caller: Caller, adapter: Option<u32>) -> Metered {
        let scope = app.access.scope(&caller);
        Metered { app: app.clone(), meter: Meter::new(app, caller, adapter), scope }
    }

    /// Begins a round, as [`start`] does.
    ///
    /// # Errors
    /// As there; then none of the round is answered.
    pub fn start(&self, asks: impl IntoIterator<Item = Ask>) -> Result<Pieces, ApiError> {
        let submit = |ask: Ask| {
            let number = self.meter.admit(&ask.prompt, ask.max_tokens)?;
            Answering::submit(&self.app, &self.meter, self.scope, number, ask)
        };
        let answers = asks.into_iter().map(submit).collect::<Result<Vec<_>, ApiError>>()?;
        let (send, receive) = mpsc::channel(PIECES);
        for (idx, answering) in answers.into_iter().enumerate() {
            let (app, send) = (self.app.clone(), send.clone());
            tokio::spawn(async move { answering.forward(&app, idx, &send).await });
        }
        Ok(receive)
    }

    /// There is no further round.
    pub fn complete(&self) {
        self.meter.complete();
    }

    /// Ends the request with an error.
    pub fn refuse(&self, error: &ApiError) {
        self.meter.refuse(error);
    }
}

/// Means of hidden states that are computed for one caller, with one adapter or none.
pub struct Pooling<'a> {
    app: &'a App,
    meter: Arc<Meter>,
    scope: Scope,
    adapter: Option<u32>,
}

impl<'a> Pooling<'a> {
    /// Lets in some prompts, no two of them equal; none of them is computed yet.
    ///
    /// # Errors
    /// When the caller may not ask this, or not now.
    pub fn new(
        app: &'a App,
        caller: Caller,
        prompts: &[Vec<u32>],
        adapter: Option<u32>,
    ) -> Result<Pooling<'a>, ApiError> {
        let scope = app.access.scope(&caller);
        let meter = Meter::new(app, caller, adapter);
        let admitted = prompts.iter().try_for_each(|prompt| meter.admit(prompt, Some(0)).map(drop));
        admitted.inspect_err(|error| meter.refuse(error))?;
        meter.complete();
        Ok(Pooling { app, meter, scope, adapter })
    }

    /// Begins to compute the mean of the hidden states of the prompt that was let in under this number. The future gives
    /// it; dropped, it ends that.
    ///
    /// # Errors
    /// When the prompt can't be computed, or not now.
    pub fn begin(
        &self,
        idx: usize,
        prompt: Vec<u32>,
    ) -> Result<impl Future<Output = Result<Vec<f32>, ApiError>> + use<'a>, ApiError> {
        let app = self.app;
        let ask = Ask { max_tokens: Some(0), pool: true, ..Ask::new(prompt, Sampling::default(), self.adapter) };
        let answering = Answering::submit(app, &self.meter, self.scope, idx, ask)?;
        Ok(async move {
            // The whole of it is held, the ticket too: without that the request would end.
            let mut answering = answering;
            let mut mean = Vec::new();
            let result = loop {
                match answering.events.recv().await {
                    Some(Event::Pooled(pooled)) => mean = pooled,
                    Some(Event::Finished(_)) => break Ok(mean),
                    Some(Event::Failed(error)) => break Err(error.into()),
                    Some(_) => {}
                    None => break Err(broken_off()),
                }
            };
            app.metrics.whole.observe(answering.start.elapsed().as_secs_f64());
            result
        })
    }

    /// Ends them all, because one of them could not be computed.
    pub fn refuse(self, error: ApiError) -> ApiError {
        self.meter.refuse(&error);
        error
    }
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
    meter: Arc<Meter>,
    /// Its number there.
    number: usize,
    stop: Vec<String>,
    stop_tokens: Vec<u32>,
    start: Instant,
}

impl Answering {
    fn submit(app: &App, meter: &Arc<Meter>, scope: Scope, number: usize, ask: Ask) -> Result<Answering, ApiError> {
        if ask.ignore_end && ask.constraint.is_some() {
            return Err(ApiError::field("ignore_eos", "expected false: the grammar says where the answer ends"));
        }
        // A text that names a special token means the token: it never appears in the text.
        let special = |text: &String| app.model.tokenizer.special(text);
        let mut stop_tokens: Vec<u32> = ask.stop.iter().filter_map(special).collect();
        let stop: Vec<String> = ask.stop.into_iter().filter(|text| special(text).is_none()).collect();
        if !ask.ignore_end {
            stop_tokens.extend(&app.model.stop_tokens);
        }
        // All scores of a prompt may come before the reader is let run.
        let buffer = EVENTS + if ask.prompt_scores.is_some() { ask.prompt.len() } else { 0 };
        let (send, events) = mpsc::channel(buffer);
        let limits = Limits { max_tokens: ask.max_tokens.unwrap_or(usize::MAX), stop_tokens: stop_tokens.clone() };
        let request = Request {
            seed: random_seed(),
            scope,
            constraint: ask.constraint,
            adapter: ask.adapter,
            top: ask.top,
            prompt_scores: ask.prompt_scores,
            pool: ask.pool,
            ..Request::new(ask.prompt, ask.sampling, limits)
        };
        let counted = meter.clone();
        // An answer that may end before one of its request's texts has the tokens that its reader says: the engine may
        // have made more by then, to its own end even.
        let reader_ends = !stop.is_empty();
        let sink = move |event| {
            if !(reader_ends && matches!(event, Event::Finished(_) | Event::Failed(_))) {
                counted.note(number, &event);
            }
            send.try_send(event).is_ok()
        };
        let ticket = app.model.service.submit(request, Box::new(sink))?;
        let (meter, start) = (meter.clone(), Instant::now());
        Ok(Answering { events, _ticket: ticket, meter, number, stop, stop_tokens, start })
    }

    /// Makes pieces of the events until the end, or until nobody listens.
    async fn forward(mut self, app: &App, idx: usize, send: &mpsc::Sender<(usize, Result<Piece, ApiError>)>) {
        let mut text = AnswerText::new(&app.model.tokenizer, &self.stop, self.stop_tokens.clone(), false);
        let mut last = None;
        let mut n_tokens = 0;
        loop {
            let event = tokio::select! {
                event = self.events.recv() => event,
                () = send.closed() => return,
            };
            if let Some(event @ (Event::Finished(_) | Event::Failed(_))) = &event {
                self.meter.note(self.number, event);
            }
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
                    n_tokens += 1;
                    if stopped {
                        self.meter.stop(self.number, n_tokens);
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
