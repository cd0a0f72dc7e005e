//! The little English grammar that templates cannot know by themselves: articles, capitals, lists and numbers.

const NUMBERS: [&str; 21] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
];

/// A number from 0 to 20 as a word; larger ones as digits.
pub fn number(n: usize) -> String {
    NUMBERS.get(n).map_or_else(|| n.to_string(), |word| (*word).to_owned())
}

/// The text with its first letter as a capital.
pub fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// `a`, `a and b`, `a, b and c`.
pub fn list<S: AsRef<str>>(things: &[S]) -> String {
    let mut text = String::new();
    for (index, thing) in things.iter().enumerate() {
        if index > 0 {
            text += if index + 1 == things.len() { " and " } else { ", " };
        }
        text += thing.as_ref();
    }
    text
}

/// Whether a word is spoken with a vowel first, so that its article is "an".
pub fn takes_an(word: &str) -> bool {
    let word: String = word.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect::<String>().to_lowercase();
    let one_as_in_won = ["one", "once", "use", "usual", "uni", "eu"];
    let silent_h = ["hour", "honest", "honour"];
    if one_as_in_won.iter().any(|start| word.starts_with(start)) {
        return false;
    }
    silent_h.iter().any(|start| word.starts_with(start))
        || ["8", "11", "18"].contains(&word.as_str())
        || word.starts_with(['a', 'e', 'i', 'o', 'u'])
}

/// The text with "a" or "an" as the next word wants it, and a capital at the start of every sentence.
///
/// What follows a closing quotation mark is left alone: `"Where?" asked the fox.`
pub fn finished(text: &str) -> String {
    with_capitals(&with_articles(text))
}

/// The text with "a" or "an" as the next word wants it.
pub fn with_articles(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let mut out = String::with_capacity(text.len() + 16);
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        let start = word.rfind(|c: char| !c.is_alphabetic()).map_or(0, |at| at + 1);
        match (word.get(start..), words.get(index + 1)) {
            (Some(article @ ("a" | "A" | "an" | "An")), Some(next)) => {
                out += &word[..start];
                out += &article[..1];
                if takes_an(next) {
                    out.push('n');
                }
            }
            _ => out += word,
        }
    }
    out
}

fn with_capitals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // At the start of the text, and after the end of a sentence and a space.
    let mut ended = true;
    for c in text.chars() {
        if ended && c.is_alphabetic() {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        ended = match c {
            '.' | '!' | '?' => true,
            ' ' | '\n' => ended,
            // An opening quotation mark stands after a space; a closing one ends what was ended.
            '"' => ended && out.len() >= 2 && matches!(out.as_bytes()[out.len() - 2], b' ' | b'\n') || out.len() == 1,
            _ => false,
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn articles_fit_the_next_word() {
        assert_eq!(finished("a owl and an fox saw a old hen"), "An owl and a fox saw an old hen");
        assert_eq!(finished("It took a hour. a 8 is an number"), "It took an hour. An 8 is a number");
        assert_eq!(finished("It was an one-eyed cat"), "It was a one-eyed cat");
        assert_eq!(finished("\"a apple!\" he said."), "\"An apple!\" he said.");
        assert_eq!(finished("End.\n\na alpaca came."), "End.\n\nAn alpaca came.");
        assert_eq!(finished("The llama is a llama."), "The llama is a llama.");
    }

    #[test]
    fn sentences_start_with_capitals() {
        assert_eq!(finished("it rained. the fox ran."), "It rained. The fox ran.");
        assert_eq!(finished("\"who?\" asked he. \"you?\" it said."), "\"Who?\" asked he. \"You?\" it said.");
        assert_eq!(finished("3 + 4 = 7. ana has seven."), "3 + 4 = 7. Ana has seven.");
    }

    #[test]
    fn lists_and_numbers() {
        assert_eq!(list(&["a hen"]), "a hen");
        assert_eq!(list(&["a hen", "a fox"]), "a hen and a fox");
        assert_eq!(list(&["a hen", "a fox", "an owl"]), "a hen, a fox and an owl");
        assert_eq!(number(0), "zero");
        assert_eq!(number(20), "twenty");
        assert_eq!(number(21), "21");
    }
}
