//! One batch in the engine: what is known of it, and which writes are under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use sandbox_api::crd::{BatchCondition, BatchPhase, BatchSandbox, BatchSandboxStatus};

use super::lane::Lane;
use super::{BatchWrite, Failure, Heard, Key, Note, Output, PodOutcome, PodWrite, Settings};
use crate::agent::{Agent, Assignment, Failing, Order, TaskSeen};
use crate::batch::{self, Batch, Malformed, Meta, PodSource, Spec};
use crate::conditions;
use crate::desired;
use crate::lint::lint;
use crate::plan::{Allocation, DeleteReason, Plan, PodAction, Seen, later, plan};
use crate::pod::Pod;
use crate::results::Results;

/// Reasons of events about things that may go on.
const UPDATE_FAILED: &str = "FailedUpdate";
const CREATE_FAILED: &str = "FailedCreate";
const NAME_TAKEN: &str = "PodNameTaken";
const CLEANUP_TIMED_OUT: &str = "TaskCleanupTimedOut";
const EXPIRED: &str = "Expired";

/// Creations that find the name taken before somebody is told.
const TAKEN_PATIENCE: u32 = 5;

/// What is known of one name, be it of a batch, of its Pods only, or of both.
#[derive(Debug, Default)]
pub(super) struct Entry {
    batch: Option<Batch>,
    /// The uid of one that is known to be gone before the watch says so; what it still says of it is old.
    buried: Option<String>,
    /// Why the batch is left alone.
    malformed: Option<Malformed>,
    pods: BTreeMap<String, (Pod, u64)>,
    agents: BTreeMap<String, Agent>,
    /// How tasks ended whose Pods went before that was kept in the object.
    unkept: Results,
    assigned: BTreeMap<String, Assigned>,
    object_lane: Lane,
    pod_lane: Lane,
    /// The write to the object that is under way.
    writing: Option<Writing>,
    /// Pods whose deletion is under way: nothing is started there any more.
    deleting: BTreeSet<String>,
    /// Pods that went while writes to Pods are under way: their creation may be answered later.
    gone: BTreeSet<String>,
    /// Pods were listed while writes to Pods are under way: a created one that is not known by now is gone, or
    /// will be seen.
    is_relisted: bool,
    /// When a batch with a status was first seen, until the agents have said what they know: until then that
    /// status stands.
    settling_since: Option<Timestamp>,
    status_written_at: Option<Timestamp>,
    meta_written_at: Option<Timestamp>,
    /// What was told last of things that may go on, by reason, so that each is told once.
    told: BTreeMap<&'static str, String>,
    notes: Vec<Note>,
    pub(super) wake_at: Option<Timestamp>,
}

/// What an agent was told last.
#[derive(Debug)]
struct Assigned {
    assignment: Assignment,
    round: u64,
}

/// A write to the object that is under way.
#[derive(Debug)]
struct Writing {
    /// Of the object; another of the same name may be there when the answer comes.
    uid: String,
    /// What it said of itself before. The watch may be faster than the answer, so that can't be looked up then.
    before: Vec<BatchCondition>,
}

impl Entry {
    pub(super) fn see_batch(&mut self, object: &BatchSandbox, now: Timestamp) {
        let meta = Meta::read(object);
        if self.buried.as_ref() == Some(&meta.uid) {
            return;
        }
        if let Some(known) = &self.batch {
            let is_same = known.meta.uid == meta.uid;
            if is_same && is_older(&meta.resource_version, &known.meta.resource_version) {
                return;
            }
            if !is_same {
                self.lose_batch();
            }
        }
        self.object_lane.hurry(); // This may be what a write that was stale has waited for.
        // The results stand in an annotation, which may change without the generation.
        let is_read = self.malformed.is_none() && batch::results(object).is_ok();
        let known = self.batch.take();
        let is_shown = object
            .status
            .as_ref()
            .is_some_and(|status| status.observed_generation.is_some());
        if known.is_none() && is_shown {
            self.settling_since = Some(now);
        }
        let known = known.filter(|known| is_read && known.meta.generation == meta.generation);
        let spec = match known {
            Some(known) => known.spec,
            None => match Spec::read(object) {
                Ok(spec) => {
                    self.malformed = None;
                    self.pod_lane.hurry();
                    Arc::new(spec)
                }
                Err(malformed) => {
                    self.malformed = Some(malformed);
                    Arc::new(Spec::default())
                }
            },
        };
        self.unkept = self.unkept.without(&meta.results);
        let status = object.status.clone().unwrap_or_default();
        self.batch = Some(Batch { meta, spec, status });
    }

