//! The owner's loop: takes commands and news, keeps memory, records and processes in step.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sandbox_api::{State, TaskName, TaskUid, Terminated, TerminatedReason, WaitingReason, Work};
use sandbox_sys::PidFd;
use task_shim::hint::Hint;
use task_shim::launch::Job;
use task_shim::lock::Holder;
use task_shim::record::{self, ExitRecord, Outcome, RunRecord};
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinSet;

use super::handle::{Change, ChangeKind, Command, HISTORY_MAX, Handle, QUEUE_MAX, Refused, Shown};
use super::inspect::{self, Verdict};
use super::tasks::{Deletion, Task};
use crate::cgroups::Cgroups;
use crate::metrics::Metrics;
use crate::runtime::{self, Settings};
use crate::store::{Store, Stored};

mod commands;

/// Launches that may end without a trace before the task is given up.
const ATTEMPTS_MAX: u32 = 5;

/// Bounds that the owner keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) tasks_max: usize,
    pub(crate) active_max: usize,
    pub(crate) ttl: Option<Duration>,
    pub(crate) interval: Duration,
}

/// The owner of all tasks.
#[derive(Debug)]
pub(crate) struct Owner {
    store: Store,
    settings: Settings,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    tasks: BTreeMap<TaskName, Task>,
    corrupt: Vec<String>,
    failing: Option<String>,
    version: u64,
    history: VecDeque<Change>,
    events: broadcast::Sender<Change>,
    commands: mpsc::Receiver<Command>,
    shims: JoinSet<TaskName>,
    created: u64,
    list: Option<Bytes>,
}

fn unix() -> Duration {
    // A clock before 1970 only makes time stamps wrong.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn unix_seconds() -> i64 {
    i64::try_from(unix().as_secs()).unwrap_or(i64::MAX)
}

fn refused(error: &std::io::Error) -> Refused {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Refused::StorageFull(error.to_string())
        }
        _ => Refused::Storage(error.to_string()),
    }
}

fn new_uid() -> TaskUid {
    TaskUid::parse(&uuid::Uuid::new_v4().to_string())
        .unwrap_or_else(|_| unreachable!("a UUID is a valid uid"))
}

