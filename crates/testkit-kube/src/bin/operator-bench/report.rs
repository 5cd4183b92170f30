//! The report, in Markdown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::round::{Memory, Round};

/// What all runs have shown.
pub(crate) struct Report {
    replicas: u32,
    idle: Memory,
    machine: String,
    rounds: Vec<Round>,
}

impl Report {
    pub(crate) fn new(replicas: u32, idle: Memory) -> anyhow::Result<Self> {
        let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let kernel = release
            .trim()
            .split('-')
            .next()
            .unwrap_or_default()
            .to_owned();
        let cores = std::thread::available_parallelism()?;
        let model = model.map_or("unknown processor", |(_, name)| name);
        Ok(Self {
            replicas,
            idle,
            machine: format!("{cores} cores, {model}; Linux {kernel}"),
            rounds: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, round: Round) {
        self.rounds.push(round);
    }

    pub(crate) fn text(&self) -> String {
        let replicas = self.replicas;
        let mut text = format!(
            "# Benchmarks of the operator\n\n\
             One BatchSandbox of {replicas} replicas in direct mode, each with a Pod, a real agent and a real task, on a \
             real etcd and kube-apiserver. Written by `make bench-operator`.\n\n\
             - {}\n- {} runs; times are medians, with the smallest and the largest\n\
             - everything runs on the same cores: API server, operator, test kubelet, {replicas} agents and their tasks\n\
             - addresses are on loopback, which hides the network: round trips, connection tracking, the CNI's set-up\n\n\
             ## Times\n\n| from | to | ms | smallest | largest |\n|---|---|---|---|---|\n",
            self.machine,
            self.rounds.len(),
        );
        self.time(&mut text, "creation", "all Pods are created", |round| {
            round.pods_created
        });
        self.time(
            &mut text,
            "creation",
            "status: all ready, all tasks running",
            |round| round.running,
        );
        self.time(
            &mut text,
            "the last Pod is ready (the kubelet's doing)",
            "status: all tasks running",
            |round| round.running_after_ready,
        );
        self.time(
            &mut text,
            "all tasks end at once",
            "status: all succeeded",
            |round| round.done,
        );
        self.time(&mut text, "deletion", "the object is gone", |round| {
            round.gone
        });
        self.requests(&mut text);
        self.memory(&mut text);
        text
    }

    fn requests(&self, text: &mut String) {
        *text += "\n## Requests of the operator to the API server\n\n\
                  From the audit log; medians over the runs.\n\n\
                  | request | until all tasks run | whole life |\n|---|---|---|\n";
        let names: BTreeSet<_> = self
            .rounds
            .iter()
            .flat_map(|round| round.whole_life.keys())
            .collect();
        for name in names {
            let median = |pick: fn(&Round) -> &BTreeMap<String, usize>| {
                let count = |round| pick(round).get(name).copied().unwrap_or_default();
                let mut all: Vec<_> = self.rounds.iter().map(count).collect();
                all.sort_unstable();
                all.get(all.len() / 2).copied().unwrap_or_default()
            };
            let (first, whole) = (
                median(|round| &round.to_deliver),
                median(|round| &round.whole_life),
            );
            let _ = writeln!(text, "| {name} | {first} | {whole} |");
        }
    }

    fn memory(&self, text: &mut String) {
        *text += "\n## Memory of the operator\n\n| when | RSS |\n|---|---|\n";
        let _ = writeln!(
            text,
            "| idle, nothing to do | {:.1} MiB |",
            mib(self.idle.now)
        );
        if let Some(last) = self.rounds.last() {
            let (now, peak) = (mib(last.memory.now), mib(last.memory.peak));
            let (replicas, runs) = (self.replicas, self.rounds.len());
            let _ = writeln!(
                text,
                "| {replicas} tasks over, after {runs} runs | {now:.1} MiB |"
            );
            let _ = writeln!(text, "| peak of all runs | {peak:.1} MiB |");
        }
    }

    fn time(&self, text: &mut String, from: &str, to: &str, pick: fn(&Round) -> f64) {
        let mut all: Vec<_> = self.rounds.iter().map(pick).collect();
        all.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (all.first(), all.last()) else {
            return;
        };
        let middle = all.get(all.len() / 2).unwrap_or(least);
        let _ = writeln!(
            text,
            "| {from} | {to} | {middle:.0} | {least:.0} | {most:.0} |"
        );
    }
}

fn mib(kib: u32) -> f64 {
    f64::from(kib) / 1024.0
}
