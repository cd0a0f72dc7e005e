//! One answer and what else is asked of a model once: fields of the JSON, equal answers, where output goes.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod model;

use model::{CONTEXT, DATE, Files, SPECIALS, VOCAB, binary, puna, run, text};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

const DATED: [&str; 2] = ["--date", DATE];

/// The object of `puna run --json`.
#[track_caller]
fn answer(model: &Path, args: &[&str]) -> Value {
    let is_chat = !args.iter().any(|arg| ["--raw", "--ids-file"].contains(arg));
    let dated = if is_chat { &DATED[..] } else { &[] };
    puna(&[&["run", text(model), "--json"], dated, args].concat()).json()
}

fn ids(answer: &Value) -> Vec<u32> {
    answer["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap().try_into().unwrap()).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_fields_of_an_answer() {
    let files = Files::new();
    let model = files.model("m.gguf", "Q8_0");
    let answer = answer(&model, &["Hello", "--temperature", "0", "--max-tokens", "9", "--ignore-eos"]);
    let fields: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["ids", "text", "prompt_tokens", "completion_tokens", "finish_reason", "timings"]);
    assert_eq!(ids(&answer).len(), 9);
    assert!(ids(&answer).iter().all(|id| *id < VOCAB));
    assert_eq!((&answer["completion_tokens"], &answer["finish_reason"]), (&9.into(), &"length".into()));
    assert!(answer["prompt_tokens"].as_u64().unwrap() > 5, "{answer}");
    assert!(!answer["text"].as_str().unwrap().is_empty());
    let timings = &answer["timings"];
    for figure in ["prefill_seconds", "prefill_tokens_per_second", "decode_seconds", "decode_tokens_per_second"] {
        assert!(number(&timings[figure]) > 0.0, "{figure}: {answer}");
    }
    // Two pages of keys and values, beside the weights, for each of the eight tokens that were computed.
    assert!((64..=120).contains(&answer["prompt_tokens"].as_u64().unwrap()), "{answer}");
    let inspect = puna(&["inspect", text(&model), "--json"]).json();
    let tensors = inspect["tensors"].as_array().unwrap();
    let embedding = tensors.iter().find(|tensor| tensor["name"] == "token_embedding").unwrap();
    let weights = number(&inspect["tensor_bytes"]) - number(&embedding["bytes"]);
    let kv = 2.0 * number(&inspect["memory"][0]["kv"]["f16"]) / (CONTEXT / 64) as f64;
    let read = number(&timings["decode_bytes_per_second"]);
    let expected = 8.0 * (weights + kv) / number(&timings["decode_seconds"]);
    assert!((read / expected - 1.0).abs() < 1e-9, "{read} {expected} {answer}");
    let share = read / number(&timings["read_bandwidth"]);
    assert!((number(&timings["share_of_bandwidth"]) / share - 1.0).abs() < 1e-9, "{answer}");
}

/// One token needs no pass after the prompt's, so there is no speed to tell.
#[test]
fn an_answer_of_one_token_has_no_speed() {
    let files = Files::new();
    let model = files.model("m.gguf", "Q8_0");
    let args = ["Hello", "--temperature", "0", "--max-tokens", "1", "--ignore-eos"];
    let timings = &answer(&model, &args)["timings"];
    for figure in ["decode_bytes_per_second", "read_bandwidth", "share_of_bandwidth"] {
        assert_eq!(timings[figure], Value::Null, "{figure}: {timings}");
    }
    let shown = puna(&[&["run", text(&model)], &args[..]].concat()).succeeded();
    assert!(shown.stderr.ends_with("answer 1 tokens\n"), "{shown}");
}

