//! The fuzzer: seeded, generator-based, over everything that reads what others wrote.
//! `agent-fuzz --help` says how to run it.

mod bodies;
mod http;
mod mutate;
mod records;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::random::Random;

const HELP: &str = "\
Sends generated and changed inputs to everything that reads what others wrote.

Usage: agent-fuzz --seconds N [--seed S] [--agent PATH]

  --seconds N   how long [default: 20]
  --seed S      seed of all targets [default: from the clock]
  --agent PATH  also fuzz a real agent over HTTP: queries and raw bytes
";

/// Findings of one target after which it is left alone.
const FINDINGS_MAX: usize = 5;
/// Cases in a row of one target; the clock is looked at in between.
const BATCH: usize = 50;
/// Cases in a row of a target that talks to an agent, which is then looked at.
const BATCH_HTTP: usize = 20;

#[derive(Debug)]
struct Options {
    seconds: u64,
    seed: u64,
    agent: Option<PathBuf>,
}

type Check = Box<dyn Fn(&[u8]) -> Result<(), String> + Send>;

/// Something that is fuzzed.
struct Target {
    name: &'static str,
    generate: fn(&mut Random) -> Vec<u8>,
    check: Check,
    random: Random,
    batch: usize,
    cases: usize,
    findings: usize,
}

impl Target {
    fn new(
        name: &'static str,
        generate: fn(&mut Random) -> Vec<u8>,
        check: impl Fn(&[u8]) -> Result<(), String> + Send + 'static,
    ) -> Self {
        Self {
            name,
            generate,
            check: Box::new(check),
            random: Random::new(0),
            batch: BATCH,
            cases: 0,
            findings: 0,
        }
    }

    /// What is wrong with an input; a panic is, too.
    fn complaint(&self, input: &[u8]) -> Option<String> {
        match catch_unwind(AssertUnwindSafe(|| (self.check)(input))) {
            Ok(Ok(())) => None,
            Ok(Err(complaint)) => Some(complaint),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Some(format!("panicked: {}", text.unwrap_or("without a text")))
            }
        }
    }

    /// Runs some cases, up to the first finding.
    fn run(&mut self) {
        if self.findings >= FINDINGS_MAX {
            return;
        }
        for _ in 0..self.batch {
            let input = (self.generate)(&mut self.random);
            self.cases += 1;
            if self.complaint(&input).is_some() {
                let input = mutate::shrink(&input, |shorter| self.complaint(shorter).is_some());
                let complaint = self.complaint(&input).unwrap_or_default();
                report(self.name, &complaint, &input);
                self.findings += 1;
                return;
            }
        }
    }
}

fn report(target: &str, complaint: &str, input: &[u8]) {
    let literal = input.escape_ascii();
    say(&format!(
        "FINDING {target}: {complaint}\n  input: b\"{literal}\""
    ));
}

/// Lets all targets have their turns until the time is over or the agent is not well. Gives
/// the number of such complaints.
fn attack(victim: &http::Victim, targets: &mut [Target], end: Instant) -> usize {
    while Instant::now() < end {
        targets.iter_mut().for_each(Target::run);
        if let Err(complaint) = victim.check() {
            say(&format!("FINDING agent: {complaint}"));
            return 1;
        }
    }
    0
}

fn pure_targets() -> Vec<Target> {
    vec![
        Target::new("body-one", bodies::mutated, bodies::check_one),
        Target::new("body-one-built", bodies::built, bodies::check_one),
        Target::new("body-list", bodies::mutated, bodies::check_list),
        Target::new("body-list-built", bodies::built_list, bodies::check_list),
        Target::new("report", bodies::mutated, bodies::check_report),
        Target::new("record-values", records::seed, records::check_values),
        Target::new("record-bytes", records::mutated, records::check_bytes),
        Target {
            batch: 1,
            ..Target::new("record-flips", records::seed, records::check_flips)
        },
    ]
}

fn http_targets(address: SocketAddr) -> Vec<Target> {
    let target = |target: Target| Target {
        batch: BATCH_HTTP,
        ..target
    };
    vec![
        target(Target::new("query", http::query, move |bytes| {
            http::send_query(address, bytes)
        })),
        target(Target::new("http", http::raw, move |bytes| {
            http::send_raw(address, bytes, false)
        })),
        target(Target::new("http-half-closed", http::raw, move |bytes| {
            http::send_raw(address, bytes, true)
        })),
    ]
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
            say(&format!("agent-fuzz: {problem}\n\n{HELP}"));
            ExitCode::from(2)
        }
    }
}

fn say(text: &str) {
    // Without a listener there is nobody to tell.
    let _ = writeln!(io::stdout().lock(), "{}", text.trim_end());
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self {
            seconds: 20,
            seed: Random::any_seed(),
            agent: None,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let (flag, inline) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let given = inline.or_else(|| words.next().cloned());
            let value = given.ok_or_else(|| format!("{flag} needs a value"))?;
            let number = || {
                let parsed = value.parse::<u64>();
                parsed.map_err(|_| format!("{flag}: {value} is no number"))
            };
            match flag {
                "--seconds" => options.seconds = number()?,
                "--seed" => options.seed = number()?,
                "--agent" => options.agent = Some(value.into()),
                other => return Err(format!("{other} is not known")),
            }
        }
        Ok(options)
    }

    fn run(&self) -> ExitCode {
        say(&format!("agent-fuzz: seed {}", self.seed));
        // Panics are findings and are reported as such, not one by one by the runtime.
        std::panic::set_hook(Box::new(|_| {}));
        let victim = self.agent.as_deref().map(http::Victim::start);
        let mut pure = pure_targets();
        let mut http = victim
            .as_ref()
            .map_or_else(Vec::new, |victim| http_targets(victim.address()));
        for (index, target) in (0_u64..).zip(pure.iter_mut().chain(&mut http)) {
            target.random = Random::new(self.seed ^ (index << 32));
        }
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let sick = std::thread::scope(|scope| {
            // Those that talk to an agent mostly wait, so the others need not wait for them.
            let others = scope.spawn(|| {
                while Instant::now() < end {
                    pure.iter_mut().for_each(Target::run);
                }
            });
            let sick = victim
                .as_ref()
                .map_or(0, |victim| attack(victim, &mut http, end));
            usize::from(others.join().is_err()) + sick
        });
        let targets: Vec<_> = pure.into_iter().chain(http).collect();
        for target in &targets {
            let (name, cases, findings) = (target.name, target.cases, target.findings);
            say(&format!("{name:17} {cases:9} cases, findings: {findings}"));
        }
        let findings: usize = targets.iter().map(|target| target.findings).sum();
        say(&format!(
            "agent-fuzz: {} findings, seed {}",
            findings + sick,
            self.seed
        ));
        if findings + sick == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
