//! The table of figures, on the terminal and as a page.

use std::fmt::Write;

use crate::known;
use crate::machine::Machine;
use crate::stats::Spread;

/// What a number counts, and how it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Milliseconds,
    PerSecond,
    Kibibytes,
    Mebibytes,
    Count,
    Seconds,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Self::Milliseconds => format!("{value:.2} ms"),
            Self::PerSecond if value < 10.0 => format!("{value:.2}/s"),
            Self::PerSecond => format!("{value:.0}/s"),
            Self::Kibibytes => format!("{value:.0} KiB"),
            Self::Mebibytes => format!("{value:.2} MiB"),
            Self::Count => format!("{value:.0}"),
            Self::Seconds => format!("{value:.2} s"),
        }
    }
}

/// What a figure is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bar {
    /// Nothing: it is told, not judged.
    None,
    AtMost(f64),
    AtLeast(f64),
    /// This part of the floor, in percent.
    OfFloor(f64),
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    name: String,
    unit: Unit,
    measured: f64,
    runs: usize,
    spread: Option<Spread>,
    bar: Bar,
    floor: Option<f64>,
    ratio: Option<f64>,
}

impl Row {
    /// A figure that is the median of `runs` values.
    pub(crate) fn new(name: impl Into<String>, unit: Unit, runs: &[f64]) -> Self {
        Self {
            name: name.into(),
            unit,
            measured: crate::stats::median(runs),
            runs: runs.len(),
            spread: None,
            bar: Bar::None,
            floor: None,
            ratio: None,
        }
    }

    /// The p50 of latencies in milliseconds, in several runs.
    pub(crate) fn p50(name: &str, runs: &[Vec<f64>]) -> Self {
        let spread = Spread::of(runs);
        Self::of_spread(format!("{name}, p50"), runs.len(), spread, spread.p50)
    }

    /// The p99 of latencies in milliseconds, in several runs.
    pub(crate) fn p99(name: &str, runs: &[Vec<f64>]) -> Self {
        let spread = Spread::of(runs);
        Self::of_spread(format!("{name}, p99"), runs.len(), spread, spread.p99)
    }

    fn of_spread(name: String, runs: usize, spread: Spread, measured: f64) -> Self {
        Self {
            runs,
            measured,
            spread: Some(spread),
            ..Self::new(name, Unit::Milliseconds, &[])
        }
    }

    /// What it is to reach.
    #[must_use]
    pub(crate) fn bar(mut self, bar: Bar) -> Self {
        self.bar = bar;
        self
    }

    /// What the machine itself does, measured beside it.
    #[must_use]
    pub(crate) fn floor(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self.ratio = Some(self.measured / floor);
        self
    }

    /// Floors of each run beside the figures of the same runs: their ratio is the median
    /// of the runs' ratios, so that a slow minute of the machine counts on both sides.
    #[must_use]
    pub(crate) fn floors(mut self, floors: &[f64], runs: &[f64]) -> Self {
        let ratios: Vec<f64> = runs
            .iter()
            .zip(floors)
            .map(|(run, floor)| run / floor)
            .collect();
        self.floor = Some(crate::stats::median(floors));
        self.ratio = Some(crate::stats::median(&ratios));
        self
    }

    /// Whether the bar is reached; `None` without a bar. A figure that is no number reaches none.
    fn met(&self) -> Option<bool> {
        match self.bar {
            Bar::None => None,
            Bar::AtMost(bar) => Some(self.measured <= bar),
            Bar::AtLeast(bar) => Some(self.measured >= bar),
            Bar::OfFloor(percent) => Some(self.ratio.is_some_and(|r| r * 100.0 >= percent)),
        }
    }

    /// The columns of the page.
    fn cells(&self) -> [String; 8] {
        let show = |value| self.unit.show(value);
        [
            self.name.clone(),
            self.runs.to_string(),
            show(self.measured),
            self.spread.map_or_else(String::new, |s| {
                format!("{:.2} / {:.2} / {:.2}", s.p50, s.p99, s.max)
            }),
            match self.bar {
                Bar::None => String::new(),
                Bar::AtMost(bar) => format!("≤ {}", show(bar)),
                Bar::AtLeast(bar) => format!("≥ {}", show(bar)),
                Bar::OfFloor(percent) => format!("≥ {percent:.0} % of the floor"),
            },
            self.floor.map_or_else(String::new, show),
            self.ratio.map_or_else(String::new, |r| format!("{r:.2}")),
            match self.met() {
                None => "–",
                Some(true) => "yes",
                Some(false) => "**no**",
            }
            .to_owned(),
        ]
    }
}