#[test]
fn equal_prompts_and_seeds_give_equal_answers() {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    let fixed = ["Hello", "--threads", "1", "--max-tokens", "40", "--ignore-eos"];
    let with = |args: &[&str]| ids(&answer(&model, &[&fixed, args].concat()));
    let hot = ["--temperature", "1.5", "--top-p", "1", "--seed"];
    let greedy = with(&["--temperature", "0"]);
    assert_eq!(greedy, with(&["--temperature", "0", "--seed", "5"]));
    let drawn = with(&[&hot[..], &["1"]].concat());
    assert_eq!(drawn, with(&[&hot[..], &["1"]].concat()));
    assert_ne!(drawn, with(&[&hot[..], &["2"]].concat()));
    assert_ne!(drawn, greedy);
    assert_eq!(with(&["--temperature", "3", "--top-k", "1"]), greedy, "the most probable token alone is left");
    let biased = with(&["--temperature", "0", "--logit-bias", "77=1000"]);
    assert_eq!(biased, [77; 40]);
}

/// Guesses, whoever makes them, change an answer's speed and nothing else.
#[test]
fn speculation_changes_no_answer() {
    let files = Files::new();
    // The same random weights in fewer bits: often right, and cheap enough to be tried.
    let draft = files.model("draft.gguf", "Q4_0");
    let words = "one two three one two three ".repeat(4);
    for format in ["F16", "Q8_0"] {
        let model = files.model("m.gguf", format);
        let with = |args: &[&str]| {
            let fixed = [words.as_str(), "--ignore-eos", "--threads", "2", "--max-tokens", "150"];
            answer(&model, &[&fixed, args].concat())
        };
        let sampled = [
            &["--temperature", "0.4", "--seed", "3", "--repetition-penalty", "1.05", "--frequency-penalty", "0.01"][..],
            &["--top-p", "0.8", "--logit-bias", "70=2", "--kv", "q8_0"],
        ];
        for sampling in [vec!["--temperature", "0"], sampled.concat()] {
            let plain = with(&[&["--speculate", "off"], &sampling[..]].concat());
            assert_eq!(plain["timings"]["drafted_tokens"], 0);
            assert_eq!(plain["timings"]["acceptance_rate"], Value::Null);
            for how in [
                &[][..],
                &["--speculate", "lookup"],
                &["--draft", text(&draft)],
                &["--draft", text(&draft), "--speculate", "draft"],
            ] {
                let speculated = with(&[how, &sampling].concat());
                for field in ["ids", "text", "prompt_tokens", "finish_reason"] {
                    assert_eq!(plain[field], speculated[field], "{format} {how:?} {sampling:?}");
                }
                let figure = |name: &str| speculated["timings"][name].as_u64().unwrap();
                assert!(figure("accepted_tokens") <= figure("drafted_tokens"), "{speculated}");
                assert!(figure("drafted_tokens") > 0, "{format} {how:?} {speculated}");
            }
        }
    }
    let [model, draft] = [text(&files.path("m.gguf")), text(&draft)].map(str::to_owned);
    let rest = ["--speculate", "draft", "--temperature", "0", "--max-tokens", "30"];
    let shown = puna(&[&["run", &model, "Hello", "--ignore-eos", "--draft", &draft], &rest[..]].concat()).succeeded();
    assert_eq!(shown.stderr.lines().count(), 1, "{shown}");
    assert!(shown.stderr.contains(" drafted tokens accepted, "), "{shown}");
}

/// `puna` with these arguments, and where the rest of its answer, which has begun, can be read.
fn answering(args: &[&str]) -> (Child, ChildStdout) {
    let mut command = binary();
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    (child, stdout)
}

