//! What guessing tokens ahead brings: the same answer, decoded plainly and with guesses, turn by turn.
//!
//! A model of random weights says nothing that could be guessed, and one that was trained what it likes. So the model
//! computes everything, and at the end its choice is replaced by a given text: a prompt that is repeated, in which a
//! given share of the tokens is other than before. Forward passes, look-ups, picks and forgotten guesses are all real;
//! how many guesses are right is set.

use super::{Args, Rate, loading_json, loading_line, median};
use crate::model::{Loaded, Wanted};
use crate::show;
use crate::speculate::draft_context;
use anyhow::{Result, bail, ensure};
use puna_engine::{
    BatchLimits, Batcher, DraftModel, Drafted, Drafter, Engine, Event, Limits, PromptLookup, Request, Sampling, Scored,
};
use puna_llama::{Model, Through};
use puna_session::speculator;
use serde_json::json;
use std::io::Write;
use std::time::Instant;

/// A model whose most probable token after each position is that of a text.
fn reciting(model: Box<dyn Model>, text: Vec<u32>) -> Box<dyn Model> {
    Box::new(Through::new(model, move |model, input, outputs| {
        model.forward(input, outputs)?;
        let positions: Vec<usize> = input.batch.positions().collect();
        let rows = outputs.logits.chunks_exact_mut(model.config().vocab_size);
        for (row, logits) in input.batch.outputs.iter().zip(rows) {
            if let Some(id) = text.get(positions[*row] + 1) {
                // Little above the others, so that its probability still tells of all of them.
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                logits[*id as usize] = largest + 1.0;
            }
        }
        Ok(())
    }))
}

