//! A model that computes nothing but still shows every mistake in what it is given.

use puna_checkpoint::{Rope, RopePairing, RopeScaling};
use puna_engine::{Engine, PAGE_LEN};
use puna_llama::{Config, Input, KvFormat, KvShape, Model, Outputs, kv_shape};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A model whose logits after a token follow from the two last tokens, and a little from all before, and whose hidden
/// states follow from all. Of those it knows only what it finds in its cache: a hash of the text up to each place, made
/// from the hash at the place before.
pub struct Fake {
    pub config: Config,
    pub shape: KvShape,
    /// For each slot the hash of all tokens so far, and the token.
    pub cache: Vec<(u64, u32)>,
    pub seed: u64,
    /// After this token the logits and the hidden state are not finite.
    pub damaged: Option<u32>,
    /// Of so many passes, one stores a token where another one's place is.
    pub faulty: Option<usize>,
    pub n_passes: Arc<AtomicUsize>,
}

fn mix(hash: u64, value: u32) -> u64 {
    (hash ^ u64::from(value)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// In 0 to 1.
fn unit(hash: u64) -> f32 {
    (hash.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as f32 / (1 << 24) as f32
}

impl Fake {
    /// With a context of so many tokens, and pages for as many.
    pub fn new(vocab_size: usize, context: usize, seed: u64) -> Fake {
        let rope = Rope { theta: 1e4, scaling: RopeScaling::None, pairing: RopePairing::Halves };
        let config = Config {
            dim: 2,
            n_layers: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 2,
            ffn_dim: 2,
            vocab_size,
            context_length: context,
            norm_eps: 1e-5,
            rope,
            tied_embeddings: true,
        };
        let shape = kv_shape(&config, KvFormat::F32, context);
        let cache = vec![(0, 0); shape.n_pages * PAGE_LEN];
        Fake { config, shape, cache, seed, damaged: None, faulty: None, n_passes: Arc::default() }
    }

    pub fn engine(self) -> Engine {
        let context = self.config.context_length;
        Engine::new(Box::new(self), context)
    }

    /// The hash before any token, as an adapter sees it.
    fn root(&self, adapter: Option<u32>) -> u64 {
        mix(self.seed, adapter.map_or(0, |adapter| adapter + 1))
    }

    /// Logits after a text.
    pub fn logits(&self, ids: &[u32], adapter: Option<u32>) -> Vec<f32> {
        let mut out = Vec::new();
        self.push_logits(self.hash(ids, adapter), &ids[ids.len().saturating_sub(2)..], &mut out);
        out
    }

    /// The hash of a text.
    pub fn hash(&self, ids: &[u32], adapter: Option<u32>) -> u64 {
        ids.iter().fold(self.root(adapter), |hash, id| mix(hash, *id))
    }

    /// The hidden state of the last token of a text with this hash.
    pub fn state(&self, hash: u64, last: u32) -> [f32; 2] {
        if Some(last) == self.damaged { [0.0, f32::INFINITY] } else { [unit(hash), unit(mix(hash, last)) - 0.5] }
    }

    fn push_logits(&self, hash: u64, recent: &[u32], out: &mut Vec<f32>) {
        let damaged = self.damaged.is_some() && recent.last().copied() == self.damaged;
        let near = recent.iter().fold(self.seed, |hash, id| mix(hash, *id));
        out.extend(
            (0..self.config.vocab_size as u32)
                .map(|id| if damaged { f32::NAN } else { 4.0 * unit(mix(near, id)) + 0.1 * unit(mix(hash, id)) }),
        );
    }
}

impl Model for Fake {
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
        "fake".into()
    }
    fn bytes_per_token(&self) -> u64 {
        1
    }
    fn forward(&mut self, input: &Input<'_>, outputs: &mut Outputs) -> Result<(), puna_llama::Error> {
        let Input { batch, adapters, states } = input;
        let n_passes = self.n_passes.fetch_add(1, Ordering::Relaxed);
        let slot = |pages: &[u32], p: usize| pages[p / PAGE_LEN] as usize * PAGE_LEN + p % PAGE_LEN;
        assert_eq!(batch.spans.len(), adapters.len());
        assert!(batch.ids.len() <= self.max_batch(), "{} tokens", batch.ids.len());
        let mut row = 0;
        let mut places = Vec::new();
        for (span, adapter) in batch.spans.iter().zip(*adapters) {
            for position in span.start..span.start + span.len {
                let before = match position {
                    0 => self.root(*adapter),
                    _ => self.cache[slot(span.pages, position - 1)].0,
                };
                let at = slot(span.pages, position);
                self.cache[at] = (mix(before, batch.ids[row]), batch.ids[row]);
                places.push((span.pages, position));
                row += 1;
            }
        }
        if self.faulty.is_some_and(|n| n_passes % n == n - 1) {
            let (pages, position) = places[places.len() - 1];
            self.cache[slot(pages, position)].0 ^= 1;
        }
        outputs.states.clear();
        for row in *states {
            let (pages, position) = places[*row];
            let (hash, last) = self.cache[slot(pages, position)];
            outputs.states.extend(self.state(hash, last));
        }
        outputs.logits.clear();
        for row in batch.outputs {
            let (pages, position) = places[*row];
            let recent: Vec<u32> =
                (position.saturating_sub(1)..=position).map(|p| self.cache[slot(pages, p)].1).collect();
            self.push_logits(self.cache[slot(pages, position)].0, &recent, &mut outputs.logits);
        }
        Ok(())
    }
    fn read_page(&self, page: u32, out: &mut Vec<u8>) {
        out.clear();
        for (hash, id) in &self.cache[page as usize * PAGE_LEN..][..PAGE_LEN] {
            out.extend(hash.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out.resize(self.shape.page_bytes(), 0);
    }
    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), puna_llama::Error> {
        let slots = &mut self.cache[page as usize * PAGE_LEN..][..PAGE_LEN];
        for ((hash, id), bytes) in slots.iter_mut().zip(bytes.chunks_exact(12)) {
            let (first, second) = bytes.split_at(8);
            *hash = u64::from_le_bytes(first.try_into().expect("8 bytes"));
            *id = u32::from_le_bytes(second.try_into().expect("4 bytes"));
        }
        Ok(())
    }
}
