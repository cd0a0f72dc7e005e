//! Counting, sums up to twenty, and what is too big.

use super::{Turn, manner};
use crate::english::{self, number};
use crate::grammar::Grammar;
use crate::random::Random;
use crate::world::{ANIMALS, Animal, CHILDREN};

/// The largest number that cria counts and adds to.
const LIMIT: usize = 20;
const TOO_BIG: &str = "That is too big for me. I can only count and add up to twenty.";

/// One or two questions about numbers.
pub fn topic(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    match random.below(100) {
        0..24 => sum(random),
        24..36 => difference(random),
        36..52 => word_problem(random),
        52..58 => vec![legs(random)],
        58..68 => vec![count(random)],
        68..74 => neighbour(random),
        74..80 => vec![compare(random)],
        80..84 => vec![product(random)],
        84..87 => vec![half_or_double(random)],
        87..91 => vec![is_it_right(random)],
        91..93 => vec![in_words(random)],
        93..96 => quiz(grammar, random),
        _ => vec![too_big(random)],
    }
}

/// `a` and `b` with a sum that cria can tell.
fn addends(random: &mut Random) -> (usize, usize) {
    let c = random.between(1, LIMIT);
    let a = random.between(0, c);
    (a, c - a)
}

fn sum(random: &mut Random) -> Vec<Turn> {
    let (a, b) = addends(random);
    let c = a + b;
    let digits = format!("{a} + {b} = {c}.");
    let words = format!("{} plus {} is {}.", english::capitalised(&number(a)), number(b), number(c));
    let (x, y) = (number(a), number(b));
    let mut turns = vec![match random.below(10) {
        0 | 1 => Turn::new(format!("What is {a} + {b}?"), digits),
        2 => Turn::new(format!("{a} + {b}"), digits),
        3 => Turn::new(format!("{a} + {b} = ?"), digits),
        4 => Turn::new(format!("How much is {a} + {b}?"), digits),
        5 => Turn::new(format!("What is {a} plus {b}?"), digits),
        6 => Turn::new(format!("{a}+{b}"), digits),
        7 => Turn::new(format!("What is {x} plus {y}?"), words),
        8 => Turn::new(format!("How much is {x} and {y}?"), words),
        _ => Turn::new(format!("Add {a} and {b}."), digits),
    }];
    if random.chance(18) && c < LIMIT {
        let d = random.between(1, (LIMIT - c).min(5));
        let question = [format!("And plus {d}?"), format!("And {d} more?"), format!("Now add {d}.")];
        turns.push(Turn::new(random.pick(&question).clone(), format!("{c} + {d} = {}.", c + d)));
    } else if random.chance(8) && a + b + 1 < LIMIT {
        let d = random.between(1, LIMIT - c);
        turns = vec![Turn::new(format!("What is {a} + {b} + {d}?"), format!("{a} + {b} + {d} = {}.", c + d))];
    }
    turns
}

fn difference(random: &mut Random) -> Vec<Turn> {
    let (c, b) = addends(random);
    let a = b + c;
    let digits = format!("{a} - {b} = {c}.");
    let words = format!("{} minus {} is {}.", english::capitalised(&number(a)), number(b), number(c));
    vec![match random.below(7) {
        0 | 1 => Turn::new(format!("What is {a} - {b}?"), digits),
        2 => Turn::new(format!("{a} - {b}"), digits),
        3 => Turn::new(format!("How much is {a} - {b}?"), digits),
        4 => Turn::new(format!("What is {a} minus {b}?"), digits),
        5 => Turn::new(format!("Take {b} away from {a}."), digits),
        _ => Turn::new(format!("What is {} minus {}?", number(a), number(b)), words),
    }]
}

fn product(random: &mut Random) -> Turn {
    let a = random.between(1, 10);
    let b = random.between(1, LIMIT / a);
    let words = ["times", "x", "*"][random.below(3)];
    Turn::new(format!("What is {a} {words} {b}?"), format!("{a} times {b} is {}.", a * b))
}

fn half_or_double(random: &mut Random) -> Turn {
    let n = random.between(1, LIMIT / 2);
    let (small, large) = (number(n), number(2 * n));
    if random.chance(50) {
        Turn::new(format!("What is half of {large}?"), format!("Half of {large} is {small}."))
    } else {
        Turn::new(format!("What is double {small}?"), format!("Double {small} is {large}."))
    }
}

fn is_it_right(random: &mut Random) -> Turn {
    let (a, b) = addends(random);
    let c = a + b;
    let said = if random.chance(50) { c } else { (c + random.between(1, 3)).min(LIMIT) };
    let answer = if said == c { "Yes" } else { "No" };
    let question = [format!("Is {a} + {b} = {said}?"), format!("Is it true that {a} + {b} is {said}?")];
    Turn::new(random.pick(&question).clone(), format!("{answer}. {a} + {b} = {c}."))
}

