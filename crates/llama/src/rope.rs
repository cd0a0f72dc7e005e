//! Inverse frequencies of the rotary position embedding, with the scalings that Llama models use.

use puna_checkpoint::{Rope, RopeScaling};
use std::f64::consts::TAU;

/// Radians per position for each of the `head_dim / 2` pairs: `theta^(-2i/head_dim)`, scaled as the model asks.
///
/// Rounded to f32 where the reference implementations round, for the reason given at `puna_backend::Rotation::new`.
/// The `llama3` rule (Llama 3.1's `apply_scaling`): wavelengths beyond `original_context / low_freq_factor` are
/// stretched by `factor`, those under `original_context / high_freq_factor` are kept, and between the two the
/// frequencies are blended.
pub fn inverse_frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    let base = (0..head_dim / 2)
        .map(|i| (1.0 / f64::from(rope.theta).powf((2 * i) as f64 / head_dim as f64) as f32 as f64) as f32);
    match &rope.scaling {
        RopeScaling::None => base.collect(),
        RopeScaling::Linear { factor } => base.map(|f| f / factor).collect(),
        RopeScaling::Factors(factors) => base.zip(factors.iter()).map(|(f, factor)| f / factor).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let original = *original_context as f64;
            let (low, high) = (f64::from(*low_freq_factor), f64::from(*high_freq_factor));
            base.map(|f| {
                let wavelength = TAU / f64::from(f);
                if wavelength < original / high {
                    f
                } else if wavelength > original / low {
                    f / factor
                } else {
                    let smooth = ((original / wavelength - low) / (high - low)) as f32;
                    (1.0 - smooth) * f / factor + smooth * f
                }
            })
            .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_checkpoint::RopePairing;

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
