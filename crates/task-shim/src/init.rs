//! The init role: starts the server, starts it again when it dies, reaps what is orphaned
//! and passes signals on. It holds nothing that could be lost and allocates next to nothing.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use sandbox_sys::PidFd;

use crate::SERVER_ROLE;

/// Longest pause before a server that keeps dying is started again.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A server that lived this long was healthy: the next pause starts from nothing.
const HEALTHY: Duration = Duration::from_secs(10);

/// Runs the init role until the server ends of its own will. Its exit code is ours.
pub fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<ExitCode> {
    prctl::set_child_subreaper(true)?;
    let signals = crate::signals::listen(&[
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ])?;
    let mut pause = Duration::ZERO;
    let mut stopping = false;
    loop {
        let began = Instant::now();
        let server = start_server()?;
        let ended = wait_for(server, &signals, &mut stopping)?;
        if let Some(code) = final_code(ended, stopping) {
            return Ok(code);
        }
        pause = if began.elapsed() >= HEALTHY {
            Duration::ZERO
        } else {
            (pause * 2).clamp(Duration::from_millis(20), PAUSE_MAX)
        };
        std::thread::sleep(pause);
    }
}

/// The exit code to end with, or `None` for a server that died and is to be started again.
/// A panic shows as 101 or SIGABRT; both are deaths.
fn final_code(ended: ExitStatus, stopping: bool) -> Option<ExitCode> {
    match (ended.code(), ended.signal()) {
        (Some(101), _) if !stopping => None,
        (Some(code), _) => Some(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        (None, Some(signal)) if stopping => {
            Some(ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)))
        }
        (None, _) => None,
    }
}

fn start_server() -> io::Result<Pid> {
    let child = Command::new("/proc/self/exe")
        .arg0(SERVER_ROLE)
        .args(std::env::args_os().skip(1))
        .spawn()?;
    i32::try_from(child.id())
        .map(Pid::from_raw)
        .map_err(io::Error::other)
}

/// Passes signals on and reaps until the server itself has ended.
fn wait_for(server: Pid, signals: &SignalFd, stopping: &mut bool) -> io::Result<ExitStatus> {
    let reference = PidFd::open(server).ok();
    // From here on this process waits; it only saves memory.
    let _ = sandbox_sys::forget_program_pages();
    loop {
        while let Ok(Some((pid, status))) = sandbox_sys::reap_any() {
            if pid == server {
                return Ok(status);
            }
        }
        let mut wait = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        // An interrupted poll only makes the loop look sooner.
        let _ = poll(&mut wait, PollTimeout::NONE);
        while let Ok(Some(info)) = signals.read_signal() {
            let Ok(signal) = i32::try_from(info.ssi_signo) else {
                continue;
            };
            if signal == nix::libc::SIGCHLD {
                continue;
            }
            *stopping |= signal == nix::libc::SIGTERM || signal == nix::libc::SIGINT;
            if let Some(server) = &reference {
                // A server that has just ended is reaped in the next round.
                let _ = server.signal(signal);
            }
        }
    }
}
