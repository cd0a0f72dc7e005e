//! `puna chat-format`: the exact text and token ids that a conversation becomes.

use crate::builtin;
use crate::prompt::{ChatArgs, ChatFormat};
use crate::show;
use crate::vault;
use anyhow::{Context, Result, bail};
use puna_text::chat::{Conversation, Message, Segment};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Show the exact text and token ids that a conversation is sent as
///
/// The file has a JSON array of messages in OpenAI's shape, or an object with `messages` and, if wanted, `tools`,
/// `builtin_tools`, `tools_in_user_message`, `tool_style`, `date` and `add_generation_prompt`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna chat-format ./Llama-3.1-8B-Instruct --messages chat.json
  puna chat-format ./model.gguf --messages chat.json --chat-format meta --json")]
pub struct Args {
    /// A directory as published by Hugging Face or Meta, a .gguf file, a model of `puna list`, or `cria`: a small one in the
    /// program itself
    #[arg(value_parser = vault::model_parser())]
    model: PathBuf,
    /// The conversation
    #[arg(long, value_name = "FILE.json")]
    messages: PathBuf,
    #[command(flatten)]
    chat: ChatArgs,
    /// One JSON object: `format`, `text`, `ids`
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let conversation = args.chat.dated(read_conversation(&args.messages)?);
    let checkpoint = builtin::open(&args.model)?;
    let tokenizer = puna_session::tokenizer(&checkpoint, &args.model)?;
    let format = ChatFormat::new(args.chat.chat_format, &checkpoint, &tokenizer)?;
    let prompt = format.write(&conversation).with_context(|| args.messages.display().to_string())?;
    let ids = prompt.encode(&tokenizer)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "format": format.describe(), "text": prompt.text(), "ids": ids }))?;
        return Ok(());
    }
    // On a terminal, special tokens stand out from text that looks like them.
    let on_terminal = out.is_terminal();
    for segment in prompt.segments() {
        match segment {
            Segment::Special(name) if on_terminal => write!(out, "\x1b[1;36m{}\x1b[0m", show::harmless(name))?,
            Segment::Text(text) if on_terminal => write!(out, "{}", show::harmless(text))?,
            Segment::Special(text) | Segment::Text(text) => write!(out, "{text}")?,
            Segment::Cut => {}
        }
    }
    writeln!(out, "\n\n{ids:?}")?;
    eprintln!("{} tokens · format: {}", ids.len(), format.describe());
    Ok(())
}

/// A conversation from a file: its messages alone, or all of it.
pub fn read_conversation(file: &Path) -> Result<Conversation> {
    let name = || file.display().to_string();
    let bytes = std::fs::read(file).with_context(name)?;
    let value: Value = serde_json::from_slice(&bytes).with_context(name)?;
    let value = match value {
        Value::Array(messages) => json!({ "messages": messages }),
        value @ Value::Object(_) => value,
        other => {
            bail!("{}: expected an array of messages or an object with `messages`, found {other}", file.display())
        }
    };
    // One by one first, so that an error names the message.
    for (i, message) in value["messages"].as_array().into_iter().flatten().enumerate() {
        Message::deserialize(message).with_context(|| format!("{}: messages[{i}]", file.display()))?;
    }
    serde_json::from_value(value).with_context(name)
}
