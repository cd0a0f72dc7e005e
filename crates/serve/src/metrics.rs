//! What is measured, for Prometheus; under vLLM's names where it has one, so that dashboards and routers made for it work.

use crate::app::App;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// Counters and histograms of all requests.
pub struct Metrics {
    /// Seconds from a request to its first token.
    pub first_token: Histogram,
    /// Seconds between tokens.
    pub next_token: Histogram,
    /// Seconds from a request to its end.
    pub whole: Histogram,
    /// Responses.
    pub responses: Family<Vec<(&'static str, String)>, Counter>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        // From a millisecond to a quarter of an hour.
        let histogram = || Histogram::new(exponential_buckets(1e-3, 2.0, 20));
        Metrics { first_token: histogram(), next_token: histogram(), whole: histogram(), responses: Family::default() }
    }
}

impl Metrics {
    /// Counts a response.
    pub fn count(&self, endpoint: &str, status: u16) {
        self.responses.get_or_create(&vec![("endpoint", endpoint.to_owned()), ("status", status.to_string())]).inc();
    }
}

/// All metrics in Prometheus' text format.
pub fn render(app: &App) -> String {
    let status = app.model.service.status();
    let mut registry = Registry::default();
    let mut gauge = |name: &str, help: &str, value: f64| {
        let gauge: Gauge<f64, AtomicU64> = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    let load = status.load;
    gauge("vllm:num_requests_running", "Requests that are being computed", load.running as f64);
    gauge("vllm:num_requests_waiting", "Requests that wait", load.waiting as f64);
    let usage = load.used_pages as f64 / load.n_pages.max(1) as f64;
    gauge("vllm:kv_cache_usage_perc", "Share of the KV cache's pages that requests have", usage);
    gauge("puna:kv_cache_idle_pages", "Pages that hold texts which may come again", load.idle_pages as f64);
    gauge("puna:queued_tokens", "Tokens that requests in work and waiting may take", status.tokens as f64);
    gauge("puna:engine_alive", "1 while the engine runs", f64::from(u8::from(status.alive)));
    let mut count = |name: &str, help: &str, value: u64| {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    count("vllm:prompt_tokens", "Prompt tokens computed", status.prompt_tokens);
    count("vllm:generation_tokens", "Tokens generated", status.generated_tokens);
    count("vllm:prefix_cache_hits", "Prompt tokens found in the cache", status.cached_tokens);
    count("vllm:prefix_cache_queries", "Prompt tokens", status.cached_tokens + status.prompt_tokens);
    count("puna:forward_passes", "Forward passes", status.passes);
    count("puna:damaged_logits", "Requests that failed because logits were not finite", status.damaged);
    let faults = app.access.faults();
    count("puna:lost_usage_records", "Requests whose usage could not be written", faults.lost_records);
    let metrics = &app.metrics;
    let histograms = [
        ("vllm:time_to_first_token_seconds", "From a request to its first token", &metrics.first_token),
        ("vllm:inter_token_latency_seconds", "Between two tokens of an answer", &metrics.next_token),
        ("vllm:e2e_request_latency_seconds", "From a request to its end", &metrics.whole),
    ];
    for (name, help, histogram) in histograms {
        registry.register(name, help, histogram.clone());
    }
    registry.register("puna:responses", "Responses by endpoint and status", metrics.responses.clone());
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing to a string can't fail");
    text
}
