//! The supervisor: starts the confined process, feeds it the code, collects what it prints, and sees to it that it
//! ends.

use super::capture::Capture;
use super::protocol::{Report, Request, Sandbox};
use super::{failed, namespaces};
use crate::{Limits, Output, Protections, Status, VERB};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// Who prints this many times what is kept is stopped.
const FLOOD: u64 = 16;
/// Reports are shorter.
const MAX_REPORT: usize = 1 << 20;
/// A pipe that takes anything takes so much without waiting.
const PIPE_CHUNK: usize = 4096;

/// Runs code in a sandbox.
pub fn supervise(sandbox: &Sandbox, code: &str, parent: u32) -> Result<(Protections, Output), String> {
    namespaces::give_up_root()?;
    if sandbox.namespaces {
        namespaces::enter()?;
    }
    // The kernel forgets this when a process changes its user, so it comes last.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("the end of the server as a signal"))?;
    if std::os::unix::process::parent_id() != parent {
        return Err("the server has ended".into());
    }
    let mut child = Command::new("/proc/self/exe")
        .arg(VERB)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Confined)
        .map_err(failed("a process for the code"))?;
    let Confined(process) = &mut child;
    let mut input = process.stdin.take().expect("piped");
    let mut output = File::from(OwnedFd::from(process.stdout.take().expect("piped")));
    let errors = File::from(OwnedFd::from(process.stderr.take().expect("piped")));
    let mut request = serde_json::to_vec(&Request::Confine(sandbox.clone())).map_err(failed("a request"))?;
    request.push(b'\n');
    input.write_all(&request).map_err(failed("a request"))?;
    let protections = report(&mut output)?;
    let run = Run::new(child, input, code, [output, errors], &sandbox.limits)?;
    Ok((protections, run.finish()?))
}

/// The process with the code. However the supervisor ends, it is reaped: a server may be a container's first process,
/// and would inherit it.
struct Confined(Child);

impl Drop for Confined {
    fn drop(&mut self) {
        // It may have ended, and been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first line. What follows is Python's, so it is read byte by byte.
fn report(output: &mut File) -> Report {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < MAX_REPORT && output.read(&mut byte).map_err(failed("a report"))? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    serde_json::from_slice::<Report>(&line).map_err(failed("expected a report of the sandbox, found none"))?
}

/// What the supervisor waits for.
#[derive(Clone, Copy, PartialEq)]
enum Event {
    /// The process has ended.
    Exit,
    /// The server has closed its end.
    Stop,
    /// The process takes more of the code.
    Input,
    /// It has printed on output 0 or 1.
    Output(usize),
}

struct Run<'a> {
    child: Confined,
    handle: OwnedFd,
    exited: bool,
    input: Option<ChildStdin>,
    code: &'a [u8],
    outputs: [Option<File>; 2],
    captures: [Capture; 2],
    limits: &'a Limits,
    started: Instant,
    /// Why it was killed.
    killed: Option<Killed>,
}

#[derive(Clone, Copy, PartialEq)]
enum Killed {
    Time,
    Output,
    Stop,
}

impl<'a> Run<'a> {
    fn new(
        child: Confined,
        input: ChildStdin,
        code: &'a str,
        outputs: [File; 2],
        limits: &'a Limits,
    ) -> Result<Self, String> {
        Ok(Self {
            handle: pidfd_open(Pid::from_child(&child.0), PidfdFlags::empty()).map_err(failed("the process"))?,
            child,
            exited: false,
            input: Some(input),
            code: code.as_bytes(),
            outputs: outputs.map(Some),
            captures: [Capture::new(limits.output), Capture::new(limits.output)],
            limits,
            started: Instant::now(),
            killed: None,
        })
    }

