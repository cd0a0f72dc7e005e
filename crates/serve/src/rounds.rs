//! Round after round: an answer that calls one of Llama's own tools goes on with what the tool said.
//!
//! The model's call ends a round. The tool runs, its result becomes a message of the role that Llama 3.1 calls `ipython`, and
//! the model is asked again with both in the conversation, until it answers without such a call. All of it is one answer:
//! its limits of tokens, calls and time count for all rounds together.

use crate::access::Caller;
use crate::answer::{self, Ask, Metered, Piece, Pieces, Reason};
use crate::app::App;
use crate::builtin::{Call, Outcome, Step};
use crate::chat::{Assembly, Turn, repeat};
use crate::error::ApiError;
use puna_session::ToolChoice;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Calls that the server runs for one answer at most.
pub const MAX_CALLS: usize = 8;

/// After so long no further tool is run for an answer.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long to wait before looking for room again.
const PAUSE: Duration = Duration::from_millis(50);

/// Pieces that may wait for a reader.
const BUFFER: usize = 64;

/// Begins to answer a turn `n` times. Of `ask`, prompt and constraint are the turn's to say. Gives the number of tokens of the
/// prompt, too.
///
/// # Errors
/// When the turn can't be answered, or not now.
pub async fn start(
    app: &Arc<App>,
    caller: Caller,
    turn: Turn,
    ask: Ask,
    n: usize,
    max_calls: usize,
) -> Result<(usize, Pieces), ApiError> {
    let Some(offered) = turn.conversation.builtin_tools.clone() else {
        let (prompt, constraint) = turn.prepare(app).await?;
        let n_prompt = prompt.len();
        return Ok((n_prompt, answer::start(app, caller, repeat(Ask { prompt, constraint, ..ask }, n))?));
    };
    if turn.continues()? {
        let message = "expected none of the assistant as the last, to be gone on with, beside built-in tools";
        return Err(ApiError::field("messages", message));
    }
    if n != 1 {
        return Err(ApiError::field("n", format!("expected 1 beside built-in tools, found {n}")));
    }
    let (prompt, constraint) = turn.clone().prepare(app).await?;
    let n_prompt = prompt.len();
    let first = Ask { prompt, constraint, ..ask.clone() };
    let request = Metered::new(app, caller, ask.adapter);
    let pieces = request.start([first]).inspect_err(|error| request.refuse(error))?;
    let (send, receive) = mpsc::channel(BUFFER);
    let here = app.in_rounds.clone();
    let rounds = Rounds { app: app.clone(), request, turn, ask, offered, max_calls, send, _here: here };
    tokio::spawn(async move {
        // Who does not listen any more needs no end.
        let _ = rounds.work(pieces).await;
    });
    Ok((n_prompt, receive))
}

/// Why no further tool is run.
fn late() -> String {
    format!("an answer may call tools for {} s", PATIENCE.as_secs())
}

/// Nobody listens any more.
struct Gone;

/// An answer that is being made.
struct Rounds {
    app: Arc<App>,
    request: Metered,
    turn: Turn,
    ask: Ask,
    offered: Vec<String>,
    max_calls: usize,
    send: mpsc::Sender<(usize, Result<Piece, ApiError>)>,
    /// For the server to wait for this answer when it ends.
    _here: Arc<()>,
}

/// What a round came to.
struct Round {
    /// Tokens.
    n_tokens: usize,
    /// The call for the server to run.
    call: Option<Call>,
    /// The text at its end, and why it ended.
    end: (String, Reason),
}

impl Rounds {
    async fn send(&mut self, piece: Piece) -> Result<(), Gone> {
        self.send.send((0, Ok(piece))).await.map_err(|_| Gone)
    }

    /// Passes the end on.
    async fn end(&mut self, text: String, reason: Reason) -> Result<(), Gone> {
        self.request.complete();
        self.send(Piece::End(text, reason)).await
    }

    /// Passes an error on, behind which nothing comes.
    async fn fail<T>(&mut self, error: ApiError) -> Result<T, Gone> {
        self.request.refuse(&error);
        // Whoever is gone needs no word of it.
        let _ = self.send.send((0, Err(error))).await;
        Err(Gone)
    }

