//! `puna run`: answer a prompt, or hold a conversation.

use crate::builtin;
use crate::chat;
use crate::grammar::GrammarArgs;
use crate::machine::{Machine, Reading};
use crate::model::ModelArgs;
use crate::prompt::{ChatArgs, ChatFormat};
use crate::sampling::SamplingArgs;
use crate::speculate::{SpeculationArgs, draft_figures};
use crate::{score, show};
use anyhow::{Context, Result, bail};
use puna_session::{Answer, Event, Options, Session, Timings};
use puna_text::chat::{Conversation, Message};
use serde_json::json;
use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Answer a prompt, or chat
///
/// With a prompt, or text on standard input, it answers once. Without, on a terminal, it is an interactive chat. Where
/// no model is named, cria answers, a small one in the program itself.
#[derive(clap::Args)]
#[command(mut_arg("model", |model| model.index(1).required(false).default_value(builtin::NAME)), after_help = "\
Examples:
  puna run
  puna run cria 'Tell me a story.'
  puna run ./Llama-3.1-8B-Instruct
  puna run ./Llama-3.1-8B-Instruct 'Why is the sky blue?' --system 'Answer in one sentence.'
  puna run ./model.gguf --json --temperature 0 --max-tokens 200 < question.txt
  puna run ./Llama-3.1-8B --raw 'Once upon a time' --max-tokens 100
  puna run ./Llama-3.1-8B --ids-file prompt.json --max-tokens 64 --json
  puna run ./Llama-3.1-8B-Instruct --adapter ./my-adapter=0.5 'Write a limerick.'
  puna run ./Llama-3.1-8B-Instruct --json-schema person.json 'Who wrote Faust?'
  puna run ./Llama-3.1-8B-Instruct --regex 'yes|no' 'Is the sky blue?'
  puna run ./Llama-3.1-8B-Instruct --draft ./Llama-3.2-1B-Instruct 'Write a limerick.'")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt [default: standard input, or an interactive chat]
    // Said because `mut_arg` puts what it changes behind the others.
    #[arg(index = 2)]
    prompt: Option<String>,
    /// Instructions for the whole conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Continue the text as it is, without chat format
    #[arg(long, conflicts_with_all = ["system", "chat_format", "date"])]
    raw: bool,
    /// The whole prompt as a JSON array of token ids
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "raw", "system", "chat_format", "date"])]
    ids_file: Option<PathBuf>,
    #[command(flatten)]
    chat: ChatArgs,
    /// One JSON object: `ids`, `text`, `prompt_tokens`, `completion_tokens`, `finish_reason`, `timings`
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    grammar: GrammarArgs,
    #[command(flatten)]
    speculation: SpeculationArgs,
}

pub fn run(args: Args) -> Result<()> {
    args.speculation.check()?;
    let model = &args.model.model;
    if args.prompt.is_none() && !model.exists() && model.display().to_string().contains(' ') {
        let text = model.display();
        bail!(
            "{text}: expected a model, found nothing of this name; the built-in one is asked by puna run cria '{text}'"
        );
    }
    let checkpoint = args.model.open()?;
    let mut machine = args.model.machine();
    let options = args.sampling.options(&checkpoint)?;
    let grammar = args.grammar.read()?;
    if grammar.is_some() && options.ignore_end {
        bail!("--ignore-eos: expected it not to be given where the answer has a format, which says where it ends");
    }
    let mut session = || -> Result<(Session, Options)> {
        let mut session = args.model.session(&mut machine, &checkpoint)?;
        args.speculation.apply(&mut session, &mut machine, &args.model, &checkpoint)?;
        let constraint = grammar.as_ref().map(|grammar| session.constraint(grammar)).transpose()?;
        Ok((session, Options { constraint, ..options.clone() }))
    };
    if let Some(file) = &args.ids_file {
        let prompt = score::read_ids(file, &checkpoint.config)?;
        let (mut session, options) = session()?;
        return answer_once(&mut session, &machine, &prompt, &options, args.json);
    }
    let text = prompt_text(args.prompt)?;
    if args.raw {
        let text =
            text.context("--raw: expected a text as the second argument or on standard input, found a terminal")?;
        let (mut session, options) = session()?;
        let bos = session.tokenizer().bos();
        let prompt: Vec<u32> = bos.into_iter().chain(session.tokenizer().encode(&text)).collect();
        return answer_once(&mut session, &machine, &prompt, &options, args.json);
    }
    if text.is_none() && args.json {
        bail!("--json: expected a prompt as the second argument or on standard input, found a terminal");
    }
    if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
        bail!("the prompt is empty: expected a text as the second argument or on standard input");
    }
    let (mut session, options) = session()?;
    let format = ChatFormat::new(args.chat.chat_format, &checkpoint, session.tokenizer())?;
    let instructions = args.system.into_iter().map(Message::system).collect();
    let mut conversation = args.chat.dated(Conversation::new(instructions));
    match text {
        Some(text) => {
            conversation.messages.push(Message::user(text));
            let prompt = format.write(&conversation)?.encode(session.tokenizer())?;
            answer_once(&mut session, &machine, &prompt, &options, args.json)
        }
        None => {
            if builtin::is_meant(&args.model.model) {
                eprintln!("{}: {}", builtin::NAME, builtin::ABOUT);
                eprintln!("For a real one: puna run MODEL, a directory from Hugging Face or Meta, or a .gguf file");
            }
            chat::run(session, machine, format, conversation, options)
        }
    }
}

