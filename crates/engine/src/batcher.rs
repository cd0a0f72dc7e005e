//! Many requests through one model: continuous batching.
//!
//! Each [`Batcher::step`] is one forward pass. Every request in it has tokens that are not computed yet: a part of its
//! prompt, or the one token that was picked last. [`deal`] says how many of them the step computes; whose last token is
//! among them picks the next. Requests come in and leave between steps. When pages run out, the newest leaves its pages
//! and waits again, and what it had is computed once more: the logits of a token depend on nothing but the tokens before
//! it, so no answer depends on who else was there.

use crate::engine::{Engine, SCORE_ROWS, Sequence, Work, check_finite};
use crate::mean::Mean;
use crate::request::{Event, Finish, Request, RequestId, Scored};
use crate::sampler::Sampler;
use crate::schedule::{Queue, deal};
use crate::speculate::Speculator;
use crate::{Error, PAGE_LEN};
use puna_llama::Config;
use std::collections::HashMap;

/// Tokens of prompts that are computed beside tokens of answers at most, so that answers go on at a reader's pace.
const MIXED_CHUNK: usize = 128;

/// How much is done at once.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Requests in one forward pass at most.
    pub max_running: usize,
    /// Tokens of prompts in a forward pass that also has tokens of answers.
    pub mixed_chunk: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        BatchLimits { max_running: 64, mixed_chunk: MIXED_CHUNK }
    }
}

/// What a batcher has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that are being computed.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Pages of the cache that requests have.
    pub used_pages: usize,
    /// Pages that hold texts which may come again.
    pub idle_pages: usize,
    /// All pages.
    pub n_pages: usize,
}

/// An engine and the requests that it answers.
pub struct Batcher {
    engine: Engine,
    speculator: Option<Speculator>,
    /// Whose text the speculator sees.
    guessing_for: Option<RequestId>,
    limits: BatchLimits,
    queue: Queue,
    /// Those in the queue.
    waiting: HashMap<RequestId, Answer>,
    /// Those in the batch, in the order in which they were let in.
    running: Vec<Answer>,
    next_id: u64,
}

/// A request and how far it is.
struct Answer {
    id: RequestId,
    request: Request,
    sampler: Sampler,
    /// The prompt, and what was picked.
    ids: Vec<u32>,
    /// What of it is in the cache.
    sequence: Sequence,
    /// Whether the cache was searched for its beginning since it was let in.
    begun: bool,
    /// Tokens that were found in the cache.
    n_cached: usize,
    /// The next position of the prompt to score.
    next_score: usize,
    /// The hidden states so far, if their mean is wanted.
    mean: Option<Mean>,
}

impl Answer {
    fn n_left(&self) -> usize {
        self.ids.len() - self.sequence.ids().len()
    }

    fn n_picked(&self) -> usize {
        self.ids.len() - self.request.prompt.len()
    }

    /// The first token whose logits, or hidden states, are still wanted: those before it only have to be in the cache.
    fn next_output(&self) -> usize {
        match &self.mean {
            Some(mean) => mean.n(),
            None if self.next_score < self.request.prompt.len() => self.next_score - 1,
            None => self.ids.len() - 1,
        }
    }

    /// Of the next `n` tokens, how many of the last have logits, or hidden states, that are wanted.
    fn n_outputs(&self, n: usize) -> usize {
        let end = self.sequence.ids().len() + n;
        end.saturating_sub(self.next_output()).min(n)
    }

    /// Picks the next token by these logits.
    fn pick(&mut self, logits: &[f32]) -> Result<u32, Error> {
        let constraint = self.request.constraint.as_mut();
        let picked = match constraint {
            Some(constraint) => {
                let picked = self.sampler.pick(logits, Some(constraint.allowed()?));
                constraint.accept(picked)?;
                picked
            }
            None => self.sampler.pick(logits, None),
        };
        self.sampler.accept(picked);
        self.ids.push(picked);
        Ok(picked)
    }

    fn new_sequence(&self) -> Sequence {
        Sequence::new(self.request.scope, self.request.adapter)
    }

