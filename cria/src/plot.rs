//! Plots: what happens in a story, in which order, and in how many words one can say it.
//!
//! A plot is a section of a file of `grammar/plots`. Its lines are steps:
//!
//! | step | |
//! |---|---|
//! | `cast h child` | fills a role: `child`, `pet` (a name only), `elder h`, `sibling h`, or a class of `cast.rs` |
//! | `cast x hunter plain` | an animal without a name |
//! | `place p`, `place p water` | a place: the slots `p`, `p.at`, `p.to` |
//! | `number n 5..12`, `number m = n - 1` | a number: the slots `n` (a word), `n.digits` |
//! | `set three = [three\|four]` | a slot |
//! | `pick`, then lines `\| a = x ; b = y` | several slots at once |
//! | `say`, then lines `\| sentence` | one of the sentences |
//! | `maybe 40`, then lines `\| sentence` | one of them in 40 of 100 stories |
//! | `para` | a new paragraph |
//! | `sum`, then lines `\| sentence` | the story in one sentence |
//! | `about a fox` | what one may have asked for to be told this story |
//! | `ask question => answer` | what one may ask afterwards |

use crate::cast::{self, Cast, Part};
use crate::random::Random;
use crate::sections::{self, Line, Section};
use crate::template::{Phrases, Slots, Template};
use crate::world::{PLACES, Place};
use crate::{Error, english};
use std::collections::{HashMap, HashSet};

/// A story, and what can be asked about it.
#[derive(Clone, Debug)]
pub struct Story {
    /// Paragraphs with an empty line between them.
    pub text: String,
    /// One sentence.
    pub summary: String,
    /// Phrases that fit after "a story about".
    pub about: Vec<String>,
    /// Questions and their answers.
    pub questions: Vec<(String, String)>,
}

/// A plot.
pub struct Plot {
    steps: Vec<Step>,
}

enum Step {
    Cast { role: String, part: Part },
    Place { role: String, which: fn(&Place) -> bool },
    Number { role: String, low: usize, high: usize },
    Sum { role: String, of: [String; 2], minus: bool },
    Pick(Vec<Vec<(String, Template)>>),
    Say(Vec<Template>),
    Maybe(u32, Vec<Template>),
    Paragraph,
    Summary(Vec<Template>),
    About(Template),
    Ask(Template, Template),
}

impl Plot {
    /// Reads a plot, and checks that every gap is filled before it is used.
    ///
    /// # Errors
    /// When a line is not a step, or uses what is not there; or when the plot has no text, no summary or no question.
    pub fn parse(section: &Section, phrases: &Phrases) -> Result<Plot, Error> {
        let mut parser = Parser { section, phrases, known: HashSet::new(), steps: Vec::new() };
        let mut lines = section.lines.as_slice();
        while let [line, rest @ ..] = lines {
            let n_choices = rest.iter().take_while(|(_, text)| text.starts_with("| ")).count();
            parser.step(*line, &rest[..n_choices]).map_err(|(n, problem)| sections::error(section.file, n, problem))?;
            lines = &rest[n_choices..];
        }
        let steps = parser.steps;
        let has = |wanted: fn(&Step) -> bool| steps.iter().any(wanted);
        let whole = has(|step| matches!(step, Step::Say(_)))
            && has(|step| matches!(step, Step::Summary(_)))
            && has(|step| matches!(step, Step::About(_)))
            && has(|step| matches!(step, Step::Ask(..)));
        if whole {
            Ok(Plot { steps })
        } else {
            let problem = format!("{}: expected say, sum, about and ask", section.name);
            Err(sections::error(section.file, section.line, problem))
        }
    }

    /// Tells a story.
    pub fn tell(&self, phrases: &Phrases, random: &mut Random) -> Story {
        let mut teller = Teller::new(phrases, random);
        for step in &self.steps {
            teller.take(step);
        }
        teller.story()
    }
}

#[cfg(test)]
impl Plot {
    /// All words of its sentences, those of the names that it fills in left out.
    pub fn words(&self) -> Vec<String> {
        let words = |templates: &[Template]| templates.iter().flat_map(Template::words).collect::<Vec<_>>();
        self.steps
            .iter()
            .flat_map(|step| match step {
                Step::Say(choices) | Step::Maybe(_, choices) => words(choices),
                Step::Pick(picks) => picks.iter().flatten().flat_map(|(_, value)| value.words()).collect(),
                _ => Vec::new(),
            })
            .collect()
    }
}

struct Parser<'a> {
    section: &'a Section,
    phrases: &'a Phrases,
    known: HashSet<String>,
    steps: Vec<Step>,
}

type Problem = (usize, String);

