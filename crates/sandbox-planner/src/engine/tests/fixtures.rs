//! An engine, time, and a cluster of one batch that does what it is told.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use sandbox_api::crd::{BatchSandbox, BatchSandboxStatus};

use crate::agent::{Order, TaskSeen};
use crate::engine::{
    BatchWrite, Engine, Failure, Heard, Input, Key, Output, PodOutcome, PodWrite, Settings,
};
use crate::fixtures::{Case, now};
use crate::pod::Pod;

fn finalizer_words(finalizers: &[String]) -> String {
    let words: Vec<_> = finalizers.iter().map(|one| word(one)).collect();
    format!("finalizers [{}]", words.join(", "))
}

fn word(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

/// The engine, and what was asked of the world.
pub(super) struct Stage {
    pub(super) engine: Engine,
    pub(super) now: Timestamp,
    rounds: BTreeMap<String, u64>,
    /// The write to the object that was asked for last.
    pub(super) asked: Option<BatchWrite>,
}

pub(super) fn key() -> Key {
    Key {
        namespace: "ns".to_owned(),
        name: "b".to_owned(),
    }
}

impl Stage {
    /// An engine that has seen the Pods and nothing else.
    pub(super) fn new(pods: impl IntoIterator<Item = Pod>) -> Self {
        let mut stage = Self {
            engine: Engine::new(Settings::default()),
            now: now(),
            rounds: BTreeMap::new(),
            asked: None,
        };
        let mut all = BTreeSet::new();
        for pod in pods {
            all.insert(pod.uid.clone());
            stage.pod(pod, 1);
        }
        stage.on(Input::PodsListed(all));
        stage
    }

    /// An engine that has seen a batch and its Pods.
    pub(super) fn of(case: &Case) -> Self {
        let mut stage = Self::new(case.pods.values().cloned());
        stage.batch(&case.object);
        stage
    }

    pub(super) fn on(&mut self, input: Input) {
        self.engine.on(input, self.now);
    }

    pub(super) fn batch(&mut self, object: &BatchSandbox) {
        self.on(Input::Batch(Box::new(object.clone())));
    }

    pub(super) fn pod(&mut self, pod: Pod, version: u64) {
        let batch = key();
        self.on(Input::Pod {
            batch,
            pod,
            version,
        });
    }

    pub(super) fn pod_gone(&mut self, uid: &str) {
        let (batch, uid) = (key(), uid.to_owned());
        self.on(Input::PodGone { batch, uid });
    }

    pub(super) fn wait(&mut self, milliseconds: i64) -> &mut Self {
        self.now += SignedDuration::from_millis(milliseconds);
        self
    }

    /// An agent answers what it was asked last.
    pub(super) fn hear(&mut self, uid: &str, news: Result<TaskSeen, &str>) {
        let round = self.rounds[uid];
        self.hear_of(uid, round, news);
    }

    pub(super) fn hear_of(&mut self, uid: &str, round: u64, news: Result<TaskSeen, &str>) {
        self.on(Input::Heard(Heard {
            batch: key(),
            pod_uid: uid.to_owned(),
            round,
            news: news.map_err(ToOwned::to_owned),
        }));
    }

    pub(super) fn round(&self, uid: &str) -> u64 {
        self.rounds[uid]
    }

    pub(super) fn wrote(&mut self, outcome: Result<Option<&BatchSandbox>, Failure>) {
        self.on(Input::WroteBatch {
            batch: key(),
            outcome: outcome.map(|object| object.cloned().map(Box::new)),
        });
    }

    pub(super) fn wrote_pods(&mut self, outcomes: Vec<PodOutcome>) {
        let batch = key();
        self.on(Input::WrotePods { batch, outcomes });
    }

    /// The object as the write that was asked for last makes it.
    pub(super) fn done(&mut self, object: &mut BatchSandbox) {
        let before = object.metadata.resource_version.as_deref().unwrap();
        let version = before.parse::<u64>().unwrap() + 1;
        object.metadata.resource_version = Some(version.to_string());
        match self.asked.take().expect("a write was asked for") {
            BatchWrite::Status(status) => object.status = Some(*status),
            BatchWrite::Meta(patch) => {
                if patch.finalizers.is_some() {
                    object.metadata.finalizers = patch.finalizers;
                }
                let annotations = object.metadata.annotations.get_or_insert_default();
                annotations.extend(patch.annotations);
            }
            BatchWrite::Delete => {}
        }
        let object = object.clone();
        self.wrote(Ok(Some(&object)));
    }

    /// What is asked for now, one line each.
    pub(super) fn step(&mut self) -> Vec<String> {
        let outputs = self.engine.step(self.now);
        outputs.into_iter().flat_map(|one| self.line(one)).collect()
    }

    fn line(&mut self, output: Output) -> Vec<String> {
        match output {
            Output::WriteBatch { write, .. } => {
                let line = match &write {
                    BatchWrite::Delete => "delete".to_owned(),
                    BatchWrite::Status(status) => format!("status {}", in_short(status)),
                    BatchWrite::Meta(patch) => {
                        let names = patch.annotations.keys();
                        let mut words: Vec<_> = names.map(|name| word(name).to_owned()).collect();
                        words.extend(patch.finalizers.as_deref().map(finalizer_words));
                        format!("write {}", words.join(", "))
                    }
                };
                self.asked = Some(write);
                vec![line]
            }
            Output::WritePods { writes, .. } => {
                let line = |write: &PodWrite| match write {
                    PodWrite::Create(pod) => format!("create {}", pod["metadata"]["name"]),
                    PodWrite::Delete { uid, why, .. } => format!("delete {uid} {why:?}"),
                };
                writes.iter().map(|w| line(w).replace('"', "")).collect()
            }
            Output::Assign {
                pod_uid,
                assignment,
                round,
                ..
            } => {
                self.rounds.insert(pod_uid.clone(), round);
                vec![match assignment.order {
                    Order::Set(task) => format!("set {} on {pod_uid}", task.name),
                    Order::Clear => format!("clear {pod_uid}"),
                }]
            }
            Output::Forget { pod_uid } => vec![format!("forget {pod_uid}")],
            Output::Tell { note, .. } => {
                vec![format!(
                    "{:?} {}: {}",
                    note.severity, note.reason, note.message
                )]
            }
        }
    }

    #[track_caller]
    pub(super) fn check(&mut self, expected: &[&str]) {
        assert_eq!(self.step(), expected);
    }
}

/// Words of the conditions, and how many tasks run.
fn in_short(status: &BatchSandboxStatus) -> String {
    let reason = |one: &sandbox_api::crd::BatchCondition| one.reason.clone().unwrap_or_default();
    let reasons: Vec<_> = status.conditions.iter().map(reason).collect();
    format!("{} ({} running)", reasons.join(" "), status.task_running)
}
