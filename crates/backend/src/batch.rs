//! What one forward pass computes: tokens of one or several sequences, and where their keys and values live.

/// Consecutive tokens of one sequence within a [`Batch`].
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Position in its sequence of the span's first token: so many tokens are in the cache before it.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
    /// The sequence's page table: position `p` lives in slot `p % PAGE_LEN` of page `pages[p / PAGE_LEN]`.
    pub pages: &'a [u32],
}

/// The tokens of one forward pass; the spans' tokens lie one after another.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids, `[n]`.
    pub ids: &'a [u32],
    /// Which sequence each run of tokens belongs to; lengths sum to `n`.
    pub spans: &'a [Span<'a>],
    /// Rows whose logits are wanted, ascending.
    pub outputs: &'a [usize],
}

impl Batch<'_> {
    /// `(row, position, page, slot)` of every token, in row order.
    pub fn slots(&self) -> impl Iterator<Item = (usize, usize, u32, usize)> + '_ {
        self.spans.iter().flat_map(|span| (span.start..span.start + span.len).map(move |p| (p, span))).enumerate().map(
            |(row, (position, span))| {
                (row, position, span.pages[position / crate::PAGE_LEN], position % crate::PAGE_LEN)
            },
        )
    }

    /// Position of every token, in row order.
    pub fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.spans.iter().flat_map(|span| span.start..span.start + span.len)
    }
}
