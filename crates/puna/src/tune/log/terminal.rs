//! A run in the terminal: what it is, a chart of its loss, its validations and warnings.

use super::figures;
use super::summary::{Points, State, Summary, smoothed, thinned, typical};
use crate::scale::Scale;
use crate::show;

/// Lines of the chart, without its axis.
const ROWS: usize = 14;
/// A narrower chart shows nothing.
const MIN_WIDTH: usize = 40;
/// So many validations and warnings are listed; what is left out is said.
const LISTED: usize = 12;

/// Dots of a braille character, two beside each other and four above each other, by column and row.
const DOTS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// Everything, in lines of at most `width` columns where names do not make them longer.
pub fn draw(summary: &Summary, name: &str, width: usize, colours: bool) -> String {
    let pen = Pen { colours };
    let state = match summary.state {
        State::Failed | State::Diverged => Ink::Bad,
        _ => Ink::Strong,
    };
    let mut text = format!("{} · {}\n", pen.paint(Ink::Strong, name), pen.paint(state, summary.state.name()));
    for (label, fact) in summary.facts() {
        text += &format!("{}{}\n", pen.paint(Ink::Quiet, &format!("{label:12}")), show::one_line(&fact));
    }
    match Chart::new(summary, width.max(MIN_WIDTH)) {
        Some(chart) => text += &format!("\n{}", chart.draw(&pen, &summary.mean_over())),
        None if summary.steps.is_empty() => text += "\nno step was taken yet\n",
        None => text += "\nno step had a finite loss\n",
    }
    text += &validations(summary, &pen);
    text += &cautions(summary, &pen);
    text
}

/// What a piece of text means.
#[derive(Clone, Copy, PartialEq)]
enum Ink {
    Plain,
    Quiet,
    Strong,
    Bad,
    Mean,
    Valid,
}

/// Writes in colours, or does not.
struct Pen {
    colours: bool,
}

impl Pen {
    fn paint(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Plain => return text.to_owned(),
            _ if !self.colours || text.trim().is_empty() => return text.to_owned(),
            Ink::Quiet => "2",
            Ink::Strong => "1",
            Ink::Bad => "31;1",
            Ink::Mean => "36",
            Ink::Valid => "33",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A character of the chart. What comes later hides what comes before.
#[derive(Clone, Copy, PartialEq)]
enum Cell {
    Empty,
    /// Single steps lie here.
    Range,
    /// Dots of the mean.
    Mean(u8),
    Valid,
    Best,
}

impl Cell {
    fn symbol(self) -> char {
        match self {
            Cell::Empty => ' ',
            Cell::Range => '·',
            Cell::Mean(dots) => char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' '),
            Cell::Valid => '○',
            Cell::Best => '●',
        }
    }

    fn ink(self) -> Ink {
        match self {
            Cell::Empty => Ink::Plain,
            Cell::Range => Ink::Quiet,
            Cell::Mean(_) => Ink::Mean,
            Cell::Valid | Cell::Best => Ink::Valid,
        }
    }
}

/// The loss over steps.
struct Chart {
    x: Scale,
    y: Scale,
    /// [`ROWS`] lines of as many cells as there are columns.
    cells: Vec<Vec<Cell>>,
    /// Columns between the left edge and the axis.
    margin: usize,
}

impl Chart {
    /// None without a loss. `width` is that of the whole.
    fn new(summary: &Summary, width: usize) -> Option<Chart> {
        let last = summary.last_charted_step();
        let single = summary.points(|step| Some(step.loss));
        let mean = smoothed(&single, summary.smoothing);
        let valid = summary.valid_points(|valid| Some(valid.loss));
        let drawn = mean.iter().chain(&valid).map(|(_, loss)| *loss);
        let y = Scale::around(drawn.chain(typical(&single).into_iter().flatten()))?;
        let longest = y.ticks(ROWS / 2).iter().map(|tick| tick.label.len()).max().unwrap_or(0);
        let margin = longest.max("step".len()) + 1;
        let n_columns = width - margin - 1;
        let mut chart = Chart { x: Scale::steps(last), y, cells: vec![vec![Cell::Empty; n_columns]; ROWS], margin };
        for (step, loss) in &single {
            let [column, row] = chart.cell(*step, *loss);
            chart.cells[row][column] = Cell::Range;
        }
        chart.fill_ranges();
        chart.line(&thinned(&mean, last, 2 * n_columns));
        for (step, loss) in &valid {
            let [column, row] = chart.cell(*step, *loss);
            chart.cells[row][column] = Cell::Valid;
        }
        if let Some(best) = summary.best().filter(|best| best.loss.is_finite()) {
            let [column, row] = chart.cell(best.step as f64, best.loss);
            chart.cells[row][column] = Cell::Best;
        }
        Some(chart)
    }

