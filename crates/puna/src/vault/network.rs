//! How verbs of the vault reach other machines. No other verbs do.

use anyhow::{Context, Result};
use puna_vault::http::{Http, Options, Patience};
use puna_vault::hub::{ENDPOINT, find_token};
use puna_vault::pull::Access;
use std::path::PathBuf;

/// What the command line says of connections. Proxies are those of the environment: HTTPS_PROXY, ALL_PROXY, NO_PROXY.
#[derive(clap::Args)]
pub struct NetworkArgs {
    /// The hub, or a mirror of it [default: HF_ENDPOINT, or the hub itself]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// A PEM file of certificates to trust beside the system's, for a proxy or a mirror
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Allow plain http to this host, which everybody on the way can read and change; may be given several times
    #[arg(long, value_name = "HOST")]
    plain_http: Vec<String>,
}

impl NetworkArgs {
    /// The client, and the user's token where the hub's own programs keep it. Tells on standard error what is waited for.
    pub fn access(&self, patience: Patience) -> Result<Access> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let options = Options {
            extra_ca: self.ca.clone(),
            plain_hosts: self.plain_http.clone(),
            patience,
            on_wait: std::sync::Arc::new(|wait| {
                eprintln!(
                    "note: {}; again in {:.0} s",
                    crate::show::one_line(&wait.why),
                    wait.wait.as_secs_f64().ceil()
                );
            }),
            ..Options::default()
        };
        let token = find_token(set).context("the token for the hub")?.map(|(token, _)| token);
        let endpoint = self.endpoint.clone().or_else(|| set("HF_ENDPOINT"));
        Ok(Access { http: Http::new(options)?, endpoint: endpoint.unwrap_or_else(|| ENDPOINT.to_owned()), token })
    }
}
