//! Rules that every text keeps. They are looked for in the finished text, without the grammar's help.

/// What is wrong with a text that cria writes: spaces, quotation marks, articles, capitals, sums.
pub fn written(text: &str) -> Option<String> {
    said(text)
        .or_else(|| quotation_marks(text))
        .or_else(|| capitals(text))
        .or_else(|| end(text))
        .or_else(|| sums(text))
        .or_else(|| {
            text.contains(['[', ']', '{', '}', '|', '*', '_']).then(|| "a mark of the grammar is left".to_owned())
        })
}

/// What is wrong with a text of whoever talks with cria, who may leave out capitals and full stops.
pub fn said(text: &str) -> Option<String> {
    spaces(text).or_else(|| words(text))
}

fn spaces(text: &str) -> Option<String> {
    if text.is_empty() || text.trim() != text {
        return Some("it is empty, or starts or ends with a space".to_owned());
    }
    for wrong in ["  ", "\t", "\r", " \n", "\n ", "\n\n\n", " ,", " .\"", ",,", ";;"] {
        if text.contains(wrong) {
            return Some(format!("it has {wrong:?}"));
        }
    }
    let single_break = text.split("\n\n").any(|paragraph| paragraph.contains('\n'));
    single_break.then(|| "a paragraph has a line break".to_owned())
}

fn words(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split([' ', '\n']).collect();
    for pair in words.windows(2) {
        let (first, next) = (pair[0].trim_start_matches('"'), pair[1]);
        let next_word = next.trim_end_matches(|c: char| !c.is_alphanumeric());
        let same = first.chars().all(char::is_alphabetic) && first.to_lowercase() == next_word.to_lowercase();
        if same && !first.is_empty() && !["that", "had", "bla"].contains(&first.to_lowercase().as_str()) {
            return Some(format!("a word stands there twice: {first:?}"));
        }
        let vowel = crate::english::takes_an(next);
        let lone = !next.contains(|c: char| c.is_alphanumeric());
        match first {
            "a" | "A" if vowel && !lone => return Some(format!("expected an, found a before {next:?}")),
            "an" | "An" if !vowel && !lone => return Some(format!("expected a, found an before {next:?}")),
            _ => {}
        }
    }
    None
}

fn quotation_marks(text: &str) -> Option<String> {
    for paragraph in text.split("\n\n") {
        let mut open = false;
        let chars: Vec<char> = paragraph.chars().collect();
        for (index, _) in chars.iter().enumerate().filter(|(_, c)| **c == '"') {
            let before = index.checked_sub(1).map(|index| chars[index]);
            let after = chars.get(index + 1).copied();
            let fits = if open {
                before.is_some_and(|c| ".,!?".contains(c)) && after.is_none_or(|c| c == ' ')
            } else {
                before.is_none_or(|c| c == ' ') && after.is_some_and(char::is_alphanumeric)
            };
            if !fits {
                return Some(format!("a quotation mark is misplaced: {paragraph:?}"));
            }
            open = !open;
        }
        if open {
            return Some(format!("a quotation mark is not closed: {paragraph:?}"));
        }
    }
    None
}

fn capitals(text: &str) -> Option<String> {
    let chars: Vec<char> = text.chars().collect();
    let small = |index: usize| chars.get(index).is_some_and(|c| c.is_lowercase());
    let first = usize::from(chars.first() == Some(&'"'));
    if small(first) {
        return Some("it starts with a small letter".to_owned());
    }
    for (index, c) in chars.iter().enumerate() {
        // After a dot, also before a quotation mark; after the others only without one: "Where?" asked the fox.
        let next = match (c, chars.get(index + 1), chars.get(index + 2)) {
            ('.', Some('"'), Some(' ')) => index + 3,
            ('.' | '!' | '?', Some(' '), Some('"')) => index + 3,
            ('.' | '!' | '?', Some(' ' | '\n'), _) => index + 2,
            _ => continue,
        };
        if small(next) {
            let around: String = chars[index.saturating_sub(20)..(next + 10).min(chars.len())].iter().collect();
            return Some(format!("a sentence starts with a small letter: {around:?}"));
        }
    }
    text.split(' ').any(|word| word == "i").then(|| "a lone i".to_owned())
}

fn end(text: &str) -> Option<String> {
    let open = text.split("\n\n").find(|paragraph| !paragraph.trim_end_matches('"').ends_with(['.', '!', '?', ':']));
    open.map(|paragraph| format!("a paragraph has no end: {paragraph:?}"))
}

/// Every `3 + 4 = 7` and `8 - 2 = 6` is right.
fn sums(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split([' ', '\n']).collect();
    for (index, _) in words.iter().enumerate().filter(|(_, word)| **word == "=") {
        let number = |word: &str| word.trim_matches(['.', ',', '!', '?', '"']).parse::<i64>().ok();
        let right = words.get(index + 1).and_then(|word| number(word));
        let mut left = words.get(index.wrapping_sub(1)).and_then(|word| number(word));
        let mut at = index.wrapping_sub(1);
        while let (Some(sign @ ("+" | "-")), Some(sum)) = (words.get(at.wrapping_sub(1)).copied(), left) {
            let last = words.get(at).and_then(|word| number(word)).unwrap_or_default();
            let before = words.get(at.wrapping_sub(2)).and_then(|word| number(word));
            // Signs are taken from the right, which is the same for sums, and for one difference.
            left = before.map(|before| if sign == "+" { sum + before } else { before - last });
            at = at.wrapping_sub(2);
        }
        if left.is_none() || left != right {
            return Some(format!("a sum is wrong: {left:?} = {right:?}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_texts_pass() {
        for text in [
            "A llama hums.",
            "\"Where?\" asked the fox. \"Here,\" said an owl. \"Come!\"\n\nThey went.",
            "It took an hour. An 8 is a number. \"1 + 2 = 3,\" he said. 3 + 4 = 7. 2 + 2 + 2 = 6. 8 - 2 = 6.",
            "\"One, two ...\" Boom! It was loud.",
            "One, two, three.",
        ] {
            assert_eq!(written(text), None, "{text}");
        }
    }

    #[test]
    fn each_rule_finds_its_mistake() {
        for text in [
            "A a llama hums.",
            "The the llama hums.",
            "A owl hoots.",
            "An llama hums.",
            "A llama  hums.",
            "A llama , and a fox.",
            "\"Where? asked the fox.",
            "\"Here.\" said the fox.",
            "It rained. the fox ran.",
            "it rained.",
            "It rained",
            "It rained. \"you see,\" he said.",
            "It is {x}.",
            "It is 3 + 4 = 8.",
            "It is 8 - 3 = 4.",
            "Then i ran.",
            " It rained.",
            "One line.\nAnother line.",
            "He said\"Come.\"",
            "",
        ] {
            assert!(written(text).is_some(), "{text}");
        }
    }
}
