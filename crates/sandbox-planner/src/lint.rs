//! What no plan may ever do, whatever was seen: a second pair of eyes for tests and debug builds.

use std::collections::{BTreeMap, BTreeSet};

use sandbox_api::crd::{TASK_CLEANUP_FINALIZER, TASK_RESULTS_ANNOTATION};

use crate::agent::{Agent, Assignment, Order};
use crate::batch::{Batch, PodSource};
use crate::conditions::types;
use crate::plan::{DeleteReason, PODS_PER_PLAN_MAX, Plan, PodAction, Seen};
use crate::pod::Pod;
use crate::results::Results;

/// The rules that a plan breaks, in words; none for every plan that [`plan`](crate::plan::plan) makes.
pub fn lint(seen: &Seen<'_>, plan: &Plan) -> Vec<String> {
    let pods = seen.allocation.by_index.iter();
    let mut lint = Lint {
        seen,
        plan,
        by_uid: pods
            .map(|(index, pod)| (&*pod.uid, (*index, *pod)))
            .collect(),
        broken: Vec::new(),
    };
    lint.pods();
    for (uid, assignment) in &plan.agents {
        lint.agent(uid, assignment);
    }
    lint.finalizers();
    lint.results();
    lint.status();
    lint.broken
}

struct Lint<'a> {
    seen: &'a Seen<'a>,
    plan: &'a Plan,
    by_uid: BTreeMap<&'a str, (u32, &'a Pod)>,
    broken: Vec<String>,
}

