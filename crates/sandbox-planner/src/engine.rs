//! The loop around the plan, without the loop: news come in, orders go out, nothing is waited for.
//!
//! ```text
//!   watches, answers of agents, results of writes ──on()──► entries ──step()──► writes, orders to agents, events
//! ```
//!
//! It holds everything that the operator knows and nothing that could not be seen again: killed at any moment, a new
//! one starts from the API server and the agents alone. It owns no clock and does no I/O, so that tests can run it
//! through a million steps of a cluster that fails in every way.

mod entry;
mod lane;
mod notes;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use sandbox_api::crd::{BatchSandbox, BatchSandboxStatus};
use serde_json::Value;

use crate::agent::{Assignment, TaskSeen};
use crate::plan::{DeleteReason, Limits, MetaPatch};
use crate::pod::Pod;

use entry::{Entry, Step};
pub use notes::{Note, Severity};

/// Which object: namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// What a user sets for all batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Limits of time of the plan.
    pub limits: Limits,
    /// Changes of status that matter little wait so long for others to join them.
    pub status_window: SignedDuration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            status_window: SignedDuration::from_millis(200),
        }
    }
}

/// News.
#[derive(Clone, Debug)]
pub enum Input {
    /// A batch as the API server has it.
    Batch(Box<BatchSandbox>),
    /// There is no batch of this name any more.
    BatchGone(Key),
    /// All batches that there are; others are gone.
    BatchesListed(BTreeSet<Key>),
    /// A Pod as the API server has it, of the batch that it names.
    Pod {
        /// The batch.
        batch: Key,
        /// The Pod.
        pod: Pod,
        /// Its resource version.
        version: u64,
    },
    /// There is no Pod with this uid any more.
    PodGone {
        /// The batch that it named.
        batch: Key,
        /// Its uid.
        uid: String,
    },
    /// The uids of all Pods that there are; others are gone.
    PodsListed(BTreeSet<String>),
    /// An agent was asked.
    Heard(Heard),
    /// A write to a batch was tried.
    WroteBatch {
        /// The batch.
        batch: Key,
        /// What came of it; the object as it is now, unless it was deleted.
        outcome: Result<Option<Box<BatchSandbox>>, Failure>,
    },
    /// Writes to Pods were tried.
    WrotePods {
        /// The batch.
        batch: Key,
        /// What came of each, in any order.
        outcomes: Vec<PodOutcome>,
    },
}

/// What came of asking an agent.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The batch.
    pub batch: Key,
    /// The uid of its Pod.
    pub pod_uid: String,
    /// The round of the assignment that it was asked about.
    pub round: u64,
    /// Its answer, or why there is none.
    pub news: Result<TaskSeen, String>,
}

/// What came of one write to a Pod.
#[derive(Clone, Debug)]
pub enum PodOutcome {
    /// It was made.
    Created {
        /// The Pod.
        pod: Box<Pod>,
        /// Its resource version.
        version: u64,
    },
    /// Its deletion was asked for, or it was gone before.
    Deleted {
        /// Its uid.
        uid: String,
        /// Why.
        why: DeleteReason,
    },
    /// Neither.
    Failed(Failure),
}

/// Why a write was not done, or is not known to have been done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Somebody else was faster: look again.
    Stale,
    /// There is another object of that name.
    Taken(String),
    /// The API server refuses it: it will not be better soon.
    Refused(String),
    /// It may work later; whether it was done is not known.
    Later(String),
}

/// Something to be done by the edges.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// A write to a batch, conditional on its version; answered by [`Input::WroteBatch`].
    WriteBatch {
        /// The batch.
        batch: Key,
        /// Its uid.
        uid: String,
        /// The version that it must still have.
        resource_version: String,
        /// What to write.
        write: BatchWrite,
    },
    /// Writes to Pods; answered by [`Input::WrotePods`].
    WritePods {
        /// The batch.
        batch: Key,
        /// The writes, which do not depend on each other.
        writes: Vec<PodWrite>,
    },
    /// What one agent is to have from now on; answered by [`Input::Heard`], again whenever it changes.
    Assign {
        /// The batch.
        batch: Key,
        /// The uid of the Pod.
        pod_uid: String,
        /// Where and what.
        assignment: Assignment,
        /// Which assignment this is: an answer to an earlier one, even to the same order, says nothing about it.
        round: u64,
    },
    /// This agent is left alone from now on.
    Forget {
        /// The uid of the Pod.
        pod_uid: String,
    },
    /// Something to tell the users of a batch.
    Tell {
        /// The batch.
        batch: Key,
        /// Its uid.
        uid: String,
        /// What to say.
        note: Note,
    },
}

