//! `Pool`: Pods that are kept warm and handed out to `BatchSandbox` objects.
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

/// What a user wants: warm Pods, made from what, and how many.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "sandbox.opensandbox.io",
    version = "v1alpha1",
    kind = "Pool",
    plural = "pools",
    category = "sandboxes",
    namespaced,
    status = "PoolStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Pods that are kept warm and handed out to BatchSandbox objects.",
    printcolumn(
        name = "TOTAL",
        type_ = "integer",
        json_path = ".status.total",
        description = "Pods of the pool"
    ),
    printcolumn(
        name = "ALLOCATED",
        type_ = "integer",
        json_path = ".status.allocated",
        description = "Pods that are handed out"
    ),
    printcolumn(
        name = "AVAILABLE",
        type_ = "integer",
        json_path = ".status.available",
        description = "Pods that are ready to be handed out"
    ),
    printcolumn(
        name = "UPDATED",
        type_ = "integer",
        json_path = ".status.updated",
        description = "Pods that were made from the current template"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct PoolSpec {
    /// What each Pod is made from: a Kubernetes PodTemplateSpec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub template: Option<Value>,
    /// How many Pods there are and are kept ready.
    pub capacity_spec: CapacitySpec,
    /// How fast Pods are added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_strategy: Option<ScaleStrategy>,
    /// How fast Pods are replaced after a change of the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// What becomes of a Pod that comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recycle_strategy: Option<RecycleStrategy>,
}

/// How many Pods a pool has and keeps ready.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.bufferMin <= self.bufferMax").message("bufferMin must not be greater than bufferMax"),
    validation = Rule::new("self.poolMin <= self.poolMax").message("poolMin must not be greater than poolMax")
)]
pub struct CapacitySpec {
    /// Most Pods that are kept ready.
    #[schemars(range(min = 0))]
    pub buffer_max: i32,
    /// Fewest Pods that are kept ready.
    #[schemars(range(min = 0))]
    pub buffer_min: i32,
    /// Most Pods of the pool, handed out ones included.
    #[schemars(range(min = 0))]
    pub pool_max: i32,
    /// Fewest Pods of the pool, handed out ones included.
    #[schemars(range(min = 0))]
    pub pool_min: i32,
}

/// A number of Pods, or a percentage such as `25%`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum IntOrPercent {
    /// So many.
    Int(i32),
    /// Such a share.
    Percent(String),
}

/// How fast Pods are added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScaleStrategy {
    /// Most Pods that may be not ready at once; 25% if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::int_or_percent")]
    pub max_unavailable: Option<IntOrPercent>,
}

/// How fast Pods are replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateStrategy {
    /// Most Pods that may be not ready at once; 25% if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::int_or_percent")]
    pub max_unavailable: Option<IntOrPercent>,
}

/// What becomes of a Pod that comes back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecycleStrategy {
    /// Delete, Noop or Restart.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "Delete"))]
    pub type_: Option<RecycleType>,
}

/// The kinds of recycling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecycleType {
    /// It is deleted; the pool makes another.
    #[default]
    Delete,
    /// It is handed out again as it is.
    Noop,
    /// Its containers are restarted first.
    Restart,
}

/// What the operator has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods of the pool.
    #[serde(default)]
    pub total: i32,
    /// Pods that are handed out.
    #[serde(default)]
    pub allocated: i32,
    /// Pods that are ready to be handed out.
    #[serde(default)]
    pub available: i32,
    /// Pods that were made from the current template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<i32>,
    /// Revision of the current template.
    #[serde(default)]
    pub revision: String,
}
