//! All tasks in memory, with the indexes that keep every question about them cheap.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use sandbox_api::{
    NewTask, State, TaskName, TaskUid, TaskView, Timestamp, WaitingReason, Work, render,
};
use sandbox_sys::PidFd;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::handle::{Health, Refused, Shown};
use super::plan::Phase;
use crate::store::Newcomer;

/// A deletion under way.
#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) since: Timestamp,
    pub(super) successor: Option<Newcomer>,
}

/// The shim of a task, as far as the server knows.
#[derive(Debug)]
pub(super) enum Shim {
    /// None.
    Idle,
    /// Being started.
    Launching,
    /// At work.
    Supervised(Arc<PidFd>),
}

/// Whether a task that waits can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// This server has accepted it and not launched it: nothing of it can have run.
    Fresh,
    /// Its records tell.
    MayBe,
    /// Not before the next tick.
    Later,
}

/// One task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) uid: TaskUid,
    pub(super) created: u64,
    /// What was asked for.
    pub(super) asked: Arc<NewTask>,
    pub(super) state: State,
    pub(super) deletion: Option<Deletion>,
    pub(super) shim: Shim,
    /// Shims that ended without a trace of the task.
    pub(super) launches: u32,
    /// Whether it can be started, as far as the server knows.
    pub(super) start: Start,
    /// When this server accepted it; none if an earlier one did.
    pub(super) accepted: Option<Instant>,
    /// Whether a change of its records is queued or under way.
    pub(super) changing: bool,
    pub(super) waiters: Vec<oneshot::Sender<Result<Shown, Refused>>>,
    pub(super) readers: Vec<oneshot::Sender<()>>,
    /// Limits that it runs without.
    pub(super) warnings: Vec<String>,
    pub(super) body: Bytes,
}

impl Task {
    /// A task that waits to be started.
    pub(super) fn new(uid: TaskUid, created: u64, asked: Arc<NewTask>) -> Self {
        let state = State::Waiting {
            reason: WaitingReason::Initialized,
            message: None,
        };
        let mut new = Self {
            uid,
            created,
            asked,
            state,
            deletion: None,
            shim: Shim::Idle,
            launches: 0,
            start: Start::MayBe,
            accepted: None,
            changing: false,
            waiters: Vec::new(),
            readers: Vec::new(),
            warnings: Vec::new(),
            body: Bytes::new(),
        };
        new.draw();
        new
    }

    /// Renders the wire form again, after a change.
    pub(super) fn draw(&mut self) {
        let view = TaskView {
            name: &self.asked.name,
            uid: &self.uid,
            dialect: self.asked.dialect,
            spec: &self.asked.spec,
            deletion_timestamp: self.deletion.as_ref().map(|d| d.since),
            state: &self.state,
            warnings: &self.warnings,
        };
        let mut body = Vec::with_capacity(512);
        render(&view, &mut body);
        body.shrink_to_fit();
        self.body = body.into();
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Terminated(_))
    }

    /// Whether it has not been started yet.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Whether it waits for a place among the running.
    pub(super) fn is_queued(&self) -> bool {
        self.facets().queued.is_some()
    }

    pub(super) fn phase(&self) -> Phase {
        match self.shim {
            Shim::Idle => Phase::Idle,
            Shim::Launching => Phase::Launching,
            Shim::Supervised(_) => Phase::Supervised,
        }
    }

    pub(super) fn has_post_stop(&self) -> bool {
        match &self.asked.spec.work {
            Work::Process(process) => process
                .lifecycle
                .as_ref()
                .is_some_and(|l| l.post_stop.is_some()),
            Work::Container(_) | Work::Pod(_) => false,
        }
    }

    pub(super) fn shown(&self) -> Shown {
        Shown {
            body: self.body.clone(),
        }
    }

    fn facets(&self) -> Facets {
        let waits = matches!(self.state, State::Waiting { .. });
        let idle = matches!(self.shim, Shim::Idle);
        Facets {
            state: match self.state {
                State::Waiting { .. } => 0,
                State::Running { .. } => 1,
                State::Terminated(_) => 2,
            },
            queued: (waits && idle && self.start != Start::Later && self.deletion.is_none())
                .then_some(self.created),
            active: !idle && !self.is_over(),
            deleting: self.deletion.is_some(),
            finished: match &self.state {
                State::Terminated(end) if self.deletion.is_none() => {
                    Some(end.finished_at.as_unix_seconds())
                }
                _ => None,
            },
        }
    }
}

/// What the indexes are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facets {
    state: usize,
    queued: Option<u64>,
    active: bool,
    deleting: bool,
    finished: Option<i64>,
}

