//! Times of loads as a picture: for every share of them, what they took at most.

use super::load::{Measured, Times};
use crate::scale::Scale;
use crate::svg::{line, text};
use std::fmt::Write;

/// Sizes, in the picture's units.
const WIDTH: f64 = 720.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const HEIGHT: f64 = 240.0;
/// Above each plot, for its title, and below it, for the shares.
const ABOVE: f64 = 40.0;
const BELOW: f64 = 34.0;
/// Of a line of the legend.
const LINE: f64 = 20.0;

/// Points of a curve.
const POINTS: usize = 200;

/// One for each load, then again from the first.
const COLOURS: [&str; 6] = ["#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#b45309", "#0e7490"];

const STYLE: &str = "text { font: 12px system-ui, sans-serif; fill: #6f6862; } .rule { stroke: #e7e5e4; } \
                     .tick, .axis { stroke: #6f6862; } .paper { fill: #fff; } path { fill: none; stroke-width: 2; \
                     stroke-linejoin: round; }";

/// Some of the times.
type Which = fn(&Measured) -> &Times;

/// The whole picture.
pub fn svg(measured: &[Measured]) -> String {
    let panels: [(&str, Which); 2] =
        [("Milliseconds to the first token", |of| &of.first), ("Milliseconds between tokens", |of| &of.between)];
    let legend = measured.len() as f64 * LINE + 8.0;
    let height = legend + panels.len() as f64 * (ABOVE + HEIGHT + BELOW);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Times of a server under load\">\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    for (idx, of) in measured.iter().enumerate() {
        let y = 8.0 + (idx as f64 + 0.5) * LINE;
        let _ = writeln!(svg, "<path stroke=\"{}\" d=\"M{LEFT} {y}h24\"/>", COLOURS[idx % COLOURS.len()]);
        let shared = 100.0 * of.load.shared;
        let common = if shared > 0.0 { format!(", {shared:.0} % of prompts in common") } else { String::new() };
        let what = format!("{}{common}: {:.1} tokens/s", of.load.arrivals, of.tokens_per_second());
        svg += &text("start", LEFT + 32.0, y + 4.0, &what);
    }
    for (idx, (title, times)) in panels.into_iter().enumerate() {
        let top = legend + idx as f64 * (ABOVE + HEIGHT + BELOW) + ABOVE;
        svg += &text("start", LEFT, top - 14.0, title);
        svg += &panel(measured, times, top);
    }
    svg + "</svg>\n"
}

fn panel(measured: &[Measured], times: Which, top: f64) -> String {
    let curve = |of: &Measured| -> Vec<(f64, f64)> {
        let at = |idx: usize| idx as f64 / POINTS as f64;
        (0..=POINTS).filter_map(|idx| Some((at(idx), 1e3 * times(of).quantile(at(idx))?))).collect()
    };
    let curves: Vec<Vec<(f64, f64)>> = measured.iter().map(curve).collect();
    let Some(y) = Scale::logarithmic(curves.iter().flatten().map(|(_, value)| *value)) else {
        return text("start", LEFT, top + HEIGHT / 2.0, "nothing was measured");
    };
    let (x, width, bottom) = (Scale::shares(), WIDTH - LEFT - RIGHT, top + HEIGHT);
    let place = |share: f64, value: f64| {
        // A logarithm has no place for 0.
        let up = y.place(value).max(0.0);
        (LEFT + x.place(share) * width, bottom - up * HEIGHT)
    };
    let mut svg = String::new();
    for tick in y.ticks(6) {
        let (_, at) = place(0.0, tick.value);
        svg += &line("rule", [LEFT, at, LEFT + width, at]);
        svg += &text("end", LEFT - 8.0, at + 4.0, &tick.label);
    }
    for tick in x.ticks(4) {
        let (at, _) = place(tick.value, 1.0);
        svg += &line("tick", [at, bottom, at, bottom + 4.0]);
        svg += &text("middle", at, bottom + 18.0, &tick.label);
    }
    svg += &line("axis", [LEFT, bottom, LEFT + width, bottom]);
    for (idx, points) in curves.iter().enumerate().filter(|(_, points)| !points.is_empty()) {
        let mut path = String::new();
        for (n, (share, value)) in points.iter().enumerate() {
            let (x, y) = place(*share, *value);
            let _ = write!(path, "{}{x:.1} {y:.1}", if n == 0 { "M" } else { "L" });
        }
        let _ = writeln!(svg, "<path stroke=\"{}\" d=\"{path}\"/>", COLOURS[idx % COLOURS.len()]);
    }
    svg
}
