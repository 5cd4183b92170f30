//! The decision: what one `BatchSandbox` needs next.
//!
//! ```text
//!   index < replicas      no Pod ── create ──► Pod ── address ──► task set ──► over ── Release ──► result kept ──► Pod deleted
//!   index >= replicas     Pod ── tasks cleared ──► Pod deleted, highest index first
//!   deletion asked for    tasks cleared everywhere (or nobody answers for too long) ──► finalizer taken away
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use sandbox_api::crd::{BatchSandboxStatus, TaskResourcePolicy};
use sandbox_api::crd::{ENDPOINTS_ANNOTATION, TASK_CLEANUP_FINALIZER, TASK_RESULTS_ANNOTATION};

use crate::agent::{Agent, Assignment, Order, TaskSeen};
use crate::batch::{Batch, PodSource};
use crate::pod::Pod;
use crate::results::Results;
use crate::status;

/// Most Pods that one plan creates or deletes; the rest is for the plans that follow.
pub const PODS_PER_PLAN_MAX: usize = 256;

/// Addresses that would take more are not shown: the API server lets all annotations of an object have 256 KiB, and
/// the finalizer and the results must not be refused together with them.
pub const ENDPOINTS_BYTES_MAX: usize = 200 << 10;

/// A deletion that is done by then says nothing of itself, which saves a write.
const TERMINATING_SHOWN_AFTER: SignedDuration = SignedDuration::from_secs(2);

/// Limits of time that a user sets for all batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long an agent that does not answer may hold up a deletion or a scale-in.
    pub task_cleanup_timeout: SignedDuration,
    /// How long an agent may be silent before its task counts as unknown.
    pub agent_silence: SignedDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            task_cleanup_timeout: SignedDuration::from_mins(2),
            agent_silence: SignedDuration::from_secs(10),
        }
    }
}

/// Everything that is known of one batch at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// What is wanted, and the object itself.
    pub batch: &'a Batch,
    /// Which Pod belongs to which index.
    pub allocation: &'a Allocation<'a>,
    /// What was heard from the agents, by uid of the Pod.
    pub agents: &'a BTreeMap<String, Agent>,
    /// How tasks ended whose Pods went before that could be kept.
    pub unkept: &'a Results,
    /// Limits of time.
    pub limits: &'a Limits,
}

/// Which Pod belongs to which index: from labels for Pods that are made, from the pool's word for those taken.
#[derive(Clone, Debug, Default)]
pub struct Allocation<'a> {
    /// Pods of the batch by index.
    pub by_index: BTreeMap<u32, &'a Pod>,
    /// Names of Pods of the batch that others have.
    pub taken_names: BTreeMap<u32, &'a Pod>,
}

impl<'a> Allocation<'a> {
    /// The Pods of a batch that makes its own.
    pub fn direct(batch_uid: &str, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let mut allocation = Self::default();
        for pod in pods {
            let Some(index) = pod.index else { continue };
            if pod.owner.as_deref() == Some(batch_uid) {
                allocation.by_index.insert(index, pod);
            } else {
                allocation.taken_names.insert(index, pod);
            }
        }
        allocation
    }
}

/// One write to the API server. Each can be repeated, and each says what must still hold for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodAction {
    /// Make the Pod with this index; its name makes a second one impossible.
    Create {
        /// Which one.
        index: u32,
    },
    /// Delete the Pod with exactly this uid.
    Delete {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// Why, in one word.
        why: DeleteReason,
    },
}

/// Why a Pod is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteReason {
    /// There are more Pods than wanted.
    ScaleIn,
    /// Its task is over and the policy is `Release`.
    Released,
    /// Its node or the cluster took it away; another one is made.
    Lost,
}

/// A change of the object itself, conditional on its resource version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaPatch {
    /// The finalizers to have, if they change.
    pub finalizers: Option<Vec<String>>,
    /// Annotations to set.
    pub annotations: BTreeMap<String, String>,
}

impl MetaPatch {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.finalizers.is_none() && self.annotations.is_empty()
    }
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Delete the batch: its time is over.
    pub expire: bool,
    /// Change of the object.
    pub meta: MetaPatch,
    /// Whether that change can't wait for others to join it.
    pub meta_is_urgent: bool,
    /// Writes to Pods.
    pub pods: Vec<PodAction>,
    /// What every agent is to have, by uid of the Pod; an agent that is not here is left alone.
    pub agents: BTreeMap<String, Assignment>,
    /// The status to show; [`None`] when the object is about to go.
    pub status: Option<BatchSandboxStatus>,
    /// Agents that were given up, by name of the Pod.
    pub given_up: Vec<String>,
    /// When to look again though nothing happens.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    pub(crate) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }
}

