//! Inverse frequencies of the rotary position embedding, with the scalings that Llama models use.

use puna_checkpoint::Rope;

/// Radians per position for each of the `head_dim / 2` pairs: `theta^(-2i/head_dim)`, scaled as the model asks.
///
/// Rounded to f32 where the reference implementations round, for the reason given at `puna_backend::Rotation::new`.
pub fn inverse_frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    let power = |i: usize| f64::from(rope.theta).powf((2 * i) as f64 / head_dim as f64) as f32;
    let base = (0..head_dim / 2).map(|i| 1.0 / power(i));
    base.zip(rope.divisors(head_dim)).map(|(frequency, divisor)| frequency / divisor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_checkpoint::{RopePairing, RopeScaling};
    use std::f64::consts::TAU;

    #[test]
    fn llama_3_1_scaling_keeps_short_wavelengths_and_stretches_long_ones() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
        let rope = |scaling| Rope { theta: 500_000.0, scaling, pairing: RopePairing::Halves };
        let plain = inverse_frequencies(&rope(RopeScaling::None), 128);
        let scaled = inverse_frequencies(&rope(scaling), 128);
        for (i, (plain, scaled)) in plain.iter().zip(&scaled).enumerate() {
            let expected = 500_000f64.powf(-(i as f64) / 64.0);
            assert!((f64::from(*plain) / expected - 1.0).abs() < 1e-6);
            let wavelength = TAU / expected;
            let ratio = plain / scaled;
            match wavelength {
                w if w < 2048.0 => assert_eq!(ratio, 1.0),
                w if w > 8192.0 => assert!((ratio - 8.0).abs() < 1e-5),
                _ => assert!(ratio > 1.0 && ratio < 8.0),
            }
        }
    }
}
