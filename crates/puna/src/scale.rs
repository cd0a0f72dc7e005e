//! Axes: which values one shows, where on it a value lies, and the rounded values that are written beside it.

/// A range of values on an axis.
pub struct Scale {
    low: f64,
    high: f64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Linear,
    /// Whole numbers only.
    Whole,
    /// From 0 to 1, written in per cent.
    Share,
    Logarithmic,
}

/// A value that is written beside an axis.
pub struct Tick {
    pub value: f64,
    pub label: String,
}

/// Room above the highest value and below the lowest, as a share of the range.
const ROOM: f64 = 0.04;

impl Scale {
    /// Of steps, from 0.
    pub fn steps(last: u64) -> Scale {
        Scale { low: 0.0, high: last.max(1) as f64, kind: Kind::Whole }
    }

    /// Of shares.
    pub fn shares() -> Scale {
        Scale { low: 0.0, high: 1.0, kind: Kind::Share }
    }

    /// Around these finite values; none without one.
    pub fn around(values: impl IntoIterator<Item = f64>) -> Option<Scale> {
        let (low, high) = limits(values)?;
        let largest = low.abs().max(high.abs());
        // Values that are all the same stand in the middle.
        let room = match high - low {
            range if range > 1e-6 * largest => ROOM * range,
            _ if largest > 0.0 => 0.1 * largest,
            _ => 1.0,
        };
        Some(Scale { low: low - room, high: high + room, kind: Kind::Linear })
    }

    /// From 0 to the highest of these finite values; none without one above 0.
    pub fn from_zero(values: impl IntoIterator<Item = f64>) -> Option<Scale> {
        let (_, high) = limits(values)?;
        (high > 0.0).then_some(Scale { low: 0.0, high: high * (1.0 + ROOM), kind: Kind::Linear })
    }

    /// Around those of these finite values that are above 0, by their logarithms; none without one.
    pub fn logarithmic(values: impl IntoIterator<Item = f64>) -> Option<Scale> {
        let (low, high) = limits(values.into_iter().filter(|value| *value > 1e-250))?;
        let decades = (high.log10() - low.log10()).max(0.2);
        let room = 10f64.powf(ROOM * decades);
        Some(Scale { low: low / room, high: high * room, kind: Kind::Logarithmic })
    }

    /// Where a value lies: 0 at the low end, 1 at the high one, beyond them outside of both.
    pub fn place(&self, value: f64) -> f64 {
        match self.kind {
            Kind::Logarithmic => (value.log10() - self.low.log10()) / self.span(),
            _ => (value - self.low) / (self.high - self.low),
        }
    }

    /// Rounded values on the axis, ascending, about `n` of them or fewer.
    pub fn ticks(&self, n: usize) -> Vec<Tick> {
        if self.kind == Kind::Logarithmic {
            let ticks = self.decades(n);
            // Hardly a power of ten is in a small range.
            if ticks.len() > 1 {
                return ticks;
            }
        }
        let step = match (self.kind, rounded_up((self.high - self.low) / n.max(1) as f64)) {
            (Kind::Whole, step) => step.max(1.0),
            (Kind::Share, _) if n >= 4 => 0.25,
            (_, step) => step,
        };
        let first = (self.low / step - 1e-9).ceil();
        let values = (0..=n).map(|i| (first + i as f64) * step).take_while(|value| *value <= self.high + 1e-9 * step);
        values.map(|value| Tick { value, label: self.label(value, step) }).collect()
    }

    /// Decades of a logarithmic axis.
    fn span(&self) -> f64 {
        self.high.log10() - self.low.log10()
    }