/// The text with a share of its tokens from `start` on, spread at random, replaced by others.
fn altered(text: &[u32], start: usize, kept: f64, vocab_size: u32) -> Vec<u32> {
    let alter = |(position, id): (usize, &u32)| {
        // The upper bits of a product are as good as random.
        let hash = (position as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let hash = (hash ^ (hash >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        let keeps = ((hash >> 11) as f64 / (1u64 << 53) as f64) < kept;
        let other = (u64::from(*id) + 1 + (hash & 0xFFFF_FFFF) % u64::from(vocab_size - 1)) % u64::from(vocab_size);
        if position < start || keeps { *id } else { other as u32 }
    };
    text.iter().enumerate().map(alter).collect()
}

/// One answer: seconds for all its tokens but the first, which the prefill brought, and the bits of their probabilities.
fn answer(batcher: &mut Batcher, prompt: &[u32], n_tokens: usize, speculate: bool) -> Result<(f64, Vec<u32>)> {
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let limits = Limits { max_tokens: n_tokens + 1, stop_tokens: Vec::new() };
    batcher.submit(Request { speculate, ..Request::new(prompt.to_vec(), greedy, limits) })?;
    let (mut bits, mut start, mut failed) = (Vec::with_capacity(n_tokens + 1), None, None);
    while batcher.step(&mut |_, event| match event {
        Event::Token(Scored { token, .. }) => {
            bits.push(token.logprob.to_bits());
            start.get_or_insert_with(Instant::now);
        }
        Event::Failed(error) => failed = Some(error),
        _ => {}
    }) {}
    match failed {
        Some(error) => Err(error.into()),
        None => Ok((start.map_or(0.0, |start| start.elapsed().as_secs_f64()), bits)),
    }
}

pub fn run(args: &Args) -> Result<()> {
    let &Args { prompt_tokens, tokens, depth, acceptance, .. } = args;
    if prompt_tokens == 0 || tokens == 0 {
        bail!("-p and -n: expected both above 0 where guesses are measured, found {prompt_tokens} and {tokens}");
    }
    let checkpoint = args.model.open()?;
    let vocab_size = checkpoint.config.vocab_size as u32;
    ensure!(vocab_size > 1, "expected a vocabulary of several tokens, found {vocab_size}");
    let n_prompt = depth.saturating_add(prompt_tokens);
    let wanted = n_prompt.saturating_add(tokens + 1);
    let mut machine = args.model.machine();
    let Loaded { model, context, loading } = args.model.load(&mut machine, &checkpoint, Wanted::Exactly(wanted))?;
    ensure!(
        context >= wanted,
        "--context: expected at least {wanted} tokens for all that is measured, found {context}"
    );
    // No pair of tokens comes twice in the prompt while it is shorter than the vocabulary; the answer is the prompt again.
    let mut text: Vec<u32> = (0..n_prompt as u64).map(|i| (i * 7919 % u64::from(vocab_size)) as u32).collect();
    text.extend((0..tokens + 1).map(|i| text[depth + i % prompt_tokens]).collect::<Vec<_>>());

    let (drafter, name): (Box<dyn Drafter>, String) = match &args.draft {
        None => {
            text = altered(&text, n_prompt, acceptance, vocab_size);
            (Box::new(PromptLookup::new()), "lookup".into())
        }
        Some(path) => {
            let args = args.model.with_model(path);
            let draft = args.open()?;
            ensure!(
                draft.config.vocab_size == checkpoint.config.vocab_size,
                "draft model {}: expected a vocabulary of {vocab_size} tokens, found {}",
                path.display(),
                draft.config.vocab_size
            );
            let draft_model = args.load(&mut machine, &draft, draft_context(&draft.config, context))?;
            let guesses = altered(&text, n_prompt, acceptance, vocab_size);
            let engine = Engine::new(reciting(draft_model.model, guesses), draft_model.context);
            let draft = DraftModel::new(engine, model.bytes_per_token());
            (Box::new(draft), path.display().to_string())
        }
    };
    let prompt = text[..n_prompt].to_vec();
    let engine = Engine::new(reciting(model, text), context);
    let mut batcher = Batcher::new(engine, Some(speculator(vec![drafter])), BatchLimits::default());

    let n_repeats = usize::from(args.repeats);
    let bar = show::token_bar("measuring", (n_prompt + 2 * (n_repeats + 1) * tokens) as u64);
    let (mut plain, mut guessed, mut ratios, mut counts) = (Vec::new(), Vec::new(), Vec::new(), Drafted::default());
    for repeat in 0..=n_repeats {
        let (plain_seconds, expected) = answer(&mut batcher, &prompt, tokens, false)?;
        bar.inc(tokens as u64);
        let (seconds, found) = answer(&mut batcher, &prompt, tokens, true)?;
        bar.inc(tokens as u64);
        ensure!(expected == found, "guesses changed the answer's probabilities: the back-end depends on its batch");
        let speculator = batcher.speculator().expect("the batcher has one");
        if let Some(error) = speculator.failure() {
            bail!("draft model: {error}");
        }
        // The first brings the files into memory, and what guesses cost into the speculator's.
        if repeat > 0 {
            plain.push(tokens as f64 / plain_seconds);
            guessed.push(tokens as f64 / seconds);
            ratios.push(plain_seconds / seconds);
            counts.drafted += speculator.counts().drafted;
            counts.accepted += speculator.counts().accepted;
        }
    }
    bar.finish_and_clear();
    let (plain, guessed, ratio) = (Rate::new(plain), Rate::new(guessed), median(&mut ratios));
    let acceptance_rate = (counts.drafted > 0).then(|| counts.accepted as f64 / counts.drafted as f64);
    let mut out = std::io::stdout().lock();
    if args.json {
        let object = json!({
            "model": args.model.model.display().to_string(),
            "machine": batcher.engine().model().describe(),
            "depth": depth,
            "repeats": n_repeats,
            "loading": loading_json(&loading),
            "speculation": {
                "drafter": name,
                "prompt_tokens": prompt_tokens,
                "tokens": tokens,
                "plain_tokens_per_second": plain.json(),
                "tokens_per_second": guessed.json(),
                "ratio": ratio,
                "drafted_tokens": counts.drafted,
                "accepted_tokens": counts.accepted,
                "acceptance_rate": acceptance_rate,
            },
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(out, "{} · {}", args.model.model.display(), batcher.engine().model().describe())?;
    writeln!(out, "{}", loading_line(&loading))?;
    writeln!(out, "plain    {tokens} tokens that repeat a prompt of {prompt_tokens}: {plain}")?;
    let accepted = acceptance_rate.map_or("none was tried".into(), |rate| format!("{:.0} % accepted", 100.0 * rate));
    writeln!(
        out,
        "guessed  by {name}: {guessed} · {ratio:.2} × plain · {} drafted tokens, {accepted}",
        counts.drafted
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_tokens_are_others() {
        let text: Vec<u32> = (0..10_000).map(|i| i % 100).collect();
        let kept = |share| {
            let altered = altered(&text, 1000, share, 100);
            assert_eq!(altered[..1000], text[..1000]);
            assert!(altered.iter().all(|id| *id < 100));
            altered[1000..].iter().zip(&text[1000..]).filter(|(a, b)| a == b).count()
        };
        assert_eq!((kept(1.0), kept(0.0)), (9000, 0));
        assert!((6100..6500).contains(&kept(0.7)), "{}", kept(0.7));
    }
}
