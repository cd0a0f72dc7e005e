//! A model, its pages, and the sequences in it.

use crate::Error;
use crate::pages::Pages;
use puna_llama::{Batch, Model, PAGE_LEN, Span};

/// Logits computed at once when all are wanted: at a vocabulary of 128,256, 64 rows are 33 MB.
const SCORE_ROWS: usize = 64;

/// Runs sequences of tokens through a model.
pub struct Engine {
    model: Box<dyn Model>,
    pages: Pages,
    context: usize,
    chunk: usize,
    logits: Vec<f32>,
    bytes_read: u64,
}

/// A sequence of tokens and where its keys and values are. Give it back to its engine with [`Engine::release`].
#[derive(Default)]
pub struct Sequence {
    /// Tokens whose keys and values are in the cache.
    ids: Vec<u32>,
    pages: Vec<u32>,
}

impl Sequence {
    /// Tokens in the cache.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

impl Engine {
    /// An engine whose sequences have at most `context` tokens each.
    pub fn new(model: Box<dyn Model>, context: usize) -> Engine {
        let pages = Pages::new(model.kv_shape().n_pages);
        let chunk = model.max_batch();
        Engine { model, pages, context, chunk, logits: Vec::new(), bytes_read: 0 }
    }

    /// The model.
    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// Tokens that a sequence may have.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes that all forward passes so far had to read, once each: the weights, however many tokens there were, and the
    /// keys and values of the sequences. (A pass without logits is counted as if it read the output matrix.)
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Computes prompts in chunks of at most this many tokens; the answers are the same whatever it is.
    pub fn set_chunk(&mut self, chunk: usize) {
        self.chunk = chunk.clamp(1, self.model.max_batch());
    }

    /// Forgets all tokens of the sequence from `len` on.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        sequence.ids.truncate(len);
        let n_pages = sequence.ids.len().div_ceil(PAGE_LEN);
        for page in sequence.pages.drain(n_pages.min(sequence.pages.len())..) {
            self.pages.give_back(page);
        }
    }

    /// Gives the sequence's pages back.
    pub fn release(&mut self, mut sequence: Sequence) {
        self.truncate(&mut sequence, 0);
    }

