//! What changed between two versions of a text, word by word, for people.

use crate::normalise::normalise;
use std::fmt::Write as _;

/// A stretch of words that both texts have, or one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Words of both.
    Same(String),
    /// Words of the old text alone.
    Removed(String),
    /// Words of the new text alone.
    Added(String),
}

/// Cells of the table that is filled to compare two texts, 2 bytes each. A licence that was written anew has less than
/// two million.
const MAX_CELLS: usize = 1 << 24;

/// Words that are shown around a change.
const CONTEXT: usize = 12;

/// Compares two texts by their words; quotes and white space do not matter. Texts that have some 4,000 different words
/// between their first and their last change are not compared within that stretch: it is given as removed and added.
#[must_use]
pub fn diff(old: &str, new: &str) -> Vec<Edit> {
    let (old, new) = (normalise(old), normalise(new));
    let old: Vec<&str> = old.split(' ').filter(|word| !word.is_empty()).collect();
    let new: Vec<&str> = new.split(' ').filter(|word| !word.is_empty()).collect();
    let n_before = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (&old[n_before..], &new[n_before..]);
    let n_after = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_middle, after) = old_rest.split_at(old_rest.len() - n_after);
    let new_middle = &new_rest[..new_rest.len() - n_after];

    let mut edits = Edits::default();
    old[..n_before].iter().for_each(|word| edits.same(word));
    middle(old_middle, new_middle, &mut edits);
    after.iter().for_each(|word| edits.same(word));
    edits.finish()
}

/// The longest common subsequence, by the table that every textbook has.
fn middle(old: &[&str], new: &[&str], edits: &mut Edits) {
    let width = new.len() + 1;
    let fits = (old.len() + 1).checked_mul(width).is_some_and(|cells| cells <= MAX_CELLS)
        && old.len().min(new.len()) <= usize::from(u16::MAX);
    if !fits || old.is_empty() || new.is_empty() {
        old.iter().for_each(|word| edits.removed(word));
        new.iter().for_each(|word| edits.added(word));
        return;
    }
    // longest[i * width + j]: of old[i..] and new[j..].
    let mut longest = vec![0u16; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            longest[i * width + j] = if old[i] == new[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            edits.same(old[i]);
            (i, j) = (i + 1, j + 1);
        } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
            edits.removed(old[i]);
            i += 1;
        } else {
            edits.added(new[j]);
            j += 1;
        }
    }
    old[i..].iter().for_each(|word| edits.removed(word));
    new[j..].iter().for_each(|word| edits.added(word));
}

/// Gathers words to stretches; of words removed and added between two that are the same, first all that were removed.
#[derive(Default)]
struct Edits {
    done: Vec<Edit>,
    same: Vec<String>,
    removed: Vec<String>,
    added: Vec<String>,
}

impl Edits {
    fn same(&mut self, word: &str) {
        self.flush_changes();
        self.same.push(word.to_owned());
    }

    fn removed(&mut self, word: &str) {
        self.flush_same();
        self.removed.push(word.to_owned());
    }

    fn added(&mut self, word: &str) {
        self.flush_same();
        self.added.push(word.to_owned());
    }

    fn flush_same(&mut self) {
        if !self.same.is_empty() {
            self.done.push(Edit::Same(std::mem::take(&mut self.same).join(" ")));
        }
    }

    fn flush_changes(&mut self) {
        if !self.removed.is_empty() {
            self.done.push(Edit::Removed(std::mem::take(&mut self.removed).join(" ")));
        }
        if !self.added.is_empty() {
            self.done.push(Edit::Added(std::mem::take(&mut self.added).join(" ")));
        }
    }

    fn finish(mut self) -> Vec<Edit> {
        self.flush_same();
        self.flush_changes();
        self.done
    }
}

