//! What has happened, and what must never happen.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use sandbox_api::crd::{BatchSandbox, TASK_CLEANUP_FINALIZER, TASK_RESULTS_ANNOTATION};
use sandbox_planner::agent::{Assignment, Order, TaskOrder};
use sandbox_planner::engine::{BatchWrite, Note, Output};
use sandbox_planner::plan::{DeleteReason, Limits};
use sandbox_planner::pod::Pod;
use sandbox_planner::results::Results;

use super::agents::Run;
use super::api::Api;
use super::world::World;

#[derive(Debug, Default)]
pub struct Book {
    pub steps: u64,
    pub faults: u64,
    pub starts: u64,
    pub notes: u64,
    pub violations: Vec<String>,
    pub has_journal: bool,
    /// The latest generation that the operator was told of, by uid of the batch: after each, which may have taken
    /// the task away and the next one brought it back, a task may rightly run again in the same Pod.
    acts: BTreeMap<String, i64>,
    /// The generation at the last start, by uid of the Pod and body of the task.
    started: BTreeMap<(String, String), i64>,
    /// How tasks have ever ended: uid of the batch, index, whether well.
    ended: BTreeSet<(String, u32, bool)>,
    /// When an agent was first asked to clear, by uid of the Pod.
    cleared: BTreeMap<String, Timestamp>,
    /// The last note by uid of the batch and reason.
    told: BTreeMap<(String, String), (Timestamp, String)>,
}

fn uid_of(object: &BatchSandbox) -> &str {
    object.metadata.uid.as_deref().unwrap_or_default()
}

fn results_of(object: &BatchSandbox) -> Results {
    let annotations = object.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(TASK_RESULTS_ANNOTATION));
    text.map(|text| Results::parse(text).unwrap())
        .unwrap_or_default()
}

fn has_finalizer(finalizers: &[String]) -> bool {
    finalizers.iter().any(|one| one == TASK_CLEANUP_FINALIZER)
}

impl Book {
    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Prints what happens, when one run is repeated.
    pub fn journal(&self, what: impl FnOnce() -> String) {
        if self.has_journal {
            println!("{}", what());
        }
    }

    /// The operator is told of a batch.
    pub fn see_batch(&mut self, object: &BatchSandbox) {
        let generation = object.metadata.generation.unwrap_or_default();
        let seen = self.acts.entry(uid_of(object).to_owned()).or_default();
        *seen = generation.max(*seen);
    }

    pub fn operator_starts(&mut self) {
        self.told.clear();
    }

    /// One write at a time to one object, and to the Pods of one batch.
    pub fn see_write(&mut self, output: &Output, in_flight: &[Output]) {
        let lane = |output: &Output| match output {
            Output::WriteBatch { batch, .. } => Some((batch.clone(), 0)),
            Output::WritePods { batch, .. } => Some((batch.clone(), 1)),
            Output::Assign { .. } | Output::Forget { .. } | Output::Tell { .. } => None,
        };
        if in_flight.iter().any(|other| lane(other) == lane(output)) {
            self.violation(format!("a second write at once: {output:?}"));
        }
    }

    pub fn see_assignment(&mut self, one: &Assignment, pod: Option<&Pod>, now: Timestamp) {
        let Some(pod) = pod else { return };
        if pod.owner.is_none() {
            self.violation(format!("orders for a stranger: {pod:?}"));
        }
        match &one.order {
            Order::Clear => {
                self.cleared.entry(pod.uid.clone()).or_insert(now);
            }
            Order::Set(task) => {
                self.cleared.remove(&pod.uid);
                if task.name != pod.name {
                    self.violation(format!("task {} for Pod {}", task.name, pod.name));
                }
            }
        }
    }

    /// The same thing is not told again and again.
    pub fn see_note(&mut self, batch_uid: &str, note: &Note, now: Timestamp) {
        self.notes += 1;
        let at = (batch_uid.to_owned(), note.reason.clone());
        let goes_on = [
            "Expired",
            "TaskCleanupTimedOut",
            "FailedUpdate",
            "FailedCreate",
        ];
        let told = self.told.insert(at, (now, note.message.clone()));
        let again = told.is_some_and(|(before, message)| message == note.message && before == now);
        if again && goes_on.contains(&&*note.reason) {
            self.violation(format!("told twice at once: {note:?}"));
        }
    }

    pub fn see_create(&mut self, pod: &Pod, api: &Api) {
        let owner = pod.owner.clone().unwrap_or_default();
        let same = api
            .pods
            .values()
            .filter(|stored| stored.pod.owner == pod.owner);
        let index = pod.index;
        let (count, twins) = same.fold((0, 0), |(count, twins), stored| {
            (count + 1, twins + usize::from(stored.pod.index == index))
        });
        if twins > 1 {
            self.violation(format!("index {index:?} of {owner} has two Pods"));
        }
        let most = super::world::REPLICAS_MAX;
        if count > most {
            self.violation(format!("{owner} has {count} Pods"));
        }
        let batches = api.batches.values();
        let mut ours = batches.filter(|object| uid_of(object) == owner);
        if let Some(object) = ours.next()
            && results_of(object).contains(index.unwrap())
        {
            self.violation(format!("index {index:?} of {owner} is over and made again"));
        }
    }