/// Two pools' threads would wait for work at the same time, on the same cores.
#[cfg(target_os = "linux")]
#[test]
fn a_draft_model_computes_on_the_same_threads() {
    let files = Files::new();
    let shape = model::SHAPE.replace("512", "65536");
    let model = files.model_of(&shape, "m.gguf", "Q8_0");
    let draft = files.model_of(&shape, "draft.gguf", "Q4_0");
    let args = ["run", text(&model), "Hello", "--draft", text(&draft), "--threads", "3", "--ignore-eos"];
    let (mut child, stdout) = answering(&args);
    let workers = || -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
        names.filter(|name| name.starts_with("puna-cpu")).collect()
    };
    // A thread has its name once it has run, and on a busy machine others do its work until then.
    let deadline = Instant::now() + Duration::from_secs(30);
    while workers().len() < 2 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let workers = workers();
    drop(stdout);
    assert_eq!(model::wait(&mut child, "puna run"), Some(0));
    assert_eq!(workers.len(), 2, "beside the main thread: {workers:?}");
}

#[test]
fn drafts_that_do_not_fit_are_refused() {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    let larger = files.model_of(&model::SHAPE.replace("1024", "1280"), "larger.gguf", "F16");
    let run = |args: &[&str]| puna(&[&["run", text(&model), "Hello"], args].concat());
    run(&["--draft", text(&larger)]).refused(&["draft model", "larger.gguf", "m.gguf", "token 768", "found"]);
    run(&["--draft", "nowhere.gguf"]).refused(&["nowhere.gguf"]);
    run(&["--draft", text(&model), "--speculate", "off"]).refused(&["--draft: expected --speculate auto", "found off"]);
    run(&["--draft", text(&model), "--speculate", "lookup"]).refused(&["found lookup"]);
    run(&["--speculate", "draft"]).misused(&["--draft"]);
    run(&["--speculate", "always"]).misused(&["auto", "lookup", "draft", "off"]);
    // One of a shorter context helps as far as it goes.
    let short = files.model_of(&model::SHAPE.replace("512", "64"), "short.gguf", "F16");
    let rest = ["--temperature", "0", "--ignore-eos", "--json"];
    let [plain, drafted] = [&[][..], &["--draft", text(&short)]].map(|args| run(&[args, &rest].concat()).json());
    assert_eq!(plain["ids"], drafted["ids"]);
}

/// Whatever the number of threads and the size of the prompt's chunks: the same sums in the same order.
#[test]
fn threads_and_chunks_change_no_bit() {
    let files = Files::new();
    for format in ["BF16", "Q4_0"] {
        let model = files.model("m.gguf", format);
        let prompt = files.write("ids.json", format!("{:?}", (0..60).map(|i| i * 37 % VOCAB).collect::<Vec<_>>()));
        for kv in ["f16", "f32", "q8_0"] {
            let logits = |threads: &str, chunk: &str| {
                let out = files.path("logits.safetensors");
                let score = ["score", text(&model), "--kv", kv, "--threads", threads, "--chunk", chunk];
                let rest = ["--ids-file", text(&prompt), "--logits", text(&out)];
                puna(&[&score[..], &rest].concat()).succeeded();
                fs::read(out).unwrap()
            };
            let expected = logits("1", "512");
            for (threads, chunk) in [("2", "512"), ("1", "1"), ("2", "7")] {
                assert!(expected == logits(threads, chunk), "{format} {kv} {threads} threads, chunks of {chunk}");
            }
            let greedy = |threads| {
                let rest = ["--kv", kv, "--threads", threads, "--max-tokens", "10", "--temperature", "0"];
                ids(&answer(&model, &[&["--ids-file", text(&prompt), "--ignore-eos"], &rest[..]].concat()))
            };
            assert_eq!(greedy("1"), greedy("2"), "{format} {kv}");
        }
    }
}

#[test]
fn standard_input_is_a_prompt() {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    let args = [&["run", text(&model), "--temperature", "0", "--max-tokens", "8"][..], &DATED].concat();
    let piped = run(binary().args(&args), b"Hello").succeeded();
    let given = puna(&[&args[..], &["Hello"]].concat()).succeeded();
    assert_eq!(piped.stdout, given.stdout);
    assert_ne!(piped.stdout, puna(&[&args[..], &["Goodbye"]].concat()).succeeded().stdout);
}

