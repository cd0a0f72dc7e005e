//! A chart of a figure over steps, as SVG inside of a page whose style has the classes that are named here.

use super::summary::{Points, thinned};
use crate::scale::Scale;
use crate::svg::{circle, line, text};
use std::fmt::Write;

/// Between the plot and the edges, in the picture's units; the left edge depends on the labels.
const TOP: f64 = 8.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 26.0;
/// The widest that a character of a label is.
const CHARACTER: f64 = 7.6;
/// Between a label and the plot.
const GAP: f64 = 8.0;
/// So many parts of a chart tell what they show when one points there.
const PARTS: u64 = 48;

/// What is drawn.
pub struct Chart {
    /// What a screen reader says.
    pub title: &'static str,
    /// The right end.
    pub last_step: u64,
    pub y: Scale,
    /// Every step, faint; it may leave the range.
    pub single: Points,
    /// A line.
    pub mean: Points,
    /// Rings on a thin line.
    pub valid: Points,
    /// A disc instead of a ring.
    pub best: Option<(f64, f64)>,
    /// Broken upright lines.
    pub resumed_after: Vec<u64>,
    /// Short lines at the foot.
    pub unchanged: Vec<u64>,
    /// Writes a value.
    pub figure: fn(f64) -> String,
}

/// Where the plot lies in its picture.
struct Frame<'a> {
    x: Scale,
    y: &'a Scale,
    left: f64,
    width: f64,
    height: f64,
}

impl Frame<'_> {
    fn x(&self, step: f64) -> f64 {
        self.left + self.x.place(step) * self.width
    }

    fn y(&self, value: f64) -> f64 {
        TOP + (1.0 - self.y.place(value)) * self.height
    }

    /// A path through points that are not many more than the picture can show.
    fn path(&self, points: &Points, last_step: u64) -> String {
        let mut path = String::new();
        for (idx, (step, value)) in thinned(points, last_step, self.width as usize).into_iter().enumerate() {
            // Far outside is as good as outside.
            let y = self.y(value).clamp(-1e4, 1e4);
            let _ = write!(path, "{}{:.1} {y:.1}", if idx == 0 { "M" } else { "L" }, self.x(step));
        }
        path
    }
}

impl Chart {
    /// A picture of this size, which may be stretched.
    pub fn svg(&self, width: f64, height: f64, class: &str) -> String {
        let y_ticks = self.y.ticks((height / 45.0) as usize);
        let longest = y_ticks.iter().map(|tick| tick.label.len()).max().unwrap_or(0).max("step".len());
        let left = longest as f64 * CHARACTER + 1.5 * GAP;
        let frame = Frame {
            x: Scale::steps(self.last_step),
            y: &self.y,
            left,
            width: width - left - RIGHT,
            height: height - TOP - BOTTOM,
        };
        let [right, bottom] = [left + frame.width, TOP + frame.height];
        let mut svg = format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{} over steps\">\n",
            self.title
        );
        for tick in y_ticks {
            let y = frame.y(tick.value);
            svg += &line("rule", [left, y, right, y]);
            svg += &text("end", left - GAP, y + 4.0, &tick.label);
        }
        let baseline = bottom + 17.0;
        svg += &text("end", left - 1.5 * GAP, baseline, "step");
        let mut free = left - GAP / 2.0;
        for tick in frame.x.ticks((frame.width / 75.0) as usize) {
            let x = frame.x(tick.value);
            svg += &line("tick", [x, bottom, x, bottom + 4.0]);
            let half = tick.label.len() as f64 * CHARACTER / 2.0;
            let middle = x.min(width - half);
            if middle - half >= free {
                svg += &text("middle", middle, baseline, &tick.label);
                free = middle + half + GAP;
            }
        }
        svg += &line("axis", [left, bottom, right, bottom]);
        for step in &self.resumed_after {
            let x = frame.x(*step as f64);
            svg += &line("resumed", [x, TOP, x, bottom]);
        }
        if self.single.len() > 1 {
            // What leaves the range is cut off at the edge of the inner picture.
            let size = format!("width=\"{:.1}\" height=\"{:.1}\"", frame.width, frame.height);
            let view = format!("viewBox=\"{left:.1} {TOP:.1} {:.1} {:.1}\"", frame.width, frame.height);
            let path = frame.path(&self.single, self.last_step);
            svg += &format!(
                "<svg x=\"{left:.1}\" y=\"{TOP:.1}\" {size} {view}><path class=\"single\" d=\"{path}\"/></svg>\n"
            );
        }
        svg += &self.unchanged(&frame, bottom);
        match self.mean[..] {
            [(step, value)] => svg += &circle("point", frame.x(step), frame.y(value), 3.0, &self.what(step, value)),
            _ => svg += &format!("<path class=\"mean\" d=\"{}\"/>\n", frame.path(&self.mean, self.last_step)),
        }
        if self.valid.len() > 1 {
            svg += &format!("<path class=\"between\" d=\"{}\"/>\n", frame.path(&self.valid, self.last_step));
        }
        svg += &self.parts(&frame);
        for (step, value) in &self.valid {
            let is_best = self.best == Some((*step, *value));
            let what = if is_best { "the best validation" } else { "validation" };
            let title = format!("{what} after step {step}: {}", (self.figure)(*value));
            let (class, radius) = if is_best { ("best", 4.5) } else { ("valid", 3.0) };
            svg += &circle(class, frame.x(*step), frame.y(*value), radius, &title);
        }
        svg + "</svg>\n"
    }

    /// One line for all steps that fall together.
    fn unchanged(&self, frame: &Frame, bottom: f64) -> String {
        let mut columns: Vec<i64> = self.unchanged.iter().map(|step| frame.x(*step as f64).round() as i64).collect();
        columns.dedup();
        columns.into_iter().map(|x| line("unchanged", [x as f64, bottom - 8.0, x as f64, bottom])).collect()
    }

    /// Upright parts of the plot, each of which says what the line is there.
    fn parts(&self, frame: &Frame) -> String {
        let n_parts = self.last_step.clamp(1, PARTS) as f64;
        let width = frame.width / n_parts;
        let part = |step: f64| (frame.x.place(step) * n_parts).ceil();
        let mut svg = String::new();
        for points in self.mean.chunk_by(|a, b| part(a.0) == part(b.0)) {
            let Some((step, value)) = points.last() else { continue };
            let x = frame.left + (part(*step) - 1.0) * width;
            let height = frame.height;
            let size = format!("x=\"{x:.1}\" y=\"{TOP:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"");
            let what = self.what(*step, *value);
            svg += &format!("<rect class=\"part\" {size}><title>{what}</title></rect>\n");
        }
        svg
    }

    fn what(&self, step: f64, value: f64) -> String {
        format!("step {step}: {}", (self.figure)(value))
    }
}
