//! What the user told, and asks for later.

use super::{MAX_TURNS, Turn};
use crate::english::{self, number};
use crate::grammar::Grammar;
use crate::random::Random;
use crate::world::{ANIMAL_NAMES, ANIMALS, CHILDREN, PLACES, VISITORS};

/// Something told, and what is asked about it.
struct Told {
    said: Turn,
    asked: Turn,
}

/// One or two things are told, there is talk about something else, and then they are asked for; or nothing was told.
pub fn topic(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    if random.chance(15) {
        return nothing_told(grammar, random);
    }
    let kinds: [fn(&mut Random) -> Told; 8] = [colour, animal, age, pet, relative, word, home, meal];
    let n = if random.chance(25) { 2 } else { 1 };
    let mut told: Vec<Told> = random.sample(&kinds, n).into_iter().map(|kind| kind(random)).collect();
    if random.chance(35) {
        told[0] = name(random);
    }
    let (mut turns, mut asked): (Vec<Turn>, Vec<Turn>) = told.into_iter().map(|told| (told.said, told.asked)).unzip();
    for _ in 0..random.below(3) {
        turns.extend(super::topic(grammar, random));
    }
    turns.truncate(MAX_TURNS - asked.len());
    if asked.len() == 2 && random.chance(50) {
        asked.swap(0, 1);
    }
    turns.extend(asked);
    turns
}

fn pick(forms: &[String], random: &mut Random) -> String {
    let form = random.pick(forms);
    english::finished(form)
}

fn name(random: &mut Random) -> Told {
    let name = if random.chance(60) { *random.pick(&VISITORS) } else { random.pick(&CHILDREN).name };
    let said = [
        format!("My name is {name}."),
        format!("I am {name}."),
        format!("I'm {name}."),
        format!("Hello, my name is {name}."),
        format!("Hi, I am {name}."),
        format!("You can call me {name}."),
        format!("My friends call me {name}."),
    ];
    Told {
        said: Turn::new(pick(&said, random), format!("Hello, {name}! It is nice to meet you.")),
        asked: Turn::new(pick(&ask_name(), random), format!("Your name is {name}.")),
    }
}

fn ask_name() -> Vec<String> {
    ["What is my name?", "What's my name?", "Do you remember my name?", "Who am I?", "Do you know my name?"]
        .map(str::to_owned)
        .to_vec()
}

const COLOURS: [&str; 11] =
    ["red", "blue", "green", "yellow", "white", "black", "brown", "grey", "orange", "pink", "purple"];

fn colour(random: &mut Random) -> Told {
    let colour = *random.pick(&COLOURS);
    let said = [
        format!("My favourite colour is {colour}."),
        format!("I like {colour} best of all colours."),
        format!("{colour} is my favourite colour."),
    ];
    Told {
        said: Turn::new(pick(&said, random), english::finished(&format!("{colour} is a beautiful colour."))),
        asked: Turn::new(pick(&ask_colour(), random), format!("Your favourite colour is {colour}.")),
    }
}

