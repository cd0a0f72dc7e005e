//! Who guesses tokens ahead, on the command line.

use crate::machine::Machine;
use crate::model::{ModelArgs, Wanted};
use crate::vault;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use puna_checkpoint::{Checkpoint, Config};
use puna_engine::{DraftModel, Drafter, PromptLookup};
use puna_session::{Answer, Session, check_draft};
use std::path::PathBuf;

/// Speculation: the answer is the same with any of these, only sooner or later.
#[derive(Args)]
#[command(next_help_heading = "Speculation")]
pub struct SpeculationArgs {
    /// A smaller model of the same vocabulary, which guesses tokens ahead
    #[arg(long, value_name = "MODEL", required_if_eq("speculate", "draft"), value_parser = vault::model_parser())]
    draft: Option<PathBuf>,
    /// How tokens are guessed ahead; the answer is the same in every way
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    speculate: How,
}

/// How tokens are guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum How {
    /// By prompt lookup, and by the draft model if there is one, where it pays
    #[default]
    Auto,
    /// By prompt lookup where it pays: what followed the last tokens before may follow them again
    Lookup,
    /// By the draft model where it pays
    Draft,
    /// Not at all
    Off,
}

impl SpeculationArgs {
    /// Refuses what contradicts itself, before anything is loaded.
    pub fn check(&self) -> Result<()> {
        if self.draft.is_some() && !matches!(self.speculate, How::Auto | How::Draft) {
            let found = self.speculate.to_possible_value();
            let found = found.as_ref().map_or("", |value| value.get_name());
            bail!("--draft: expected --speculate auto or draft beside it, found {found}");
        }
        Ok(())
    }

    /// Sets a session's drafters; the draft model is loaded as the session's own was, on the same machine.
    pub fn apply(
        &self,
        session: &mut Session,
        machine: &mut Machine,
        model: &ModelArgs,
        checkpoint: &Checkpoint,
    ) -> Result<()> {
        let mut drafters: Vec<Box<dyn Drafter>> = Vec::new();
        if matches!(self.speculate, How::Auto | How::Lookup) {
            drafters.push(Box::new(PromptLookup::new()));
        }
        if let Some(path) = &self.draft {
            let args = model.with_model(path);
            let draft = args.open()?;
            let tokenizer = args.tokenizer(&draft)?;
            check_draft(
                (&checkpoint.config, session.tokenizer(), &model.model),
                (&draft.config, &tokenizer, path.as_path()),
            )?;
            let engine = args.engine(machine, &draft, draft_context(&draft.config, session.engine().context()))?;
            drafters.push(Box::new(DraftModel::new(engine, session.engine().model().bytes_per_token())));
        }
        session.set_drafters(drafters);
        Ok(())
    }
}

/// The context of a draft model beside a model with this one: a shorter one only ends the guessing earlier.
pub fn draft_context(draft: &Config, context: usize) -> Wanted {
    Wanted::AtMost(context.min(draft.context_length))
}

/// What came of the guesses, to be put behind other figures: nothing where none were made.
pub fn draft_figures(answer: &Answer) -> String {
    let t = &answer.timings;
    let mut figures = String::new();
    if let Some(rate) = t.acceptance_rate() {
        figures += &format!(" · {} of {} drafted tokens accepted, {:.0} %", t.accepted, t.drafted, 100.0 * rate);
    }
    if let Some(error) = &answer.draft_error {
        figures += &format!(" · drafting ended: {error}");
    }
    figures
}
