//! Answers with and without guesses: the same events, the same text, the same conversation behind them.

#![allow(clippy::unwrap_used, reason = "tests may")]

use puna_checkpoint::{Rope, RopePairing, RopeScaling};
use puna_engine::{DraftModel, Drafter, Engine, PromptLookup, Sampling};
use puna_llama::{Config, Input, KvFormat, KvShape, Model, Outputs, PAGE_LEN, kv_shape};
use puna_session::{Answer, Event, Options, Session};
use puna_text::Tokenizer;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

/// Every byte a token, and the special ones.
fn tokenizer() -> Tokenizer {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let line = |byte: u8| {
        let digits = [DIGITS[usize::from(byte >> 2)], DIGITS[usize::from(byte << 6 >> 2)]];
        format!("{}== {byte}\n", String::from_utf8_lossy(&digits))
    };
    Tokenizer::from_tiktoken((0..=u8::MAX).map(line).collect::<String>().as_bytes()).unwrap()
}

const VOCAB: usize = 512;
/// `<|eot_id|>`
const END: u32 = 256 + 9;

/// A model that says its text over and over, sees by its cache where it is, and, once in a while, is not sure.
struct Parrot {
    config: Config,
    shape: KvShape,
    cache: Vec<u32>,
    text: &'static [u8],
    n_rows: Arc<Mutex<Vec<usize>>>,
}

impl Parrot {
    fn new(text: &'static str, context: usize) -> Parrot {
        let rope = Rope { theta: 1e4, scaling: RopeScaling::None, pairing: RopePairing::Halves };
        let config = Config {
            dim: 2,
            n_layers: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 2,
            ffn_dim: 2,
            vocab_size: VOCAB,
            context_length: context,
            norm_eps: 1e-5,
            rope,
            tied_embeddings: true,
        };
        let shape = kv_shape(&config, KvFormat::F32, context);
        let cache = vec![0; shape.n_pages * PAGE_LEN];
        Parrot { config, shape, cache, text: text.as_bytes(), n_rows: Arc::default() }
    }

    fn engine(self) -> Engine {
        let context = self.config.context_length;
        Engine::new(Box::new(self), context)
    }
}

impl Model for Parrot {
    fn config(&self) -> &Config {
        &self.config
    }
    fn kv_shape(&self) -> &KvShape {
        &self.shape
    }
    fn max_batch(&self) -> usize {
        32
    }
    fn describe(&self) -> String {
        "parrot".into()
    }
    fn bytes_per_token(&self) -> u64 {
        1
    }
    fn forward(&mut self, input: &Input<'_>, outputs: &mut Outputs) -> Result<(), puna_llama::Error> {
        let (batch, logits) = (&input.batch, &mut outputs.logits);
        self.n_rows.lock().unwrap().push(batch.ids.len());
        for (row, position, page, slot) in batch.slots() {
            assert!(position < self.config.context_length, "row {row}");
            self.cache[page as usize * PAGE_LEN + slot] = batch.ids[row];
        }
        logits.clear();
        let [span] = batch.spans else { panic!("one sequence") };
        for row in batch.outputs {
            let text: Vec<u32> = (0..=span.start + row)
                .map(|p| self.cache[span.pages[p / PAGE_LEN] as usize * PAGE_LEN + p % PAGE_LEN])
                .collect();
            let sum = text.iter().fold(0u32, |sum, id| sum.wrapping_mul(31).wrapping_add(*id));
            let mut row = vec![0.0; VOCAB];
            row[usize::from(self.text[text.len() % self.text.len()])] = 9.0;
            row[usize::from(self.text[(text.len() + 1) % self.text.len()])] += (sum % 10) as f32;
            logits.extend(row);
        }
        Ok(())
    }
    fn read_page(&self, _: u32, _: &mut Vec<u8>) {
        unreachable!("nothing is kept here")
    }
    fn write_page(&mut self, _: u32, _: &[u8]) -> Result<(), puna_llama::Error> {
        unreachable!("nothing is kept here")
    }
}

const TEXT: &str = "The parrot says that the parrot says that thë parrot said. ";
const CONTEXT: usize = 400;

fn session(drafters: Vec<Box<dyn Drafter>>) -> Session {
    let mut session = Session::new(Parrot::new(TEXT, CONTEXT).engine(), tokenizer(), vec![END]);
    session.set_drafters(drafters);
    session
}