#[test]
fn answers_go_to_standard_output_and_figures_to_standard_error() {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    let args = ["Hello", "--temperature", "0", "--max-tokens", "8"];
    let shown = puna(&[&["run", text(&model)][..], &DATED, &args].concat()).succeeded();
    let text = answer(&model, &args)["text"].as_str().unwrap().to_owned();
    assert_eq!(shown.stdout, format!("{text}\n"));
    assert_eq!(shown.stderr.lines().count(), 1, "{shown}");
    for figure in
        ["prompt ", " tokens/s", "answer 8 tokens, ", " tokens/s · ", " GB/s, ", " % of what this memory gives"]
    {
        assert!(shown.stderr.contains(figure), "{shown}");
    }
}

#[test]
fn a_raw_text_is_its_ids_after_one_begin_token() {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    let prompt = "Once upon a <|eot_id|> time";
    let tokens = puna(&["tokenize", text(&model), prompt, "--bos", "--json"]).json();
    assert_eq!(ids(&tokens)[0], SPECIALS);
    assert!(ids(&tokens)[1..].iter().all(|id| *id < SPECIALS), "a text has no special tokens: {tokens}");
    let file = files.write("ids.json", tokens["ids"].to_string());
    let rest = ["--temperature", "0", "--max-tokens", "20"];
    let raw = answer(&model, &[&["--raw", prompt], &rest[..]].concat());
    let of_ids = answer(&model, &[&["--ids-file", text(&file)], &rest[..]].concat());
    assert_eq!(ids(&raw), ids(&of_ids));
    assert_eq!(raw["prompt_tokens"], ids(&tokens).len());
    assert_eq!(raw["text"], of_ids["text"]);
}

#[test]
fn where_answers_end() {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    let with = |args: &[&str]| answer(&model, &[&["Hello", "--threads", "1", "--temperature", "0"], args].concat());
    let long = with(&["--max-tokens", "40", "--logit-bias", "77=1000", "--logit-bias", "78=999"]);
    let token = puna(&["tokenize", text(&model), "n"]).succeeded();
    assert!(token.stdout.contains("77"), "{token}");
    assert_eq!(long["text"], "n".repeat(40));

    // A stop string across tokens: nothing of it is in the answer.
    let seen = with(&["--max-tokens", "40", "--ignore-eos"])["text"].as_str().unwrap().to_owned();
    let middle: String = seen.chars().skip(9).take(5).collect();
    let stopped = with(&["--max-tokens", "40", "--ignore-eos", "--stop", "never said", "--stop", &middle]);
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["text"], seen[..seen.find(&middle).unwrap()]);
    assert!(ids(&stopped).len() < 40);

    // The model's own end tokens: they are counted, and are no text.
    for end in [1, 8, 9] {
        let bias = format!("{}=1000", SPECIALS + end);
        let ended = with(&["--logit-bias", &bias]);
        assert_eq!((&ended["finish_reason"], &ended["text"]), (&"stop".into(), &"".into()), "{ended}");
        assert_eq!(ids(&ended), [SPECIALS + end]);
    }
    let bias = format!("{}=1000", SPECIALS + 9);
    let ignored = with(&["--logit-bias", &bias, "--ignore-eos", "--max-tokens", "2"]);
    assert_eq!((&ignored["finish_reason"], &ignored["text"]), (&"length".into(), &"<|eot_id|><|eot_id|>".into()));

    // The context is full.
    let full = with(&["--ignore-eos"]);
    assert_eq!(full["finish_reason"], "length");
    // The last token needs no place: nothing is computed after it.
    let n = full["prompt_tokens"].as_u64().unwrap() + full["completion_tokens"].as_u64().unwrap();
    assert_eq!(n, CONTEXT as u64 + 1);
    let none = with(&["--max-tokens", "0"]);
    assert_eq!((ids(&none).len(), &none["finish_reason"]), (0, &"length".into()));
}

