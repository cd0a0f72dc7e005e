//! Turns, and the cells that come of them.

use crate::candle::Candle;
use crate::llama_cpp;
use crate::machine::{self, Instructions, Limits};
use crate::model::Model;
use crate::peer::Peer;
use crate::phase::{Phase, Runner, ids};
use crate::puna::Puna;
use anyhow::Result;
use puna_backend::Backend;
use serde_json::{Value, json};

/// What is wanted.
pub struct Settings {
    pub phases: Vec<Phase>,
    pub peers: Vec<Peer>,
    /// Beside one that is not counted.
    pub turns: usize,
    pub threads: usize,
    pub instructions: Instructions,
    /// What is told goes to standard error: the other is for JSON.
    pub json: bool,
}

/// What came of it.
pub struct Run {
    settings: Settings,
    llama_cpp: llama_cpp::Backend,
    machine: Value,
    cells: Vec<Value>,
    skipped: Vec<Value>,
}

/// Who computes: a peer, or puna.
type Who = Option<Peer>;

/// What the tokens of a phase are held against.
struct Bound {
    /// What the machine gives, in bytes or FLOP a second.
    limit: f64,
    /// What a token costs, in bytes or FLOP.
    per_token: f64,
}

impl Bound {
    /// The share of the limit that so many tokens a second use.
    fn share(&self, tokens_per_second: f64) -> f64 {
        tokens_per_second * self.per_token / self.limit
    }
}

impl Run {
    pub fn new(settings: Settings) -> Result<Run> {
        let llama_cpp = llama_cpp::Backend::new()?;
        let machine = json!({
            "cpu": machine::processor(),
            "threads": settings.threads,
            "puna": settings.instructions.cpu(settings.threads).describe(),
            "llama.cpp": llama_cpp.describe(),
        });
        let run = Run { settings, llama_cpp, machine, cells: Vec::new(), skipped: Vec::new() };
        run.tell(&format!("{:#}", run.machine));
        Ok(run)
    }

    pub fn json(&self) -> Value {
        json!({ "machine": self.machine, "cells": self.cells, "skipped": self.skipped })
    }

    fn tell(&self, line: &str) {
        if self.settings.json { eprintln!("{line}") } else { println!("{line}") }
    }

    /// Measures one file.
    pub fn model(&mut self, model: &Model) -> Result<()> {
        for peer in self.settings.peers.clone() {
            self.skip(model, peer, |phase| peer.refuses(phase));
        }
        let mut peers = self.settings.peers.clone();
        peers.retain(|peer| self.phases(Some(*peer)).next().is_some());
        let available = machine::available_memory().unwrap_or(u64::MAX);
        let (groups, too_large) = plan(&peers, available, |peers| self.bytes(model, peers));
        for peers in groups {
            let cells = self.beside(model, &peers)?;
            self.cells.extend(cells);
        }
        for peer in too_large {
            let gb = |bytes: u64| bytes as f64 / 1e9;
            let needed = gb(self.bytes(model, &[peer]));
            let why = format!("puna and it need about {needed:.1} GB, and {:.1} GB are free", gb(available));
            self.skip(model, peer, |phase| peer.refuses(phase).is_none().then(|| why.clone()));
        }
        Ok(())
    }

    /// Notes the phases that a peer doesn't run, for which `why` has a reason.
    fn skip(&mut self, model: &Model, peer: Peer, why: impl Fn(Phase) -> Option<String>) {
        let (shape, format, peer) = (model.shape, model.format, peer.name());
        for (phase, why) in self.settings.phases.clone().into_iter().filter_map(|phase| Some((phase, why(phase)?))) {
            let phase = phase.name();
            self.tell(&format!("{shape} {format:6} {phase:18} {peer} is left out: {why}"));
            self.skipped.push(json!({ "phase": phase, "format": format, "shape": shape, "peer": peer, "why": why }));
        }
    }

    /// The phases that one can run.
    fn phases(&self, who: Who) -> impl Iterator<Item = Phase> {
        let phases = self.settings.phases.iter().copied();
        phases.filter(move |phase| who.is_none_or(|peer| peer.refuses(*phase).is_none()))
    }

    /// Bytes that puna and these peers take, about, all together.
    fn bytes(&self, model: &Model, peers: &[Peer]) -> u64 {
        // What is neither weights nor cache: activations, the program, what memory is measured with, what the system
        // wants to keep.
        const REST: u64 = 1 << 30;
        let cache = |who| {
            let tokens = self.phases(who).map(|phase| phase.context() * phase.sequences()).max();
            tokens.unwrap_or(0) as u64 * model.kv_bytes
        };
        // puna's weights are the mapped file, or a repacked copy instead.
        let ours = model.bytes + cache(None) + REST;
        ours + peers.iter().map(|peer| peer.bytes(model) + cache(Some(*peer))).sum::<u64>()
    }

