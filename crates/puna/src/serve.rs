//! `puna serve`: a model behind the APIs that clients know.

use crate::builtin;
use crate::served::{QueueArgs, ServedArgs};
use anyhow::{Context, Result, bail};
use puna_serve::app::App;
use puna_serve::guard::Guard;
use puna_serve::server::{self, Limits};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal;

/// Serve a model to every program that speaks OpenAI's API
///
/// Listens on this machine alone. Where no model is named, cria answers, a small one in the program itself.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |model| model.index(1).required(false).default_value(builtin::NAME)),
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
    served: ServedArgs,
    /// Address to listen on
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
}

pub fn run(args: Args) -> Result<()> {
    if !args.host.is_loopback() {
        bail!(
            "--host: expected an address of this machine alone, such as 127.0.0.1, found {}; whoever reaches another could \
             use the model, and keys that would keep strangers out are not there yet",
            args.host
        );
    }
    let model = args.served.load(|n_cache| args.queue.limits(&args.served, n_cache))?;
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
