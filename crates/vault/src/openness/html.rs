//! A card as one page of HTML, that needs nothing else.

use super::{Assessment, Card, Component, Presence};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = "
:root { color-scheme: light dark; --text: #1d2733; --soft: #5a6675; --line: #d8dee6; --back: #fff; --card: #f5f7fa;
  --yes: #11693a; --partly: #8a5a00; --no: #a3282b; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e8ee; --soft: #9aa7b5; --line: #343d48; --back: #14181d;
  --card: #1c2229; --yes: #63cf95; --partly: #e0b35a; --no: #f08a8a; } }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.2rem 4rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; }
.called { font-size: 1.25rem; font-weight: 600; margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid var(--line); } th { font-weight: 500; width: 15rem; overflow-wrap: normal; } td.state { width: 5.5rem; overflow-wrap: normal; }
.yes { color: var(--yes); } .partly { color: var(--partly); } .no { color: var(--no); } .not-known { color: var(--soft); }
section.framework { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .9rem 1.1rem;
  margin: .8rem 0; }
@media (max-width: 40rem) { th, td.state { width: auto; } }
";

impl Card {
    /// The card as a page.
    #[must_use]
    pub fn to_html(&self) -> String {
        let licence = self.licence_known().map_or("not known", |licence| licence.name.as_str());
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    // Nothing is loaded, whatever a name in the card may be.
                    meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                    title { (self.model) ": " (self.called) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    h1 { (self.model) }
                    p.called { (self.called) }
                    p.soft { "Licence: " (licence) ". As of " (self.as_of) "." }
                    h2 { "What you may do" }
                    (pairs(self.user_rights.rows()))
                    h2 { "What is published" }
                    table { @for component in &self.components { (component_row(component)) } }
                    h2 { "What frameworks make of it" }
                    @for assessment in &self.assessments { (framework(assessment)) }
                    h2 { "Facts, from the files" }
                    (pairs(self.facts.rows()))
                    @if !self.claims.is_empty() {
                        h2 { "What its vendor says" }
                        table {
                            @for claim in &self.claims {
                                tr { th { (claim.name) } td { (claim.value) " " span.soft { "(" (claim.source) ")" } } }
                            }
                        }
                    }
                    p.soft {
                        "Made by puna. Verdicts are computed from what is published and under which terms; readings of \
                         licences are an engineer's, and no legal advice."
                    }
                }
            }
        };
        page.into_string()
    }
}

fn pairs(rows: Vec<(&'static str, String)>) -> Markup {
    html! { table { @for (name, value) in rows { tr { th { (name) } td class=[class(&value)] { (value) } } } } }
}

/// How an answer is coloured.
fn class(answer: &str) -> Option<&'static str> {
    match answer {
        "not known" => Some("not-known"),
        _ => None,
    }
}

fn component_row(component: &Component) -> Markup {
    let state = match component.present {
        Presence::Yes => "state yes",
        Presence::Partly => "state partly",
        Presence::No => "state no",
        Presence::NotKnown => "state not-known",
    };
    html! {
        tr {
            th { (component.name.label()) }
            td class=(state) { (component.present) }
            td {
                (component.terms())
                div.soft {
                    (component.evidence)
                    @if let Some(source) = &component.source {
                        " · "
                        // Other sources are files of puna's repository.
                        @if source.starts_with("https://") { a href=(source) rel="noreferrer" { (source) } }
                        @else { (source) }
                    }
                }
            }
        }
    }
}

fn framework(assessment: &Assessment) -> Markup {
    html! {
        section.framework {
            h3 { (assessment.framework) ": " (assessment.verdict) }
            table {
                @for criterion in &assessment.criteria {
                    @let answer = criterion.answer.to_string();
                    tr {
                        th { (criterion.name) }
                        // The index has words of its own.
                        @let is_own = assessment.counts.is_some();
                        td class={ "state " (answer.replace(' ', "-")) } { @if is_own { (criterion.why) } @else { (answer) } }
                        @if !is_own { td { (criterion.why) } }
                    }
                }
            }
            p.soft { "Judged by " (assessment.assessor) ". " (assessment.source) }
        }
    }
}
