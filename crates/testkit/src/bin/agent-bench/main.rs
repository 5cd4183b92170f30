//! The benchmark: measures an agent against the bars that it is held to, beside what the machine itself does.
#![forbid(unsafe_code)]

mod bench;
mod floor;
mod footprint;
mod known;
mod latency;
mod machine;
mod options;
mod place;
mod report;
mod sidecar;
mod stats;
mod throughput;
mod usage;
mod wire;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::bench::Bench;
use crate::machine::Machine;
use crate::options::Options;
use crate::place::Memory;
use crate::report::Figures;

/// What measures one group of figures.
type Group = fn(&Bench) -> anyhow::Result<Figures>;

const GROUPS: [(&str, Group); 15] = [
    ("create", latency::create),
    ("sidecar", sidecar::create),
    ("exit", latency::exit),
    ("delete", latency::delete),
    ("flight", throughput::flight),
    ("churn", throughput::churn),
    ("serial", throughput::serial),
    ("many", throughput::many),
    ("list", throughput::list),
    ("idle", footprint::idle),
    ("tasks", footprint::tasks),
    ("size", footprint::size),
    ("cold", footprint::cold),
    ("connections", footprint::connections),
    ("bodies", footprint::bodies),
];

/// Those that a disk has a part in, and that are measured in memory as well.
const RATES: [&str; 3] = ["flight", "churn", "serial"];

fn main() -> anyhow::Result<ExitCode> {
    let Some(options) = Options::parse(std::env::args().skip(1))? else {
        io::stdout().write_all(options::HELP.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    };
    for name in &options.only {
        let names = GROUPS.map(|(name, _)| name);
        ensure!(
            names.contains(&name.as_str()),
            "no group {name}; there are {names:?}"
        );
    }
    let machine = Machine::here(&std::env::temp_dir())?;
    let absolute = |path: &std::path::Path| {
        path.canonicalize()
            .with_context(|| format!("find {}", path.display()))
    };
    let helper = absolute(&options.helper)?;
    let bench = Bench {
        agent: absolute(&options.agent)?,
        helper: helper
            .into_os_string()
            .into_string()
            .ok()
            .context("a path in UTF-8")?,
        runs: options.runs,
        quick: options.quick,
        cores: machine.cores,
        place: std::env::temp_dir(),
    };
    let begun = Instant::now();
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|o| o == name);
    let (figures, complete) = measure(&bench, wanted)?;
    let memory = in_memory(&bench, &machine, wanted);
    let mut how = format!("measured in {} s", begun.elapsed().as_secs());
    if options.quick {
        how.push_str("; a quick look with few samples, not to be relied on");
    }
    if !options.only.is_empty() {
        how.push_str("; only a part of the figures");
    }
    if let Some(out) = &options.out {
        let page = report::page(&machine, &figures, &memory, &how);
        std::fs::write(out, page).with_context(|| format!("write {}", out.display()))?;
    }
    Ok(if complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The rates with data directories on a tmpfs. An error says why there are none.
fn in_memory(
    bench: &Bench,
    machine: &Machine,
    wanted: impl Fn(&str) -> bool,
) -> anyhow::Result<Figures> {
    ensure!(
        machine.file_system() != "tmpfs",
        "the data directory is on a tmpfs already"
    );
    ensure!(
        RATES.iter().any(|name| wanted(name)),
        "no rate was asked for"
    );
    let memory = Memory::make().context("there is no tmpfs to be had")?;
    let bench = Bench {
        place: memory.path(),
        ..bench.clone()
    };
    writeln!(io::stdout(), "== on tmpfs")?;
    let (figures, complete) = measure(&bench, |name| RATES.contains(&name) && wanted(name))?;
    ensure!(complete, "the rates on a tmpfs could not be measured");
    Ok(figures)
}

/// Measures and prints group after group; whether all could be measured.
fn measure(bench: &Bench, wanted: impl Fn(&str) -> bool) -> anyhow::Result<(Figures, bool)> {
    let mut all = Figures::default();
    let mut complete = true;
    let mut out = io::stdout();
    for (name, group) in GROUPS {
        if !wanted(name) {
            continue;
        }
        let begun = Instant::now();
        let figures = group(bench).unwrap_or_else(|error| {
            complete = false;
            Figures::default().note(format!("**{name} could not be measured**: {error:#}"))
        });
        write!(
            out,
            "== {name}, {} s\n{}",
            begun.elapsed().as_secs(),
            figures.text()
        )?;
        out.flush()?;
        all.extend(figures);
    }
    Ok((all, complete))
}