    fn n_columns(&self) -> usize {
        self.cells[0].len()
    }

    /// The dot at a step and a loss, from the upper left; what lies outside is at the edge.
    fn dot(&self, step: f64, loss: f64) -> [usize; 2] {
        let on = |place: f64, n_dots: usize| (place.clamp(0.0, 1.0) * (n_dots - 1) as f64).round() as usize;
        [on(self.x.place(step), 2 * self.n_columns()), on(1.0 - self.y.place(loss), 4 * ROWS)]
    }

    fn cell(&self, step: f64, loss: f64) -> [usize; 2] {
        let [x, y] = self.dot(step, loss);
        [x / 2, y / 4]
    }

    /// Between the lowest and the highest single step of each column.
    fn fill_ranges(&mut self) {
        for column in 0..self.n_columns() {
            let is_range = |row: &usize| self.cells[*row][column] == Cell::Range;
            let (first, last) = ((0..ROWS).find(is_range), (0..ROWS).rev().find(is_range));
            for row in first.into_iter().flat_map(|first| first..=last.unwrap_or(first)) {
                self.cells[row][column] = Cell::Range;
            }
        }
    }

    fn line(&mut self, points: &Points) {
        let dots: Vec<[usize; 2]> = points.iter().map(|(step, loss)| self.dot(*step, *loss)).collect();
        for (i, to) in dots.iter().enumerate() {
            let from = dots[i.saturating_sub(1)];
            let n = from[0].abs_diff(to[0]).max(from[1].abs_diff(to[1])).max(1);
            for j in 0..=n {
                let between = |axis: usize| {
                    let (from, to) = (from[axis] as f64, to[axis] as f64);
                    (from + (to - from) * j as f64 / n as f64).round() as usize
                };
                let [x, y] = [between(0), between(1)];
                let cell = &mut self.cells[y / 4][x / 2];
                let before = if let Cell::Mean(dots) = cell { *dots } else { 0 };
                *cell = Cell::Mean(before | DOTS[x % 2][y % 4]);
            }
        }
    }

    fn draw(&self, pen: &Pen, mean_over: &str) -> String {
        let mut labels = vec![String::new(); ROWS];
        for tick in self.y.ticks(ROWS / 2) {
            let [_, row] = self.cell(0.0, tick.value);
            labels[row] = tick.label;
        }
        let mut text = String::new();
        for (label, cells) in labels.iter().zip(&self.cells) {
            let axis = if label.is_empty() { "│" } else { "┤" };
            text += &pen.paint(Ink::Quiet, &format!("{label:>0$} {axis}", self.margin - 1));
            let mut line = String::new();
            for cells in cells.chunk_by(|a, b| a.ink() == b.ink()) {
                let symbols: String = cells.iter().map(|cell| cell.symbol()).collect();
                line += &pen.paint(cells[0].ink(), &symbols);
            }
            text += line.trim_end();
            text.push('\n');
        }
        text += &self.axis(pen);
        text += &self.legend(pen, mean_over);
        text
    }

