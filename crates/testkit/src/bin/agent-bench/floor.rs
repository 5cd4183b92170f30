//! What the machine itself does: the same work with nothing of the agent in between.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{Bench, milliseconds, now, stamp};

/// How often per second `words` can be started and waited for, by `threads` threads.
pub(crate) fn spawn_rate(words: &[&str], threads: usize, time: Duration) -> anyhow::Result<f64> {
    let (count, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    let spawner = || -> anyhow::Result<()> {
        while !over.load(Ordering::Relaxed) {
            let ended = command(words).status().context("start the floor's task")?;
            ensure!(ended.success(), "the floor's task failed");
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let spawners: Vec<_> = (0..threads).map(|_| scope.spawn(spawner)).collect();
        std::thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        spawners
            .into_iter()
            .try_for_each(|spawner| spawner.join().expect("the spawner did not panic"))
    })?;
    Ok(f64::from(count.into_inner()) / begun.elapsed().as_secs_f64())
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Through the static shim: from the start to the task's first instruction.
pub(crate) fn start_latency(bench: &Bench) -> anyhow::Result<f64> {
    let words = [&bench.helper, "shim", &bench.helper, "stamp"];
    let begun = now()?;
    let (began, _) = printed(&words)?;
    Ok(milliseconds(begun, began))
}

/// Through `nsenter` and a shell into the container of a process: the same.
pub(crate) fn nsenter_latency(bench: &Bench, container: Pid) -> anyhow::Result<f64> {
    let target = container.to_string();
    let script = format!("{} stamp", bench.helper);
    let words = ["nsenter", "-t", &target, "-m", "-u", "-i", "-n", "-p", "-C"];
    let begun = now()?;
    let (began, _) = printed(&[&words[..], &["/bin/sh", "-c", &script]].concat())?;
    Ok(milliseconds(begun, began))
}

/// From the end of a task to its parent knowing of it.
pub(crate) fn exit_latency(bench: &Bench) -> anyhow::Result<f64> {
    let (ended, known) = printed(&[&bench.helper, "nap", "3"])?;
    Ok(milliseconds(ended, known))
}

/// Runs a task: what it printed, and when its end was known.
fn printed(words: &[&str]) -> anyhow::Result<(Duration, Duration)> {
    let mut output: File = tempfile::tempfile()?;
    let ended = command(words).stdout(output.try_clone()?).status()?;
    let known = now()?;
    ensure!(ended.success(), "the floor's task failed");
    let mut text = String::new();
    output.rewind()?;
    output.read_to_string(&mut text)?;
    Ok((stamp(&text)?, known))
}

/// From a SIGTERM to the parent knowing of the end.
pub(crate) fn end_latency() -> anyhow::Result<f64> {
    let mut task = command(&["sleep", "1000"]).spawn()?;
    // It has to be past its own start, or the kill would interrupt that.
    std::thread::sleep(Duration::from_millis(5));
    let begun = now()?;
    let pid = i32::try_from(task.id()).context("a pid")?;
    kill(Pid::from_raw(pid), Signal::SIGTERM)?;
    task.wait()?;
    Ok(milliseconds(begun, now()?))
}

/// Starts an HTTP server of one thread that answers everything with `size` bytes, for as
/// long as this program lives.
pub(crate) fn echo(size: usize) -> anyhow::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let body = Bytes::from(vec![b' '; size]);
    std::thread::spawn(move || runtime.block_on(accept(listener, body)));
    Ok(address)
}

async fn accept(listener: std::net::TcpListener, body: Bytes) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        let answer = hyper::service::service_fn(move |_: Request<Incoming>| {
            let body = body.clone();
            async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
        });
        let io = hyper_util::rt::TokioIo::new(stream);
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, answer);
        // A client that leaves in the middle is the end of its connection, no more.
        tokio::spawn(async { drop(connection.await) });
    }
}