/// Decides what one batch needs next.
pub fn plan(seen: &Seen<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if seen.batch.meta.deleted_at.is_some() {
        cleanup(seen, now, &mut plan);
        return plan;
    }
    if let Some(at) = seen.batch.spec.expires_at {
        if at <= now {
            plan.expire = true;
            return plan;
        }
        plan.wake(at);
    }
    let results = results(seen);
    wanted(seen, &results, &mut plan);
    surplus(seen, now, &mut plan);
    meta(seen, &results, &mut plan);
    plan.status = Some(status::status(seen, now, &mut plan.wake_at));
    plan
}

/// The Pods and tasks of the indexes that are wanted.
fn wanted(seen: &Seen<'_>, heard: &Results, plan: &mut Plan) {
    let spec = &seen.batch.spec;
    let makes_pods = matches!(spec.source, PodSource::Template { .. });
    let may_run = !spec.has_tasks || seen.batch.meta.has_finalizer(TASK_CLEANUP_FINALIZER);
    for index in 0..spec.replicas {
        let is_over = seen.batch.meta.results.contains(index);
        match seen.allocation.by_index.get(&index) {
            // A result that was heard is about to be kept: the task is over.
            None if is_over || heard.contains(index) || !makes_pods => {}
            None if seen.allocation.taken_names.contains_key(&index) => {}
            None => push(plan, PodAction::Create { index }),
            Some(pod) if pod.is_deleting => {}
            Some(pod) if is_over && makes_pods => push(plan, delete(pod, DeleteReason::Released)),
            Some(pod) if pod.lost.is_some() && makes_pods => {
                // A result that was heard but is not kept yet would be lost with it.
                if !heard.contains(index) {
                    push(plan, delete(pod, DeleteReason::Lost));
                }
            }
            Some(pod) if spec.has_tasks && may_run => assign(seen, index, pod, plan),
            Some(pod)
                if !spec.has_tasks && seen.batch.meta.has_finalizer(TASK_CLEANUP_FINALIZER) =>
            {
                // The task template was taken away: what runs is ended before the finalizer goes.
                // Nobody waits for that, so an agent that does not answer is not given up.
                if !is_clear(seen, pod) {
                    clear(pod, plan);
                }
            }
            Some(_) => {}
        }
    }
}

fn assign(seen: &Seen<'_>, index: u32, pod: &Pod, plan: &mut Plan) {
    let task = usize::try_from(index)
        .ok()
        .and_then(|at| seen.batch.spec.tasks.get(at));
    if let (Some(address), Some(task)) = (pod.address, task) {
        let order = Order::Set(Arc::clone(task));
        plan.agents
            .insert(pod.uid.clone(), Assignment { address, order });
    }
}

/// Pods beyond the replicas: their tasks are stopped first, then they go, highest index first.
fn surplus(seen: &Seen<'_>, now: Timestamp, plan: &mut Plan) {
    let spec = &seen.batch.spec;
    for (_, pod) in seen.allocation.by_index.range(spec.replicas..).rev() {
        if pod.is_deleting {
            continue;
        }
        let may_hold_task = seen.batch.meta.has_finalizer(TASK_CLEANUP_FINALIZER);
        if !may_hold_task || stop(seen, pod, now, plan) {
            push(plan, delete(pod, DeleteReason::ScaleIn));
        }
    }
}

/// Has the agent of a Pod end its task. True when nothing runs there any more, or nobody answers for too long.
fn stop(seen: &Seen<'_>, pod: &Pod, now: Timestamp, plan: &mut Plan) -> bool {
    if is_clear(seen, pod) {
        return true;
    }
    let agent = seen.agents.get(&pod.uid);
    let since = agent.and_then(|agent| agent.clearing_since);
    let limit = later(since.unwrap_or(now), seen.limits.task_cleanup_timeout);
    if since.is_some() && limit <= now {
        plan.given_up.push(pod.name.clone());
        return true;
    }
    plan.wake(limit);
    clear(pod, plan);
    false
}

/// Whether nothing runs on a Pod: nothing was ever sent to one without an address, and one that was lost is dead.
fn is_clear(seen: &Seen<'_>, pod: &Pod) -> bool {
    let agent = seen.agents.get(&pod.uid);
    pod.address.is_none() || pod.lost.is_some() || agent.is_some_and(Agent::is_clear)
}

fn clear(pod: &Pod, plan: &mut Plan) {
    if let Some(address) = pod.address {
        let order = Order::Clear;
        let assignment = Assignment { address, order };
        plan.agents.insert(pod.uid.clone(), assignment);
    }
}

