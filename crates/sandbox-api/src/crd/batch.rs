//! `BatchSandbox`: a number of like sandboxes, each with a Pod and, if wanted, a task.
#![allow(clippy::duplicated_attributes, reason = "each printcolumn has its own")]
#![allow(
    unreachable_pub,
    reason = "what the derives generate for re-exported types"
)]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema;

/// What a user wants: so many sandboxes, from where their Pods come, and what runs in each.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "sandbox.opensandbox.io",
    version = "v1alpha1",
    kind = "BatchSandbox",
    plural = "batchsandboxes",
    shortname = "bsbx",
    category = "sandboxes",
    namespaced,
    status = "BatchSandboxStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A number of like sandboxes: a Pod each, made from a template or taken from a Pool, and a task each if wanted.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "DESIRED",
        type_ = "integer",
        json_path = ".spec.replicas",
        description = "Sandboxes that are wanted"
    ),
    printcolumn(
        name = "TOTAL",
        type_ = "integer",
        json_path = ".status.replicas",
        description = "Pods that there are"
    ),
    printcolumn(
        name = "ALLOCATED",
        type_ = "integer",
        json_path = ".status.allocated",
        description = "Pods that have a node or an address"
    ),
    printcolumn(
        name = "Ready",
        type_ = "integer",
        json_path = ".status.ready",
        description = "Pods that are ready"
    ),
    printcolumn(
        name = "TASK_RUNNING",
        type_ = "integer",
        json_path = ".status.taskRunning",
        priority = 1,
        description = "Tasks that run"
    ),
    printcolumn(
        name = "TASK_SUCCEED",
        type_ = "integer",
        json_path = ".status.taskSucceed",
        priority = 1,
        description = "Tasks that ended with exit code 0"
    ),
    printcolumn(
        name = "TASK_FAILED",
        type_ = "integer",
        json_path = ".status.taskFailed",
        priority = 1,
        description = "Tasks that ended otherwise"
    ),
    printcolumn(
        name = "TASK_UNKNOWN",
        type_ = "integer",
        json_path = ".status.taskUnknown",
        priority = 1,
        description = "Tasks whose agent does not answer"
    ),
    printcolumn(
        name = "EXPIRE",
        type_ = "string",
        json_path = ".spec.expireTime",
        description = "When it is deleted"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.poolRef) && size(self.poolRef) > 0) || has(self.template)")
        .message("set template, or poolRef to the name of a Pool, or poolRef to \"*\""),
    validation = Rule::new("!has(self.poolRef) || size(self.poolRef) == 0 || self.poolRef == '*' || !has(self.template)")
        .message("template and poolRef exclude each other, unless poolRef is \"*\"")
)]
pub struct BatchSandboxSpec {
    /// Sandboxes that are wanted.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100_000))]
    pub replicas: i32,
    /// The Pool in the same namespace that Pods are taken from; "*" lets the operator choose one; empty makes them from the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_ref: Option<String>,
    /// What each Pod is made from: a Kubernetes PodTemplateSpec. A change holds for Pods that are made from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub template: Option<Value>,
    /// Strategic merge patches of the Pod made from the template: the n-th is for the Pod with index n.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::any_objects")]
    pub shard_patches: Vec<Value>,
    /// The task that runs in each sandbox: `spec.process` with command, args, env and workingDir, and `spec.timeoutSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub task_template: Option<Value>,
    /// Strategic merge patches of the task: the n-th is for the sandbox with index n.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::any_objects")]
    pub shard_task_patches: Vec<Value>,
    /// When the BatchSandbox is deleted; a time in the past means at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub expire_time: Option<String>,
    /// What becomes of a Pod when its task is over: Retain keeps it, Release gives it back or deletes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "Retain"))]
    pub task_resource_policy_when_completed: Option<TaskResourcePolicy>,
    /// Asks for the sandbox to be paused (true) or resumed (false). Not supported by this operator, which says so in the condition PauseFailed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<bool>,
}

fn one() -> i32 {
    1
}

/// What becomes of a Pod when its task is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaskResourcePolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is given back to its pool, or deleted.
    Release,
}

/// What the operator has seen. The counts of tasks add up to `spec.replicas` when there is a task template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchSandboxStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods that there are.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that have a node or an address.
    #[serde(default)]
    pub allocated: i32,
    /// Pods that are ready.
    #[serde(default)]
    pub ready: i32,
    /// Tasks that run.
    #[serde(default)]
    pub task_running: i32,
    /// Tasks that ended with exit code 0.
    #[serde(default)]
    pub task_succeed: i32,
    /// Tasks that ended otherwise.
    #[serde(default)]
    pub task_failed: i32,
    /// Tasks that have not started.
    #[serde(default)]
    pub task_pending: i32,
    /// Tasks whose agent does not answer.
    #[serde(default)]
    pub task_unknown: i32,
    /// Where the whole is: Succeed means that at least one Pod is ready, not that tasks succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<BatchPhase>,
    /// The generation whose `pause` was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_observed_generation: Option<i64>,
    /// The label selector of the Pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// What is true of it at the moment; a condition that does not hold is absent.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<BatchCondition>,
}

/// Where a `BatchSandbox` is in its life, in the words of `OpenSandbox`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BatchPhase {
    /// No Pod is ready.
    Pending,
    /// At least one Pod is ready, or all were given back.
    Succeed,
    /// Being paused.
    Pausing,
    /// Paused.
    Paused,
    /// Being resumed.
    Resuming,
    /// A container can't run.
    Failed,
}

/// One thing that is true of a `BatchSandbox`; `metav1.Condition` in shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BatchCondition {
    /// Ready, Progressing, PodFailed, TasksCompleted, TasksFailed, …
    #[serde(rename = "type")]
    pub type_: String,
    /// True or False.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// The generation of the spec that it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When it became so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub last_transition_time: Option<String>,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
