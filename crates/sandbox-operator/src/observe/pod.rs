//! A Pod, decoded only as far as decisions need it: a typed Pod costs twelve times the time and hundreds of times
//! the memory, and there is one for every sandbox.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use kube::core::NamespaceResourceScope;
use sandbox_api::crd::{BATCH_NAME_LABEL, POD_INDEX_LABEL};
use sandbox_planner::engine::Key;
use sandbox_planner::pod::{Pod, Restart, TROUBLES, Trouble};
use serde::{Deserialize, Deserializer};

/// A Pod as the API server sends it, without most of it.
#[derive(Clone, Debug, Deserialize)]
pub struct SlimPod {
    #[serde(deserialize_with = "slim_meta")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SlimSpec,
    #[serde(default)]
    status: SlimStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimSpec {
    #[serde(default)]
    node_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimStatus {
    #[serde(default)]
    phase: Option<String>,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default, rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(default)]
    conditions: Vec<SlimCondition>,
    #[serde(default)]
    init_container_statuses: Vec<SlimContainer>,
    #[serde(default)]
    container_statuses: Vec<SlimContainer>,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimContainer {
    name: String,
    #[serde(default)]
    restart_count: u32,
    #[serde(default)]
    state: SlimState,
    #[serde(default)]
    last_state: SlimState,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SlimState {
    #[serde(default)]
    waiting: Option<SlimReason>,
    #[serde(default)]
    terminated: Option<SlimReason>,
}

#[derive(Clone, Debug, Deserialize)]
struct SlimReason {
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    #[serde(default)]
    labels: SlimLabels,
    #[serde(default)]
    owner_references: Vec<SlimOwner>,
}

#[derive(Default, Deserialize)]
struct SlimLabels {
    #[serde(rename = "batch-sandbox.sandbox.opensandbox.io/pod-index")]
    index: Option<String>,
    #[serde(rename = "batch-sandbox.sandbox.opensandbox.io/name")]
    batch: Option<String>,
}

#[derive(Deserialize)]
struct SlimOwner {
    uid: String,
    #[serde(default)]
    controller: Option<bool>,
}

/// The owner's uid travels in `generateName`, which a Pod of ours never has: [`ObjectMeta`] has no smaller place.
fn slim_meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let meta = SlimMeta::deserialize(deserializer)?;
    let labels = [
        (POD_INDEX_LABEL, meta.labels.index),
        (BATCH_NAME_LABEL, meta.labels.batch),
    ];
    let labels = labels
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let owner = meta
        .owner_references
        .into_iter()
        .find(|owner| owner.controller == Some(true));
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        deletion_timestamp: meta.deletion_timestamp,
        labels: Some(labels.collect()),
        generate_name: owner.map(|owner| owner.uid),
        ..ObjectMeta::default()
    })
}

impl Resource for SlimPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Reasons of a condition `DisruptionTarget`, or of the Pod itself, with which the whole Pod is gone for good.
const LOST: [&str; 7] = [
    "Evicted",
    "NodeLost",
    "NodeShutdown",
    "Preempting",
    "PreemptionByScheduler",
    "TerminationByKubelet",
    "Terminated",
];

impl SlimPod {
    /// The batch that it names, itself, and its version. [`None`] for a Pod that names none.
    pub fn read(self) -> Option<(Key, Pod, u64)> {
        let trouble = self.trouble();
        let restart = self.restart();
        let lost = self.lost();
        let is_ready = self.is_ready();
        let SlimPod {
            metadata,
            spec,
            status,
        } = self;
        let mut labels = metadata.labels.unwrap_or_default();
        let name = metadata.name.unwrap_or_default();
        let batch = labels.remove(BATCH_NAME_LABEL)?;
        let index = labels.get(POD_INDEX_LABEL).map(String::as_str);
        // Old releases of OpenSandbox had the index in the name only.
        let index = index.or_else(|| name.strip_prefix(batch.as_str())?.strip_prefix('-'));
        let pod = Pod {
            index: index.and_then(|index| index.parse().ok()),
            uid: metadata.uid.unwrap_or_default(),
            owner: metadata.generate_name,
            address: status.pod_ip.and_then(|address| address.parse().ok()),
            is_scheduled: spec.node_name.is_some_and(|node| !node.is_empty()),
            is_ready,
            is_deleting: metadata.deletion_timestamp.is_some(),
            lost,
            trouble,
            restart,
            name,
        };
        let namespace = metadata.namespace.unwrap_or_default();
        let version = metadata.resource_version.unwrap_or_default();
        let key = Key {
            namespace,
            name: batch,
        };
        Some((key, pod, version.parse().unwrap_or_default()))
    }

