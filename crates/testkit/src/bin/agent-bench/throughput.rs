//! How many: tasks per second, lists per second, ten thousand at once.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;
use testkit::agent::Agent;

use crate::bench::{Bench, milliseconds, now, processes};
use crate::floor;
use crate::report::{Bar, Figures, Row, Unit};
use crate::stats::{float, median, percentile};
use crate::usage::{activity, own_cpu};
use crate::wire::{Wire, task};

/// Tasks that are in flight at once.
const FLIGHT: usize = 64;
/// What a short task is: the smallest program that every machine has.
const SHORT: &str = "/bin/true";

/// Short tasks with 64 in flight, and the machine's own rates beside them.
pub(crate) fn flight(bench: &Bench) -> anyhow::Result<Figures> {
    let mut all = Figures::default();
    for (what, short) in [
        ("/bin/true", vec![SHORT]),
        ("a static program", vec![bench.helper.as_str(), "true"]),
    ] {
        all.extend(flight_of(bench, what, &short)?);
    }
    Ok(all)
}

fn flight_of(bench: &Bench, what: &str, short: &[&str]) -> anyhow::Result<Figures> {
    let agent = bench.setup().start();
    let shim = [&[bench.helper.as_str(), "shim"], short].concat();
    let (mut one_level, mut one_thread, mut floors) = (Vec::new(), Vec::new(), Vec::new());
    let (mut client, mut server) = (Vec::new(), Vec::new());
    let rates = bench.each_run(|run| {
        let time = bench.seconds(1);
        one_level.push(floor::spawn_rate(short, bench.cores, time)?);
        one_thread.push(floor::spawn_rate(&shim, 1, time)?);
        let before = floor::spawn_rate(&shim, bench.cores, time)?;
        let cpu = (own_cpu()?, activity(&processes(&agent))?);
        let tasks = bench.samples(3000);
        let rate = fly(&agent, &format!("flight-{run}"), tasks, |wire, name| {
            wire.create(name, short)?;
            wire.succeeded(name)
        })?;
        let per_task = |spent: Duration| spent.as_secs_f64() * 1e3 / float(tasks);
        client.push(per_task(own_cpu()?.saturating_sub(cpu.0)));
        server.push(per_task(activity(&processes(&agent))?.since(cpu.1).cpu));
        // Before and after, since the machine is not always equally fast.
        floors.push(f64::midpoint(
            before,
            floor::spawn_rate(&shim, bench.cores, time)?,
        ));
        all_succeeded(&agent, tasks)?;
        Wire::new(agent.address())?.clear()?;
        Ok(rate)
    })?;
    let name = |text: &str| format!("{text}, {what}");
    let floor = |text: &str, rates: &[f64]| Row::new(name(text), Unit::PerSecond, rates);
    Ok(Figures::of([
        Row::new(name("short tasks, 64 in flight"), Unit::PerSecond, &rates)
            .floors(&floors, &rates)
            .bar(Bar::OfFloor(60.0)),
        floor("floor: through a static shim, a thread per core", &floors),
        floor("floor: through a static shim, one thread", &one_thread),
        floor("floor: without a shim, a thread per core", &one_level),
    ])
    .note(format!(
        "64 in flight, {what}: of the processor time per task, the load generator takes {:.2} ms and init, server and launcher \
         together {:.2} ms; the rest is shims and tasks. Each run ends with a check of every status and every exit record.",
        median(&client),
        median(&server)
    )))
}

/// Short tasks that are deleted when they have ended, with 64 in flight: a client that keeps nothing.
pub(crate) fn churn(bench: &Bench) -> anyhow::Result<Figures> {
    let agent = bench.setup().start();
    let shim = [bench.helper.as_str(), "shim", bench.helper.as_str(), "true"];
    let mut floors = Vec::new();
    let rates = bench.each_run(|run| {
        floors.push(floor::spawn_rate(&shim, bench.cores, bench.seconds(1))?);
        let tasks = bench.samples(3000);
        let rate = fly(&agent, &format!("churn-{run}"), tasks, |wire, name| {
            wire.create(name, &[&bench.helper, "true"])?;
            wire.succeeded(name)?;
            let (code, _) = wire.call("DELETE", &format!("/tasks/{name}"), b"")?;
            ensure!(code == 204, "DELETE {name}: {code}");
            Ok(())
        })?;
        Wire::new(agent.address())?.clear()?;
        Ok(rate)
    })?;
    Ok(Figures::of([Row::new(
        "short tasks, each deleted when it has ended, 64 in flight",
        Unit::PerSecond,
        &rates,
    )
    .floors(&floors, &rates)]))
}

