//! The worker as the server sees it: a process with a pipe in and a pipe out.

use super::failed;
use super::protocol::Request;
use crate::{Error, Limits, VERB};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long after the code's own time a reply may take, on a busy machine.
const GRACE: Duration = Duration::from_secs(20);
/// How often the server looks whether it shall stop.
const GLANCE: Duration = Duration::from_millis(20);
/// How long a worker that is told to end may take, on a busy machine. One that is killed leaves its child to be reaped.
const PATIENCE: Duration = Duration::from_secs(20);

/// A supervisor. Dropped, it ends, and so does what it runs.
pub struct Worker {
    process: Child,
    /// While it is open, the server wants the reply.
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Worker {
    pub fn start(program: &Path) -> Result<Self, Error> {
        let mut process = Command::new(program)
            .arg(VERB)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A Ctrl-C on the server's terminal is the server's business.
            .process_group(0)
            .spawn()
            .map_err(failed(program.display()))
            .map_err(Error::Worker)?;
        let (input, output) = (process.stdin.take(), process.stdout.take().expect("piped"));
        Ok(Self { process, input, output })
    }

    pub fn send(&mut self, request: &Request) -> Result<(), Error> {
        let mut line = serde_json::to_vec(request).map_err(failed("a request")).map_err(Error::Worker)?;
        line.push(b'\n');
        let input = self.input.as_mut().expect("open until dropped");
        input.write_all(&line).map_err(failed("a request")).map_err(Error::Worker)
    }

    /// Everything it has to say.
    pub fn receive(&mut self, limits: &Limits, stop: &AtomicBool) -> Result<Vec<u8>, Error> {
        // A byte takes six at most, as an escape in JSON; two outputs, and what is left out is not sent.
        let longest = 12 * u64::from(limits.output) + (1 << 20);
        let started = Instant::now();
        let (mut reply, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            if started.elapsed() > limits.wall.saturating_add(GRACE) {
                return Err(Error::Worker(format!("expected a reply {GRACE:?} after the time limit, found none")));
            }
            if !readable(&self.output, GLANCE).map_err(failed("waiting for it")).map_err(Error::Worker)? {
                continue;
            }
            match self.output.read(&mut buffer).map_err(failed("its reply")).map_err(Error::Worker)? {
                0 => return Ok(reply),
                n => reply.extend(&buffer[..n]),
            }
            if reply.len() as u64 > longest {
                return Err(Error::Worker(format!("expected at most {longest} bytes, found more")));
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It sees that, and reaps its own child first: a server may be a container's first process, which nobody would
        // expect to reap.
        drop(self.input.take());
        let ended = pidfd_open(Pid::from_child(&self.process), PidfdFlags::empty())
            .is_ok_and(|process| readable(&process, PATIENCE).unwrap_or(false));
        if !ended {
            // Its child goes with it.
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// Whether there is something to read, or the end of it. False after `timeout`, whatever signals came in between.
fn readable(file: &impl AsFd, timeout: Duration) -> rustix::io::Result<bool> {
    let started = Instant::now();
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(|ready| ready > 0),
        }
    }
}
