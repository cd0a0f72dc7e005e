//! A run as a page for browsers: one file without scripts, which loads nothing.

use super::figures;
use super::summary::{Points, State, Summary, smoothed, typical};
use super::svg::Chart;
use crate::scale::Scale;
use crate::show;
use puna_train::log::{Step, Valid};
use std::path::Path;

const STYLE: &str = "\
:root { color-scheme: light dark; --page: #fafaf9; --card: #fff; --ink: #1c1917; --quiet: #6f6862; --line: #e7e5e4;
  --mean: #c2410c; --valid: #334155; --bad: #b91c1c; --good: #15803d; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0f0e0d; --card: #1a1816; --ink: #ece9e6; --quiet: #a39c95; --line: #322e2b;
    --mean: #fb923c; --valid: #cbd5e1; --bad: #f87171; --good: #4ade80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { margin: 0; font-size: 24px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 0; font-size: 15px; }
p { margin: 0; }
.quiet, th, footer { color: var(--quiet); }
header { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: baseline; margin-bottom: 20px; }
header p { flex-basis: 100%; overflow-wrap: anywhere; }
.state { border: 1px solid; border-radius: 999px; padding: 0 10px; font-size: 13px; line-height: 22px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
.grid .wide { grid-column: 1 / -1; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; min-width: 0; }
.tiles { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); margin-bottom: 16px; }
.tiles .card { padding: 10px 16px 12px; }
.tiles p { font-size: 13px; }
.tiles strong { display: block; font-size: 22px; font-weight: 600; line-height: 1.3; }
figure { margin: 0; }
figcaption { display: flex; flex-wrap: wrap; justify-content: end; gap: 0 16px; align-items: baseline;
  margin-bottom: 8px; }
