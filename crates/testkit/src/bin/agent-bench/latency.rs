//! How long one task takes: to start, to be seen ended, to be gone.

use std::io::{BufRead, BufReader, Read};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use testkit::agent::Agent;

use crate::bench::{Bench, milliseconds, now, stamp};
use crate::floor;
use crate::report::{Bar, Figures, Row};
use crate::stats::Spread;
use crate::wire::Wire;

/// Samples of the floor per run: it needs fewer than the figure itself.
const FLOOR_SAMPLES: usize = 100;

fn floors(bench: &Bench, sample: impl Fn() -> anyhow::Result<f64>) -> anyhow::Result<Vec<f64>> {
    (0..bench.samples(FLOOR_SAMPLES))
        .map(|_| sample())
        .collect()
}

/// `POST /tasks` sent → first instruction of the task.
pub(crate) fn create(bench: &Bench) -> anyhow::Result<Figures> {
    let agent = bench.setup().start();
    let mut wire = Wire::new(agent.address())?;
    let mut answered = Vec::new();
    let mut floor = Vec::new();
    let runs = bench.each_run(|run| {
        floor.push(floors(bench, || floor::start_latency(bench))?);
        let mut samples = Vec::new();
        let mut answers = Vec::new();
        for number in 0..bench.samples(300) {
            let name = format!("create-{run}-{number}");
            let sent = now()?;
            wire.create(&name, &[&bench.helper, "stamp"])?;
            answers.push(milliseconds(sent, now()?));
            wire.succeeded(&name)?;
            samples.push(milliseconds(sent, stamp(&agent.stdout(&name))?));
        }
        answered.push(answers);
        wire.clear()?;
        Ok(samples)
    })?;
    let floor = Spread::of(&floor);
    let name = "create → executing";
    Ok(Figures::of([
        Row::p50(name, &runs).bar(Bar::AtMost(1.5)).floor(floor.p50),
        Row::p99(name, &runs).bar(Bar::AtMost(8.0)).floor(floor.p99),
        Row::p50("create → answered", &answered),
    ]))
}

/// End of the task → answer to a client that waits for it.
pub(crate) fn exit(bench: &Bench) -> anyhow::Result<Figures> {
    let agent = bench.setup().start();
    let mut wire = Wire::new(agent.address())?;
    let mut floor = Vec::new();
    let runs = bench.each_run(|run| {
        floor.push(floors(bench, || floor::exit_latency(bench))?);
        let mut samples = Vec::new();
        for number in 0..bench.samples(150) {
            let name = format!("exit-{run}-{number}");
            // Long enough that the client waits already when it ends.
            wire.create(&name, &[&bench.helper, "nap", "15"])?;
            wire.succeeded(&name)?;
            let seen = now()?;
            samples.push(milliseconds(stamp(&agent.stdout(&name))?, seen));
        }
        wire.clear()?;
        Ok(samples)
    })?;
    let floor = Spread::of(&floor);
    let name = "exit → visible to a waiting client";
    Ok(Figures::of([
        Row::p50(name, &runs).floor(floor.p50),
        Row::p99(name, &runs).bar(Bar::AtMost(5.0)).floor(floor.p99),
    ]))
}

/// `DELETE` sent → the watch says that it is gone, and a GET agrees.
pub(crate) fn delete(bench: &Bench) -> anyhow::Result<Figures> {
    let agent = bench.setup().start();
    let mut wire = Wire::new(agent.address())?;
    let mut watch = Watch::new(&agent)?;
    let mut floor = Vec::new();
    let runs = bench.each_run(|run| {
        floor.push(floors(bench, floor::end_latency)?);
        let mut samples = Vec::new();
        for number in 0..bench.samples(150) {
            let name = format!("delete-{run}-{number}");
            let path = format!("/tasks/{name}");
            wire.create(&name, &["sleep", "1000"])?;
            watch.until(&name, |_, task| {
                task["status"]["state"]["running"].is_object()
            })?;
            let sent = now()?;
            let (code, _) = wire.call("DELETE", &path, b"")?;
            ensure!(code == 204, "DELETE {path}: {code}");
            watch.until(&name, |kind, _| kind == "DELETED")?;
            samples.push(milliseconds(sent, now()?));
            let (code, _) = wire.call("GET", &path, b"")?;
            ensure!(code == 404, "{name} is gone, but GET says {code}");
        }
        Ok(samples)
    })?;
    let floor = Spread::of(&floor);
    let name = "DELETE → gone, for `sleep`";
    Ok(Figures::of([
        Row::p50(name, &runs).floor(floor.p50),
        Row::p99(name, &runs)
            .bar(Bar::AtMost(15.0))
            .floor(floor.p99),
    ]))
}

/// Events of an agent, as they come.
struct Watch(BufReader<Box<dyn Read>>);

impl Watch {
    fn new(agent: &Agent) -> anyhow::Result<Self> {
        let stream = agent.client().open("GET", "/getTasks?watch=true", b"")?;
        ensure!(stream.code == 200, "watch: {}", stream.code);
        Ok(Self(BufReader::new(Box::new(stream))))
    }

    /// Reads on until an event about `name` is as wanted.
    fn until(&mut self, name: &str, wanted: impl Fn(&str, &Value) -> bool) -> anyhow::Result<()> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).context("read the watch")? == 0 {
                bail!("the watch has ended");
            }
            let event: Value = serde_json::from_str(&line)?;
            let kind = event["type"].as_str().unwrap_or_default();
            if event["object"]["name"] == name && wanted(kind, &event["object"]) {
                return Ok(());
            }
        }
    }
}
