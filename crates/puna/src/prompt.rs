//! From a conversation to a prompt: which chat format is used, and who writes it.

use crate::sandbox;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use puna_checkpoint::Checkpoint;
use puna_text::chat::{Conversation, Dialect, Prompt, render};
use puna_text::template::SpecialTokens;
use puna_text::{Date, Tokenizer};

/// How conversations are written.
#[derive(Args)]
pub struct ChatArgs {
    /// How the conversation is written for the model
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub chat_format: Choice,
    /// The date that the model is told, e.g. '23 Nov 2026' [default: today]
    #[arg(long, value_parser = parse_date)]
    pub date: Option<Date>,
}

fn parse_date(text: &str) -> Result<Date, String> {
    Date::parse(text).ok_or_else(|| format!("expected a day such as 23 Nov 2026, found {text:?}"))
}

/// A chat format on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Llama's own where the model brings its template or none; the model's template, in a sandbox, where it brings
    /// another
    #[default]
    Auto,
    /// Llama 3.1's as its published template has it: date preamble, contents trimmed
    Template,
    /// Llama 3.1's as Meta's reference encoder has it: nothing added, nothing trimmed
    Meta,
    /// Llama 2's
    Llama2,
    /// The template in the model's files, in a sandbox
    Model,
}

/// Writes conversations for one model.
pub enum ChatFormat {
    /// In one of Llama's formats.
    Native(Dialect),
    /// By the model's own template.
    Template {
        /// In the language of Jinja.
        source: String,
        /// What the template may know of the vocabulary.
        tokens: SpecialTokens,
    },
}

impl ChatFormat {
    /// The format for a model.
    pub fn new(choice: Choice, checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<ChatFormat> {
        let template = || {
            let source = checkpoint.chat_template.clone();
            let source =
                source.context("--chat-format model: expected a chat template in the model's files, found none")?;
            let eos = checkpoint.generation.eos.first().copied();
            Ok(ChatFormat::Template { source, tokens: SpecialTokens::new(tokenizer, eos) })
        };
        match choice {
            Choice::Template => Ok(ChatFormat::Native(Dialect::Template)),
            Choice::Meta => Ok(ChatFormat::Native(Dialect::Meta)),
            Choice::Llama2 => Ok(ChatFormat::Native(Dialect::Llama2)),
            Choice::Model => template(),
            Choice::Auto => match &checkpoint.chat_template {
                Some(source) if !sandbox::recognise(source)? => template(),
                _ => Ok(ChatFormat::Native(Dialect::for_tokenizer(tokenizer))),
            },
        }
    }

    /// The conversation as the model is to see it.
    pub fn write(&self, conversation: &Conversation) -> Result<Prompt> {
        match self {
            ChatFormat::Native(dialect) => Ok(render(conversation, *dialect)?),
            ChatFormat::Template { source, tokens } => sandbox::render(source, conversation, tokens),
        }
    }

    /// What it is, for people.
    pub fn describe(&self) -> &'static str {
        match self {
            ChatFormat::Native(Dialect::Template) => "Llama 3.1's, as its published template has it",
            ChatFormat::Native(Dialect::Meta) => "Llama 3.1's, as Meta's reference encoder has it",
            ChatFormat::Native(Dialect::Llama2) => "Llama 2's",
            ChatFormat::Template { .. } => "the model's own template",
        }
    }
}

impl ChatArgs {
    /// The conversation with the date of the command line, if there is one.
    pub fn dated(&self, mut conversation: Conversation) -> Conversation {
        if let Some(date) = self.date {
            conversation.date = date.to_string();
        }
        conversation
    }
}
