//! Code with colours: a text to spans of a few classes.
//!
//! The grammars know hundreds of scopes; a reader tells some eight colours apart. A span's class is one letter, so that
//! code with colours is hardly larger than without.

use maud::{Markup, Render, html};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use syntect::parsing::{ParseState, Scope, ScopeStack, SyntaxReference, SyntaxSet};

/// Longer code is shown without colours, as is code with a longer line: expressions that go back and forth take long on it.
const MAX_BYTES: usize = 64 << 10;
const MAX_LINE: usize = 2_000;

/// Code that takes longer is shown without colours.
// Tests run on machines that do other things, too.
const MAX_TIME: Duration = Duration::from_millis(if cfg!(test) { 60_000 } else { 250 });

static GRAMMARS: LazyLock<SyntaxSet> = LazyLock::new(SyntaxSet::load_defaults_newlines);

/// Which scopes have which class; of several the innermost counts, and of one scope's the first here. No class: as the
/// text.
const CLASSES: &[(&str, &str)] = &[
    ("comment", "c"),
    ("constant.character.escape", "n"),
    ("string", "s"),
    ("constant.numeric", "n"),
    ("constant.language", "n"),
    ("keyword.operator", ""),
    ("keyword", "k"),
    ("storage", "k"),
    ("entity.name.tag", "k"),
    ("entity.name.function", "f"),
    ("support.function", "f"),
    ("variable.function", "f"),
    ("entity.name", "t"),
    ("entity.other", "t"),
    ("support.type", "t"),
    ("support.class", "t"),
    ("markup.inserted", "i"),
    ("markup.deleted", "d"),
];

/// The classes that a span may have.
pub const SPAN_CLASSES: [&str; 8] = ["c", "s", "n", "k", "f", "t", "i", "d"];

static SCOPES: LazyLock<Vec<(Scope, &'static str)>> = LazyLock::new(|| {
    let scope = |name| Scope::new(name).expect("a scope of at most eight words");
    CLASSES.iter().map(|(name, class)| (scope(name), *class)).collect()
});

/// Names that models give languages, and a grammar that is theirs or near to it.
const NEAR: &[(&str, &str)] = &[
    ("c#", "cs"),
    ("console", "sh"),
    ("jsonc", "json"),
    ("jsonl", "json"),
    ("jsx", "js"),
    ("node", "js"),
    ("python3", "py"),
    ("shell", "sh"),
    ("ts", "js"),
    ("tsx", "js"),
    ("typescript", "js"),
    ("vue", "html"),
    ("zsh", "sh"),
];

/// A block of code: a figure with its language, a button that copies it, and the code.
pub fn block(code: &str, language: &str) -> Markup {
    html! {
        figure.code {
            figcaption {
                span.language { (language) }
                button.copy type="button" { "Copy" }
            }
            pre { code { (highlight(code, language)) } }
        }
    }
}

/// The code with colours, if the language is known and the code is not too much.
fn highlight(code: &str, language: &str) -> Markup {
    let plain = || html! { (code) };
    if code.len() > MAX_BYTES || code.lines().any(|line| line.len() > MAX_LINE) {
        return plain();
    }
    let Some(grammar) = grammar(language) else { return plain() };
    // A grammar is a stranger's program, and its code is no reason to lose an answer.
    catch_unwind(AssertUnwindSafe(|| colour(code, grammar))).ok().flatten().unwrap_or_else(plain)
}

fn grammar(language: &str) -> Option<&'static SyntaxReference> {
    let language = language.to_lowercase();
    let near = NEAR.iter().find(|(name, _)| *name == language).map(|(_, near)| *near);
    GRAMMARS.find_syntax_by_token(near.unwrap_or(&language))
}

/// None if it takes too long, or the grammar fails.
fn colour(code: &str, grammar: &SyntaxReference) -> Option<Markup> {
    let deadline = Instant::now() + MAX_TIME;
    let mut state = ParseState::new(grammar);
    let mut stack = ScopeStack::new();
    let mut spans = Spans::default();
    for line in code.split_inclusive('\n') {
        let mut start = 0;
        for (at, change) in state.parse_line(line, &GRAMMARS).ok()? {
            spans.push(line.get(start..at)?, class(&stack));
            stack.apply(&change).ok()?;
            start = at;
        }
        spans.push(line.get(start..)?, class(&stack));
        if Instant::now() > deadline {
            return None;
        }
    }
    Some(spans.finish())
}

fn class(stack: &ScopeStack) -> &'static str {
    let of_scope = |scope: &Scope| SCOPES.iter().find(|(prefix, _)| prefix.is_prefix_of(*scope));
    stack.as_slice().iter().rev().find_map(of_scope).map_or("", |(_, class)| class)
}

/// Text in spans; neighbours of one class share one.
#[derive(Default)]
struct Spans {
    html: String,
    text: String,
    class: &'static str,
}

impl Spans {
    fn push(&mut self, text: &str, class: &'static str) {
        if class != self.class && !text.is_empty() {
            self.flush();
            self.class = class;
        }
        self.text += text;
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        match self.class {
            _ if text.is_empty() => {}
            "" => text.render_to(&mut self.html),
            class => html! { span class=(class) { (text) } }.render_to(&mut self.html),
        }
    }

    fn finish(mut self) -> Markup {
        self.flush();
        maud::PreEscaped(self.html)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_has_colours() {
        let html = highlight("fn main() {\n    // One.\n    let x = \"<a>\";\n}\n", "rust").into_string();
        for span in [
            "<span class=\"k\">fn</span>",
            "<span class=\"f\">main</span>",
            "<span class=\"c\">// One.\n</span>",
            "<span class=\"s\">&quot;&lt;a&gt;&quot;</span>",
        ] {
            assert!(html.contains(span), "{span}: {html}");
        }
    }

    #[test]
    fn languages_that_models_name_are_known() {
        for language in
            "rust python Python3 py js javascript ts typescript json html css c cpp c++ java go bash sh shell \
                         console sql yaml diff ruby php haskell lua r xml latex makefile markdown"
                .split_whitespace()
        {
            assert!(grammar(language).is_some(), "{language}");
        }
        assert!(grammar("").is_none() && grammar("klingon").is_none());
    }

    #[test]
    fn what_is_too_much_stays_plain() {
        let long = format!("let x = \"{}\";\n", "a".repeat(MAX_LINE));
        let many = "let x = 1;\n".repeat(MAX_BYTES / 10);
        for code in [&long, &many] {
            assert!(!highlight(code, "rust").into_string().contains("<span"), "{} bytes", code.len());
        }
    }

    #[test]
    fn classes_are_listed() {
        for (_, class) in CLASSES {
            assert!(class.is_empty() || SPAN_CLASSES.contains(class), "{class}");
        }
    }
}