    /// Makes `ids` the sequence's tokens and returns the logits after the last. What the sequence shares with `ids`
    /// from its beginning is not computed again. `progress(tokens done, tokens to do)` is called after each chunk;
    /// when it returns false, the prefill stops there with `None`, and a later call goes on from there.
    pub fn prefill(
        &mut self,
        sequence: &mut Sequence,
        ids: &[u32],
        progress: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<&[f32]>, Error> {
        self.check(ids)?;
        let shared = ids.iter().zip(&sequence.ids).take_while(|(a, b)| a == b).count();
        // The last token's logits are wanted, so at least that one is computed.
        self.truncate(sequence, shared.min(ids.len() - 1));
        let start = sequence.ids.len();
        let n = ids.len() - start;
        for chunk in ids[start..].chunks(self.chunk) {
            let last = sequence.ids.len() + chunk.len() == ids.len();
            let outputs = [chunk.len() - 1];
            self.forward(sequence, chunk, if last { &outputs } else { &[] })?;
            if !progress(sequence.ids.len() - start, n) && !last {
                return Ok(None);
            }
        }
        Ok(Some(&self.logits))
    }

    /// Appends one token and returns the logits after it.
    pub fn decode(&mut self, sequence: &mut Sequence, id: u32) -> Result<&[f32], Error> {
        if sequence.ids.len() >= self.context {
            return Err(Error::TooLong { found: sequence.ids.len() + 1, context: self.context });
        }
        self.forward(sequence, &[id], &[0])?;
        Ok(&self.logits)
    }

    /// Appends `ids`; the logits after each, `[ids.len(), vocab_size]`, are then in [`Engine::logits`]. They are not
    /// checked to be finite: some of the tokens may be guesses that the model would never have made.
    pub(crate) fn verify(&mut self, sequence: &mut Sequence, ids: &[u32]) -> Result<(), Error> {
        let outputs: Vec<usize> = (0..ids.len()).collect();
        self.forward_unchecked(sequence, ids, &outputs)
    }

    /// Logits of the last forward pass.
    pub(crate) fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Tokens that can be appended to the sequence: in one forward pass, within the context, with the pages that are
    /// free.
    pub(crate) fn room(&self, sequence: &Sequence) -> usize {
        let n_pages = sequence.pages.len() + self.pages.n_free();
        let end = self.context.min(n_pages.saturating_mul(PAGE_LEN));
        end.saturating_sub(sequence.ids.len()).min(self.model.max_batch())
    }

    /// Appends one token to each of several sequences in one forward pass, which reads the weights once, and returns the
    /// logits after them, `[sequences.len(), vocab_size]`: the same bits as from [`decode`](Self::decode) alone. After
    /// an error no sequence has changed.
    ///
    /// # Panics
    /// When there are not as many ids as sequences, or more than the model's `max_batch`.
    pub fn decode_together(&mut self, sequences: &mut [&mut Sequence], ids: &[u32]) -> Result<&[f32], Error> {
        assert_eq!(sequences.len(), ids.len(), "one token for each sequence");
        if sequences.is_empty() {
            return Err(Error::Empty);
        }
        let longest = sequences.iter().map(|sequence| sequence.ids.len()).max().unwrap_or(0);
        if longest >= self.context {
            return Err(Error::TooLong { found: longest + 1, context: self.context });
        }
        if let Err(error) = self.forward_together(sequences, ids) {
            for sequence in sequences {
                // Gives back the pages that its token would have needed.
                let len = sequence.ids.len();
                self.truncate(sequence, len);
            }
            return Err(error);
        }
        Ok(&self.logits)
    }

    fn forward_together(&mut self, sequences: &mut [&mut Sequence], ids: &[u32]) -> Result<(), Error> {
        for sequence in sequences.iter_mut() {
            self.reserve(sequence, 1)?;
        }
        let spans: Vec<Span> = sequences.iter().map(|s| Span { start: s.ids.len(), len: 1, pages: &s.pages }).collect();
        let outputs: Vec<usize> = (0..ids.len()).collect();
        self.pass(&Batch { ids, spans: &spans, outputs: &outputs })?;
        self.check_finite(spans.iter().map(|span| span.start))?;
        for (sequence, id) in sequences.iter_mut().zip(ids) {
            sequence.ids.push(*id);
        }
        Ok(())
    }

    /// Logits after every token: `each(position, logits)`.
    pub fn score(&mut self, ids: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        self.check(ids)?;
        let mut sequence = Sequence::default();
        let result = self.score_sequence(&mut sequence, ids, each);
        self.release(sequence);
        result
    }

    fn score_sequence(
        &mut self,
        sequence: &mut Sequence,
        ids: &[u32],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        let vocab_size = self.model.config().vocab_size;
        for chunk in ids.chunks(self.chunk.min(SCORE_ROWS)) {
            let start = sequence.ids.len();
            let outputs: Vec<usize> = (0..chunk.len()).collect();
            self.forward(sequence, chunk, &outputs)?;
            for (i, logits) in self.logits.chunks_exact(vocab_size).enumerate() {
                each(start + i, logits);
            }
        }
        Ok(())
    }

    fn check(&self, ids: &[u32]) -> Result<(), Error> {
        match ids.len() {
            0 => Err(Error::Empty),
            found if found > self.context => Err(Error::TooLong { found, context: self.context }),
            _ => Ok(()),
        }
    }

    /// Runs `ids` as the sequence's next tokens; the logits of the chunk's rows `outputs` are then in `self.logits`.
    fn forward(&mut self, sequence: &mut Sequence, ids: &[u32], outputs: &[usize]) -> Result<(), Error> {
        let start = sequence.ids.len();
        self.forward_unchecked(sequence, ids, outputs)?;
        let checked = self.check_finite(outputs.iter().map(|row| start + row));
        if checked.is_err() {
            sequence.ids.truncate(start);
        }
        checked
    }

    fn forward_unchecked(&mut self, sequence: &mut Sequence, ids: &[u32], outputs: &[usize]) -> Result<(), Error> {
        self.reserve(sequence, ids.len())?;
        let span = Span { start: sequence.ids.len(), len: ids.len(), pages: &sequence.pages };
        self.pass(&Batch { ids, spans: &[span], outputs })?;
        sequence.ids.extend_from_slice(ids);
        Ok(())
    }

    /// One forward pass; the logits are then in `self.logits`.
    fn pass(&mut self, batch: &Batch<'_>) -> Result<(), Error> {
        self.model.forward(batch, &mut self.logits)?;
        let kv_shape = self.model.kv_shape();
        let kv_bytes: u64 = batch.spans.iter().map(|span| kv_shape.bytes_at(span.start + span.len)).sum();
        self.bytes_read += self.model.bytes_per_token() + kv_bytes;
        Ok(())
    }

    /// Takes the pages for `n` more tokens.
    fn reserve(&mut self, sequence: &mut Sequence, n: usize) -> Result<(), Error> {
        let found = sequence.ids.len() + n;
        while sequence.pages.len() * PAGE_LEN < found {
            let room = sequence.pages.len() * PAGE_LEN;
            let page = self.pages.take().ok_or(Error::TooLong { found, context: room })?;
            sequence.pages.push(page);
        }
        Ok(())
    }

    /// Looks at the logits of the tokens at `positions`.
    fn check_finite(&self, positions: impl Iterator<Item = usize>) -> Result<(), Error> {
        let vocab_size = self.model.config().vocab_size;
        let mut rows = self.logits.chunks_exact(vocab_size).zip(positions);
        rows.try_for_each(|(logits, position)| check_finite(logits, position))
    }
}

/// Refuses NaN and infinity among the logits after the token at `position`.
pub(crate) fn check_finite(logits: &[f32], position: usize) -> Result<(), Error> {
    if logits.iter().all(|logit| logit.is_finite()) { Ok(()) } else { Err(Error::NotFinite { position }) }
}
