//! The mean of rows that come one after another: a text's hidden states, chunk by chunk.

use crate::Error;
use crate::engine::check_finite;

/// The mean of the rows so far. They are added in f64 and in order, so it has the same bits in whatever chunks they
/// come.
pub(crate) struct Mean {
    sum: Vec<f64>,
    n: usize,
}

impl Mean {
    /// Of rows with so many values.
    pub fn new(width: usize) -> Mean {
        Mean { sum: vec![0.0; width], n: 0 }
    }

    /// Rows so far.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Takes further rows, `[rows, width]`.
    ///
    /// # Errors
    /// When a value is not finite; its row's number is the position.
    pub fn push(&mut self, rows: &[f32]) -> Result<(), Error> {
        for row in rows.chunks_exact(self.sum.len()) {
            check_finite(row, self.n)?;
            self.sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            self.n += 1;
        }
        Ok(())
    }

    /// The mean of at least one row: finite, since every row was.
    pub fn get(&self) -> Vec<f32> {
        self.sum.iter().map(|sum| (sum / self.n as f64) as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_same_bits_in_any_chunks(
            rows in proptest::collection::vec([-1e30f32..1e30, -1.0f32..1.0, -1e38f32..1e38], 1..40),
            chunk in 1usize..10,
        ) {
            let mut expected = Mean::new(3);
            expected.push(rows.as_flattened()).unwrap();
            let mut found = Mean::new(3);
            rows.chunks(chunk).for_each(|rows| found.push(rows.as_flattened()).unwrap());
            prop_assert_eq!((found.n(), found.get()), (rows.len(), expected.get()));
            for (column, mean) in found.get().into_iter().enumerate() {
                let column = rows.iter().map(|row| row[column]);
                let (least, most) = (column.clone().fold(f32::MAX, f32::min), column.fold(f32::MIN, f32::max));
                prop_assert!(least <= mean && mean <= most, "{} {} {}", least, mean, most);
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_named() {
        let mut mean = Mean::new(2);
        mean.push(&[1.0, 2.0]).unwrap();
        let error = mean.push(&[1.0, 2.0, f32::INFINITY, 0.0]).unwrap_err();
        assert!(matches!(error, Error::NotFinite { position: 2 }), "{error}");
    }
}