    pub(super) fn lose_batch(&mut self) {
        self.batch = None;
        self.buried = None;
        self.unkept = Results::default();
        self.malformed = None;
        self.settling_since = None;
        self.told.clear();
        self.notes.clear();
        self.status_written_at = None;
        self.meta_written_at = None;
    }

    pub(super) fn see_pod(&mut self, mut pod: Pod, version: u64) {
        if let Some((known, before)) = self.pods.get(&pod.uid) {
            if *before > version {
                return;
            }
            // A deletion is never taken back; this may be older than ours.
            pod.is_deleting |= known.is_deleting;
        }
        self.pods.insert(pod.uid.clone(), (pod, version));
    }

    pub(super) fn lose_pod(&mut self, uid: &str) {
        let pod = self.pods.remove(uid);
        let agent = self.agents.remove(uid);
        let answer = agent.and_then(|agent| agent.answer);
        if let (Some((_, TaskSeen::Ended(end))), Some((pod, _))) = (answer, pod)
            && let Some(batch) = self.batch.as_ref().filter(|batch| batch.keeps(&pod))
            && let Some(index) = pod.index
            && !batch.meta.results.contains(index)
        {
            self.unkept.insert(index, end.exit_code == 0);
        }
        self.gone.insert(uid.to_owned());
        self.pod_lane.hurry();
    }

    /// Forgets Pods that are not among `all`; whether there were any.
    pub(super) fn keep_pods(&mut self, all: &BTreeSet<String>) -> bool {
        self.is_relisted = true;
        let lost: Vec<_> = self
            .pods
            .keys()
            .filter(|uid| !all.contains(*uid))
            .cloned()
            .collect();
        for uid in &lost {
            self.lose_pod(uid);
        }
        !lost.is_empty()
    }

    pub(super) fn hear(&mut self, heard: Heard, now: Timestamp) {
        let Some(asked) = self.assigned.get(&heard.pod_uid) else {
            return;
        };
        if asked.round != heard.round {
            return; // An answer to an order that was taken back.
        }
        let Some(agent) = self.agents.get_mut(&heard.pod_uid) else {
            return;
        };
        match heard.news {
            Ok(seen) => {
                agent.answer = Some((asked.assignment.order.clone(), seen));
                agent.failing = None;
            }
            Err(error) => {
                agent.failing.get_or_insert(Failing { since: now, error });
            }
        }
    }

    pub(super) fn wrote_batch(
        &mut self,
        outcome: Result<Option<Box<BatchSandbox>>, Failure>,
        now: Timestamp,
    ) {
        let writing = self.writing.take();
        match outcome {
            Ok(object) => {
                self.object_lane.succeed();
                self.told.remove(UPDATE_FAILED);
                let is_here =
                    |w: &Writing| self.batch.as_ref().is_some_and(|b| b.meta.uid == w.uid);
                let Some(writing) = writing.filter(is_here) else {
                    return;
                };
                match object {
                    None => {
                        self.lose_batch();
                        self.buried = Some(writing.uid);
                    }
                    Some(object) if object.metadata.uid.as_ref() == Some(&writing.uid) => {
                        let status = object.status.as_ref();
                        let after = status.map_or(&[][..], |status| &status.conditions);
                        self.notes.extend(Note::of_change(&writing.before, after));
                        self.see_batch(&object, now);
                    }
                    Some(_) => {}
                }
            }
            Err(Failure::Stale | Failure::Later(_)) => self.object_lane.fail(now),
            Err(Failure::Refused(message) | Failure::Taken(message)) => {
                self.object_lane.refuse(now);
                self.tell_once(Note::warning(UPDATE_FAILED, message), UPDATE_FAILED);
            }
        }
    }

