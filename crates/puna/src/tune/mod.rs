//! `puna tune`: a data set looked at, a run planned, done, and looked at.

mod check;
mod log;
mod plan;
mod run;
mod show;

mod job;
mod memory;

use crate::builtin;
use crate::prompt::{self as chat, ChatArgs, ChatFormat};
use crate::vault;
use anyhow::{Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Subcommand, ValueEnum};
use puna_checkpoint::Checkpoint;
use puna_text::chat::Dialect;
use puna_text::{Date, Tokenizer};
use puna_train::data::{self, Encoder, Format, Limit, Options, Overlong, Splits, Trained};
use std::path::{Path, PathBuf};

/// Fine-tune a model, or train one from nothing
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  puna tune check data.jsonl -m ./Llama-3.1-8B-Instruct
  puna tune show data.jsonl -m ./Llama-3.1-8B-Instruct -n 3
  puna tune plan -m ./Llama-3.1-8B-Instruct -d data.jsonl
  puna tune run -m ./Llama-3.1-8B-Instruct -d data.jsonl -o ./my-adapter
  puna tune log ./my-adapter
  puna run ./Llama-3.1-8B-Instruct --adapter ./my-adapter")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Check(check::Args),
    Show(show::Args),
    Plan(plan::Args),
    Run(run::Args),
    Log(log::Args),
}

pub fn run(args: Args) -> Result<()> {
    match args.verb {
        Verb::Check(args) => check::run(args),
        Verb::Show(args) => show::run(args),
        Verb::Plan(args) => plan::run(args),
        Verb::Run(args) => run::run(args),
        Verb::Log(args) => log::run(args),
    }
}

/// Which data, and how it is written for which model.
#[derive(clap::Args)]
struct DataArgs {
    /// A file of rows (JSON Lines, a JSON array, Parquet), a text file (.txt, .md), or a directory with files named train,
    /// valid and test
    data: PathBuf,
    /// The model to be tuned: a directory as published by Hugging Face or Meta, or a .gguf file
    #[arg(short, long, value_parser = vault::model_parser())]
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

/// Which data, written how, for which model.
struct Choices<'a> {
    data: &'a Path,
    format: Option<Format>,
    trained: Trained,
    length: usize,
    overlong: Overlong,
    overlap: usize,
    chat_format: chat::Choice,
    date: Option<Date>,
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
    /// For the model of a checkpoint, which came from `model`.
    fn open(choices: &Choices<'_>, checkpoint: &Checkpoint, model: &Path) -> Result<Data> {
        let splits = data::open(choices.data, choices.format)?;
        let splits_texts = choices.overlong == Overlong::Split || splits.train.has_text_files();
        if choices.overlap > 0 && !splits_texts {
            bail!("overlap: expected overlong texts to be split, or text files; found neither");
        }
        let tokenizer = puna_session::tokenizer(checkpoint, model)?;
        let chat_format = ChatFormat::new(choices.chat_format, checkpoint, &tokenizer)?;
        let dialect = match &chat_format {
            ChatFormat::Native(dialect) => *dialect,
            // Raw text is written in none.
            ChatFormat::Template { .. } if splits.train.format() == Format::Text => Dialect::default(),
            ChatFormat::Template { .. } => bail!(
                "{}: expected one of Llama's own chat formats, whose answers are known from the rest, found a template; \
                 choose one as chat format",
                model.display()
            ),
        };
        let context = checkpoint.config.context_length;
        if choices.length > context {
            let length = choices.length;
            bail!("length: expected at most {context} tokens, what the model was trained for, found {length}");
        }
        let limit = Limit::new(choices.length, choices.overlong, choices.overlap)?;
        let date = choices.date.unwrap_or_else(Date::today).to_string();
        let options = Options { dialect, date, trained: choices.trained };
        Ok(Data { splits, tokenizer, options, limit, chat_format: chat_format.describe() })
    }

    fn encoder(&self) -> Encoder<'_> {
        Encoder::new(&self.tokenizer, self.options.clone())
    }
}

impl DataArgs {
    fn open(&self) -> Result<Data> {
        let checkpoint = builtin::open(&self.model)?;
        let choices = Choices {
            data: &self.data,
            format: self.format,
            trained: self.trained.into(),
            length: self.length.unwrap_or(checkpoint.config.context_length),
            overlong: self.overlong.into(),
            overlap: self.overlap,
            chat_format: self.chat.chat_format,
            date: self.chat.date,
        };
        Data::open(&choices, &checkpoint, &self.model)
    }
}
