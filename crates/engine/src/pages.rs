//! Which pages of the KV cache are free.

/// Hands out page numbers below a fixed count, the lowest first, so that a cache which takes memory at first use stays
/// as small as its use.
pub(crate) struct Pages {
    /// Free pages that were used before.
    returned: std::collections::BinaryHeap<std::cmp::Reverse<u32>>,
    /// Pages from here on were never used.
    next: u32,
    n_pages: u32,
}

impl Pages {
    pub fn new(n_pages: usize) -> Pages {
        Pages {
            returned: Default::default(), next: 0, n_pages: u32::try_from(n_pages).expect("fewer than 2³² pages")
        }
    }

    pub fn take(&mut self) -> Option<u32> {
        if let Some(std::cmp::Reverse(page)) = self.returned.pop() {
            return Some(page);
        }
        (self.next < self.n_pages).then(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub fn n_free(&self) -> usize {
        self.returned.len() + (self.n_pages - self.next) as usize
    }

    pub fn give_back(&mut self, page: u32) {
        debug_assert!(page < self.next);
        self.returned.push(std::cmp::Reverse(page));
    }
}
