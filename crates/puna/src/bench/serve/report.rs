//! What became of loads, as tables and as JSON.

use super::load::{Arrivals, Measured, Times};
use crate::show;
use serde_json::{Value, json};

/// For people; times in milliseconds.
pub fn to_tables(measured: &[Measured]) -> String {
    let header = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut amounts = vec![header(&[
        "load",
        "in common",
        "prompt",
        "cached",
        "answer",
        "answered",
        "refused",
        "failed",
        "requests/s",
        "tokens/s",
        "× first",
    ])];
    let mut times = vec![header(&[
        "milliseconds to",
        "first token: p50",
        "p95",
        "p99",
        "× first",
        "next token: p50",
        "p95",
        "p99",
        "end: p50",
        "p99",
        "refusal: p50",
        "p99",
    ])];
    for of in measured {
        let speed = of.tokens_per_second();
        amounts.push(vec![
            of.load.arrivals.to_string(),
            format!("{:.0} %", 100.0 * of.load.shared),
            format!("{:.0}", of.mean(of.prompt_tokens)),
            format!("{:.0}", of.mean(of.cached_tokens)),
            format!("{:.0}", of.mean(of.answer_tokens)),
            of.answered.to_string(),
            of.refused.to_string(),
            of.failed.to_string(),
            format!("{:.2}", of.requests_per_second()),
            format!("{speed:.1}"),
            ratio(Some(speed), Some(measured[0].tokens_per_second())),
        ]);
        let first = of.first.quantile(0.5);
        times.push(vec![
            of.load.arrivals.to_string(),
            milliseconds(first),
            milliseconds(of.first.quantile(0.95)),
            milliseconds(of.first.quantile(0.99)),
            ratio(first, measured[0].first.quantile(0.5)),
            milliseconds(of.between.quantile(0.5)),
            milliseconds(of.between.quantile(0.95)),
            milliseconds(of.between.quantile(0.99)),
            milliseconds(of.whole.quantile(0.5)),
            milliseconds(of.whole.quantile(0.99)),
            milliseconds(of.refusal.quantile(0.5)),
            milliseconds(of.refusal.quantile(0.99)),
        ]);
    }
    format!("{}\n{}", show::table(&amounts, 1), show::table(&times, 1))
}

fn milliseconds(seconds: Option<f64>) -> String {
    match seconds.map(|seconds| 1e3 * seconds) {
        None => "–".to_owned(),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

fn ratio(value: Option<f64>, first: Option<f64>) -> String {
    match (value, first) {
        (Some(value), Some(first)) if first > 0.0 => format!("{:.2}", value / first),
        _ => "–".to_owned(),
    }
}

/// For programs; times in seconds.
pub fn to_json(model: &str, measured: &[Measured]) -> Value {
    let times =
        |times: &Times| json!({ "p50": times.quantile(0.5), "p95": times.quantile(0.95), "p99": times.quantile(0.99) });
    let one = |of: &Measured| {
        let (clients, rate) = match of.load.arrivals {
            Arrivals::Clients(n) => (Some(n), None),
            Arrivals::Rate(rate) => (None, Some(rate)),
        };
        json!({
            "concurrency": clients,
            "rate": rate,
            "shared": of.load.shared,
            "requests": of.load.n_requests,
            "answered": of.answered,
            "refused": of.refused,
            "failed": of.failed,
            "seconds": of.seconds,
            "prompt_tokens": of.prompt_tokens,
            "cached_prompt_tokens": of.cached_tokens,
            "generated_tokens": of.answer_tokens,
            "requests_per_second": of.requests_per_second(),
            "tokens_per_second": of.tokens_per_second(),
            "first_token": times(&of.first),
            "next_token": times(&of.between),
            "end": times(&of.whole),
            "refusal": times(&of.refusal),
        })
    };
    json!({ "model": model, "loads": measured.iter().map(one).collect::<Vec<_>>() })
}
