//! What the agent is and uses: size, start, memory, wakeups.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use testkit::agent::Agent;

use crate::bench::{Bench, processes};
use crate::floor;
use crate::report::{Bar, Figures, Row, Unit};
use crate::stats::{float, median};
use crate::usage::{Memory, activity, memory, peak};
use crate::wire::{Wire, task};

/// The static binary.
pub(crate) fn size(bench: &Bench) -> anyhow::Result<Figures> {
    let bytes = std::fs::metadata(&bench.agent)?.len();
    let mebibytes = float(bytes) / 1024.0 / 1024.0;
    Ok(Figures::of([Row::new(
        "static binary",
        Unit::Mebibytes,
        &[mebibytes],
    )
    .bar(Bar::AtMost(6.0))]))
}

/// Memory, threads and wakeups of an agent without tasks.
pub(crate) fn idle(bench: &Bench) -> anyhow::Result<Figures> {
    let (mut uses, mut threads) = (Vec::new(), Vec::new());
    let (mut wakeups, mut cpu) = (Vec::new(), Vec::new());
    bench.each_run(|_| {
        let agent = bench.setup().start();
        // It has answered before: what that needed is part of it.
        std::thread::sleep(Duration::from_secs(2));
        let pids = processes(&agent);
        let before = activity(&pids)?;
        let time = bench.seconds(10);
        std::thread::sleep(time);
        let spent = activity(&pids)?.since(before);
        uses.push(memory(&pids)?);
        threads.push(f64::from(spent.threads));
        wakeups.push(float(spent.switches) / time.as_secs_f64());
        cpu.push(spent.cpu.as_secs_f64() * 1e3 / time.as_secs_f64());
        Ok(())
    })?;
    let of = |pick: fn(&Memory) -> f64| uses.iter().map(pick).collect::<Vec<_>>();
    let row = |text: &str, unit, values: &[f64]| {
        Row::new(
            format!("agent idle, init, server and launcher: {text}"),
            unit,
            values,
        )
    };
    Ok(Figures::of([
        row("RSS", Unit::Kibibytes, &of(|m| m.rss)).bar(Bar::AtMost(3584.0)),
        row("PSS", Unit::Kibibytes, &of(|m| m.pss)),
        row("private dirty", Unit::Kibibytes, &of(|m| m.private_dirty)).bar(Bar::AtMost(1024.0)),
        row("threads", Unit::Count, &threads).bar(Bar::AtMost(4.0)),
        row("wakeups", Unit::PerSecond, &wakeups).bar(Bar::AtMost(0.0)),
        row("processor time per second", Unit::Milliseconds, &cpu),
    ]))
}

/// Memory per running task.
pub(crate) fn tasks(bench: &Bench) -> anyhow::Result<Figures> {
    let tasks = bench.samples(500);
    let mut uses = Vec::new();
    let mut growth = Vec::new();
    bench.each_run(|_| {
        let agent = bench.setup().start();
        let mut wire = Wire::new(agent.address())?;
        // The first task brings what all need.
        wire.create("first", &["/bin/true"])?;
        wire.succeeded("first")?;
        let server = agent.server();
        let before = memory(&[server])?;
        run_sleepers(&mut wire, tasks)?;
        let shims = agent.shims();
        ensure!(
            shims.len() == tasks,
            "{} shims for {tasks} tasks",
            shims.len()
        );
        let all = memory(&shims)?;
        let each = |sum: f64| sum / float(tasks);
        uses.push(Memory {
            rss: each(all.rss),
            pss: each(all.pss),
            private_dirty: each(all.private_dirty),
        });
        growth.push(each(
            memory(&[server])?.private_dirty - before.private_dirty,
        ));
        Ok(())
    })?;
    let of = |pick: fn(&Memory) -> f64| uses.iter().map(pick).collect::<Vec<_>>();
    let row = |text: &str, values: &[f64]| {
        Row::new(
            format!("per running task at {tasks}: {text}"),
            Unit::Kibibytes,
            values,
        )
    };
    Ok(Figures::of([
        row("private dirty of the shim", &of(|m| m.private_dirty)).bar(Bar::AtMost(48.0)),
        row("PSS of the shim", &of(|m| m.pss)).bar(Bar::AtMost(56.0)),
        row("PSS of the shim, next bar", &of(|m| m.pss)).bar(Bar::AtMost(24.0)),
        row("private dirty of the server", &growth),
    ]))
}

