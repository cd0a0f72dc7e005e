//! `puna serve`: a model behind the APIs that clients know.

use crate::adapter::base::Given;
use crate::builtin;
use crate::inspect::{formats, n_weights};
use crate::model::{Loaded, ModelArgs};
use crate::prompt::{ChatFormat, Choice};
use crate::sampling;
use anyhow::{Context, Result, bail};
use puna_engine::{BatchLimits, Batcher, Engine, PromptLookup};
use puna_serve::app::{self, About, App};
use puna_serve::guard::Guard;
use puna_serve::server::{self, Limits};
use puna_session::{Pulse, Service, ServiceLimits, speculator};
use puna_text::chat::{Conversation, Prompt};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal;

/// Serve a model to every program that speaks OpenAI's API
///
/// Listens on this machine alone. Where no model is named, cria answers, a small one in the program itself.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |model| model.index(1).required(false).default_value(builtin::NAME)),
    mut_arg("adapters", |adapters| adapters
        .long("fixed-adapter")
        .help("A LoRA adapter that every request sees; may be given several times, they add up")),
    after_help = "\
Examples:
  puna serve
  puna serve ./Llama-3.1-8B-Instruct --port 8000
  puna serve ./model.gguf --name llama --adapter support=./my-adapter
  curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What clients call the model [default: the name of its file or directory]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A LoRA adapter that requests may name as their model; may be given several times
    #[arg(long, value_name = "NAME=ADAPTER")]
    adapter: Vec<Named>,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// Port to listen on; 0 for any that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Tokens that the KV cache can hold, of all requests together [default: many contexts, in half of the memory]
    #[arg(long, value_name = "TOKENS")]
    cache_tokens: Option<usize>,
    /// Requests that are computed at once
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    parallel: u16,
    /// Requests that may wait beside those; further ones are refused until there is room
    #[arg(long, default_value_t = 128, value_name = "N")]
    queue: usize,
    /// Tokens that all these requests may take, prompts and answers together [default: eight caches full]
    #[arg(long, value_name = "TOKENS")]
    queue_tokens: Option<usize>,
    /// A name under which the server may be called, besides localhost and addresses; may be given several times
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// A site whose pages may call the server, e.g. https://example.org; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// How conversations are written for the model
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    chat_format: Choice,
    /// Computes every token by itself: does not guess tokens ahead when a request is alone
    #[arg(long)]
    no_speculation: bool,
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
}

pub fn run(args: Args) -> Result<()> {
    if !args.host.is_loopback() {
        bail!(
            "--host: expected an address of this machine alone, such as 127.0.0.1, found {}; whoever reaches another could \
             use the model, and keys that would keep strangers out are not there yet",
            args.host
        );
    }
    let model = model(&args)?;
    let app = Arc::new(App::new(model));
    let guard = Guard { hosts: args.allow_host, origins: args.allow_origin, ..Guard::default() };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("threads for connections")?;
    runtime.block_on(async {
        let address = (args.host, args.port);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listening on {} port {}; --port takes another", args.host, args.port))?;
        let address = listener.local_addr()?;
        eprintln!("serving {} on http://{address} · Ctrl-C ends", app.names().collect::<Vec<_>>().join(", "));
        server::serve(listener, app, guard, Limits::default(), shutdown()).await?;
        Ok(())
    })
}

/// Loads all that answers.
fn model(args: &Args) -> Result<app::Model> {
    let checkpoint = args.model.open()?;
    let tokenizer = args.model.tokenizer(&checkpoint)?;
    let format = ChatFormat::new(args.chat_format, &checkpoint, &tokenizer)?;
    let mut stop_tokens = tokenizer.stop_tokens();
    stop_tokens.extend(&checkpoint.generation.eos);
    let mut machine = args.model.machine();
    let given: Vec<Given> = args.adapter.iter().map(|named| named.given.clone()).collect();
    let Loaded { model, context, .. } =
        args.model.load_for_many(&mut machine, &checkpoint, args.cache_tokens, &given)?;
    let n_cache = model.kv_shape().n_pages * puna_llama::PAGE_LEN;
    let describe = model.describe();
    let pulse = Arc::new(Pulse::default());
    let engine = Engine::new(pulse.watch(model), context);
    let guesses = (!args.no_speculation).then(|| speculator(vec![Box::new(PromptLookup::new())]));
    let limits = BatchLimits { max_running: usize::from(args.parallel), ..BatchLimits::default() };
    let limits_of_all = ServiceLimits {
        requests: usize::from(args.parallel) + args.queue,
        tokens: args.queue_tokens.unwrap_or(8 * n_cache),
    };
    let service = Service::start(Batcher::new(engine, guesses, limits), pulse, limits_of_all);
    let path = &args.model.model;
    let default_name = || path.canonicalize().ok()?.file_stem()?.to_str().map(str::to_owned);
    let name = match &args.name {
        Some(name) => name.clone(),
        None if builtin::is_meant(path) => builtin::NAME.to_owned(),
        None => default_name().context("--name: expected a name for the model, whose file has none in Unicode")?,
    };
    let adapters: Vec<String> = args.adapter.iter().map(|named| named.name.clone()).collect();
    let mut names: Vec<&String> = adapters.iter().chain([&name]).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("--adapter: expected names that differ from one another and from the model's, found {:?} twice", pair[0]);
    }
    eprintln!("{describe} · context {context} tokens · cache {n_cache} tokens · chat format: {}", format.describe());
    let formats = formats(&checkpoint);
    let most = formats.iter().max_by_key(|(_, (_, bytes))| *bytes);
    let about = About {
        n_parameters: n_weights(&checkpoint),
        n_bytes: checkpoint.tensor_bytes(),
        format: most.map_or(String::new(), |(format, _)| format.to_string()),
    };
    Ok(app::Model {
        name,
        adapters,
        service,
        tokenizer: Arc::new(tokenizer),
        stop_tokens,
        format: Box::new(format),
        sampling: sampling::recommended(&checkpoint),
        about,
    })
}

/// Waits until somebody asks the server to end.
async fn shutdown() {
    #[cfg(unix)]
    {
        let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate()).expect("a handler can be set");
        tokio::select! {
            result = signal::ctrl_c() => result.expect("a handler can be set"),
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    signal::ctrl_c().await.expect("a handler can be set");
    eprintln!("ending; answers that are being made may end within 30 s");
}
