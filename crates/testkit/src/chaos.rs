//! The chaos campaign: seeded rounds of requests and faults against real agents, judged
//! against a model of what was acknowledged. `agent-chaos --help` says how to run it.

mod cgroups;
mod checks;
mod damage;
mod disk;
mod faults;
mod model;
mod points;
mod procs;
mod round;
mod victim;
mod work;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use faults::Fault;
use nix::sys::signal::{SigSet, Signal};
use round::{Order, Report};

use crate::random::Random;

const HELP: &str = "\
Attacks real agents with seeded rounds of requests and faults, and checks what they say and leave.

Usage: agent-chaos --agent PATH [OPTIONS]

  --agent PATH     the agent's program
  --rounds N       rounds to play [default: 20]
  --seed S         seed of the first round; the next one has S + 1 [default: from the clock]
  --seconds LIMIT  begin no round after so many seconds
  --jobs J         rounds at a time [default: 4]
  --fault NAMES    only these faults, with commas between
  --sidecar        agents in sidecar mode, each with a main container of its own
  --journal        print what happened in each round, not only where something is wrong
";

#[derive(Debug)]
struct Options {
    agent: PathBuf,
    rounds: u64,
    seed: u64,
    limit: Option<Duration>,
    jobs: u64,
    faults: Vec<Fault>,
    sidecar: bool,
    journal: bool,
}

/// What all rounds did together.
#[derive(Debug, Default)]
struct Tally {
    rounds: usize,
    tasks: usize,
    requests: usize,
    faults: BTreeMap<String, usize>,
    violations: BTreeMap<&'static str, usize>,
    failed_seeds: Vec<u64>,
    broken: usize,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.iter().any(|word| word == "--help") {
        say(HELP);
        return ExitCode::SUCCESS;
    }
    match Options::parse(&arguments) {
        Ok(options) => options.run(),
        Err(problem) => {
            say(&format!("agent-chaos: {problem}\n\n{HELP}"));
            ExitCode::from(2)
        }
    }
}

