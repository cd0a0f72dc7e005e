//! `puna serve`: a model behind the APIs that clients know.

use crate::builtin;
use crate::home::DatabaseArgs;
use crate::prefix_cache::PrefixCache;
use crate::served::{QueueArgs, ServedArgs};
use anyhow::{Context, Result, bail};
use puna_interpreter::Interpreter;
use puna_serve::access::Access;
use puna_serve::app::App;
use puna_serve::builtin::{BRAVE_SEARCH, BuiltinTools, CODE_INTERPRETER, Endpoint, WOLFRAM_ALPHA};
use puna_serve::guard::Guard;
use puna_serve::server::{self, Limits, Listener};
use puna_serve::store::Store;
use puna_serve::time::Time;
use puna_serve::tls::Tls;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Serve a model to every program that speaks OpenAI's API
///
/// Listens on this machine alone, unless --host says otherwise; then whoever asks needs a key (`puna key new`). Where no model
/// is named, cria answers, a small one in the program itself.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |model| model.index(1).required(false).default_value(builtin::NAME)),
    after_help = "\
Examples:
  puna serve
  puna serve ./Llama-3.1-8B-Instruct --port 8000
  puna serve ./model.gguf --name llama --adapter support=./my-adapter
  puna serve --require-key --offline
  puna serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --allow-host llama.example.org
  puna serve --tool code_interpreter --tool brave_search=http://127.0.0.1:9000/search
  curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'"
)]
pub struct Args {
    #[command(flatten)]
    served: ServedArgs,
    /// Address to listen on; 0.0.0.0 or :: for all of this machine's, which needs keys
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// Port to listen on; 0 for any that is free
    #[arg(long, default_value_t = 8080)]
    port: u16,
    #[command(flatten)]
    queue: QueueArgs,
    /// A name under which the server may be called, besides localhost and addresses; may be given several times
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// A site whose pages may call the server, e.g. https://example.org; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Answers only those who have a key (`puna key new`), also on this machine
    #[arg(long)]
    require_key: bool,
    /// What keys have in common in their prompts is computed once for all, and they take turns as one; then the time of an
    /// answer can tell whether another key asked the same
    #[arg(long)]
    share_prefixes: bool,
    /// Encrypts connections: a certificate, and those behind it that vouch for it, in PEM; read again on SIGHUP
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The system refuses whatever connection this program would open (Linux)
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    /// A file in which the prefix cache outlives the server: read at its start, written at its end. It holds what people wrote,
    /// and is for your eyes alone
    #[arg(long, value_name = "FILE")]
    prefix_cache: Option<PathBuf>,
    /// A tool of Llama's own that the server runs for requests that ask for it; may be given several times:
    /// code_interpreter, in a sandbox, with the Python that is named or python3; brave_search=URL and wolfram_alpha=URL, by a
    /// program of yours that listens on this machine
    #[arg(long, value_name = "NAME[=PYTHON|=URL]")]
    tool: Vec<Tool>,
}

/// A tool that is turned on.
#[derive(Clone)]
enum Tool {
    Code(PathBuf),
    Search(Endpoint),
    Maths(Endpoint),
}

impl FromStr for Tool {
    type Err = String;

    fn from_str(text: &str) -> Result<Tool, String> {
        match text.split_once('=') {
            None if text == CODE_INTERPRETER => Ok(Tool::Code("python3".into())),
            Some((CODE_INTERPRETER, python)) => Ok(Tool::Code(python.into())),
            Some((BRAVE_SEARCH, url)) => Ok(Tool::Search(url.parse()?)),
            Some((WOLFRAM_ALPHA, url)) => Ok(Tool::Maths(url.parse()?)),
            _ => Err(format!(
                "expected {CODE_INTERPRETER}, {CODE_INTERPRETER}=PYTHON, {BRAVE_SEARCH}=URL or {WOLFRAM_ALPHA}=URL"
            )),
        }
    }
}

