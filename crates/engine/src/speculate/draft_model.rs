//! A smaller model of the same vocabulary that guesses its own most probable tokens.

use super::Drafter;
use crate::sampler::argmax;
use crate::{Engine, Error, Sequence};

/// Tokens of the text that are computed at once while catching up with it; between these steps the text goes on, so
/// that a long prompt does not stop its answer.
const CATCH_UP: usize = 128;

/// A model that drafts for another.
pub struct DraftModel {
    engine: Engine,
    sequence: Sequence,
    cost: f64,
}

impl DraftModel {
    /// Takes a model of the same vocabulary as the one that it drafts for, of which a token reads `bytes_per_token`
    /// bytes of weights.
    pub fn new(engine: Engine, bytes_per_token: u64) -> DraftModel {
        let cost = engine.model().bytes_per_token() as f64 / bytes_per_token.max(1) as f64;
        DraftModel { engine, sequence: Sequence::default(), cost }
    }

    /// The model.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Drafter for DraftModel {
    fn priors(&self) -> &[f64] {
        &[0.7]
    }

    fn cost(&self) -> f64 {
        self.cost
    }

    /// What the next text shares with the one before is not computed again.
    fn begin(&mut self) {}

    fn look(&mut self, ids: &[u32]) -> Result<Option<usize>, Error> {
        if ids.len() > self.engine.context() {
            return Ok(None);
        }
        let shared = ids.iter().zip(self.sequence.ids()).take_while(|(a, b)| a == b).count();
        if ids.len() - shared > CATCH_UP {
            self.engine.prefill(&mut self.sequence, &ids[..shared + CATCH_UP], &mut |_, _| true)?;
            return Ok(None);
        }
        Ok(Some(0))
    }

    fn draft(&mut self, ids: &[u32], n: usize, out: &mut Vec<u32>) -> Result<(), Error> {
        // A token behind the last guess is never computed, and the last guess itself only if there is one behind it.
        let n = n.min(self.engine.context() + 1 - ids.len());
        for i in 0..n {
            let logits = match i {
                0 => self.engine.prefill(&mut self.sequence, ids, &mut |_, _| true)?.unwrap_or_default(),
                _ => self.engine.decode(&mut self.sequence, out[out.len() - 1])?,
            };
            if !logits.is_empty() {
                out.push(argmax(logits));
            }
        }
        Ok(())
    }

    fn bytes_read(&self) -> u64 {
        self.engine.bytes_read()
    }
}
