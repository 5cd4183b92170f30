//! What a shim does for commands that run in the main container, behind a relay or not.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::{Pid, getpid};
use sandbox_sys::PidFd;

use super::{Shim, not_started};
use crate::enter::Door;
use crate::launch::Launch;
use crate::record::{ExitRecord, Outcome};
use crate::relay::Relay;
use crate::{orphans, proc, tree};

/// How long the kernel may take to end a PID namespace whose init has died, in steps.
const NAMESPACE_ENDS_TRIES: u32 = 200;
const NAMESPACE_ENDS_PAUSE: Duration = Duration::from_millis(5);
/// Said when the wait status of a command is lost for good.
const RELAY_KILLED: &str =
    "the true exit code is not known: its task-relay in the main container was killed";

/// The main container and the relays in it, as far as they concern a task.
#[derive(Debug)]
pub(super) struct Interior {
    /// None if nothing of the task runs there.
    door: Option<Door>,
    target_gone: bool,
    relays: Vec<Relay>,
    /// A command that has a relay for a parent.
    behind_relay: Option<Pid>,
    /// Whether a relay was killed, and what was below it is out of reach.
    let_loose: bool,
}

impl Interior {
    pub(super) fn open(launch: &Launch, target: Option<PidFd>) -> io::Result<Self> {
        let door = match (&launch.remote, target) {
            (None, _) => Ok(None),
            (Some(remote), Some(pidfd)) => Door::open(remote, pidfd).map(Some),
            // What is meant for there must never run here.
            (Some(_), None) => Err(Errno::EBADF),
        };
        let door = door.map_err(io::Error::from);
        // It is tried again, then with the container that came after this one.
        let door = door.inspect_err(|error| {
            not_started(launch, error.raw_os_error().unwrap_or_default());
        })?;
        Ok(Self {
            door,
            target_gone: false,
            relays: Vec::new(),
            behind_relay: None,
            let_loose: false,
        })
    }

    pub(super) fn door(&self) -> Option<&Door> {
        self.door.as_ref()
    }

    /// Whether the main container has ended, as far as was looked.
    pub(super) fn target_gone(&self) -> bool {
        self.target_gone
    }

    pub(super) fn look_at_target(&mut self) {
        if let Some(door) = &self.door {
            self.target_gone = door.is_closed();
        }
    }

    /// Whether something of the task may run where nobody watches it.
    pub(super) fn has_let_loose(&self) -> bool {
        self.let_loose
    }

    /// Notes the relay of a command that was started, if it has one.
    pub(super) fn follow(&mut self, leader: Pid, relay: Option<Relay>) {
        self.behind_relay = relay.as_ref().map(|_| leader);
        self.relays.extend(relay);
    }

    pub(super) fn relay_pids(&self) -> Vec<Pid> {
        self.relays.iter().map(|relay| relay.pid).collect()
    }

    /// What becomes readable when there is something to look at.
    pub(super) fn news(&self) -> impl Iterator<Item = PollFd<'_>> {
        let door = self.door.as_ref().filter(|_| !self.target_gone);
        let target = door.map(|door| PollFd::new(door.pidfd().as_fd(), PollFlags::POLLIN));
        target
            .into_iter()
            .chain(self.relays.iter().filter_map(Relay::news))
    }

    /// The relay whose child a command is.
    fn relay_of(&self, leader: Pid) -> Option<Pid> {
        let mut relays = self.relays.iter();
        relays
            .find(|relay| relay.leader == leader)
            .map(|relay| relay.pid)
    }

    /// Whether the relay that was to tell the end of `leader` has ended without a word.
    pub(super) fn is_lost(&self, leader: Option<Pid>) -> bool {
        leader.is_some()
            && self.behind_relay == leader
            && !self.relays.iter().any(|relay| Some(relay.leader) == leader)
    }

    /// What relays have told about `leader`, before those that have `ended` are forgotten.
    fn hear(&mut self, leader: Option<Pid>, ended: &[(Pid, ExitStatus)]) -> Option<ExitStatus> {
        let mut status = None;
        for relay in &mut self.relays {
            let told = relay.told();
            if Some(relay.leader) == leader {
                status = told.or(status);
            }
        }
        for (pid, how) in ended {
            let before = self.relays.len();
            self.relays.retain(|relay| relay.pid != *pid);
            self.let_loose |= self.relays.len() < before && !how.success();
        }
        status
    }
}

impl Shim<'_> {
    /// Reaps everything that has ended. False when no child is left.
    pub(super) fn reap(&mut self, leader: Option<Pid>, status: &mut Option<ExitStatus>) -> bool {
        let mut others = Vec::new();
        let left = loop {
            match sandbox_sys::reap_any() {
                Ok(Some((pid, ended))) if Some(pid) == leader => *status = Some(ended),
                Ok(Some(other)) => others.push(other),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        *status = self.interior.hear(leader, &others).or(*status);
        left
    }

    /// Signals a command that has not been seen to end, with its process group.
    pub(super) fn signal_leader(&self, leader: Pid, signal: i32) {
        match self.interior.relay_of(leader) {
            // It is another process's child, so its number may not be its own any more.
            Some(relay) => {
                tree::signal_descendants(relay, signal, &self.interior.relay_pids());
            }
            // A group that has just ended is as good.
            None => drop(sandbox_sys::signal_group(leader, signal)),
        }
    }

    pub(super) fn kill_all(&self, cgroups: &[String]) {
        tree::kill_descendants(getpid(), &self.interior.relay_pids(), cgroups);
    }

    /// The end of a command whose relay has died, if that can only be because the whole PID
    /// namespace has ended: the kernel kills everything in it.
    pub(super) fn end_by_namespace(&mut self) -> Option<ExitStatus> {
        let inode = self.launch.remote.as_ref()?.pid_namespace?;
        for _ in 0..NAMESPACE_ENDS_TRIES {
            if proc::is_pid_namespace_empty(inode) {
                self.interior.look_at_target();
                return Some(ExitStatus::from_raw(libc::SIGKILL));
            }
            std::thread::sleep(NAMESPACE_ENDS_PAUSE);
        }
        None
    }

    /// The end of a command that nobody has seen. What it has left is ended.
    pub(super) fn lost(&self) -> ExitRecord {
        // What can't be ended now is searched for again when the task is deleted.
        let _ = orphans::end_of(&self.dir, &self.launch.scope, self.leader.as_ref());
        ExitRecord {
            outcome: Outcome::Lost,
            started_at: Some(self.started_at),
            ..self.never_ran(255, RELAY_KILLED.to_owned())
        }
    }
}
