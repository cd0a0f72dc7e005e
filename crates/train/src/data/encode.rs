//! What a row says, as tokens, and which of them are trained.

use super::fault::Origin;
use super::format::{Dialogue, Sample};
use puna_text::chat::{Content, Conversation, Dialect, Message, Role, render};
use puna_text::{TokenId, Tokenizer};
use serde::{Deserialize, Serialize};

/// Tokens to train on.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The whole sequence.
    pub ids: Vec<TokenId>,
    /// For each token whether the model is to learn to give it after those in front. Never the first: nothing is in front
    /// of it. As many as there are ids.
    pub trained: Vec<bool>,
    /// The row that it comes from.
    pub origin: Origin,
}

/// A prompt and two answers to it, of which one is to become likelier.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The tokens in front of both.
    pub prompt: Vec<TokenId>,
    /// The better answer, the token that ends it included.
    pub chosen: Vec<TokenId>,
    /// The worse one.
    pub rejected: Vec<TokenId>,
    /// The row that they come from.
    pub origin: Origin,
}

/// What is made of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoded {
    /// Of most formats.
    Example(Example),
    /// Of the formats of preferences.
    Pair(Pair),
}

impl Encoded {
    /// Tokens of the sequence; of a pair those of the longer one.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Encoded::Example(example) => example.ids.len(),
            Encoded::Pair(pair) => pair.prompt.len() + pair.chosen.len().max(pair.rejected.len()),
        }
    }

    /// Whether there are no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that are trained; of a pair those of both answers.
    #[must_use]
    pub fn n_trained(&self) -> usize {
        match self {
            Encoded::Example(example) => example.trained.iter().filter(|trained| **trained).count(),
            Encoded::Pair(pair) => pair.chosen.len() + pair.rejected.len(),
        }
    }
}

/// What is trained of a row. A message of `weight` 0 never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trained {
    /// All that the assistant says, but in the prompt of a completion; of a raw completion all of it, and of raw text
    /// every token.
    #[default]
    Assistant,
    /// The last message of the assistant.
    LastTurn,
    /// What the assistant says after the last message of the user.
    Completion,
    /// Every token, those of users and of the format too.
    Everything,
}

/// How rows are written as tokens.
#[derive(Clone, Debug)]
pub struct Options {
    /// The chat format: the one that the model is served with.
    pub dialect: Dialect,
    /// The date of conversations that have none themselves, such as `23 Nov 2026`.
    pub date: String,
    /// What is trained.
    pub trained: Trained,
}

/// Writes rows as tokens.
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    options: Options,
}

/// Tokens with their marks.
type Marked = Vec<(TokenId, bool)>;