    /// 1, 2 and 5 times the powers of ten, or in long ranges some of the powers.
    fn decades(&self, n: usize) -> Vec<Tick> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let digits: &[f64] = if self.span() < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let every = (self.span() / n.max(1) as f64).ceil().max(1.0) as usize;
        let powers = (first..=last).step_by(every);
        let values = powers.flat_map(|power| digits.iter().map(move |digit| (digit * 10f64.powi(power), power)));
        let inside = values.filter(|(value, _)| (self.low..=self.high).contains(value));
        inside.map(|(value, power)| Tick { value, label: self.label(value, 10f64.powi(power)) }).collect()
    }

    /// A multiple of `step`, with as many digits as that needs.
    fn label(&self, value: f64, step: f64) -> String {
        let decimals = (-(step * (1.0 + 1e-9)).log10().floor()).max(0.0) as usize;
        let largest = match self.kind {
            Kind::Share => return format!("{:.0} %", 100.0 * value),
            Kind::Logarithmic => value,
            Kind::Linear | Kind::Whole => self.low.abs().max(self.high.abs()),
        };
        if value.abs() < 1e-9 * step {
            "0".to_owned()
        } else if decimals > 3 || (largest >= 1e6 && self.kind != Kind::Whole) {
            let digits = (largest.log10().floor() - step.log10().floor()).clamp(0.0, 9.0) as usize;
            let text = format!("{value:.digits$e}");
            match text.split_once('e') {
                Some((number, power)) if number.contains('.') => {
                    format!("{}e{power}", number.trim_end_matches('0').trim_end_matches('.'))
                }
                _ => text,
            }
        } else if decimals == 0 && value >= 1000.0 {
            indicatif::HumanCount(value as u64).to_string()
        } else {
            format!("{value:.decimals$}")
        }
    }
}

/// The lowest and the highest value. What is beyond all reason is held back: ranges are finite, and none is too small
/// for a float.
fn limits(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let held = |value: f64| if value.abs() < 1e-250 { 0.0 } else { value.clamp(-1e250, 1e250) };
    values.into_iter().map(held).fold(None, |limits, value| match limits {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

/// The least of 1, 2, 5 times a power of ten that is not below.
fn rounded_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= value * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale, n: usize) -> Vec<String> {
        scale.ticks(n).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_rounded() {
        assert_eq!(labels(&Scale::around([1.62, 2.41]).unwrap(), 5), ["1.6", "1.8", "2.0", "2.2", "2.4"]);
        assert_eq!(labels(&Scale::around([-3.0, 8.0]).unwrap(), 5), ["0", "5"]);
        assert_eq!(labels(&Scale::around([2.5]).unwrap(), 5), ["2.3", "2.4", "2.5", "2.6", "2.7"]);
        assert_eq!(labels(&Scale::around([0.0, 0.0]).unwrap(), 3), ["-1", "0", "1"]);
        assert_eq!(labels(&Scale::from_zero([2e-4]).unwrap(), 5), ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]);
        assert_eq!(labels(&Scale::from_zero([3120.0]).unwrap(), 4), ["0", "1,000", "2,000", "3,000"]);
        assert_eq!(labels(&Scale::steps(2), 5), ["0", "1", "2"]);
        assert_eq!(labels(&Scale::steps(12_500), 5), ["0", "5,000", "10,000"]);
        assert_eq!(labels(&Scale::shares(), 5), ["0 %", "25 %", "50 %", "75 %", "100 %"]);
        assert_eq!(labels(&Scale::logarithmic([0.02, 30.0]).unwrap(), 5), ["0.1", "1", "10"]);
        assert_eq!(labels(&Scale::logarithmic([0.3, 2.4]).unwrap(), 5), ["0.5", "1", "2"]);
        assert_eq!(labels(&Scale::logarithmic([2.2, 3.1]).unwrap(), 5), ["2.2", "2.4", "2.6", "2.8", "3.0"]);
        assert_eq!(labels(&Scale::logarithmic([1e-9, 1e9, 0.0]).unwrap(), 4), ["1e-5", "1", "100,000"]);
        assert!(Scale::around([]).is_none() && Scale::from_zero([0.0]).is_none());
        assert!(Scale::logarithmic([0.0, -1.0]).is_none());
    }

    #[test]
    fn values_have_their_place() {
        let scale = Scale::logarithmic([0.01, 100.0]).unwrap();
        assert!((scale.place(1.0) - 0.5).abs() < 1e-9);
        let scale = Scale::steps(200);
        assert_eq!([0.0, 50.0, 200.0, 400.0].map(|step| scale.place(step)), [0.0, 0.25, 1.0, 2.0]);
        // Whatever a file says, there are few ticks and all of them lie on the axis.
        for values in [[1e-300, 1e300], [-1e308, 1e308], [5e-324, 5e-324], [1e17, 1e17 + 64.0], [f64::MAX, f64::MAX]] {
            for scale in [Scale::around(values), Scale::from_zero(values), Scale::logarithmic(values)] {
                let Some(scale) = scale else { continue };
                let ticks = scale.ticks(5);
                assert!(ticks.len() <= 7, "{values:?}");
                for tick in ticks {
                    assert!((-0.01..=1.01).contains(&scale.place(tick.value)), "{values:?}: {}", tick.label);
                }
            }
        }
    }
}
