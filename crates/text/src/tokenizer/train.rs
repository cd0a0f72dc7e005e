//! Training a vocabulary of one's own: byte-pair encoding inside the pieces of the Llama 3 split.
//!
//! The 256 bytes are tokens from the start. Then, again and again, the pair of neighbouring tokens that occurs most
//! often becomes a token, and takes the place of all its occurrences, in each piece from left to right. Of pairs that
//! occur equally often the one with the lower left id is taken, of those the one with the lower right id. Texts count
//! only by how often each different piece occurs, so the vocabulary depends neither on their order nor on threads.
//!
//! Different pieces lie one behind the other in an array with a [`Place`] for every byte, and every pair knows the
//! places where it began. With n bytes in all different pieces: a replacement takes one token away, so there are fewer
//! than n in all, and each changes the counts of at most four pairs. Counts wait in a heap and are corrected when they
//! come up. That is O(n log n) time and O(n) memory, however long single pieces are and however often they occur.
//!
//! [`Tokenizer::encode`](super::Tokenizer::encode) merges any two neighbours that spell a token, training only the
//! token's pair. Both come to the same: what ends a token stays an end until it is merged over, so whatever lies
//! between two ends was merged as if it stood alone, and equal bytes are always cut alike. For the same reason no two
//! pairs spell one token.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};

use rayon::prelude::*;

use super::merge::{NO_TOKEN, pair as pair_key};
use super::tiktoken::{self, N_SPECIALS};
use super::vocabulary::{FoldState, MAX_TOKEN_BYTES, MAX_TOKENS};
use super::{TokenId, byte_level};
use crate::split;

/// What to train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainerOptions {
    /// Tokens in all, as [`Tokenizer::vocab_size`](super::Tokenizer::vocab_size) counts them: the 256 bytes, one for
    /// each merge, and the 256 special tokens that a `tokenizer.model` does not list and always has.
    pub vocab_size: usize,
    /// No token gets longer, in bytes. Llama 3's longest has 128.
    pub max_token_bytes: usize,
    /// A pair that occurs less often becomes no token.
    pub min_count: u64,
}

impl TrainerOptions {
    /// A vocabulary of this size with tokens of at most 128 bytes, each from a pair that occurs at least twice: what
    /// occurs once says nothing about other texts.
    #[must_use]
    pub fn new(vocab_size: usize) -> TrainerOptions {
        TrainerOptions { vocab_size, max_token_bytes: 128, min_count: 2 }
    }
}

/// Why no vocabulary can be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An option out of its range.
    #[error("{option}: expected {least} to {most}, found {found}")]
    Option {
        /// What it says.
        option: &'static str,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
        /// What it is.
        found: u64,
    },
    /// More than positions of 32 bits can number.
    #[error(
        "the different pieces of the texts have {found} bytes, more than the limit of {limit}; train on fewer texts"
    )]
    TooManyPieces {
        /// Bytes of all different pieces, and one for each.
        found: u64,
        /// As many as are allowed.
        limit: u64,
    },
}

/// How often each different piece occurs.
type Pieces = HashMap<Box<str>, u64, FoldState>;

/// Counts the pieces of texts, then merges. Memory is bounded by the different pieces: each is kept once, and while
/// texts are counted once for each thread that saw it.
pub struct Trainer {
    options: TrainerOptions,
    pieces: Pieces,
}

impl Trainer {
    /// Without any text yet.
    ///
    /// # Errors
    /// An option out of its range.
    pub fn new(options: TrainerOptions) -> Result<Trainer, TrainError> {
        let check = |option, found: u64, least: usize, most: usize| {
            let (least, most) = (least as u64, most as u64);
            let fits = (least..=most).contains(&found);
            if fits { Ok(()) } else { Err(TrainError::Option { option, least, most, found }) }
        };
        check("size of the vocabulary", options.vocab_size as u64, 256 + N_SPECIALS, MAX_TOKENS)?;
        check("bytes of the longest token", options.max_token_bytes as u64, 2, MAX_TOKEN_BYTES)?;
        check("occurrences of a pair", options.min_count, 1, usize::MAX)?;
        Ok(Trainer { options, pieces: Pieces::default() })
    }