/// A sum that cria asks for.
fn quiz(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let (a, b) = addends(random);
    let c = a + b;
    let question = format!("What is {a} + {b}?");
    let mut turns = if random.chance(40) {
        let wish = random.pick(&["A sum.", "A sum, please.", "Give me a sum."]);
        vec![manner(grammar, "bored", random), Turn::new(*wish, question)]
    } else {
        let wish = random.pick(&["Give me a sum.", "Ask me a sum.", "A sum, please.", "Can you give me a sum?"]);
        vec![Turn::new(*wish, question)]
    };
    let said = if random.chance(60) { c } else { random.between(0, LIMIT) };
    let start = if said == c { "Yes, that is right!" } else { "Not quite." };
    let guess = [said.to_string(), number(said), format!("It is {said}."), format!("{said}!")];
    let guess = random.pick(&guess);
    turns.push(Turn::new(english::capitalised(guess), format!("{start} {a} + {b} = {c}.")));
    turns
}

fn in_words(random: &mut Random) -> Turn {
    let n = random.between(0, LIMIT);
    if random.chance(50) {
        Turn::new(format!("Write the number {n} as a word."), format!("The number {n} is {}.", number(n)))
    } else {
        Turn::new(format!("Write {} as a number.", number(n)), format!("{} is {n}.", english::capitalised(&number(n))))
    }
}

fn compare(random: &mut Random) -> Turn {
    let sample = random.sample(&(0..=LIMIT).collect::<Vec<_>>(), 2).into_iter().copied().collect::<Vec<_>>();
    let (a, b) = (sample[0], sample[1]);
    let (more, less) = (a.max(b), a.min(b));
    let say = |n: usize, words: bool| if words { number(n) } else { n.to_string() };
    let words = random.chance(50);
    let (sa, sb) = (say(a, words), say(b, words));
    let bigger = format!("{} is bigger than {}.", english::capitalised(&say(more, words)), say(less, words));
    let smaller = format!("{} is smaller than {}.", english::capitalised(&say(less, words)), say(more, words));
    match random.below(4) {
        0 => Turn::new(format!("Which number is bigger, {sa} or {sb}?"), bigger),
        1 => Turn::new(format!("Which number is smaller, {sa} or {sb}?"), smaller),
        2 if a > b => Turn::new(format!("Is {sa} bigger than {sb}?"), format!("Yes. {bigger}")),
        2 => Turn::new(format!("Is {sa} bigger than {sb}?"), format!("No. {smaller}")),
        _ if a < b => Turn::new(format!("Is {sa} smaller than {sb}?"), format!("Yes. {smaller}")),
        _ => Turn::new(format!("Is {sa} smaller than {sb}?"), format!("No. {bigger}")),
    }
}

fn count(random: &mut Random) -> Turn {
    let say = |numbers: Vec<usize>| {
        let words: Vec<String> = numbers.into_iter().map(number).collect();
        english::capitalised(&words.join(", ")) + "."
    };
    let word_or_digits = |n: usize, random: &mut Random| if random.chance(50) { number(n) } else { n.to_string() };
    match random.below(4) {
        0 | 1 => {
            let n = random.between(2, LIMIT);
            let to = word_or_digits(n, random);
            let questions = [
                format!("Count to {to}."),
                format!("Can you count to {to}?"),
                format!("Please count to {to}."),
                format!("Count from one to {to}."),
            ];
            Turn::new(random.pick(&questions).clone(), say((1..=n).collect()))
        }
        2 => {
            let from = random.between(2, 12);
            let to = random.between(from + 2, (from + 8).min(LIMIT));
            let question = format!("Count from {} to {}.", word_or_digits(from, random), word_or_digits(to, random));
            Turn::new(question, say((from..=to).collect()))
        }
        _ => {
            let n = random.between(3, LIMIT);
            let from = word_or_digits(n, random);
            let questions = [
                format!("Count backwards from {from}."),
                format!("Count down from {from}."),
                format!("Count from {from} down to one."),
            ];
            Turn::new(random.pick(&questions).clone(), say((1..=n).rev().collect()))
        }
    }
}

fn neighbour(random: &mut Random) -> Vec<Turn> {
    let n = random.between(1, LIMIT - 2);
    let after = |n: usize| format!("{} comes after {}.", english::capitalised(&number(n + 1)), number(n));
    let before = |n: usize| format!("{} comes before {}.", english::capitalised(&number(n - 1)), number(n));
    let word = if random.chance(50) { number(n) } else { n.to_string() };
    match random.below(4) {
        0 => vec![Turn::new(format!("What comes after {word}?"), after(n))],
        1 => vec![Turn::new(format!("Which number comes after {word}?"), after(n))],
        2 => vec![Turn::new(format!("Which number comes before {word}?"), before(n))],
        _ => vec![Turn::new(format!("What comes after {word}?"), after(n)), Turn::new("And after that?", after(n + 1))],
    }
}

/// `one egg`, `three eggs`, `no eggs`.
fn some(n: usize, one: &str, many: &str) -> String {
    match n {
        0 => format!("no {many}"),
        1 => format!("one {one}"),
        n => format!("{} {many}", number(n)),
    }
}

