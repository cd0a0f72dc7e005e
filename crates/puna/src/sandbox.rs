//! Chat templates of derived models, run where they can do no harm: in a child process that may use little and may die.
//!
//! `puna_text::template` budgets a template's work, but not every operation of its language can be interrupted. So the
//! binary starts itself again as a worker, with limits of the operating system on memory and time; the worker reads one
//! request from standard input and writes one reply. It opens no file.

use anyhow::{Context, Result, bail};
use puna_text::chat::{Conversation, Prompt};
use puna_text::template::{SpecialTokens, Template, is_llama31};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The worker's verb; not for people.
pub const VERB: &str = "template-worker";

/// Memory of the worker: fifty times what the longest conversations need.
const MEMORY: u64 = 1 << 30;
/// Processor time of the worker, in seconds. A template takes some milliseconds.
const CPU_SECONDS: u64 = 2;
/// Until the worker is killed, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer replies are cut off, and then are none: the template's output limit, escaped.
const MAX_REPLY: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
enum Request {
    /// Is this Llama 3.1's own template?
    IsLlama31 {
        template: String,
    },
    Render {
        template: String,
        conversation: Box<Conversation>,
        tokens: SpecialTokens,
    },
}

/// Whether a template is Llama 3.1's, which is written natively then.
pub fn recognise(template: &str) -> Result<bool> {
    ask(&Request::IsLlama31 { template: template.to_owned() })
}

/// What a template makes of a conversation.
pub fn render(template: &str, conversation: &Conversation, tokens: &SpecialTokens) -> Result<Prompt> {
    let (template, tokens) = (template.to_owned(), tokens.clone());
    let request = Request::Render { template, conversation: Box::new(conversation.clone()), tokens };
    ask::<Result<Prompt, String>>(&request)?.map_err(anyhow::Error::msg)
}

fn ask<T: DeserializeOwned + Send + 'static>(request: &Request) -> Result<T> {
    let program = std::env::current_exe().context("puna's own program file")?;
    let mut worker = Command::new(program)
        .arg(VERB)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("a process for the model's chat template")?;
    let (mut input, output) = (worker.stdin.take().expect("piped"), worker.stdout.take().expect("piped"));
    let (send, receive) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let reply = serde_json::from_reader::<_, T>(std::io::BufReader::new(output.take(MAX_REPLY)));
        // Nobody listens after the time is over.
        let _ = send.send(reply);
    });
    // A worker that died early closes the pipe; then there is no reply either, and that is reported.
    let _ = serde_json::to_writer(std::io::BufWriter::new(&mut input), request);
    drop(input);
    let reply = receive.recv_timeout(PATIENCE);
    // Whatever became of it, it is not needed any more.
    let _ = worker.kill();
    worker.wait().context("the process of the model's chat template")?;
    let _ = reader.join();
    match reply {
        Ok(Ok(reply)) => Ok(reply),
        _ => bail!(
            "the model's chat template: expected an end within {CPU_SECONDS} s and {} MiB, found none; \
             choose another format with --chat-format",
            MEMORY >> 20
        ),
    }
}

/// The worker itself.
pub fn work() -> Result<()> {
    confine();
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let reply = match serde_json::from_slice(&input)? {
        Request::IsLlama31 { template } => serde_json::to_vec(&is_llama31(&template))?,
        Request::Render { template, conversation, tokens } => {
            let prompt = Template::new(&template).and_then(|template| template.render(&conversation, &tokens));
            serde_json::to_vec(&prompt.map_err(|error| error.to_string()))?
        }
    };
    std::io::stdout().write_all(&reply)?;
    Ok(())
}

/// Limits that the operating system keeps. Where it has none, the worker is killed after [`PATIENCE`].
fn confine() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let limits = [(Resource::As, MEMORY), (Resource::Cpu, CPU_SECONDS), (Resource::Fsize, 0), (Resource::Core, 0)];
        for (resource, limit) in limits {
            // A limit that is lower already stays.
            let _ = setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) });
        }
    }
}