impl Parser<'_> {
    fn step(&mut self, (n, text): Line, choices: &[Line]) -> Result<(), Problem> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        let step = match (verb, words.as_slice()) {
            ("cast", [role, part @ ..]) => self.cast(role, part).map_err(|problem| (n, problem))?,
            ("place", [role, which @ ..]) => {
                let which: fn(&Place) -> bool = match which {
                    [] => |_| true,
                    ["water"] => |place| place.water,
                    ["dry"] => |place| place.dry,
                    _ => return Err((n, format!("expected water or dry, found {which:?}"))),
                };
                self.know([(*role).to_owned(), format!("{role}.at"), format!("{role}.to")]);
                Step::Place { role: (*role).to_owned(), which }
            }
            ("number", [role, "=", a, sign @ ("+" | "-"), b]) => {
                for of in [a, b].into_iter().filter(|of| of.parse::<usize>().is_err()) {
                    if !self.known.contains(&format!("{of}.digits")) {
                        return Err((n, format!("{of:?} is neither a number nor set to one")));
                    }
                }
                self.know([(*role).to_owned(), format!("{role}.digits")]);
                let of = [(*a).to_owned(), (*b).to_owned()];
                Step::Sum { role: (*role).to_owned(), of, minus: *sign == "-" }
            }
            ("number", [role, range]) => {
                let bounds = range.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                let Some((low, high)) = bounds.filter(|(low, high)| low <= high) else {
                    return Err((n, format!("expected a range such as 2..9, found {range:?}")));
                };
                self.know([(*role).to_owned(), format!("{role}.digits")]);
                Step::Number { role: (*role).to_owned(), low, high }
            }
            ("set", [name, "=", value @ ..]) => {
                let value = self.template(n, &value.join(" "))?;
                self.know([(*name).to_owned()]);
                Step::Pick(vec![vec![((*name).to_owned(), value)]])
            }
            ("pick", [""]) => self.pick(n, choices)?,
            ("say", [""]) => Step::Say(self.choices(n, choices)?),
            ("sum", [""]) => Step::Summary(self.choices(n, choices)?),
            ("maybe", [percent]) => match percent.parse() {
                Ok(percent) if percent <= 100 => Step::Maybe(percent, self.choices(n, choices)?),
                _ => return Err((n, format!("expected a percentage, found {percent:?}"))),
            },
            ("para", [""]) => Step::Paragraph,
            ("about", _) => Step::About(self.template(n, rest)?),
            ("ask", _) => {
                let Some((question, answer)) = rest.split_once(" => ") else {
                    return Err((n, format!("expected question => answer, found {rest:?}")));
                };
                Step::Ask(self.template(n, question)?, self.template(n, answer)?)
            }
            _ => return Err((n, format!("expected a step of a plot, found {text:?}"))),
        };
        let takes_choices = matches!(step, Step::Pick(_) | Step::Say(_) | Step::Summary(_) | Step::Maybe(..));
        if !takes_choices && !choices.is_empty() {
            return Err((n, format!("{verb} takes no choices")));
        }
        self.steps.push(step);
        Ok(())
    }

    fn cast(&mut self, role: &str, part: &[&str]) -> Result<Step, String> {
        let part = match part {
            ["child"] => Part::Child,
            ["pet"] => Part::Pet,
            [relative @ ("elder" | "sibling"), of] => {
                if !self.known.contains(&format!("{of}.his")) {
                    return Err(format!("the role {of:?} is not cast yet"));
                }
                let of = (*of).to_owned();
                if *relative == "elder" { Part::Elder { of } } else { Part::Sibling { of } }
            }
            [class, plain @ ..] => {
                let animals = cast::class(class).ok_or_else(|| format!("there is no class of animals {class:?}"))?;
                match plain {
                    [] => Part::Named(animals),
                    ["plain"] => Part::Plain(animals),
                    _ => return Err(format!("expected plain, found {plain:?}")),
                }
            }
            [] => return Err("expected who plays the role".to_owned()),
        };
        self.know(part.slots(role));
        Ok(Step::Cast { role: role.to_owned(), part })
    }

    fn pick(&mut self, n: usize, choices: &[Line]) -> Result<Step, Problem> {
        let mut picks: Vec<Vec<(String, Template)>> = Vec::new();
        for (n, line) in choices {
            let mut pick = Vec::new();
            for pair in line["| ".len()..].split(" ; ") {
                let Some((name, value)) = pair.split_once(" = ") else {
                    return Err((*n, format!("expected name = value, found {pair:?}")));
                };
                pick.push((name.to_owned(), self.template(*n, value)?));
            }
            let names = |pick: &[(String, Template)]| pick.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            if picks.first().is_some_and(|first| names(first) != names(&pick)) {
                return Err((*n, format!("expected the names of the first line, found {:?}", names(&pick))));
            }
            picks.push(pick);
        }
        let first = picks.first().ok_or((n, "expected lines to pick from".to_owned()))?;
        let names: Vec<String> = first.iter().map(|(name, _)| name.clone()).collect();
        self.know(names);
        Ok(Step::Pick(picks))
    }

    fn choices(&self, n: usize, choices: &[Line]) -> Result<Vec<Template>, Problem> {
        if choices.is_empty() {
            return Err((n, "expected lines to choose from".to_owned()));
        }
        choices.iter().map(|(n, line)| self.template(*n, &line["| ".len()..])).collect()
    }

    fn template(&self, n: usize, text: &str) -> Result<Template, Problem> {
        let template = Template::parse(text).map_err(|problem| (n, problem))?;
        template
            .check(&self.known, self.phrases)
            .map_err(|problem| (n, format!("{}: {problem}", self.section.name)))?;
        Ok(template)
    }

    fn know(&mut self, slots: impl IntoIterator<Item = String>) {
        self.known.extend(slots);
    }
}

