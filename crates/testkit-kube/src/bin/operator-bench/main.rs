//! `make bench-operator`: what the operator does with one BatchSandbox of many replicas, each with a real agent and a
//! real task, on a real API server.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it is a program for people")]

mod report;
mod round;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use testkit_kube::kubelet;
use testkit_kube::operator::{self, Operator};
use testkit_kube::{ControlPlane, Kubelet, Options};

use report::Report;

const HELP: &str = "\
Measures the operator in direct mode and prints a report in Markdown.

  --operator FILE   the operator's program
  --agent FILE      the agent's program
  --replicas N      sandboxes of the BatchSandbox, 1000 if not given
  --runs N          how often, 3 if not given
  --out FILE        where the report goes besides standard output
";

struct Flags {
    operator: PathBuf,
    agent: PathBuf,
    replicas: u32,
    runs: usize,
    out: Option<PathBuf>,
}

fn flags() -> anyhow::Result<Option<Flags>> {
    let mut flags = Flags {
        operator: "sandbox-operator".into(),
        agent: "task-executor".into(),
        replicas: 1000,
        runs: 3,
        out: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if matches!(word.as_str(), "--help" | "-h") {
            return Ok(None);
        }
        let value = words
            .next()
            .with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--operator" => flags.operator = value.into(),
            "--agent" => flags.agent = value.into(),
            "--replicas" => flags.replicas = value.parse().context("--replicas")?,
            "--runs" => flags.runs = value.parse().context("--runs")?,
            "--out" => flags.out = Some(value.into()),
            other => bail!("{other} is not known; see --help"),
        }
    }
    Ok(Some(flags))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(flags) = flags()? else {
        print!("{HELP}");
        return Ok(());
    };
    let plane = ControlPlane::start(Options::default()).await?;
    plane.install_crds().await?;
    operator::install(&plane).await?;
    let log = tempfile::NamedTempFile::new()?;
    let operator = Operator::start(&plane, flags.operator, &[], log.path().to_owned())?;
    operator.wait_ready().await;
    let idle = round::memory(&operator)?;
    let mut options = kubelet::Options::real("default", flags.agent);
    options.namespace = None;
    let _kubelet = Kubelet::start(&plane, options)?;
    let mut report = Report::new(flags.replicas, idle)?;
    for run in 1..=flags.runs {
        let round = round::run(&plane, &operator, flags.replicas).await;
        let round =
            round.with_context(|| format!("run {run}; the operator's log:\n{}", operator.log()))?;
        println!("run {run} of {}: {round:?}", flags.runs);
        report.add(round);
    }
    let text = report.text();
    println!("\n{text}");
    if let Some(out) = flags.out {
        std::fs::write(&out, text).with_context(|| format!("write {}", out.display()))?;
    }
    Ok(())
}