/// Does something with `tasks` tasks of different names, with 64 clients; tasks per second.
fn fly(
    agent: &Agent,
    prefix: &str,
    tasks: usize,
    with: impl Fn(&mut Wire, &str) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<f64> {
    let next = AtomicUsize::new(0);
    let client = || -> anyhow::Result<()> {
        let mut wire = Wire::new(agent.address())?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= tasks {
                return Ok(());
            }
            with(&mut wire, &format!("{prefix}-{number}"))?;
        }
    };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..FLIGHT).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().expect("the client did not panic"))
    })?;
    Ok(float(tasks) / begun.elapsed().as_secs_f64())
}

/// That there are `tasks` tasks, all of them succeeded, each with its record on disk.
fn all_succeeded(agent: &Agent, tasks: usize) -> anyhow::Result<()> {
    let list = Wire::new(agent.address())?.get("/getTasks")?;
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    ensure!(
        list.len() == tasks,
        "{} tasks instead of {tasks}",
        list.len()
    );
    for one in list {
        let end = &one["status"]["state"]["terminated"];
        ensure!(
            end["reason"] == "Succeeded" && end["exitCode"] == 0,
            "not a success: {one}"
        );
        let name = one["name"].as_str().unwrap_or_default();
        let record = agent.dir().join(name).join("exit.rec");
        ensure!(is_written(&record), "{name} has no exit record");
    }
    Ok(())
}

fn is_written(record: &Path) -> bool {
    std::fs::metadata(record).is_ok_and(|file| file.len() > 0)
}

/// Short tasks one after another, each awaited.
pub(crate) fn serial(bench: &Bench) -> anyhow::Result<Figures> {
    let agent = bench.setup().start();
    let shim = [bench.helper.as_str(), "shim", SHORT];
    let mut floors = Vec::new();
    let rates = bench.each_run(|run| {
        floors.push(floor::spawn_rate(&shim, 1, bench.seconds(1))?);
        let tasks = bench.samples(500);
        let mut wire = Wire::new(agent.address())?;
        let begun = Instant::now();
        for number in 0..tasks {
            let name = format!("serial-{run}-{number}");
            wire.create(&name, &[SHORT])?;
            wire.succeeded(&name)?;
        }
        let rate = float(tasks) / begun.elapsed().as_secs_f64();
        all_succeeded(&agent, tasks)?;
        wire.clear()?;
        Ok(rate)
    })?;
    Ok(Figures::of([Row::new(
        "short tasks one after another, each awaited",
        Unit::PerSecond,
        &rates,
    )
    .bar(Bar::AtLeast(300.0))
    .floors(&floors, &rates)]))
}

/// `getTasks` of 1,000 finished tasks by 16 clients.
pub(crate) fn list(bench: &Bench) -> anyhow::Result<Figures> {
    const CLIENTS: usize = 16;
    let agent = bench.setup().flag("--max-concurrent-tasks=64").start();
    let size = fill(&agent, 1000)?.size;
    let echo = floor::echo(size)?;
    let mut floors = Vec::new();
    let mut client = Vec::new();
    let rates = bench.each_run(|_| {
        let time = bench.seconds(3);
        let before = get_rate(echo, CLIENTS, time)?;
        let cpu = own_cpu()?;
        let rate = get_rate(agent.address(), CLIENTS, time)?;
        let spent = own_cpu()?.saturating_sub(cpu).as_secs_f64();
        client.push(spent * 100.0 / time.as_secs_f64());
        floors.push(f64::midpoint(before, get_rate(echo, CLIENTS, time)?));
        Ok(rate)
    })?;
    Ok(Figures::of([Row::new(
        "getTasks of 1,000, 16 clients",
        Unit::PerSecond,
        &rates,
    )
    .bar(Bar::AtLeast(5000.0))
    .floors(&floors, &rates)])
    .note(format!(
        "getTasks of 1,000: the body has {} KiB; the load generator takes {:.0} % of one core for reading it.",
        size / 1024,
        median(&client)
    )))
}