/// Prints at once, so that a campaign that is cut off has said what it found.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    // Without a listener there is nobody to tell.
    let _ = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            agent: PathBuf::new(),
            rounds: 20,
            seed: Random::any_seed(),
            limit: None,
            jobs: 4,
            faults: Fault::ALL.to_vec(),
            sidecar: false,
            journal: false,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let (flag, inline) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let mut value = || {
                let given = inline.clone().or_else(|| words.next().cloned());
                given.ok_or_else(|| format!("{flag} needs a value"))
            };
            let number = |text: String| {
                let parsed = text.parse::<u64>();
                parsed.map_err(|_| format!("{flag}: {text} is no number"))
            };
            match flag {
                "--agent" => options.agent = value()?.into(),
                "--rounds" => options.rounds = number(value()?)?,
                "--seed" => options.seed = number(value()?)?,
                "--seconds" => options.limit = Some(Duration::from_secs(number(value()?)?)),
                "--jobs" => options.jobs = number(value()?)?.max(1),
                "--fault" => options.faults = parse_faults(&value()?)?,
                "--sidecar" => options.sidecar = true,
                "--journal" => options.journal = true,
                other => return Err(format!("{other} is not known")),
            }
        }
        if options.agent.as_os_str().is_empty() {
            return Err("--agent is missing".to_owned());
        }
        Ok(options)
    }

    fn run(mut self) -> ExitCode {
        if let Err(error) = disk::isolate_mounts() {
            say(&format!(
                "agent-chaos: SKIPPED: disk-full needs root and a mount namespace: {error}"
            ));
            self.faults.retain(|fault| *fault != Fault::DiskFull);
            if std::env::var("CI").is_ok_and(|ci| ci == "true") {
                return ExitCode::FAILURE;
            }
        }
        if self.sidecar && !crate::target::need_namespaces() {
            return ExitCode::SUCCESS;
        }
        if self.faults.is_empty() {
            say("agent-chaos: no fault is left to inject");
            return ExitCode::FAILURE;
        }
        if let Err(error) = clean_up_on_signal() {
            say(&format!(
                "agent-chaos: no signal can be waited for: {error}"
            ));
        }
        say(&format!("agent-chaos: first seed {}", self.seed));
        let began = Instant::now();
        let next = AtomicU64::new(0);
        let tally = Mutex::new(Tally::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| self.work(&next, &tally, began));
            }
        });
        let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.summarize(&tally, began.elapsed())
    }

    fn work(&self, next: &AtomicU64, tally: &Mutex<Tally>, began: Instant) {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let late = self.limit.is_some_and(|limit| began.elapsed() > limit);
            if index >= self.rounds || late {
                return;
            }
            let seed = self.seed.wrapping_add(index);
            let order = Order {
                program: self.agent.clone(),
                seed,
                index,
                faults: self.faults.clone(),
                sidecar: self.sidecar,
            };
            let played = std::panic::catch_unwind(|| round::run(&order));
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            match played {
                Ok(Ok(report)) => self.count(&mut tally, seed, report),
                Ok(Err(error)) => {
                    say(&format!("seed {seed}: the harness failed: {error}"));
                    tally.broken += 1;
                }
                Err(_) => {
                    say(&format!("seed {seed}: the harness panicked"));
                    tally.broken += 1;
                }
            }
        }
    }

    fn count(&self, tally: &mut Tally, seed: u64, report: Report) {
        tally.rounds += 1;
        tally.tasks += report.tasks;
        tally.requests += report.requests;
        for (fault, times) in report.faults {
            *tally.faults.entry(fault).or_default() += times;
        }
        let failed = !report.violations.is_empty();
        for violation in &report.violations {
            *tally.violations.entry(violation.kind).or_default() += 1;
            say(&format!(
                "seed {seed}: VIOLATION {}: {}",
                violation.kind, violation.detail
            ));
        }
        if failed {
            tally.failed_seeds.push(seed);
        }
        if failed || self.journal {
            say(&format!(
                "seed {seed}: journal:\n  {}",
                report.journal.join("\n").replace('\n', "\n  ")
            ));
        }
    }

    fn summarize(&self, tally: &Tally, took: Duration) -> ExitCode {
        let list = |counts: Vec<String>| {
            if counts.is_empty() {
                "none".to_owned()
            } else {
                counts.join(", ")
            }
        };
        let pairs = |(what, times): (&String, &usize)| format!("{what} {times}");
        say(&format!(
            "\nagent-chaos: {} rounds in {} s, first seed {}\ntasks: {}, requests: {}\nfaults: {}",
            tally.rounds,
            took.as_secs(),
            self.seed,
            tally.tasks,
            tally.requests,
            list(tally.faults.iter().map(pairs).collect()),
        ));
        let violations = tally.violations.iter();
        say(&format!(
            "violations: {}",
            list(
                violations
                    .map(|(kind, times)| format!("{kind} {times}"))
                    .collect()
            )
        ));
        for seed in &tally.failed_seeds {
            let mode = if self.sidecar { " --sidecar" } else { "" };
            say(&format!(
                "again: agent-chaos --rounds 1 --seed {seed}{mode}"
            ));
        }
        if tally.failed_seeds.is_empty() && tally.broken == 0 && tally.rounds > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Takes everything along when this program is asked to end: tasks have sessions of their
/// own, so no signal to a process group reaches them.
fn clean_up_on_signal() -> nix::Result<()> {
    let mut asked = SigSet::empty();
    asked.add(Signal::SIGINT);
    asked.add(Signal::SIGTERM);
    // Inherited by all threads to come; programs that are started begin with an empty mask.
    asked.thread_block()?;
    std::thread::spawn(move || {
        if asked.wait().is_ok() {
            procs::kill_campaign();
            leave();
        }
    });
    Ok(())
}

#[expect(clippy::exit, reason = "the rounds under way are not waited for")]
fn leave() {
    std::process::exit(130)
}

fn parse_faults(names: &str) -> Result<Vec<Fault>, String> {
    let one = |name: &str| {
        let known = Fault::ALL.iter().find(|fault| fault.name() == name);
        known.copied().ok_or_else(|| {
            let all: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
            format!("{name} is no fault; there are {}", all.join(", "))
        })
    };
    names.split(',').map(one).collect()
}