/// A batch that is being deleted: its tasks end, then the finalizer goes.
fn cleanup(seen: &Seen<'_>, now: Timestamp, plan: &mut Plan) {
    let meta = &seen.batch.meta;
    let Some(deleted_at) = meta
        .deleted_at
        .filter(|_| meta.has_finalizer(TASK_CLEANUP_FINALIZER))
    else {
        return;
    };
    let mut all_clear = true;
    for pod in seen.allocation.by_index.values() {
        all_clear &= stop(seen, pod, now, plan);
    }
    if all_clear {
        plan.meta.finalizers = Some(without_cleanup(&meta.finalizers));
        plan.meta_is_urgent = true;
        return;
    }
    let shown_at = later(deleted_at, TERMINATING_SHOWN_AFTER);
    if shown_at <= now {
        plan.status = Some(status::terminating(seen.batch, now));
    } else {
        plan.wake(shown_at);
    }
}

/// What the object has to say of itself besides its status.
fn meta(seen: &Seen<'_>, results: &Results, plan: &mut Plan) {
    let (meta, spec) = (&seen.batch.meta, &seen.batch.spec);
    let has = meta.has_finalizer(TASK_CLEANUP_FINALIZER);
    if spec.has_tasks && !has {
        let mut finalizers = meta.finalizers.clone();
        finalizers.push(TASK_CLEANUP_FINALIZER.to_owned());
        plan.meta.finalizers = Some(finalizers);
        plan.meta_is_urgent = true;
    }
    // Without a task template, agents are only ever told to end what they have.
    if !spec.has_tasks && has && plan.agents.is_empty() {
        plan.meta.finalizers = Some(without_cleanup(&meta.finalizers));
        plan.meta_is_urgent = true;
    }
    if *results != meta.results {
        let text = results.to_text();
        plan.meta
            .annotations
            .insert(TASK_RESULTS_ANNOTATION.to_owned(), text);
    }
    let endpoints = endpoints(seen);
    let shown = meta.annotations.get(ENDPOINTS_ANNOTATION);
    let is_blank = endpoints.iter().all(String::is_empty);
    let text = serde_json::to_string(&endpoints).unwrap_or_default();
    if text.len() <= ENDPOINTS_BYTES_MAX && shown.map_or(!is_blank, |shown| *shown != text) {
        plan.meta_is_urgent |= endpoints.iter().all(|address| !address.is_empty());
        plan.meta
            .annotations
            .insert(ENDPOINTS_ANNOTATION.to_owned(), text);
    }
}

/// The results to keep: those kept before, without scaled-away ones, and with policy `Release` those just heard.
fn results(seen: &Seen<'_>) -> Results {
    let spec = &seen.batch.spec;
    let mut results = seen.batch.meta.results.below(spec.replicas);
    if spec.policy != TaskResourcePolicy::Release {
        return results;
    }
    for (index, task) in (0..).zip(&spec.tasks) {
        let pod = seen.allocation.by_index.get(&index);
        let Some(agent) = pod.and_then(|pod| seen.agents.get(&pod.uid)) else {
            continue;
        };
        if let Some(TaskSeen::Ended(end)) = agent.says_of(&Order::Set(Arc::clone(task))) {
            results.insert(index, end.exit_code == 0);
        }
    }
    let unkept = seen.unkept.below(spec.replicas);
    for index in unkept.succeeded.iter() {
        results.insert(index, true);
    }
    for index in unkept.failed.iter() {
        results.insert(index, false);
    }
    results
}

/// Addresses by index, `""` where there is none.
fn endpoints(seen: &Seen<'_>) -> Vec<String> {
    let address = |index: u32| {
        let pod = seen.allocation.by_index.get(&index);
        let address = pod
            .filter(|pod| !pod.is_deleting)
            .and_then(|pod| pod.address);
        address
            .map(|address| address.to_string())
            .unwrap_or_default()
    };
    (0..seen.batch.spec.replicas).map(address).collect()
}

fn without_cleanup(finalizers: &[String]) -> Vec<String> {
    let others = finalizers
        .iter()
        .filter(|one| *one != TASK_CLEANUP_FINALIZER);
    others.cloned().collect()
}

fn delete(pod: &Pod, why: DeleteReason) -> PodAction {
    PodAction::Delete {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        why,
    }
}

fn push(plan: &mut Plan, action: PodAction) {
    if plan.pods.len() < PODS_PER_PLAN_MAX {
        plan.pods.push(action);
    }
}

/// A time later by `by`, or the last there is.
pub(crate) fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
