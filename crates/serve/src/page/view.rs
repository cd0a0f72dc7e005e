//! What the page shows: the frame, and the pieces that the script puts into it.

use crate::access::Caller;
use crate::app::App;
use crate::history::{Conversation, Found, Listed, Message};
use crate::page::markdown;
use crate::page::settings::{RESPONSE_FORMAT, SETTINGS};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use puna_text::chat::Role;
use serde_json::{Value, json};

/// What a person who has no question yet may ask.
const EXAMPLES: [&str; 3] = ["What is your name?", "What is a cria?", "Tell me a story about a condor."];

/// The frame. It is the same for everybody and says nothing of the model, since nobody needs a key for it.
pub fn frame() -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "puna" }
                link rel="icon" href="page/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="page/style.css";
                script src="page/script.js" defer {}
            }
            body {
                a.skip href="#question" { "Skip to the question" }
                aside id="sidebar" aria-label="Conversations" {
                    header {
                        span.brand { "puna" }
                        button.quiet.narrow id="close-sidebar" type="button" { "Close" }
                    }
                    button.new id="new" type="button" { "New conversation" }
                    input id="search" type="search" maxlength="200" placeholder="Search" aria-label="Search conversations"
                        autocomplete="off";
                    nav aria-label="Conversations" { ul id="conversations" {} }
                    footer id="terms" {}
                }
                main {
                    header.bar {
                        button.quiet.narrow id="open-sidebar" type="button" aria-controls="sidebar" aria-expanded="false" {
                            "Chats"
                        }
                        select id="model" aria-label="Model" {}
                        span.space {}
                        button.quiet id="theme" type="button" { "Theme: auto" }
                        button.quiet id="open-settings" type="button" { "Settings" }
                    }
                    h1.unseen { "puna" }
                    div id="scroll" tabindex="-1" {
                        section id="thread" aria-label="Conversation" {}
                    }
                    p id="alert" role="alert" hidden {}
                    p id="status" role="status" class="unseen" {}
                    form id="composer" {
                        label.unseen for="question" { "Your question" }
                        textarea id="question" rows="1" placeholder="Ask something" autocomplete="off" {}
                        button id="send" type="submit" { "Send" }
                        button id="stop" type="button" hidden { "Stop" }
                    }
                    p.keys {
                        kbd { "Enter" } " sends · " kbd { "Shift Enter" } " begins a line · " kbd { "Esc" } " stops · "
                        kbd { "/" } " searches · " kbd { "↑" } " edits your last question"
                    }
                    noscript { p { "This page needs JavaScript, which this server brings along. Its API needs none." } }
                }
                dialog id="settings" aria-labelledby="settings-title" {
                    form method="dialog" {
                        h2 id="settings-title" { "Settings" }
                        div id="fields" {}
                        footer {
                            button.quiet id="reset" type="button" { "Reset all" }
                            button type="submit" { "Done" }
                        }
                    }
                }
                dialog.wide id="prompt" aria-labelledby="prompt-title" {
                    form method="dialog" {
                        h2 id="prompt-title" { "The prompt, as the model reads it" }
                        div id="tokens" {}
                        footer { button type="submit" autofocus { "Close" } }
                    }
                }
                dialog id="ask-key" aria-labelledby="key-title" {
                    form method="dialog" {
                        h2 id="key-title" { "This server asks for a key" }
                        p { "Whoever runs it can make one with " code { "puna key new" } ". It is kept until this tab is closed." }
                        label for="key" { "Key" }
                        input id="key" type="password" autocomplete="off" required;
                        footer { button type="submit" { "Go on" } }
                    }
                }
            }
        }
    }
}

/// What there is to say of the model, in the places where it is said.
pub fn about(app: &App, caller: &Caller) -> Value {
    json!({
        "models": models(app, caller).into_string(),
        "welcome": welcome(app).into_string(),
        "fields": fields(app).into_string(),
        "terms": terms(app).into_string(),
    })
}

fn models(app: &App, caller: &Caller) -> Markup {
    html! { @for name in app.names().filter(|name| caller.may_use(name)) { option value=(name) { (name) } } }
}

/// What is shown where nothing was said yet.
fn welcome(app: &App) -> Markup {
    let model = &app.model;
    html! {
        div.welcome {
            h2 { (model.name) }
            @if let Some(summary) = &model.about.summary { p.lead { (summary) } }
            p.facts {
                (model.about.parameters()) " parameters · " (model.about.format) " · "
                (grouped(model.service.context() as u64)) " tokens of context · on your own machine"
            }
            @if let Some(licence) = &model.about.licence {
                p.facts { strong { (licence.built_with) } ". " (licence.notice) }
            }
            ul.examples aria-label="Examples" {
                @for example in EXAMPLES { li { button.example type="button" { (example) } } }
            }
        }
    }
}

