//! One model that answers many: a batcher on a thread of its own, and what others may know of it.
//!
//! Whoever asks hands over a [`Request`] and a [`Sink`], which is called on the engine's thread for each event and must not
//! wait. A [`Ticket`] that is dropped ends its request before the next forward pass.

use puna_engine::{Batcher, Engine, Event, Load, Request, RequestId};
use puna_llama::{Config, Model, Through};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Takes the events of one request; false when nobody listens any more.
pub type Sink = Box<dyn FnMut(Event) -> bool + Send>;

/// How many requests may be in at once.
#[derive(Clone, Copy, Debug)]
pub struct ServiceLimits {
    /// Requests, those that are being computed and those that wait.
    pub requests: usize,
    /// Tokens of their prompts and of the answers that they may get.
    pub tokens: usize,
}

/// Why a request is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It can't be answered.
    #[error(transparent)]
    Bad(#[from] puna_engine::Error),
    /// Too many requests are in.
    #[error("{found} requests are in work or wait, and {limit} may: try again later")]
    Requests {
        /// Requests in work and waiting.
        found: usize,
        /// As many may be.
        limit: usize,
    },
    /// Requests with too many tokens are in.
    #[error("requests in work and waiting may take {found} tokens with this one, and {limit} may: try again later")]
    Tokens {
        /// Tokens of them all and of this request.
        found: usize,
        /// As many may be.
        limit: usize,
    },
    /// The service ends, or its engine is dead.
    #[error("the engine has stopped")]
    Stopped,
}

/// What others may know of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// What there is to do.
    pub load: Load,
    /// Requests in work and waiting, and the tokens that they may take.
    pub requests: usize,
    /// See `requests`.
    pub tokens: usize,
    /// Prompt tokens computed so far.
    pub prompt_tokens: u64,
    /// Prompt tokens found in the cache so far.
    pub cached_tokens: u64,
    /// Tokens picked so far.
    pub generated_tokens: u64,
    /// Forward passes so far.
    pub passes: u64,
    /// Requests whose logits were not finite.
    pub damaged: u64,
    /// Whether the engine runs, and has not been over its forward pass for longer than could be expected.
    pub alive: bool,
}

/// How the engine's forward passes go, seen from outside.
#[derive(Default)]
pub struct Pulse {
    /// Whether the engine's thread has ended.
    dead: AtomicBool,
    pass: Mutex<Pass>,
}

#[derive(Default)]
struct Pass {
    /// The pass that goes on: since when, and its tokens.
    current: Option<(Instant, usize)>,
    /// Seconds for a token in the slowest pass so far.
    slowest: Option<f64>,
    passes: u64,
}

/// A pass may take so much longer than the slowest before it, a second in any case, and a minute before there was any.
const PATIENCE: f64 = 4.0;

impl Pulse {
    fn pass(&self) -> MutexGuard<'_, Pass> {
        // Nothing in it is ever half written.
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the engine runs and its forward pass, if it is in one, takes no longer than could be expected.
    pub fn alive(&self) -> bool {
        let pass = self.pass();
        let late = pass.current.is_some_and(|(since, n_tokens)| {
            let expected = pass.slowest.map_or(60.0, |slowest| 1.0 + PATIENCE * slowest * n_tokens as f64);
            since.elapsed() > Duration::from_secs_f64(expected)
        });
        !late && !self.dead.load(Ordering::Acquire)
    }

    /// A model whose forward passes are seen.
    pub fn watch(self: &Arc<Self>, model: Box<dyn Model>) -> Box<dyn Model> {
        let pulse = self.clone();
        Box::new(Through::new(model, move |model, input, outputs| {
            let start = Instant::now();
            let n_tokens = input.batch.ids.len();
            pulse.pass().current = Some((start, n_tokens));
            let result = model.forward(input, outputs);
            let mut pass = pulse.pass();
            pass.current = None;
            pass.passes += 1;
            let seconds = start.elapsed().as_secs_f64() / n_tokens.max(1) as f64;
            pass.slowest = Some(pass.slowest.map_or(seconds, |slowest| slowest.max(seconds)));
            result
        }))
    }
}

/// What service, engine's thread and tickets share.
struct Shared {
    pulse: Arc<Pulse>,
    requests: AtomicUsize,
    tokens: AtomicUsize,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    damaged: AtomicU64,
    load: Mutex<Load>,
}

/// What somebody wants of the engine itself.
type Visit = Box<dyn FnOnce(&Engine) + Send>;

