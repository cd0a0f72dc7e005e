//! A model that answers many at once: the command line's options of it, and all that is loaded for it.

use crate::adapter::base::Given;
use crate::builtin;
use crate::inspect::{formats, n_weights};
use crate::licence;
use crate::model::{Loaded, ModelArgs};
use crate::prefix_cache::PrefixCache;
use crate::prompt::{ChatFormat, Choice};
use crate::sampling;
use crate::vault;
use anyhow::{Context, Result, bail};
use puna_checkpoint::Checkpoint;
use puna_engine::{BatchLimits, Batcher, Engine, PromptLookup};
use puna_serve::app::{self, About, Licence};
use puna_session::{Pulse, Service, ServiceLimits, speculator};
use puna_text::chat::{Conversation, Dialect, Prompt};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// Which model, and how it answers many.
#[derive(clap::Args)]
#[command(mut_arg("adapters", |adapters| adapters
    .long("fixed-adapter")
    .help("A LoRA adapter that every request sees; may be given several times, they add up")))]
pub struct ServedArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What requests call the model [default: the name of its file or directory]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A LoRA adapter that requests may name as their model; may be given several times
    #[arg(long, value_name = "NAME=ADAPTER")]
    adapter: Vec<Named>,
    /// Tokens that the KV cache can hold, of all requests together [default: many contexts, in half of the memory]
    #[arg(long, value_name = "TOKENS")]
    cache_tokens: Option<usize>,
    /// Requests that are computed at once
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    parallel: u16,
    /// How conversations are written for the model
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    chat_format: Choice,
    /// Computes every token by itself: does not guess tokens ahead when a request is alone
    #[arg(long)]
    no_speculation: bool,
}

/// How many may wait.
#[derive(clap::Args)]
pub struct QueueArgs {
    /// Requests that may wait beside those; further ones are refused until there is room
    #[arg(long, default_value_t = 128, value_name = "N")]
    queue: usize,
    /// Tokens that all these requests may take, prompts and answers together [default: eight caches full]
    #[arg(long, value_name = "TOKENS")]
    queue_tokens: Option<usize>,
}

impl QueueArgs {
    /// The limits of a server whose cache holds `n_cache` tokens.
    pub fn limits(&self, served: &ServedArgs, n_cache: usize) -> ServiceLimits {
        ServiceLimits {
            requests: served.parallel() + self.queue,
            tokens: self.queue_tokens.unwrap_or(n_cache.saturating_mul(8)),
        }
    }
}

/// An adapter with its name.
#[derive(Clone)]
struct Named {
    name: String,
    given: Given,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Named, String> {
        match text.split_once('=') {
            Some((name, given)) if !name.is_empty() => Ok(Named { name: name.to_owned(), given: given.parse()? }),
            _ => Err("expected NAME=ADAPTER, e.g. support=./my-adapter".into()),
        }
    }
}

impl app::ChatFormat for ChatFormat {
    fn write(&self, conversation: &Conversation) -> Result<Prompt, String> {
        ChatFormat::write(self, conversation).map_err(|error| format!("{error:#}"))
    }

    fn describe(&self) -> String {
        match self {
            ChatFormat::Template { source, .. } => source.clone(),
            ChatFormat::Native(_) => ChatFormat::describe(self).to_owned(),
        }
    }

    fn waits(&self) -> bool {
        matches!(self, ChatFormat::Template { .. })
    }

    fn has_builtin_tools(&self) -> bool {
        matches!(self, ChatFormat::Native(Dialect::Template))
    }
}

impl ServedArgs {
    /// Requests that are computed at once.
    pub fn parallel(&self) -> usize {
        usize::from(self.parallel)
    }

    /// Loads all that answers; `limits` of requests, for a cache of so many tokens.
    pub fn load(&self, limits: impl FnOnce(usize) -> ServiceLimits) -> Result<app::Model> {
        Ok(self.load_with(limits, None)?.0)
    }

    /// The same, and what is in the file of a prefix cache.
    pub fn load_with(
        &self,
        limits: impl FnOnce(usize) -> ServiceLimits,
        prefix_cache: Option<&Path>,
    ) -> Result<(app::Model, Option<PrefixCache>)> {
        let checkpoint = self.model.open()?;
        let tokenizer = self.model.tokenizer(&checkpoint)?;
        let format = ChatFormat::new(self.chat_format, &checkpoint, &tokenizer)?;
        let mut stop_tokens = tokenizer.stop_tokens();
        stop_tokens.extend(&checkpoint.generation.eos);
        let mut machine = self.model.machine();
        let given: Vec<Given> = self.adapter.iter().map(|named| named.given.clone()).collect();
        let Loaded { model, context, .. } =
            self.model.load_for_many(&mut machine, &checkpoint, self.cache_tokens, &given)?;
        let n_cache = model.kv_shape().n_pages * puna_llama::PAGE_LEN;
        let describe = model.describe();
        let pulse = Arc::new(Pulse::default());
        let mut engine = Engine::new(pulse.watch(model), context);
        let prefix_cache = prefix_cache
            .map(|path| PrefixCache::open(path, &self.model, &given, &checkpoint, &mut engine))
            .transpose()?;
        let guesses = (!self.no_speculation).then(|| speculator(vec![Box::new(PromptLookup::new())]));
        let batch_limits = BatchLimits { max_running: self.parallel(), ..BatchLimits::default() };
        let service = Service::start(Batcher::new(engine, guesses, batch_limits), pulse, limits(n_cache));
        let path = &self.model.model;
        let default_name =
            || vault::name_of(path).or_else(|| Some(path.canonicalize().ok()?.file_stem()?.to_str()?.to_owned()));
        let name = match &self.name {
            Some(name) => name.clone(),
            None if builtin::is_meant(path) => builtin::NAME.to_owned(),
            None => default_name().context("--name: expected a name for the model, whose file has none in Unicode")?,
        };
        let adapters: Vec<String> = self.adapter.iter().map(|named| named.name.clone()).collect();
        let mut names: Vec<&String> = adapters.iter().chain([&name]).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!(
                "--adapter: expected names that differ from one another and from the model's, found {:?} twice",
                pair[0]
            );
        }
        eprintln!(
            "{describe} · context {context} tokens · cache {n_cache} tokens · chat format: {}",
            format.describe()
        );
        let formats = formats(&checkpoint);
        let most = formats.iter().max_by_key(|(_, (_, bytes))| *bytes);
        let about = About {
            n_parameters: n_weights(&checkpoint),
            n_bytes: checkpoint.tensor_bytes(),
            format: most.map_or(String::new(), |(format, _)| format.to_string()),
            summary: builtin::is_meant(path).then(|| builtin::ABOUT.to_owned()),
            licence: licence(path, &checkpoint)?,
        };
        let model = app::Model {
            name,
            adapters,
            service,
            tokenizer: Arc::new(tokenizer),
            stop_tokens,
            format: Box::new(format),
            sampling: sampling::recommended(&checkpoint),
            about,
        };
        Ok((model, prefix_cache))
    }
}

/// What the model's licence wants people to see. The model in the program wants nothing.
fn licence(path: &Path, checkpoint: &Checkpoint) -> Result<Option<Licence>> {
    if builtin::is_meant(path) {
        return Ok(None);
    }
    let shown = licence::shown(path, checkpoint)?;
    Ok(shown.map(|(built_with, notice)| Licence { built_with: built_with.to_owned(), notice: notice.to_owned() }))
}
