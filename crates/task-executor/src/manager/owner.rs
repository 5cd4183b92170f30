//! The owner's loop: takes commands and news, keeps memory, records and processes in step.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sandbox_api::{State, TaskName, TaskUid, WaitingReason};
use task_shim::hint::Hint;
use task_shim::launch::Job;
use task_shim::proc::Scope;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::feed::Feed;
use super::handle::{ChangeKind, Command, Handle, QUEUE_MAX};
use super::inspect;
use super::plan;
use super::tasks::{Deletion, Shim, Start, Task, Tasks};
use crate::cgroups::Cgroups;
use crate::launcher::{Launcher, News, Order, Subject};
use crate::metrics::Metrics;
use crate::store::{Loaded, Store, Stored, Worker};
use changes::{Request, UnderWay};

mod aside;
mod attend;
mod changes;
mod commands;
mod door;

/// Tasks that are looked at in one go when no event has told to; the loop answers commands
/// in between.
const LOOKS_MAX: usize = 256;
/// Pause before the rest of them.
const LOOKS_PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at every task that is not over, in case that a hint was lost.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// Bounds that the owner keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) tasks_max: usize,
    pub(crate) active_max: usize,
    pub(crate) ttl: Option<Duration>,
    pub(crate) interval: Duration,
}

/// What the owner works with.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) store: Store,
    pub(crate) launcher: Launcher,
    pub(crate) scope: Scope,
    pub(crate) metrics: Arc<Metrics>,
}

/// The owner of all tasks.
#[derive(Debug)]
pub(crate) struct Owner {
    store: Store,
    worker: Worker,
    launcher: Launcher,
    scope: Scope,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    tasks: Tasks,
    feed: Feed,
    list: Option<Bytes>,
    created: u64,
    /// Whether what is seen now happened before this server was there.
    recovering: bool,
    corrupt: Vec<String>,
    /// Directories of tasks that were set aside and of which something may be left.
    asides: BTreeSet<PathBuf>,
    failing: Option<String>,
    commands: mpsc::Receiver<Command>,
    shims: JoinSet<(TaskName, TaskUid)>,
    /// Changes that wait until those under way are done.
    pending: VecDeque<Request>,
    under_way: Option<UnderWay>,
    /// Accepted, but neither started nor told to queue.
    fresh: Vec<TaskName>,
    /// Tasks that are to be looked at again though no event will tell, and when.
    unsettled: BTreeSet<TaskName>,
    look_at: Option<Instant>,
    sweep_at: Instant,
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

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

impl Owner {
    /// Reads what is stored and takes up every task where it is.
    pub(crate) fn recover(tools: Tools, bounds: Bounds) -> std::io::Result<(Self, Handle)> {
        let Tools {
            store,
            launcher,
            scope,
            metrics,
        } = tools;
        let (sender, commands) = mpsc::channel(QUEUE_MAX);
        let Loaded {
            tasks: stored,
            corrupt,
            asides,
        } = store.load()?;
        for _ in &corrupt {
            metrics.record_corrupt();
        }
        let mut owner = Self {
            worker: Worker::start(store.clone())?,
            store,
            launcher,
            scope,
            bounds,
            metrics,
            tasks: Tasks::default(),
            feed: Feed::new(u64::try_from(unix().as_micros()).unwrap_or(1)),
            list: None,
            created: stored.iter().map(Stored::last_created).max().unwrap_or(0),
            recovering: true,
            corrupt,
            asides,
            failing: None,
            commands,
            shims: JoinSet::new(),
            pending: VecDeque::new(),
            under_way: None,
            fresh: Vec::new(),
            unsettled: BTreeSet::new(),
            look_at: None,
            sweep_at: Instant::now() + SWEEP_EVERY,
        };
        let known = stored.iter().map(|one| one.uid.as_str());
        owner.launcher.cgroups().sweep(known);
        for one in stored {
            owner.adopt(one);
        }
        owner.attend_asides();
        owner.recovering = false;
        Ok((owner, Handle::new(sender)))
    }

    fn adopt(&mut self, stored: Stored) {
        let name = stored.task.name.clone();
        let mut task = Task::new(stored.uid, stored.created, Arc::new(stored.task));
        task.deletion = stored.deletion.map(|(since, successor)| Deletion {
            since: inspect::stamp(since),
            successor,
        });
        if self.launcher.may_warn(&task.asked.spec) {
            task.warnings = Cgroups::recall(&self.store.dir(&name), task.uid.as_str());
        }
        task.draw();
        self.tasks.insert(task);
        self.fresh.push(name.clone());
        self.attend(&name);
    }