    async fn work(mut self, mut pieces: Pieces) -> Result<(), Gone> {
        let start = Instant::now();
        let mut n_calls = 0;
        loop {
            let Round { n_tokens, call, end: (text, reason) } = self.round(pieces).await?;
            let Some(call) = call else { return self.end(text, reason).await };
            self.send(Piece::Tool(Step::Called(call.clone()))).await?;
            let left = self.ask.max_tokens.map(|max_tokens| max_tokens.saturating_sub(n_tokens));
            // A call that was cut is not what the model was about to say.
            let refusal = if reason != Reason::EndToken {
                Some(("the answer ended within it".to_owned(), reason))
            } else if n_calls == self.max_calls {
                Some((format!("an answer may call {n_calls} tools"), Reason::Tools))
            } else if start.elapsed() >= PATIENCE {
                Some((late(), Reason::Tools))
            } else if left == Some(0) {
                Some(("the answer may have no further tokens".to_owned(), Reason::Length))
            } else {
                None
            };
            if let Some((refusal, reason)) = refusal {
                self.send(Piece::Tool(Step::Ran(Outcome::not_run(&refusal)))).await?;
                return self.end(String::new(), reason).await;
            }
            // A tool has a limit of its own, but may have to wait for its turn.
            let running = timeout(PATIENCE.saturating_sub(start.elapsed()), self.app.tools.run(&call));
            let outcome = tokio::select! {
                outcome = running => outcome.unwrap_or_else(|_| Outcome::not_run(&late())),
                () = self.send.closed() => return Err(Gone),
            };
            n_calls += 1;
            self.turn.conversation.messages.extend(call.messages(&outcome.output, true));
            self.send(Piece::Tool(Step::Ran(outcome))).await?;
            // What had to be called has been.
            self.turn.tool_choice = ToolChoice::Auto;
            self.ask.max_tokens = left;
            pieces = self.again(start).await?;
        }
    }

    /// Asks again, with what has been said by now, for an answer that began at `start`.
    async fn again(&mut self, start: Instant) -> Result<Pieces, Gone> {
        let turn = self.turn.clone();
        let (prompt, constraint) = match turn.prepare(&self.app).await {
            Ok(prepared) => prepared,
            Err(error) => return self.fail(error).await,
        };
        self.send(Piece::Tool(Step::GoesOn(prompt.len()))).await?;
        // Others may have come in meanwhile. This one was let in before them, and waits rather than fails.
        let service = &self.app.model.service;
        let n_tokens = prompt.len().saturating_add(self.ask.max_tokens.unwrap_or(usize::MAX)).min(service.context());
        while !service.has_room(n_tokens) && start.elapsed() < PATIENCE {
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = self.send.closed() => return Err(Gone),
            }
        }
        match self.request.start([Ask { prompt, constraint, ..self.ask.clone() }]) {
            Ok(pieces) => Ok(pieces),
            Err(error) => self.fail(error).await,
        }
    }

    /// Passes on what comes, but for the end.
    async fn round(&mut self, mut pieces: Pieces) -> Result<Round, Gone> {
        let app = self.app.clone();
        let mut assembly = Assembly::new(&app, true);
        let mut end = None;
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                () = self.send.closed() => return Err(Gone),
            };
            match piece {
                Some((_, Ok(piece))) => {
                    assembly.push(piece.clone());
                    match piece {
                        Piece::End(text, reason) => end = Some((text, reason)),
                        piece => self.send(piece).await?,
                    }
                }
                Some((_, Err(error))) => return self.fail(error).await,
                None => break,
            }
        }
        let reply = assembly.finish();
        // Without an end it broke off, which whoever reads the pieces sees by the same.
        let end = end.ok_or(Gone)?;
        let call = match &reply.tool_calls[..] {
            [call] if end.1 == Reason::EndToken => Call::of(call, &self.offered),
            [call] => Call::begun(call, &self.offered).or_else(|| Call::of(call, &self.offered)),
            _ => None,
        };
        Ok(Round { n_tokens: reply.n_tokens, call, end })
    }
}