/// What a licence wants people to see, wherever they are on the page.
fn terms(app: &App) -> Markup {
    html! {
        @if let Some(licence) = &app.model.about.licence { p { strong { (licence.built_with) } } }
        p { a href="openapi.json" { "API" } " · puna " (env!("CARGO_PKG_VERSION")) }
    }
}

/// The fields of the settings.
fn fields(app: &App) -> Markup {
    html! {
        div.field {
            label for="set-system" { "Instructions" }
            textarea id="set-system" name="system" rows="3" aria-describedby="about-system" {}
            p id="about-system" { "What the model is told before the conversation, for instance how to answer." }
        }
        div.field {
            label for="set-form" { "Form of the answer" }
            select id="set-form" name="form" aria-describedby="about-form" {
                option value="" { "Free text" }
                option value="json_object" { "Any JSON" }
                option value="json_schema" { "JSON after a schema" }
            }
            p id="about-form" { "JSON is valid whatever the model would rather say; ask for what is to be in it." }
            div id="schema-field" hidden {
                label for="set-schema" { "JSON schema" }
                textarea.code id="set-schema" name="schema" rows="8" spellcheck="false" {}
            }
        }
        @for setting in SETTINGS {
            @let id = format!("set-{}", setting.name);
            @let about = format!("about-{}", setting.name);
            div.field.number {
                label for=(id) { (setting.label) }
                input id=(id) name=(setting.name) type="number" inputmode="decimal" min=(setting.min) max=[setting.max]
                    step=(setting.step) placeholder=((setting.default)(&app.model.sampling)) aria-describedby=(about);
                p id=(about) { (setting.about) }
            }
        }
    }
}

/// Conversations for the list, and what leads on.
pub fn list(found: &Listed<Found>) -> Markup {
    html! {
        @for Found { conversation, snippet } in &found.items {
            li data-conversation=(conversation.id) {
                a href={ "#/" (conversation.id) } {
                    (title(conversation))
                    @if let Some(snippet) = snippet { small { (snippet) } }
                }
                span.actions {
                    button.quiet type="button" data-do="rename" aria-label={ "Rename " (title(conversation)) } { "Rename" }
                    button.quiet type="button" data-do="delete" aria-label={ "Delete " (title(conversation)) } { "Delete" }
                }
            }
        }
        @if let Some(next) = &found.next {
            li { button.quiet.more type="button" data-after=(next) { "More" } }
        }
        @if found.items.is_empty() { li.nothing { "Nothing here yet." } }
    }
}

fn title(conversation: &Conversation) -> &str {
    if conversation.title.is_empty() { "Without a title" } else { &conversation.title }
}

/// A path through a conversation.
pub fn thread(app: &App, messages: &[Message], path: &[&Message]) -> Markup {
    html! { @for message in path { (self::message(app, messages, message)) } }
}

/// One message, with the ways that lead to others.
pub fn message(app: &App, messages: &[Message], message: &Message) -> Markup {
    let is_answer = message.role == Role::Assistant;
    let (kind, name) = if is_answer { ("answer", model_of(app, message)) } else { ("question", "You") };
    html! {
        article class=(kind) data-message=(message.id) data-parent=[message.parent] data-text=(message.content) {
            h2.unseen { (name) }
            div.text {
                @if is_answer { (answer_text(message)) } @else { (message.content) }
            }
            footer {
                (branches(messages, message))
                @if is_answer { span.facts { (facts(app, message)) } }
                span.actions {
                    (action("copy", "Copy"))
                    @if is_answer {
                        (action("retry", "Retry"))
                        (action("branch", "Branch"))
                        (action("prompt", "Prompt"))
                    } @else {
                        (action("edit", "Edit"))
                        (action("retry", "Answer"))
                    }
                }
            }
        }
    }
}

fn action(name: &str, label: &str) -> Markup {
    html! { button.quiet type="button" data-do=(name) { (label) } }
}

/// The model that gave an answer.
fn model_of<'a>(app: &'a App, message: &'a Message) -> &'a str {
    message.parameters["model"].as_str().unwrap_or(&app.model.name)
}

/// An answer is Markdown, unless it was asked for in JSON.
fn answer_text(message: &Message) -> Markup {
    if message.parameters[RESPONSE_FORMAT].is_null() {
        PreEscaped(markdown::render(&message.content))
    } else {
        PreEscaped(markdown::render_code(&message.content, "json"))
    }
}

