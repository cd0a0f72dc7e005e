//! `puna bench serve`: loads on a server of its own and on one that runs.
#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{Files, puna, text};
use serde_json::Value;
use std::fs;

fn bench(args: &[&str]) -> model::Run {
    let own = ["bench", "serve", "--threads", "2", "--context", "1024", "-p", "120", "-n", "8"];
    puna(&[&own, args].concat())
}

fn count(load: &Value, of: &str) -> u64 {
    load[of].as_u64().unwrap_or_else(|| panic!("{of}: {load}"))
}

#[test]
fn loads_are_brought_and_measured() {
    let files = Files::new();
    let plot = files.path("load.svg");
    let args = ["--concurrency", "1,3", "--shared", "0,0.8", "--requests", "6", "--json", "--plot", text(&plot)];
    let measured = bench(&args).json();
    assert_eq!(measured["model"], "cria");
    let loads = measured["loads"].as_array().unwrap();
    assert_eq!(loads.len(), 4);
    for load in loads {
        assert_eq!(["answered", "refused", "failed"].map(|what| count(load, what)), [6, 0, 0], "{load}");
        assert_eq!(count(load, "generated_tokens"), 6 * 8);
        // A word may take more than one token of this vocabulary.
        assert!((6 * 110..=6 * 130).contains(&count(load, "prompt_tokens")), "{load}");
        assert!(load["first_token"]["p50"].as_f64() <= load["first_token"]["p99"].as_f64());
        assert!(load["next_token"]["p95"].is_number() && load["refusal"]["p99"].is_null(), "{load}");
    }
    let cached = |load: usize| count(&loads[load], "cached_prompt_tokens");
    assert!(cached(2) >= 6 * 64 && cached(2) > cached(0), "{measured}");
    assert!(fs::read_to_string(&plot).unwrap().contains("3 clients, 80 % of prompts in common"));
    bench(&args).refused(&["load.svg: the file exists", "--force"]);
}

#[test]
fn what_is_too_much_is_refused() {
    let few = ["--parallel", "2", "--queue", "1"];
    let over = ["--concurrency", "2", "--requests", "4", "--overload", "100", "--json"];
    let measured = bench(&[&few[..], &over].concat()).json();
    let [best, over] = &measured["loads"].as_array().unwrap()[..] else { panic!("{measured}") };
    assert_eq!(count(best, "answered"), 4);
    assert_eq!(count(over, "requests"), 400);
    assert_eq!(count(over, "answered") + count(over, "refused"), 400, "{over}");
    assert!(count(over, "refused") > 0 && over["refusal"]["p99"].is_number(), "{over}");
    let shown = bench(&["--rate", "1000", "--requests", "5", "--spread", "0.5"]).succeeded();
    assert!(shown.stdout.contains("1000.000 a second") && shown.stdout.contains("tokens/s"), "{shown}");
}

#[test]
fn only_servers_of_this_machine_are_asked() {
    for url in ["http://10.0.0.1:8080", "https://127.0.0.1:8080", "http://example.org"] {
        puna(&["bench", "serve", "--url", url]).misused(&["--url", "expected an address of this machine"]);
    }
    puna(&["bench", "serve", "--url", "http://127.0.0.1:1"]).refused(&["connecting to http://127.0.0.1:1"]);
    for more in [["--parallel", "3"], ["--context", "64"], ["--queue", "3"]] {
        puna(&[&["bench", "serve", "--url", "http://127.0.0.1:1"], &more[..]].concat()).misused(&["--url", more[0]]);
    }
    puna(&["bench", "serve", "cria", "--url", "http://127.0.0.1:1"]).misused(&["--url"]);
    // Behind options of its own, the other one takes it for a model.
    puna(&["bench", "-p", "4", "serve"]).refused(&["serve: "]);
}