/// All tasks. Whatever changes one goes through [`Tasks::update`], which keeps the indexes right.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    by_name: BTreeMap<TaskName, Task>,
    by_uid: HashMap<TaskUid, TaskName>,
    queue: BTreeSet<(u64, TaskName)>,
    finished: BTreeSet<(i64, TaskName)>,
    states: [usize; 3],
    active: usize,
    deleting: usize,
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn get(&self, name: &TaskName) -> Option<&Task> {
        self.by_name.get(name)
    }

    /// The name of the task with this uid, whatever has become of it.
    pub(super) fn name_of(&self, uid: &TaskUid) -> Option<&TaskName> {
        self.by_uid.get(uid)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &TaskName> {
        self.by_name.keys()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Task> {
        self.by_name.values()
    }

    /// In name order, those being deleted after all others.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Task> {
        let live = self.values().filter(|t| t.deletion.is_none());
        live.chain(self.values().filter(|t| t.deletion.is_some()))
    }

    /// Tasks that have a shim and are not over.
    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// The task that is to be started next: of those that wait, the one accepted first.
    pub(super) fn next_queued(&self) -> Option<&TaskName> {
        self.queue.first().map(|(_, name)| name)
    }

    /// Tasks that are over and not being deleted, and since when (Unix seconds), in that order.
    pub(super) fn finished(&self) -> impl Iterator<Item = (i64, &TaskName)> {
        self.finished.iter().map(|(at, name)| (*at, name))
    }

    pub(super) fn insert(&mut self, task: Task) {
        let name = task.asked.name.clone();
        self.index(&name, task.facets(), true);
        self.by_uid.insert(task.uid.clone(), name.clone());
        self.by_name.insert(name, task);
    }

    pub(super) fn remove(&mut self, name: &TaskName) -> Option<Task> {
        let task = self.by_name.remove(name)?;
        self.by_uid.remove(&task.uid);
        self.index(name, task.facets(), false);
        Some(task)
    }

    /// Changes a task. `None` if there is none of that name.
    pub(super) fn update<T>(
        &mut self,
        name: &TaskName,
        change: impl FnOnce(&mut Task) -> T,
    ) -> Option<T> {
        let task = self.by_name.get_mut(name)?;
        let before = task.facets();
        let result = change(task);
        let after = task.facets();
        if before != after {
            self.index(name, before, false);
            self.index(name, after, true);
        }
        Some(result)
    }

    fn index(&mut self, name: &TaskName, facets: Facets, add: bool) {
        let count = |counter: &mut usize| {
            if add {
                *counter += 1;
            } else {
                *counter -= 1;
            }
        };
        count(&mut self.states[facets.state]);
        if facets.active {
            count(&mut self.active);
        }
        if facets.deleting {
            count(&mut self.deleting);
        }
        if let Some(created) = facets.queued {
            set(&mut self.queue, (created, name.clone()), add);
        }
        if let Some(at) = facets.finished {
            set(&mut self.finished, (at, name.clone()), add);
        }
    }

    /// The counts that [`Health`] shows.
    pub(super) fn health(&self) -> Health {
        let [waiting, running, terminated] = self.states;
        Health {
            waiting,
            running,
            terminated,
            deleting: self.deleting,
            ..Health::default()
        }
    }
}

fn set<T: Ord>(of: &mut BTreeSet<T>, value: T, add: bool) {
    if add {
        of.insert(value);
    } else {
        of.remove(&value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn task(name: &str, created: u64) -> Task {
        let json = format!(r#"{{"name":"{name}","spec":{{"process":{{"command":["true"]}}}}}}"#);
        let asked = sandbox_api::parse_one(json.as_bytes())
            .expect("is valid")
            .value;
        let uid = TaskUid::parse(&format!("u-{name}-{created}")).expect("is valid");
        Task::new(uid, created, Arc::new(asked))
    }

    fn over(at: i64) -> State {
        State::Terminated(sandbox_api::Terminated {
            exit_code: 0,
            signal: None,
            reason: sandbox_api::TerminatedReason::Succeeded,
            message: None,
            started_at: None,
            finished_at: super::super::inspect::stamp(at),
        })
    }

    /// The indexes, computed afresh.
    fn recount(tasks: &Tasks) -> ([usize; 3], usize, usize, Option<TaskName>) {
        let facets: Vec<_> = tasks.values().map(|t| (t, t.facets())).collect();
        let mut states = [0; 3];
        for (_, f) in &facets {
            states[f.state] += 1;
        }
        let first = facets
            .iter()
            .filter_map(|(t, f)| Some((f.queued?, t.asked.name.clone())))
            .min();
        let count = |pick: fn(&Facets) -> bool| facets.iter().filter(|(_, f)| pick(f)).count();
        (
            states,
            count(|f| f.active),
            count(|f| f.deleting),
            first.map(|(_, name)| name),
        )
    }

    proptest! {
        #[test]
        fn the_indexes_agree_with_the_tasks_whatever_happens(
            steps in proptest::collection::vec((0_usize..6, 0_usize..7), 0..60)
        ) {
            let mut tasks = Tasks::default();
            for (created, (which, step)) in steps.into_iter().enumerate() {
                let created = u64::try_from(created).expect("fits");
                let fresh = task(&format!("t{which}"), created);
                let name = fresh.asked.name.clone();
                match step {
                    0 => if tasks.get(&name).is_none() { tasks.insert(fresh); },
                    1 => drop(tasks.remove(&name)),
                    2 => drop(tasks.update(&name, |t| t.shim = Shim::Launching)),
                    3 => drop(tasks.update(&name, |t| t.shim = Shim::Idle)),
                    4 => drop(tasks.update(&name, |t| t.state = over(7))),
                    5 => drop(tasks.update(&name, |t| t.start = if t.start == Start::Later { Start::MayBe } else { Start::Later })),
                    _ => drop(tasks.update(&name, |t| {
                        t.deletion = Some(Deletion { since: super::super::inspect::stamp(1), successor: None });
                    })),
                }
                let (states, active, deleting, first) = recount(&tasks);
                prop_assert_eq!(tasks.states, states);
                prop_assert_eq!((tasks.active, tasks.deleting), (active, deleting));
                prop_assert_eq!(tasks.next_queued().cloned(), first);
            }
        }
    }

    #[test]
    fn tasks_are_started_in_the_order_in_which_they_were_accepted() {
        let mut tasks = Tasks::default();
        for (name, created) in [("c", 1), ("a", 2), ("b", 3)] {
            tasks.insert(task(name, created));
        }
        let mut order = Vec::new();
        while let Some(name) = tasks.next_queued().cloned() {
            order.push(name.to_string());
            tasks.update(&name, |t| t.shim = Shim::Launching);
        }
        assert_eq!(order, ["c", "a", "b"]);
    }
}