/// `puna run … | head -c 1`.
#[cfg(unix)]
#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let files = Files::new();
    let shape = model::SHAPE.replace("512", "65536");
    let model = files.model_of(&shape, "m.gguf", "F16");
    let (mut child, stdout) = answering(&["run", text(&model), "Hello", "--temperature", "0", "--ignore-eos"]);
    drop(stdout);
    assert_eq!(model::wait(&mut child, "puna run"), Some(0));
}

#[test]
fn scores() {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    let prompt: Vec<u32> = (0..20).map(|i| i * 37 % VOCAB).collect();
    let (file, out) = (files.write("ids.json", format!("{prompt:?}")), files.path("logits.safetensors"));
    let args = ["score", text(&model), "--ids-file", text(&file)];
    let score = puna(&[&args[..], &["--json", "--logits", text(&out)]].concat()).json();
    let fields: Vec<&String> = score.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["nll", "perplexity", "tokens", "logprobs"]);
    let logprobs: Vec<f64> = score["logprobs"].as_array().unwrap().iter().map(number).collect();
    assert_eq!((logprobs.len(), &score["tokens"]), (19, &19.into()), "each but the first");
    let nll = -logprobs.iter().sum::<f64>() / 19.0;
    assert!((number(&score["nll"]) - nll).abs() < 1e-12, "{score}");
    assert!((number(&score["perplexity"]).ln() - nll).abs() < 1e-9);
    let shown = puna(&args).succeeded();
    assert!(shown.stdout.starts_with("19 tokens, negative log-likelihood "), "{shown}");
    assert!(shown.stdout.contains(&format!("{nll:.6}")), "{shown}");

    let bytes = fs::read(out).unwrap();
    let logits = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(logits.names(), ["logits"]);
    let logits = logits.tensor("logits").unwrap();
    assert_eq!((logits.dtype(), logits.shape()), (safetensors::Dtype::F32, &[20, VOCAB as usize][..]));
    let values: Vec<f64> =
        logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect();
    for ((row, next), logprob) in values.chunks_exact(VOCAB as usize).zip(&prompt[1..]).zip(&logprobs) {
        let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
        assert!((row[*next as usize] - sum.ln() - logprob).abs() < 1e-4);
    }
}

#[test]
fn texts_are_scored_in_windows() {
    let files = Files::new();
    let model = files.model("m.gguf", "F16");
    let words = "some words and then some more ".repeat(20);
    let file = files.write("a.txt", &words);
    let tokens = ids(&puna(&["tokenize", text(&model), &words, "--json"]).json());
    let score = |context: &str| {
        puna(&["score", text(&model), "--text-file", text(&file), "--context", context, "--json"]).json()
    };
    let scored = score("65");
    assert_eq!(scored["tokens"], tokens.len() / 64 * 64, "a last partial window is left out");
    // The first window, by its ids after the begin token.
    let window: Vec<u32> = [SPECIALS].into_iter().chain(tokens[..64].iter().copied()).collect();
    let window = files.write("ids.json", format!("{window:?}"));
    let of_ids = puna(&["score", text(&model), "--ids-file", text(&window), "--json"]).json();
    assert_eq!(of_ids["logprobs"].as_array().unwrap()[..], scored["logprobs"].as_array().unwrap()[..64]);
    assert_ne!(number(&score("33")["nll"]), number(&scored["nll"]));
}

#[test]
fn every_form_of_a_tokenizer_agrees() {
    let files = Files::new();
    let [gguf, hf] = [files.model("m.gguf", "F16"), files.model("hf", "F16")];
    let prompt = "Wie geht's? 1234567 <|eot_id|>\n\n  \u{1f600}\u{4f60}\u{597d}";
    let tokenize = |model: &Path| puna(&["tokenize", text(model), prompt, "--json"]).json();
    let expected = tokenize(&gguf);
    assert_eq!(expected["ids"].as_array().unwrap().len(), expected["tokens"].as_array().unwrap().len());
    assert_eq!(expected, tokenize(&hf));
    assert_eq!(expected, tokenize(&hf.join("tokenizer.json")));
    let piped = run(binary().args(["tokenize", text(&gguf), "--json"]), prompt.as_bytes()).json();
    assert_eq!(expected, piped);
    let shown = puna(&["tokenize", text(&gguf), "ab"]).succeeded();
    assert!(shown.stderr.ends_with("tokens, 2 bytes\n"), "{shown}");
}

