//! A model, its pages, and the sequences in it.

use crate::Error;
use crate::pages::{Pages, Parent, Scope};
use puna_llama::{Batch, Input, Model, Outputs, PAGE_LEN, Span};

/// Logits computed at once when all are wanted: at a vocabulary of 128,256, 64 rows are 33 MB.
pub(crate) const SCORE_ROWS: usize = 64;

/// Runs sequences of tokens through a model.
pub struct Engine {
    model: Box<dyn Model>,
    pages: Pages,
    context: usize,
    chunk: usize,
    outputs: Outputs,
    bytes_read: u64,
}

/// A sequence of tokens and where its keys and values are. Give it back to its engine with [`Engine::release`].
#[derive(Default)]
pub struct Sequence {
    /// Tokens whose keys and values are in the cache.
    ids: Vec<u32>,
    pages: Vec<u32>,
    /// Of the pages, so many may be another sequence's too.
    n_published: usize,
    /// Who may have its pages too; nobody without a scope.
    scope: Option<Scope>,
    adapter: Option<u32>,
}

impl Sequence {
    /// An empty sequence that finds and leaves behind what others of its scope have in common with it. `adapter` is one
    /// of the model's named adapters.
    pub fn new(scope: Scope, adapter: Option<u32>) -> Sequence {
        Sequence { scope: Some(scope), adapter, ..Sequence::default() }
    }

    /// Tokens in the cache.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Pages that it has.
    pub(crate) fn n_pages(&self) -> usize {
        self.pages.len()
    }

    /// What is before page `idx` of its pages.
    fn parent(&self, scope: Scope, idx: usize) -> Parent {
        idx.checked_sub(1).map_or(Parent::Root(scope, self.adapter), |before| Parent::Page(self.pages[before]))
    }
}

/// One sequence's part of a forward pass.
pub(crate) struct Work<'a> {
    pub sequence: &'a mut Sequence,
    /// Its next tokens.
    pub ids: &'a [u32],
    /// Of how many of them, the last, the logits are wanted.
    pub n_outputs: usize,
    /// Of how many of them, the last, the final hidden states are wanted.
    pub n_states: usize,
}