/// What children have and give: one and many.
const BELONGINGS: [[&str; 2]; 14] = [
    ["egg", "eggs"],
    ["potato", "potatoes"],
    ["llama", "llamas"],
    ["sheep", "sheep"],
    ["hat", "hats"],
    ["bean", "beans"],
    ["stone", "stones"],
    ["feather", "feathers"],
    ["apple", "apples"],
    ["coin", "coins"],
    ["blanket", "blankets"],
    ["hen", "hens"],
    ["flower", "flowers"],
    ["bell", "bells"],
];

fn word_problem(random: &mut Random) -> Vec<Turn> {
    let (first, second) = loop {
        let (a, b) = (random.pick(&CHILDREN), random.pick(&CHILDREN));
        if a.name != b.name {
            break (a, b);
        }
    };
    let (n, m) = (first.name, second.name);
    let he = if first.she { "she" } else { "he" };
    let [one, many] = *random.pick(&BELONGINGS);
    let (a, b) = (random.between(2, 10), random.between(1, 9));
    let c = a + b;
    let has = |n: usize| some(n, one, many);
    let got = format!("{a} + {b} = {c}. {n} has {}.", has(c));
    match random.below(6) {
        0 => {
            let verb = ["finds", "gets", "buys"][random.below(3)];
            let question =
                format!("{n} has {}, and {he} {verb} {} more. How many {many} does {n} have?", has(a), number(b));
            vec![Turn::new(question, got)]
        }
        1 => {
            let question = format!(
                "{n} has {}, and {m} gives {} more to {n}. How many {many} does {n} have now?",
                has(a),
                number(b)
            );
            vec![Turn::new(question, got)]
        }
        2 => {
            // From c, so that the difference is not below zero.
            let question =
                format!("{n} has {} and gives {} of them to {m}. How many {many} are left?", has(c), number(b));
            let left = english::capitalised(&some(a, one, many));
            vec![Turn::new(question, format!("{c} - {b} = {a}. {left} are left."))]
        }
        3 => {
            let question = format!("I have {}, and you give me {} more. How many {many} do I have?", has(a), number(b));
            vec![Turn::new(question, format!("{a} + {b} = {c}. You have {}.", has(c)))]
        }
        4 => {
            let animals: Vec<&Animal> = random.sample(&ANIMALS, 2);
            let say = |n: usize, animal: &Animal| some(n, animal.name, animal.plural);
            let (x, y) = (say(a, animals[0]), say(b, animals[1]));
            let question = format!("There are {x} and {y}. How many animals are there?");
            vec![Turn::new(question, format!("{a} + {b} = {c}. There are {} animals.", number(c)))]
        }
        _ => {
            let birds: Vec<&Animal> =
                ANIMALS.iter().filter(|animal| animal.flies && animal.swims == Some(true)).collect();
            let bird = *random.pick(&birds);
            let fly = if b == 1 { "one of them flies" } else { &format!("{} of them fly", number(b)) };
            let question =
                format!("There are {} on the lake, and {fly} away. How many stay?", some(c, bird.name, bird.plural));
            let left = english::capitalised(&some(a, bird.name, bird.plural));
            vec![Turn::new(question, format!("{c} - {b} = {a}. {left} stay."))]
        }
    }
}

fn legs(random: &mut Random) -> Turn {
    let animal = random.pick(&ANIMALS);
    let (each, parts) = if animal.legs == 0 { (2, "eyes") } else { (animal.legs, "legs") };
    let n = random.between(2, (LIMIT / each).min(5));
    let all = vec![each.to_string(); n].join(" + ");
    let many = animal.plural;
    let answer = format!(
        "A {} has {} {parts}. {all} = {}. {} {many} have {} {parts}.",
        animal.name,
        number(each),
        n * each,
        english::capitalised(&number(n)),
        number(n * each)
    );
    Turn::new(format!("How many {parts} do {} {many} have?", number(n)), english::finished(&answer))
}

fn too_big(random: &mut Random) -> Turn {
    let (a, b) = (random.between(21, 999), random.between(21, 999));
    let small = random.between(2, 20);
    let c = random.between(11, LIMIT);
    let question = match random.below(14) {
        0 => format!("What is {a} + {b}?"),
        1 => format!("What is {} - {}?", a.max(b), a.min(b)),
        2 => format!("What is {a} times {small}?"),
        3 => format!("{a} * {b}"),
        4 => format!("{a} + {small}"),
        5 => format!("How much is {a} plus {b}?"),
        6 => format!("What is {a} divided by {small}?"),
        7 => format!("What is the square root of {a}?"),
        8 => format!("What is {small} percent of {a}?"),
        9 => format!("Count to {a}."),
        10 => format!("What is {c} + {}?", random.between(LIMIT + 1 - c, LIMIT)),
        11 => format!("Solve {small} x + {a} = {b}."),
        12 => "Count to one hundred.".to_owned(),
        _ => format!("What is {c} times {}?", random.between(3, 12)),
    };
    Turn::new(question, TOO_BIG)
}