/// The prompt of the command line or of standard input; none on a terminal.
fn prompt_text(argument: Option<String>) -> Result<Option<String>> {
    if argument.is_some() || std::io::stdin().is_terminal() {
        return Ok(argument);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input")?;
    Ok(Some(text))
}

fn answer_once(session: &mut Session, machine: &Machine, prompt: &[u32], options: &Options, json: bool) -> Result<()> {
    let answer = stream(session, prompt, options, !json, &AtomicBool::new(false))?;
    let t = &answer.timings;
    let reading = machine.reading(t);
    if json {
        let object = json!({
            "ids": answer.ids,
            "text": answer.text,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.ids.len(),
            "finish_reason": answer.finish_reason,
            "timings": {
                "prefill_seconds": t.prefill.as_secs_f64(),
                "prefill_tokens_per_second": t.prefill_rate(),
                "decode_seconds": t.decode.as_secs_f64(),
                "decode_tokens_per_second": t.decode_rate(),
                "decode_bytes_per_second": reading.as_ref().map(|reading| reading.bytes_per_second),
                "read_bandwidth": reading.as_ref().and_then(|reading| reading.bandwidth),
                "share_of_bandwidth": reading.as_ref().and_then(Reading::share),
                "drafted_tokens": t.drafted,
                "accepted_tokens": t.accepted,
                "acceptance_rate": t.acceptance_rate(),
            },
        });
        writeln!(std::io::stdout(), "{object}")?;
    }
    eprintln!(
        "{} · prompt {} tokens, {:.1} tokens/s · answer {} tokens{}{}",
        session.engine().model().describe(),
        answer.prompt_tokens,
        t.prefill_rate(),
        answer.ids.len(),
        decode_figures(t, reading.as_ref()),
        draft_figures(&answer),
    );
    Ok(())
}

/// How fast an answer's tokens came, to be put behind their number: nothing where none took a forward pass.
pub fn decode_figures(timings: &Timings, reading: Option<&Reading>) -> String {
    reading.map_or_else(String::new, |reading| format!(", {:.1} tokens/s · {reading}", timings.decode_rate()))
}

/// Answers a prompt, with a bar while it is computed; the answer goes to standard output as it comes, if `show`. Setting
/// `interrupted` ends it early.
pub fn stream(
    session: &mut Session,
    prompt: &[u32],
    options: &Options,
    show: bool,
    interrupted: &AtomicBool,
) -> Result<Answer> {
    let bar = show::token_bar("prompt", prompt.len() as u64);
    let (mut out, mut failed) = (std::io::stdout().lock(), None);
    let on_terminal = out.is_terminal();
    let answer = session.answer(prompt, options, &mut |event| {
        let result = match event {
            Event::Prefill { done, total } => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                if done == total {
                    bar.finish_and_clear();
                }
                Ok(())
            }
            Event::Text(text) if show && on_terminal => {
                out.write_all(show::harmless(text).as_bytes()).and_then(|()| out.flush())
            }
            Event::Text(text) if show => out.write_all(text.as_bytes()).and_then(|()| out.flush()),
            Event::Text(_) => Ok(()),
        };
        match result {
            Ok(()) if !interrupted.load(Ordering::Relaxed) => ControlFlow::Continue(()),
            Ok(()) => ControlFlow::Break(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    bar.finish_and_clear();
    if let Some(error) = failed {
        return Err(error.into());
    }
    if show && !answer.text.ends_with('\n') {
        writeln!(out)?;
    }
    Ok(answer)
}