impl Owner {
    /// Reads what is stored and takes up every task where it is.
    pub(crate) fn recover(
        store: Store,
        settings: Settings,
        bounds: Bounds,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<(Self, Handle)> {
        let (sender, commands) = mpsc::channel(QUEUE_MAX);
        let (events, _) = broadcast::channel(HISTORY_MAX / 4);
        let (stored, corrupt) = store.load()?;
        for _ in &corrupt {
            metrics.record_corrupt();
        }
        let version = u64::try_from(unix().as_micros()).unwrap_or(1);
        let mut owner = Self {
            store,
            settings,
            bounds,
            metrics,
            tasks: BTreeMap::new(),
            corrupt,
            failing: None,
            version,
            history: VecDeque::new(),
            events,
            commands,
            shims: JoinSet::new(),
            created: stored.iter().map(|s| s.created).max().unwrap_or(0),
            list: None,
        };
        for one in stored {
            owner.adopt(one);
        }
        let known = owner.tasks.values().map(|t| t.uid.as_str());
        owner.settings.cgroups.sweep(known);
        let names: Vec<_> = owner.tasks.keys().cloned().collect();
        for name in &names {
            owner.attend(name);
        }
        owner.start_waiting();
        Ok((owner, Handle::new(sender)))
    }

    fn adopt(&mut self, stored: Stored) {
        let name = stored.task.name.clone();
        let mut task = Task::new(stored.uid, stored.created, stored.task);
        task.deletion = stored.deletion.map(|(since, successor)| Deletion {
            since: inspect::stamp(since),
            successor,
        });
        let dir = self.store.dir(&name);
        task.warnings = Cgroups::recall(&dir, task.uid.as_str(), &task.asked.spec);
        task.draw();
        self.tasks.insert(name, task);
    }

    /// Runs until `stop` resolves. Tasks are left as they are.
    pub(crate) async fn run(
        mut self,
        mut hints: mpsc::Receiver<String>,
        stop: impl Future<Output = ()>,
    ) -> Self {
        let mut stop = std::pin::pin!(stop);
        let mut tick = tokio::time::interval(self.bounds.interval.max(Duration::from_millis(10)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let unsettled = self.is_unsettled();
            // Every arm is cancel safe: receiving, joining and ticking lose nothing.
            tokio::select! {
                biased;
                () = &mut stop => return self,
                Some(ended) = self.shims.join_next() => if let Ok(name) = ended { self.shim_ended(&name) },
                Some(line) = hints.recv() => self.hinted(&line),
                Some(command) = self.commands.recv() => self.obey(command),
                _ = tick.tick(), if unsettled => self.sweep(),
            }
        }
    }

    /// Whether something may change that no event will tell.
    fn is_unsettled(&self) -> bool {
        self.bounds
            .ttl
            .is_some_and(|_| self.tasks.values().any(Task::is_over))
            || self
                .tasks
                .values()
                .any(|t| t.deletion.is_some() || !t.is_over())
    }

    fn sweep(&mut self) {
        if let Some(ttl) = self.bounds.ttl {
            let now = unix_seconds();
            let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
            let expired = |t: &Task| match &t.state {
                State::Terminated(end) => {
                    t.deletion.is_none() && now - end.finished_at.as_unix_seconds() >= ttl
                }
                _ => false,
            };
            let old: Vec<_> = self
                .tasks
                .iter()
                .filter(|(_, t)| expired(t))
                .map(|(n, _)| n.clone())
                .collect();
            for name in old {
                // What can't be deleted now is tried again at the next tick.
                let _ = self.delete(&name, None);
            }
        }
        let names: Vec<_> = self
            .tasks
            .iter()
            .filter(|(_, t)| t.deletion.is_some() || !t.is_over())
            .map(|(n, _)| n.clone())
            .collect();
        for name in &names {
            self.attend(name);
        }
        self.start_waiting();
    }

    fn hinted(&mut self, line: &str) {
        let Some((hint, uid)) = Hint::parse(line) else {
            return;
        };
        let Some(name) = self
            .tasks
            .iter()
            .find(|(_, t)| t.uid.as_str() == uid)
            .map(|(n, _)| n.clone())
        else {
            return;
        };
        if let Hint::NotStarted(errno) = hint {
            let reason = if errno == nix::libc::ENOSPC {
                WaitingReason::DiskFull
            } else {
                WaitingReason::StartRetry
            };
            let message = Some(std::io::Error::from_raw_os_error(errno).to_string());
            self.become_state(&name, State::Waiting { reason, message });
            return;
        }
        self.attend(&name);
        self.start_waiting();
    }

    fn shim_ended(&mut self, name: &TaskName) {
        if let Some(task) = self.tasks.get_mut(name) {
            task.shim = None;
        }
        self.attend(name);
        self.start_waiting();
    }

    /// Looks at a task's records and does what they ask for.
    fn attend(&mut self, name: &TaskName) {
        let Some(task) = self.tasks.get(name) else {
            return;
        };
        let has_post_stop = match &task.asked.spec.work {
            Work::Process(process) => process
                .lifecycle
                .as_ref()
                .is_some_and(|l| l.post_stop.is_some()),
            Work::Container(_) | Work::Pod(_) => false,
        };
        let seen = match inspect::look(&self.store.dir(name), task.uid.as_str()) {
            Ok(seen) => seen,
            Err(error) => {
                tracing::error!(task = %name, %error, "records.unreadable");
                self.metrics.store_error();
                return;
            }
        };
        if task.shim.is_none()
            && let Holder::Process(pid) = seen.shim
            && let Ok(fd) = PidFd::open(pid)
        {
            self.follow(name, fd);
        }
        match inspect::judge(&seen, has_post_stop) {
            Verdict::NotStarted | Verdict::Starting => {}
            Verdict::Running(since) => {
                self.become_state(
                    name,
                    State::Running {
                        started_at: inspect::stamp(since),
                    },
                );
            }
            Verdict::Over(exit) => {
                self.become_state(name, State::Terminated(inspect::terminated(&exit)));
            }
            Verdict::OwesPostStop(_) => self.launch(name, Job::PostStop),
            Verdict::Lost(why, run) => self.lose(name, why, run.as_ref()),
        }
        self.pursue_deletion(name);
    }

    /// Ends what is left of a task whose supervisor is gone, and says that its end is not known.
    fn lose(&mut self, name: &TaskName, why: &str, run: Option<&RunRecord>) {
        let Some(task) = self.tasks.get(name) else {
            return;
        };
        self.settings.cgroups.kill(task.uid.as_str());
        if let Some(run) = run
            && let Some(leader) = self.settings.scope.open(&run.leader)
        {
            let pid = nix::unistd::Pid::from_raw(run.leader.pid);
            task_shim::tree::kill_descendants(pid, &[]);
            if let Err(error) = leader.signal(nix::libc::SIGKILL) {
                tracing::warn!(task = %name, %error, "orphan.not_killed");
            }
            // Its record is written when it is gone: the next look finds no process.
            return;
        }
        let exit = ExitRecord {
            uid: task.uid.to_string(),
            outcome: Outcome::Lost,
            code: 255,
            signal: None,
            started_at: run.map(|r| r.started_at),
            finished_at: unix_seconds(),
            message: format!("the true exit code is not known: {why}"),
        };
        let written = File::open(self.store.dir(name))
            .and_then(|dir| record::write_exit(&dir, &exit, self.settings.sync));
        if let Err(error) = written {
            tracing::error!(task = %name, %error, "exit_record.not_written");
            self.metrics.store_error();
            return;
        }
        self.metrics.shim_lost();
        self.become_state(name, State::Terminated(inspect::terminated(&exit)));
    }

    /// Watches a shim until it ends.
    #[expect(
        deprecated,
        reason = "the replacement is an unsafe function; a PidFd keeps its descriptor as long as it lives"
    )]
    fn follow(&mut self, name: &TaskName, fd: PidFd) {
        let fd = Arc::new(fd);
        let Some(task) = self.tasks.get_mut(name) else {
            return;
        };
        task.shim = Some(Arc::clone(&fd));
        let name = name.clone();
        self.shims.spawn(async move {
            if let Ok(fd) = AsyncFd::with_interest(fd, tokio::io::Interest::READABLE) {
                // Readable or broken: either way the records are looked at next.
                let _ = fd.readable().await;
            }
            name
        });
    }