impl<'a> Encoder<'a> {
    /// An encoder for a vocabulary.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer, options: Options) -> Encoder<'a> {
        Encoder { tokenizer, options }
    }

    /// The vocabulary.
    #[must_use]
    pub fn tokenizer(&self) -> &'a Tokenizer {
        self.tokenizer
    }

    /// How rows are written.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Writes what a row says.
    ///
    /// # Errors
    /// What the chat format has no words for, or a special token that the vocabulary lacks.
    pub(super) fn encode(&self, sample: &Sample, origin: Origin) -> Result<Encoded, String> {
        let marked = match sample {
            Sample::Chat(dialogue) => self.chat(dialogue)?,
            Sample::Completion { prompt, completion } => {
                let (prompt, completion) = self.continued(prompt, completion)?;
                let everything = self.options.trained == Trained::Everything;
                let given = prompt.into_iter().map(|id| (id, everything));
                given.chain(completion.into_iter().map(|id| (id, true))).collect()
            }
            Sample::Text(text) => {
                let (prompt, text) = self.continued("", text)?;
                prompt.into_iter().chain(text).map(|id| (id, true)).collect()
            }
            Sample::ChatPair { prompt, answers } => return self.chat_pair(prompt, answers, origin),
            Sample::TextPair { prompt, chosen, rejected } => {
                let (chosen_prompt, chosen) = self.continued(prompt, chosen)?;
                let (rejected_prompt, rejected) = self.continued(prompt, rejected)?;
                return one_prompt([chosen_prompt, rejected_prompt], chosen, rejected, origin);
            }
        };
        let (ids, mut trained): (Vec<TokenId>, Vec<bool>) = marked.into_iter().unzip();
        if let Some(first) = trained.first_mut() {
            *first = false;
        }
        Ok(Encoded::Example(Example { ids, trained, origin }))
    }

    /// The conversation with the date of the options, if it has none.
    fn dated(&self, conversation: &Conversation) -> Conversation {
        let mut conversation = conversation.clone();
        if conversation.date.is_empty() {
            conversation.date.clone_from(&self.options.date);
        }
        conversation
    }

    /// The ids of a conversation, each with the message that it is the assistant's part of.
    fn render(&self, conversation: &Conversation) -> Result<Vec<(TokenId, Option<usize>)>, String> {
        for (idx, message) in conversation.messages.iter().enumerate() {
            let has_text = matches!(&message.content, Content::Text(text) if !text.trim().is_empty());
            if self.options.dialect == Dialect::Template && has_text && !message.tool_calls.is_empty() {
                return Err(format!(
                    "message {idx}: expected a text or a tool call, found both; the chat format would leave out the text"
                ));
            }
        }
        let prompt = render(conversation, self.options.dialect).map_err(|error| error.to_string())?;
        prompt.encode_marked(self.tokenizer).map_err(|error| error.to_string())
    }

    fn chat(&self, dialogue: &Dialogue) -> Result<Marked, String> {
        let messages = &dialogue.conversation.messages;
        let last = |role: Role| messages.iter().rposition(|message| message.role == role);
        let first_trained = match self.options.trained {
            Trained::Assistant | Trained::Everything => 0,
            Trained::LastTurn => last(Role::Assistant).unwrap_or(0),
            Trained::Completion => last(Role::User).unwrap_or(0),
        };
        let everything = self.options.trained == Trained::Everything;
        let is_trained = |message: Option<usize>| match message {
            Some(idx) if !dialogue.weights.get(idx).is_none_or(|weight| *weight) => false,
            Some(idx) => everything || idx >= first_trained.max(dialogue.given),
            None => everything,
        };
        let tokens = self.render(&self.dated(&dialogue.conversation))?;
        Ok(tokens.into_iter().map(|(id, message)| (id, is_trained(message))).collect())
    }

    fn chat_pair(&self, prompt: &Conversation, answers: &[Message; 2], origin: Origin) -> Result<Encoded, String> {
        let mut conversation = self.dated(prompt);
        let answer = conversation.messages.len();
        let mut split = |message: &Message| {
            conversation.messages.truncate(answer);
            conversation.messages.push(message.clone());
            let tokens = self.render(&conversation)?;
            let at = tokens.iter().position(|(_, message)| *message == Some(answer)).unwrap_or(tokens.len());
            let ids: Vec<TokenId> = tokens.into_iter().map(|(id, _)| id).collect();
            let (prompt, answer) = ids.split_at(at);
            Ok::<_, String>((prompt.to_owned(), answer.to_owned()))
        };
        let (chosen_prompt, chosen) = split(&answers[0])?;
        let (rejected_prompt, rejected) = split(&answers[1])?;
        one_prompt([chosen_prompt, rejected_prompt], chosen, rejected, origin)
    }

    /// A raw text between the tokens that begin and end one, in two parts: what is given and what follows.
    ///
    /// Each part is encoded by itself, as it is when a model goes on from the prompt. A SentencePiece vocabulary would put
    /// a space in front of the second, so there the whole text is encoded, and a token that reaches over the border is
    /// given.
    fn continued(&self, prompt: &str, text: &str) -> Result<(Vec<TokenId>, Vec<TokenId>), String> {
        let end = self.tokenizer.end_of_text();
        let end = end.ok_or("expected a vocabulary with <|end_of_text|> or </s>, to end a text with, found none")?;
        let mut given: Vec<TokenId> = self.tokenizer.bos().into_iter().collect();
        let mut following = if self.tokenizer.is_sentence_piece() {
            let whole = format!("{prompt}{text}");
            let mut ids = self.tokenizer.encode(&whole);
            let starts = self.tokenizer.token_starts(&whole, &ids);
            let following = ids.split_off(starts.partition_point(|start| *start < prompt.len()));
            given.extend(ids);
            following
        } else {
            given.extend(self.tokenizer.encode(prompt));
            self.tokenizer.encode(text)
        };
        following.push(end);
        Ok((given, following))
    }
}

/// A pair, if both answers follow the same tokens.
fn one_prompt(
    prompts: [Vec<TokenId>; 2],
    chosen: Vec<TokenId>,
    rejected: Vec<TokenId>,
    origin: Origin,
) -> Result<Encoded, String> {
    let [prompt, other] = prompts;
    if prompt != other {
        return Err("expected a prompt that has the same tokens before both answers, found one whose last token \
                    reaches into an answer"
            .to_owned());
    }
    Ok(Encoded::Pair(Pair { prompt, chosen, rejected, origin }))
}
