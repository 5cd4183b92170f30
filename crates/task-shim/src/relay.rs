//! The relay: a process of ours inside of a PID namespace that is not the agent's.
//!
//! A subreaper is handed orphans only from its own PID namespace. So a command in another one
//! gets this parent, which is a subreaper there: whatever the command starts stays below it,
//! and by that below the shim. It passes the command's wait status on over a pipe, and ends
//! when nothing is left. Whoever kills it lets its tree loose, so we never do.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::prctl;
use nix::unistd::{ForkResult, Pid};

use crate::proc;

/// Name (prctl(2) `PR_SET_NAME`) of a relay.
pub(crate) const NAME: &str = "task-relay";

/// A relay, as its shim sees it.
#[derive(Debug)]
pub(crate) struct Relay {
    /// Its pid.
    pub(crate) pid: Pid,
    /// Pid of the command that it is the parent of.
    pub(crate) leader: Pid,
    /// None once it has told all that it has to tell.
    status: Option<File>,
}

impl Relay {
    /// Waits until a relay has started its command.
    pub(crate) fn await_birth(pid: Pid, status: OwnedFd) -> nix::Result<Self> {
        let mut status = File::from(status);
        let mut errno = [0];
        match status.read_exact(&mut errno) {
            Ok(()) if errno[0] == 0 => {}
            Ok(()) => return Err(Errno::from_raw(i32::from(errno[0]))),
            // Killed, most likely with its PID namespace.
            Err(_) => return Err(Errno::ESRCH),
        }
        fcntl(&status, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut children = proc::descendants(pid).into_iter();
        // The command waits to be released; it is the only child, and has none itself.
        let (leader, _) = children.next().ok_or(Errno::ESRCH)?;
        Ok(Self {
            pid,
            leader,
            status: Some(status),
        })
    }

    /// The command's wait status, once it has ended.
    pub(crate) fn told(&mut self) -> Option<ExitStatus> {
        let mut raw = [0; 4];
        // Written in one go, and less than a pipe ever splits.
        let told = matches!(self.status.as_ref()?.read(&mut raw), Ok(4));
        if told {
            self.status = None;
        }
        told.then(|| ExitStatus::from_raw(i32::from_le_bytes(raw)))
    }

    /// What becomes readable when there is something to tell.
    pub(crate) fn news(&self) -> Option<PollFd<'_>> {
        let status = self.status.as_ref()?;
        Some(PollFd::new(status.as_fd(), PollFlags::POLLIN))
    }
}

/// Becomes a relay: starts `command` in a child and waits until nothing is left below.
pub(crate) fn run(command: impl FnOnce(), status: OwnedFd) -> ! {
    let mut status = File::from(status);
    // Nothing inside may look into a copy of the shim, or trace it.
    let prepared = prctl::set_child_subreaper(true).and_then(|()| prctl::set_dumpable(false));
    // Fails only for a name with a NUL.
    let _ = CString::new(NAME).map(|name| prctl::set_name(&name));
    let forked = prepared
        .map_err(io::Error::from)
        .and_then(|()| sandbox_sys::fork());
    let child = match forked {
        Ok(ForkResult::Child) => {
            drop(status);
            command();
            sandbox_sys::exit_now(127)
        }
        Ok(ForkResult::Parent { child }) => {
            // Its ends of pipes would keep them open.
            drop(command);
            child
        }
        Err(error) => {
            let errno = error.raw_os_error().and_then(|e| u8::try_from(e).ok());
            // Without a reader there is nobody to tell; so it is below.
            let _ = status.write_all(&[errno.unwrap_or(u8::MAX)]);
            sandbox_sys::exit_now(1)
        }
    };
    let _ = status.write_all(&[0]);
    while let Ok((pid, ended)) = sandbox_sys::reap_next() {
        if pid == child {
            let _ = status.write_all(&ended.into_raw().to_le_bytes());
        }
    }
    sandbox_sys::exit_now(0)
}