    /// Counts the pieces of texts, on all threads of the current rayon pool. May be called several times.
    ///
    /// Texts are drawn one after the other, and each is one thread's. A long text may be cut into several, and gives
    /// the same pieces, where a line ends and the next begins with something other than white space.
    pub fn count<T>(&mut self, texts: T)
    where
        T: IntoIterator<Item: AsRef<str> + Send, IntoIter: Send>,
    {
        let count = |mut pieces: Pieces, text: T::Item| {
            for piece in split::pieces(text.as_ref()) {
                match pieces.get_mut(piece) {
                    Some(count) => *count += 1,
                    None => drop(pieces.insert(piece.into(), 1)),
                }
            }
            pieces
        };
        let counted = texts.into_iter().par_bridge().fold(Pieces::default, count).reduce(Pieces::default, sum);
        self.pieces = sum(std::mem::take(&mut self.pieces), counted);
    }

    /// Makes tokens until the vocabulary is full, or no pair is left that occurs often enough and is not too long: then
    /// it is smaller than asked for, as [`Trained::vocab_size`] tells. `progress` hears of tokens made and to be made.
    ///
    /// # Errors
    /// [`TrainError::TooManyPieces`].
    pub fn train(self, progress: &mut dyn FnMut(usize, usize)) -> Result<Trained, TrainError> {
        let n_pieces = self.pieces.len();
        let n_bytes = self.pieces.iter().map(|(piece, count)| piece.len() as u64 * count).sum();
        let mut merging = Merging::new(Corpus::new(self.pieces)?, self.options);
        let n_merges = self.options.vocab_size - N_SPECIALS - 256;
        let mut n_tokens = n_bytes;
        progress(0, n_merges);
        for done in 1..=n_merges {
            let Some(most_frequent) = merging.next() else { break };
            n_tokens -= merging.replace(most_frequent);
            progress(done, n_merges);
        }
        Ok(Trained { tokens: merging.tokens, n_pieces, n_bytes, n_tokens })
    }
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trainer({:?}, {} pieces)", self.options, self.pieces.len())
    }
}

fn sum(left: Pieces, right: Pieces) -> Pieces {
    let (mut more, fewer) = if left.len() < right.len() { (right, left) } else { (left, right) };
    for (piece, count) in fewer {
        *more.entry(piece).or_default() += count;
    }
    more
}

/// All different pieces, cut into tokens.
struct Corpus {
    /// The bytes of each piece; before the first, between two and after the last is a place of none.
    places: Vec<Place>,
    /// How often each piece occurs.
    counts: Vec<u64>,
}

/// A byte of a piece.
#[derive(Clone, Copy)]
struct Place {
    /// The token that starts here; [`NO_TOKEN`] inside of one and between pieces.
    token: TokenId,
    /// At the last byte of a token: where it starts. Between pieces: here.
    start: u32,
    /// Which of [`Corpus::counts`].
    piece: u32,
}

impl Corpus {
    /// Every byte is a token. A piece of a single byte has nothing to merge, and no place here.
    fn new(pieces: Pieces) -> Result<Corpus, TrainError> {
        let of_several = || pieces.iter().filter(|(piece, _)| piece.len() > 1);
        let n_places = 1 + of_several().map(|(piece, _)| piece.len() as u64 + 1).sum::<u64>();
        // Every place and every piece has a number of 32 bits.
        let limit = u64::from(u32::MAX);
        if n_places > limit {
            return Err(TrainError::TooManyPieces { found: n_places, limit });
        }
        let mut ids = [NO_TOKEN; 256];
        byte_level::bytes().zip(0..).for_each(|(byte, id)| ids[usize::from(byte)] = id);
        let mut places = Vec::with_capacity(n_places as usize);
        let mut counts = Vec::new();
        places.push(Place { token: NO_TOKEN, start: 0, piece: 0 });
        for (text, count) in of_several() {
            let piece = counts.len() as u32;
            counts.push(*count);
            let tokens = text.bytes().map(|byte| ids[usize::from(byte)]).chain([NO_TOKEN]);
            places.extend(tokens.zip(places.len() as u32..).map(|(token, start)| Place { token, start, piece }));
        }
        Ok(Corpus { places, counts })
    }
}

