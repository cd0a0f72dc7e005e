//! The picture of `--plot`: the share of the machine's limit that puna and its peers use, cell by cell.
//!
//! A table of panels: a row for each phase, whose panels have one scale, and a column for each shape. In a panel each
//! format has a group of bars. The scale goes on behind 100 % where a bar does.

use crate::model::{FORMATS, SHAPES};
use crate::peer::Peer;
use crate::phase::Phase;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::Value;

/// Sizes in pixels.
const WIDTH: f64 = 880.0;
const MARGIN: f64 = 28.0;
/// Title, machine and legend, and the shapes' names below them.
const HEAD: f64 = 132.0;
const COLUMN_GAP: f64 = 36.0;
/// The formats' names, left of the bars.
const NAMES: f64 = 58.0;
/// A percentage, and the room for it right of the scale.
const FIGURE: f64 = 38.0;
const END: f64 = 44.0;
/// A phase's name and its scale, above the bars.
const PHASE: f64 = 48.0;
const PHASE_GAP: f64 = 22.0;
const BAR: f64 = 12.0;
const BAR_STEP: f64 = 14.0;
const GROUP_GAP: f64 = 10.0;

const STYLE: &str = "\
text { font-family: sans-serif; font-size: 12px; fill: #1f2937; }
.title { font-size: 18px; font-weight: bold; }
.shape, .phase { font-size: 14px; font-weight: bold; }
.quiet { fill: #6b7280; }
.right { text-anchor: end; }
.scale { font-size: 11px; fill: #6b7280; text-anchor: middle; }
.figure { font-size: 11px; stroke: #ffffff; stroke-width: 3px; paint-order: stroke; }
.figure.puna, .scale.limit { font-weight: bold; }
.scale.limit { fill: #1f2937; }
rect.page { fill: #ffffff; }
rect.puna { fill: #c2410c; }
rect.llama-cpp { fill: #526277; }
rect.candle { fill: #a9b6c8; }
line { stroke: #e5e7eb; }
line.limit { stroke: #1f2937; stroke-width: 1.5; stroke-dasharray: 4 3; }
";

/// Who has a bar, in this order: puna, and its peers.
const RUNNERS: [Option<Peer>; 3] = [None, Some(Peer::LlamaCpp), Some(Peer::Candle)];

struct Bar {
    shape: &'static str,
    phase: Phase,
    format: &'static str,
    runner: Option<Peer>,
    share: f64,
}

/// What is drawn, of one machine.
#[derive(Default)]
pub struct Plot {
    machine: Value,
    bars: Vec<Bar>,
}

impl Plot {
    /// Adds what one run of `--json` printed.
    pub fn add(&mut self, run: &Value) -> Result<()> {
        let cells = run["cells"].as_array().filter(|cells| !cells.is_empty());
        let cells = cells.context("expected `cells` as --json prints them, found none")?;
        let machine = &run["machine"];
        if self.bars.is_empty() {
            self.machine = machine.clone();
        }
        ensure!(self.machine == *machine, "expected the machine of the file before, {}, found {machine}", self.machine);
        for cell in cells {
            let shape = named(cell, "shape", &SHAPES, |shape| shape.to_owned())?;
            let phase = named(cell, "phase", Phase::value_variants(), Phase::name)?;
            let format = named(cell, "format", &FORMATS, |format| format.to_owned())?;
            let peer = named(cell, "peer", Peer::value_variants(), |peer| peer.name().to_owned())?;
            for (runner, field) in [(None, "puna_share"), (Some(peer), "peer_share")] {
                let share = cell[field].as_f64().filter(|share| *share >= 0.0);
                let share = share.with_context(|| format!("{field}: expected a share, found {}", cell[field]))?;
                self.bars.push(Bar { shape, phase, format, runner, share });
            }
        }
        Ok(())
    }

    pub fn svg(&self) -> String {
        let shapes = self.present(&SHAPES, |bar, shape| bar.shape == shape);
        let mut svg = Svg::default();
        svg.text(MARGIN, MARGIN + 14.0, "title", "Share of the machine's limit");
        let machine = [&self.machine["cpu"], &self.machine["puna"]].map(|name| name.as_str().unwrap_or("?"));
        svg.text(MARGIN, MARGIN + 36.0, "quiet", &machine.join(" · "));
        let mut x = MARGIN;
        for runner in self.present(&RUNNERS, |bar, runner| bar.runner == runner) {
            svg.rect(x, MARGIN + 52.0, BAR, BAR, class(runner));
            svg.text(x + BAR + 6.0, MARGIN + 62.0, "", name(runner));
            x += 96.0;
        }
        let n_columns = shapes.len() as f64;
        let column = (WIDTH - 2.0 * MARGIN - COLUMN_GAP * (n_columns - 1.0)) / n_columns;
        // Where a column's bars begin.
        let columns = (0..shapes.len()).map(|i| MARGIN + NAMES + i as f64 * (column + COLUMN_GAP));
        let columns: Vec<(f64, &str)> = columns.zip(shapes).collect();
        for (x, shape) in &columns {
            svg.text(*x, HEAD - 8.0, "shape", shape);
        }
        let mut top = HEAD;
        for phase in self.present(Phase::value_variants(), |bar, phase| bar.phase == phase) {
            top = self.phase(&mut svg, phase, &columns, column - NAMES - END, top) + PHASE_GAP;
        }
        svg.finish(top - PHASE_GAP + MARGIN)
    }

    /// Draws a phase below `top`, in columns that begin at an x and whose scales have a width. Returns where it ends.
    fn phase(&self, svg: &mut Svg, phase: Phase, columns: &[(f64, &str)], width: f64, top: f64) -> f64 {
        let runners = self.present(&RUNNERS, |bar, runner| bar.phase == phase && bar.runner == runner);
        let formats = self.present(&FORMATS, |bar, format| bar.phase == phase && bar.format == format);
        let group = BAR_STEP * runners.len() as f64 + GROUP_GAP;
        let (first, bottom) = (top + PHASE, top + PHASE + group * formats.len() as f64);
        svg.line([MARGIN, top, WIDTH - MARGIN, top], "");
        svg.text(MARGIN, top + 20.0, "phase", &phase.name());
        svg.text(WIDTH - MARGIN, top + 20.0, "quiet right", &format!("% of the {}", phase.limit().name()));

        let shares = self.bars.iter().filter(|bar| bar.phase == phase).map(|bar| bar.share);
        let longest = shares.fold(1.0, f64::max);
        let step = if longest <= 1.0 { 0.25 } else { (longest / 5.0 / 0.5).ceil() * 0.5 };
        let n_steps = (longest / step).ceil();
        let pixels = |share: f64| share / (n_steps * step) * width;
        for (x, shape) in columns {
            let limit = x + pixels(1.0);
            for share in (0..=n_steps as usize).map(|i| i as f64 * step) {
                let at = x + pixels(share);
                svg.line([at, first - 4.0, at, bottom], "");
                if share != 1.0 {
                    svg.text(at, first - 9.0, "scale", &percent(share));
                }
            }
            for (i, format) in formats.iter().enumerate() {
                let y = first + group * i as f64 + GROUP_GAP / 2.0;
                svg.text(x - 8.0, y + (group - GROUP_GAP) / 2.0 + 3.0, "right", format);
                for (j, runner) in runners.iter().enumerate() {
                    if let Some(share) = self.share(shape, phase, format, *runner) {
                        let (y, end, class) = (y + BAR_STEP * j as f64, x + pixels(share), class(*runner));
                        svg.rect(*x, y, pixels(share), BAR, class);
                        // A figure that the limit would cross stands behind it.
                        let crossed = end <= limit && end + FIGURE > limit;
                        let after = if crossed { limit } else { end };
                        svg.text(after + 5.0, y + 10.0, &format!("figure {class}"), &format!("{} %", percent(share)));
                    }
                }
            }
            svg.line([limit, first - 4.0, limit, bottom], "limit");
            svg.text(limit, first - 9.0, "scale limit", "100 %");
        }
        bottom
    }

    /// Those that any bar is of.
    fn present<T: Copy>(&self, all: &[T], is_of: impl Fn(&Bar, T) -> bool) -> Vec<T> {
        all.iter().copied().filter(|one| self.bars.iter().any(|bar| is_of(bar, *one))).collect()
    }

    /// The mean of a runner's shares in a cell: puna has several where its peers were measured one after another.
    fn share(&self, shape: &str, phase: Phase, format: &str, runner: Option<Peer>) -> Option<f64> {
        let is_of = |bar: &&Bar| (bar.shape, bar.phase, bar.format, bar.runner) == (shape, phase, format, runner);
        let shares: Vec<f64> = self.bars.iter().filter(is_of).map(|bar| bar.share).collect();
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
    }
}

/// The one that a cell names.
fn named<T: Copy>(cell: &Value, field: &str, all: &[T], name: impl Fn(T) -> String) -> Result<T> {
    let names: Vec<String> = all.iter().map(|one| name(*one)).collect();
    let found = names.iter().position(|name| cell[field] == *name);
    let found =
        found.with_context(|| format!("{field}: expected one of {}, found {}", names.join(", "), cell[field]))?;
    Ok(all[found])
}

fn name(runner: Option<Peer>) -> &'static str {
    runner.map_or("puna", Peer::name)
}

fn class(runner: Option<Peer>) -> &'static str {
    match runner {
        None => "puna",
        Some(Peer::LlamaCpp) => "llama-cpp",
        Some(Peer::Candle) => "candle",
    }
}

fn percent(share: f64) -> String {
    format!("{:.0}", 100.0 * share)
}

/// Elements, one a line.
#[derive(Default)]
struct Svg(String);

impl Svg {
    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.0 += &format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n");
    }

    fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str) {
        let size = format!("width=\"{width:.1}\" height=\"{height:.1}\"");
        self.0 += &format!("<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" {size}/>\n");
    }

    fn line(&mut self, [x1, y1, x2, y2]: [f64; 4], class: &str) {
        let ends = format!("x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"");
        self.0 += &format!("<line class=\"{class}\" {ends}/>\n");
    }

    /// The document, of a height that its elements take.
    fn finish(self, height: f64) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\" aria-label=\"Share of the machine's limit\">\n<style>\n{STYLE}</style>\n\
             <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n{}</svg>\n",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cell(shape: &str, phase: Phase, peer: Peer, shares: [f64; 2]) -> Value {
        json!({ "shape": shape, "phase": phase.name(), "format": "Q4_0", "peer": peer.name(),
                "puna_share": shares[0], "peer_share": shares[1] })
    }

    fn run(cells: &[Value]) -> Value {
        json!({ "machine": { "cpu": "Fish & <Chips>", "threads": 2, "puna": "CPU, AVX2, 2 threads" }, "cells": cells })
    }

    fn svg(cells: &[Value]) -> String {
        let mut plot = Plot::default();
        plot.add(&run(cells)).unwrap();
        plot.svg()
    }

    /// The attributes of all elements with this beginning, but for the page and the legend.
    fn all(svg: &str, element: &str, attributes: [&str; 2]) -> Vec<[f64; 2]> {
        let value = |line: &str, name: &str| -> f64 {
            line.split_once(&format!(" {name}=\"")).unwrap().1.split_once('"').unwrap().0.parse().unwrap()
        };
        let lines = svg.lines().filter(|line| line.starts_with(element));
        let y = if element.starts_with("<line") { "y1" } else { "y" };
        let lines = lines.filter(|line| line.contains(" y") && value(line, y) > HEAD);
        lines.map(|line| attributes.map(|name| value(line, name))).collect()
    }

    #[test]
    fn bars_are_as_long_as_shares() {
        let svg = svg(&[cell("llama-3.2-1b", Phase::Decode, Peer::LlamaCpp, [0.5, 0.25])]);
        let [[start, puna]] = all(&svg, "<rect class=\"puna\"", ["x", "width"])[..] else { panic!("{svg}") };
        let [[_, peer]] = all(&svg, "<rect class=\"llama-cpp\"", ["x", "width"])[..] else { panic!("{svg}") };
        let [[limit, _]] = all(&svg, "<line class=\"limit\"", ["x1", "y1"])[..] else { panic!("{svg}") };
        // Figures are written to a tenth.
        assert!((puna - 2.0 * peer).abs() < 0.2 && (limit - start - 2.0 * puna).abs() < 0.2, "{svg}");
        assert!(svg.contains(">50 %<") && svg.contains(">25 %<") && !svg.contains("candle\" x="), "{svg}");
        assert!(svg.contains("Fish &amp; &lt;Chips> · CPU, AVX2, 2 threads"), "{svg}");
    }

    #[test]
    fn nothing_overlaps_and_the_scale_goes_on() {
        let mut cells = Vec::new();
        for shape in SHAPES {
            for phase in Phase::value_variants() {
                cells.push(cell(shape, *phase, Peer::LlamaCpp, [2.6, 1.0]));
                cells.push(cell(shape, *phase, Peer::Candle, [2.6, 0.3]));
            }
        }
        let svg = svg(&cells);
        let [limit, ..] = all(&svg, "<line class=\"limit\"", ["x1", "y1"])[..] else { panic!("{svg}") };
        let [[start, width], ..] = all(&svg, "<rect class=\"puna\"", ["x", "width"])[..] else { panic!("{svg}") };
        assert!(start + width > limit[0] + 1.5 * (limit[0] - start), "{svg}");
        let mut bars = Vec::new();
        for class in RUNNERS.map(class) {
            let places = all(&svg, &format!("<rect class=\"{class}\""), ["x", "y"]);
            assert_eq!(places.len(), SHAPES.len() * Phase::value_variants().len(), "{class}: {svg}");
            bars.extend(places);
        }
        for (i, [x, y]) in bars.iter().enumerate() {
            assert!(bars[..i].iter().all(|[other_x, other_y]| x != other_x || (y - other_y).abs() >= BAR), "{svg}");
        }
        // Nor does the line cross a figure.
        let near = cell("llama-3.2-1b", Phase::Decode, Peer::Candle, [0.97, 0.9]);
        let near = self::svg(&[near]);
        let [[limit, _]] = all(&near, "<line class=\"limit\"", ["x1", "y1"])[..] else { panic!("{near}") };
        let figures = all(&near, "<text class=\"figure", ["x", "y"]);
        assert!(figures.len() == 2 && figures.iter().all(|[x, _]| *x > limit || x + FIGURE <= limit + 5.0), "{near}");
        // A column's bars and their figures end before the next column's names begin.
        let second = bars.iter().map(|[x, _]| *x).fold(0.0, f64::max);
        assert!(start + width + END <= second - NAMES, "{svg}");
        assert!(second + width + END <= WIDTH - MARGIN + 0.2, "{svg}");
    }

    #[test]
    fn several_figures_of_one_runner_become_their_mean() {
        let peers = [(Peer::LlamaCpp, [0.6, 0.4]), (Peer::Candle, [0.8, 0.2])];
        let svg = svg(&peers.map(|(peer, shares)| cell("llama-3.2-1b", Phase::Decode, peer, shares)));
        assert_eq!(all(&svg, "<rect class=\"puna\"", ["x", "y"]).len(), 1, "{svg}");
        assert!(svg.contains(">70 %<") && svg.contains(">40 %<") && svg.contains(">20 %<"), "{svg}");
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let good = cell("llama-3.2-1b", Phase::Decode, Peer::Candle, [0.5, 0.5]);
        let refused = |run: &Value| {
            let mut plot = Plot::default();
            plot.add(&self::run(std::slice::from_ref(&good))).unwrap();
            plot.add(run).unwrap_err().to_string()
        };
        assert_eq!(refused(&run(&[])), "expected `cells` as --json prints them, found none");
        let mut other = run(std::slice::from_ref(&good));
        other["machine"]["threads"] = json!(4);
        assert!(refused(&other).starts_with("expected the machine of the file before"));
        for field in ["shape", "phase", "format", "peer", "puna_share", "peer_share"] {
            let mut cell = good.clone();
            cell[field] = json!("other");
            let error = refused(&run(&[cell]));
            assert!(error.starts_with(&format!("{field}: expected")) && error.ends_with("found \"other\""), "{error}");
        }
    }
}