struct Teller<'a> {
    phrases: &'a Phrases,
    random: &'a mut Random,
    cast: Cast,
    slots: Slots,
    numbers: HashMap<String, usize>,
    places: Vec<&'static str>,
    text: String,
    story: Story,
}

impl<'a> Teller<'a> {
    fn new(phrases: &'a Phrases, random: &'a mut Random) -> Self {
        let story = Story { text: String::new(), summary: String::new(), about: Vec::new(), questions: Vec::new() };
        Teller {
            phrases,
            random,
            cast: Cast::default(),
            slots: Slots::default(),
            numbers: HashMap::new(),
            places: Vec::new(),
            text: String::new(),
            story,
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Cast { role, part } => {
                self.cast.play(role, part, &mut self.slots, self.random);
                self.known_by(role, part);
            }
            Step::Place { role, which } => {
                let left: Vec<&Place> =
                    PLACES.iter().filter(|place| which(place) && !self.places.contains(&place.name)).collect();
                let place = *self.random.pick(&left);
                self.places.push(place.name);
                self.slots.set(role, place.name);
                self.slots.set(format!("{role}.at"), place.at);
                self.slots.set(format!("{role}.to"), place.to);
            }
            Step::Number { role, low, high } => {
                let n = self.random.between(*low, *high);
                self.number(role, n);
            }
            Step::Sum { role, of, minus } => {
                let [a, b] = of.each_ref().map(|of| of.parse().unwrap_or_else(|_| self.numbers[of]));
                self.number(role, if *minus { a.saturating_sub(b) } else { a + b });
            }
            Step::Pick(picks) => {
                for (name, value) in self.random.pick(picks) {
                    let value = value.expand(&self.slots, self.phrases, self.random);
                    self.slots.set(name, value);
                }
            }
            Step::Say(choices) => self.say(choices),
            Step::Maybe(percent, choices) => {
                if self.random.chance(*percent) {
                    self.say(choices);
                }
            }
            Step::Paragraph => self.text += "\n\n",
            Step::Summary(choices) => {
                let summary = self.random.pick(choices);
                self.story.summary = self.sentence(summary);
            }
            Step::About(about) => {
                let about = about.expand(&self.slots, self.phrases, self.random);
                self.about(&about);
            }
            Step::Ask(question, answer) => {
                let pair = (self.sentence(question), self.sentence(answer));
                self.story.questions.push(pair);
            }
        }
    }

    /// What can be asked of every role, whatever the plot.
    fn known_by(&mut self, role: &str, part: &Part) {
        let value = |slot: &str| self.slots.get(slot).unwrap_or_default().to_owned();
        let (name, a) = (value(role), value(&format!("{role}.a")));
        match part {
            Part::Child | Part::Named(_) if role == "h" => {
                self.about(&a);
                self.about(&format!("{a} called {name}"));
                self.about(&name);
                let answer = english::finished(&format!("The story is about {name}, {a}."));
                self.story.questions.push(("Who is the story about?".to_owned(), answer));
            }
            Part::Child | Part::Named(_) | Part::Plain(_) => self.about(&a),
            Part::Pet | Part::Elder { .. } | Part::Sibling { .. } => {}
        }
    }

    fn about(&mut self, about: &str) {
        self.story.about.push(english::with_articles(about));
    }

    fn number(&mut self, role: &str, n: usize) {
        self.numbers.insert(role.to_owned(), n);
        self.slots.set(role, english::number(n));
        self.slots.set(format!("{role}.digits"), n.to_string());
    }

    fn say(&mut self, choices: &[Template]) {
        let sentence = self.random.pick(choices).expand(&self.slots, self.phrases, self.random);
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push(' ');
        }
        self.text += &english::capitalised(&sentence);
    }

    fn sentence(&mut self, template: &Template) -> String {
        english::finished(&template.expand(&self.slots, self.phrases, self.random))
    }

    fn story(self) -> Story {
        Story { text: english::finished(self.text.trim_end()), ..self.story }
    }
}
