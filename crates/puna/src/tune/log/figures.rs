//! Figures of a run as people read them.

/// A number with its thousands apart.
pub fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// A loss, or another figure of its size.
pub fn loss(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "not finite".to_owned(),
        size if size >= 1e5 || (size < 1e-3 && size > 0.0) => format!("{value:.3e}"),
        _ => format!("{value:.4}"),
    }
}

/// A share, in per cent.
pub fn share(value: f64) -> String {
    format!("{:.1} %", 100.0 * value)
}

/// Tokens a second.
pub fn speed(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { count(value.round() as u64) }
}

/// Seconds in the two largest units.
pub fn duration(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (hours, days) {
        (0, 0) => format!("{minutes} min {} s", seconds % 60),
        (_, 0) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", count(days), hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_digits_that_matter() {
        assert_eq!([2.34567, 0.0, 1.5e-5, f64::NAN].map(loss), ["2.3457", "0.0000", "1.500e-5", "not finite"]);
        assert_eq!([12.345, 99.94, 1234.5].map(speed), ["12.3", "99.9", "1,235"]);
        let durations = [0.04, 59.94, 59.96, 3599.6, 86_399.0, 90_000.0];
        assert_eq!(durations.map(duration), ["0.0 s", "59.9 s", "1 min 0 s", "1 h 0 min", "23 h 59 min", "1 d 1 h"]);
    }
}
