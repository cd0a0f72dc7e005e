//! Serving: HTTP in front of a model, under the APIs that clients know; and who may ask, how much, what was used and said.
//!
//! Reading order: [`server`] takes connections, `router` says which file answers what, `routes` has one file for each
//! endpoint; [`guard`] is what every request passes first, [`access`] says who may ask; `answer` is the one way to the
//! engine. Only this crate knows HTTP. `page` is what the page for people looks like. [`offline`] asks the routes without a connection.
//!
//! One SQLite file has API keys, usage, the page's conversations and stored responses. A server calls a [`store::Store`],
//! which keeps the keys in memory and all work of the disk on a thread of its own; a program that does one thing and
//! ends opens a [`database::Database`]. Modules import only those listed below them.

pub mod offline;
pub mod server;

pub mod router;

mod routes;

mod page;

pub mod guard;

mod rounds;

mod chat;
mod embedding;
mod logprobs;
mod raw;
mod sampling;
mod sse;

mod answer;
mod constraint;
mod meter;

pub mod app;
pub mod builtin;
mod metrics;

pub mod access;

mod connection;
mod error;
mod fields;
pub mod tls;

pub mod store;

pub mod history;
pub mod responses;
pub mod usage;

pub mod quota;

pub mod keys;

pub mod database;
mod random;
pub mod time;

pub use error::ApiError;