/// Two neighbouring tokens.
#[derive(Default)]
struct Pair {
    /// How often they occur, every piece as often as it does.
    count: u64,
    /// Where they occur, in ascending order, as leftmost comes first; some may have been merged over since.
    places: Vec<u32>,
}

impl Pair {
    fn gain(&mut self, count: u64, at: u32) {
        self.count += count;
        self.places.push(at);
    }
}

/// By [`pair_key`].
type Pairs = HashMap<u64, Pair, FoldState>;

/// A vocabulary in the making.
struct Merging {
    options: TrainerOptions,
    corpus: Corpus,
    /// The bytes of every token, by rank.
    tokens: Vec<Vec<u8>>,
    /// Pairs that may become tokens: neither too rare nor too long.
    pairs: Pairs,
    /// The same pairs, the most frequent first. Some have become rarer since they were put here, none more frequent.
    queue: BinaryHeap<(u64, Reverse<u64>)>,
    /// Pairs of the token that is being made. They come and go while it is; all others only go.
    fresh: Pairs,
}

impl Merging {
    fn new(corpus: Corpus, options: TrainerOptions) -> Merging {
        let mut pairs = count_pairs(&corpus);
        pairs.retain(|_, pair| pair.count >= options.min_count);
        let queue = pairs.iter().map(|(key, pair)| (pair.count, Reverse(*key))).collect();
        let tokens = byte_level::bytes().map(|byte| vec![byte]).collect();
        Merging { options, corpus, tokens, pairs, queue, fresh: Pairs::default() }
    }

    /// Takes out the most frequent pair.
    fn next(&mut self) -> Option<(u64, Pair)> {
        while let Some((count, Reverse(key))) = self.queue.pop() {
            let Entry::Occupied(entry) = self.pairs.entry(key) else { continue };
            match entry.get().count {
                now if now == count => return Some((key, entry.remove())),
                now if now >= self.options.min_count => self.queue.push((now, Reverse(key))),
                _ => drop(entry.remove()),
            }
        }
        None
    }

    /// Makes a token of a pair that was taken out; says how often it occurred.
    fn replace(&mut self, (key, pair): (u64, Pair)) -> u64 {
        let TrainerOptions { max_token_bytes, min_count, .. } = self.options;
        let Corpus { places, counts } = &mut self.corpus;
        let (left, right) = ((key >> 32) as TokenId, key as TokenId);
        let token = self.tokens.len() as TokenId;
        self.tokens.push([&self.tokens[left as usize][..], &self.tokens[right as usize]].concat());
        let len = |id: TokenId| self.tokens[id as usize].len();
        let mut n_replaced = 0;
        for at in pair.places.into_iter().map(|at| at as usize) {
            let (middle, end) = (at + len(left), at + len(token));
            if places[at].token != left || places[middle].token != right {
                continue;
            }
            let count = counts[places[at].piece as usize];
            let before_at = places[at - 1].start;
            let (before, after) = (places[before_at as usize].token, places[end].token);
            if before != NO_TOKEN {
                let pairs = if before == token { &mut self.fresh } else { &mut self.pairs };
                lose(pairs, pair_key(before, left), count);
                if len(before) + len(token) <= max_token_bytes {
                    self.fresh.entry(pair_key(before, token)).or_default().gain(count, before_at);
                }
            }
            if after != NO_TOKEN {
                lose(&mut self.pairs, pair_key(right, after), count);
                if len(token) + len(after) <= max_token_bytes {
                    self.fresh.entry(pair_key(token, after)).or_default().gain(count, at as u32);
                }
            }
            places[at].token = token;
            places[middle].token = NO_TOKEN;
            places[end - 1].start = at as u32;
            n_replaced += count;
        }
        for (key, pair) in self.fresh.drain().filter(|(_, pair)| pair.count >= min_count) {
            self.queue.push((pair.count, Reverse(key)));
            self.pairs.insert(key, pair);
        }
        n_replaced
    }
}