pub fn run(args: Args) -> Result<()> {
    if args.offline {
        // Before there is any thread, or a file was opened that somebody else wrote.
        puna_interpreter::go_offline().context("--offline")?;
        eprintln!("offline: the system refuses whatever connection this program would open");
    }
    let tls = args.tls_cert.as_deref().zip(args.tls_key.as_deref());
    let tls = tls.map(|(certificate, key)| Tls::open(certificate, key)).transpose()?.map(Arc::new);
    let access = access(&args)?;
    let tools = tools(&args)?;
    let limits = |n_cache| args.queue.limits(&args.served, n_cache);
    let (model, prefix_cache) = args.served.load_with(limits, args.prefix_cache.as_deref())?;
    if !args.tool.is_empty() && !model.knows_builtin_tools() {
        bail!(
            "--tool: expected a model that is talked to in Llama 3.1's format as its template has it, which has words for \
             these tools, found another"
        );
    }
    let app = Arc::new(App::new(model).with_access(access).with_tools(tools));
    let served = app.clone();
    let guard = Guard { hosts: args.allow_host, origins: args.allow_origin, ..Guard::default() };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("threads for connections")?;
    runtime.block_on(async {
        let address = (args.host, args.port);
        let tcp = TcpListener::bind(address)
            .await
            .with_context(|| format!("listening on {} port {}; --port takes another", args.host, args.port))?;
        let address = tcp.local_addr()?;
        if tls.is_none() && !args.host.is_loopback() {
            eprintln!(
                "warning: connections are not encrypted, so whoever is on the way can read texts and keys; \
                 --tls-cert and --tls-key encrypt them"
            );
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let names = app.names().collect::<Vec<_>>().join(", ");
        let keys = if app.access.needs_key() { " · to those who have a key" } else { "" };
        let listener = match tls {
            None => tcp.into(),
            Some(tls) => {
                #[cfg(unix)]
                tokio::spawn(reload(tls.clone(), handler(SignalKind::hangup())));
                Listener::encrypted(tcp, tls)
            }
        };
        let shutdown = shutdown();
        // Programs wait for this line: it comes when connections and signals are waited for, and in one piece.
        let line = format!("serving {names} on {scheme}://{address}{keys} · Ctrl-C ends\n");
        std::io::stderr().write_all(line.as_bytes())?;
        server::serve(listener, app, guard, Limits::default(), shutdown).await?;
        match prefix_cache {
            Some(prefix_cache) => keep(prefix_cache, served).await,
            None => Ok(()),
        }
    })
}

/// Keeps the prefix cache, unless somebody asks once more that the server ends.
async fn keep(prefix_cache: PrefixCache, app: Arc<App>) -> Result<()> {
    let stopped = Arc::new(AtomicBool::new(false));
    let stops = stopped.clone();
    let mut keeping = tokio::task::spawn_blocking(move || prefix_cache.keep(&app.model.service, stops));
    tokio::select! {
        kept = &mut keeping => return kept?,
        () = shutdown() => stopped.store(true, Ordering::Relaxed),
    }
    keeping.await?
}

/// Who may ask.
fn access(args: &Args) -> Result<Access> {
    let path = args.database.path()?;
    if args.host.is_loopback() && !args.require_key {
        return match Store::open(&path) {
            Ok(store) => Ok(Access::recorded(store)),
            // Nothing hangs on it, unless somebody named the file.
            Err(error) if !args.database.is_given() => {
                eprintln!("warning: usage is not recorded, and the page can't keep conversations: {error}");
                Ok(Access::open())
            }
            Err(error) => Err(error.into()),
        };
    }
    let why = if args.require_key { "--require-key".to_owned() } else { format!("--host {}", args.host) };
    let store = Store::open(&path).with_context(|| format!("{why}: the keys of those who may ask"))?;
    if !store.keys().has_usable(Time::now()) {
        bail!(
            "{why}: expected a key, without which nobody may ask, found none in {}; `puna key new --name NAME` makes one",
            path.display()
        );
    }
    Ok(Access::by_key(store, args.share_prefixes)?)
}

/// Reads the certificate again whenever somebody says that there is a new one.
#[cfg(unix)]
async fn reload(tls: Arc<Tls>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let tls = tls.clone();
        // It reads files.
        match tokio::task::spawn_blocking(move || tls.reload()).await.expect("it does not panic") {
            Ok(()) => eprintln!("the certificate was read again"),
            Err(error) => eprintln!("the certificate stays as it was: {error}"),
        }
    }
}

/// Makes the tools ready that are turned on.
fn tools(args: &Args) -> Result<BuiltinTools> {
    let (mut interpreter, mut search, mut maths) = (None, None, None);
    for tool in &args.tool {
        let twice = match tool {
            Tool::Code(python) => interpreter.replace(python).is_some(),
            Tool::Search(endpoint) => search.replace(endpoint.clone()).is_some(),
            Tool::Maths(endpoint) => maths.replace(endpoint.clone()).is_some(),
        };
        if twice {
            bail!("--tool: expected each tool once, found one twice");
        }
    }
    if args.offline && (search.is_some() || maths.is_some()) {
        bail!("--tool: expected no tool beside --offline that asks another program, whose address is a URL");
    }
    let start = |python: &PathBuf| {
        let limits = puna_interpreter::Limits::default();
        let interpreter = Interpreter::start(Path::new("/proc/self/exe"), python, limits)
            .context("--tool code_interpreter: code can't be run safely on this machine")?;
        eprintln!("code interpreter: {}", interpreter.protections());
        anyhow::Ok(interpreter)
    };
    Ok(BuiltinTools::new(interpreter.map(start).transpose()?, search, maths))
}

/// Waits until somebody asks the server to end; under Unix from this call on, else from when it is first waited for.
fn shutdown() -> impl Future<Output = ()> {
    #[cfg(unix)]
    let asked = {
        let (mut interrupt, mut terminate) = (handler(SignalKind::interrupt()), handler(SignalKind::terminate()));
        async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
    };
    #[cfg(not(unix))]
    let asked = async { tokio::signal::ctrl_c().await.expect("a handler can be set") };
    async move {
        asked.await;
        eprintln!("ending; answers that are being made may end within 30 s");
    }
}

/// What is told of each signal of a kind, from now on.
#[cfg(unix)]
fn handler(kind: SignalKind) -> Signal {
    signal(kind).expect("a handler can be set")
}