    fn launch(&mut self, name: &TaskName, job: Job) {
        let Some(task) = self.tasks.get_mut(name) else {
            return;
        };
        let Work::Process(process) = &task.asked.spec.work else {
            return;
        };
        task.attempts += 1;
        let mut order = runtime::order(&self.settings, &task.uid, &task.asked.spec, process, job);
        let dir = self.store.dir(name);
        let spec = &task.asked.spec;
        task.warnings = self.settings.cgroups.prepare(&dir, &mut order, spec);
        match runtime::start(&dir, &order) {
            Ok(fd) => self.follow(name, fd),
            Err(error) => {
                tracing::warn!(task = %name, %error, "shim.not_started");
                let message = Some(format!("could not start its supervisor: {error}"));
                self.become_state(
                    name,
                    State::Waiting {
                        reason: WaitingReason::StartRetry,
                        message,
                    },
                );
            }
        }
    }

    /// Starts waiting tasks, first created first, as far as there is room.
    fn start_waiting(&mut self) {
        let active = self.tasks.values().filter(|t| t.is_active()).count();
        let mut room = self.bounds.active_max.saturating_sub(active);
        let mut waiting: Vec<_> = self
            .tasks
            .iter()
            .filter(|(_, t)| t.is_waiting() && t.deletion.is_none())
            .map(|(name, t)| (t.created, name.clone()))
            .collect();
        waiting.sort();
        for (_, name) in waiting {
            let Some(task) = self.tasks.get(&name) else {
                continue;
            };
            if room == 0 {
                self.become_state(
                    &name,
                    State::Waiting {
                        reason: WaitingReason::Queued,
                        message: None,
                    },
                );
            } else if task.attempts >= ATTEMPTS_MAX {
                self.give_up(&name);
            } else {
                room -= 1;
                self.launch(&name, Job::Run);
            }
        }
    }