/// A group of rows, or why they could not be measured, and remarks to print below.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) rows: Vec<Row>,
    pub(crate) notes: Vec<String>,
}

impl Figures {
    /// These rows, without remarks.
    pub(crate) fn of(rows: impl IntoIterator<Item = Row>) -> Self {
        Self {
            rows: rows.into_iter().collect(),
            notes: Vec::new(),
        }
    }

    /// With a remark.
    #[must_use]
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds all of `other`.
    pub(crate) fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.notes.extend(other.notes);
    }

    /// Lines for the terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let [name, _, measured, spread, bar, floor, ratio, met] = row.cells();
            let floor = if floor.is_empty() {
                floor
            } else {
                format!("floor {floor}, ratio {ratio}")
            };
            // Writing to a string can't fail.
            let _ = writeln!(
                text,
                "{name:<58} {measured:>12}  {spread:<24} {bar:<20} {met:<7} {floor}"
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }
}

const HEAD: &str = "\
# Benchmarks

What the shipped binary does on one machine, against the bars it is held to. Written by `make bench`; repeat it with

```console
$ make bench
```

which builds the static binary and needs up to ten minutes on a machine that does nothing else. For one group of figures, or a
quick look: `agent-bench --agent target/dist/task-executor --only create,exit --quick`.
";

const READING: &str = "\
## How to read it

- *Measured* is the median over the runs; a percentile is that of each run, then the median of those. *p50 / p99 / max*
  are in milliseconds; the maximum is that of all runs.
- *Floor* is what the machine itself does, measured in the same run; *ratio* is measured to floor. For latencies: the same
  task started, waited for or killed by a static program that does nothing else. For rates of tasks: a static shim that
  starts the task and waits, started by one thread per core. For lists: a body of the same size from memory, on the same
  HTTP stack with one thread.
- The load generator runs on the same cores. It uses blocking sockets and one thread per request in flight; what it
  costs is said below the table.
- Times are of `CLOCK_MONOTONIC`, which is one for all processes: the task itself prints when it began or ended.
";

/// The rates by file system: those of both, or why there is but one.
fn file_systems(machine: &Machine, figures: &Figures, memory: &anyhow::Result<Figures>) -> String {
    let mut text = "\n## Rates by file system\n\n".to_owned();
    match memory {
        Ok(memory) => {
            let name = machine.file_system();
            // Writing to a string can't fail.
            let _ = writeln!(
                text,
                "| figure | {name} | ratio | met | tmpfs | ratio | met |"
            );
            text.push_str("|---|---|---|---|---|---|---|\n");
            for row in &memory.rows {
                if let Some(disk) = figures.rows.iter().find(|disk| disk.name == row.name) {
                    let [name, _, measured, _, _, _, ratio, met] = disk.cells();
                    let [_, _, other, _, _, _, other_ratio, other_met] = row.cells();
                    let _ = writeln!(
                        text,
                        "| {name} | {measured} | {ratio} | {met} | {other} | {other_ratio} | {other_met} |"
                    );
                }
            }
        }
        Err(why) => {
            let _ = writeln!(text, "Measured on one only: {why:#}.");
        }
    }
    text
}

/// Why bars are missed, one line per cause.
fn missed(figures: &Figures) -> String {
    let missed = figures.rows.iter().filter(|row| row.met() == Some(false));
    let mut causes: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in missed {
        let cause = known::cause(&row.name);
        match causes.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, names)) => names.push(&row.name),
            None => causes.push((cause, vec![&row.name])),
        }
    }
    let mut text = "\n## Bars that are not met\n\n".to_owned();
    if causes.is_empty() {
        text.push_str("None.\n");
    }
    for (cause, names) in causes {
        let _ = writeln!(text, "- **{}**: {cause}", names.join("**, **"));
    }
    text
}

