//! Batches, Pods and agents for tests, and plans as lines.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sandbox_api::crd::{
    BatchSandbox, BatchSandboxSpec, BatchSandboxStatus, ENDPOINTS_ANNOTATION,
    TASK_CLEANUP_FINALIZER, TASK_RESULTS_ANNOTATION, TaskResourcePolicy,
};
use serde_json::json;

use crate::agent::{Agent, Ended, Failing, Order, TaskSeen};
use crate::batch::{Batch, Meta, Spec};
use crate::lint::lint;
use crate::plan::{Allocation, Limits, Plan, PodAction, Seen, plan};
use crate::pod::{Pod, Restart, Trouble};
use crate::results::Results;

pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

pub(crate) fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

/// A batch and what there is of it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) object: BatchSandbox,
    pub(crate) pods: BTreeMap<String, Pod>,
    agents: BTreeMap<String, Agent>,
}

/// What a Pod is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    /// Just made.
    New,
    /// With an address.
    Reachable,
    Ready,
    Deleting,
    Evicted,
    Crashing,
    /// Ready again after a container ran out of memory.
    Restarted,
    /// Of another owner, with a name of ours.
    Foreign,
}

/// What an agent says or does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Waiting,
    Running,
    Ended(i32),
    /// It was asked to clear so many seconds ago and has not done so.
    Clearing(i64),
    Cleared,
    /// It ran the task, and has not answered for so many seconds.
    Silent(i64),
}

/// `b`, of one replica, without a task.
pub(crate) fn batch() -> Case {
    let spec = BatchSandboxSpec {
        replicas: 1,
        template: Some(json!({"spec": {"containers": [{"name": "main", "image": "i"}]}})),
        ..BatchSandboxSpec::default()
    };
    let mut object = BatchSandbox::new("b", spec);
    object.metadata.namespace = Some("ns".to_owned());
    object.metadata.uid = Some("b-uid".to_owned());
    object.metadata.resource_version = Some("10".to_owned());
    object.metadata.generation = Some(1);
    let (pods, agents) = (BTreeMap::new(), BTreeMap::new());
    Case {
        object,
        pods,
        agents,
    }
}

impl Case {
    pub(crate) fn replicas(mut self, count: i32) -> Self {
        self.object.spec.replicas = count;
        self
    }

    /// With a task and the finalizer for it.
    pub(crate) fn task(self, command: &str) -> Self {
        self.new_task(command).finalizer(TASK_CLEANUP_FINALIZER)
    }

    /// With a task, just now.
    pub(crate) fn new_task(mut self, command: &str) -> Self {
        let task = json!({"spec": {"process": {"command": [command]}}});
        self.object.spec.task_template = Some(task);
        self
    }

    pub(crate) fn finalizer(mut self, finalizer: &str) -> Self {
        let finalizers = self.object.metadata.finalizers.get_or_insert_default();
        finalizers.push(finalizer.to_owned());
        self
    }

    pub(crate) fn release(mut self) -> Self {
        let policy = Some(TaskResourcePolicy::Release);
        self.object.spec.task_resource_policy_when_completed = policy;
        self
    }

    pub(crate) fn annotation(mut self, name: &str, text: &str) -> Self {
        let annotations = self.object.metadata.annotations.get_or_insert_default();
        annotations.insert(name.to_owned(), text.to_owned());
        self
    }

    pub(crate) fn results(self, succeeded: &[u32], failed: &[u32]) -> Self {
        let set = |all: &[u32]| all.iter().copied().collect();
        let results = Results {
            succeeded: set(succeeded),
            failed: set(failed),
        };
        self.annotation(TASK_RESULTS_ANNOTATION, &results.to_text())
    }

    pub(crate) fn deleted(mut self, seconds_ago: i64) -> Self {
        self.object.metadata.deletion_timestamp = Some(Time(now() - seconds(seconds_ago)));
        self
    }

    pub(crate) fn expires_in(mut self, count: i64) -> Self {
        self.object.spec.expire_time = Some((now() + seconds(count)).to_string());
        self
    }

    pub(crate) fn edit(mut self, edit: impl FnOnce(&mut BatchSandbox)) -> Self {
        edit(&mut self.object);
        self
    }

    pub(crate) fn status(mut self, status: BatchSandboxStatus) -> Self {
        self.object.status = Some(status);
        self
    }

    pub(crate) fn pod(mut self, index: u32, is: Is) -> Self {
        let pod = pod(index, is);
        self.pods.insert(pod.uid.clone(), pod);
        self
    }

    pub(crate) fn pods(self, indexes: std::ops::Range<u32>, is: Is) -> Self {
        indexes.fold(self, |case, index| case.pod(index, is))
    }

