//! A server's model that computes nothing, but whose answers show every mistake in what it is given.

#![allow(dead_code, clippy::unwrap_used, reason = "each program uses a part; tests may unwrap")]

#[path = "../../../engine/tests/fake/mod.rs"]
mod engine;

use engine::Fake;
use puna_engine::{BatchLimits, Batcher, Engine, PAGE_LEN, Sampling};
use puna_llama::{KvFormat, Through, kv_shape};
use puna_serve::app::{About, App, ChatFormat, Model};
use puna_session::{Pulse, Service, ServiceLimits};
use puna_text::Tokenizer;
use puna_text::chat::{Conversation, Dialect, Prompt, render};
use std::sync::{Arc, Condvar, Mutex};

/// Every byte a token, and the special ones.
fn tokenizer() -> Tokenizer {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let line = |byte: u8| {
        let digits = [DIGITS[usize::from(byte >> 2)], DIGITS[usize::from(byte << 6 >> 2)]];
        format!("{}== {byte}\n", String::from_utf8_lossy(&digits))
    };
    Tokenizer::from_tiktoken((0..=u8::MAX).map(line).collect::<String>().as_bytes()).unwrap()
}

const VOCAB: usize = 512;

/// Tokens that prompt and answer may have together.
pub const CONTEXT: usize = 512;

struct Meta;

impl ChatFormat for Meta {
    fn write(&self, conversation: &Conversation) -> Result<Prompt, String> {
        render(conversation, Dialect::Meta).map_err(|error| error.to_string())
    }

    fn describe(&self) -> String {
        "Meta's".into()
    }
}

/// Holds the model's forward passes back while it is closed.
#[derive(Default)]
pub struct Gate {
    /// How many it lets through before it is closed; none if it is open.
    left: Mutex<Option<usize>>,
    opened: Condvar,
}

impl Gate {
    pub fn close(&self) {
        self.close_after(0);
    }

    pub fn close_after(&self, passes: usize) {
        *self.left.lock().unwrap() = Some(passes);
    }

    pub fn open(&self) {
        *self.left.lock().unwrap() = None;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut left = self.opened.wait_while(self.left.lock().unwrap(), |left| *left == Some(0)).unwrap();
        if let Some(left) = &mut *left {
            *left -= 1;
        }
    }
}

/// A server's program over [`model`].
pub fn app(cache_tokens: usize, requests: usize, gate: Arc<Gate>) -> Arc<App> {
    Arc::new(App::new(model(cache_tokens, requests, gate)))
}

/// A model with a cache for so many tokens, for so many requests in work and waiting.
pub fn model(cache_tokens: usize, requests: usize, gate: Arc<Gate>) -> Model {
    let mut fake = Fake::new(VOCAB, CONTEXT, 7);
    fake.shape = kv_shape(&fake.config, KvFormat::F32, cache_tokens);
    fake.cache = vec![(0, 0); fake.shape.n_pages * PAGE_LEN];
    let model = Through::new(Box::new(fake), move |model, input, outputs| {
        gate.pass();
        model.forward(input, outputs)
    });
    let pulse = Arc::new(Pulse::default());
    let engine = Engine::new(pulse.watch(Box::new(model)), CONTEXT);
    let limits = ServiceLimits { requests, tokens: usize::MAX };
    let service = Service::start(Batcher::new(engine, None, BatchLimits::default()), pulse, limits);
    let tokenizer = tokenizer();
    Model {
        name: "fake".into(),
        adapters: Vec::new(),
        service,
        stop_tokens: tokenizer.stop_tokens(),
        tokenizer: Arc::new(tokenizer),
        format: Box::new(Meta),
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        about: About { n_parameters: 0, n_bytes: 0, format: "none".into(), summary: None, licence: None },
    }
}