    pub(super) fn wrote_pods(&mut self, outcomes: Vec<PodOutcome>, now: Timestamp) {
        let mut created = 0;
        let mut deleted = Vec::new();
        let mut failure = None;
        for outcome in outcomes {
            match outcome {
                PodOutcome::Created { pod, version } => {
                    created += 1;
                    let may_be_gone = self.is_relisted && !self.pods.contains_key(&pod.uid);
                    if !may_be_gone && !self.gone.contains(&pod.uid) {
                        self.see_pod(*pod, version);
                    }
                }
                PodOutcome::Deleted { uid, why } => {
                    deleted.push(why);
                    if let Some((pod, _)) = self.pods.get_mut(&uid) {
                        pod.is_deleting = true;
                    }
                }
                PodOutcome::Failed(worse @ Failure::Refused(_)) => failure = Some(worse),
                PodOutcome::Failed(other) => failure = failure.or(Some(other)),
            }
        }
        match failure {
            None => {
                self.pod_lane.succeed();
                self.told.remove(CREATE_FAILED);
                self.told.remove(NAME_TAKEN);
            }
            Some(Failure::Stale | Failure::Later(_)) => self.pod_lane.fail(now),
            Some(Failure::Taken(message)) => {
                // Most often the Pod is our own and the watch is about to show it.
                self.pod_lane.fail(now);
                if self.pod_lane.failures() >= TAKEN_PATIENCE {
                    self.tell_once(Note::warning(NAME_TAKEN, message), NAME_TAKEN);
                }
            }
            Some(Failure::Refused(message)) => {
                self.pod_lane.refuse(now);
                self.tell_once(Note::warning(CREATE_FAILED, message), CREATE_FAILED);
            }
        }
        self.gone.clear();
        self.deleting.clear();
        self.tell_of_pods(created, &deleted);
    }

    fn tell_of_pods(&mut self, created: usize, deleted: &[DeleteReason]) {
        if created > 0 {
            let message = format!("created {created} Pods");
            self.notes.push(Note::normal("SuccessfulCreate", message));
        }
        for why in [
            DeleteReason::ScaleIn,
            DeleteReason::Released,
            DeleteReason::Lost,
        ] {
            let count = deleted.iter().filter(|one| **one == why).count();
            if count > 0 {
                self.notes.push(Note::of_deletions(why, count));
            }
        }
    }

    fn tell_once(&mut self, note: Note, reason: &'static str) {
        if self.told.get(reason) != Some(&note.message) {
            self.told.insert(reason, note.message.clone());
            self.notes.push(note);
        }
    }

    /// Decides for this batch and says what is to be done. When to come again, if nothing happens.
    pub(super) fn step(&mut self, mut step: Step<'_>) -> Option<Timestamp> {
        let Some(batch) = self.batch.clone() else {
            self.assign(&mut step, BTreeMap::new());
            return None;
        };
        let left_alone = self
            .malformed
            .as_ref()
            .filter(|_| batch.meta.deleted_at.is_none());
        let mut plan = match left_alone {
            Some(malformed) => quarantine(malformed, &batch, step.now),
            None => self.plan(&batch, &step),
        };
        step.wake_at = plan.wake_at;
        if left_alone.is_none() {
            let mut agents = std::mem::take(&mut plan.agents);
            agents.retain(|uid, one| one.order == Order::Clear || !self.deleting.contains(uid));
            self.assign(&mut step, agents);
        }
        self.write_pods(&mut step, &batch, std::mem::take(&mut plan.pods));
        self.write_batch(&mut step, &batch, plan);
        for note in std::mem::take(&mut self.notes) {
            step.outputs.push(Output::Tell {
                batch: step.key.clone(),
                uid: batch.meta.uid.clone(),
                note,
            });
        }
        step.wake_at
    }

    fn plan(&self, batch: &Batch, step: &Step<'_>) -> Plan {
        let pods = self.pods.values().map(|(pod, _)| pod);
        let allocation = Allocation::direct(&batch.meta.uid, pods);
        let seen = Seen {
            batch,
            allocation: &allocation,
            agents: &self.agents,
            unkept: &self.unkept,
            limits: &step.settings.limits,
        };
        let plan = plan(&seen, step.now);
        debug_assert_eq!(lint(&seen, &plan), Vec::<String>::new());
        plan
    }

