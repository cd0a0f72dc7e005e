//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), with moments in f32 or in 8 bits.

mod eight_bits;

use eight_bits::Quantized;
use rayon::prelude::*;
use std::io::{self, Read, Write};

/// Values that a task updates: whole blocks of 8-bit moments.
const CHUNK: usize = 64 * eight_bits::BLOCK;

/// Constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Keeps the division finite.
    pub eps: f32,
    /// Share of the value, times the learning rate, that is taken away at each step.
    pub weight_decay: f32,
}

/// One step of all parameters.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate.
    pub rate: f32,
    /// Which step, from 1: what the moments' bias is corrected by.
    pub number: u64,
    /// Factor of all gradients, below 1 where their norm is clipped.
    pub gradient_scale: f32,
}

/// How moments are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MomentFormat {
    /// 8 bytes a parameter.
    F32,
    /// 2 bytes a parameter.
    EightBits,
}

/// Running means of a parameter's gradient and of its square.
#[derive(Clone, Debug, PartialEq)]
pub enum Moments {
    /// As they are.
    F32 {
        /// Of the gradient.
        mean: Vec<f32>,
        /// Of its square.
        square: Vec<f32>,
    },
    /// By blocks (Dettmers et al. 2022, arXiv 2110.02861).
    EightBits {
        /// Of the gradient.
        mean: Quantized,
        /// Of its square.
        square: Quantized,
    },
}

impl Moments {
    /// Of `n` values that have had no gradient.
    pub fn new(format: MomentFormat, n: usize) -> Moments {
        match format {
            MomentFormat::F32 => Moments::F32 { mean: vec![0.0; n], square: vec![0.0; n] },
            MomentFormat::EightBits => {
                Moments::EightBits { mean: Quantized::zeros(true, n), square: Quantized::zeros(false, n) }
            }
        }
    }
}

impl Moments {
    /// Writes them as they are in memory, little-endian.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Moments::F32 { mean, square } => {
                out.write_all(bytemuck::cast_slice(mean))?;
                out.write_all(bytemuck::cast_slice(square))
            }
            Moments::EightBits { mean, square } => {
                mean.write(out)?;
                square.write(out)
            }
        }
    }

    /// Reads those of `n` values.
    pub fn read(format: MomentFormat, n: usize, input: &mut dyn Read) -> io::Result<Moments> {
        let mut moments = Moments::new(format, n);
        match &mut moments {
            Moments::F32 { mean, square } => {
                input.read_exact(bytemuck::cast_slice_mut(mean))?;
                input.read_exact(bytemuck::cast_slice_mut(square))?;
            }
            Moments::EightBits { mean, square } => {
                mean.read(input)?;
                square.read(input)?;
            }
        }
        Ok(moments)
    }
}

impl AdamW {
    /// Changes the values. Each is changed by its own gradient alone, so threads change nothing.
    ///
    /// `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
    /// `θ ← θ − rate (m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε) + λ θ)`.
    pub fn update(&self, step: &Step, values: &mut [f32], gradient: &[f32], moments: &mut Moments) {
        assert_eq!(values.len(), gradient.len(), "a gradient for each value");
        let change = Change::new(self, step);
        let (values, gradient) = (values.par_chunks_mut(CHUNK), gradient.par_chunks(CHUNK));
        match moments {
            Moments::F32 { mean, square } => {
                let moments = mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK));
                values.zip(gradient).zip(moments).for_each(|((values, gradient), (mean, square))| {
                    change.apply(values, gradient, mean, square);
                });
            }
            Moments::EightBits { mean, square } => {
                let moments = mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK));
                values.zip(gradient).zip(moments).for_each(|((values, gradient), (mut mean, mut square))| {
                    let blocks = values.chunks_mut(eight_bits::BLOCK).zip(gradient.chunks(eight_bits::BLOCK));
                    for (block, (values, gradient)) in blocks.enumerate() {
                        let (mut m, mut v) = ([0.0; eight_bits::BLOCK], [0.0; eight_bits::BLOCK]);
                        let (m, v) = (&mut m[..values.len()], &mut v[..values.len()]);
                        mean.decode(block, m);
                        square.decode(block, v);
                        change.apply(values, gradient, m, v);
                        mean.encode(block, m);
                        square.encode(block, v);
                    }
                });
            }
        }
    }
}

