//! How the learning rate goes.

use serde::{Deserialize, Serialize};

/// The shape of the learning rate behind the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// It stays.
    Constant,
    /// A straight line to the lowest rate.
    Linear,
    /// Half a cosine to the lowest rate.
    Cosine,
    /// It stays for nine tenths, then goes to the lowest rate in a straight line: warm-up, stable, decay.
    Wsd,
}

/// The learning rate of every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub shape: Shape,
    /// Highest rate.
    pub rate: f32,
    /// Lowest rate, at the end.
    pub lowest: f32,
    /// Steps in which the rate rises from zero in a straight line.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
}

impl Schedule {
    /// Of step `number`, from 1.
    pub fn rate(&self, number: u64) -> f32 {
        if number <= self.warmup {
            return self.rate * number as f32 / self.warmup as f32;
        }
        // From 0 behind the warm-up to 1 at the last step.
        let length = self.steps.saturating_sub(self.warmup).max(1) as f32;
        let progress = ((number - self.warmup) as f32 / length).min(1.0);
        let share = match self.shape {
            Shape::Constant => return self.rate,
            Shape::Linear => 1.0 - progress,
            Shape::Cosine => 0.5 * (1.0 + (std::f32::consts::PI * progress).cos()),
            Shape::Wsd => ((1.0 - progress) / 0.1).min(1.0),
        };
        self.lowest + (self.rate - self.lowest) * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_and_falls() {
        for shape in [Shape::Constant, Shape::Linear, Shape::Cosine, Shape::Wsd] {
            let schedule = Schedule { shape, rate: 1.0, lowest: 0.1, warmup: 10, steps: 110 };
            assert_eq!(schedule.rate(1), 0.1);
            assert_eq!(schedule.rate(10), 1.0);
            let half = schedule.rate(60);
            let expected = match shape {
                Shape::Constant | Shape::Wsd => 1.0,
                Shape::Linear | Shape::Cosine => 0.55,
            };
            assert!((half - expected).abs() < 1e-6, "{shape:?}: {half}");
            let end = if shape == Shape::Constant { 1.0 } else { 0.1 };
            assert!((schedule.rate(110) - end).abs() < 1e-6, "{shape:?}");
            assert!((11..110).all(|step| schedule.rate(step + 1) <= schedule.rate(step)), "{shape:?}");
        }
    }
}
