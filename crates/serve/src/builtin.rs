//! Llama's own tools, which the server runs where its operator turned them on: code, search and maths.
//!
//! Code is a stranger's: it runs in the sandbox of [`puna_interpreter`], each piece in a process of its own, of which
//! nothing is left. The other two are the operator's affair: a query goes to an address of this machine, and what comes
//! back goes to the model. What tools say is text to the model whatever it spells, and is believed by nobody here.

mod endpoint;

pub use endpoint::Endpoint;

use crate::error::ApiError;
use axum::http::StatusCode;
use puna_interpreter::{Interpreter, Output, Status as Exit};
use puna_text::chat::{Content, Message, Role, ToolCall};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

/// The tool that runs Python code.
pub const CODE_INTERPRETER: &str = "code_interpreter";
/// The tool that searches the web.
pub const BRAVE_SEARCH: &str = "brave_search";
/// The tool that calculates.
pub const WOLFRAM_ALPHA: &str = "wolfram_alpha";

/// Pieces of code that run at a time; further ones wait for their turn.
const RUNNING: usize = 4;

/// The tools that the operator turned on.
pub struct BuiltinTools {
    interpreter: Option<Arc<Interpreter>>,
    brave_search: Option<Endpoint>,
    wolfram_alpha: Option<Endpoint>,
    turns: Arc<Semaphore>,
}

/// A call by the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name, which no other call has.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// Code, or a query.
    pub input: String,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the tool ran.
    pub status: Status,
    /// What the tool said, or why it said nothing.
    pub output: String,
}

/// Whether a tool ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It did. Code may have ended with an error.
    Completed,
    /// It could not.
    Failed,
    /// It was not let run: the answer was at one of its limits.
    Incomplete,
}

/// What tools do for an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// The model has called one.
    Called(Call),
    /// It has ended.
    Ran(Outcome),
    /// The model goes on, from a prompt of so many tokens.
    GoesOn(usize),
}

impl Status {
    /// OpenAI's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Incomplete => "incomplete",
        }
    }
}

impl Call {
    /// The same, if it is a call of one of these tools.
    #[must_use]
    pub fn of(call: &ToolCall, offered: &[String]) -> Option<Call> {
        let input = call.arguments[argument(&call.name)].as_str()?;
        let id = call.id.clone()?;
        offered.contains(&call.name).then(|| Call { id, tool: call.name.clone(), input: input.to_owned() })
    }

    /// The same of a call that was cut, which reads as code while it is not clear which tool's it is.
    #[must_use]
    pub fn begun(call: &ToolCall, offered: &[String]) -> Option<Call> {
        let input = call.arguments["code"].as_str().filter(|_| call.name == CODE_INTERPRETER)?;
        let is_begun = |tool: &&String| {
            let start = format!("{tool}.call(");
            start.starts_with(input) || input.starts_with(&start)
        };
        let tool = offered.iter().find(is_begun)?.clone();
        Some(Call { id: call.id.clone()?, tool, input: input.to_owned() })
    }

    /// The arguments, by name.
    #[must_use]
    pub fn arguments(&self) -> Value {
        json!({ argument(&self.tool): self.input })
    }

    /// The call and its result, as the model is shown them. Code of a tool that is `offered` stands there bare, as the model
    /// wrote it.
    #[must_use]
    pub fn messages(&self, output: &str, offered: bool) -> [Message; 2] {
        let bare = offered && self.tool == CODE_INTERPRETER;
        let arguments = if bare { Value::String(self.input.clone()) } else { self.arguments() };
        let id = Some(self.id.clone());
        let call = ToolCall { id: id.clone(), name: self.tool.clone(), arguments };
        // What an endpoint says in JSON the model sees as such.
        let json = if self.tool == CODE_INTERPRETER { None } else { serde_json::from_str::<Value>(output).ok() };
        let content = match json {
            Some(json @ (Value::Object(_) | Value::Array(_))) => Content::Json(json),
            _ => output.into(),
        };
        [
            Message { tool_calls: vec![call], end_of_message: true, ..Message::assistant("") },
            Message { tool_call_id: id, ..Message::new(Role::Tool, content) },
        ]
    }
}

/// What a tool's only argument is called.
fn argument(tool: &str) -> &'static str {
    if tool == CODE_INTERPRETER { "code" } else { "query" }
}

impl Outcome {
    /// Of a call that was not let run.
    #[must_use]
    pub fn not_run(reason: &str) -> Outcome {
        Outcome { status: Status::Incomplete, output: format!("not run: {reason}") }
    }

    fn failed(tool: &str, reason: &str) -> Outcome {
        Outcome { status: Status::Failed, output: format!("{tool}: {reason}") }
    }
}

impl BuiltinTools {
    /// These tools, and no others.
    #[must_use]
    pub fn new(
        interpreter: Option<Interpreter>,
        brave_search: Option<Endpoint>,
        wolfram_alpha: Option<Endpoint>,
    ) -> BuiltinTools {
        let turns = Arc::new(Semaphore::new(RUNNING));
        BuiltinTools { interpreter: interpreter.map(Arc::new), brave_search, wolfram_alpha, turns }
    }

    /// None at all.
    #[must_use]
    pub fn none() -> BuiltinTools {
        BuiltinTools::new(None, None, None)
    }

    fn endpoint(&self, tool: &str) -> Option<&Endpoint> {
        match tool {
            BRAVE_SEARCH => self.brave_search.as_ref(),
            WOLFRAM_ALPHA => self.wolfram_alpha.as_ref(),
            _ => None,
        }
    }