fn ask_colour() -> Vec<String> {
    [
        "What is my favourite colour?",
        "Do you remember my favourite colour?",
        "Which colour do I like best?",
        "Which is my favourite colour?",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn animal(random: &mut Random) -> Told {
    let animal = random.pick(&ANIMALS);
    let said = [
        format!("My favourite animal is the {}.", animal.name),
        format!("I like {} best of all animals.", animal.plural),
        format!("The {} is my favourite animal.", animal.name),
    ];
    Told {
        said: Turn::new(pick(&said, random), format!("I like stories about the {}, too.", animal.name)),
        asked: Turn::new(pick(&ask_animal(), random), format!("Your favourite animal is the {}.", animal.name)),
    }
}

fn ask_animal() -> Vec<String> {
    [
        "What is my favourite animal?",
        "Do you remember my favourite animal?",
        "Which animal do I like best?",
        "Which is my favourite animal?",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn age(random: &mut Random) -> Told {
    let n = random.between(4, 20);
    let age = if random.chance(50) { number(n) } else { n.to_string() };
    let said = [
        format!("I am {age} years old."),
        format!("I'm {age} years old."),
        format!("I will tell you my age. I am {age}."),
    ];
    Told {
        said: Turn::new(pick(&said, random), english::finished(&format!("{age} is a good age."))),
        asked: Turn::new(pick(&ask_age(), random), format!("You are {age} years old.")),
    }
}

fn ask_age() -> Vec<String> {
    ["How old am I?", "Do you remember how old I am?", "What is my age?"].map(str::to_owned).to_vec()
}

fn pet(random: &mut Random) -> Told {
    let kind = *random.pick(&["dog", "cat", "llama", "hen", "guinea pig", "sheep", "donkey", "alpaca"]);
    let name = random.pick(&ANIMAL_NAMES).name;
    let said = [
        format!("I have a {kind} called {name}."),
        format!("My {kind} is called {name}."),
        format!("The name of my {kind} is {name}."),
    ];
    let asked = [
        format!("What is my {kind} called?"),
        format!("What is the name of my {kind}?"),
        format!("Do you remember the name of my {kind}?"),
    ];
    let answer = format!("{name} is a good name for a {kind}.");
    Told {
        said: Turn::new(pick(&said, random), english::finished(&answer)),
        asked: Turn::new(pick(&asked, random), format!("Your {kind} is called {name}.")),
    }
}

fn relative(random: &mut Random) -> Told {
    let child = random.pick(&CHILDREN);
    let (she, he) = (["sister", "friend", "aunt", "teacher"], ["brother", "friend", "uncle", "teacher"]);
    let who = if child.she { random.pick(&she) } else { random.pick(&he) };
    let name = child.name;
    let said = [format!("My {who} is called {name}."), format!("I have a {who} called {name}.")];
    let asked = [
        format!("What is my {who} called?"),
        format!("What is the name of my {who}?"),
        format!("Do you remember the name of my {who}?"),
    ];
    Told {
        said: Turn::new(pick(&said, random), format!("{name} is a good name. Thank you for telling me.")),
        asked: Turn::new(pick(&asked, random), format!("Your {who} is called {name}.")),
    }
}

fn word(random: &mut Random) -> Told {
    let words = [
        "stone", "llama", "snow", "river", "lamp", "bread", "star", "wind", "blanket", "fox", "cloud", "bell",
        "potato", "bridge", "moon", "feather", "seed", "market", "hill", "soup",
    ];
    let word = *random.pick(&words);
    let said = [
        format!("Remember the word {word}."),
        format!("Please remember the word {word}."),
        format!("Remember this word: {word}."),
    ];
    let asked = ["What was the word?", "Which word was it?", "Do you remember the word?", "Tell me the word."];
    Told {
        said: Turn::new(pick(&said, random), format!("I will remember the word {word}.")),
        asked: Turn::new(*random.pick(&asked), format!("The word was {word}.")),
    }
}

fn home(random: &mut Random) -> Told {
    let place = random.pick(&PLACES);
    let said = [format!("I live {}.", place.at), format!("My house is {}.", place.at)];
    let asked = ["Where do I live?", "Where is my house?", "Do you remember where I live?"];
    Told {
        said: Turn::new(pick(&said, random), "That must be a good place to live."),
        asked: Turn::new(*random.pick(&asked), format!("You live {}.", place.at)),
    }
}

fn meal(random: &mut Random) -> Told {
    let food = *random.pick(&["soup", "potatoes", "bread", "cheese", "beans", "eggs", "maize", "quinoa", "an apple"]);
    let said =
        [format!("Today I ate {food}."), format!("I had {food} for breakfast."), format!("I had {food} for supper.")];
    let asked = ["What did I eat?", "Do you remember what I ate?", "What did I eat today?"];
    Told {
        said: Turn::new(pick(&said, random), "That sounds good."),
        asked: Turn::new(*random.pick(&asked), format!("You ate {food}.")),
    }
}

/// Questions for what was never told.
fn nothing_told(grammar: &Grammar, random: &mut Random) -> Vec<Turn> {
    let mut turns = if random.chance(40) { super::topic(grammar, random) } else { Vec::new() };
    turns.truncate(MAX_TURNS - 1);
    let (forms, what) = match random.below(4) {
        0 | 1 => (ask_name(), "name"),
        2 => (ask_colour(), "favourite colour"),
        _ => (ask_animal(), "favourite animal"),
    };
    turns.push(Turn::new(pick(&forms, random), format!("You have not told me your {what} yet.")));
    turns
}
