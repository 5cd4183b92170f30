//! How long a task takes to start inside of a main container, beside what `nsenter` and a shell take.

use testkit::agent::Agent;
use testkit::target::{Layout, Plan, Target, need_namespaces};

use crate::bench::{Bench, milliseconds, now, stamp};
use crate::floor;
use crate::report::{Figures, Row};
use crate::wire::Wire;

/// `POST /tasks` sent → first instruction of the task in the main container, for both layouts.
pub(crate) fn create(bench: &Bench) -> anyhow::Result<Figures> {
    if !need_namespaces() {
        return Ok(
            Figures::default().note("sidecar mode: not measured, since it needs root".to_owned())
        );
    }
    let mut all = Figures::default();
    for (layout, words) in [
        (Layout::Shared, "shared PID namespace"),
        (Layout::Own, "PID namespace of its own"),
    ] {
        let name = format!("bench-{layout:?}-{}", std::process::id());
        let container = Plan::new(&name, layout).start();
        let agent = bench
            .setup()
            .flag("--enable-sidecar-mode")
            .flag(format!("--main-container-name={name}"))
            .start();
        all.extend(measure(bench, &agent, &container, words)?);
    }
    Ok(all)
}

fn measure(
    bench: &Bench,
    agent: &Agent,
    container: &Target,
    layout: &str,
) -> anyhow::Result<Figures> {
    let mut wire = Wire::new(agent.address())?;
    let mut others = Vec::new();
    let runs = bench.each_run(|run| {
        let mut samples = Vec::new();
        let mut nsenter = Vec::new();
        for number in 0..bench.samples(200) {
            let name = format!("sidecar-{run}-{number}");
            let sent = now()?;
            wire.create(&name, &[&bench.helper, "stamp"])?;
            wire.succeeded(&name)?;
            samples.push(milliseconds(sent, stamp(&agent.stdout(&name))?));
            nsenter.push(floor::nsenter_latency(bench, container.pid())?);
        }
        others.push(nsenter);
        wire.clear()?;
        Ok(samples)
    })?;
    let name = format!("sidecar, {layout}: create → executing");
    let other = format!("`nsenter` and `sh`, {layout}: start → executing");
    Ok(Figures::of([
        Row::p50(&name, &runs),
        Row::p99(&name, &runs),
        Row::p50(&other, &others),
    ]))
}
