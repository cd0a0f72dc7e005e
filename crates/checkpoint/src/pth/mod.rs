//! Meta's `.pth` files.

/// What is wrong with a shard.
#[derive(Debug, thiserror::Error)]
pub enum PthError {}