    /// Tells agents what changed for them, and leaves those alone that have nothing to do any more.
    fn assign(&mut self, step: &mut Step<'_>, wanted: BTreeMap<String, Assignment>) {
        for uid in self
            .assigned
            .keys()
            .filter(|uid| !wanted.contains_key(*uid))
        {
            let pod_uid = uid.clone();
            step.outputs.push(Output::Forget { pod_uid });
        }
        let mut before = std::mem::take(&mut self.assigned);
        for (pod_uid, assignment) in wanted {
            let is_same = |old: &Assigned| {
                old.assignment.address == assignment.address
                    && old.assignment.order.is_same(&assignment.order)
            };
            let known = before.remove(&pod_uid).filter(is_same);
            if let Some(same) = known.filter(|_| self.agents.contains_key(&pod_uid)) {
                self.assigned.insert(pod_uid, same);
                continue;
            }
            let agent = self.agents.entry(pod_uid.clone()).or_default();
            // What it said before says nothing about the new order.
            agent.answer = None;
            agent.clearing_since = (assignment.order == Order::Clear).then_some(step.now);
            *step.round += 1;
            let round = *step.round;
            step.outputs.push(Output::Assign {
                batch: step.key.clone(),
                pod_uid: pod_uid.clone(),
                assignment: assignment.clone(),
                round,
            });
            let assigned = Assigned { assignment, round };
            self.assigned.insert(pod_uid, assigned);
        }
    }

    fn write_pods(&mut self, step: &mut Step<'_>, batch: &Batch, actions: Vec<PodAction>) {
        if actions.is_empty() || !self.pod_lane.is_free(step.now, &mut step.wake_at) {
            return;
        }
        let write = |action: PodAction| match action {
            PodAction::Create { index } => {
                let PodSource::Template { template, patches } = &batch.spec.source else {
                    return None;
                };
                let pod = desired::pod(&batch.meta, template, patches, index);
                pod.ok().map(PodWrite::Create)
            }
            PodAction::Delete { name, uid, why } => Some(PodWrite::Delete { name, uid, why }),
        };
        let writes: Vec<_> = actions.into_iter().filter_map(write).collect();
        if !writes.is_empty() {
            self.pod_lane.start();
            self.gone.clear();
            self.is_relisted = false;
            self.deleting = writes.iter().filter_map(deleted).cloned().collect();
            let batch = step.key.clone();
            step.outputs.push(Output::WritePods { batch, writes });
        }
    }

    fn write_batch(&mut self, step: &mut Step<'_>, batch: &Batch, plan: Plan) {
        if !plan.given_up.is_empty() {
            self.tell_once(Note::of_given_up(&plan.given_up), CLEANUP_TIMED_OUT);
        }
        let Some(write) = self.next_write(step, batch, plan) else {
            return;
        };
        match &write {
            BatchWrite::Meta(_) => self.meta_written_at = Some(step.now),
            BatchWrite::Status(_) => self.status_written_at = Some(step.now),
            BatchWrite::Delete => {
                let message = "its expireTime has come".to_owned();
                self.tell_once(Note::normal(EXPIRED, message), EXPIRED);
            }
        }
        self.object_lane.start();
        self.writing = Some(Writing {
            uid: batch.meta.uid.clone(),
            before: batch.status.conditions.clone(),
        });
        step.outputs.push(Output::WriteBatch {
            batch: step.key.clone(),
            uid: batch.meta.uid.clone(),
            resource_version: batch.meta.resource_version.clone(),
            write,
        });
    }

    /// The write to the object that is due, if one is and none is under way.
    fn next_write(&mut self, step: &mut Step<'_>, batch: &Batch, plan: Plan) -> Option<BatchWrite> {
        let status = plan.status.filter(|status| *status != batch.status);
        if !plan.expire && plan.meta.is_empty() && status.is_none() {
            return None;
        }
        if !self.object_lane.is_free(step.now, &mut step.wake_at) {
            return None;
        }
        if plan.expire {
            return Some(BatchWrite::Delete);
        }
        let meta_is_due =
            !plan.meta.is_empty() && (plan.meta_is_urgent || step.is_over(self.meta_written_at));
        if meta_is_due {
            return Some(BatchWrite::Meta(plan.meta));
        }
        let status = status.filter(|_| self.is_settled(step))?;
        let is_due = matters(&batch.status, &status) || step.is_over(self.status_written_at);
        is_due.then(|| BatchWrite::Status(Box::new(status)))
    }