/// The other messages in the place of this one.
fn branches(messages: &[Message], message: &Message) -> Markup {
    let same = |other: &&Message| other.parent == message.parent && other.role == message.role;
    let ids: Vec<u32> = messages.iter().filter(same).map(|other| other.id).collect();
    let at = ids.iter().position(|id| *id == message.id).unwrap_or(0);
    let step = |label: &str, sign: &str, to: Option<&u32>| {
        let to = to.map(|id| last_below(messages, *id));
        html! { button.quiet type="button" data-do="go" data-at=[to] aria-label=(label) disabled[to.is_none()] { (sign) } }
    };
    html! {
        @if ids.len() > 1 {
            span.branches role="group" aria-label="Versions" {
                (step("Version before", "‹", at.checked_sub(1).and_then(|at| ids.get(at))))
                (at + 1) " of " (ids.len())
                (step("Next version", "›", ids.get(at + 1)))
            }
        }
    }
}

/// The newest message below one, on the way of the newest at each turn.
fn last_below(messages: &[Message], id: u32) -> u32 {
    // Parents come before their children, so one pass finds each message's newest child behind it.
    let mut last = id;
    while let Some(child) = messages.iter().rev().find(|message| message.parent == Some(last) && message.id > last) {
        last = child.id;
    }
    last
}

/// Who answered, how much and how fast.
fn facts(app: &App, message: &Message) -> String {
    let mut facts = vec![model_of(app, message).to_owned()];
    let timings = &message.timings;
    let seconds = |name: &str| timings[name].as_f64().map(|millis| millis / 1e3);
    if let Some(n_tokens) = message.tokens {
        facts.push(format!("{} token{}", grouped(n_tokens.into()), if n_tokens == 1 { "" } else { "s" }));
        if let (Some(first), Some(whole)) = (seconds("first_ms"), seconds("whole_ms"))
            && n_tokens > 1
            && whole > first
        {
            // The first token's time is that of the prompt.
            facts.push(format!("{} tokens/s", rounded(f64::from(n_tokens - 1) / (whole - first))));
        }
    }
    if let Some(first) = seconds("first_ms") {
        facts.push(format!("first after {} s", rounded(first)));
    }
    match timings["end"].as_str() {
        Some("length") => facts.push("broken off at its limit".to_owned()),
        Some("stopped") => facts.push("stopped".to_owned()),
        Some("failed") => facts.push("broken off by an error".to_owned()),
        _ => {}
    }
    facts.join(" · ")
}

/// Two digits that count, or all before the point.
fn rounded(number: f64) -> String {
    match number {
        n if n >= 10.0 => format!("{n:.0}"),
        n if n >= 1.0 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

/// `8,192`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A prompt's tokens, each with its id.
pub fn prompt(ids: &[u32], pieces: &[String]) -> Markup {
    html! {
        p { (grouped(ids.len() as u64)) " tokens; each with its number when it is pointed at." }
        p.tokens {
            @for (id, piece) in ids.iter().zip(pieces) { span title=(id) { (piece) } }
        }
        details {
            summary { "Numbers" }
            p.tokens { @for id in ids { (id) " " } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;

    fn said(id: u32, parent: Option<u32>, role: Role) -> Message {
        let (parameters, timings) = (Value::Null, Value::Null);
        Message { id, parent, role, content: "<b>".into(), time: Time::now(), parameters, tokens: None, timings }
    }

    #[test]
    fn branches_lead_to_their_newest_ends() {
        use Role::{Assistant, User};
        let messages = [
            said(1, None, User),
            said(2, Some(1), Assistant),
            said(3, Some(2), User),
            said(4, Some(1), Assistant),
            said(5, Some(3), Assistant),
        ];
        let html = branches(&messages, &messages[1]).into_string();
        assert!(html.contains("1 of 2") && html.contains("data-at=\"4\"") && html.contains("disabled"), "{html}");
        assert!(branches(&messages, &messages[3]).into_string().contains("data-at=\"5\""));
        assert_eq!(branches(&messages, &messages[0]).into_string(), "");
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([grouped(7), grouped(1_024), grouped(131_072)], ["7", "1,024", "131,072"]);
        assert_eq!([rounded(0.034), rounded(7.25), rounded(83.4)], ["0.03", "7.2", "83"]);
    }

    #[test]
    fn titles_and_pieces_are_text() {
        let conversation = Conversation {
            id: "x".into(),
            title: "<script>".into(),
            model: "m".into(),
            created: Time::now(),
            updated: Time::now(),
        };
        let found = Found { conversation, snippet: Some("<img>".into()) };
        let html = list(&Listed { items: vec![found], next: None }).into_string();
        assert!(html.contains("&lt;script&gt;") && html.contains("&lt;img&gt;"), "{html}");
        let html = prompt(&[1, 2], &["<b>".into(), "\"\n".into()]).into_string();
        assert!(html.contains("<span title=\"1\">&lt;b&gt;</span>"), "{html}");
    }
}
