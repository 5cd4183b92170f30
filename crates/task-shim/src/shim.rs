//! The shim: starts one task, waits for it, ends its whole tree when told or when its
//! time is over, and writes down how it ended.
//!
//! ```text
//! take lock ─► reserve exit record ─► preStart ─► command ─► exit record ─► postStop ─► linger
//!                                        │            │                                   │
//!                                        └─ SIGTERM or deadline: stop signal, grace, SIGKILL to all of it
//! ```
//! The server asks for the end with SIGTERM. Deadlines, grace periods and kills are here,
//! so they hold while the server is down.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitStatus;

use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signalfd::SignalFd;
use nix::sys::stat::Mode as FileMode;
use nix::unistd::{Pid, getpid, setsid};
use sandbox_sys::PidFd;

use crate::cgroup::group;
use crate::clock::{boot_ms, unix_seconds};
use crate::hint::{self, Hint};
use crate::launch::{Job, Launch, Mode};
use crate::lock::Mark;
use crate::logcap::LogCap;
use crate::record::{self, ExitRecord, Identity, MESSAGE_BYTES_MAX, Outcome, Phase, RunRecord};
use crate::signals::OF_A_SHIM;
use crate::spawn::{self, Command, StartError};
use crate::tree;

/// Between two sweeps over a tree that is being killed.
const SWEEP_MS: u64 = 5;
/// Said of a task that failed after the kernel had killed one of its other processes.
const PART_OUT_OF_MEMORY: &str = "a process of it was killed by the kernel: out of memory";
/// Said of a task that failed since the main container, in which it ran, has ended.
const CONTAINER_ENDED: &str = "the main container ended";
/// Between two tries to write an exit record that the file system refused.
const RETRY_MS: u64 = 200;

mod claim;
mod end;
mod hooks;
mod interior;

use claim::{is_started, is_wanted, take_lock};
use end::{code_of, tail};
use interior::Interior;

/// Supervises the task whose directory is `dir`, as the launch order says; `target` is a pidfd
/// of the main container's process, if the order is about one. The calling
/// process is forked from the launcher and becomes the shim: it has one thread, and its
/// standard descriptors are the null device.
pub(crate) fn run(order: File, dir: OwnedFd, target: Option<PidFd>) -> io::Result<()> {
    let launch = read_order(order)?;
    // Fails only if this process leads a session already, which is as good.
    let _ = setsid();
    prctl::set_child_subreaper(true)?;
    prctl::set_name(c"task-shim")?;
    let Some(lock) = take_lock(&dir)? else {
        return Ok(());
    };
    // The task has been removed meanwhile: what is there may be another's.
    if !is_wanted(&lock, &dir, &launch.uid) {
        return Ok(());
    }
    let mut shim = Shim::new(&launch, dir, target)?;
    match launch.job {
        // Another shim of it was faster.
        Job::Run if is_started(&shim.dir) => return Ok(()),
        Job::Run => shim.live()?,
        Job::PostStop => {
            shim.reserve_post_stop()?;
            shim.post_stop();
            hint::send(&launch.hints, Hint::Over, &launch.uid);
        }
    }
    if shim.interior.has_let_loose() {
        // Without the mark the server searches for it before it removes the task.
        return Ok(());
    }
    // Nothing is left in them. What fails is done by the server, with the task's record.
    group::remove_all(&launch.cgroups);
    Mark::Closed.set(&shim.dir)
}

fn read_order(mut order: File) -> io::Result<Launch> {
    let mut bytes = Vec::new();
    order.read_to_end(&mut bytes)?;
    Launch::decode(&bytes)
}

/// Why a tree is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Stop,
    Deadline,
    Leftovers,
    /// The main container, in which it ran.
    Container,
}

/// An ending under way.
#[derive(Debug, Clone, Copy)]
struct Ending {
    cause: Cause,
    kill_at: u64,
}

/// How watching a process ended.
#[derive(Debug)]
struct Watched {
    /// None if nobody can tell it any more.
    status: Option<ExitStatus>,
    hook_timed_out: bool,
}

