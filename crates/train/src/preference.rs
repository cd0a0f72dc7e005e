//! Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290).

/// What a pair adds to the loss, and how it depends on the two completions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preference {
    /// `−log σ(margin)`.
    pub loss: f64,
    /// `β (chosen − rejected)`, each relative to the reference.
    pub margin: f64,
    /// `∂ loss / ∂ log-probability` of the chosen completion; of the rejected one it is the negative.
    pub slope: f64,
}

impl Preference {
    /// Of the log-probabilities of the chosen and the rejected completion, now and by the reference.
    pub fn new(beta: f64, [chosen, rejected]: [f64; 2], [by_reference, rejected_by_reference]: [f64; 2]) -> Preference {
        let margin = beta * ((chosen - by_reference) - (rejected - rejected_by_reference));
        // log(1 + e^-m) and σ(-m), without overflow on either side.
        let loss = (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
        let slope = -beta / (1.0 + margin.exp());
        Preference { loss, margin, slope }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_model_like_its_reference_is_at_ln_2() {
        let preference = Preference::new(0.1, [-3.0, -5.0], [-3.0, -5.0]);
        assert_eq!((preference.loss, preference.margin), (std::f64::consts::LN_2, 0.0));
        assert_eq!(preference.slope, -0.05);
    }

    #[test]
    fn far_away_nothing_overflows() {
        let sure = Preference::new(1.0, [0.0, -1e5], [0.0; 2]);
        assert_eq!((sure.loss, sure.slope), (0.0, 0.0));
        let wrong = Preference::new(1.0, [-1e5, 0.0], [0.0; 2]);
        assert_eq!((wrong.loss, wrong.slope), (1e5, -1.0));
    }

    proptest! {
        #[test]
        fn the_slope_is_the_losses(values in prop::array::uniform4(-20f64..0.0), beta in 0.01f64..1.0) {
            let [chosen, rejected, a, b] = values;
            let at = |chosen: f64, rejected: f64| Preference::new(beta, [chosen, rejected], [a, b]).loss;
            let step = 1e-5;
            let slope = Preference::new(beta, [chosen, rejected], [a, b]).slope;
            for (found, expected) in [
                (slope, at(chosen + step, rejected) - at(chosen - step, rejected)),
                (-slope, at(chosen, rejected + step) - at(chosen, rejected - step)),
            ] {
                prop_assert!((found - expected / (2.0 * step)).abs() < 1e-8, "{found} {expected}");
            }
        }
    }
}
