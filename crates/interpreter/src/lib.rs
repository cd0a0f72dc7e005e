//! Runs Python code that a model wrote, where it can do no harm: Llama 3.1's code interpreter.
//!
//! The code is a stranger's. It gets a process of its own, which has
//!
//! - **no network**: no sockets, in an empty network namespace;
//! - **no files** but the Python installation and the system's libraries, read only, and an empty scratch folder in
//!   memory, [`SCRATCH`], which is gone afterwards;
//! - **no other processes**: it can start none, and sees and signals none;
//! - **limits** on memory, processor time, time, threads, scratch and output ([`Limits`]);
//! - nothing of the server: no environment variables, no open files, no terminal, no privileges.
//!
//! # How
//!
//! The server has threads, so it can't change itself in a fork. Its binary is started again as a worker (the hidden
//! verb [`VERB`], which calls [`worker`]), in two steps:
//!
//! 1. The *supervisor* gives up root, enters new namespaces, starts the second step, feeds it the code, collects what
//!    it prints and kills it when a limit is reached, when the server says so, or when the server is gone.
//! 2. The second step *confines* itself: a root directory of its own, limits, Landlock, a list of allowed system calls.
//!    It reports that all of it is in force, and only then is it given the code, and has become Python.
//!
//! There are two walls around files. One is a mount namespace, whose root holds only what Python needs; many containers
//! forbid namespaces. The other is Landlock, from Linux 5.13 on. Each is used where the kernel has it, and
//! [`Interpreter::start`] refuses if it has neither: without namespaces it wants Landlock's third version (Linux 6.2),
//! since the first two let a file be emptied that may only be read. Without namespaces there is no scratch folder,
//! because nothing else limits its size; there are no threads, because nothing else limits their number; and the names
//! and sizes of the server's files can be seen, though not what is in them.
//!
//! The list of system calls ([seccomp]) is needed in any case. It has no call that makes a process, so there is exactly
//! one, and the kernel's limits on a process are limits on the run; when it ends, nothing can be left behind. A call
//! that is not on the list fails with *Operation not permitted*, which Python reports as an exception, so the model can
//! read what was refused.
//!
//! Memory is limited by address space: whoever asks for more is refused, and Python raises `MemoryError`.
//!
//! What is not defended against: faults of the kernel in the calls that Python needs, and what one can learn of
//! neighbours by timing a shared processor.
//!
//! # A process without connections
//!
//! By the same means [`go_offline`] keeps the calling process itself from opening any connection.
//!
//! # Use
//!
//! ```no_run
//! use puna_interpreter::{Interpreter, Limits};
//! use std::{path::Path, sync::atomic::AtomicBool};
//!
//! let server = Path::new("/proc/self/exe");
//! let interpreter = Interpreter::start(server, Path::new("python3"), Limits::default())?;
//! println!("{}", interpreter.protections());
//! let output = interpreter.run("print(6 * 7)", &AtomicBool::new(false))?;
//! assert_eq!(output.stdout.text, "42\n");
//! # Ok::<(), puna_interpreter::Error>(())
//! ```
//!
//! [seccomp]: https://docs.kernel.org/userspace-api/seccomp_filter.html

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod elsewhere;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod linux;

mod error;
mod limits;
mod output;
mod protections;

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub use elsewhere::{Interpreter, go_offline, worker};
pub use error::Error;
pub use limits::Limits;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use linux::{Interpreter, go_offline, worker};
pub use output::{Output, Status, Stream};
pub use protections::Protections;

/// The worker's verb; not for people.
pub const VERB: &str = "interpreter-worker";

/// The scratch folder, as the code sees it: its working directory, its home and its place for temporary files.
pub const SCRATCH: &str = "/sandbox";

/// The longest code that is run, in bytes.
pub const MAX_CODE: usize = 1 << 20;