    /// Whether the agents have said what they know since the start, or have had the time to.
    fn is_settled(&mut self, step: &mut Step<'_>) -> bool {
        let Some(since) = self.settling_since else {
            return true;
        };
        let silence = step.settings.limits.agent_silence;
        let is_told = |uid: &String| {
            self.agents.get(uid).is_some_and(|agent| {
                let silent = |failing: &Failing| later(failing.since, silence) <= step.now;
                agent.answer.is_some() || agent.failing.as_ref().is_some_and(silent)
            })
        };
        // Twice: an agent whose first failure comes late is silent only after that.
        let limit = later(later(since, silence), silence);
        if limit <= step.now || self.assigned.keys().all(is_told) {
            self.settling_since = None;
            return true;
        }
        step.wake_at = Some(step.wake_at.map_or(limit, |before| before.min(limit)));
        false
    }

    /// Whether nothing would be lost with it; the answer to a write that is under way has to find it.
    pub(super) fn is_empty(&self) -> bool {
        let is_busy = self.object_lane.is_busy() || self.pod_lane.is_busy();
        let is_awaited = is_busy || self.buried.is_some();
        self.batch.is_none() && self.pods.is_empty() && self.assigned.is_empty() && !is_awaited
    }

    pub(super) fn phase(&self) -> Option<&'static str> {
        let batch = self.batch.as_ref()?;
        Some(match batch.status.phase {
            None | Some(BatchPhase::Pending) => "Pending",
            Some(BatchPhase::Succeed) => "Succeed",
            Some(BatchPhase::Failed) => "Failed",
            Some(BatchPhase::Pausing | BatchPhase::Paused | BatchPhase::Resuming) => "Paused",
        })
    }

    pub(super) fn silent_agents(&self) -> usize {
        let agents = self.agents.values();
        agents.filter(|agent| agent.failing.is_some()).count()
    }
}

/// What one step needs besides the entry.
pub(super) struct Step<'a> {
    pub(super) key: &'a Key,
    pub(super) settings: &'a Settings,
    pub(super) now: Timestamp,
    pub(super) wake_at: Option<Timestamp>,
    pub(super) round: &'a mut u64,
    pub(super) outputs: &'a mut Vec<Output>,
}

impl Step<'_> {
    /// Whether the window after a write has passed; if not, its end is when to come again.
    fn is_over(&mut self, written_at: Option<Timestamp>) -> bool {
        let Some(written_at) = written_at else {
            return true;
        };
        let end = later(written_at, self.settings.status_window);
        if end <= self.now {
            return true;
        }
        self.wake_at = Some(self.wake_at.map_or(end, |before| before.min(end)));
        false
    }
}

/// Whether a change of status is one that somebody may wait for.
fn matters(before: &BatchSandboxStatus, after: &BatchSandboxStatus) -> bool {
    let words = |status: &BatchSandboxStatus| -> Vec<_> {
        let conditions = status.conditions.iter();
        conditions
            .map(|one| (one.type_.clone(), one.reason.clone()))
            .collect()
    };
    before.phase != after.phase || words(before) != words(after)
}

/// The uid of the Pod that a write deletes.
fn deleted(write: &PodWrite) -> Option<&String> {
    match write {
        PodWrite::Delete { uid, .. } => Some(uid),
        PodWrite::Create(_) => None,
    }
}

/// The plan for an object that makes no sense: to say so, and to touch nothing.
fn quarantine(malformed: &Malformed, batch: &Batch, now: Timestamp) -> Plan {
    let generation = batch.meta.generation;
    let mut status = batch.status.clone();
    status.observed_generation = Some(generation);
    status.conditions = conditions::malformed(malformed, &status.conditions, generation, now);
    Plan {
        status: Some(status),
        ..Plan::default()
    }
}

/// Whether the first of two versions of an object is the older one. Versions are numbers in every release of
/// Kubernetes, and may be compared as such since 1.35.
fn is_older(one: &str, other: &str) -> bool {
    match (one.parse::<u64>(), other.parse::<u64>()) {
        (Ok(one), Ok(other)) => one < other,
        _ => false,
    }
}
