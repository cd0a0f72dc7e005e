//! How many words, and how much of it is said more than once.

use std::collections::HashSet;

/// Counts over some texts.
#[derive(Default)]
pub struct Statistics {
    /// How many texts.
    pub texts: usize,
    /// How many words.
    pub words: usize,
    /// How many sentences.
    pub sentences: usize,
    vocabulary: HashSet<String>,
    different: HashSet<String>,
}

impl Statistics {
    /// Counts one text more.
    pub fn add(&mut self, text: &str) {
        self.texts += 1;
        for word in words(text) {
            self.words += 1;
            if !self.vocabulary.contains(&word) {
                self.vocabulary.insert(word);
            }
        }
        for sentence in sentences(text) {
            self.sentences += 1;
            if !self.different.contains(sentence) {
                self.different.insert(sentence.to_owned());
            }
        }
    }

    /// How many different words there are, without regard to capitals; numbers of digits are none.
    pub fn n_vocabulary(&self) -> usize {
        self.vocabulary.len()
    }

    /// How many different sentences there are.
    pub fn n_different(&self) -> usize {
        self.different.len()
    }
}

/// The words of a text in small letters, without punctuation and numbers.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphabetic() && c != '\'')
        .map(|word| word.trim_matches('\'').to_lowercase())
        .filter(|word| !word.is_empty())
}

/// The sentences of a text: each ends with a full stop, question or exclamation mark and perhaps a quotation mark.
pub fn sentences(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let mut ended = false;
        let end = rest.char_indices().find(|(_, c)| {
            let found = ended && c.is_whitespace();
            ended = matches!(c, '.' | '!' | '?') || (ended && *c == '"');
            found
        });
        let (sentence, left) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
        rest = left;
        (!sentence.is_empty()).then_some(sentence)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_sentences_are_split() {
        let text = "Ana's llama ran. \"Where to?\" asked Ana.\n\nIt was gone! 3 + 4 = 7.";
        let split: Vec<&str> = sentences(text).collect();
        assert_eq!(split, ["Ana's llama ran.", "\"Where to?\"", "asked Ana.", "It was gone!", "3 + 4 = 7."]);
        let split: Vec<String> = words("Ana's llama 'Luna' ran, 7 times.").collect();
        assert_eq!(split, ["ana's", "llama", "luna", "ran", "times"]);
    }

    #[test]
    fn what_is_said_twice_counts_once() {
        let mut statistics = Statistics::default();
        statistics.add("It rains. It rains.");
        statistics.add("It snows.");
        assert_eq!((statistics.texts, statistics.words, statistics.sentences), (2, 6, 3));
        assert_eq!((statistics.n_vocabulary(), statistics.n_different()), (3, 2));
    }
}
