//! Hints from shims to the server: "look at this task now".
//!
//! One FIFO serves all shims. A shim opens it for each hint, so it finds whichever server
//! is there at the moment, also one that was started after the shim. A hint is never the
//! truth, only a reason to read the records; a lost one costs time, not correctness.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long a shim waits for room in the FIFO, in tries of 50 ms: longer than a busy
/// server needs to drain it, shorter than anyone waits for a task to stop.
const TRIES: u32 = 20;

/// What a hint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// The task runs: its run record is in place.
    Running,
    /// The task is over: its exit record is in place.
    Over,
    /// The task could not be started, with an errno; nothing of it ran.
    NotStarted(i32),
}

impl Hint {
    /// The line that is sent for task `uid`. Far below `PIPE_BUF`, so writes never mix.
    pub fn line(self, uid: &str) -> String {
        match self {
            Self::Running => format!("running {uid}\n"),
            Self::Over => format!("over {uid}\n"),
            Self::NotStarted(errno) => format!("not-started {uid} {errno}\n"),
        }
    }

    /// Parses a line, without its end. `None` if it isn't a hint.
    pub fn parse(line: &str) -> Option<(Self, &str)> {
        let mut words = line.split(' ');
        let hint = match (words.next()?, words.next()?, words.next()) {
            ("running", uid, None) => (Self::Running, uid),
            ("over", uid, None) => (Self::Over, uid),
            ("not-started", uid, Some(errno)) => (Self::NotStarted(errno.parse().ok()?), uid),
            _ => return None,
        };
        words.next().is_none().then_some(hint)
    }
}

/// Sends a hint, if a server listens. Never blocks for longer than a second.
pub fn send(path: &str, hint: Hint, uid: &str) {
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path);
    let Ok(mut fifo) = opened else { return };
    let line = hint.line(uid);
    for _ in 0..TRIES {
        match fifo.write(line.as_bytes()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut wait = [PollFd::new(fifo.as_fd(), PollFlags::POLLOUT)];
                // A failing poll only means that the next write is tried sooner.
                let _ = poll(&mut wait, PollTimeout::from(50_u8));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_read_back_as_they_were_sent() {
        for hint in [Hint::Running, Hint::Over, Hint::NotStarted(28)] {
            let line = hint.line("u-1");
            assert_eq!(Hint::parse(line.trim_end()), Some((hint, "u-1")));
        }
        for junk in [
            "",
            "running",
            "over a b",
            "not-started u x",
            "not-started u 1 2",
            "nonsense u",
        ] {
            assert_eq!(Hint::parse(junk), None, "{junk}");
        }
    }

    #[test]
    fn a_hint_without_a_listener_is_dropped() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let path = dir.path().join("hints");
        send(&path.to_string_lossy(), Hint::Over, "u-1");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("makes a fifo");
        send(&path.to_string_lossy(), Hint::Over, "u-1");
    }
}