    pub fn see_delete(&mut self, (name, uid, why): (&str, &str, DeleteReason), api: &Api) {
        let Some(stored) = api.pods.get(name).filter(|stored| stored.pod.uid == uid) else {
            return;
        };
        let Some(owner) = &stored.pod.owner else {
            self.violation(format!("deletes a stranger: {name}"));
            return;
        };
        let mut batches = api.batches.values();
        let Some(object) = batches.find(|object| uid_of(object) == owner) else {
            return;
        };
        let is_kept = stored
            .pod
            .index
            .is_some_and(|index| results_of(object).contains(index));
        let was_scaled = stored.pod.index.map(i64::from) >= Some(i64::from(object.spec.replicas));
        if why == DeleteReason::Released && !is_kept && !was_scaled {
            self.violation(format!("{name} goes before its result is kept"));
        }
        if why == DeleteReason::Lost && stored.pod.lost.is_none() {
            self.violation(format!("{name} is not lost"));
        }
    }

    pub fn see_start(&mut self, pod_uid: &str, task: &TaskOrder, api: &Api) {
        self.starts += 1;
        self.journal(|| format!("{pod_uid} starts {}", task.body));
        let mut pods = api.pods.values().map(|stored| &stored.pod);
        let Some(pod) = pods.find(|pod| pod.uid == pod_uid) else {
            self.violation(format!("task {} runs in no Pod", task.name));
            return;
        };
        let owner = pod.owner.clone().unwrap_or_default();
        let acts = self.acts.get(&owner).copied().unwrap_or_default();
        let before = self
            .started
            .insert((pod_uid.to_owned(), task.body.clone()), acts);
        if before == Some(acts) {
            self.violation(format!("{} runs twice in one Pod {pod_uid}", task.body));
        }
    }

    pub fn see_end(&mut self, pod_uid: &str, exit_code: i32, api: &Api) {
        let mut pods = api.pods.values().map(|stored| &stored.pod);
        if let Some(pod) = pods.find(|pod| pod.uid == pod_uid) {
            let owner = pod.owner.clone().unwrap_or_default();
            self.ended
                .insert((owner, pod.index.unwrap(), exit_code == 0));
        }
    }

    fn count_ended(&self, batch_uid: &str, well: bool) -> usize {
        let of_batch = self.ended.iter().filter(|(uid, ..)| uid == batch_uid);
        of_batch
            .filter(|(_, _, ended_well)| *ended_well == well)
            .count()
    }

    pub fn see_stranger(&mut self, api: &Api, name: &str) {
        if api.pods[name].pod.is_deleting {
            self.violation(format!("the stranger {name} is being deleted"));
        }
    }
}

/// Checks of a write that was just done; `before` is the object that it was done to.
pub fn check_batch_write(before: &BatchSandbox, write: &BatchWrite, world: &World) -> Vec<String> {
    let mut broken = Vec::new();
    match write {
        BatchWrite::Delete => {
            let expires = before.spec.expire_time.as_deref();
            let at = expires.and_then(|text| text.parse::<Timestamp>().ok());
            if at.is_none_or(|at| at > world.now) {
                broken.push(format!("{} is deleted before its time", uid_of(before)));
            }
        }
        BatchWrite::Status(status) => {
            let said = [(status.task_succeed, true), (status.task_failed, false)];
            for (count, well) in said {
                let most = world.book.count_ended(uid_of(before), well);
                if usize::try_from(count).unwrap() > most {
                    broken.push(format!(
                        "says that {count} tasks ended ({well}), not {most}"
                    ));
                }
            }
        }
        BatchWrite::Meta(patch) => {
            let had = has_finalizer(before.metadata.finalizers.as_deref().unwrap_or_default());
            let after = patch.finalizers.as_deref();
            if had && after.is_some_and(|after| !has_finalizer(after)) {
                check_finalizer(before, world, &mut broken);
            }
        }
    }
    broken
}

/// Nothing runs in a Pod of a batch that loses its finalizer, unless the agent had its time.
fn check_finalizer(before: &BatchSandbox, world: &World, broken: &mut Vec<String>) {
    let timeout: SignedDuration = Limits::default().task_cleanup_timeout;
    let is_deleted = before.metadata.deletion_timestamp.is_some();
    for stored in world.api.pods.values() {
        let pod = &stored.pod;
        let is_ours = pod.owner.as_deref() == Some(uid_of(before));
        let may_hold = is_ours && (is_deleted || !pod.is_deleting);
        let agent = world.agents.get(&pod.uid).filter(|_| may_hold);
        let Some(task) = agent.and_then(|agent| agent.task.as_ref()) else {
            continue;
        };
        let asked_at = world.book.cleared.get(&pod.uid);
        let had_time = asked_at.is_some_and(|at| *at + timeout <= world.now);
        if !matches!(task.run, Run::Ended(_)) && !had_time {
            broken.push(format!(
                "{} loses the finalizer, {} runs",
                stored.batch, pod.name
            ));
        }
    }
}