fn run_sleepers(wire: &mut Wire, tasks: usize) -> anyhow::Result<()> {
    let set: Vec<_> = (0..tasks)
        .map(|n| task(&format!("sleeper-{n}"), &["sleep", "1000"]))
        .chain([task("first", &["/bin/true"])])
        .collect();
    let (code, _) = wire.call("POST", "/setTasks", Value::from(set).to_string().as_bytes())?;
    ensure!(code == 200, "setTasks: {code}");
    let begun = Instant::now();
    loop {
        let list = wire.get("/getTasks")?;
        let running = list.as_array().map_or(0, |list| {
            let runs = |task: &&Value| task["status"]["state"]["running"].is_object();
            list.iter().filter(runs).count()
        });
        if running == tasks {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_mins(1),
            "only {running} tasks run"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// From the start of the program to `/health` 200.
pub(crate) fn cold(bench: &Bench) -> anyhow::Result<Figures> {
    let mut floors = Vec::new();
    let runs = bench.each_run(|_| {
        let mut samples = Vec::new();
        for _ in 0..bench.samples(20) {
            floors.push(floor::start_latency(bench)?);
            let mut agent = bench.setup().start();
            samples.push(restart(&mut agent)?);
        }
        Ok(samples)
    })?;
    let name = "cold start to /health 200";
    Ok(Figures::of([
        Row::p50(name, &runs)
            .bar(Bar::AtMost(6.0))
            .floor(median(&floors)),
        Row::p50(&format!("{name}, next bar"), &runs).bar(Bar::AtMost(4.0)),
    ]))
}

/// Stops an agent; then the time from its start to `/health` 200, in milliseconds.
pub(crate) fn restart(agent: &mut Agent) -> anyhow::Result<f64> {
    agent.stop();
    let begun = Instant::now();
    agent.launch();
    loop {
        if let Ok(mut wire) = Wire::new(agent.address())
            && let Ok((200, _)) = wire.call("GET", "/health", b"")
        {
            return Ok(begun.elapsed().as_secs_f64() * 1e3);
        }
        ensure!(
            begun.elapsed() < Duration::from_mins(1),
            "it does not get healthy"
        );
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Memory of the server under idle connections that have been used once.
pub(crate) fn connections(bench: &Bench) -> anyhow::Result<Figures> {
    let count = bench.samples(2000);
    let growth = bench.each_run(|_| {
        let agent = bench.setup().start();
        let server = agent.server();
        let before = memory(&[server])?;
        let idle: Vec<TcpStream> = (0..count)
            .map(|_| {
                let mut wire = Wire::new(agent.address())?;
                wire.call("GET", "/health", b"")?;
                Ok(wire.raw().try_clone()?)
            })
            .collect::<anyhow::Result<_>>()
            .context("open connections; is the limit of open files too low?")?;
        // A connection is put aside when nothing has come for a moment.
        std::thread::sleep(Duration::from_secs(3));
        let after = memory(&[server])?;
        drop(idle);
        Ok((
            after.rss - before.rss,
            after.private_dirty - before.private_dirty,
        ))
    })?;
    let rss: Vec<f64> = growth.iter().map(|g| g.0 / 1024.0).collect();
    let dirty: Vec<f64> = growth.iter().map(|g| g.1 / 1024.0).collect();
    let name = |text| format!("{text} for {count} idle connections");
    Ok(Figures::of([
        Row::new(name("more RSS"), Unit::Mebibytes, &rss),
        Row::new(name("more private dirty memory"), Unit::Mebibytes, &dirty),
    ]))
}

/// Memory of the server while 64 bodies of 4 MiB come in at the same time.
pub(crate) fn bodies(bench: &Bench) -> anyhow::Result<Figures> {
    const BODIES: usize = 64;
    const BYTES: usize = 4 << 20;
    let body = padded(BYTES);
    let mut refused = Vec::new();
    let runs = bench.each_run(|_| {
        let agent = bench.setup().start();
        let server = agent.server();
        let before = memory(&[server])?.rss;
        let codes = post_together(&agent, &body, BODIES)?;
        refused.push(float(
            codes.iter().filter(|code| **code != Some(200)).count(),
        ));
        let highest = peak(server)? - before;
        std::thread::sleep(Duration::from_secs(1));
        Ok((highest / 1024.0, (memory(&[server])?.rss - before) / 1024.0))
    })?;
    let highest: Vec<f64> = runs.iter().map(|run| run.0).collect();
    let kept: Vec<f64> = runs.iter().map(|run| run.1).collect();
    Ok(Figures::of([
        Row::new("more RSS at the peak of 64 bodies of 4 MiB", Unit::Mebibytes, &highest),
        Row::new("more RSS a second after them", Unit::Mebibytes, &kept),
    ])
    .note(format!(
        "64 bodies of 4 MiB, each sent but for its last byte before any is ended: {:.0} of them are not answered with 200.",
        median(&refused)
    )))
}

/// A valid list of one task in exactly `bytes` bytes.
fn padded(bytes: usize) -> Vec<u8> {
    let with = |padding: usize| {
        let mut one = task("padded", &["/bin/true"]);
        one["padding"] = json!("x".repeat(padding));
        Value::from(vec![one]).to_string().into_bytes()
    };
    with(bytes - with(0).len())
}

/// Sends `count` bodies at once, all of them but for the last byte before any is whole; the answers' codes.
fn post_together(agent: &Agent, body: &[u8], count: usize) -> anyhow::Result<Vec<Option<u16>>> {
    let (last, most) = body.split_last().context("an empty body")?;
    let together = std::sync::Barrier::new(count);
    let post = || {
        let mut wire = Wire::new(agent.address())?;
        let head = format!(
            "POST /setTasks HTTP/1.1\r\nHost: agent\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let stream = wire.raw();
        // A server that refuses a body closes before it has read it all.
        let sent = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(most));
        together.wait();
        sent.and_then(|()| stream.write_all(&[*last]))?;
        anyhow::Ok(wire.receive()?.0)
    };
    std::thread::scope(|scope| {
        let posts: Vec<_> = (0..count).map(|_| scope.spawn(post)).collect();
        Ok(posts
            .into_iter()
            .map(|post| post.join().expect("the client did not panic").ok())
            .collect())
    })
}
