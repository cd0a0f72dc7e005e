//! What answers may look like, on the command line.

use anyhow::{Context, Result};
use clap::Args;
use puna_session::Grammar;
use std::path::{Path, PathBuf};

/// A grammar of the answer.
#[derive(Args)]
#[group(multiple = false)]
#[command(next_help_heading = "Format of the answer")]
pub struct GrammarArgs {
    /// Any JSON object
    #[arg(long)]
    json_object: bool,
    /// JSON that fits the schema in this file
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// Text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX")]
    regex: Option<String>,
    /// Text of the grammar in this file, in Lark's notation
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
}

impl GrammarArgs {
    /// The grammar, if one is asked for.
    ///
    /// # Errors
    /// A file that can't be read, or a schema that is no JSON.
    pub fn read(self) -> Result<Option<Grammar>> {
        let text = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        Ok(match self {
            GrammarArgs { json_object: true, .. } => Some(Grammar::JsonObject),
            GrammarArgs { json_schema: Some(path), .. } => {
                let schema = serde_json::from_str(&text(&path)?);
                Some(Grammar::JsonSchema(schema.with_context(|| format!("{}: expected JSON", path.display()))?))
            }
            GrammarArgs { regex: Some(regex), .. } => Some(Grammar::Regex(regex)),
            GrammarArgs { grammar: Some(path), .. } => Some(Grammar::Lark(text(&path)?)),
            _ => None,
        })
    }
}
