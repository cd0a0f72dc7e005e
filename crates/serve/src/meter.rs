//! What a request takes: reserved in its key's limits before the work, settled and recorded after it, however it ends.
//!
//! Tokens are counted where the engine tells of them, not where the client reads them: who goes away pays for what was
//! computed until then. But for answers that end before a text of the request's, of which the engine knows nothing.

use crate::access::{Access, Caller};
use crate::app::App;
use crate::error::ApiError;
use crate::quota::Admission;
use crate::time::Time;
use crate::usage::Record;
use puna_engine::{Event, Finish};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Tokens that are reserved for an answer whose length nobody limits. What it takes beyond them is charged when it ends.
const UNLIMITED: usize = 1024;

/// nginx's status for a client that closed the connection before it had its answer.
const CLIENT_GONE: u16 = 499;

/// Counts for one request, which may have several answers.
pub struct Meter {
    access: Arc<Access>,
    caller: Caller,
    model: String,
    adapter: Option<String>,
    context: usize,
    start: Instant,
    count: Mutex<Count>,
}

#[derive(Default)]
struct Count {
    /// What was reserved.
    admission: Option<Admission>,
    answers: Vec<Answer>,
    /// The prompt of the last answer.
    prompt: Vec<u32>,
    /// No further answer is added.
    is_complete: bool,
    /// Why the last answer that ended did, and as which status that counts.
    finish: Option<(&'static str, u16)>,
    /// The status with which the whole request was refused.
    refused: Option<u16>,
    is_settled: bool,
}

/// One answer.
#[derive(Default)]
struct Answer {
    /// Whether the prompt is that of the answer before, and so is computed, and paid for, once.
    repeats: bool,
    prompt: usize,
    cached: usize,
    generated: usize,
    has_ended: bool,
}

impl Meter {
    /// Of a request that asks the model with an adapter, or without.
    pub fn new(app: &App, caller: Caller, adapter: Option<u32>) -> Arc<Meter> {
        Arc::new(Meter {
            access: app.access.clone(),
            caller,
            model: app.model.name.clone(),
            adapter: adapter.map(|_| app.name(adapter).to_owned()),
            context: app.model.service.context(),
            start: Instant::now(),
            count: Mutex::default(),
        })
    }

    /// Lets one more answer of the request in, of so many tokens at most, and gives its number, counted from 0.
    ///
    /// # Errors
    /// When the caller may not ask this, or not now.
    pub fn admit(&self, prompt: &[u32], max_tokens: Option<usize>) -> Result<usize, ApiError> {
        let mut count = self.count();
        let n_prompt = prompt.len();
        let n_answer = max_tokens.unwrap_or(UNLIMITED).min(self.context.saturating_sub(n_prompt));
        let repeats = !count.answers.is_empty() && count.prompt == prompt;
        if !repeats {
            prompt.clone_into(&mut count.prompt);
        }
        let tokens = if repeats { n_answer } else { n_prompt + n_answer } as u64;
        let model = self.adapter.as_ref().unwrap_or(&self.model);
        self.access.admit(&self.caller, model, &mut count.admission, tokens)?;
        count.answers.push(Answer { repeats, ..Answer::default() });
        Ok(count.answers.len() - 1)
    }

    /// No further answer is added: with the end of all that were, the request ends.
    pub fn complete(&self) {
        let mut count = self.count();
        count.is_complete = true;
        self.settle_if_ended(&mut count);
    }

    /// Counts what the engine tells of an answer.
    pub fn note(&self, idx: usize, event: &Event) {
        let mut count = self.count();
        let answer = &mut count.answers[idx];
        if answer.has_ended {
            return;
        }
        match event {
            Event::Prefill { done, cached, .. } => {
                // Computed again, it is not paid for again.
                if answer.prompt == 0 {
                    answer.cached = *cached;
                }
                answer.prompt = answer.prompt.max(done + cached);
            }
            Event::Token(_) => answer.generated += 1,
            Event::Finished(finish) => {
                let reason = match finish {
                    Finish::Stop(_) => "stop",
                    Finish::Length | Finish::Context => "length",
                };
                self.end(&mut count, idx, reason, 200);
            }
            Event::Failed(_) => self.end(&mut count, idx, "error", 500),
            Event::PromptScore { .. } | Event::Pooled(_) => {}
        }
    }

    /// Ends an answer before one of the request's own texts, of which the engine knows nothing, after so many tokens.
    pub fn stop(&self, idx: usize, n_generated: usize) {
        let mut count = self.count();
        if !count.answers[idx].has_ended {
            count.answers[idx].generated = n_generated;
            self.end(&mut count, idx, "stop", 200);
        }
    }

    /// Ends a request that is not answered at all.
    pub fn refuse(&self, error: &ApiError) {
        let mut count = self.count();
        count.refused = Some(error.status().as_u16());
        self.settle(&mut count);
    }

    fn end(&self, count: &mut Count, idx: usize, finish: &'static str, status: u16) {
        count.answers[idx].has_ended = true;
        count.finish = Some((finish, status));
        self.settle_if_ended(count);
    }

    fn settle_if_ended(&self, count: &mut Count) {
        if count.is_complete && count.answers.iter().all(|answer| answer.has_ended) {
            self.settle(count);
        }
    }

    /// Once, whatever comes later.
    fn settle(&self, count: &mut Count) {
        if std::mem::replace(&mut count.is_settled, true) {
            return;
        }
        let paid = || count.answers.iter().filter(|answer| !answer.repeats);
        let prompt: usize = paid().map(|answer| answer.prompt).sum();
        let cached: usize = paid().map(|answer| answer.cached).sum();
        let generated: usize = count.answers.iter().map(|answer| answer.generated).sum();
        if let Some(admission) = count.admission.take() {
            self.access.settle(&self.caller, admission, (prompt + generated) as u64);
        }
        let (finish, status) = match (count.refused, count.finish) {
            (Some(status), _) => (None, status),
            (None, Some((finish, status))) => (Some(finish.to_owned()), status),
            // No answer was asked for.
            (None, None) => (None, 200),
        };
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.access.record(Record {
            time: Time::now(),
            key: self.caller.key().cloned(),
            model: self.model.clone(),
            adapter: self.adapter.clone(),
            endpoint: self.caller.endpoint().to_owned(),
            prompt_tokens: small(prompt),
            cached_prompt_tokens: small(cached),
            generated_tokens: small(generated),
            finish,
            duration_ms: u32::try_from(self.start.elapsed().as_millis()).unwrap_or(u32::MAX),
            status,
        });
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // Not all answers have come to an end, and nobody waits for them any more.
        let mut count = self.count();
        if !count.is_settled {
            count.finish = Some(("cancelled", CLIENT_GONE));
            self.settle(&mut count);
        }
    }
}
