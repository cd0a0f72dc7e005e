//! Calls of tools, in the format that the model was told of its tools in.
//!
//! Whatever is written under such a grammar, [`parse_tool_calls`](puna_text::chat::parse_tool_calls) reads as calls of tools
//! that were offered, with arguments that fit their schemas, or as text without calls.

use std::collections::HashSet;
use std::fmt::Write;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use puna_text::chat::{Conversation, ToolStyle};
use serde_json::{Value, json};

use super::GrammarError;
use super::grammar::{Separators, json_grammar, lark_string};
use super::limits::{MAX_TOOLS, MAX_TOOLS_BYTES, check, check_json};

/// Whether the model is to call a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// It may.
    #[default]
    Auto,
    /// It must call one.
    Required,
    /// It must call this one.
    Named(String),
}

/// Tools that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCalls {
    /// In OpenAI's shape, as in a [`Conversation`].
    pub tools: Vec<Value>,
    /// Llama 3.1's own: `brave_search`, `wolfram_alpha`, `code_interpreter`.
    pub builtin_tools: Vec<String>,
    /// How calls are written.
    pub style: ToolStyle,
    /// Whether one must be called.
    pub choice: ToolChoice,
    /// An answer may hold several calls. The published chat format has room for one when the answer becomes part of the
    /// conversation.
    pub parallel: bool,
}

/// As Llama 3.1's examples, and the format of calls in its prompt, have JSON.
const AS_IN_PROMPT: Separators = Separators { item: ", ", key: ": " };

/// Text that is read as no call: it neither begins like JSON nor has the beginning of a tagged call in it.
const TEXT: &str = r"TEXT: /\s*[^\s{\[](?s:.*)/ & ~/(?s:.*)<function=(?s:.*)/";
/// Code that is read as nothing else: like text, and no call of a built-in tool.
const CODE: &str = r"CODE: /\s*[^\s{\[](?s:.*)/ & ~/(?s:.*)<function=(?s:.*)/ & ~/\s*[\w\p{N}]+\.call\((?s:.*)/";

/// A tool as the grammar needs it.
struct Tool<'a> {
    name: &'a str,
    parameters: Value,
}

impl ToolCalls {
    /// The tools of a conversation.
    #[must_use]
    pub fn of(conversation: &Conversation, choice: ToolChoice, parallel: bool) -> ToolCalls {
        ToolCalls {
            tools: conversation.tools.clone(),
            builtin_tools: conversation.builtin_tools.clone().unwrap_or_default(),
            style: conversation.tool_style,
            choice,
            parallel,
        }
    }

    /// The same for the library: a grammar that refers to one for each tool's arguments.
    pub(super) fn to_library(&self) -> Result<TopLevelGrammar, GrammarError> {
        let tools = self.read_tools()?;
        let is_chosen = |name: &str| !matches!(&self.choice, ToolChoice::Named(chosen) if chosen != name);
        let mut calls = Vec::new();
        let mut builtin_calls = Vec::new();
        let mut grammars = vec![GrammarWithLexer::default()];
        for (i, tool) in tools.into_iter().enumerate().filter(|(_, tool)| is_chosen(tool.name)) {
            let (before, after) = match self.style {
                ToolStyle::Json => (format!("{{\"name\": \"{}\", \"parameters\": ", tool.name), "}"),
                ToolStyle::FunctionTag => (format!("<function={}>", tool.name), "</function>"),
            };
            calls.push(format!("{} @tool_{i} {}", lark_string(&before), lark_string(after)));
            let arguments = json_grammar(tool.parameters, &AS_IN_PROMPT);
            grammars.push(GrammarWithLexer { name: Some(format!("tool_{i}")), ..arguments });
        }
        for name in self.builtin_tools.iter().filter(|name| is_chosen(name)) {
            builtin_calls.push(match name.as_str() {
                "code_interpreter" => "CODE".to_owned(),
                // Nothing is escaped in this format, so a value has no quotation marks.
                _ => format!("{} /[^\"\\n]+/ {}", lark_string(&format!("{name}.call(query=\"")), lark_string("\")")),
            });
        }
        if calls.is_empty() && builtin_calls.is_empty() {
            let problem = match &self.choice {
                ToolChoice::Named(name) => format!("none is called {name:?}"),
                _ => "expected one or more".to_owned(),
            };
            return Err(GrammarError::invalid("tools", problem));
        }
        let mut starts = Vec::new();
        let mut text = String::new();
        if self.choice == ToolChoice::Auto {
            starts.push("TEXT");
            text += TEXT;
            text.push('\n');
        }
        if !calls.is_empty() {
            let separator = match self.style {
                ToolStyle::Json => "\"; \" ",
                ToolStyle::FunctionTag => "",
            };
            starts.push(if self.parallel { "calls" } else { "call" });
            // Writing into a string can't fail.
            let _ = write!(text, "calls: call ({separator}call)*\ncall: {}\n", calls.join(" | "));
        }
        if !builtin_calls.is_empty() {
            starts.push("builtin");
            let _ = write!(text, "{CODE}\nbuiltin: <|python_tag|> ({})\n", builtin_calls.join(" | "));
        }
        let start = format!("start: {}\n{text}", starts.join(" | "));
        grammars[0] = GrammarWithLexer::from_lark(start);
        Ok(TopLevelGrammar { grammars, max_tokens: None })
    }

    /// Names and parameters of the tools, checked.
    fn read_tools(&self) -> Result<Vec<Tool<'_>>, GrammarError> {
        check("tools", self.tools.len(), "tools", MAX_TOOLS)?;
        let mut names: HashSet<&str> = HashSet::new();
        for name in &self.builtin_tools {
            if !matches!(name.as_str(), "brave_search" | "wolfram_alpha" | "code_interpreter") {
                let problem = "expected `brave_search`, `wolfram_alpha` or `code_interpreter`";
                return Err(GrammarError::invalid(format!("the built-in tool {name:?}"), problem));
            }
            names.insert(name);
        }
        let mut n_bytes = 0;
        let mut tools = Vec::with_capacity(self.tools.len());
        for (i, tool) in self.tools.iter().enumerate() {
            let what = |part: &str| format!("tools[{i}]{part}");
            let function = tool.get("function").unwrap_or(tool);
            let name = function["name"].as_str().unwrap_or_default();
            if !is_name(name) {
                let problem = "expected 1 to 64 letters, digits, `_`, `-` or `.`";
                return Err(GrammarError::invalid(what(".name"), problem));
            }
            if !names.insert(name) {
                return Err(GrammarError::invalid(what(".name"), format!("{name:?} is the name of another tool too")));
            }
            let schema = &function["parameters"];
            n_bytes += check_json(&what(".parameters"), schema)?;
            check("the schemas of all tools", n_bytes, "bytes", MAX_TOOLS_BYTES)?;
            let parameters = object_schema(schema)
                .ok_or_else(|| GrammarError::invalid(what(".parameters"), "expected a schema of an object"))?;
            tools.push(Tool { name, parameters });
        }
        Ok(tools)
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// The schema of arguments, which are an object whether it says so or not. Without one there are none.
fn object_schema(schema: &Value) -> Option<Value> {
    match schema {
        Value::Null => Some(json!({"type": "object", "additionalProperties": false})),
        Value::Object(fields) => {
            let mut fields = fields.clone();
            let kind = fields.entry("type").or_insert_with(|| "object".into());
            (kind == "object").then_some(Value::Object(fields))
        }
        _ => None,
    }
}
