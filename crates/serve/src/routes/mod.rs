//! One file an endpoint, or a family of small ones.

pub mod page;
pub mod page_answer;

pub mod openapi;

pub mod anthropic_messages;
pub mod ollama;
pub mod openai_chat;
pub mod openai_completions;
pub mod openai_embeddings;
pub mod openai_responses;

mod openai;
pub mod page_shared;

pub mod openai_models;
pub mod state;
pub mod tokens;
