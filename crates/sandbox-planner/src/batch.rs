//! A `BatchSandbox`, checked and ready to be planned for.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use sandbox_api::crd::{
    ANY_POOL, BatchSandbox, BatchSandboxStatus, TASK_RESULTS_ANNOTATION, TaskResourcePolicy,
};
use serde_json::Value;

use crate::agent::TaskOrder;
use crate::desired;
use crate::pod::Pod;
use crate::results::Results;

/// Most replicas of one batch: a limit on memory, as the schema has it.
pub const REPLICAS_MAX: u32 = 100_000;
/// A label's value is no longer, and the name of the batch is one.
const NAME_LENGTH_MAX: usize = 63;

/// A `BatchSandbox` whose every part makes sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Its facts that may change at any time.
    pub meta: Meta,
    /// What is wanted; changes with the generation only.
    pub spec: Arc<Spec>,
    /// The status that it shows.
    pub status: BatchSandboxStatus,
}

/// Facts of the object itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// The version that writes are conditional on.
    pub resource_version: String,
    /// Generation of the spec.
    pub generation: i64,
    /// When its deletion was asked for.
    pub deleted_at: Option<Timestamp>,
    /// Finalizers, in order.
    pub finalizers: Vec<String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// How the tasks ended whose Pods were given back.
    pub results: Results,
}

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    /// Sandboxes.
    pub replicas: u32,
    /// Where Pods come from.
    pub source: PodSource,
    /// The n-th task is for index n; empty without a task template.
    pub tasks: Vec<Arc<TaskOrder>>,
    /// Whether there is a task template.
    pub has_tasks: bool,
    /// When it is to be deleted.
    pub expires_at: Option<Timestamp>,
    /// What becomes of a Pod whose task is over.
    pub policy: TaskResourcePolicy,
    /// Whether a pause is asked for.
    pub wants_pause: bool,
}

/// Where Pods come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PodSource {
    /// They are made.
    Template {
        /// A `PodTemplateSpec`.
        template: Value,
        /// Strategic merge patches by index.
        patches: Vec<Value>,
    },
    /// They are taken from the pool of this name.
    Pool(String),
    /// They are taken from a pool that is still to be chosen.
    #[default]
    AnyPool,
}

/// An object that can't be planned for; it is left alone and says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct Malformed {
    /// Where, such as `spec.shardPatches[2]`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Malformed {
    pub(crate) fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        let (path, problem) = (path.into(), problem.into());
        Self { path, problem }
    }
}

impl Batch {
    /// Whether the result of a task that ended on this Pod is to be kept.
    pub(crate) fn keeps(&self, pod: &Pod) -> bool {
        let is_ours = pod.owner.as_ref() == Some(&self.meta.uid);
        is_ours && self.spec.has_tasks && self.spec.policy == TaskResourcePolicy::Release
    }
}

impl Meta {
    /// Reads the facts of an object. A results annotation that can't be read counts as empty here, and makes
    /// [`Spec::read`] fail.
    pub fn read(object: &BatchSandbox) -> Self {
        let from = &object.metadata;
        Self {
            namespace: from.namespace.clone().unwrap_or_default(),
            name: from.name.clone().unwrap_or_default(),
            uid: from.uid.clone().unwrap_or_default(),
            resource_version: from.resource_version.clone().unwrap_or_default(),
            generation: from.generation.unwrap_or_default(),
            deleted_at: from.deletion_timestamp.as_ref().map(|time| time.0),
            finalizers: from.finalizers.clone().unwrap_or_default(),
            annotations: from.annotations.clone().unwrap_or_default(),
            results: results(object).unwrap_or_default(),
        }
    }

    /// Whether it has this finalizer.
    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|have| have == finalizer)
    }
}

impl Spec {
    /// Checks the spec of an object, and merges its templates and patches.
    ///
    /// # Errors
    /// [`Malformed`] with the first part that makes no sense.
    pub fn read(object: &BatchSandbox) -> Result<Self, Malformed> {
        let spec = &object.spec;
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if name.len() > NAME_LENGTH_MAX {
            let problem = format!(
                "must have at most {NAME_LENGTH_MAX} characters, since it is a label of each Pod"
            );
            return Err(Malformed::new("metadata.name", problem));
        }
        let replicas = u32::try_from(spec.replicas)
            .ok()
            .filter(|count| *count <= REPLICAS_MAX)
            .ok_or_else(|| {
                Malformed::new("spec.replicas", format!("must be 0 to {REPLICAS_MAX}"))
            })?;
        let expires_at = match spec.expire_time.as_deref() {
            Some(text) => Some(text.parse().map_err(|_| {
                let problem = "must be an RFC 3339 time such as \"2026-12-24T18:00:00Z\"";
                Malformed::new("spec.expireTime", problem)
            })?),
            None => None,
        };
        results(object)?;
        Ok(Self {
            replicas,
            source: source(object)?,
            tasks: desired::tasks(name, replicas, spec)?,
            has_tasks: spec.task_template.is_some(),
            expires_at,
            policy: spec.task_resource_policy_when_completed.unwrap_or_default(),
            wants_pause: spec.pause == Some(true),
        })
    }
}

/// The results that an object keeps.
pub(crate) fn results(object: &BatchSandbox) -> Result<Results, Malformed> {
    let annotations = object.metadata.annotations.as_ref();
    let Some(text) = annotations.and_then(|all| all.get(TASK_RESULTS_ANNOTATION)) else {
        return Ok(Results::default());
    };
    Results::parse(text).map_err(|problem| {
        let path = format!("metadata.annotations[{TASK_RESULTS_ANNOTATION}]");
        Malformed::new(path, problem)
    })
}

/// Where the Pods of an object come from; its patches are tried, so that a wrong one is found at once.
fn source(object: &BatchSandbox) -> Result<PodSource, Malformed> {
    let spec = &object.spec;
    match (spec.pool_ref.as_deref().unwrap_or_default(), &spec.template) {
        (ANY_POOL, _) => Ok(PodSource::AnyPool),
        ("", Some(template)) => {
            let patches = spec.shard_patches.clone();
            for index in 0..patches.len().max(1) {
                desired::merged_pod(template, &patches, index)?;
            }
            let template = template.clone();
            Ok(PodSource::Template { template, patches })
        }
        ("", None) => Err(Malformed::new(
            "spec",
            "set template, or poolRef to the name of a Pool",
        )),
        (pool, _) => Ok(PodSource::Pool(pool.to_owned())),
    }
}