fn speculating() -> [Session; 3] {
    let model = || Box::new(DraftModel::new(Parrot::new(TEXT, CONTEXT).engine(), 20));
    [
        session(vec![Box::new(PromptLookup::new())]),
        session(vec![model()]),
        session(vec![Box::new(PromptLookup::new()), model()]),
    ]
}

/// An answer and the texts of its events; the listener breaks off after `enough` of them.
fn ask(session: &mut Session, prompt: &[u32], options: &Options, enough: usize) -> (Answer, Vec<String>) {
    let mut texts = Vec::new();
    let answer = session.answer(prompt, options, &mut |event| {
        if let Event::Text(text) = event {
            texts.push(text.to_owned());
        }
        if texts.len() >= enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    (answer.unwrap(), texts)
}

#[track_caller]
fn assert_equal(plain: &(Answer, Vec<String>), found: &(Answer, Vec<String>)) {
    assert_eq!(plain.1, found.1);
    let (plain, found) = (&plain.0, &found.0);
    assert_eq!((&plain.ids, &plain.text), (&found.ids, &found.text));
    let bits = |answer: &Answer| answer.logprobs.iter().map(|p| p.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(plain), bits(found));
    assert_eq!((plain.finish_reason, plain.stop_token), (found.finish_reason, found.stop_token));
    // Of an answer that was broken off there may be a token more in the cache than was handed out.
    assert!(found.timings.prefill_tokens <= plain.timings.prefill_tokens, "what was in the cache already");
    assert_eq!(plain.timings.decode_tokens, found.timings.decode_tokens);
}

fn greedy() -> Options {
    Options { sampling: Sampling { temperature: 0.0, ..Sampling::default() }, ..Options::default() }
}

#[test]
fn answers_end_in_every_way_as_without_guesses() {
    let prompt: Vec<u32> = TEXT.bytes().map(u32::from).collect();
    let sampled = Sampling { temperature: 0.7, repetition_penalty: 1.02, seed: Some(3), ..Sampling::default() };
    let ends = Sampling { logit_bias: vec![(END, 3.0)], seed: Some(3), ..Sampling::default() };
    let cases = [
        // The context is full.
        (greedy(), usize::MAX),
        (Options { sampling: sampled.clone(), ..Options::default() }, usize::MAX),
        // A limit, at every place of a run of guesses.
        (Options { max_tokens: Some(0), ..greedy() }, usize::MAX),
        (Options { max_tokens: Some(1), ..greedy() }, usize::MAX),
        (Options { max_tokens: Some(41), ..greedy() }, usize::MAX),
        (Options { max_tokens: Some(42), ..greedy() }, usize::MAX),
        (Options { max_tokens: Some(43), ..greedy() }, usize::MAX),
        // The model's end token, shown or not.
        (Options { sampling: ends.clone(), ..Options::default() }, usize::MAX),
        (Options { sampling: ends, ignore_end: true, ..Options::default() }, usize::MAX),
        // Stop strings, and one whose beginning is held back to the end.
        (Options { stop: vec!["thë".into()], ..greedy() }, usize::MAX),
        (Options { stop: vec!["rrot sa".into(), "zzz".into()], sampling: sampled, ..Options::default() }, usize::MAX),
        (Options { stop: vec!["parrot said?".into()], max_tokens: Some(110), ..greedy() }, usize::MAX),
        // A listener who has heard enough.
        (greedy(), 1),
        (greedy(), 2),
        (greedy(), 77),
        (greedy(), 78),
    ];
    for (options, enough) in &cases {
        let mut without = session(vec![]);
        let plain = ask(&mut without, &prompt, options, *enough);
        // What comes next in the conversation: the answer with its end, or a shorter one, or what shares nothing.
        let mut next = prompt.clone();
        next.extend(&plain.0.ids);
        next.truncate(CONTEXT - 40);
        next.extend([1, 2, 3]);
        let prompts = [next.clone(), next[..next.len() - 20].to_vec(), vec![9; 5], prompt.clone()];
        let short = Options { max_tokens: Some(30), ..greedy() };
        let plain_next: Vec<_> = prompts.iter().map(|p| ask(&mut without, p, &short, usize::MAX)).collect();
        for mut session in speculating() {
            assert_equal(&plain, &ask(&mut session, &prompt, options, *enough));
            for (prompt, plain) in prompts.iter().zip(&plain_next) {
                assert_equal(plain, &ask(&mut session, prompt, &short, usize::MAX));
            }
        }
    }
}

#[test]
fn guesses_are_counted_and_spare_passes() {
    let prompt: Vec<u32> = TEXT.bytes().chain(TEXT.bytes()).map(u32::from).collect();
    let options = Options { max_tokens: Some(200), ..greedy() };
    let plain = ask(&mut session(vec![]), &prompt, &options, usize::MAX).0.timings;
    assert_eq!((plain.decode_passes, plain.decode_tokens, plain.drafted), (199, 199, 0));
    assert_eq!(plain.acceptance_rate(), None);
    // Without a word said about it: prompt lookup.
    let mut by_default = Session::new(Parrot::new(TEXT, CONTEXT).engine(), tokenizer(), vec![END]);
    let t = ask(&mut by_default, &prompt, &options, usize::MAX).0.timings;
    assert_eq!(t.decode_tokens, 199);
    // How many guesses pay is measured, and a fake model's times are not those of a real one.
    assert!(t.drafted > 0 && t.accepted <= t.drafted, "{t:?}");
    assert_eq!(t.decode_passes + t.accepted, 199, "each right guess is a token more of a pass");
    assert_eq!(t.acceptance_rate(), Some(t.accepted as f64 / t.drafted as f64));
    // Every pass reads the parrot's one byte of weights, and the pages up to its last token.
    let shape = Parrot::new(TEXT, CONTEXT).shape;
    let at = |n_tokens: usize| 1 + shape.bytes_at(prompt.len() + n_tokens);
    assert_eq!(plain.decode_bytes, (1..=199).map(at).sum::<u64>());
    let passes = t.decode_passes as u64;
    assert!((passes * at(1)..=passes * at(199)).contains(&t.decode_bytes), "{t:?}");
    assert!(t.decode_bytes < plain.decode_bytes, "{t:?}");
}

/// What a draft model reads takes memory's time as well.
#[test]
fn bytes_that_a_draft_model_reads_are_counted() {
    let prompt: Vec<u32> = TEXT.bytes().map(u32::from).collect();
    let parrot = Parrot::new(TEXT, CONTEXT);
    let (shape, n_rows) = (parrot.shape, parrot.n_rows.clone());
    let mut session = session(vec![Box::new(DraftModel::new(parrot.engine(), 20))]);
    let t = ask(&mut session, &prompt, &Options { max_tokens: Some(100), ..greedy() }, usize::MAX).0.timings;
    let passes = (t.decode_passes + n_rows.lock().unwrap().len()) as u64;
    assert!(passes > t.decode_passes as u64, "the draft model was asked");
    // The draft model's first pass begins with the text; all others are behind the prompt.
    let [least, most] = [1, prompt.len() + 100].map(|n_tokens| 1 + shape.bytes_at(n_tokens));
    assert!((passes * least..=passes * most).contains(&t.decode_bytes), "{t:?}");
}

/// A token is shown before anything behind it is computed, except by the pass that guessed it right.
#[test]
fn tokens_are_shown_as_soon_as_they_are_known() {
    let prompt: Vec<u32> = TEXT.bytes().chain(TEXT.bytes()).map(u32::from).collect();
    let parrot = Parrot::new(TEXT, CONTEXT);
    let n_rows = parrot.n_rows.clone();
    let mut session = Session::new(parrot.engine(), tokenizer(), vec![END]);
    let mut shown = 0;
    let answer = session.answer(&prompt, &Options { max_tokens: Some(100), ..greedy() }, &mut |event| {
        if matches!(event, Event::Text(_)) {
            shown += 1;
            // Rows behind the prompt: at most the tokens shown before this one, and guesses of one pass.
            let passes = n_rows.lock().unwrap();
            let prefill = prompt.len().div_ceil(32);
            let decoding = &passes[prefill..];
            assert!(decoding.len() < shown, "token {shown}: {decoding:?}");
        }
        ControlFlow::Continue(())
    });
    assert_eq!(answer.unwrap().ids.len(), 100);
}