    /// The axis of steps, with labels where they have room.
    fn axis(&self, pen: &Pen) -> String {
        let mut line = vec!['─'; self.n_columns()];
        let mut labels = format!("{:>1$}", "step", self.margin - 1);
        let mut next = self.margin + 1;
        for tick in self.x.ticks((self.n_columns() / 10).max(2)) {
            let [column, _] = self.cell(tick.value, 0.0);
            line[column] = '┬';
            let n = tick.label.len();
            let begin = (self.margin + 1 + column).saturating_sub(n / 2);
            let begin = begin.min((self.margin + 1 + self.n_columns()).saturating_sub(n));
            if begin >= next {
                labels += &format!("{:>1$}", tick.label, begin + n - labels.len());
                next = labels.len() + 2;
            }
        }
        let line: String = line.into_iter().collect();
        let line = format!("{}└{line}", " ".repeat(self.margin));
        format!("{}\n{}\n", pen.paint(Ink::Quiet, &line), pen.paint(Ink::Quiet, &labels))
    }

    /// What is drawn, in as many lines as it takes.
    fn legend(&self, pen: &Pen, mean_over: &str) -> String {
        let is_drawn = |cell: Cell| self.cells.iter().flatten().any(|other| *other == cell);
        let mut entries = vec![(Ink::Mean, "⠒⠒", format!("training loss, {mean_over}"))];
        if is_drawn(Cell::Range) {
            entries.push((Ink::Quiet, "··", "single steps".to_owned()));
        }
        if is_drawn(Cell::Valid) || is_drawn(Cell::Best) {
            entries.push((Ink::Valid, "○", "validation".to_owned()));
        }
        if is_drawn(Cell::Best) {
            entries.push((Ink::Valid, "●", "the best".to_owned()));
        }
        let (mut text, mut column) = (String::new(), 0);
        for (ink, symbol, what) in entries {
            let n = symbol.chars().count() + 1 + what.chars().count();
            if column == 0 || column + 3 + n > self.margin + 1 + self.n_columns() {
                text += if column == 0 { "" } else { "\n" };
                text += &" ".repeat(self.margin + 1);
                column = self.margin + 1;
            } else {
                text += "   ";
                column += 3;
            }
            text += &format!("{} {what}", pen.paint(ink, symbol));
            column += n;
        }
        text + "\n"
    }
}

/// A table of the last validations, and of the best one.
fn validations(summary: &Summary, pen: &Pen) -> String {
    if summary.valid.is_empty() {
        return String::new();
    }
    let has_accuracy = summary.valid.iter().any(|valid| valid.accuracy.is_some());
    let accuracy = |text: &str| if has_accuracy { format!("{text:>12}") } else { String::new() };
    let head = format!("{:>12}{:>12}{}", "after step", "loss", accuracy("accuracy"));
    let mut text = format!("\n{}\n{}\n", pen.paint(Ink::Strong, "validation"), pen.paint(Ink::Quiet, &head));
    let best = summary.best().map(|best| best.step);
    let first_listed = summary.valid.len().saturating_sub(LISTED);
    let mut n_left_out = 0;
    for (idx, valid) in summary.valid.iter().enumerate() {
        let is_best = best == Some(valid.step);
        if idx < first_listed && !is_best {
            n_left_out += 1;
            continue;
        }
        let (step, loss) = (figures::count(valid.step), figures::loss(valid.loss));
        let share = accuracy(&valid.accuracy.map_or("–".to_owned(), figures::share));
        let mark = if is_best { pen.paint(Ink::Valid, "  ● the best") } else { String::new() };
        text += &format!("{step:>12}{loss:>12}{share}{mark}\n");
    }
    if n_left_out > 0 {
        text += &pen.paint(Ink::Quiet, &format!("{:>12}{n_left_out} earlier ones: --json has them\n", ""));
    }
    text
}

/// The last warnings.
fn cautions(summary: &Summary, pen: &Pen) -> String {
    let cautions = summary.cautions();
    if cautions.is_empty() {
        return String::new();
    }
    let first_listed = cautions.len().saturating_sub(LISTED);
    let mut text = format!("\n{}\n", pen.paint(Ink::Bad, "warnings"));
    for (step, message) in &cautions[first_listed..] {
        text += &format!("{:>12}  {}\n", figures::count(*step), show::one_line(message));
    }
    if first_listed > 0 {
        text += &pen.paint(Ink::Quiet, &format!("{:>14}{first_listed} earlier ones: --json has them\n", ""));
    }
    text
}
