//! How figures, progress and text of others look on the terminal. Figures and progress go to standard error.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// A bar of bytes; hidden where standard error is not a terminal.
pub fn byte_bar(what: &str, total: u64) -> ProgressBar {
    bar(what, total, "{msg:12} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// A bar of tokens.
pub fn token_bar(what: &str, total: u64) -> ProgressBar {
    bar(what, total, "{msg:12} {bar:40} {human_pos}/{human_len} tokens {per_sec} {eta}")
}

/// A bar of steps, with a message that changes.
pub fn step_bar(total: u64) -> ProgressBar {
    bar("", total, "{pos}/{len} {bar:30} {msg} {eta}")
}

/// Something that goes on, of unknown length.
pub fn spinner(what: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what.to_owned());
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner
}

fn bar(what: &str, total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("a valid template");
    ProgressBar::new(total).with_style(style).with_message(what.to_string())
}

/// Text of a model or a file as a terminal may show it: control characters, which could command the terminal, become
/// pictures of themselves. Line ends and tabs stay.
pub fn harmless(text: &str) -> String {
    let picture = |c| match c {
        '\n' | '\t' => c,
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' => char::REPLACEMENT_CHARACTER,
        _ => c,
    };
    text.chars().map(picture).collect()
}

/// Text of a file in one line of a terminal.
pub fn one_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

/// Whether output may have colours: on a terminal, if neither the command line nor the variable NO_COLOR is against it.
pub fn has_colours(output: &impl IsTerminal, no_color: bool) -> bool {
    let no_color = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    output.is_terminal() && !no_color
}

/// An error with its causes, in one line. What it quotes may come from a stranger's file.
pub fn error(error: &anyhow::Error) -> String {
    format!("error: {}", harmless(&format!("{error:#}")).replace('\n', " "))
}

/// What is wrong with a JSON text of one line: the column, and the problem. The error's own words count lines, too.
pub fn json_error(error: &serde_json::Error) -> (usize, String) {
    let problem = error.to_string();
    let (problem, _) = problem.rsplit_once(" at line ").unwrap_or((&problem, ""));
    (error.column(), problem.to_owned())
}

/// Bytes for people: `4.65 GiB`.
pub fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// Seconds for people: `3m 20s`.
pub fn duration(seconds: f64) -> String {
    indicatif::HumanDuration(std::time::Duration::try_from_secs_f64(seconds).unwrap_or(std::time::Duration::MAX))
        .to_string()
}

/// Rows as columns: of the first ones the left sides are in line, of the others, which are numbers, the right ones.
pub fn table(rows: &[Vec<String>], n_left: usize) -> String {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.chars().count().max(*width));
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < n_left { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text += "\n";
    }
    text
}

/// The number that is written as the f32 is: 1e-5 and not 9.99999974e-6.
pub fn shortest(value: f32) -> f64 {
    value.to_string().parse().expect("a float's text is a float")
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_in_line() {
        let rows = [["a", "n", ""], ["ünique", "1", "x"], ["", "100", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(super::table(&rows, 1), "a         n\nünique    1  x\n        100\n");
    }

    #[test]
    fn nothing_that_commands_a_terminal_is_left() {
        assert_eq!(super::harmless("a\tb\n\u{1b}[2J\r\u{7f}\u{9b}ü\u{1f600}"), "a\tb\n␛[2J␍␡\u{fffd}ü\u{1f600}");
        let all: String = (0..=0x9f).filter_map(char::from_u32).collect();
        let left: Vec<char> = super::harmless(&all).chars().filter(|c| c.is_control()).collect();
        assert_eq!(left, ['\t', '\n']);
    }
}