/// Takes some occurrences from a pair. One that is too long or too rare is not there, nor is the one that is replaced.
fn lose(pairs: &mut Pairs, key: u64, count: u64) {
    if let Some(pair) = pairs.get_mut(&key) {
        pair.count -= count;
    }
}

/// Places that one thread takes at least.
const MIN_SHARE: usize = 1 << 12;

/// The pairs of a corpus whose tokens are bytes.
fn count_pairs(Corpus { places, counts }: &Corpus) -> Pairs {
    let count = |mut pairs: Pairs, at: usize| {
        let (left, right) = (places[at].token, places[at + 1].token);
        if left != NO_TOKEN && right != NO_TOKEN {
            pairs.entry(pair_key(left, right)).or_default().gain(counts[places[at].piece as usize], at as u32);
        }
        pairs
    };
    // The right one's places are all behind the left one's.
    let append = |mut left: Pairs, right: Pairs| {
        for (key, mut pair) in right {
            let sum = left.entry(key).or_default();
            sum.count += pair.count;
            sum.places.append(&mut pair.places);
        }
        left
    };
    let starts = (0..places.len() - 1).into_par_iter().with_min_len(MIN_SHARE);
    starts.fold(Pairs::default, count).reduce(Pairs::default, append)
}

/// A vocabulary from [`Trainer::train`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trained {
    tokens: Vec<Vec<u8>>,
    n_pieces: usize,
    n_bytes: u64,
    n_tokens: u64,
}

impl Trained {
    /// The bytes of every token, by rank: first the single bytes, then in the order in which they were made.
    #[must_use]
    pub fn tokens(&self) -> &[Vec<u8>] {
        &self.tokens
    }