/// What others have published, beside the figures of this run.
fn elsewhere(figures: &Figures) -> String {
    let mut text = format!(
        "\n## The Go agent of OpenSandbox, as published\n\n{}\n",
        known::GO_AGENT_HEAD
    );
    text.push_str("| figure | Go agent, elsewhere | this agent, this run |\n|---|---|---|\n");
    for (what, published, ours) in known::GO_AGENT {
        let row = figures.rows.iter().find(|row| row.name.starts_with(ours));
        let measured = row.map_or_else(|| "–".to_owned(), |row| row.unit.show(row.measured));
        let _ = writeln!(text, "| {what} | {published} | {measured} |");
    }
    let _ = write!(text, "\n{}", known::GO_AGENT_TAIL);
    text
}

/// The whole page. `memory` are the rates on a tmpfs.
pub(crate) fn page(
    machine: &Machine,
    figures: &Figures,
    memory: &anyhow::Result<Figures>,
    how: &str,
) -> String {
    let mut page = HEAD.to_owned();
    let mut line = |text: &str| {
        page.push_str(text);
        page.push('\n');
    };
    line("\n## The machine\n");
    for fact in machine.facts() {
        line(&format!("- {fact}"));
    }
    line(&format!("- {how}"));
    line("\n## Figures\n");
    line("| figure | runs | measured | p50 / p99 / max | bar | floor | ratio | met |");
    line("|---|---|---|---|---|---|---|---|");
    for row in &figures.rows {
        line(&format!("| {} |", row.cells().join(" | ")));
    }
    line("");
    for note in &figures.notes {
        line(&format!("- {note}"));
    }
    page.push_str(&file_systems(machine, figures, memory));
    page.push_str(&missed(figures));
    page.push_str(&elsewhere(figures));
    page.push('\n');
    page.push_str(READING);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(measured: f64, bar: Bar) -> Option<bool> {
        Row::new("x", Unit::Count, &[measured])
            .bar(bar)
            .floor(100.0)
            .met()
    }

    #[test]
    fn a_bar_is_met_from_its_own_side() {
        assert_eq!(met(5.0, Bar::None), None);
        assert_eq!(met(5.0, Bar::AtMost(5.0)), Some(true));
        assert_eq!(met(5.1, Bar::AtMost(5.0)), Some(false));
        assert_eq!(met(5.0, Bar::AtLeast(5.0)), Some(true));
        assert_eq!(met(4.9, Bar::AtLeast(5.0)), Some(false));
        assert_eq!(met(60.0, Bar::OfFloor(60.0)), Some(true));
        assert_eq!(met(59.0, Bar::OfFloor(60.0)), Some(false));
    }

    #[test]
    fn a_missed_bar_is_told_with_its_cause_and_rates_stand_side_by_side() {
        let row = |rate| {
            Row::new("short tasks one after another", Unit::PerSecond, &[rate])
                .bar(Bar::AtLeast(300.0))
        };
        let (disk, memory) = (Figures::of([row(80.0)]), Figures::of([row(400.0)]));
        assert!(missed(&disk).contains("- **short tasks one after another**: Each task"));
        assert!(missed(&memory).contains("None."));
        assert!(elsewhere(&disk).contains("| short tasks, each awaited | 2/s | 80/s |"));
        let machine = Machine::here(&std::env::temp_dir()).expect("is one");
        let table = file_systems(&machine, &disk, &Ok(memory));
        assert!(
            table.contains("| 80/s |  | **no** | 400/s |  | yes |"),
            "{table}"
        );
        let none = file_systems(&machine, &disk, &Err(anyhow::anyhow!("no tmpfs")));
        assert!(none.contains("one only: no tmpfs."));
    }

    #[test]
    fn what_was_not_measured_meets_no_bar() {
        assert_eq!(met(f64::NAN, Bar::AtMost(5.0)), Some(false));
        assert_eq!(met(f64::NAN, Bar::AtLeast(5.0)), Some(false));
        assert_eq!(met(f64::NAN, Bar::OfFloor(1.0)), Some(false));
    }
}
