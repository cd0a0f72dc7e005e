//! What the routes answer with: one model, its service, and how it is talked to.

use crate::access::Access;
use crate::builtin::BuiltinTools;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::metrics::Metrics;
use crate::time::Time;
use axum::http::StatusCode;
use puna_engine::Sampling;
use puna_session::{GrammarCompiler, GrammarError, Service};
use puna_text::Tokenizer;
use puna_text::chat::{Conversation, Prompt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;

/// Writes conversations for the model.
pub trait ChatFormat: Send + Sync {
    /// The conversation as the model is to see it.
    ///
    /// # Errors
    /// What the format can't express, for people.
    fn write(&self, conversation: &Conversation) -> Result<Prompt, String>;
    /// Its name, or the template itself.
    fn describe(&self) -> String;
    /// Whether writing waits for another process, as for one that runs a template; most do not.
    fn waits(&self) -> bool {
        false
    }
    /// Whether it has words for Llama's own tools; most have none.
    fn has_builtin_tools(&self) -> bool {
        false
    }
}

/// A model to be served.
pub struct Model {
    /// What clients call it.
    pub name: String,
    /// What clients call its adapters, in the order of their ids.
    pub adapters: Vec<String>,
    /// Its engine.
    pub service: Service,
    /// Its vocabulary.
    pub tokenizer: Arc<Tokenizer>,
    /// Tokens that end its answers.
    pub stop_tokens: Vec<u32>,
    /// How conversations are written for it.
    pub format: Box<dyn ChatFormat>,
    /// How it is sampled where a request does not say.
    pub sampling: Sampling,
    /// Of which kind it is: format and size, for people.
    pub about: About,
}

impl Model {
    /// Whether Llama's own tools can be offered to it.
    #[must_use]
    pub fn knows_builtin_tools(&self) -> bool {
        self.format.has_builtin_tools() && self.tokenizer.special("<|python_tag|>").is_some()
    }
}

/// What there is to say of a model.
#[derive(Clone, Debug)]
pub struct About {
    /// Number of parameters.
    pub n_parameters: u64,
    /// Bytes of the weights.
    pub n_bytes: u64,
    /// Name of the format that most of the weights are in.
    pub format: String,
    /// Who it is, in few words, if that is known.
    pub summary: Option<String>,
    /// What its licence wants people to see, if it wants that.
    pub licence: Option<Licence>,
}

/// What a model's licence wants people to see.
#[derive(Clone, Debug)]
pub struct Licence {
    /// `Built with Llama`.
    pub built_with: String,
    /// Whose the model is, and under which licence it came.
    pub notice: String,
}

impl About {
    /// The number of parameters, for people: `8.0B`.
    pub fn parameters(&self) -> String {
        match self.n_parameters as f64 {
            n if n >= 1e9 => format!("{:.1}B", n / 1e9),
            n => format!("{:.1}M", n / 1e6),
        }
    }
}

/// All that the routes share.
pub struct App {
    /// The model.
    pub model: Model,
    /// Who may ask.
    pub access: Arc<Access>,
    /// As many owners beside this one as there are answers that may be between two rounds, when the engine knows nothing of
    /// them.
    pub in_rounds: Arc<()>,
    /// Llama's own tools, those that the operator turned on.
    pub tools: BuiltinTools,
    /// What is measured.
    pub metrics: Metrics,
    /// When the server started.
    pub started: Time,
    /// Turns at compiling grammars.
    pub compiling: Arc<Semaphore>,
    /// Made for the first grammar.
    grammars: OnceLock<Result<GrammarCompiler, GrammarError>>,
    /// Whether the server is to end.
    draining: AtomicBool,
}

/// Grammars that are compiled at a time.
const COMPILING: usize = 2;

impl App {
    /// Begins to serve a model, to everybody.
    pub fn new(model: Model) -> App {
        App {
            model,
            access: Arc::new(Access::open()),
            in_rounds: Arc::default(),
            tools: BuiltinTools::none(),
            metrics: Metrics::default(),
            started: Time::now(),
            compiling: Arc::new(Semaphore::new(COMPILING)),
            grammars: OnceLock::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// Serves it to those who have access.
    #[must_use]
    pub fn with_access(self, access: Access) -> App {
        App { access: Arc::new(access), ..self }
    }

    /// Runs these of Llama's own tools for requests that ask for them.
    #[must_use]
    pub fn with_tools(self, tools: BuiltinTools) -> App {
        App { tools, ..self }
    }

    /// What makes constraints of grammars. The first call may take a second.
    ///
    /// # Errors
    /// When the vocabulary can't be constrained.
    pub fn grammars(&self) -> Result<&GrammarCompiler, GrammarError> {
        let model = &self.model;
        let grammars = self.grammars.get_or_init(|| GrammarCompiler::new(model.tokenizer.clone(), &model.stop_tokens));
        grammars.as_ref().map_err(Clone::clone)
    }

    /// From now on no new requests are taken.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether no new requests are taken.
    pub fn drains(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The adapter that a request asks for by its `model`, if it does.
    ///
    /// # Errors
    /// When nothing of that name is served.
    pub fn asked(&self, fields: &mut Fields) -> Result<Option<u32>, ApiError> {
        self.adapter(fields.take::<String>("model")?.as_deref())
    }

    /// The adapter that a name means, if it means one.
    ///
    /// # Errors
    /// When nothing of that name is served.
    pub fn adapter(&self, model: Option<&str>) -> Result<Option<u32>, ApiError> {
        match model {
            None => Ok(None),
            Some(name) if name == self.model.name => Ok(None),
            Some(name) => match self.model.adapters.iter().position(|adapter| adapter == name) {
                Some(idx) => Ok(Some(idx as u32)),
                None => {
                    let names: Vec<&str> = self.names().collect();
                    let message = format!("model: expected {}, found {name:?}", names.join(" or "));
                    Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message))
                }
            },
        }
    }

    /// The name of the model with an adapter or without.
    pub fn name(&self, adapter: Option<u32>) -> &str {
        adapter.map_or(&self.model.name, |idx| &self.model.adapters[idx as usize])
    }

    /// What a request's `model` may be.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.model.name).chain(&self.model.adapters).map(String::as_str)
    }
}

/// A name that no other object has.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", puna_session::random_seed(), puna_session::random_seed())
}