struct Shim<'a> {
    launch: &'a Launch,
    dir: OwnedFd,
    signals: SignalFd,
    null: File,
    stdout: File,
    stderr: File,
    cap: LogCap,
    started_ms: u64,
    started_at: i64,
    stop: bool,
    ending: Option<Ending>,
    /// Whether this shim has sent SIGKILL: then a death by it says nothing about memory.
    killed: bool,
    /// Whether what is left is ended with the command: not what a hook before it has left.
    kill_leftovers: bool,
    interior: Interior,
    /// What was started last.
    leader: Option<Identity>,
}

impl<'a> Shim<'a> {
    fn new(launch: &'a Launch, dir: OwnedFd, target: Option<PidFd>) -> io::Result<Self> {
        let interior = Interior::open(launch, target)?;
        let signals = crate::signals::listen(&OF_A_SHIM)?;
        let log = |name: &str| {
            let flags = OFlag::O_RDWR
                | OFlag::O_CREAT
                | OFlag::O_APPEND
                | OFlag::O_CLOEXEC
                | OFlag::O_NOFOLLOW;
            openat(&dir, name, flags, FileMode::from_bits_truncate(0o600)).map(File::from)
        };
        let opened = log("stdout.log").and_then(|out| Ok((out, log("stderr.log")?)));
        let (stdout, stderr) = opened.inspect_err(|errno| {
            not_started(
                launch,
                io::Error::from(*errno).raw_os_error().unwrap_or_default(),
            );
        })?;
        let remote = launch
            .remote
            .as_ref()
            .filter(|_| launch.mode == Mode::Remote);
        let (user, group) = match remote {
            Some(remote) => (Some(remote.user), Some(remote.group)),
            None => (launch.user, launch.group),
        };
        if user.is_some() || group.is_some() {
            for file in [&stdout, &stderr] {
                // So that the task may open /dev/stdout; it can write to the file either way.
                let _ = std::os::unix::fs::fchown(file, user, group);
            }
        }
        let capped = if launch.log_bytes_max > 0 {
            vec![stdout.try_clone()?, stderr.try_clone()?]
        } else {
            Vec::new()
        };
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self {
            launch,
            dir,
            signals,
            null,
            stdout,
            stderr,
            cap: LogCap::new(launch.log_bytes_max, capped),
            started_ms: boot_ms(),
            started_at: unix_seconds(),
            stop: false,
            ending: None,
            killed: false,
            kill_leftovers: false,
            interior,
            leader: None,
        })
    }

    fn live(&mut self) -> io::Result<()> {
        self.reserve(record::EXIT_SLOT)?;
        if self.launch.pre_start.is_some() {
            self.reserve(record::RUN_SLOT)?;
        }
        if self.launch.post_stop.is_some() {
            self.reserve_post_stop()?;
        }
        let exit = match self.pre_start()? {
            Some(failed) => failed,
            None => self.command()?,
        };
        self.write_exit(&exit);
        if self.launch.post_stop.is_some() {
            self.post_stop();
        }
        hint::send(&self.launch.hints, Hint::Over, &self.launch.uid);
        self.watch(None, None);
        self.cap.trim(boot_ms());
        Ok(())
    }

    fn never_ran(&self, code: i32, message: String) -> ExitRecord {
        ExitRecord {
            uid: self.launch.uid.clone(),
            outcome: Outcome::PreStartFailed,
            code,
            signal: None,
            started_at: None,
            finished_at: unix_seconds(),
            message,
        }
    }

    /// Runs the command to its end.
    fn command(&mut self) -> io::Result<ExitRecord> {
        let launch = self.launch;
        let pid = match self.start(&launch.argv, launch.mode, Phase::Main)? {
            Err(error) => {
                return Ok(ExitRecord {
                    outcome: Outcome::StartError,
                    ..self.never_ran(error.code(), error.to_string())
                });
            }
            Ok(pid) => pid,
        };
        hint::send(&self.launch.hints, Hint::Running, &self.launch.uid);
        self.kill_leftovers = self.launch.kill_leftovers;
        let watched = self.watch(Some(pid), None);
        let Some(ended) = watched.status.or_else(|| self.end_by_namespace()) else {
            return Ok(self.lost());
        };
        self.interior.look_at_target();
        let (code, signal) = code_of(Some(ended));
        let timed_out = self.ending.is_some_and(|e| e.cause == Cause::Deadline);
        let out_of_memory = self.out_of_memory();
        let outcome = if timed_out {
            Outcome::TimedOut
        } else if signal == Some(libc::SIGKILL) && !self.killed && out_of_memory {
            Outcome::OomKilled
        } else {
            Outcome::Ended
        };
        let message = match outcome {
            Outcome::TimedOut => self.with_stderr(self.timeout_text()),
            Outcome::OomKilled => {
                self.with_stderr("killed by the kernel: out of memory".to_owned())
            }
            _ if code == 0 => String::new(),
            _ if self.interior.target_gone() => self.with_stderr(CONTAINER_ENDED.to_owned()),
            // Not the command itself, but likely why it failed.
            _ if out_of_memory => self.with_stderr(PART_OUT_OF_MEMORY.to_owned()),
            _ => self.with_stderr(String::new()),
        };
        let elapsed = i64::try_from((boot_ms() - self.started_ms) / 1000).unwrap_or_default();
        Ok(ExitRecord {
            uid: self.launch.uid.clone(),
            outcome,
            code,
            signal,
            started_at: Some(self.started_at),
            // A wall clock that was set meanwhile must not make the end come before the start.
            finished_at: unix_seconds().max(self.started_at + elapsed),
            message,
        })
    }

    /// Makes room for a record; without it nothing is started.
    fn reserve(&self, slot: &str) -> io::Result<()> {
        record::reserve(&self.dir, slot).inspect_err(|error| {
            not_started(self.launch, error.raw_os_error().unwrap_or_default());
        })
    }

    /// Starts a command of this task. The outer error means that no record could be
    /// written, so nothing was run; the inner one that the command can't be executed.
    fn start(
        &mut self,
        argv: &[String],
        mode: Mode,
        phase: Phase,
    ) -> io::Result<Result<Pid, StartError>> {
        let mut held = match spawn::hold(&self.in_place(argv, mode)) {
            Ok(held) => held,
            Err(error) => return Ok(Err(error)),
        };
        let pid = held.pid;
        self.interior.follow(pid, held.relay.take());
        let leader = self
            .launch
            .scope
            .identify(pid)
            .ok_or_else(|| io::Error::other("the child is gone"))?;
        self.leader = Some(leader.clone());
        let run = RunRecord {
            uid: self.launch.uid.clone(),
            leader,
            phase,
            started_at: self.started_at,
        };
        let (dir, sync) = (&self.dir, self.launch.sync);
        let written = if record::exists(dir, record::RUN_SLOT) && phase == Phase::Main {
            record::fill(dir, record::RUN_SLOT, record::RUN_FILE, &run.encode(), sync)
        } else {
            record::replace(dir, record::RUN_FILE, &run.encode(), sync)
        };
        written.inspect_err(|error| {
            not_started(self.launch, error.raw_os_error().unwrap_or_default());
        })?;
        Ok(held.release().map(|()| pid))
    }

    /// A command in the task's place: whoever runs there does so with the same rights and limits.
    fn in_place<'c>(&'c self, argv: &'c [String], mode: Mode) -> Command<'c> {
        let launch = self.launch;
        let inside = launch.remote.as_ref().zip(self.interior.door());
        let inside = inside.filter(|_| mode == Mode::Remote);
        let mut command = Command {
            argv,
            env: &launch.env,
            working_dir: launch.working_dir.as_deref(),
            user: launch.user,
            group: launch.group,
            groups: &launch.groups,
            rlimits: &launch.rlimits,
            cgroups: &launch.cgroups,
            stdin: self.null.as_fd(),
            stdout: self.stdout.as_fd(),
            stderr: self.stderr.as_fd(),
            inside,
        };
        if let Some((remote, _)) = inside {
            command.env = &remote.env;
            command.user = Some(remote.user);
            command.group = Some(remote.group);
            command.groups = &remote.groups;
            command.rlimits = &remote.rlimits;
            // Limits of its own were asked for; those of the container come second.
            if launch.cgroups.is_empty() {
                command.cgroups = &remote.cgroups;
            }
        }
        command
    }

    /// Waits until `leader` has ended, or without one until nothing is left; once an
    /// ending has begun, always until nothing is left.
    fn watch(&mut self, leader: Option<Pid>, hook_deadline: Option<u64>) -> Watched {
        let mut watched = Watched {
            status: None,
            hook_timed_out: false,
        };
        loop {
            let left = self.reap(leader, &mut watched.status);
            let over = watched.status.is_some() || self.interior.is_lost(leader);
            if !left || (over && self.ending.is_none() && !self.kill_leftovers) {
                return watched;
            }
            let now = boot_ms();
            if hook_deadline.is_some_and(|at| now >= at) {
                watched.hook_timed_out = true;
                self.kill_all(&[]);
            }
            self.begin_ending(leader.filter(|_| !over), over, now);
            if self.ending.is_some_and(|e| now >= e.kill_at) {
                self.killed = true;
                self.kill_all(&self.launch.cgroups);
            }
            if self.cap.due().is_some_and(|at| now >= at) {
                self.cap.trim(now);
            }
            self.sleep(now, hook_deadline.filter(|_| !watched.hook_timed_out));
        }
    }

    /// Starts the ending if there is a cause for one and none has begun.
    fn begin_ending(&mut self, alive_leader: Option<Pid>, leader_over: bool, now: u64) {
        if self.ending.is_some() {
            return;
        }
        let cause = if self.stop {
            Cause::Stop
        } else if self.deadline().is_some_and(|at| now >= at) {
            Cause::Deadline
        } else if self.interior.target_gone() && self.launch.mode == Mode::Remote {
            Cause::Container
        } else if leader_over && self.kill_leftovers {
            Cause::Leftovers
        } else {
            return;
        };
        self.ending = Some(Ending {
            cause,
            kill_at: now + self.launch.grace_ms,
        });
        if self.launch.grace_ms == 0 {
            return;
        }
        tree::signal_descendants(
            getpid(),
            self.launch.stop_signal,
            &self.interior.relay_pids(),
        );
        if let Some(leader) = alive_leader {
            // A stopped task must be able to act on the signal.
            self.signal_leader(leader, libc::SIGCONT);
        }
    }

    fn deadline(&self) -> Option<u64> {
        self.launch
            .timeout_ms
            .map(|ms| self.started_ms.saturating_add(ms))
    }

    /// Sleeps until a signal or the next moment that matters, and notes a wish to stop.
    fn sleep(&mut self, now: u64, hook_deadline: Option<u64>) {
        let kill = self.ending.map(|e| {
            if now >= e.kill_at {
                now + SWEEP_MS
            } else {
                e.kill_at
            }
        });
        let deadline = self.deadline().filter(|_| self.ending.is_none());
        let next = [kill, deadline, hook_deadline, self.cap.due()]
            .into_iter()
            .flatten()
            .min();
        let timeout = next.map_or(PollTimeout::NONE, |at| {
            PollTimeout::try_from(at.saturating_sub(now).min(60_000)).unwrap_or(PollTimeout::MAX)
        });
        let mut wait = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        wait.extend(self.interior.news());
        // An interrupted or failed poll only makes the loop look sooner.
        let _ = poll(&mut wait, timeout);
        drop(wait);
        self.interior.look_at_target();
        while let Ok(Some(info)) = self.signals.read_signal() {
            self.stop |= i32::try_from(info.ssi_signo) == Ok(libc::SIGTERM);
        }
    }

    /// Writes the exit record, however long the file system refuses it.
    fn write_exit(&self, exit: &ExitRecord) {
        while record::write_exit(&self.dir, exit, self.launch.sync).is_err() {
            if !record::exists(&self.dir, ".") {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(RETRY_MS));
        }
    }

    fn out_of_memory(&self) -> bool {
        self.launch.oom_counters.iter().any(|(path, before)| {
            group::oom_kills(Path::new(path)).is_some_and(|now| now > *before)
        })
    }

    fn timeout_text(&self) -> String {
        format!(
            "task exceeded its timeout of {} seconds",
            self.launch.timeout_ms.unwrap_or_default() / 1000
        )
    }

    /// A message followed by the last lines of stderr, within the size of a record.
    fn with_stderr(&self, mut message: String) -> String {
        let room = MESSAGE_BYTES_MAX.saturating_sub(message.len() + 1);
        let tail = tail(&self.stderr, room).unwrap_or_default();
        if !message.is_empty() && !tail.is_empty() {
            message.push('\n');
        }
        message.push_str(&tail);
        message
    }
}

fn not_started(launch: &Launch, errno: i32) {
    hint::send(&launch.hints, Hint::NotStarted(errno), &launch.uid);
}