#[test]
fn inspect_counts_every_byte() {
    let files = Files::new();
    for (name, format) in [("q.gguf", "Q4_0"), ("hf", "BF16")] {
        let model = files.model(name, format);
        let inspect = puna(&["inspect", text(&model), "--json"]).json();
        let sum = |list: &Value| -> u64 { list.as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum() };
        let bytes = inspect["tensor_bytes"].as_u64().unwrap();
        assert_eq!(sum(&inspect["tensors"]), bytes);
        let by_format = inspect["formats"].as_object().unwrap().values();
        assert_eq!(by_format.map(|format| format["bytes"].as_u64().unwrap()).sum::<u64>(), bytes);
        // 2 embeddings, 2 layers of 7 matrices and 2 norms, and the last norm.
        assert_eq!(inspect["tensors"].as_array().unwrap().len(), 2 + 2 * 9 + 1);
        let parameters = 2 * 1024 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64) + 64;
        assert_eq!(inspect["parameters"], parameters);
        // What the file has beside them: GGUF's factors of the rotary frequencies, the header, padding.
        let file = match name {
            "hf" => {
                let file = fs::read(model.join("model.safetensors")).unwrap();
                file.len() - 8 - u64::from_le_bytes(file[..8].try_into().unwrap()) as usize
            }
            _ => {
                let file = fs::read(&model).unwrap();
                let header = puna_checkpoint::gguf::Header::parse(&file).unwrap();
                header.tensors.iter().filter(|t| t.name != "rope_freqs.weight").map(|t| t.len as usize).sum()
            }
        };
        assert_eq!(file as u64, bytes, "{name}");
        let memory = &inspect["memory"][0];
        assert_eq!((&memory["context"], &memory["weights"]), (&CONTEXT.into(), &bytes.into()));
        // Keys and values of 2 layers, 32 each, in 2 bytes.
        assert_eq!(memory["kv"]["f16"], CONTEXT * 2 * 2 * 32 * 2);
        let shown = puna(&["inspect", text(&model), "--tensors"]).succeeded();
        assert!(shown.stdout.contains("layers.1.ffn.down"), "{shown}");
    }
}

#[test]
fn bench_measures() {
    let files = Files::new();
    let model = files.model("m.gguf", "Q8_0");
    let bench = |args: &[&str]| puna(&[&["bench", text(&model), "--repeats", "1"], args].concat());
    let measured = bench(&["-p", "8", "-n", "4", "--depth", "16", "--json"]).json();
    assert_eq!((&measured["depth"], &measured["repeats"]), (&16.into(), &1.into()));
    for figure in ["weight_bytes_per_token", "read_bandwidth", "f32_peak"] {
        assert!(number(&measured[figure]) > 0.0, "{figure}: {measured}");
    }
    let loading = &measured["loading"];
    assert!(number(&loading["seconds"]) > 0.0, "{measured}");
    assert_eq!(loading["bytes"], puna(&["inspect", text(&model), "--json"]).json()["tensor_bytes"]);
    // All matrices but the embedding, whose numbers of rows are multiples of 16: 34 bytes for 32 weights.
    let parameters = 1024 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64);
    assert_eq!(loading["repacked_bytes"], parameters / 32 * 34);
    let phases: [(&str, u64, &[&str]); 2] = [
        ("prefill", 8, &["flops", "share_of_f32_peak"]),
        ("decode", 4, &["kv_bytes_per_token", "bytes_per_second", "weight_bytes_per_second", "share_of_bandwidth"]),
    ];
    for (phase, tokens, figures) in phases {
        let phase = &measured[phase];
        assert_eq!(phase["tokens"], tokens);
        for figure in figures {
            assert!(number(&phase[figure]) > 0.0, "{figure}: {measured}");
        }
        let rate = ["slowest", "median", "fastest"].map(|figure| number(&phase["tokens_per_second"][figure]));
        assert!(0.0 < rate[0] && rate.is_sorted(), "{measured}");
    }
    let decode = bench(&["-p", "0", "-n", "2", "--json"]).json();
    assert_eq!((&decode["prefill"], &decode["decode"]["tokens"]), (&Value::Null, &2.into()));
    let shown = bench(&["-p", "2", "-n", "2"]).succeeded();
    assert_eq!(shown.stdout.lines().count(), 5, "{shown}");
    for figure in ["\nloading  ", " KiB repacked\n", " GB/s, ", " % of what this memory gives\n"] {
        assert!(shown.stdout.contains(figure), "{figure}: {shown}");
    }
    // Floats are read where they lie.
    let floats = files.model("floats.gguf", "F16");
    let measured = puna(&["bench", text(&floats), "--repeats", "1", "-p", "0", "-n", "2", "--json"]).json();
    assert_eq!(measured["loading"]["repacked_bytes"], 0);
}

