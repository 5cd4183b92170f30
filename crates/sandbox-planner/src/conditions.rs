//! Conditions: what is true of a batch, in words for programs and for people.
//!
//! As in `OpenSandbox`, only those that hold are there, so `kubectl wait --for=condition=…` works and nothing
//! stays behind when its cause is gone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sandbox_api::crd::BatchCondition;

use crate::agent::Ended;
use crate::batch::{Batch, Malformed};
use crate::pod::{Restart, Trouble};
use crate::status::most_frequent;

/// Most failed tasks that a message names.
pub(crate) const SAMPLES_MAX: usize = 3;

/// The word for a condition that the operator writes.
pub mod types {
    /// All sandboxes are ready, and their agents answer.
    pub const READY: &str = "Ready";
    /// Not all sandboxes are ready yet.
    pub const PROGRESSING: &str = "Progressing";
    /// A container can't run.
    pub const POD_FAILED: &str = "PodFailed";
    /// A container was restarted.
    pub const CONTAINER_RESTARTED: &str = "ContainerRestarted";
    /// Agents do not answer.
    pub const AGENT_UNREACHABLE: &str = "AgentUnreachable";
    /// All tasks are over.
    pub const TASKS_COMPLETED: &str = "TasksCompleted";
    /// At least one task ended other than with exit code 0.
    pub const TASKS_FAILED: &str = "TasksFailed";
    /// A pause was asked for, which is not supported.
    pub const PAUSE_FAILED: &str = "PauseFailed";
    /// The object makes no sense and is left alone.
    pub const MALFORMED: &str = "Malformed";
}

/// Numbers and samples that status and conditions are made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) wanted: usize,
    pub(crate) has_tasks: bool,
    /// Whether Pods would have to come from a pool.
    pub(crate) is_pooled: bool,
    pub(crate) pods: usize,
    pub(crate) allocated: usize,
    pub(crate) ready: usize,
    /// Indexes whose result is kept.
    pub(crate) released: usize,
    /// Ready Pods, and agents that have answered, of the other indexes.
    pub(crate) open_ready: usize,
    pub(crate) answered: usize,
    pub(crate) silent: usize,
    pub(crate) silence: Option<(String, String)>,
    pub(crate) running: usize,
    pub(crate) succeeded: usize,
    pub(crate) failed: usize,
    pub(crate) pending: usize,
    pub(crate) unknown: usize,
    pub(crate) troubled: usize,
    pub(crate) troubles: BTreeMap<String, usize>,
    pub(crate) trouble: Option<(String, Trouble)>,
    pub(crate) restarted: usize,
    pub(crate) restart: Option<(String, Restart)>,
    pub(crate) failures: BTreeMap<String, usize>,
    pub(crate) failure_samples: Vec<(String, Ended)>,
}

struct Holds {
    type_: &'static str,
    reason: String,
    message: String,
}

/// The conditions that hold, in a fixed order; the times of those that held before are kept.
pub(crate) fn conditions(batch: &Batch, facts: &Facts, now: Timestamp) -> Vec<BatchCondition> {
    let holds = [
        availability(facts),
        pod_failed(facts),
        restarted(facts),
        unreachable(facts),
        completed(facts),
        failed(facts),
        batch.spec.wants_pause.then(|| Holds {
            type_: types::PAUSE_FAILED,
            reason: "NotSupported".to_owned(),
            message: "this operator does not pause sandboxes; set pause to false or take it away"
                .to_owned(),
        }),
    ];
    let before = &batch.status.conditions;
    let generation = batch.meta.generation;
    let condition = |one: Holds| dated(one, before, generation, now);
    holds.into_iter().flatten().map(condition).collect()
}

/// The conditions of an object that makes no sense.
pub fn malformed(
    problem: &Malformed,
    before: &[BatchCondition],
    generation: i64,
    now: Timestamp,
) -> Vec<BatchCondition> {
    let holds = Holds {
        type_: types::MALFORMED,
        reason: "InvalidSpec".to_owned(),
        message: problem.to_string(),
    };
    vec![dated(holds, before, generation, now)]
}

/// The conditions of an object whose deletion takes a while.
pub(crate) fn terminating(batch: &Batch, now: Timestamp) -> Vec<BatchCondition> {
    let before = &batch.status.conditions;
    let holds = Holds {
        type_: types::PROGRESSING,
        reason: "Terminating".to_owned(),
        message: "its tasks are being ended".to_owned(),
    };
    let is_over = |old: &&BatchCondition| [types::READY, types::PROGRESSING].contains(&&*old.type_);
    let others = before.iter().filter(|old| !is_over(old)).cloned();
    let first = dated(holds, before, batch.meta.generation, now);
    std::iter::once(first).chain(others).collect()
}

