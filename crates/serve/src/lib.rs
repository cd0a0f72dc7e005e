//! Serving: who may ask, how much, what was used, and what was said.
//!
//! One SQLite file has API keys, usage, the page's conversations and stored responses. A server calls a
//! [`store::Store`], which keeps the keys in memory and all work of the disk on a thread of its own; a program that does
//! one thing and ends opens a [`database::Database`]. Nothing here knows HTTP or a model. Modules import only those
//! listed below them.

pub mod store;

pub mod history;
pub mod responses;
pub mod usage;

pub mod quota;

pub mod keys;

pub mod database;
mod random;
pub mod time;
