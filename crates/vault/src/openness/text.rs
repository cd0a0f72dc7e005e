//! A card for the terminal.

use super::{Assessment, Card, Presence};
use std::fmt;

/// Where the second column begins.
const COLUMN: usize = 36;

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.model, self.called)?;
        match self.licence_known() {
            Some(licence) => writeln!(f, "Licence: {}. As of {}.", licence.name, self.as_of)?,
            None => writeln!(f, "Licence: not known. As of {}.", self.as_of)?,
        }
        section(f, "Facts, from the files")?;
        for (name, value) in self.facts.rows() {
            row(f, name, &value)?;
        }
        section(f, "What you may do")?;
        for (name, value) in self.user_rights.rows() {
            row(f, name, &value)?;
        }
        section(f, "What is published")?;
        for component in &self.components {
            let terms = component.terms();
            let terms = if terms.is_empty() { terms } else { format!(", {terms}") };
            row(f, component.name.label(), &format!("{}{terms}", component.present))?;
            if component.present == Presence::NotKnown {
                continue;
            }
            let source = component.source.as_ref().map(|source| format!(" <{source}>")).unwrap_or_default();
            writeln!(f, "      {}{source}", component.evidence)?;
        }
        section(f, "What frameworks make of it")?;
        for assessment in &self.assessments {
            write_assessment(f, assessment)?;
        }
        if !self.claims.is_empty() {
            section(f, "What its vendor says")?;
            for claim in &self.claims {
                row(f, &claim.name, &format!("{} ({})", claim.value, claim.source))?;
            }
        }
        Ok(())
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
    writeln!(f, "\n{title}")
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "  {name:COLUMN$} {value}")
}

fn write_assessment(f: &mut fmt::Formatter<'_>, assessment: &Assessment) -> fmt::Result {
    writeln!(f, "  {}: {}", assessment.framework, assessment.verdict)?;
    for criterion in &assessment.criteria {
        // The index has words of its own.
        if assessment.counts.is_some() {
            writeln!(f, "    {:COLUMN$} {}", criterion.name, criterion.why)?;
        } else {
            writeln!(f, "    {:COLUMN$} {}: {}", criterion.name, criterion.answer, criterion.why)?;
        }
    }
    writeln!(f, "    judged by {}; {}", assessment.assessor, assessment.source)
}