    /// Runs until `stop` resolves. Tasks are left as they are.
    pub(crate) async fn run(
        mut self,
        mut hints: mpsc::Receiver<String>,
        stop: impl Future<Output = ()>,
    ) -> Self {
        let mut stop = std::pin::pin!(stop);
        loop {
            self.start_waiting();
            self.submit();
            let next = self.next_moment();
            // Every arm is cancel safe: receiving, joining and sleeping lose nothing.
            tokio::select! {
                biased;
                () = &mut stop => break,
                results = self.worker.done(), if self.under_way.is_some() => self.carried_out(results),
                news = self.launcher.news(), if self.launcher.is_busy() => self.heard(news),
                Some(ended) = self.shims.join_next() => if let Ok((name, uid)) = ended { self.shim_ended(&name, &uid) },
                Some(line) = hints.recv() => self.hinted(&line),
                Some(command) = self.commands.recv(), if self.pending.len() < QUEUE_MAX => self.obey(command),
                () = until(next) => self.tick(),
            }
        }
        self.finish().await;
        self
    }

    /// Ends what is under way; all other requests learn that they came too late.
    async fn finish(&mut self) {
        if self.under_way.is_some() {
            let results = self.worker.done().await;
            self.carried_out(results);
        }
        self.commands.close();
        while self.commands.recv().await.is_some() {}
        self.pending.clear();
    }

    /// When something is to be done though nothing happens. With nothing but finished
    /// tasks, and no TTL, that is never.
    fn next_moment(&self) -> Option<Instant> {
        let may_expire = self.under_way.is_none() && self.failing.is_none();
        let expiry = self.bounds.ttl.filter(|_| may_expire).and_then(|ttl| {
            let (finished, _) = self.tasks.finished().next()?;
            let since = u64::try_from(unix_seconds() - finished).unwrap_or(0);
            Some(Instant::now() + ttl.saturating_sub(Duration::from_secs(since)))
        });
        let sweep = (self.tasks.active() > 0).then_some(self.sweep_at);
        [self.look_at, expiry, sweep].into_iter().flatten().min()
    }

    /// Has a task looked at again at the next tick.
    fn look_again(&mut self, name: &TaskName) {
        self.unsettled.insert(name.clone());
        self.look_later();
    }

    fn look_later(&mut self) {
        let soon = Instant::now() + self.bounds.interval.max(LOOKS_PAUSE);
        self.look_at.get_or_insert(soon);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.expire();
        if now >= self.sweep_at {
            self.sweep_at = now + SWEEP_EVERY;
            let active = self.tasks.values().filter(|t| !t.is_over());
            self.unsettled.extend(active.map(|t| t.asked.name.clone()));
            self.look_at = Some(now);
        }
        if self.look_at.is_none_or(|at| now < at) {
            return;
        }
        self.look_at = None;
        if self.failing.is_some() {
            self.pending.push_back(Request::Probe);
            self.look_later();
        }
        self.attend_asides();
        for _ in 0..LOOKS_MAX.min(self.unsettled.len()) {
            if let Some(name) = self.unsettled.pop_first() {
                self.tasks.update(&name, Task::may_start_again);
                self.attend(&name);
            }
        }
        if !self.unsettled.is_empty() {
            let rest = now + LOOKS_PAUSE;
            // Those that were put back by their own look are not in a hurry.
            self.look_at = self.look_at.map_or(Some(rest), |at| Some(at.max(rest)));
        }
    }

    /// Deletes the tasks whose time after the end is over.
    fn expire(&mut self) {
        let Some(ttl) = self.bounds.ttl else { return };
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let now = unix_seconds();
        let mut expired = Vec::new();
        for (finished, name) in self.tasks.finished() {
            if now.saturating_sub(finished) < ttl {
                break;
            }
            expired.push(name.clone());
        }
        for name in expired {
            self.request_for(&name, Request::Expire);
        }
    }

    fn hinted(&mut self, line: &str) {
        let Some((hint, uid)) = Hint::parse(line) else {
            return;
        };
        let Some(name) = TaskUid::parse(uid)
            .ok()
            .and_then(|uid| self.tasks.name_of(&uid).cloned())
        else {
            return;
        };
        match hint {
            Hint::NotStarted(errno) => {
                let error = std::io::Error::from_raw_os_error(errno);
                self.rest(&name, error.to_string(), errno == nix::libc::ENOSPC);
            }
            Hint::Running | Hint::Over => self.attend(&name),
        }
    }

    /// Lets a task wait for the next tick, since it can't be started now.
    fn rest(&mut self, name: &TaskName, message: String, disk_full: bool) {
        let reason = if disk_full {
            WaitingReason::DiskFull
        } else {
            WaitingReason::StartRetry
        };
        self.tasks.update(name, |task| {
            task.start = Start::Later;
            // The cause is known, so it is no shim that died without a word.
            task.launches = 0;
        });
        let message = Some(message);
        if self.tasks.get(name).is_some_and(Task::is_waiting) {
            self.become_state(name, State::Waiting { reason, message });
        }
        self.look_again(name);
    }

    fn shim_ended(&mut self, name: &TaskName, uid: &TaskUid) {
        let ended = self.tasks.update(name, |task| {
            if task.uid == *uid {
                task.shim = Shim::Idle;
                task.launches += 1;
            }
            // What is over and stays has nothing more to tell.
            !task.is_over() || task.deletion.is_some()
        });
        if ended == Some(true) {
            self.attend(name);
        }
    }

