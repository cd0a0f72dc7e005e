//! Serving: HTTP in front of a model, under the APIs that clients know.
//!
//! Reading order: [`server`] takes connections, [`router`] says which file answers what, [`routes`] has one file for each
//! endpoint; [`guard`] is what every request passes first; [`answer`] is the one way to the engine. Only this crate knows HTTP.

pub mod server;

mod router;

mod routes;

pub mod guard;

mod chat;
mod logprobs;
mod raw;
mod sampling;
mod sse;

mod answer;

pub mod app;
mod metrics;

mod connection;
mod error;
mod fields;

pub use error::ApiError;
