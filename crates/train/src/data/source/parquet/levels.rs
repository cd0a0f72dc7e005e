//! Small integers in runs: the levels that say where lists begin and what is null, and places in a dictionary.
//!
//! A run is either one integer so many times, or groups of eight with so many bits each.

use super::take;

/// The integers in a part of a page.
#[derive(Debug)]
pub(super) struct Runs {
    /// The next run, and the end of all, in the page.
    at: usize,
    end: usize,
    /// Bits of an integer, at most 32.
    width: u8,
    /// Integers of the run that are left.
    left: u64,
    run: Run,
}

#[derive(Debug)]
enum Run {
    Same(u32),
    /// The bit in the page at which the next begins.
    Packed(usize),
}

impl Runs {
    /// Those between `at` and `end` of a page.
    ///
    /// # Panics
    /// Where `width` is more than 32.
    pub fn new(at: usize, end: usize, width: u8) -> Runs {
        assert!(width <= 32, "{width} bits");
        Runs { at, end, width, left: 0, run: Run::Same(0) }
    }

    /// The next integer.
    pub fn next(&mut self, page: &[u8]) -> Result<u32, String> {
        while self.left == 0 {
            self.begin(page)?;
        }
        self.left -= 1;
        match &mut self.run {
            Run::Same(int) => Ok(*int),
            Run::Packed(bit) => {
                let start = *bit / 8;
                // Writers may leave out what is empty at the end of the last group.
                let bytes = page.get(start..self.at).unwrap_or_default();
                if start * 8 + bytes.len() * 8 < *bit + usize::from(self.width) {
                    return Err("expected more bits of a run, found the end of the page".to_owned());
                }
                let mut word = [0; 8];
                let n = bytes.len().min(8);
                word[..n].copy_from_slice(&bytes[..n]);
                let int = u64::from_le_bytes(word) >> (*bit % 8) & ((1 << self.width) - 1);
                *bit += usize::from(self.width);
                Ok(int as u32)
            }
        }
    }

    fn begin(&mut self, page: &[u8]) -> Result<(), String> {
        let mut header = 0_u64;
        for shift in (0..).step_by(7) {
            let [byte] = *take(page, &mut self.at, self.end)?;
            if shift > 28 {
                return Err("expected a run of at most 2^34 integers, found a longer one".to_owned());
            }
            header |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let n = header >> 1;
        if header & 1 == 0 {
            let mut int = [0; 4];
            for byte in &mut int[..usize::from(self.width.div_ceil(8))] {
                [*byte] = *take(page, &mut self.at, self.end)?;
            }
            (self.run, self.left) = (Run::Same(u32::from_le_bytes(int)), n);
        } else {
            self.run = Run::Packed(self.at * 8);
            self.left = n * 8;
            // Eight integers of so many bits take as many bytes.
            let len = usize::try_from(n).unwrap_or(usize::MAX).saturating_mul(usize::from(self.width));
            self.at = self.at.saturating_add(len).min(self.end);
        }
        Ok(())
    }
}