figcaption h2 { flex: 1 0 auto; }
figcaption span { color: var(--quiet); font-size: 13px; white-space: nowrap; }
figcaption i { display: inline-block; vertical-align: middle; margin-right: 6px; }
i.mean { width: 16px; border-top: 2px solid var(--mean); }
i.single { width: 16px; border-top: 2px solid var(--mean); opacity: 0.35; }
i.valid, i.best { width: 8px; height: 8px; border: 1.5px solid var(--valid); border-radius: 50%; }
i.best { background: var(--valid); }
i.unchanged { width: 2px; height: 10px; background: var(--bad); }
i.resumed { height: 12px; border-left: 1px dashed var(--quiet); }
figure svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--quiet); font-variant-numeric: tabular-nums; }
svg .rule { stroke: var(--line); } svg .axis, svg .tick { stroke: var(--quiet); stroke-opacity: 0.6; }
svg .resumed { stroke: var(--quiet); stroke-dasharray: 3 3; }
svg path { fill: none; stroke-linejoin: round; stroke-linecap: round; }
svg .single { stroke: var(--mean); stroke-opacity: 0.25; }
svg .mean { stroke: var(--mean); stroke-width: 2; } svg .point { fill: var(--mean); }
svg .between { stroke: var(--valid); stroke-opacity: 0.5; stroke-dasharray: 2 3; }
svg .valid { fill: var(--card); stroke: var(--valid); stroke-width: 1.5; } svg .best { fill: var(--valid); }
svg .unchanged { stroke: var(--bad); stroke-width: 1.5; }
svg .part { fill: transparent; } svg .part:hover { fill: var(--quiet); fill-opacity: 0.12; }
.scroll { max-height: 240px; overflow: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
h2 + table, h2 + .scroll { margin-top: 8px; }
td, th { padding: 4px 12px 4px 0; text-align: left; vertical-align: top; font-weight: normal;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
tr:first-child td, tr:first-child th { border-top: 0; }
th { width: 1%; padding-right: 24px; white-space: nowrap; }
.head th { position: sticky; top: 0; background: var(--card); }
.right { text-align: right; padding-right: 24px; white-space: nowrap; }
tr.best td { font-weight: 600; }
footer { margin-top: 20px; font-size: 13px; }
.narrow { display: none !important; }
@media (max-width: 900px) { svg text { font-size: 14px; } }
@media (max-width: 720px) {
  main { padding: 20px 12px 32px; } .wide-chart { display: none !important; } .narrow { display: block !important; }
  .tiles { gap: 8px; grid-template-columns: 1fr 1fr; } .grid { gap: 8px; }
  figure svg { max-width: 520px; margin: 0 auto; }
  .card, .tiles .card { padding: 10px 12px; } }
";

/// The whole page.
pub fn page(summary: &Summary) -> String {
    let model = text(&file_name(&summary.start.model));
    let facts = summary.facts();
    let fact = |wanted: &str| facts.iter().find(|(label, _)| *label == wanted).map_or("", |(_, fact)| fact);
    let class = match summary.state {
        State::Finished | State::Early => "state good",
        State::Failed | State::Diverged => "state bad",
        State::Running | State::Stopped => "state",
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n\
         <title>{model}: a training run</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header><h1>{model}</h1><span class=\"{class}\">{}</span>\n<p class=\"quiet\">{}</p></header>\n",
        summary.state.name(),
        text(&format!("{} · {}", fact("training"), fact("data"))),
    );
    page += &tiles(summary);
    page += "<div class=\"grid\">\n";
    page += &charts(summary);
    page += &validations(summary);
    page += &settings(&facts, summary.valid.is_empty());
    page += &format!(
        "</div>\n<footer>Of the log of step {}, by puna {}</footer>\n</main>\n</body>\n</html>\n",
        figures::count(summary.last_step()),
        env!("CARGO_PKG_VERSION")
    );
    page
}

/// Text of a file as a page may show it.
fn text(text: &str) -> String {
    show::one_line(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The last part of a path; whatever has none, whole.
fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The figures that everybody looks for first.
fn tiles(summary: &Summary) -> String {
    let mut tiles = Vec::new();
    let steps = figures::count(summary.start.steps);
    tiles.push(("steps", figures::count(summary.last_step()), format!("of {steps}")));
    if let Some(loss) = summary.loss() {
        tiles.push(("training loss", figures::loss(loss), summary.mean_over()));
    }
    if let Some(best) = summary.best() {
        let after = format!("the best, after step {}", figures::count(best.step));
        tiles.push(("validation loss", figures::loss(best.loss), after));
    }
    if let Some(speed) = summary.tokens_per_second() {
        let tokens = figures::count(summary.n_tokens());
        tiles.push(("tokens a second", figures::speed(speed), format!("{tokens} tokens so far")));
        let note = match (summary.seconds_left(), summary.seconds_in_all) {
            (Some(left), _) => format!("about {} left", figures::duration(left)),
            (None, Some(all)) => format!("{} in all", figures::duration(all)),
            (None, None) => String::new(),
        };
        tiles.push(("time in steps", figures::duration(summary.seconds()), note));
    }
    let tile = |(label, figure, note): (&str, String, String)| {
        format!(
            "<div class=\"card\"><p class=\"quiet\">{label}</p><strong>{figure}</strong>\
             <p class=\"quiet\">{note}</p></div>\n"
        )
    };
    format!("<div class=\"tiles\">\n{}</div>\n", tiles.into_iter().map(tile).collect::<String>())
}

/// A figure that steps have, and perhaps validations.
struct Figure {
    title: &'static str,
    of_step: fn(&Step) -> Option<f64>,
    of_valid: fn(&Valid) -> Option<f64>,
    axis: Axis,
    /// Whether it changes so much from step to step that a mean tells more.
    is_rough: bool,
    write: fn(f64) -> String,
}

enum Axis {
    /// Around all but outliers.
    Around,
    FromZero,
    Logarithmic,
    Shares,
}

/// The charts, and warnings below the first one.
fn charts(summary: &Summary) -> String {
    let loss = Figure {
        title: "Loss",
        of_step: |step| Some(step.loss),
        of_valid: |valid| Some(valid.loss),
        axis: Axis::Around,
        is_rough: true,
        write: figures::loss,
    };
    let margin = Figure {
        title: "Margin of chosen over rejected",
        of_step: |step| step.margin,
        of_valid: |_| None,
        axis: Axis::Around,
        is_rough: true,
        write: figures::loss,
    };
    let accuracy = Figure {
        title: "Pairs with a margin above 0",
        of_step: |step| step.accuracy,
        of_valid: |valid| valid.accuracy,
        axis: Axis::Shares,
        is_rough: true,
        write: figures::share,
    };
    let rate = Figure {
        title: "Learning rate",
        of_step: |step| Some(show::shortest(step.lr)),
        of_valid: |_| None,
        axis: Axis::FromZero,
        is_rough: false,
        write: |rate| format!("{rate:.3e}"),
    };
    let norm = Figure {
        title: "Norm of the gradient",
        of_step: |step| Some(step.gradient_norm),
        of_valid: |_| None,
        axis: Axis::Logarithmic,
        is_rough: true,
        write: figures::loss,
    };
    let speed = Figure {
        title: "Tokens a second",
        of_step: |step| Some(step.tokens as f64 / step.seconds),
        of_valid: |_| None,
        axis: Axis::FromZero,
        is_rough: true,
        write: figures::speed,
    };
    let mut text = loss.draw(summary, true).unwrap_or_else(|| {
        let why = if summary.steps.is_empty() { "No step was taken yet" } else { "No step had a finite loss" };
        format!("<p class=\"card wide quiet\">{why}, so there is nothing to draw.</p>\n")
    });
    text += &cautions(summary);
    text.extend([margin, accuracy, norm, rate, speed].iter().filter_map(|figure| figure.draw(summary, false)));
    text
}

impl Figure {
    /// None if no step has it.
    fn draw(&self, summary: &Summary, is_wide: bool) -> Option<String> {
        let single = summary.points(self.of_step);
        let valid = summary.valid_points(self.of_valid);
        let mean = if self.is_rough { smoothed(&single, summary.smoothing) } else { single.clone() };
        let values = |points: &Points| points.iter().map(|(_, value)| *value).collect::<Vec<_>>();
        let range = [values(&mean), values(&valid), typical(&single).into_iter().flatten().collect()].concat();
        let y = match self.axis {
            _ if single.is_empty() && valid.is_empty() => None,
            Axis::Around => Scale::around(range),
            Axis::FromZero => Scale::from_zero(range),
            Axis::Logarithmic => Scale::logarithmic(values(&single)),
            Axis::Shares => Some(Scale::shares()),
        }?;
        // A logarithmic axis has no place for 0.
        let on_axis = |points: Points| -> Points {
            points.into_iter().filter(|(_, value)| y.place(*value).is_finite()).collect()
        };
        let (single, mean) = (on_axis(single), on_axis(mean));
        let best = summary.best().and_then(|best| Some((best.step as f64, (self.of_valid)(best)?)));
        let chart = Chart {
            title: self.title,
            last_step: summary.last_charted_step(),
            y,
            single: if self.is_rough { single } else { Points::new() },
            mean,
            best: best.filter(|best| valid.contains(best)),
            valid,
            resumed_after: summary.resumed_after.clone(),
            unchanged: if is_wide { summary.unchanged() } else { Vec::new() },
            figure: self.write,
        };
        let class = if is_wide { "card wide" } else { "card" };
        let mut text = format!("<figure class=\"{class}\">\n<figcaption><h2>{}</h2>", self.title);
        let is_mean = self.is_rough && summary.smoothing > 0.0;
        let mean_over = summary.mean_over();
        for (class, what, is_drawn) in [
            ("mean", mean_over.as_str(), is_mean && is_wide),
            ("single", "single steps", self.is_rough && is_wide),
            ("valid", "validation", !chart.valid.is_empty()),
            ("best", "the best", chart.best.is_some()),
            ("unchanged", "nothing changed", !chart.unchanged.is_empty()),
            ("resumed", "resumed", is_wide && !chart.resumed_after.is_empty()),
        ] {
            if is_drawn {
                text += &format!("<span><i class=\"{class}\"></i>{what}</span>");
            }
        }
        text += "</figcaption>\n";
        if is_wide {
            text += &chart.svg(970.0, 340.0, "wide-chart");
            text += &chart.svg(420.0, 260.0, "narrow");
        } else {
            text += &chart.svg(440.0, 220.0, "");
        }
        Some(text + "</figure>\n")
    }
}

fn cautions(summary: &Summary) -> String {
    let cautions = summary.cautions();
    if cautions.is_empty() {
        return String::new();
    }
    let row = |(step, message): &(u64, String)| {
        format!("<tr><th>step {}</th><td>{}</td></tr>\n", figures::count(*step), text(message))
    };
    let rows: String = cautions.iter().map(row).collect();
    format!(
        "<section class=\"card wide\"><h2>Warnings</h2>\n<div class=\"scroll\"><table>\n{rows}\
         </table></div></section>\n"
    )
}

fn validations(summary: &Summary) -> String {
    if summary.valid.is_empty() {
        return String::new();
    }
    let best = summary.best().map(|best| best.step);
    let has_accuracy = summary.valid.iter().any(|valid| valid.accuracy.is_some());
    let cell = |text: &str| format!("<td class=\"right\">{text}</td>");
    let row = |valid: &Valid| {
        let is_best = best == Some(valid.step);
        let accuracy = cell(&valid.accuracy.map_or("–".to_owned(), figures::share));
        format!(
            "<tr{}>{}{}{}<td>{}</td></tr>\n",
            if is_best { " class=\"best\"" } else { "" },
            cell(&figures::count(valid.step)),
            cell(&figures::loss(valid.loss)),
            if has_accuracy { &accuracy } else { "" },
            if is_best { "the best" } else { "" },
        )
    };
    let accuracy = if has_accuracy { "<th class=\"right\">accuracy</th>" } else { "" };
    format!(
        "<section class=\"card\"><h2>Validation</h2>\n<div class=\"scroll\"><table>\n\
         <tr class=\"head\"><th class=\"right\">after step</th><th class=\"right\">loss</th>{accuracy}<td></td></tr>\n\
         {}</table></div></section>\n",
        summary.valid.iter().map(row).collect::<String>()
    )
}

/// All that is known in words; over the whole width, or in the place of a chart.
fn settings(facts: &[(&str, String)], is_narrow: bool) -> String {
    let class = if is_narrow { "card" } else { "card wide" };
    let row = |(label, fact): &(&str, String)| format!("<tr><th>{label}</th><td>{}</td></tr>\n", text(fact));
    let rows: String = facts.iter().map(row).collect();
    format!("<section class=\"{class}\"><h2>The run</h2>\n<table>\n{rows}</table></section>\n")
}