impl Engine {
    /// An engine whose sequences have at most `context` tokens each.
    pub fn new(model: Box<dyn Model>, context: usize) -> Engine {
        let pages = Pages::new(model.kv_shape().n_pages);
        let chunk = model.max_batch();
        Engine { model, pages, context, chunk, outputs: Outputs::default(), bytes_read: 0 }
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

    /// Tokens of a prompt that are computed at once at most.
    pub(crate) fn chunk(&self) -> usize {
        self.chunk
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// The pages, and the model in whose cache they are.
    pub(crate) fn pages_mut(&mut self) -> (&mut Pages, &mut dyn Model) {
        (&mut self.pages, &mut *self.model)
    }

    /// Forgets all tokens of the sequence from `len` on. Of a page that others may have too all is forgotten.
    pub fn truncate(&mut self, sequence: &mut Sequence, len: usize) {
        let published = sequence.n_published * PAGE_LEN;
        let len = if len < published { len / PAGE_LEN * PAGE_LEN } else { len };
        sequence.ids.truncate(len);
        let n_pages = sequence.ids.len().div_ceil(PAGE_LEN);
        sequence.n_published = sequence.n_published.min(n_pages);
        // From the end: what is forgotten first when memory is needed.
        for page in sequence.pages.drain(n_pages.min(sequence.pages.len())..).rev() {
            self.pages.give_back(page);
        }
    }

    /// Gives the sequence's pages back; others of its scope may find its text in them.
    pub fn release(&mut self, mut sequence: Sequence) {
        self.publish(&mut sequence);
        let n_full = sequence.n_published;
        let tail = &sequence.ids[n_full * PAGE_LEN..];
        if let Some(scope) = sequence.scope.filter(|_| !tail.is_empty()) {
            sequence.pages[n_full] = self.pages.publish(sequence.parent(scope, n_full), sequence.pages[n_full], tail);
        }
        self.truncate(&mut sequence, 0);
    }

    /// Gives the sequence's pages back, so that nobody finds its text again.
    pub(crate) fn discard(&mut self, mut sequence: Sequence) {
        for page in sequence.pages[..sequence.n_published].iter().rev() {
            // Who else has the page has looked at logits that came of it.
            if self.pages.n_users(*page) == 1 {
                self.pages.unpublish(*page);
            }
        }
        self.truncate(&mut sequence, 0);
    }

    /// How many of `ids` lie in full pages that an empty sequence could share, and how many of these pages are in use.
    pub(crate) fn n_shared(&self, sequence: &Sequence, ids: &[u32]) -> (usize, usize) {
        sequence.scope.map_or((0, 0), |scope| self.pages.n_shared(sequence.parent(scope, 0), ids))
    }

    /// Begins an empty sequence with what the cache holds of `ids`. Returns how many tokens that are.
    pub(crate) fn adopt(&mut self, sequence: &mut Sequence, ids: &[u32]) -> usize {
        let Some(scope) = sequence.scope.filter(|_| sequence.ids.is_empty()) else { return 0 };
        loop {
            let (idx, done) = (sequence.pages.len(), sequence.ids.len());
            let parent = sequence.parent(scope, idx);
            if let Some(page) = self.pages.share(parent, &ids[done..]) {
                sequence.pages.push(page);
                sequence.ids.extend_from_slice(&ids[done..done + PAGE_LEN]);
                sequence.n_published += 1;
                continue;
            }
            if let Some((page, n)) = self.pages.take_over(parent, &ids[done..]) {
                sequence.pages.push(page);
                sequence.ids.extend_from_slice(&ids[done..done + n]);
            }
            return sequence.ids.len();
        }
    }

    /// Lets others of the sequence's scope have its full pages too. For tokens that will not be taken back.
    pub(crate) fn publish(&mut self, sequence: &mut Sequence) {
        let Some(scope) = sequence.scope else { return };
        while sequence.n_published < sequence.ids.len() / PAGE_LEN {
            let idx = sequence.n_published;
            let ids = &sequence.ids[idx * PAGE_LEN..(idx + 1) * PAGE_LEN];
            sequence.pages[idx] = self.pages.publish(sequence.parent(scope, idx), sequence.pages[idx], ids);
            sequence.n_published += 1;
        }
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
        check_length(ids, self.context)?;
        let shared = ids.iter().zip(&sequence.ids).take_while(|(a, b)| a == b).count();
        // The last token's logits are wanted, so at least that one is computed.
        self.truncate(sequence, shared.min(ids.len() - 1));
        let start = sequence.ids.len();
        let n = ids.len() - start;
        for chunk in ids[start..].chunks(self.chunk) {
            let last = sequence.ids.len() + chunk.len() == ids.len();
            self.forward(sequence, chunk, usize::from(last))?;
            if !progress(sequence.ids.len() - start, n) && !last {
                return Ok(None);
            }
        }
        Ok(Some(&self.outputs.logits))
    }

    /// Appends one token and returns the logits after it.
    pub fn decode(&mut self, sequence: &mut Sequence, id: u32) -> Result<&[f32], Error> {
        self.decode_together(&mut [sequence], &[id])
    }

    /// What the last forward pass gave: rows of all works, one after another. To be put back, for the memory's sake.
    pub(crate) fn take_outputs(&mut self) -> Outputs {
        std::mem::take(&mut self.outputs)
    }

    pub(crate) fn put_back_outputs(&mut self, outputs: Outputs) {
        self.outputs = outputs;
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
        let mut works: Vec<Work<'_>> = sequences
            .iter_mut()
            .zip(ids)
            .map(|(sequence, id)| Work { sequence, ids: std::slice::from_ref(id), n_outputs: 1, n_states: 0 })
            .collect();
        self.run_checked(&mut works)?;
        Ok(&self.outputs.logits)
    }

    /// Logits after every token: `each(position, logits)`.
    pub fn score(&mut self, ids: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        check_length(ids, self.context)?;
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
            self.forward(sequence, chunk, chunk.len())?;
            for (i, logits) in self.outputs.logits.chunks_exact(vocab_size).enumerate() {
                each(start + i, logits);
            }
        }
        Ok(())
    }

    fn forward(&mut self, sequence: &mut Sequence, ids: &[u32], n_outputs: usize) -> Result<(), Error> {
        self.run_checked(&mut [Work { sequence, ids, n_outputs, n_states: 0 }])
    }

    /// [`run`](Self::run), and no sequence has changed where logits are not finite.
    fn run_checked(&mut self, works: &mut [Work<'_>]) -> Result<(), Error> {
        self.run(works)?;
        let vocab_size = self.model.config().vocab_size;
        let positions = works.iter().flat_map(|work| {
            let end = work.sequence.ids.len();
            end - work.n_outputs..end
        });
        let rows = self.outputs.logits.chunks_exact(vocab_size);
        let checked = rows.zip(positions).try_for_each(|(row, at)| check_finite(row, at));
        if checked.is_err() {
            self.take_back(works);
        }
        checked
    }

    /// Appends their tokens to several sequences in one forward pass. What was asked for is then in
    /// [`Engine::take_outputs`]; it is not checked to be finite: some of the tokens may be guesses that the model would
    /// never have made. After an error no sequence has changed.
    pub(crate) fn run(&mut self, works: &mut [Work<'_>]) -> Result<(), Error> {
        let reserved = works.iter_mut().try_for_each(|work| self.reserve(work.sequence, work.ids.len()));
        if let Err(error) = reserved {
            for work in works {
                let len = work.sequence.ids.len();
                self.truncate(work.sequence, len);
            }
            return Err(error);
        }
        works.iter_mut().for_each(|work| work.sequence.ids.extend_from_slice(work.ids));
        let result = self.pass(works);
        if result.is_err() {
            self.take_back(works);
        }
        result
    }

    /// Takes the works' tokens from their sequences again.
    fn take_back(&mut self, works: &mut [Work<'_>]) {
        for work in works {
            let len = work.sequence.ids.len() - work.ids.len();
            self.truncate(work.sequence, len);
        }
    }

    /// One forward pass over the last tokens of the works' sequences.
    fn pass(&mut self, works: &[Work<'_>]) -> Result<(), Error> {
        let ids: Vec<u32> = works.iter().flat_map(|work| work.ids).copied().collect();
        let spans: Vec<Span> = works
            .iter()
            .map(|Work { sequence, ids, .. }| Span {
                start: sequence.ids.len() - ids.len(),
                len: ids.len(),
                pages: &sequence.pages,
            })
            .collect();
        let adapters: Vec<Option<u32>> = works.iter().map(|work| work.sequence.adapter).collect();
        let (mut outputs, mut states) = (Vec::new(), Vec::new());
        let mut row = 0;
        for work in works {
            row += work.ids.len();
            outputs.extend(row - work.n_outputs..row);
            states.extend(row - work.n_states..row);
        }
        let batch = Batch { ids: &ids, spans: &spans, outputs: &outputs };
        self.model.forward(&Input { batch, adapters: &adapters, states: &states }, &mut self.outputs)?;
        let kv_shape = self.model.kv_shape();
        let kv_bytes: u64 = spans.iter().map(|span| kv_shape.bytes_at(span.start + span.len)).sum();
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
}

/// Refuses a text that is empty or has no room in `context` tokens.
pub(crate) fn check_length(ids: &[u32], context: usize) -> Result<(), Error> {
    match ids.len() {
        0 => Err(Error::Empty),
        found if found > context => Err(Error::TooLong { found, context }),
        _ => Ok(()),
    }
}

/// Refuses NaN and infinity among the logits, or the hidden states, that came of the token at `position`.
pub(crate) fn check_finite(row: &[f32], position: usize) -> Result<(), Error> {
    if row.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(Error::NotFinite { position }) }
}
