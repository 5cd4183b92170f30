//! The status of a batch: computed from what is seen, never from what is hoped.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use sandbox_api::crd::{BATCH_NAME_LABEL, BatchPhase, BatchSandboxStatus};

use crate::agent::{Agent, Ended, Order, TaskSeen};
use crate::batch::Batch;
use crate::batch::PodSource;
use crate::conditions::{self, Facts};
use crate::plan::{Seen, later};
use crate::pod::Pod;

/// Where the task of one index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task<'a> {
    Pending,
    Running,
    Succeeded,
    /// With the agent's word for it; [`None`] when only the kept result is left.
    Failed(Option<&'a Ended>),
    Unknown,
}

/// Computes the status to show; `wake_at` is moved to when it changes by itself.
pub(crate) fn status(
    seen: &Seen<'_>,
    now: Timestamp,
    wake_at: &mut Option<Timestamp>,
) -> BatchSandboxStatus {
    let batch = seen.batch;
    let facts = facts(seen, now, wake_at);
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    BatchSandboxStatus {
        observed_generation: Some(batch.meta.generation),
        replicas: count(facts.pods),
        allocated: count(facts.allocated),
        ready: count(facts.ready),
        task_running: count(facts.running),
        task_succeed: count(facts.succeeded),
        task_failed: count(facts.failed),
        task_pending: count(facts.pending),
        task_unknown: count(facts.unknown),
        phase: Some(phase(&facts)),
        pause_observed_generation: batch.status.pause_observed_generation,
        selector: Some(format!("{BATCH_NAME_LABEL}={}", batch.meta.name)),
        conditions: conditions::conditions(batch, &facts, now),
    }
}

/// The status of a batch whose deletion takes a while: what was last known, but no longer ready.
pub(crate) fn terminating(batch: &Batch, now: Timestamp) -> BatchSandboxStatus {
    BatchSandboxStatus {
        observed_generation: Some(batch.meta.generation),
        conditions: conditions::terminating(batch, now),
        ..batch.status.clone()
    }
}

/// A Pod in trouble is Failed; then one ready Pod is Succeed, as `OpenSandbox` has it.
fn phase(facts: &Facts) -> BatchPhase {
    if facts.troubled > 0 {
        BatchPhase::Failed
    } else if facts.ready > 0 || (facts.wanted > 0 && facts.released == facts.wanted) {
        BatchPhase::Succeed
    } else {
        BatchPhase::Pending
    }
}

fn facts(seen: &Seen<'_>, now: Timestamp, wake_at: &mut Option<Timestamp>) -> Facts {
    let spec = &seen.batch.spec;
    let results = &seen.batch.meta.results;
    let mut facts = Facts {
        wanted: usize::try_from(spec.replicas).unwrap_or(usize::MAX),
        has_tasks: spec.has_tasks,
        is_pooled: !matches!(spec.source, PodSource::Template { .. }),
        ..Facts::default()
    };
    for (index, pod) in &seen.allocation.by_index {
        facts.pods += 1;
        facts.allocated += usize::from(pod.is_allocated());
        if *index < spec.replicas && !pod.is_deleting {
            count_pod(&mut facts, pod);
            let is_open = pod.is_ready && !results.contains(*index);
            facts.open_ready += usize::from(is_open);
        }
    }
    facts.released = (0..spec.replicas)
        .filter(|index| results.contains(*index))
        .count();
    for (index, order) in (0..).zip(&spec.tasks) {
        let pod = seen.allocation.by_index.get(&index).copied();
        let agent = pod.and_then(|pod| seen.agents.get(&pod.uid));
        let order = Order::Set(Arc::clone(order));
        let is_live = |pod: &Pod| !pod.is_deleting && pod.lost.is_none();
        let live = agent.filter(|_| pod.is_some_and(is_live));
        let says = live.and_then(|agent| agent.says_of(&order));
        let silent = silent(live, seen, now, wake_at);
        if says.is_some() && silent.is_none() && !results.contains(index) {
            facts.answered += 1;
        }
        if let Some(error) = silent {
            facts.silent += 1;
            facts
                .silence
                .get_or_insert_with(|| (name(pod), error.to_owned()));
        }
        let task = task(seen, index, says, silent.is_some());
        count_task(&mut facts, task, || name(pod));
    }
    facts
}

fn name(pod: Option<&Pod>) -> String {
    pod.map(|pod| pod.name.clone()).unwrap_or_default()
}

fn count_pod(facts: &mut Facts, pod: &Pod) {
    facts.ready += usize::from(pod.is_ready);
    if let Some(trouble) = &pod.trouble {
        facts.troubled += 1;
        *facts.troubles.entry(trouble.reason.clone()).or_default() += 1;
        facts
            .trouble
            .get_or_insert_with(|| (pod.name.clone(), trouble.clone()));
    }
    if let Some(restart) = &pod.restart {
        facts.restarted += 1;
        facts
            .restart
            .get_or_insert_with(|| (pod.name.clone(), restart.clone()));
    }
}

fn task<'a>(seen: &Seen<'_>, index: u32, says: Option<&'a TaskSeen>, is_silent: bool) -> Task<'a> {
    let results = &seen.batch.meta.results;
    match says {
        _ if results.succeeded.contains(index) => Task::Succeeded,
        Some(TaskSeen::Ended(end)) if end.exit_code == 0 => Task::Succeeded,
        Some(TaskSeen::Ended(end)) => Task::Failed(Some(end)),
        _ if results.failed.contains(index) => Task::Failed(None),
        _ if is_silent => Task::Unknown,
        Some(TaskSeen::Running) => Task::Running,
        Some(TaskSeen::Waiting | TaskSeen::Absent) | None => Task::Pending,
    }
}

fn count_task(facts: &mut Facts, task: Task<'_>, pod: impl Fn() -> String) {
    match task {
        Task::Pending => facts.pending += 1,
        Task::Running => facts.running += 1,
        Task::Succeeded => facts.succeeded += 1,
        Task::Unknown => facts.unknown += 1,
        Task::Failed(end) => {
            facts.failed += 1;
            if let Some(end) = end {
                *facts.failures.entry(end.reason.clone()).or_default() += 1;
                if facts.failure_samples.len() < conditions::SAMPLES_MAX {
                    facts.failure_samples.push((pod(), end.clone()));
                }
            }
        }
    }
}

/// The error of an agent that has not answered for too long.
fn silent<'a>(
    agent: Option<&'a Agent>,
    seen: &Seen<'_>,
    now: Timestamp,
    wake_at: &mut Option<Timestamp>,
) -> Option<&'a str> {
    let failing = agent?.failing.as_ref()?;
    let limit = later(failing.since, seen.limits.agent_silence);
    if limit <= now {
        return Some(&failing.error);
    }
    *wake_at = Some(wake_at.map_or(limit, |before| before.min(limit)));
    None
}

/// The word that most of the counted ones share; the first in order among equals.
pub(crate) fn most_frequent(counts: &BTreeMap<String, usize>) -> Option<&str> {
    let most = counts.values().max()?;
    let mut words = counts.iter().filter(|(_, count)| *count == most);
    words.next().map(|(word, _)| word.as_str())
}

#[cfg(test)]
mod tests;