#[test]
fn bench_measures_speculation() {
    let files = Files::new();
    let model = files.model("m.gguf", "Q8_0");
    let draft = files.model("draft.gguf", "Q4_0");
    let bench = |args: &[&str]| puna(&[&["bench", text(&model), "--repeats", "2"], args].concat());
    let small = ["-p", "60", "-n", "50", "--depth", "16", "--json"];
    for (guesser, name) in [(&["--lookup"][..], "lookup"), (&["--draft", text(&draft)], text(&draft))] {
        let measured = bench(&[&small, guesser].concat()).json();
        let figures = &measured["speculation"];
        assert_eq!((&figures["drafter"], &figures["tokens"]), (&name.into(), &50.into()), "{measured}");
        for figure in ["plain_tokens_per_second", "tokens_per_second"] {
            assert!(number(&figures[figure]["median"]) > 0.0, "{figure}: {measured}");
        }
        assert!(number(&figures["ratio"]) > 0.0, "{measured}");
        let [drafted, accepted] = ["drafted_tokens", "accepted_tokens"].map(|n| figures[n].as_u64().unwrap());
        assert!(accepted <= drafted);
    }
    // Every guess is right, or none.
    let share = |share: &str| bench(&[&small[..], &["--lookup", "--acceptance", share]].concat()).json();
    let (all, none) = (share("1"), share("0"));
    let rate = |measured: &Value| measured["speculation"]["acceptance_rate"].as_f64();
    assert!(rate(&all).is_none_or(|rate| rate == 1.0), "{all}");
    assert!(rate(&none).is_none_or(|rate| rate < 0.5), "{none}");
    let shown = bench(&["--lookup", "-p", "40", "-n", "60"]).succeeded();
    assert_eq!(shown.stdout.lines().count(), 4, "{shown}");
    assert!(shown.stdout.contains(" × plain · "), "{shown}");

    bench(&["--lookup", "-n", "0"]).refused(&["-p and -n: expected both above 0", "512 and 0"]);
    bench(&["--lookup", "--acceptance", "2"]).misused(&["expected 0 to 1, found 2"]);
    bench(&["--acceptance", "0.5"]).misused(&["--lookup"]);
    bench(&["--lookup", "--draft", text(&draft)]).misused(&["cannot be used with"]);
    let other = files.model_of(&model::SHAPE.replace("1024", "1280"), "larger.gguf", "F16");
    bench(&["-p", "40", "-n", "60", "--draft", text(&other)]).refused(&[
        "draft model",
        "larger.gguf",
        "1024 tokens, found 1280",
    ]);
}