    /// Whether a request may use these tools; `field` is the one that asks for them.
    ///
    /// # Errors
    /// When there is no such tool, the operator has not turned it on, or one is named twice.
    pub fn check(&self, field: &str, tools: &[String]) -> Result<(), ApiError> {
        for (idx, tool) in tools.iter().enumerate() {
            self.check_one(field, tool)?;
            if tools[..idx].contains(tool) {
                return Err(ApiError::field(field, format!("expected each tool once, found {tool} twice")));
            }
        }
        Ok(())
    }

    fn check_one(&self, field: &str, tool: &str) -> Result<(), ApiError> {
        match tool {
            CODE_INTERPRETER if self.interpreter.is_some() => Ok(()),
            _ if self.endpoint(tool).is_some() => Ok(()),
            CODE_INTERPRETER | BRAVE_SEARCH | WOLFRAM_ALPHA => {
                let message = format!("{field}: the operator of this server has not turned {tool} on");
                Err(ApiError::new(StatusCode::BAD_REQUEST, "tool_not_enabled", message))
            }
            _ => {
                let known = [CODE_INTERPRETER, BRAVE_SEARCH, WOLFRAM_ALPHA].join(", ");
                Err(ApiError::field(field, format!("expected one of {known}, found {tool:?}")))
            }
        }
    }

    /// Runs a tool. Dropped, it is stopped.
    pub async fn run(&self, call: &Call) -> Outcome {
        if call.tool == CODE_INTERPRETER {
            return match &self.interpreter {
                Some(interpreter) => self.run_code(interpreter.clone(), call.input.clone()).await,
                None => Outcome::failed(&call.tool, "it is not turned on"),
            };
        }
        let Some(endpoint) = self.endpoint(&call.tool) else {
            return Outcome::failed(&call.tool, "it is not turned on");
        };
        match endpoint.ask(&call.input).await {
            Ok(output) => Outcome { status: Status::Completed, output },
            Err(reason) => Outcome::failed(&call.tool, &reason),
        }
    }

    async fn run_code(&self, interpreter: Arc<Interpreter>, code: String) -> Outcome {
        let Ok(turn) = self.turns.clone().acquire_owned().await else {
            return Outcome::failed(CODE_INTERPRETER, "the server ends");
        };
        let stop = StopOnDrop(Arc::default());
        let stopped = stop.0.clone();
        // The thread waits for the code, and must live as long as it.
        let run = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            interpreter.run(&code, &stopped)
        });
        match run.await {
            Ok(Ok(output)) => Outcome { status: Status::Completed, output: report(&output) },
            Ok(Err(error)) => Outcome { status: Status::Failed, output: error.to_string() },
            Err(_) => Outcome::failed(CODE_INTERPRETER, "it failed; that is a fault of the server"),
        }
    }
}

/// Tells the interpreter that nobody waits any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What code printed, in the form that Llama 3.1 knows.
fn report(output: &Output) -> String {
    let mut text = match output.status {
        Exit::Exited(0) => "completed".to_owned(),
        Exit::Exited(_) => "failed".to_owned(),
        exit => format!("failed: {exit}"),
    };
    for (name, stream) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let printed = stream.text.trim_end();
        if !printed.is_empty() {
            text += &format!("\n[{name}]\n{printed}\n[/{name}]");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_interpreter::Stream;
    use std::time::Duration;

    #[test]
    fn reports_are_as_llama_knows_them() {
        let stream = |text: &str| Stream { text: text.into(), dropped: 0 };
        let output = |stdout, stderr, status| Output {
            stdout: stream(stdout),
            stderr: stream(stderr),
            status,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
        };
        assert_eq!(report(&output("42\n", "", Exit::Exited(0))), "completed\n[stdout]\n42\n[/stdout]");
        assert_eq!(report(&output("", "Oops", Exit::Exited(1))), "failed\n[stderr]\nOops\n[/stderr]");
        assert_eq!(report(&output("", "", Exit::TimedOut)), "failed: stopped: out of time");
    }

    #[test]
    fn calls_of_what_is_offered_are_the_servers() {
        let call = |name: &str, arguments| ToolCall { id: Some("1".into()), name: name.into(), arguments };
        let offered = [BRAVE_SEARCH.to_owned(), CODE_INTERPRETER.to_owned()];
        let search = Call::of(&call(BRAVE_SEARCH, json!({"query": "gold"})), &offered).unwrap();
        assert_eq!((search.input.as_str(), search.arguments()), ("gold", json!({"query": "gold"})));
        assert_eq!(search.messages("[1]", true)[1].content, Content::Json(json!([1])));
        assert_eq!(search.messages("1", true)[1].content, Content::Text("1".into()));
        let code = Call::of(&call(CODE_INTERPRETER, json!({"code": "[1]"})), &offered).unwrap();
        assert_eq!(code.messages("[1]", true)[0].tool_calls[0].arguments, json!("[1]"));
        assert_eq!(code.messages("[1]", false)[0].tool_calls[0].arguments, json!({"code": "[1]"}));
        assert_eq!(code.messages("[1]", true)[1].content, Content::Text("[1]".into()));
        let begun = |text: &str| {
            let code = call(CODE_INTERPRETER, json!({"code": text}));
            Call::begun(&code, &offered).map(|call| call.tool)
        };
        assert_eq!(begun("brave_search.call(query=\"go").as_deref(), Some(BRAVE_SEARCH));
        assert_eq!(begun("brave_").as_deref(), Some(BRAVE_SEARCH));
        assert_eq!(begun("print("), None);
        for other in
            [call(WOLFRAM_ALPHA, json!({"query": "1"})), call(BRAVE_SEARCH, json!({"q": "1"})), call("f", json!("x"))]
        {
            assert_eq!(Call::of(&other, &offered), None);
        }
    }
}