/// The factors of a step.
struct Change {
    beta1: f32,
    beta2: f32,
    eps: f32,
    gradient_scale: f32,
    /// `rate / (1 − β₁ᵗ)`
    rate: f32,
    /// `√(1 − β₂ᵗ)`
    correction: f32,
    /// `1 − rate · λ`
    keep: f32,
}

impl Change {
    fn new(adam: &AdamW, step: &Step) -> Change {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(step.number as f64);
        Change {
            beta1: adam.beta1,
            beta2: adam.beta2,
            eps: adam.eps,
            gradient_scale: step.gradient_scale,
            rate: (f64::from(step.rate) / correction(adam.beta1)) as f32,
            correction: correction(adam.beta2).sqrt() as f32,
            keep: (1.0 - f64::from(step.rate) * f64::from(adam.weight_decay)) as f32,
        }
    }

    fn apply(&self, values: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        for (((value, g), m), v) in values.iter_mut().zip(gradient).zip(mean).zip(square) {
            let g = g * self.gradient_scale;
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
            *value = *value * self.keep - self.rate * *m / (v.sqrt() / self.correction + self.eps);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The formula in f64, a value at a time.
    fn reference(adam: &AdamW, rate: f64, gradients: &[f32], start: f32) -> f64 {
        let (b1, b2) = (f64::from(adam.beta1), f64::from(adam.beta2));
        let (mut value, mut m, mut v) = (f64::from(start), 0.0, 0.0);
        for (t, g) in gradients.iter().enumerate() {
            let g = f64::from(*g);
            m = b1 * m + (1.0 - b1) * g;
            v = b2 * v + (1.0 - b2) * g * g;
            let t = t as i32 + 1;
            let change = m / (1.0 - b1.powi(t)) / ((v / (1.0 - b2.powi(t))).sqrt() + f64::from(adam.eps));
            value -= rate * (change + f64::from(adam.weight_decay) * value);
        }
        value
    }

    const ADAM: AdamW = AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };

    fn run(format: MomentFormat, rate: f32, steps: &[Vec<f32>], start: &[f32]) -> Vec<f32> {
        let (mut values, mut moments) = (start.to_vec(), Moments::new(format, start.len()));
        for (number, gradient) in (1..).zip(steps) {
            let doubled: Vec<f32> = gradient.iter().map(|g| 2.0 * g).collect();
            let step = Step { rate, number, gradient_scale: 0.5 };
            ADAM.update(&step, &mut values, &doubled, &mut moments);
        }
        values
    }

    proptest! {
        #[test]
        fn follows_the_formula(
            steps in prop::collection::vec(prop::collection::vec(-10f32..10.0, 300), 1..6),
            start in prop::collection::vec(-3f32..3.0, 300),
            rate in 1e-4f32..1e-2,
        ) {
            let found = run(MomentFormat::F32, rate, &steps, &start);
            for i in 0..start.len() {
                let gradients: Vec<f32> = steps.iter().map(|step| step[i]).collect();
                let expected = reference(&ADAM, f64::from(rate), &gradients, start[i]);
                // Some roundings of the value, and of changes that are each a rate at most.
                let tolerance = 1e-6 * f64::from(start[i].abs()) + 1e-5 * f64::from(rate) * steps.len() as f64;
                prop_assert!((f64::from(found[i]) - expected).abs() <= tolerance, "{} {}", found[i], expected);
            }
        }

        /// 8 bits change a step by some percent of it.
        #[test]
        fn eight_bits_go_the_same_way(
            steps in prop::collection::vec(prop::collection::vec(0.5f32..2.0, 300), 1..6),
            signs in prop::collection::vec(any::<bool>(), 300),
        ) {
            let signed = |step: &Vec<f32>| step.iter().zip(&signs).map(|(g, s)| if *s { *g } else { -g }).collect();
            let steps: Vec<Vec<f32>> = steps.iter().map(signed).collect();
            let start = vec![0.0; 300];
            let (rate, n) = (1e-3, steps.len() as f32);
            let exact = run(MomentFormat::F32, rate, &steps, &start);
            let coarse = run(MomentFormat::EightBits, rate, &steps, &start);
            for (exact, coarse) in exact.iter().zip(&coarse) {
                prop_assert!((exact - coarse).abs() <= 0.1 * rate * n, "{exact} {coarse}");
            }
        }
    }
}