/// Shows changes as `wdiff` does, `[-removed-] {+added+}`, each with a few words around it and on lines of at most `width`
/// characters if words allow it. Empty if nothing changed.
#[must_use]
pub fn show(edits: &[Edit], width: usize) -> String {
    if edits.iter().all(|edit| matches!(edit, Edit::Same(_))) {
        return String::new();
    }
    let mut text = String::new();
    for (idx, edit) in edits.iter().enumerate() {
        let _ = match edit {
            Edit::Removed(words) => write!(text, " [-{words}-]"),
            Edit::Added(words) => write!(text, " {{+{words}+}}"),
            Edit::Same(words) => write!(text, " {}", around(words, idx == 0, idx + 1 == edits.len())),
        };
    }
    text.split('\n').map(|paragraph| wrap(paragraph, width)).collect::<Vec<_>>().join("\n\n") + "\n"
}

/// What of an unchanged stretch is shown: its end before a change, its beginning behind one.
fn around(words: &str, is_first: bool, is_last: bool) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    let n_begin = if is_first { 0 } else { CONTEXT };
    let n_end = if is_last { 0 } else { CONTEXT };
    if words.len() <= n_begin + n_end {
        return words.join(" ");
    }
    let (begin, end) = (words[..n_begin].join(" "), words[words.len() - n_end..].join(" "));
    match (is_first, is_last) {
        (true, _) => format!("… {end}"),
        (_, true) => format!("{begin} …"),
        _ => format!("{begin} …\n… {end}"),
    }
}

fn wrap(text: &str, width: usize) -> String {
    let mut wrapped = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let n = word.chars().count();
        if column > 0 && column + 1 + n > width {
            wrapped.push('\n');
            column = 0;
        } else if column > 0 {
            wrapped.push(' ');
            column += 1;
        }
        wrapped += word;
        column += n;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn changed_words() {
        let edits = diff("You may “share” it for\nany purpose.", "You may \"share\" it for no commercial purpose.");
        let expected = [
            Edit::Same("You may \"share\" it for".into()),
            Edit::Removed("any".into()),
            Edit::Added("no commercial".into()),
            Edit::Same("purpose.".into()),
        ];
        assert_eq!(edits, expected);
        assert_eq!(show(&edits, 100), "You may \"share\" it for [-any-] {+no commercial+} purpose.\n");
        assert_eq!(show(&diff("a b", "“a” b"), 80), "[-a-] {+\"a\"+} b\n");
        assert_eq!(show(&diff("a  b", "a\nb"), 80), "");
        assert_eq!(diff("", ""), []);
        assert_eq!(diff("", "a"), [Edit::Added("a".into())]);
    }

    #[test]
    fn far_from_changes_nothing_is_shown() {
        let words: Vec<String> = (0..100).map(|i| format!("w{i}")).collect();
        let mut other = words.clone();
        other[30] = "x".into();
        other[80] = "y".into();
        let shown = show(&diff(&words.join(" "), &other.join(" ")), 60);
        assert!(shown.starts_with("… w18 w19") && shown.trim_end().ends_with("w92 …"), "{shown}");
        assert!(shown.contains("[-w30-]\n{+x+}") && shown.contains("w42 …\n\n… w68"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 60));
    }

    #[test]
    fn texts_that_are_too_long_to_compare_are_given_whole() {
        let text = |c: &str| (0..5000).map(|i| format!("{c}{i}")).collect::<Vec<_>>().join(" ");
        let edits = diff(&format!("same {}", text("a")), &format!("same {}", text("b")));
        assert_eq!(edits, [Edit::Same("same".into()), Edit::Removed(text("a")), Edit::Added(text("b"))]);
    }

    proptest! {
        #[test]
        fn both_texts_are_in_it(old in "[ab ]{0,30}", new in "[ab ]{0,30}") {
            let edits = diff(&old, &new);
            let of = |keep: fn(&Edit) -> Option<&String>| {
                edits.iter().filter_map(keep).cloned().collect::<Vec<_>>().join(" ")
            };
            let old_again = of(|edit| match edit { Edit::Same(t) | Edit::Removed(t) => Some(t), Edit::Added(_) => None });
            let new_again = of(|edit| match edit { Edit::Same(t) | Edit::Added(t) => Some(t), Edit::Removed(_) => None });
            prop_assert_eq!(old_again, normalise(&old));
            prop_assert_eq!(new_again, normalise(&new));
        }
    }
}