/// GETs per second by `clients` clients, each with one connection.
fn get_rate(address: SocketAddr, clients: usize, time: Duration) -> anyhow::Result<f64> {
    let (count, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    let client = || -> anyhow::Result<()> {
        let mut wire = Wire::new(address)?;
        while !over.load(Ordering::Relaxed) {
            let (code, _) = wire.call("GET", "/getTasks", b"")?;
            ensure!(code == 200, "GET: {code}");
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        clients
            .into_iter()
            .try_for_each(|client| client.join().expect("the client did not panic"))
    })?;
    Ok(f64::from(count.into_inner()) / begun.elapsed().as_secs_f64())
}

/// How setting many tasks at once went.
struct Filled {
    /// From the request to its answer.
    answered: Duration,
    /// From the request to the end of the last task.
    done: Duration,
    /// Of the list, in bytes.
    size: usize,
}

/// Sets `tasks` short tasks at once and waits until all have succeeded.
fn fill(agent: &Agent, tasks: usize) -> anyhow::Result<Filled> {
    let set: Vec<_> = (0..tasks)
        .map(|n| task(&format!("many-{n:05}"), &[SHORT]))
        .collect();
    let body = Value::from(set).to_string();
    let mut wire = Wire::new(agent.address())?;
    let begun = Instant::now();
    let (code, answer) = wire.call("POST", "/setTasks", body.as_bytes())?;
    ensure!(
        code == 200,
        "setTasks: {code} {}",
        String::from_utf8_lossy(answer)
    );
    let answered = begun.elapsed();
    // First in, first out: when the last has ended, so have all but those that ran beside it.
    for number in (0..tasks).rev() {
        let name = format!("many-{number:05}");
        loop {
            let (code, body) = wire.call("GET", &format!("/tasks/{name}?wait=30s"), b"")?;
            ensure!(code == 200, "{name}: {code}");
            if crate::wire::contains(body, b"\"terminated\"") {
                break;
            }
            ensure!(
                begun.elapsed() < Duration::from_mins(5),
                "{name} does not end"
            );
        }
        if tasks - number >= 2 * FLIGHT {
            break;
        }
    }
    let done = begun.elapsed();
    all_succeeded(agent, tasks)?;
    let size = wire.call("GET", "/getTasks", b"")?.1.len();
    Ok(Filled {
        answered,
        done,
        size,
    })
}

/// 10,000 tasks in one `setTasks`; what they cost when they are done, and at a restart.
pub(crate) fn many(bench: &Bench) -> anyhow::Result<Figures> {
    let tasks = bench.samples(10_000);
    let (mut done, mut answered, mut recovery) = (Vec::new(), Vec::new(), Vec::new());
    let (mut lists, mut floors) = (Vec::new(), Vec::new());
    let (mut cpu, mut wakeups) = (Vec::new(), Vec::new());
    bench.each_run(|_| {
        let mut agent = bench.setup().flag("--max-concurrent-tasks=64").start();
        let filled = fill(&agent, tasks)?;
        answered.push(filled.answered.as_secs_f64());
        done.push(filled.done.as_secs_f64());
        lists.push(get_times(agent.address(), bench.samples(50))?);
        floors.push(get_times(floor::echo(filled.size)?, bench.samples(50))?);
        // What the last requests have left to do is not counted.
        std::thread::sleep(Duration::from_secs(2));
        let before = activity(&processes(&agent))?;
        let time = bench.seconds(10);
        std::thread::sleep(time);
        let spent = activity(&processes(&agent))?.since(before);
        cpu.push(spent.cpu.as_secs_f64() * 1e3 / time.as_secs_f64());
        wakeups.push(float(spent.switches) / time.as_secs_f64());
        recovery.push(crate::footprint::restart(&mut agent)?);
        all_succeeded(&agent, tasks)
    })?;
    let p50: Vec<f64> = floors.iter().map(|floor| percentile(floor, 50)).collect();
    let rates: Vec<f64> = done.iter().map(|seconds| float(tasks) / seconds).collect();
    let name = |text: &str| format!("{text} of {tasks} finished tasks");
    Ok(Figures::of([
        Row::new(
            format!("{tasks} tasks in one setTasks: answered"),
            Unit::Seconds,
            &answered,
        ),
        Row::new(
            format!("{tasks} tasks in one setTasks: all done, 64 at once"),
            Unit::Seconds,
            &done,
        ),
        Row::new(
            "that is, tasks started, ended and recorded",
            Unit::PerSecond,
            &rates,
        ),
        Row::p50(&name("getTasks"), &lists)
            .bar(Bar::AtMost(50.0))
            .floor(median(&p50)),
        // One clock tick in ten seconds would be 1 ms per second.
        Row::new(name("processor time per second"), Unit::Milliseconds, &cpu).bar(Bar::AtMost(0.1)),
        Row::new(name("wakeups"), Unit::PerSecond, &wakeups).bar(Bar::AtMost(0.0)),
        Row::new(
            name("recovery to /health 200"),
            Unit::Milliseconds,
            &recovery,
        )
        .bar(Bar::AtMost(1000.0)),
    ]))
}

fn get_times(address: SocketAddr, count: usize) -> anyhow::Result<Vec<f64>> {
    let mut wire = Wire::new(address)?;
    let sample = |_| {
        let sent = now()?;
        wire.call("GET", "/getTasks", b"")?;
        Ok(milliseconds(sent, now()?))
    };
    (0..count).map(sample).collect()
}