    fn containers(&self) -> impl Iterator<Item = &SlimContainer> {
        let inits = self.status.init_container_statuses.iter();
        inits.chain(&self.status.container_statuses)
    }

    fn is_ready(&self) -> bool {
        let is_true = |one: &SlimCondition| one.type_ == "Ready" && one.status == "True";
        self.status.phase.as_deref() == Some("Running")
            && self.status.conditions.iter().any(is_true)
    }

    fn trouble(&self) -> Option<Trouble> {
        let mut waiting = self
            .containers()
            .filter_map(|one| one.state.waiting.as_ref());
        let trouble = waiting.find(|waiting| {
            let reason = waiting.reason.as_deref().unwrap_or_default();
            TROUBLES.contains(&reason)
        })?;
        Some(Trouble {
            reason: trouble.reason.clone().unwrap_or_default(),
            message: trouble.message.clone().unwrap_or_default(),
        })
    }

    fn restart(&self) -> Option<Restart> {
        let restarted = |one: &&SlimContainer| one.restart_count > 0;
        let most = self
            .containers()
            .filter(restarted)
            .max_by_key(|one| one.restart_count)?;
        let ended = most.last_state.terminated.as_ref();
        Some(Restart {
            container: most.name.clone(),
            count: self.containers().map(|one| one.restart_count).sum(),
            reason: ended
                .and_then(|ended| ended.reason.clone())
                .unwrap_or_else(|| "Error".to_owned()),
        })
    }

    fn lost(&self) -> Option<String> {
        if self.status.phase.as_deref() != Some("Failed") {
            return None;
        }
        let own = self.status.reason.as_deref();
        let targets = self.status.conditions.iter();
        let disruption = targets
            .filter(|one| one.type_ == "DisruptionTarget" && one.status == "True")
            .find_map(|one| one.reason.as_deref());
        let is_lost = |reason: &&str| disruption == Some(*reason) || LOST.contains(reason);
        own.or(disruption).filter(is_lost).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(pod: serde_json::Value) -> Option<(Key, Pod, u64)> {
        serde_json::from_value::<SlimPod>(pod)
            .expect("a Pod")
            .read()
    }

    #[test]
    fn a_pod_is_read_as_far_as_it_matters() {
        let pod = json!({
            "metadata": {
                "name": "run-3", "namespace": "team", "uid": "u", "resourceVersion": "17",
                "labels": {POD_INDEX_LABEL: "3", BATCH_NAME_LABEL: "run", "app": "x"},
                "ownerReferences": [{"uid": "x"}, {"uid": "owner", "controller": true}],
                "managedFields": [{"manager": "m"}],
            },
            "spec": {"nodeName": "n", "containers": [{"name": "main"}]},
            "status": {
                "phase": "Running", "podIP": "10.0.0.7",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{
                    "name": "main", "restartCount": 2, "state": {"running": {}},
                    "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
                }],
            },
        });
        let (key, pod, version) = read(pod).expect("one of ours");
        assert_eq!((key.to_string().as_str(), version), ("team/run", 17));
        assert_eq!(pod.owner.as_deref(), Some("owner"));
        assert_eq!(pod.index, Some(3));
        assert!(pod.is_ready && pod.is_scheduled && !pod.is_deleting);
        let restart = pod.restart.expect("it was restarted");
        assert_eq!((restart.count, restart.reason.as_str()), (2, "OOMKilled"));
        assert_eq!((pod.lost, pod.trouble), (None, None));
    }

    #[test]
    fn only_a_pod_that_was_taken_away_is_lost() {
        let pod = |phase: &str, reason: &str| {
            let labels = json!({BATCH_NAME_LABEL: "run"});
            let pod = json!({
                "metadata": {"name": "run-3", "labels": labels},
                "status": {"phase": phase, "reason": reason},
            });
            read(pod).expect("one of ours").1
        };
        assert_eq!(pod("Failed", "Evicted").lost.as_deref(), Some("Evicted"));
        assert_eq!(pod("Failed", "").lost, None);
        assert_eq!(pod("Running", "Evicted").lost, None);
        assert_eq!(pod("Failed", "").index, Some(3));
    }

    #[test]
    fn a_container_that_waits_for_its_image_is_trouble() {
        let pod = json!({
            "metadata": {"name": "run-0", "labels": {BATCH_NAME_LABEL: "run"}},
            "status": {"phase": "Pending", "containerStatuses": [
                {"name": "a", "state": {"waiting": {"reason": "ContainerCreating"}}},
                {"name": "b", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}},
            ]},
        });
        let trouble = read(pod)
            .and_then(|(_, pod, _)| pod.trouble)
            .expect("trouble");
        assert_eq!(trouble.reason, "ErrImagePull");
        assert_eq!(trouble.message, "no such image");
    }
}