fn dated(one: Holds, before: &[BatchCondition], generation: i64, now: Timestamp) -> BatchCondition {
    let since = before
        .iter()
        .find(|old| old.type_ == one.type_ && old.status == "True")
        .and_then(|old| old.last_transition_time.clone());
    let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
    BatchCondition {
        type_: one.type_.to_owned(),
        status: "True".to_owned(),
        observed_generation: Some(generation),
        last_transition_time: Some(since.unwrap_or_else(|| whole.to_string())),
        reason: Some(one.reason),
        message: Some(one.message),
    }
}

/// Ready, or why not yet.
fn availability(facts: &Facts) -> Option<Holds> {
    let open = facts.wanted - facts.released.min(facts.wanted);
    let pods_are_ready = facts.open_ready >= open;
    if pods_are_ready && (!facts.has_tasks || facts.answered >= open) {
        let message = match facts.released {
            0 => format!("{} of {} Pods are ready", facts.ready, facts.wanted),
            gone => format!(
                "{gone} of {} Pods were given back, the rest is ready",
                facts.wanted
            ),
        };
        return Some(Holds {
            type_: types::READY,
            reason: "PodsReady".to_owned(),
            message,
        });
    }
    if facts.troubled > 0 {
        return None; // PodFailed says it all.
    }
    let (reason, message) = if facts.is_pooled {
        let message = "poolRef is set, and Pools are not served yet; use template".to_owned();
        ("PoolsNotServed", message)
    } else if pods_are_ready {
        let message = format!("{} of {open} agents have answered", facts.answered);
        ("WaitingForAgents", message)
    } else {
        let message = format!("{} of {} Pods are ready", facts.ready, facts.wanted);
        ("Creating", message)
    };
    Some(Holds {
        type_: types::PROGRESSING,
        reason: reason.to_owned(),
        message,
    })
}

fn pod_failed(facts: &Facts) -> Option<Holds> {
    let (pod, trouble) = facts.trouble.as_ref()?;
    let reason = most_frequent(&facts.troubles)?.to_owned();
    let message = format!(
        "{}/{} observed pods failed; primary reason={reason}; sample pod={pod}: {}",
        facts.troubled, facts.pods, trouble.message,
    );
    Some(Holds {
        type_: types::POD_FAILED,
        reason,
        message,
    })
}

fn restarted(facts: &Facts) -> Option<Holds> {
    let (pod, restart) = facts.restart.as_ref()?;
    let message = format!(
        "{} of {} Pods had containers restarted; {pod}: container {}, {} times, last {}",
        facts.restarted, facts.pods, restart.container, restart.count, restart.reason,
    );
    Some(Holds {
        type_: types::CONTAINER_RESTARTED,
        reason: restart.reason.clone(),
        message,
    })
}

fn unreachable(facts: &Facts) -> Option<Holds> {
    let (pod, error) = facts.silence.as_ref()?;
    Some(Holds {
        type_: types::AGENT_UNREACHABLE,
        reason: "NoAnswer".to_owned(),
        message: format!("{} agents do not answer; {pod}: {error}", facts.silent),
    })
}

fn completed(facts: &Facts) -> Option<Holds> {
    let over = facts.succeeded + facts.failed;
    if !facts.has_tasks || facts.wanted == 0 || over < facts.wanted {
        return None;
    }
    let reason = match (facts.succeeded, facts.failed) {
        (_, 0) => "AllSucceeded",
        (0, _) => "AllFailed",
        (_, _) => "SomeFailed",
    };
    let message = format!(
        "{} tasks succeeded, {} failed",
        facts.succeeded, facts.failed
    );
    Some(Holds {
        type_: types::TASKS_COMPLETED,
        reason: reason.to_owned(),
        message,
    })
}

fn failed(facts: &Facts) -> Option<Holds> {
    if facts.failed == 0 {
        return None;
    }
    let reason = most_frequent(&facts.failures).filter(|word| is_reason(word));
    let mut message = format!("{} of {} tasks failed", facts.failed, facts.wanted);
    let sample = |(task, end): &(String, Ended)| {
        format!("{task} with exit code {} ({})", end.exit_code, end.reason)
    };
    let samples: Vec<_> = facts.failure_samples.iter().map(sample).collect();
    if !samples.is_empty() {
        message = format!("{message}: {}", samples.join(", "));
    }
    Some(Holds {
        type_: types::TASKS_FAILED,
        reason: reason.unwrap_or("Failed").to_owned(),
        message,
    })
}

/// Whether a word of an agent can stand as the reason of a condition.
fn is_reason(word: &str) -> bool {
    let mut letters = word.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}
