//! The interactive chat of `puna run`.

use crate::chat_format::read_conversation;
use crate::home;
use crate::machine::Machine;
use crate::prompt::ChatFormat;
use crate::run::{decode_figures, stream};
use crate::show;
use crate::speculate::draft_figures;
use anyhow::{Context, Result, bail};
use puna_session::{Options, Session};
use puna_text::chat::{Content, Conversation, Message, Role};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use signal_hook::consts::SIGINT;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const HELP: &str = "\
Type a message and press Enter. Begin with \"\"\" for several lines, and end with \"\"\".
  /system [TEXT]     show or set the instructions for the whole conversation
  /retry             answer the last message again
  /undo              take back the last message and its answer
  /reset             forget the conversation, keep the instructions
  /set NAME VALUE    temperature, top_p, top_k, min_p, typical, repetition_penalty, frequency_penalty,
                     presence_penalty, max_tokens, seed; VALUE 'off' for a random seed or no max_tokens
  /show              settings, and how full the context is
  /save FILE         write the conversation as JSON
  /load FILE         go on with a conversation from such a file
  /help              this
  /exit              leave; so does Ctrl-D
Ctrl-C stops an answer and keeps the chat; what was said so far stays in it.";

/// Talks until the person leaves.
pub fn run(
    session: Session,
    machine: Machine,
    format: ChatFormat,
    conversation: Conversation,
    options: Options,
) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    // A second Ctrl-C, while the first waits for a long prompt's next chunk, ends the program.
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, interrupted.clone())?;
    signal_hook::flag::register(SIGINT, interrupted.clone())?;
    eprintln!(
        "{} · context {} tokens · chat format: {} · /help for help",
        session.engine().model().describe(),
        session.engine().context(),
        format.describe()
    );
    let mut chat = Chat { session, machine, format, conversation, options, interrupted };
    let config = Config::builder().max_history_size(1000)?.auto_add_history(true).build();
    let mut editor: Editor<(), FileHistory> = Editor::with_config(config)?;
    let history = history_file();
    if let Some(file) = &history {
        // The first time there is none.
        let _ = editor.load_history(file);
    }
    loop {
        match read(&mut editor) {
            Ok(line) => {
                if let Some(file) = &history {
                    // Chatting goes on where the history can't be kept.
                    let _ = editor.append_history(file);
                }
                match chat.line(&line) {
                    Ok(Next::Line) => {}
                    Ok(Next::Leave) => return Ok(()),
                    Err(error) => eprintln!("{}", show::error(&error)),
                }
            }
            Err(ReadlineError::Interrupted) => eprintln!("Ctrl-D or /exit to leave"),
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where lines are remembered, readable by the person alone.
fn history_file() -> Option<PathBuf> {
    let dir = home::state()?;
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("history"))
}

/// A line, or several between `"""`.
fn read(editor: &mut Editor<(), FileHistory>) -> rustyline::Result<String> {
    const QUOTES: &str = "\"\"\"";
    let first = editor.readline(">>> ")?;
    let Some(begin) = first.trim_start().strip_prefix(QUOTES) else { return Ok(first) };
    let mut text = begin.to_owned();
    loop {
        if let Some(whole) = text.trim_end().strip_suffix(QUOTES) {
            return Ok(whole.trim_matches('\n').to_owned());
        }
        text += "\n";
        text += &editor.readline("... ")?;
    }
}

enum Next {
    Line,
    Leave,
}

struct Chat {
    session: Session,
    machine: Machine,
    format: ChatFormat,
    conversation: Conversation,
    options: Options,
    interrupted: Arc<AtomicBool>,
}

impl Chat {
    /// A line that the person typed: a command or a message.
    fn line(&mut self, line: &str) -> Result<Next> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(Next::Line);
        }
        let Some(command) = line.strip_prefix('/') else {
            self.conversation.messages.push(Message::user(line));
            let answered = self.answer();
            if answered.is_err() {
                self.conversation.messages.pop();
            }
            return answered.map(|()| Next::Line);
        };
        let (command, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match command {
            "help" | "?" => eprintln!("{HELP}"),
            "exit" | "quit" | "bye" => return Ok(Next::Leave),
            "system" if rest.is_empty() => match self.system() {
                Some(Message { content: Content::Text(text), .. }) => eprintln!("{}", show::harmless(text)),
                _ => eprintln!("no instructions"),
            },
            "system" => {
                let message = Message::system(rest);
                match self.system() {
                    Some(system) => *system = message,
                    None => self.conversation.messages.insert(0, message),
                }
            }
            "retry" => {
                let said = self.last_user().context("/retry: expected a message to answer, found none yet")?;
                let before = self.conversation.messages.split_off(said + 1);
                let answered = self.answer();
                if answered.is_err() {
                    self.conversation.messages.extend(before);
                }
                answered?;
            }
            "undo" => {
                let said = self.last_user().context("/undo: expected a message to take back, found none yet")?;
                self.conversation.messages.truncate(said);
            }
            "reset" | "clear" => self.conversation.messages.retain(|message| message.role == Role::System),
            "set" => self.set(rest)?,
            "show" => self.show()?,
            "save" => {
                let file = path(command, rest)?;
                let text = serde_json::to_string_pretty(&self.conversation)?;
                std::fs::write(file, text).with_context(|| file.display().to_string())?;
            }
            "load" => {
                let conversation = read_conversation(path(command, rest)?)?;
                // Written once, so that what the format can't hold is refused now.
                self.format.write(&conversation)?.encode(self.session.tokenizer())?;
                self.conversation = conversation;
                eprintln!("{} messages", self.conversation.messages.len());
            }
            _ => bail!("/{command}: expected a command, found none of that name; /help lists them"),
        }
        Ok(Next::Line)
    }

    fn system(&mut self) -> Option<&mut Message> {
        self.conversation.messages.first_mut().filter(|message| message.role == Role::System)
    }

    fn last_user(&self) -> Option<usize> {
        self.conversation.messages.iter().rposition(|message| message.role == Role::User)
    }

    /// Answers the conversation's last message. An error leaves the conversation as it was.
    fn answer(&mut self) -> Result<()> {
        self.interrupted.store(false, Ordering::Relaxed);
        let prompt = self.format.write(&self.conversation)?.encode(self.session.tokenizer())?;
        let answer = stream(&mut self.session, &prompt, &self.options, true, &self.interrupted);
        self.interrupted.store(false, Ordering::Relaxed);
        let answer = answer?;
        let used = answer.prompt_tokens + answer.ids.len();
        note(&format!(
            "{} tokens{} · context {used} of {}{}{}",
            answer.ids.len(),
            decode_figures(&answer.timings, self.machine.reading(&answer.timings).as_ref()),
            self.session.engine().context(),
            draft_figures(&answer),
            match answer.finish_reason {
                "length" => " · cut off: the limit of tokens was reached",
                "cancelled" => " · stopped",
                _ => "",
            }
        ));
        let ends_turn =
            answer.stop_token.is_none() || answer.stop_token != self.session.tokenizer().special("<|eom_id|>");
        self.conversation.messages.push(Message { end_of_message: !ends_turn, ..Message::assistant(answer.text) });
        Ok(())
    }

    fn set(&mut self, rest: &str) -> Result<()> {
        fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T> {
            value.parse().map_err(|_| anyhow::anyhow!("/set {name}: expected a number, found {value:?}"))
        }
        let (name, value) = rest
            .split_once(char::is_whitespace)
            .with_context(|| format!("/set: expected a name and a value, found {rest:?}"))?;
        let value = value.trim();
        let off = value == "off";
        let mut options = self.options.clone();
        let sampling = &mut options.sampling;
        match name {
            "temperature" => sampling.temperature = number(name, value)?,
            "top_p" => sampling.top_p = number(name, value)?,
            "top_k" => sampling.top_k = number(name, value)?,
            "min_p" => sampling.min_p = number(name, value)?,
            "typical" => sampling.typical = number(name, value)?,
            "repetition_penalty" => sampling.repetition_penalty = number(name, value)?,
            "frequency_penalty" => sampling.frequency_penalty = number(name, value)?,
            "presence_penalty" => sampling.presence_penalty = number(name, value)?,
            "seed" => sampling.seed = if off { None } else { Some(number(name, value)?) },
            "max_tokens" => options.max_tokens = if off { None } else { Some(number(name, value)?) },
            _ => bail!("/set: expected a setting, found {name:?}; /help lists them"),
        }
        options.sampling.check(self.session.engine().model().config().vocab_size)?;
        self.options = options;
        Ok(())
    }

    fn show(&self) -> Result<()> {
        let s = &self.options.sampling;
        let or_off = |value: Option<String>| value.unwrap_or_else(|| "off".to_owned());
        eprintln!(
            "temperature {} · top_p {} · top_k {} · min_p {} · typical {}\n\
             repetition_penalty {} · frequency_penalty {} · presence_penalty {}\n\
             seed {} · max_tokens {}",
            s.temperature,
            s.top_p,
            s.top_k,
            s.min_p,
            s.typical,
            s.repetition_penalty,
            s.frequency_penalty,
            s.presence_penalty,
            or_off(s.seed.map(|seed| seed.to_string())),
            or_off(self.options.max_tokens.map(|n| n.to_string())),
        );
        let used = match self.conversation.messages.len() {
            0 => 0,
            _ => self.format.write(&self.conversation)?.encode(self.session.tokenizer())?.len(),
        };
        eprintln!(
            "{} messages · context {used} of {} tokens · date {} · chat format: {}",
            self.conversation.messages.len(),
            self.session.engine().context(),
            self.conversation.date,
            self.format.describe(),
        );
        Ok(())
    }
}

fn path<'a>(command: &str, rest: &'a str) -> Result<&'a Path> {
    if rest.is_empty() {
        bail!("/{command}: expected a file, found nothing");
    }
    Ok(Path::new(rest))
}

/// A line beside the conversation, dim where that is possible.
fn note(text: &str) {
    if std::io::stderr().is_terminal() { eprintln!("\x1b[2m{text}\x1b[0m") } else { eprintln!("{text}") }
}
