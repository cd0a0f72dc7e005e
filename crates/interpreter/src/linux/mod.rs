//! Linux: the server's side, and the two steps of its worker.

mod interpreter;
mod offline;
mod process;
mod python;
mod worker;

mod confinement;
mod supervisor;

mod capture;
mod files;
mod kernel;
mod namespaces;
mod protocol;
mod root;
mod system_calls;

pub use interpreter::Interpreter;
pub use offline::go_offline;
pub use worker::worker;

use std::fmt::Display;

/// For `map_err`: what was tried, and why it failed.
fn failed<E: Display>(what: impl Display) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}
