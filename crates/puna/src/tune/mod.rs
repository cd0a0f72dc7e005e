//! `puna tune`: fine-tuning. So far its data, to be looked at before anything is trained.

mod check;
mod show;

use crate::builtin;
use crate::prompt::{ChatArgs, ChatFormat};
use anyhow::{Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Subcommand, ValueEnum};
use puna_text::chat::Dialect;
use puna_text::{Date, Tokenizer};
use puna_train::data::{self, Encoder, Format, Limit, Options, Overlong, Splits, Trained};
use std::path::PathBuf;

/// Look at data to fine-tune a model on
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna tune check data.jsonl -m ./Llama-3.1-8B-Instruct
  puna tune show data.jsonl -m ./Llama-3.1-8B-Instruct -n 3")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Check(check::Args),
    Show(show::Args),
}

pub fn run(args: Args) -> Result<()> {
    match args.verb {
        Verb::Check(args) => check::run(args),
        Verb::Show(args) => show::run(args),
    }
}

/// Which data, and how it is written for which model.
#[derive(clap::Args)]
struct DataArgs {
    /// A file of rows (JSON Lines, a JSON array, Parquet), a text file (.txt, .md), or a directory with files named train,
    /// valid and test
    data: PathBuf,
    /// The model to be tuned: a directory as published by Hugging Face or Meta, or a .gguf file
    #[arg(short, long)]
    model: PathBuf,
    /// What rows mean [default: told by their keys]
    #[arg(long, value_parser = formats())]
    format: Option<Format>,
    /// What is trained of a row
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    trained: TrainedChoice,
    /// Tokens that a sequence may have [default: the model's context]
    #[arg(long, value_name = "TOKENS")]
    length: Option<usize>,
    /// What becomes of longer rows; text files are always split
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    overlong: OverlongChoice,
    /// Tokens that a part of a split text repeats from the one before
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    overlap: usize,
    #[command(flatten)]
    chat: ChatArgs,
}

fn formats() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name)).try_map(|name| name.parse::<Format>())
}

/// [`Trained`] on the command line.
#[derive(Clone, Copy, Default, ValueEnum)]
enum TrainedChoice {
    /// All that the assistant says; a completion; every token of a raw text
    #[default]
    Assistant,
    /// The last message of the assistant
    LastTurn,
    /// What the assistant says after the last message of the user
    Completion,
    /// Every token
    Everything,
}

impl From<TrainedChoice> for Trained {
    fn from(choice: TrainedChoice) -> Trained {
        match choice {
            TrainedChoice::Assistant => Trained::Assistant,
            TrainedChoice::LastTurn => Trained::LastTurn,
            TrainedChoice::Completion => Trained::Completion,
            TrainedChoice::Everything => Trained::Everything,
        }
    }
}

/// [`Overlong`] on the command line.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum OverlongChoice {
    /// They are an error
    #[default]
    Error,
    /// They are left out
    Drop,
    /// They lose what is not trained; where that is not enough they are left out
    Truncate,
    /// Raw texts are cut into parts, others are an error
    Split,
}

impl From<OverlongChoice> for Overlong {
    fn from(choice: OverlongChoice) -> Overlong {
        match choice {
            OverlongChoice::Error => Overlong::Error,
            OverlongChoice::Drop => Overlong::Drop,
            OverlongChoice::Truncate => Overlong::Truncate,
            OverlongChoice::Split => Overlong::Split,
        }
    }
}

/// A data set, and what writes it as tokens.
struct Data {
    splits: Splits,
    tokenizer: Tokenizer,
    options: Options,
    limit: Limit,
    /// The chat format, for people.
    chat_format: &'static str,
}

impl Data {
    fn encoder(&self) -> Encoder<'_> {
        Encoder::new(&self.tokenizer, self.options.clone())
    }
}

impl DataArgs {
    fn open(&self) -> Result<Data> {
        let splits = data::open(&self.data, self.format)?;
        let splits_texts = self.overlong == OverlongChoice::Split || splits.train.has_text_files();
        if self.overlap > 0 && !splits_texts {
            bail!("--overlap: expected --overlong split or text files, found neither");
        }
        let checkpoint = builtin::open(&self.model)?;
        let tokenizer = puna_session::tokenizer(&checkpoint, &self.model)?;
        let chat_format = ChatFormat::new(self.chat.chat_format, &checkpoint, &tokenizer)?;
        let dialect = match &chat_format {
            ChatFormat::Native(dialect) => *dialect,
            // Raw text is written in none.
            ChatFormat::Template { .. } if splits.train.format() == Format::Text => Dialect::default(),
            ChatFormat::Template { .. } => bail!(
                "{}: expected one of Llama's own chat formats, whose answers are known from the rest, found a template; \
                 choose one with --chat-format",
                self.model.display()
            ),
        };
        let context = checkpoint.config.context_length;
        let length = self.length.unwrap_or(context);
        if length > context {
            bail!("--length: expected at most {context} tokens, what the model was trained for, found {length}");
        }
        let limit = Limit::new(length, self.overlong.into(), self.overlap)?;
        let date = self.chat.date.unwrap_or_else(Date::today).to_string();
        let options = Options { dialect, date, trained: self.trained.into() };
        Ok(Data { splits, tokenizer, options, limit, chat_format: chat_format.describe() })
    }
}