/// A write to a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum BatchWrite {
    /// Finalizers and annotations.
    Meta(MetaPatch),
    /// The whole status.
    Status(Box<BatchSandboxStatus>),
    /// Its deletion.
    Delete,
}

/// A write to a Pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodWrite {
    /// Make it.
    Create(Value),
    /// Delete it, if it still has this uid.
    Delete {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// Why.
        why: DeleteReason,
    },
}

/// All that is known and under way.
#[derive(Debug, Default)]
pub struct Engine {
    settings: Settings,
    entries: BTreeMap<Key, Entry>,
    dirty: BTreeSet<Key>,
    timers: BTreeSet<(Timestamp, Key)>,
    /// Whether all Pods were listed once: before, a missing Pod may only not have been seen yet.
    pods_are_known: bool,
    /// Of the last assignment.
    round: u64,
}

impl Engine {
    /// One that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Takes in news. Nothing is decided yet.
    pub fn on(&mut self, input: Input, now: Timestamp) {
        match input {
            Input::Batch(object) => {
                let key = Key::of(&object);
                self.entry(&key).see_batch(&object, now);
            }
            Input::BatchGone(key) => self.entry(&key).lose_batch(),
            Input::BatchesListed(all) => self.keep_batches(&all),
            Input::Pod {
                batch,
                pod,
                version,
            } => self.entry(&batch).see_pod(pod, version),
            Input::PodGone { batch, uid } => self.entry(&batch).lose_pod(&uid),
            Input::PodsListed(all) => self.keep_pods(&all),
            Input::Heard(heard) => {
                let batch = heard.batch.clone();
                self.entry(&batch).hear(heard, now);
            }
            Input::WroteBatch { batch, outcome } => {
                self.entry(&batch).wrote_batch(outcome, now);
            }
            Input::WrotePods { batch, outcomes } => {
                self.entry(&batch).wrote_pods(outcomes, now);
            }
        }
    }

    /// Decides for everything that there is news of, or whose time has come. Before the first
    /// [`Input::PodsListed`] nothing is decided.
    pub fn step(&mut self, now: Timestamp) -> Vec<Output> {
        if !self.pods_are_known {
            return Vec::new();
        }
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            if let Some((_, key)) = self.timers.pop_first() {
                self.dirty.insert(key);
            }
        }
        let mut outputs = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let wake_at = entry.step(Step {
                key: &key,
                settings: &self.settings,
                now,
                wake_at: None,
                round: &mut self.round,
                outputs: &mut outputs,
            });
            let old = std::mem::replace(&mut entry.wake_at, wake_at);
            if let Some(at) = old {
                self.timers.remove(&(at, key.clone()));
            }
            if entry.is_empty() {
                self.entries.remove(&key);
            } else if let Some(at) = wake_at {
                self.timers.insert((at, key));
            }
        }
        outputs
    }

    /// When [`step`](Self::step) has something to do though there are no news.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// How many batches there are, by phase.
    pub fn phases(&self) -> BTreeMap<&'static str, usize> {
        let mut phases = BTreeMap::new();
        for phase in self.entries.values().filter_map(Entry::phase) {
            *phases.entry(phase).or_default() += 1;
        }
        phases
    }

    /// How many agents do not answer.
    pub fn silent_agents(&self) -> usize {
        self.entries.values().map(Entry::silent_agents).sum()
    }

    /// The entry of a key, which is looked at in the next step.
    fn entry(&mut self, key: &Key) -> &mut Entry {
        self.dirty.insert(key.clone());
        self.entries.entry(key.clone()).or_default()
    }

    fn keep_batches(&mut self, all: &BTreeSet<Key>) {
        for (key, entry) in &mut self.entries {
            if !all.contains(key) {
                entry.lose_batch();
                self.dirty.insert(key.clone());
            }
        }
    }

    fn keep_pods(&mut self, all: &BTreeSet<String>) {
        self.pods_are_known = true;
        for (key, entry) in &mut self.entries {
            if entry.keep_pods(all) {
                self.dirty.insert(key.clone());
            }
        }
    }
}

impl Key {
    /// The key of an object.
    pub fn of(object: &BatchSandbox) -> Self {
        Self {
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests;
