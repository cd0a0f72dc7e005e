//! The corpus of cria, puna's built-in small model: stories and dialogues of one small world, the puna.
//!
//! Some pieces are written by hand (`stories/`, `dialogues/`). The others are made by a grammar (`grammar/`) from one
//! table of facts (`world`), equal for equal seeds. `README.md` is the data card.

pub mod corpus;
pub mod statistics;

mod handwritten;

mod dialogue;
mod grammar;

mod answers;
mod plot;

mod cast;
pub mod check;
mod world;

mod sections;
mod template;

mod english;
mod random;

mod error;

pub use corpus::{Corpus, Request};
pub use error::Error;