impl Lint<'_> {
    fn unless(&mut self, is_fine: bool, broken: impl FnOnce() -> String) {
        if !is_fine {
            self.broken.push(broken());
        }
    }

    fn is_deleted(&self) -> bool {
        self.seen.batch.meta.deleted_at.is_some()
    }

    fn pods(&mut self) {
        let plan = self.plan;
        let count = plan.pods.len();
        self.unless(count <= PODS_PER_PLAN_MAX, || {
            format!("has {count} writes to Pods")
        });
        let is_expiry = *plan
            == Plan {
                expire: true,
                wake_at: plan.wake_at,
                ..Plan::default()
            };
        self.unless(!plan.expire || is_expiry, || {
            "does more than to expire".to_owned()
        });
        self.unless(!self.is_deleted() || plan.pods.is_empty(), || {
            "writes Pods of a batch that is being deleted".to_owned()
        });
        let mut created = BTreeSet::new();
        let mut deleted = BTreeSet::new();
        for action in &plan.pods {
            match action {
                PodAction::Create { index } => {
                    let is_new = created.insert(*index);
                    self.unless(is_new, || format!("creates index {index} twice"));
                    self.create(*index);
                }
                PodAction::Delete { name, uid, why } => {
                    let is_new = deleted.insert(uid);
                    self.unless(is_new, || format!("deletes {name} twice"));
                    let has_orders = plan.agents.contains_key(uid);
                    self.unless(!has_orders, || {
                        format!("deletes {name} and has orders for it")
                    });
                    match self.by_uid.get(&**uid).copied() {
                        Some((index, pod)) if pod.name == *name => self.delete(index, pod, *why),
                        _ => self.unless(false, || {
                            format!("deletes {name} with uid {uid:?}, which is not ours")
                        }),
                    }
                }
            }
        }
    }

    fn create(&mut self, index: u32) {
        let Batch { meta, spec, .. } = self.seen.batch;
        let allocation = self.seen.allocation;
        let makes_pods = matches!(spec.source, PodSource::Template { .. });
        for (is_fine, what) in [
            (index < spec.replicas, "which is not wanted"),
            (!allocation.by_index.contains_key(&index), "which exists"),
            (
                !allocation.taken_names.contains_key(&index),
                "whose name is taken",
            ),
            (!meta.results.contains(index), "whose result is kept"),
            (makes_pods, "but Pods come from a pool"),
        ] {
            self.unless(is_fine, || format!("creates index {index}, {what}"));
        }
    }

    fn delete(&mut self, index: u32, pod: &Pod, why: DeleteReason) {
        let Batch { meta, spec, .. } = self.seen.batch;
        let is_wanted = index < spec.replicas;
        let is_ended = !meta.has_finalizer(TASK_CLEANUP_FINALIZER) || self.is_clear(pod);
        let (is_fine, what) = match why {
            DeleteReason::ScaleIn if is_wanted => (false, "which is wanted"),
            DeleteReason::ScaleIn => (is_ended, "whose task was not ended"),
            DeleteReason::Released => (meta.results.contains(index), "whose result is not kept"),
            DeleteReason::Lost => (is_wanted && pod.lost.is_some(), "which is not lost"),
        };
        self.unless(is_fine, || format!("deletes {}, {what}", pod.name));
        self.unless(!pod.is_deleting, || format!("deletes {} again", pod.name));
    }

    /// Whether nothing runs on a Pod as far as can be known, or its agent had its time.
    fn is_clear(&self, pod: &Pod) -> bool {
        let agent = self.seen.agents.get(&pod.uid);
        let was_asked = agent.is_some_and(|agent| agent.clearing_since.is_some());
        pod.address.is_none()
            || pod.lost.is_some()
            || agent.is_some_and(Agent::is_clear)
            || (was_asked && self.plan.given_up.contains(&pod.name))
    }

    fn agent(&mut self, uid: &str, assignment: &Assignment) {
        let Some((index, pod)) = self.by_uid.get(uid).copied() else {
            self.unless(false, || {
                format!("has orders for {uid:?}, which is not ours")
            });
            return;
        };
        let Batch { meta, spec, .. } = self.seen.batch;
        let has_finalizer = meta.has_finalizer(TASK_CLEANUP_FINALIZER);
        let is_deleted = self.is_deleted();
        let is_wanted = spec.has_tasks && index < spec.replicas && !is_deleted;
        let mut rules = vec![
            (
                pod.address == Some(assignment.address),
                "at a wrong address",
            ),
            (pod.lost.is_none(), "which is lost"),
            (has_finalizer, "without the finalizer"),
        ];
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        match &assignment.order {
            Order::Clear => rules.push((!is_wanted, "to end a task that is wanted")),
            Order::Set(task) => rules.extend([
                (
                    !is_deleted,
                    "to run a task of a batch that is being deleted",
                ),
                (!pod.is_deleting, "to run a task while it is being deleted"),
                (
                    spec.tasks.get(at) == Some(task),
                    "to run a task that is not its own",
                ),
                (
                    !meta.results.contains(index),
                    "to run a task whose result is kept",
                ),
            ]),
        }
        for (is_fine, what) in rules {
            self.unless(is_fine, || format!("has orders for {}, {what}", pod.name));
        }
    }

    fn finalizers(&mut self) {
        let Some(after) = &self.plan.meta.finalizers else {
            return;
        };
        let Batch { meta, spec, .. } = self.seen.batch;
        let is_foreign = |one: &&String| *one != TASK_CLEANUP_FINALIZER;
        let is_same = after
            .iter()
            .filter(is_foreign)
            .eq(meta.finalizers.iter().filter(is_foreign));
        self.unless(is_same, || "changes finalizers of others".to_owned());
        let is_deleted = self.is_deleted();
        let is_needed = spec.has_tasks && !is_deleted;
        if after.iter().any(|one| one == TASK_CLEANUP_FINALIZER) {
            self.unless(is_needed, || {
                "adds a finalizer that is not needed".to_owned()
            });
            return;
        }
        self.unless(!is_needed, || {
            "takes away a finalizer that is needed".to_owned()
        });
        let pods = self.seen.allocation.by_index.iter();
        let may_hold = |(index, pod): &(&u32, &&Pod)| {
            is_deleted || (!pod.is_deleting && !meta.results.contains(**index))
        };
        let mut held = pods.filter(may_hold).map(|(_, pod)| *pod);
        if let Some(pod) = held.find(|pod| !self.is_clear(pod)) {
            let name = &pod.name;
            self.unless(false, || {
                format!("takes the finalizer away while {name} may have a task")
            });
        }
    }

    fn results(&mut self) {
        let Batch { meta, spec, .. } = self.seen.batch;
        let text = self.plan.meta.annotations.get(TASK_RESULTS_ANNOTATION);
        let Some(after) = text.and_then(|text| Results::parse(text).ok()) else {
            return;
        };
        let is_lost = |index: &u32| meta.results.contains(*index) && !after.contains(*index);
        let lost = (0..spec.replicas).find(is_lost);
        self.unless(lost.is_none(), || {
            format!("forgets the results of {lost:?}")
        });
    }

    fn status(&mut self) {
        let Some(status) = &self.plan.status else {
            return;
        };
        let tasks = [
            status.task_pending,
            status.task_running,
            status.task_succeed,
            status.task_failed,
            status.task_unknown,
        ];
        let spec = &self.seen.batch.spec;
        let sum: i64 = tasks.iter().map(|count| i64::from(*count)).sum();
        let expected = if spec.has_tasks { spec.replicas } else { 0 };
        let adds_up = self.is_deleted() || sum == i64::from(expected);
        self.unless(adds_up, || format!("counts {sum} tasks, not {expected}"));
        let mut words = BTreeSet::new();
        for condition in &status.conditions {
            let word = &*condition.type_;
            let holds = condition.status == "True" && condition.last_transition_time.is_some();
            self.unless(holds, || {
                format!("has the condition {word}, which does not hold")
            });
            let is_new = words.insert(word);
            self.unless(is_new, || format!("has the condition {word} twice"));
        }
        let is_both = words.contains(types::READY) && words.contains(types::PROGRESSING);
        self.unless(!is_both, || "is both ready and not ready yet".to_owned());
    }
}

#[cfg(test)]
mod tests;