enum Command {
    Visit(Visit),
    Submit { request: Box<Request>, sink: Sink, ticket: u64, place: Place },
    Cancel(u64),
}

/// A request's share of the limits; given back when it is dropped.
struct Place {
    shared: Arc<Shared>,
    tokens: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.requests.fetch_sub(1, Ordering::AcqRel);
        self.shared.tokens.fetch_sub(self.tokens, Ordering::AcqRel);
    }
}

/// A model that answers many at once.
pub struct Service {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    limits: ServiceLimits,
    context: usize,
    vocab_size: usize,
    dim: usize,
    next_ticket: AtomicU64,
}

/// A request that is in. Dropped, it ends the request.
pub struct Ticket {
    id: u64,
    commands: mpsc::Sender<Command>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // An engine that has stopped has nothing to cancel.
        let _ = self.commands.send(Command::Cancel(self.id));
    }
}

impl Service {
    /// Starts the engine's thread; it ends with the service. `pulse` watches the batcher's model.
    pub fn start(batcher: Batcher, pulse: Arc<Pulse>, limits: ServiceLimits) -> Service {
        let (commands, received) = mpsc::channel();
        let shared = Arc::new(Shared {
            pulse,
            requests: AtomicUsize::new(0),
            tokens: AtomicUsize::new(0),
            prompt_tokens: AtomicU64::new(0),
            cached_tokens: AtomicU64::new(0),
            generated_tokens: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            load: Mutex::new(batcher.load()),
        });
        let (context, &Config { vocab_size, dim, .. }) = (batcher.context(), batcher.engine().model().config());
        let worker = Worker { batcher, shared: shared.clone(), answers: HashMap::new(), tickets: HashMap::new() };
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || worker.run(&received))
            .expect("a thread for the engine can be started");
        Service { commands, shared, limits, context, vocab_size, dim, next_ticket: AtomicU64::new(0) }
    }

    /// Tokens that prompt and answer may have together.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Width of the model's hidden states, and so of their mean.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Checks a request as [`Service::submit`] will.
    ///
    /// # Errors
    /// When it can't be answered.
    pub fn check(&self, request: &Request) -> Result<(), puna_engine::Error> {
        request.check(self.vocab_size, self.context)
    }

    /// Takes a request. Its events go to `sink`.
    ///
    /// # Errors
    /// When it can't be answered, or not now.
    pub fn submit(&self, request: Request, sink: Sink) -> Result<Ticket, Refusal> {
        self.check(&request)?;
        let n_prompt = request.prompt.len();
        let place = self.place(n_prompt + request.limits.max_tokens.min(self.context - n_prompt))?;
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let command = Command::Submit { request: Box::new(request), sink, ticket, place };
        self.commands.send(command).map_err(|_| Refusal::Stopped)?;
        Ok(Ticket { id: ticket, commands: self.commands.clone() })
    }

    /// Shows the engine to a function between two of its forward passes, and waits for what it returns.
    ///
    /// # Errors
    /// [`Refusal::Stopped`].
    pub fn visit<T: Send + 'static>(&self, see: impl FnOnce(&Engine) -> T + Send + 'static) -> Result<T, Refusal> {
        let (send, receive) = mpsc::channel();
        let visit: Visit = Box::new(move |engine| {
            // Whoever asked waits below.
            let _ = send.send(see(engine));
        });
        self.commands.send(Command::Visit(visit)).map_err(|_| Refusal::Stopped)?;
        receive.recv().map_err(|_| Refusal::Stopped)
    }

    /// Whether one more request of so many tokens would be taken now.
    pub fn has_room(&self, tokens: usize) -> bool {
        let taken = |counter: &AtomicUsize| counter.load(Ordering::Acquire);
        self.expect_room(taken(&self.shared.requests) + 1, taken(&self.shared.tokens) + tokens).is_ok()
    }

    /// Refuses so many requests, of so many tokens together.
    fn expect_room(&self, requests: usize, tokens: usize) -> Result<(), Refusal> {
        if requests > self.limits.requests {
            return Err(Refusal::Requests { found: requests, limit: self.limits.requests });
        }
        // One request alone is taken however long it is: it fits the context.
        if requests > 1 && tokens > self.limits.tokens {
            return Err(Refusal::Tokens { found: tokens, limit: self.limits.tokens });
        }
        Ok(())
    }

    /// A place within the limits.
    fn place(&self, tokens: usize) -> Result<Place, Refusal> {
        let shared = &self.shared;
        let found = shared.requests.fetch_add(1, Ordering::AcqRel) + 1;
        let found_tokens = shared.tokens.fetch_add(tokens, Ordering::AcqRel) + tokens;
        // Gives back what was just taken, if it was too much.
        let place = Place { shared: shared.clone(), tokens };
        self.expect_room(found, found_tokens)?;
        Ok(place)
    }

    /// What there is to be known.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Let go before the next look at the pulse.
        let passes = shared.pulse.pass().passes;
        Status {
            load: *shared.load.lock().unwrap_or_else(PoisonError::into_inner),
            requests: shared.requests.load(Ordering::Relaxed),
            tokens: shared.tokens.load(Ordering::Relaxed),
            prompt_tokens: count(&shared.prompt_tokens),
            cached_tokens: count(&shared.cached_tokens),
            generated_tokens: count(&shared.generated_tokens),
            damaged: count(&shared.damaged),
            passes,
            alive: shared.pulse.alive(),
        }
    }
}

