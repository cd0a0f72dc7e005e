//! Buffers of f32 that begin at a cache line, so that no vector of theirs straddles two.

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "read as floats")] [f32; 16]);

/// Scratch memory that grows and is kept from use to use: fresh memory costs more than the work in it.
#[derive(Default)]
pub(crate) struct Aligned(Vec<Line>);

impl Aligned {
    /// `n` floats, whatever they are.
    pub fn floats(&mut self, n: usize) -> &mut [f32] {
        if self.0.len() * 16 < n {
            self.0.resize(n.div_ceil(16), Line([0.0; 16]));
        }
        // SAFETY: a line is sixteen floats and nothing else, and there are enough of them.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), n) }
    }
}
