//! Rotary position embedding: the angles of one batch.

/// Which two values of a head form a pair that is rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `(2i, 2i+1)`: Meta's files and GGUF.
    Interleaved,
    /// `(i, i + hd/2)`: Hugging Face's files.
    Halves,
}

/// Cosines and sines for the tokens of one batch, computed once and used by every layer.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Which values form a pair.
    pub pairing: Pairing,
    /// Head size; half as many pairs.
    pub head_dim: usize,
    /// `[n, hd/2]` cosines.
    pub cos: Vec<f32>,
    /// `[n, hd/2]` sines.
    pub sin: Vec<f32>,
}

impl Rotation {
    /// The rotation of tokens at `positions` with `inverse_frequencies[i]` radians a position for pair `i`.
    ///
    /// Angles are rounded to f32 before the trigonometry, as the reference implementations do: at position 12,000 an
    /// f32 angle is off by up to 5e-4 rad, and a model that was trained with that must be run with it.
    pub fn new(pairing: Pairing, inverse_frequencies: &[f32], positions: &[usize]) -> Rotation {
        let n = positions.len() * inverse_frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for &position in positions {
            for &frequency in inverse_frequencies {
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        Rotation { pairing, head_dim: 2 * inverse_frequencies.len(), cos, sin }
    }

    /// The rotation that undoes this one: by the negative angles.
    pub fn inverse(&self) -> Rotation {
        Rotation { sin: self.sin.iter().map(|sin| -sin).collect(), ..self.clone() }
    }
}