    /// Why the answer ends with the token that was picked last, if it does. `context` is the room for tokens.
    fn finish(&self, context: usize) -> Option<Finish> {
        let id = self.ids[self.ids.len() - 1];
        if self.request.limits.stop_tokens.contains(&id) {
            Some(Finish::Stop(id))
        } else if self.n_picked() >= self.request.limits.max_tokens {
            Some(Finish::Length)
        } else {
            // The token itself needs a place before there can be another.
            (self.ids.len() > context).then_some(Finish::Context)
        }
    }
}

/// What one running request does in a step.
struct Share {
    /// Tokens of its own.
    n: usize,
    /// Of how many of them, the last, the logits are wanted, or the hidden states.
    n_outputs: usize,
    /// Guesses at what follows them.
    guesses: Vec<u32>,
}

impl Batcher {
    /// Answers requests with this engine. With a speculator it guesses tokens of an answer that is alone.
    pub fn new(engine: Engine, speculator: Option<Speculator>, limits: BatchLimits) -> Batcher {
        Batcher {
            engine,
            speculator,
            guessing_for: None,
            limits,
            queue: Queue::default(),
            waiting: HashMap::new(),
            running: Vec::new(),
            next_id: 0,
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Who guesses.
    pub fn speculator(&self) -> Option<&Speculator> {
        self.speculator.as_ref()
    }

    /// Lets this one guess, or nobody.
    pub fn set_speculator(&mut self, speculator: Option<Speculator>) {
        self.speculator = speculator;
        self.guessing_for = None;
    }

    /// Bytes of weights and cache that the model and its drafters have read so far.
    pub fn bytes_read(&self) -> u64 {
        self.engine.bytes_read() + self.speculator.as_ref().map_or(0, Speculator::bytes_read)
    }

    /// Tokens that a request may have, prompt and answer together.
    pub fn context(&self) -> usize {
        self.engine.context().min(self.engine.model().kv_shape().n_pages * PAGE_LEN)
    }

    /// What there is to do.
    pub fn load(&self) -> Load {
        let pages = self.engine.pages();
        Load {
            running: self.running.len(),
            waiting: self.queue.len(),
            used_pages: pages.n_used(),
            idle_pages: pages.n_idle(),
            n_pages: self.engine.model().kv_shape().n_pages,
        }
    }

    /// Takes a request; it waits until there is room.
    ///
    /// # Errors
    /// Those of [`Request::check`].
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Error> {
        let &Config { vocab_size, dim, .. } = self.engine.model().config();
        request.check(vocab_size, self.context())?;
        let sampler = Sampler::new(request.sampling.clone(), vocab_size, &request.prompt, request.seed)?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let answer = Answer {
            id,
            sampler,
            ids: request.prompt.clone(),
            sequence: Sequence::default(),
            begun: false,
            n_cached: 0,
            next_score: request.prompt_scores.map_or(usize::MAX, |scores| scores.from.max(1)),
            mean: request.pool.then(|| Mean::new(dim)),
            request,
        };
        self.queue.push(id, answer.request.scope);
        self.waiting.insert(id, answer);
        Ok(id)
    }

    /// Ends a request; nothing more is told of it. What was computed of it stays in the cache for others of its scope.
    pub fn cancel(&mut self, id: RequestId) {
        self.queue.remove(id);
        self.waiting.remove(&id);
        if let Some(idx) = self.running.iter().position(|answer| answer.id == id) {
            let answer = self.running.remove(idx);
            self.engine.release(answer.sequence);
        }
    }

    /// Computes one forward pass for those who have something to compute. False when there was nobody.
    pub fn step(&mut self, on_event: &mut dyn FnMut(RequestId, Event)) -> bool {
        self.let_in();
        let mut shares = self.plan();
        if shares.iter().all(|share| share.n == 0) {
            return false;
        }
        let speculates = self.guess(&mut shares);
        let started = if speculates { self.now() } else { None };
        let mut result = self.run(&shares);
        let mut seconds = started.and_then(|started| Some(self.now()? - started));
        if result.is_err() && shares.iter().any(|share| !share.guesses.is_empty()) {
            // Guesses take memory, which may be short; the answer does not depend on them.
            shares.iter_mut().for_each(|share| share.guesses.clear());
            seconds = None;
            result = self.run(&shares);
        }
        if let Err(error) = result {
            // Whoever came last needed what there was not.
            let idx = shares.iter().rposition(|share| share.n > 0).expect("somebody computed");
            let answer = self.running.remove(idx);
            self.engine.discard(answer.sequence);
            on_event(answer.id, Event::Failed(error));
            return true;
        }
        let outputs = self.engine.take_outputs();
        let (mut logits, mut states) = (&outputs.logits[..], &outputs.states[..]);
        let &Config { vocab_size, dim, .. } = self.engine.model().config();
        for (answer, share) in std::mem::take(&mut self.running).into_iter().zip(&shares) {
            let answer = if share.n == 0 {
                Some(answer)
            } else if answer.mean.is_some() {
                let rows = states.split_off(..dim * share.n_outputs);
                self.pool(answer, share, rows.expect("a row for each state"), on_event)
            } else {
                let rows = logits.split_off(..vocab_size * (share.n_outputs + share.guesses.len()));
                let learning = speculates.then_some(seconds);
                self.advance(answer, share, rows.expect("a row for each output"), learning, on_event)
            };
            self.running.extend(answer);
        }
        self.engine.put_back_outputs(outputs);
        true
    }

    fn now(&mut self) -> Option<f64> {
        self.speculator.as_mut().and_then(Speculator::now)
    }

    /// Lets in who waits, as far as there is room for what is known of his text and one token more.
    fn let_in(&mut self) {
        while self.running.len() < self.limits.max_running.min(self.engine.model().max_batch()) {
            let Some(id) = self.queue.next() else { return };
            let pages = self.engine.pages();
            let reserved: usize = self.running.iter().map(|a| n_pages(a).saturating_sub(a.sequence.n_pages())).sum();
            let answer = &self.waiting[&id];
            // What others have already takes no room.
            let (_, n_there) = self.engine.n_shared(&answer.new_sequence(), &answer.ids[..answer.next_output()]);
            let needed = n_pages(answer) - n_there;
            if !self.running.is_empty() && needed + reserved > pages.n_free() {
                return;
            }
            self.queue.let_in(id);
            let mut answer = self.waiting.remove(&id).expect("who stands in the queue waits");
            answer.sequence = answer.new_sequence();
            answer.begun = false;
            self.running.push(answer);
        }
    }

    /// What each of the running computes in this step.
    fn plan(&mut self) -> Vec<Share> {
        for idx in 0..self.running.len() {
            self.begin(idx);
        }
        loop {
            let left: Vec<usize> = self.running.iter().map(|a| if a.begun { a.n_left() } else { 0 }).collect();
            let n_answering =
                self.running.iter().filter(|answer| answer.n_picked() > 0 && answer.n_left() == 1).count();
            let chunk = if n_answering > 0 { self.limits.mixed_chunk } else { self.engine.chunk() };
            let budget = (n_answering + chunk).min(self.engine.model().max_batch());
            let mut shares = deal(&left, budget);
            let mut rows = SCORE_ROWS;
            let mut free = self.engine.pages().n_free();
            let mut short = false;
            for (answer, share) in self.running.iter().zip(&mut shares) {
                if answer.next_score < answer.request.prompt.len() {
                    // As many rows of logits at once as there is room for.
                    while *share > 0 && answer.n_outputs(*share) > rows {
                        *share -= 1;
                    }
                    rows -= answer.n_outputs(*share);
                }
                let room = answer.sequence.n_pages() * PAGE_LEN - answer.sequence.ids().len();
                let fitting = (*share).min(room + free * PAGE_LEN);
                short |= fitting == 0 && *share > 0;
                *share = fitting;
                free -= fitting.saturating_sub(room).div_ceil(PAGE_LEN);
            }
            if !short {
                let share = |(answer, n): (&Answer, usize)| Share {
                    n,
                    n_outputs: if n == 0 { 0 } else { answer.n_outputs(n) },
                    guesses: Vec::new(),
                };
                return self.running.iter().zip(shares).map(share).collect();
            }
            self.preempt();
        }
    }

    /// Searches the cache for a request's beginning; but not yet while somebody computes more of it than there is.
    fn begin(&mut self, idx: usize) {
        let (before, rest) = self.running.split_at_mut(idx);
        let answer = &mut rest[0];
        if answer.begun {
            return;
        }
        // The last token is computed in any case, and every one from the first to be scored or pooled.
        let ids = &answer.ids[..answer.next_output()];
        let (n_there, _) = self.engine.n_shared(&answer.sequence, ids);
        let soon = before.iter().filter(|other| {
            other.request.scope == answer.request.scope && other.request.adapter == answer.request.adapter
        });
        let n_soon = soon
            .filter(|other| other.n_left() > 1 || !other.begun)
            .map(|other| other.request.prompt.iter().zip(ids).take_while(|(a, b)| a == b).count())
            .max();
        if n_soon.is_some_and(|n| n / PAGE_LEN * PAGE_LEN > n_there) {
            return;
        }
        answer.begun = true;
        let n_cached = self.engine.adopt(&mut answer.sequence, ids);
        if answer.n_picked() == 0 {
            answer.n_cached = n_cached;
        }
    }

    /// The newest leaves its pages and waits again.
    fn preempt(&mut self) {
        let mut answer = self.running.pop().expect("who lacks pages is running");
        self.engine.release(std::mem::take(&mut answer.sequence));
        self.queue.put_back(answer.id, answer.request.scope);
        self.waiting.insert(answer.id, answer);
    }

    /// Guesses for an answer that is alone: then the forward pass waits for the weights, and more tokens cost little.
    /// Whether it did so, even if nothing came of it.
    fn guess(&mut self, shares: &mut [Share]) -> bool {
        let (Some(speculator), [answer], [share]) = (&mut self.speculator, &self.running[..], shares) else {
            return false;
        };
        if !answer.request.speculate {
            return false;
        }
        if self.guessing_for != Some(answer.id) {
            speculator.begin();
            self.guessing_for = Some(answer.id);
        }
        if answer.n_picked() == 0 || answer.n_left() != 1 {
            return false;
        }
        let vocab_size = self.engine.model().config().vocab_size;
        // The token itself takes a place, and brings one token of the answer.
        let room = self.engine.room(&answer.sequence).min(answer.request.limits.max_tokens - answer.n_picked());
        let max = room.saturating_sub(1);
        let guesses = speculator.propose(answer.sequence.ids(), answer.ids[answer.ids.len() - 1], max);
        share.guesses.extend(guesses.iter().take(max).take_while(|id| (**id as usize) < vocab_size));
        true
    }

    /// The forward pass. What may come behind it is found out meanwhile.
    fn run(&mut self, shares: &[Share]) -> Result<(), Error> {
        let computing = self.running.iter_mut().zip(shares).filter(|(_, share)| share.n > 0);
        let (mut sequences, mut ids, mut constraints) = (Vec::new(), Vec::new(), Vec::new());
        for (answer, share) in computing {
            let start = answer.sequence.ids().len();
            if start + share.n == answer.ids.len() {
                constraints.extend(answer.request.constraint.as_deref_mut());
            }
            ids.push([&answer.ids[start..start + share.n], &share.guesses].concat());
            let n_rows = share.n_outputs + share.guesses.len();
            let (n_outputs, n_states) = if answer.mean.is_some() { (0, n_rows) } else { (n_rows, 0) };
            sequences.push((&mut answer.sequence, n_outputs, n_states));
        }
        let work = |((sequence, n_outputs, n_states), ids)| Work { sequence, ids, n_outputs, n_states };
        let mut works: Vec<Work<'_>> = sequences.into_iter().zip(ids.iter().map(Vec::as_slice)).map(work).collect();
        std::thread::scope(|scope| {
            if !constraints.is_empty() {
                // Without a thread they are asked afterwards, and those that fail are asked again then.
                let ask = move || constraints.into_iter().for_each(|constraint| drop(constraint.allowed()));
                let _ = std::thread::Builder::new().name("constraints".into()).spawn_scoped(scope, ask);
            }
            self.engine.run(&mut works)
        })
    }

    /// Takes the logits after a request's tokens, `[outputs, vocab_size]`: scores of the prompt, the next token, and those
    /// that guesses brought; `learning` has the seconds of the pass, if they are known, where there might have been guesses.
    /// The request, unless it has ended.
    fn advance(
        &mut self,
        mut answer: Answer,
        share: &Share,
        rows: &[f32],
        learning: Option<Option<f64>>,
        on_event: &mut dyn FnMut(RequestId, Event),
    ) -> Option<Answer> {
        let (id, context) = (answer.id, self.context());
        let mut rows = rows.chunks_exact(self.engine.model().config().vocab_size);
        // Where its own tokens end in the cache.
        let end = answer.sequence.ids().len() - share.guesses.len();
        self.computed(&answer, share, end, on_event);
        let complete = end == answer.ids.len();
        for (position, logits) in (end - share.n_outputs..end - usize::from(complete)).zip(&mut rows) {
            if let Err(error) = check_finite(logits, position) {
                return self.fail(answer, error, on_event);
            }
            let top = answer.request.prompt_scores.map_or(0, |scores| scores.top);
            let score = Scored::new(logits, answer.ids[position + 1], top);
            answer.next_score = position + 2;
            on_event(id, Event::PromptScore { position: position + 1, score });
        }
        if !complete {
            return Some(answer);
        }
        // How many guesses are right, whether the one behind them is wrong, and how many rows are of tokens that stay.
        let (mut n_right, mut wrong, mut n_kept) = (0, false, 0);
        let (mut damaged, mut finish) = (None, None);
        for (row, logits) in rows.enumerate() {
            damaged = check_finite(logits, end - 1 + row).err();
            if damaged.is_some() {
                break;
            }
            n_kept += 1;
            if answer.request.limits.max_tokens == 0 {
                finish = Some(Finish::Length);
                break;
            }
            let picked = match answer.pick(logits) {
                Ok(picked) => picked,
                Err(error) => return self.fail(answer, error, on_event),
            };
            on_event(id, Event::Token(Scored::new(logits, picked, answer.request.top)));
            finish = answer.finish(context);
            let guess = share.guesses.get(row);
            let right = guess == Some(&picked);
            n_right += usize::from(right);
            wrong = guess.is_some() && !right;
            if !right || finish.is_some() {
                break;
            }
        }
        // Behind a guess that was right, plain decoding says so when it comes there, after the tokens before.
        if let Some(error) = damaged.filter(|_| n_kept == 0) {
            return self.fail(answer, error, on_event);
        }
        self.engine.truncate(&mut answer.sequence, end - 1 + n_kept);
        if let (Some(speculator), Some(seconds)) = (&mut self.speculator, learning) {
            speculator.learn(share.guesses.len(), n_right, wrong, seconds);
        }
        if let Some(finish) = finish {
            self.engine.release(answer.sequence);
            on_event(id, Event::Finished(finish));
            return None;
        }
        self.engine.publish(&mut answer.sequence);
        Some(answer)
    }

    /// Takes the hidden states of a request's tokens, `[outputs, dim]`. The request, unless it has ended.
    fn pool(
        &mut self,
        mut answer: Answer,
        share: &Share,
        rows: &[f32],
        on_event: &mut dyn FnMut(RequestId, Event),
    ) -> Option<Answer> {
        let end = answer.sequence.ids().len();
        self.computed(&answer, share, end, on_event);
        let mean = answer.mean.as_mut().expect("a mean is wanted");
        if let Err(error) = mean.push(rows) {
            return self.fail(answer, error, on_event);
        }
        if end < answer.ids.len() {
            return Some(answer);
        }
        on_event(answer.id, Event::Pooled(mean.get()));
        self.engine.release(answer.sequence);
        on_event(answer.id, Event::Finished(Finish::Length));
        None
    }

    /// Counts the tokens that were computed for a request, and tells how far its prompt is; `end` is where its own
    /// tokens end in the cache.
    fn computed(&mut self, answer: &Answer, share: &Share, end: usize, on_event: &mut dyn FnMut(RequestId, Event)) {
        self.queue.charge(answer.request.scope, share.n);
        if answer.n_picked() == 0 {
            let (n_cached, n_prompt) = (answer.n_cached, answer.request.prompt.len());
            on_event(answer.id, Event::Prefill { done: end - n_cached, total: n_prompt - n_cached, cached: n_cached });
        }
    }

    /// Ends a request that can't go on, and forgets what led there: its logits may be damaged.
    fn fail(&mut self, answer: Answer, error: Error, on_event: &mut dyn FnMut(RequestId, Event)) -> Option<Answer> {
        self.engine.discard(answer.sequence);
        on_event(answer.id, Event::Failed(error));
        None
    }
}

/// Pages for what is known of a text and one token more.
fn n_pages(answer: &Answer) -> usize {
    (answer.ids.len() + 1).div_ceil(PAGE_LEN)
}
