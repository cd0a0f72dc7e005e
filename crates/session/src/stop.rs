//! Stop strings: an answer ends before the first of them, wherever the tokens cut it.

/// Passes text through until one of the stop strings appears in it. Text that may be the beginning of one is held back.
pub(crate) struct StopStrings {
    stops: Vec<String>,
    /// Text not passed on yet: the longest end of what came that begins a stop string.
    held: String,
    /// The one that was found.
    found: Option<String>,
}

impl StopStrings {
    /// Empty strings never stop anything and are left out.
    pub fn new(stops: &[String]) -> StopStrings {
        StopStrings {
            stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
            held: String::new(),
            found: None,
        }
    }

    /// Takes more text; returns what may be passed on, and whether a stop string was found.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop)));
        if let Some((at, stop)) = found.min_by_key(|(at, _)| *at) {
            self.found = Some(stop.clone());
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        // Only the last bytes, fewer than the longest stop string, can begin one.
        let first = self.held.len().saturating_sub(longest.saturating_sub(1));
        let cut = (first..self.held.len())
            .filter(|at| self.held.is_char_boundary(*at))
            .find(|at| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..])))
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(cut);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The stop string that was found.
    pub fn found(&self) -> Option<&str> {
        self.found.as_deref()
    }

    /// At the end of the answer: what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut filter = StopStrings::new(&stops);
        let mut out = String::new();
        for piece in pieces {
            let (text, stopped) = filter.push(piece);
            out += &text;
            if stopped {
                return (out, true);
            }
        }
        (out + &filter.finish(), false)
    }

    #[test]
    fn found_across_pieces_and_never_shown() {
        assert_eq!(run(&["END"], &["a E", "N", "D b"]), ("a ".into(), true));
        assert_eq!(run(&["END"], &["a E", "N", "d b"]), ("a ENd b".into(), false));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(run(&["ü!", "x"], &["grü", "ß", "ü", "!"]), ("grüß".into(), true));
        assert_eq!(run(&["b", "ab"], &["xab"]), ("x".into(), true));
        assert_eq!(run(&[""], &["abc"]), ("abc".into(), false));
    }

    #[test]
    fn nothing_is_held_without_need() {
        let mut filter = StopStrings::new(&["\n\n".into()]);
        assert_eq!(filter.push("line\n"), ("line".into(), false));
        assert_eq!(filter.push("next"), ("\nnext".into(), false));
    }
}