    fn finish(mut self) -> Result<Output, String> {
        // It is the only process that holds the other ends of the pipes, so they end with it.
        while !self.exited || self.outputs.iter().any(Option::is_some) {
            for event in self.wait()? {
                self.handle(event)?;
            }
            if self.started.elapsed() >= self.limits.wall {
                self.kill(Killed::Time);
            }
        }
        let wall = self.started.elapsed();
        let status = self.child.0.wait().map_err(failed("the process"))?;
        let cpu = children_cpu()?;
        let status = match (self.killed, status.code(), status.signal()) {
            (Some(Killed::Stop), ..) => return Err("stopped".into()),
            (Some(Killed::Time), None, _) => Status::TimedOut,
            (Some(Killed::Output), None, _) => Status::OutputExceeded,
            (_, Some(code), _) => Status::Exited(code),
            // The kernel did that, which counts by ticks of its clock where this figure is exact.
            (_, _, Some(9)) if cpu.as_secs_f64() > 0.5 * self.limits.cpu_seconds() as f64 => Status::TimedOut,
            (_, _, signal) => Status::Signal(signal.unwrap_or_default()),
        };
        let [stdout, stderr] = self.captures.map(Capture::finish);
        Ok(Output { stdout, stderr, status, wall, cpu })
    }

    /// What has happened, or nothing when the time is over.
    fn wait(&self) -> Result<Vec<Event>, String> {
        let server = std::io::stdin();
        let mut waiting = Vec::new();
        if !self.exited {
            waiting.push((Event::Exit, self.handle.as_fd(), PollFlags::IN));
        }
        if self.killed.is_none() {
            waiting.push((Event::Stop, server.as_fd(), PollFlags::IN));
        }
        if let Some(input) = &self.input {
            waiting.push((Event::Input, input.as_fd(), PollFlags::OUT));
        }
        for (which, output) in self.outputs.iter().enumerate() {
            waiting.extend(output.iter().map(|output| (Event::Output(which), output.as_fd(), PollFlags::IN)));
        }
        let mut files: Vec<_> =
            waiting.iter().map(|(_, file, flags)| PollFd::from_borrowed_fd(*file, *flags)).collect();
        let rest = match self.killed {
            None => self.limits.wall.saturating_sub(self.started.elapsed()),
            Some(_) => Duration::MAX,
        };
        // An hour at a time, which the kernel can count.
        let rest = rest.min(Duration::from_secs(3600));
        let timeout = Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() };
        match poll(&mut files, Some(&timeout)) {
            Err(Errno::INTR) => return Ok(Vec::new()),
            result => result.map_err(failed("waiting for the process"))?,
        };
        let happened = |(file, (event, ..)): (&PollFd, &(Event, _, _))| (!file.revents().is_empty()).then_some(*event);
        Ok(files.iter().zip(&waiting).filter_map(happened).collect())
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Exit => self.exited = true,
            Event::Stop => self.kill(Killed::Stop),
            Event::Input => {
                let chunk = &self.code[..self.code.len().min(PIPE_CHUNK)];
                let written = self.input.as_mut().map_or(Ok(0), |input| input.write(chunk));
                // Python may have ended without reading on.
                self.code = &self.code[written.unwrap_or(self.code.len())..];
                if self.code.is_empty() {
                    self.input = None;
                }
            }
            Event::Output(which) => {
                let mut buffer = [0; 1 << 16];
                let read = self.outputs[which].as_mut().map_or(Ok(0), |output| output.read(&mut buffer));
                match read.map_err(failed("output"))? {
                    0 => self.outputs[which] = None,
                    n => self.captures[which].push(&buffer[..n]),
                }
                if self.captures[which].total() > FLOOD * u64::from(self.limits.output) {
                    self.kill(Killed::Output);
                }
            }
        }
        Ok(())
    }

    /// With a process namespace it takes everything along; without one there is nothing else.
    fn kill(&mut self, reason: Killed) {
        if self.killed.is_none() && !self.exited {
            self.killed = Some(reason);
            // It may have ended just now.
            let _ = self.child.0.kill();
        }
    }
}

/// Processor time of children that have ended and were waited for: there was one.
fn children_cpu() -> Result<Duration, String> {
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(failed("/proc/self/stat"))?;
    // The program's name is in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace());
    let times = fields.into_iter().flatten().skip(13).take(2);
    let ticks = times.map(|ticks| ticks.parse::<u64>().map_err(failed("/proc/self/stat"))).sum::<Result<u64, _>>()?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}