    fn give_up(&mut self, name: &TaskName) {
        let Some(task) = self.tasks.get(name) else {
            return;
        };
        let exit = ExitRecord {
            uid: task.uid.to_string(),
            outcome: Outcome::StartError,
            code: 126,
            signal: None,
            started_at: None,
            finished_at: unix_seconds(),
            message: format!(
                "its supervisor ended {ATTEMPTS_MAX} times before it could start the task"
            ),
        };
        let written = File::open(self.store.dir(name))
            .and_then(|dir| record::write_exit(&dir, &exit, self.settings.sync));
        if written.is_ok() {
            self.become_state(name, State::Terminated(inspect::terminated(&exit)));
        }
    }

    fn become_state(&mut self, name: &TaskName, state: State) {
        let Some(task) = self.tasks.get_mut(name) else {
            return;
        };
        if task.state == state {
            return;
        }
        let first_end = match (&task.state, &state) {
            (State::Terminated(_), _) => return,
            (_, State::Terminated(Terminated { reason, .. })) => Some(*reason),
            _ => None,
        };
        task.state = state;
        task.draw();
        if let Some(reason) = first_end {
            self.ended(name, reason);
        }
        self.publish(name, ChangeKind::Modified);
    }

    fn ended(&mut self, name: &TaskName, reason: TerminatedReason) {
        self.metrics.task_exited(reason);
        let Some(task) = self.tasks.get_mut(name) else {
            return;
        };
        for waiter in task.waiters.drain(..) {
            // A client that has left is nobody to tell.
            let _ = waiter.send(Ok(Shown {
                body: task.body.clone(),
            }));
        }
        task.readers.clear();
    }

    fn publish(&mut self, name: &TaskName, kind: ChangeKind) {
        let Some(task) = self.tasks.get(name) else {
            return;
        };
        self.version += 1;
        self.list = None;
        let change = Change {
            kind,
            version: self.version,
            object: task.body.clone(),
        };
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(change.clone());
        // Without a watcher there is nobody to tell.
        let _ = self.events.send(change);
    }

    /// Carries a deletion on: stop what runs; when nothing is left, remove the record.
    fn pursue_deletion(&mut self, name: &TaskName) {
        let Some(task) = self.tasks.get(name) else {
            return;
        };
        let Some(deletion) = &task.deletion else {
            return;
        };
        if let Some(shim) = &task.shim {
            if let Err(error) = shim.signal(nix::libc::SIGTERM) {
                tracing::debug!(task = %name, %error, "shim.not_signalled");
            }
            return;
        }
        if !self.settings.cgroups.release(task.uid.as_str()) {
            return;
        }
        let created = self.created + 1;
        let next = deletion
            .successor
            .as_ref()
            .map(|(uid, task)| (uid, created, task));
        match self.store.remove(name, &task.uid, next) {
            Ok(true) => self.removed(name, created),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(task = %name, %error, "record.not_removed");
                self.metrics.store_error();
            }
        }
    }

    fn removed(&mut self, name: &TaskName, created: u64) {
        self.publish(name, ChangeKind::Deleted);
        let Some(mut old) = self.tasks.remove(name) else {
            return;
        };
        for waiter in old.waiters.drain(..) {
            // A client that has left is nobody to tell.
            let _ = waiter.send(Err(Refused::NotFound(name.clone())));
        }
        if let Some((uid, task)) = old.deletion.and_then(|d| d.successor) {
            self.created = created;
            self.tasks
                .insert(name.clone(), Task::new(uid, created, task));
            self.publish(name, ChangeKind::Added);
        }
    }

    /// Asks every shim to end its task. For a stop with `--shutdown-policy=terminate`.
    pub(crate) async fn terminate(mut self) {
        for task in self.tasks.values() {
            if let Some(shim) = &task.shim
                && let Err(error) = shim.signal(nix::libc::SIGTERM)
            {
                tracing::debug!(%error, "shim.not_signalled");
            }
        }
        while self.shims.join_next().await.is_some() {}
    }
}