    /// What the agent of the Pod with this index says of its task.
    pub(crate) fn agent(mut self, index: u32, says: Says) -> Self {
        let batch = self.batch();
        let task = batch.spec.tasks.get(usize::try_from(index).unwrap());
        let set = task.map_or(Order::Clear, |task| Order::Set(Arc::clone(task)));
        let since = |ago: i64| now() - seconds(ago);
        let answer = match says {
            Says::Waiting => Some((set, TaskSeen::Waiting)),
            Says::Running | Says::Silent(_) => Some((set, TaskSeen::Running)),
            Says::Ended(exit_code) => Some((set, ended(exit_code))),
            Says::Clearing(_) => None,
            Says::Cleared => Some((Order::Clear, TaskSeen::Absent)),
        };
        let failing = |ago| Failing {
            since: since(ago),
            error: "connection refused".to_owned(),
        };
        let agent = Agent {
            answer,
            failing: match says {
                Says::Silent(ago) => Some(failing(ago)),
                _ => None,
            },
            clearing_since: match says {
                Says::Clearing(ago) => Some(since(ago)),
                _ => None,
            },
        };
        self.agents.insert(format!("uid-{index}"), agent);
        self
    }

    pub(crate) fn agents(self, indexes: std::ops::Range<u32>, says: Says) -> Self {
        indexes.fold(self, |case, index| case.agent(index, says))
    }

    pub(crate) fn batch(&self) -> Batch {
        Batch {
            meta: Meta::read(&self.object),
            spec: Arc::new(Spec::read(&self.object).unwrap_or_default()),
            status: self.object.status.clone().unwrap_or_default(),
        }
    }

    pub(crate) fn seen<T>(&self, look: impl FnOnce(&Seen<'_>) -> T) -> T {
        let batch = self.batch();
        let allocation = Allocation::direct(&batch.meta.uid, self.pods.values());
        look(&Seen {
            batch: &batch,
            allocation: &allocation,
            agents: &self.agents,
            unkept: &Results::default(),
            limits: &Limits::default(),
        })
    }

    /// The plan, after a look at it by the lint.
    pub(crate) fn plan(&self) -> Plan {
        self.seen(|seen| {
            let plan = plan(seen, now());
            assert_eq!(lint(seen, &plan), Vec::<String>::new());
            plan
        })
    }

    pub(crate) fn planned_status(&self) -> BatchSandboxStatus {
        self.plan().status.unwrap()
    }
}

pub(crate) fn ended(exit_code: i32) -> TaskSeen {
    TaskSeen::Ended(Ended {
        exit_code,
        reason: if exit_code == 0 {
            "Succeeded"
        } else {
            "Failed"
        }
        .to_owned(),
    })
}

pub(crate) fn pod(index: u32, is: Is) -> Pod {
    let low = u8::try_from(index % 250).unwrap();
    let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, low));
    let owner = if is == Is::Foreign { "other" } else { "b-uid" };
    Pod {
        name: format!("b-{index}"),
        uid: format!("uid-{index}"),
        owner: Some(owner.to_owned()),
        index: Some(index),
        address: (is != Is::New).then_some(address),
        is_scheduled: is != Is::New,
        is_ready: matches!(is, Is::Ready | Is::Restarted),
        is_deleting: is == Is::Deleting,
        lost: (is == Is::Evicted).then(|| "Evicted".to_owned()),
        trouble: (is == Is::Crashing).then(|| Trouble {
            reason: "CrashLoopBackOff".to_owned(),
            message: "back-off 10s".to_owned(),
        }),
        restart: (is == Is::Restarted).then(|| Restart {
            container: "main".to_owned(),
            count: 2,
            reason: "OOMKilled".to_owned(),
        }),
    }
}

/// A plan without status and endpoints, one action a line.
pub(crate) fn lines(plan: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    if plan.expire {
        lines.push("expire".to_owned());
    }
    if let Some(finalizers) = &plan.meta.finalizers {
        let word = |one: &String| one.rsplit('/').next().unwrap_or_default().to_owned();
        let words: Vec<_> = finalizers.iter().map(word).collect();
        lines.push(format!("finalizers [{}]", words.join(", ")));
    }
    if let Some(text) = plan.meta.annotations.get(TASK_RESULTS_ANNOTATION) {
        lines.push(format!("results {text}"));
    }
    lines.extend(plan.pods.iter().map(|action| match action {
        PodAction::Create { index } => format!("create {index}"),
        PodAction::Delete { name, uid, why } => format!("delete {name} {uid} {why:?}"),
    }));
    lines.extend(plan.agents.iter().map(|(uid, one)| match &one.order {
        Order::Set(task) => format!("set {} on {uid}", task.name),
        Order::Clear => format!("clear {uid}"),
    }));
    lines.extend(plan.given_up.iter().map(|name| format!("give up {name}")));
    lines
}

/// Checks what is planned, besides status and endpoints.
#[track_caller]
pub(crate) fn check(before: &Case, expected: &[&str]) {
    assert_eq!(lines(&before.plan()), expected);
}

/// Checks the words of conditions: `Type (Reason): message`.
#[track_caller]
pub(crate) fn check_conditions(before: &Case, expected: &[&str]) {
    let status = before.planned_status();
    let line = |one: &sandbox_api::crd::BatchCondition| {
        let (reason, message) = (one.reason.as_deref(), one.message.as_deref());
        format!("{} ({}): {}", one.type_, reason.unwrap(), message.unwrap())
    };
    let lines: Vec<_> = status.conditions.iter().map(line).collect();
    assert_eq!(lines, expected);
}

/// The endpoints that are to be shown, if they change.
pub(crate) fn endpoints(plan: &Plan) -> Option<&str> {
    let text = plan.meta.annotations.get(ENDPOINTS_ANNOTATION);
    text.map(String::as_str)
}
