//! The tasks that the benchmark runs, and the smallest shim that could be: both static and without any setting up,
//! so that what is measured is the agent and not the task.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

fn main() -> ExitCode {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    let mut words = std::env::args_os().skip(1);
    let role = words.next().unwrap_or_default();
    let done = match role.to_str() {
        // Ends at once.
        Some("true") => return ExitCode::SUCCESS,
        // Prints when its first instruction ran.
        Some("stamp") => now.map_err(io::Error::from).and_then(print),
        // Sleeps for that many milliseconds and prints when it ends.
        Some("nap") => {
            let text = words.next().unwrap_or_default();
            let ms = text.to_str().and_then(|ms| ms.parse().ok()).unwrap_or(0);
            std::thread::sleep(Duration::from_millis(ms));
            clock_gettime(ClockId::CLOCK_MONOTONIC)
                .map_err(io::Error::from)
                .and_then(print)
        }
        // The floor: starts the command, waits for it, and does nothing else.
        Some("shim") => {
            let program = words.next().unwrap_or_default();
            let ended = Command::new(program)
                .args(words)
                .stdin(Stdio::null())
                .status();
            ended.and_then(|status| {
                status
                    .success()
                    .then_some(())
                    .ok_or_else(|| io::Error::other("failed"))
            })
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn print(at: nix::sys::time::TimeSpec) -> io::Result<()> {
    let nanoseconds = Duration::from(at).as_nanos();
    io::stdout().write_all(format!("{nanoseconds}\n").as_bytes())
}
