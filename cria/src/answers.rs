//! Questions that have one answer: the files of `grammar/` that hold them.
//!
//! A section is one answer and the ways to ask for it: `? question`, `! answer`. `>?` and `>!` are what may be said
//! next. `?-` is a question that only a noun fits into, `?+` one that only a pronoun fits.

use crate::random::Random;
use crate::sections::{self, Section};
use crate::template::{Phrases, Slots, Template};
use crate::{Error, english};
use std::collections::HashSet;

/// A question and its answer.
pub type Pair = (String, String);

/// Whether a question names what it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// `Where does a llama live?`
    Noun,
    /// `Where does it live?`
    Pronoun,
}

/// One answer and the questions for it.
pub struct Answer {
    /// The heading of the section.
    pub name: &'static str,
    questions: Vec<(Option<Subject>, Template)>,
    answers: Vec<Template>,
    next_questions: Vec<Template>,
    next_answers: Vec<Template>,
}

impl Answer {
    /// Reads a section whose templates may use the slots `known`.
    ///
    /// # Errors
    /// When a line has none of the marks, a gap cannot be filled, or a question or an answer is missing.
    pub fn parse(section: &Section, known: &HashSet<String>, phrases: &Phrases) -> Result<Answer, Error> {
        let mut answer = Answer {
            name: section.name,
            questions: Vec::new(),
            answers: Vec::new(),
            next_questions: Vec::new(),
            next_answers: Vec::new(),
        };
        for (n, line) in &section.lines {
            let error = |problem| sections::error(section.file, *n, problem);
            let Some((mark, text)) = line.split_once(' ') else {
                return Err(error(format!("expected a mark and a sentence, found {line:?}")));
            };
            let template = Template::parse(text).map_err(error)?;
            template.check(known, phrases).map_err(error)?;
            match mark {
                "?" => answer.questions.push((None, template)),
                "?-" => answer.questions.push((Some(Subject::Noun), template)),
                "?+" => answer.questions.push((Some(Subject::Pronoun), template)),
                "!" => answer.answers.push(template),
                ">?" => answer.next_questions.push(template),
                ">!" => answer.next_answers.push(template),
                _ => return Err(error(format!("expected one of ? ?- ?+ ! >? >!, found {mark:?}"))),
            }
        }
        let asked = answer.questions.iter().any(|(subject, _)| *subject != Some(Subject::Pronoun));
        if !asked || answer.answers.is_empty() || answer.next_questions.is_empty() != answer.next_answers.is_empty() {
            let problem = format!("{}: expected questions and an answer", section.name);
            return Err(sections::error(section.file, section.line, problem));
        }
        Ok(answer)
    }

    /// How many ways there are to ask.
    pub fn n_questions(&self) -> usize {
        self.questions.len()
    }

    /// A question and its answer; none if no question fits the subject.
    pub fn pair(&self, subject: Subject, slots: &Slots, phrases: &Phrases, random: &mut Random) -> Option<Pair> {
        let fits = |of: &Option<Subject>| of.is_none_or(|of| of == subject);
        let questions: Vec<&Template> = self.questions.iter().filter(|(of, _)| fits(of)).map(|(_, q)| q).collect();
        if questions.is_empty() {
            return None;
        }
        let question = random.pick(&questions).expand(slots, phrases, random);
        Some((english::finished(&question), self.answer(slots, phrases, random)))
    }

    /// The answer alone.
    pub fn answer(&self, slots: &Slots, phrases: &Phrases, random: &mut Random) -> String {
        english::finished(&random.pick(&self.answers).expand(slots, phrases, random))
    }

    /// What may be said after the answer, and what to answer then.
    pub fn next(&self, slots: &Slots, phrases: &Phrases, random: &mut Random) -> Option<Pair> {
        if self.next_questions.is_empty() {
            return None;
        }
        let question = random.pick(&self.next_questions).expand(slots, phrases, random);
        let answer = random.pick(&self.next_answers).expand(slots, phrases, random);
        Some((english::finished(&question), english::finished(&answer)))
    }
}