/// The engine's thread.
struct Worker {
    batcher: Batcher,
    shared: Arc<Shared>,
    answers: HashMap<RequestId, Listener>,
    tickets: HashMap<u64, RequestId>,
}

struct Listener {
    sink: Sink,
    ticket: u64,
    /// Prompt tokens of which the last event told.
    prefilled: usize,
    /// Given back before the end is told: whoever hears of it may ask again at once.
    place: Option<Place>,
}

/// Says that the engine is dead when its thread ends, however it ends.
struct Dying(Arc<Pulse>);

impl Drop for Dying {
    fn drop(&mut self) {
        self.0.dead.store(true, Ordering::Release);
    }
}

impl Worker {
    /// Answers until the service is gone.
    fn run(mut self, commands: &mpsc::Receiver<Command>) {
        let _dying = Dying(self.shared.pulse.clone());
        let mut busy = false;
        loop {
            // Nobody to compute for: somebody must come first.
            let first = if busy { None } else { Some(commands.recv()) };
            match first.transpose() {
                Ok(command) => command.into_iter().for_each(|command| self.obey(command)),
                Err(mpsc::RecvError) => return,
            }
            loop {
                match commands.try_recv() {
                    Ok(command) => self.obey(command),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            busy = self.step();
            *self.shared.load.lock().unwrap_or_else(PoisonError::into_inner) = self.batcher.load();
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Visit(visit) => visit(self.batcher.engine()),
            Command::Submit { request, mut sink, ticket, place } => match self.batcher.submit(*request) {
                Ok(id) => {
                    self.tickets.insert(ticket, id);
                    self.answers.insert(id, Listener { sink, ticket, prefilled: 0, place: Some(place) });
                }
                Err(error) => {
                    // Whoever listens hears it; if nobody does, nobody needs to.
                    let _ = sink(Event::Failed(error));
                }
            },
            Command::Cancel(ticket) => {
                if let Some(id) = self.tickets.remove(&ticket) {
                    self.answers.remove(&id);
                    self.batcher.cancel(id);
                }
            }
        }
    }

    fn step(&mut self) -> bool {
        let (answers, shared) = (&mut self.answers, &self.shared);
        let mut gone = Vec::new();
        let busy = self.batcher.step(&mut |id, event| {
            let Some(listener) = answers.get_mut(&id) else { return };
            let ends = matches!(event, Event::Finished(_) | Event::Failed(_));
            match &event {
                Event::Prefill { done, cached, .. } => {
                    if listener.prefilled == 0 {
                        shared.cached_tokens.fetch_add(*cached as u64, Ordering::Relaxed);
                    }
                    let more = done.saturating_sub(listener.prefilled);
                    shared.prompt_tokens.fetch_add(more as u64, Ordering::Relaxed);
                    listener.prefilled = *done;
                }
                Event::Token(_) => {
                    shared.generated_tokens.fetch_add(1, Ordering::Relaxed);
                }
                Event::Failed(puna_engine::Error::NotFinite { .. }) => {
                    shared.damaged.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
            if ends {
                listener.place = None;
            }
            let listens = (listener.sink)(event);
            if ends || !listens {
                gone.push(id);
            }
        });
        for id in gone {
            if let Some(listener) = self.answers.remove(&id) {
                self.tickets.remove(&listener.ticket);
                self.batcher.cancel(id);
            }
        }
        busy
    }
}