    fn heard(&mut self, news: News) {
        match news {
            News::Started(name, uid, started) => {
                if self.tasks.get(&name).is_none_or(|task| task.uid != uid) {
                    tracing::error!(task = %name, "shim.of_no_task");
                    return;
                }
                match started {
                    Ok(shim) => self.follow(&name, shim),
                    Err(error) => {
                        tracing::warn!(task = %name, %error, "shim.not_started");
                        self.tasks.update(&name, |task| task.shim = Shim::Idle);
                        let full = error.kind() == std::io::ErrorKind::StorageFull;
                        let message = format!("could not start its supervisor: {error}");
                        self.rest(&name, message, full);
                    }
                }
                self.settle_if_deleting(&name);
            }
            News::Orphans(name, uid, all_gone) => {
                let ours = self.tasks.update(&name, |task| {
                    task.changing = false;
                    task.uid == uid
                });
                match (ours, all_gone) {
                    (Some(true), true) => self.attend_after(&name, true),
                    (Some(true), false) => self.look_again(&name),
                    _ => {}
                }
            }
            News::Aside(dir, all_gone) => self.aside_searched(dir, all_gone),
        }
    }

    fn settle_if_deleting(&mut self, name: &TaskName) {
        if self.tasks.get(name).is_some_and(|t| t.deletion.is_some()) {
            self.attend(name);
        }
    }

    /// Starts waiting tasks, first accepted first, as far as there is room.
    fn start_waiting(&mut self) {
        while self.launcher.has_room() && self.tasks.active() < self.bounds.active_max {
            let Some(name) = self.tasks.next_queued().cloned() else {
                self.fresh.clear();
                return;
            };
            if self.may_start(&name) {
                self.launch(&name, Job::Run);
            } else {
                self.tasks.update(&name, |task| task.start = Start::Later);
                self.look_again(&name);
            }
        }
        if self.tasks.active() < self.bounds.active_max {
            return;
        }
        for name in std::mem::take(&mut self.fresh) {
            if self.tasks.get(&name).is_some_and(Task::is_queued) {
                let (reason, message) = (WaitingReason::Queued, None);
                self.become_state(&name, State::Waiting { reason, message });
            }
        }
    }

    /// Whether there is no trace of a start. A task that this server has just accepted and
    /// never launched can't have one.
    fn may_start(&self, name: &TaskName) -> bool {
        self.tasks.get(name).is_some_and(|task| {
            task.start == Start::Fresh
                || inspect::look(&self.store.dir(name), task.uid.as_str())
                    .is_ok_and(|seen| plan::may_start(&seen))
        })
    }

    fn launch(&mut self, name: &TaskName, job: Job) {
        if !self.launcher.has_room() {
            self.look_again(name);
            return;
        }
        let Some(task) = self.tasks.get(name) else {
            return;
        };
        let door = match self.launcher.door(&task.asked.spec, job) {
            Ok(door) => door,
            Err(absent) => {
                self.without_door(name, job, absent);
                return;
            }
        };
        let subject = self.tasks.update(name, |task| {
            task.shim = Shim::Launching;
            task.start = Start::MayBe;
            task.subject(&self.store)
        });
        if let Some(subject) = subject {
            let warnings = self.launcher.order(&subject, &Order::Start(job, door));
            self.tasks.update(name, |task| {
                if task.warnings != warnings {
                    task.warnings = warnings;
                    task.draw();
                }
            });
            // Until it is seen to run: the hint that says so may be lost.
            self.look_again(name);
        }
    }

    fn publish(&mut self, name: &TaskName, kind: ChangeKind) {
        if let Some(task) = self.tasks.get(name) {
            self.list = None;
            self.feed.publish(kind, task.body.clone());
        }
    }

    /// Asks every shim to end its task, and waits until they have.
    pub(crate) async fn terminate(&mut self) {
        while self.launcher.is_busy() {
            let news = self.launcher.news().await;
            self.heard(news);
        }
        for task in self.tasks.values() {
            if let Shim::Supervised(shim) = &task.shim
                && let Err(error) = shim.signal(nix::libc::SIGTERM)
            {
                tracing::debug!(%error, "shim.not_signalled");
            }
        }
        while self.shims.join_next().await.is_some() {}
    }

    /// Ends the store's thread. Nothing may be under way, see [`Self::finish`].
    pub(crate) async fn close(mut self) {
        while self.launcher.is_busy() {
            // A shim that was just started is found by the next start of the agent.
            drop(self.launcher.news().await);
        }
        self.worker.stop();
    }
}

impl Task {
    fn may_start_again(&mut self) {
        if self.start == Start::Later {
            self.start = Start::MayBe;
        }
    }

    fn subject(&self, store: &Store) -> Subject {
        Subject {
            name: self.asked.name.clone(),
            uid: self.uid.clone(),
            dir: store.dir(&self.asked.name),
            task: Arc::clone(&self.asked),
        }
    }
}