    /// Measures puna and these peers in turns.
    fn beside(&self, model: &Model, peers: &[Peer]) -> Result<Vec<Value>> {
        let Settings { threads, instructions, .. } = self.settings;
        let llama_cpp = peers.contains(&Peer::LlamaCpp).then(|| self.llama_cpp.load(&model.path)).transpose()?;
        let cpu = instructions.cpu(threads);
        let puna = Puna::new(&model.path, cpu.clone(), &self.settings.phases)?;
        let costs: Vec<f64> = self.settings.phases.iter().map(|phase| puna.per_token(*phase)).collect();
        let limits = Limits::new(cpu)?;
        let mut runners: Vec<(Who, Box<dyn Runner + '_>)> = vec![(None, Box::new(puna))];
        if let Some(llama_cpp) = &llama_cpp {
            runners.push((Some(Peer::LlamaCpp), Box::new(llama_cpp.runner(threads))));
        }
        if peers.contains(&Peer::Candle) {
            runners.push((Some(Peer::Candle), Box::new(Candle::new(&model.path)?)));
        }
        let mut cells = Vec::new();
        for (phase, per_token) in self.settings.phases.iter().zip(costs) {
            let mut takers: Vec<(Who, &mut (dyn Runner + '_))> = Vec::new();
            for (who, runner) in &mut runners {
                if who.is_none_or(|peer| peer.refuses(*phase).is_none()) {
                    takers.push((*who, &mut **runner));
                }
            }
            if takers.len() > 1 {
                cells.extend(self.phase(model, *phase, &limits, per_token, &mut takers)?);
            }
        }
        Ok(cells)
    }

    /// Turns of one phase, the first runner being puna; a cell for each of the others.
    fn phase(
        &self,
        model: &Model,
        phase: Phase,
        limits: &Limits,
        per_token: f64,
        runners: &mut [(Who, &mut (dyn Runner + '_))],
    ) -> Result<Vec<Value>> {
        for (who, runner) in &mut *runners {
            runner.start(phase)?;
            if phase.filled() > 0 {
                let name = who.map_or("puna", Peer::name);
                eprintln!("{name} computes the {} tokens that come first", phase.filled());
                runner.prefill(&ids(phase.filled()))?;
            }
        }
        let n = runners.len();
        let (mut rates, mut limit) = (vec![Vec::new(); n], Vec::new());
        for turn in 0..=self.settings.turns {
            // Each is the first once in a while.
            for who in (0..n).map(|i| (turn + i) % n) {
                let rate = phase.turn(runners[who].1)?;
                if turn > 0 {
                    rates[who].push(rate);
                }
            }
            limit.push(limits.measure(phase.limit()));
        }
        let bound = Bound { limit: median(&limit), per_token };
        let peers = runners.iter().zip(&rates).filter_map(|((who, _), rates)| Some(((*who)?, rates)));
        Ok(peers.map(|(peer, theirs)| self.cell(model, phase, peer, &bound, [&rates[0], theirs])).collect())
    }

    /// The figures of one peer, of as many turns as puna's.
    fn cell(&self, model: &Model, phase: Phase, peer: Peer, bound: &Bound, [ours, theirs]: [&[f64]; 2]) -> Value {
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        let (puna_tps, peer_tps, ratio) = (median(ours), median(theirs), median(&ratios));
        let (puna_share, peer_share, limit) = (bound.share(puna_tps), bound.share(peer_tps), phase.limit());
        let (shape, format, phase, peer) = (model.shape, model.format, phase.name(), peer.name());
        self.tell(&format!(
            "{shape} {format:6} {phase:18} puna {puna_tps:8.2}  {peer:9} {peer_tps:8.2} tokens/s  ratio {ratio:.2} \
             ({least:.2} to {most:.2})  {:.0} and {:.0} % of {:.1} {}",
            100.0 * puna_share,
            100.0 * peer_share,
            bound.limit / 1e9,
            limit.unit(),
        ));
        json!({
            "phase": phase,
            "format": format,
            "shape": shape,
            "peer": peer,
            "puna_tps": puna_tps,
            "peer_tps": peer_tps,
            "ratio": ratio,
            "spread": [least, most],
            "limit_of": limit.name(),
            "limit": bound.limit,
            "per_token": bound.per_token,
            "puna_share": puna_share,
            "peer_share": peer_share,
        })
    }
}

/// Which peers are measured together: all if they and puna fit into `available` bytes, else one after another. The
/// second list has those that don't fit even so.
fn plan(peers: &[Peer], available: u64, bytes: impl Fn(&[Peer]) -> u64) -> (Vec<Vec<Peer>>, Vec<Peer>) {
    if bytes(peers) <= available {
        return (vec![peers.to_vec()], Vec::new());
    }
    let (fit, too_large): (Vec<Peer>, Vec<Peer>) = peers.iter().partition(|peer| bytes(&[**peer]) <= available);
    (fit.into_iter().map(|peer| vec![peer]).collect(), too_large)
}

/// The mean of the two in the middle where they are even.
fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Peer::{Candle, LlamaCpp};

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[1.0, 3.0]), 2.0);
    }

    #[test]
    fn peers_share_the_memory_if_they_can() {
        let bytes = |peers: &[Peer]| 5 + peers.iter().map(|peer| if *peer == Candle { 10 } else { 5 }).sum::<u64>();
        let both = [LlamaCpp, Candle];
        assert_eq!(plan(&both, 20, bytes), (vec![vec![LlamaCpp, Candle]], vec![]));
        assert_eq!(plan(&both, 19, bytes), (vec![vec![LlamaCpp], vec![Candle]], vec![]));
        assert_eq!(plan(&both, 14, bytes), (vec![vec![LlamaCpp]], vec![Candle]));
        assert_eq!(plan(&both, 9, bytes), (vec![], vec![LlamaCpp, Candle]));
    }
}
