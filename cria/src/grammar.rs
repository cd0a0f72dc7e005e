//! The files of `grammar/`, read once.

use crate::answers::Answer;
use crate::plot::{Plot, Story};
use crate::random::Random;
use crate::sections::{self, Section};
use crate::template::{Phrases, Slots, Template};
use crate::{Error, english};
use std::collections::HashSet;

/// Everything that sentences are made of.
pub struct Grammar {
    /// Lists of phrases that templates may use.
    pub phrases: Phrases,
    plots: Vec<Plot>,
    /// Answers about one animal of the table.
    pub facts: Vec<Answer>,
    /// Answers about one thing of the table.
    pub things: Vec<Answer>,
    /// What cria says about itself.
    pub identity: Vec<Answer>,
    /// How puna is used.
    pub commands: Vec<Answer>,
    /// Greetings, thanks, goodbyes, feelings.
    pub manners: Vec<Answer>,
    /// What cria does not know.
    pub beyond: Vec<Answer>,
    /// The world, beyond the tables.
    pub why: Vec<Answer>,
    /// Lists of what users say.
    talk: Phrases,
}

macro_rules! files {
    ($($path:literal),*) => { [$(($path, include_str!(concat!("../", $path)))),*] };
}

/// The slots of `facts.txt`, which [`crate::dialogue`] sets.
pub const FACT_SLOTS: [&str; 17] = [
    "s", "o", "a", "kind", "kinds", "food", "home", "colour", "size", "cover", "sound", "young", "company", "legs",
    "is", "fact", "what",
];
/// The slots of `things.txt`.
pub const THING_SLOTS: [&str; 6] = ["s", "word", "is", "place", "colour", "more"];

impl Grammar {
    /// Reads all files.
    ///
    /// # Errors
    /// When one has a line that cannot be used; it is named.
    pub fn read() -> Result<Grammar, Error> {
        let mut phrases = Phrases::new();
        for (file, text) in files!["grammar/phrases.txt", "grammar/words.txt"] {
            read_phrases(file, text, &mut phrases)?;
        }
        let mut plots = Vec::new();
        for (file, text) in files![
            "grammar/plots/children.txt",
            "grammar/plots/animals.txt",
            "grammar/plots/together.txt",
            "grammar/plots/more.txt",
            "grammar/plots/portraits.txt"
        ] {
            for section in sections::split(file, text)? {
                plots.push(Plot::parse(&section, &phrases)?);
            }
        }
        let mut talk = Phrases::new();
        let [(file, text)] = files!["grammar/talk.txt"];
        read_phrases(file, text, &mut talk)?;
        for template in talk.values().flatten() {
            let known = HashSet::from(["about".to_owned()]);
            template.check(&known, &phrases).map_err(|problem| sections::error(file, 1, problem))?;
        }
        let answers = |[(file, text)]: [(&'static str, &'static str); 1], slots: &[&str]| {
            let known = slots.iter().map(|slot| (*slot).to_owned()).collect();
            let parse = |section: &Section| Answer::parse(section, &known, &phrases);
            sections::split(file, text)?.iter().map(parse).collect::<Result<Vec<Answer>, Error>>()
        };
        Ok(Grammar {
            plots,
            facts: answers(files!["grammar/facts.txt"], &FACT_SLOTS)?,
            things: answers(files!["grammar/things.txt"], &THING_SLOTS)?,
            identity: answers(files!["grammar/answers/identity.txt"], &[])?,
            commands: answers(files!["grammar/answers/commands.txt"], &[])?,
            manners: answers(files!["grammar/answers/manners.txt"], &[])?,
            beyond: answers(files!["grammar/answers/beyond.txt"], &[])?,
            why: answers(files!["grammar/answers/why.txt"], &[])?,
            talk,
            phrases,
        })
    }

    /// A story.
    pub fn story(&self, random: &mut Random) -> Story {
        random.pick(&self.plots).tell(&self.phrases, random)
    }

    /// One line of a list of what users say, which may hold the slot `about`.
    pub fn say(&self, list: &str, about: &str, random: &mut Random) -> String {
        let mut slots = Slots::default();
        slots.set("about", about);
        let line = random.pick(&self.talk[list]).expand(&slots, &self.phrases, random);
        english::with_articles(&line)
    }
}

fn read_phrases(file: &'static str, text: &'static str, phrases: &mut Phrases) -> Result<(), Error> {
    for section in sections::split(file, text)? {
        let mut list = Vec::new();
        for (n, line) in &section.lines {
            let error = |problem| sections::error(file, *n, problem);
            let phrase =
                line.strip_prefix("| ").ok_or_else(|| error(format!("expected \"| phrase\", found {line:?}")))?;
            list.push(Template::parse(phrase).map_err(error)?);
        }
        if list.is_empty() || phrases.contains_key(section.name) {
            let problem = format!("the list {:?} is empty, or there is another one", section.name);
            return Err(sections::error(file, section.line, problem));
        }
        phrases.insert(section.name.to_owned(), list);
    }
    Ok(())
}

/// The answer of a section.
pub fn named<'a>(answers: &'a [Answer], name: &str) -> &'a Answer {
    answers.iter().find(|answer| answer.name == name).expect("the section is in the file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics;
    use crate::world::{ANIMAL_NAMES, CHILDREN};

    #[test]
    fn all_files_can_be_read_and_every_plot_told() {
        let grammar = Grammar::read().unwrap();
        assert!(grammar.plots.len() > 30);
        for plot in &grammar.plots {
            for seed in 0..40 {
                let story = plot.tell(&grammar.phrases, &mut Random::new(seed));
                assert!(story.text.split(' ').count() > 30, "{story:?}");
                assert!(!story.about.is_empty() && story.questions.len() > 1, "{story:?}");
            }
        }
    }

    /// In a story of girls and women alone there is no "he", and the other way round, unless the plot itself has one.
    #[test]
    fn pronouns_fit_the_names() {
        let grammar = Grammar::read().unwrap();
        let he = ["he", "him", "his", "himself", "boy", "father", "grandfather", "uncle", "brother"];
        let she = ["she", "her", "hers", "herself", "girl", "mother", "grandmother", "aunt", "sister"];
        let names = || CHILDREN.iter().chain(&ANIMAL_NAMES);
        let mut n_checked = 0;
        for plot in &grammar.plots {
            let own = plot.words();
            if own.iter().any(|word| he.contains(&word.as_str()) || she.contains(&word.as_str())) {
                continue;
            }
            for seed in 0..60 {
                let text = plot.tell(&grammar.phrases, &mut Random::new(seed)).text;
                let words: Vec<String> = statistics::words(&text.replace("'s", "")).collect();
                let named =
                    |sex: bool| names().any(|name| name.she == sex && words.contains(&name.name.to_lowercase()));
                // A relative is of one sex, too.
                let [women, men] = [she, he].map(|list| list[4..].iter().any(|word| words.iter().any(|w| w == word)));
                if named(true) && !named(false) && !men {
                    assert!(!words.iter().any(|word| he.contains(&word.as_str())), "{text}");
                    n_checked += 1;
                }
                if named(false) && !named(true) && !women {
                    assert!(!words.iter().any(|word| she.contains(&word.as_str())), "{text}");
                    n_checked += 1;
                }
            }
        }
        assert!(n_checked > 200, "{n_checked}");
    }
}