    /// Number of ids, the 256 special tokens that follow the ranks included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.tokens.len() + N_SPECIALS
    }

    /// Different pieces in the texts.
    #[must_use]
    pub fn n_pieces(&self) -> usize {
        self.n_pieces
    }

    /// Bytes of the texts.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Tokens that the texts are with this vocabulary.
    #[must_use]
    pub fn n_tokens(&self) -> u64 {
        self.n_tokens
    }

    /// Meta's `tokenizer.model`, for [`Tokenizer::from_tiktoken`](super::Tokenizer::from_tiktoken).
    #[must_use]
    pub fn to_tiktoken(&self) -> Vec<u8> {
        tiktoken::write(self.tokens.iter().map(Vec::as_slice))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Tokenizer, merge};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn train(texts: &[String], options: TrainerOptions) -> Trained {
        let mut trainer = Trainer::new(options).unwrap();
        trainer.count(texts);
        trainer.train(&mut |_, _| {}).unwrap()
    }

    /// The definition: every pair is counted anew for every merge.
    fn by_definition(texts: &[String], options: TrainerOptions) -> Vec<Vec<u8>> {
        let mut tokens: Vec<Vec<u8>> = byte_level::bytes().map(|byte| vec![byte]).collect();
        let id = |byte: u8| tokens.iter().position(|token| *token == [byte]).unwrap();
        let pieces = texts.iter().flat_map(|text| split::pieces(text));
        let mut pieces: Vec<Vec<usize>> = pieces.map(|piece| piece.bytes().map(id).collect()).collect();
        while tokens.len() + 256 < options.vocab_size {
            let mut counts = BTreeMap::new();
            for two in pieces.iter().flat_map(|piece| piece.windows(2)) {
                if tokens[two[0]].len() + tokens[two[1]].len() <= options.max_token_bytes {
                    *counts.entry((two[0], two[1])).or_insert(0) += 1;
                }
            }
            let often = counts.into_iter().filter(|(_, count)| *count >= options.min_count);
            let Some((best, _)) = often.max_by_key(|(pair, count)| (*count, Reverse(*pair))) else { break };
            for piece in &mut pieces {
                let mut idx = 0;
                while idx + 1 < piece.len() {
                    if (piece[idx], piece[idx + 1]) == best {
                        piece[idx] = tokens.len();
                        piece.remove(idx + 1);
                    }
                    idx += 1;
                }
            }
            tokens.push([&tokens[best.0][..], &tokens[best.1]].concat());
        }
        tokens
    }

    fn words(trained: &Trained) -> Vec<&str> {
        trained.tokens()[256..].iter().map(|token| std::str::from_utf8(token).unwrap()).collect()
    }

    /// Pieces: hug, " hug" twice, " pug", " hugs". (u, g) occurs 5 times, then (h, ug) 4 times, then (" ", hug) 3
    /// times. Of what is left everything occurs once: (p, ug) has the lowest left id, since p is 79 and a space is 220.
    #[test]
    fn an_example_worked_by_hand() {
        let texts = ["hug hug hug".to_owned(), " pug hugs".to_owned()];
        let trained = train(&texts, TrainerOptions { min_count: 1, ..TrainerOptions::new(600) });
        assert_eq!(words(&trained), ["ug", "hug", " hug", "pug", " pug", " hugs"]);
        assert_eq!((trained.n_pieces(), trained.n_bytes(), trained.n_tokens()), (4, 20, 5));
        assert_eq!(trained.vocab_size(), 256 + 6 + 256);
        let trained = train(&texts, TrainerOptions::new(600));
        assert_eq!(words(&trained), ["ug", "hug", " hug"]);
        assert_eq!(trained.n_tokens(), 1 + 2 + 3 + 2);
        let trained = train(&texts, TrainerOptions::new(514));
        assert_eq!(words(&trained), ["ug", "hug"]);
        let trained = train(&texts, TrainerOptions { max_token_bytes: 3, ..TrainerOptions::new(600) });
        assert_eq!(words(&trained), ["ug", "hug"]);
    }

    /// (a, a) occurs four times, and twice when it is merged from the left. Then (aa, a) and (aa, aa) occur once each.
    #[test]
    fn a_run_is_merged_from_its_left_end() {
        let trained = train(&["aaaaa".to_owned()], TrainerOptions { min_count: 1, ..TrainerOptions::new(600) });
        assert_eq!(words(&trained), ["aa", "aaa", "aaaaa"]);
        let trained = train(&["aaaaa".to_owned()], TrainerOptions { min_count: 4, ..TrainerOptions::new(600) });
        assert_eq!((words(&trained), trained.n_tokens()), (vec!["aa"], 3));
    }

    #[test]
    fn the_first_ranks_are_bytes_in_the_order_of_published_files() {
        let trained = train(&[], TrainerOptions::new(4096));
        assert_eq!(trained.vocab_size(), 512);
        let byte = |rank: usize| trained.tokens()[rank][..].to_vec();
        assert_eq!([0, 93, 94, 187, 188, 220, 254, 255].map(byte), [33, 126, 161, 255, 0, 32, 160, 173].map(|b| [b]));
    }

    #[test]
    fn progress_ends_where_training_does() {
        let mut trainer = Trainer::new(TrainerOptions::new(600)).unwrap();
        trainer.count(["hug hug hug pug hugs"]);
        let mut heard = Vec::new();
        trainer.train(&mut |done, total| heard.push((done, total))).unwrap();
        assert_eq!(heard, [(0, 88), (1, 88), (2, 88), (3, 88)]);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let good = TrainerOptions::new(4096);
        for (options, expected) in [
            (TrainerOptions::new(511), "size of the vocabulary: expected 512 to 4194304, found 511"),
            (TrainerOptions::new(usize::MAX), "size of the vocabulary: expected 512 to 4194304, found"),
            (TrainerOptions { max_token_bytes: 1, ..good }, "longest token: expected 2 to 65536, found 1"),
            (TrainerOptions { min_count: 0, ..good }, "occurrences of a pair: expected 1 to"),
        ] {
            let error = Trainer::new(options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// Texts with many equal pieces and many overlapping pairs, some with none.
    fn texts() -> impl Strategy<Value = Vec<String>> {
        let text = prop_oneof!["[ab]{0,24}", "[abc ]{0,40}", "(a|b|ab|ba|é|\n| |1|!){0,20}", "\\PC{0,12}"];
        prop::collection::vec(text, 0..12)
    }

    fn options() -> impl Strategy<Value = TrainerOptions> {
        (512..580_usize, prop_oneof![2..12_usize, Just(128)], 1..4_u64).prop_map(
            |(vocab_size, max_token_bytes, min_count)| TrainerOptions { vocab_size, max_token_bytes, min_count },
        )
    }

    proptest! {
        #[test]
        fn vocabularies_follow_the_definition(texts in texts(), options in options()) {
            let trained = train(&texts, options);
            prop_assert_eq!(trained.tokens(), by_definition(&texts, options));
        }

        /// The encoder finds every token again, and cuts the texts as training did, whether it looks for whole pieces
        /// or not.
        #[test]
        fn what_is_trained_is_what_is_encoded(texts in texts(), options in options(), other in any::<String>()) {
            let trained = train(&texts, options);
            let mut tokenizer = Tokenizer::from_tiktoken(&trained.to_tiktoken()).unwrap();
            prop_assert_eq!(tokenizer.vocab_size(), trained.vocab_size());
            prop_assert_eq!(tokenizer.bos(), Some(trained.tokens().len() as TokenId));
            for (id, token) in trained.tokens().iter().enumerate() {
                prop_assert_eq!(tokenizer.token_bytes(id as TokenId), Some(&token[..]));
                let symbol = |(start, byte): (u32, &u8)| {
                    merge::Symbol { start, id: tokenizer.byte_tokens[usize::from(*byte)] }
                };
                let mut symbols: Vec<merge::Symbol> = (0..).zip(token).map(symbol).collect();
                let mut ids = Vec::new();
                merge::merge(&tokenizer.vocabulary, &tokenizer.merges, token, &mut symbols, |id, _| ids.push(id));
                prop_assert_eq!(ids, [id as TokenId]);
            }
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&other)), other.as_bytes());
            for whole_pieces in [true, false] {
                tokenizer.whole_pieces = whole_pieces;
                let n_tokens: usize = texts.iter().map(|text| tokenizer.encode(text).len()).sum();
                prop_assert_eq!(n_tokens as u64, trained.n_tokens());
            }
            let n_bytes: usize = texts.iter().map(String::len).sum();
            prop_assert_eq!(n_bytes as u64, trained.n_bytes());
        }

        /// Texts in another order, counted at once or one by one, on one thread or several. There are more places than
        /// one thread's least share.
        #[test]
        fn neither_order_nor_threads_matter(
            texts in prop::collection::vec("( [a-d]{1,12}){200}", 8).prop_shuffle(),
            n_threads in 2..5_usize,
        ) {
            let options = TrainerOptions::new(700);
            let on = |n_threads: usize, train: &(dyn Fn() -> Trained + Sync)| {
                rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap().install(train)
            };
            let expected = on(1, &|| train(&texts, options));
            prop_assert_eq!(expected.vocab_size(), 700);
            prop_assert_eq!(&on(n_threads, &|| train(&texts, options)), &expected);
            let backwards = || {
                let mut trainer = Trainer::new(options).unwrap();
                texts.iter().rev().for_each(|text| trainer.count([text]));
                trainer.train(&mut |_, _| {}).unwrap()
            };
            prop_assert_eq!(&on(n_threads, &backwards), &expected);
        }
    }
}
