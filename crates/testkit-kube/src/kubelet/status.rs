//! What a Pod's status says, as a patch of its status subresource.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

/// Whether a running Pod is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    Unready,
}

/// A Pod with an address whose containers run.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) address: Ipv4Addr,
    pub(super) readiness: Readiness,
    pub(super) restarts: u32,
    /// Why the containers' last run ended.
    pub(super) last_end: Option<String>,
}

/// The status of a Pod that runs.
pub(super) fn running(pod: &Pod, life: &Life) -> Value {
    let now = Timestamp::now().to_string();
    let is_ready = life.readiness == Readiness::Ready;
    let last_state = match &life.last_end {
        Some(reason) => {
            json!({"terminated": {"reason": reason, "exitCode": 137, "startedAt": now, "finishedAt": now,
                "containerID": container_id(pod, life.restarts - 1)}})
        }
        None => json!({}),
    };
    let container = |name: &str, image: &str| {
        json!({
            "name": name, "image": image, "imageID": image, "ready": is_ready, "started": true,
            "restartCount": life.restarts, "containerID": container_id(pod, life.restarts),
            "state": {"running": {"startedAt": now}}, "lastState": last_state,
        })
    };
    let address = life.address.to_string();
    json!({
        "phase": "Running", "startTime": now,
        "hostIP": address, "podIP": address, "podIPs": [{"ip": address}],
        "conditions": conditions(is_ready, &now),
        "containerStatuses": containers(pod, container),
    })
}

/// The status of a Pod whose containers can't start.
pub(super) fn waiting(pod: &Pod, reason: &str) -> Value {
    let now = Timestamp::now().to_string();
    let container = |name: &str, image: &str| {
        json!({
            "name": name, "image": image, "imageID": "", "ready": false, "started": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": format!("a test wants {reason}")}},
        })
    };
    json!({
        "phase": "Pending", "startTime": now, "conditions": conditions(false, &now),
        "containerStatuses": containers(pod, container),
    })
}

/// The status of a Pod that has failed as a whole.
pub(super) fn failed(reason: &str) -> Value {
    let now = Timestamp::now().to_string();
    json!({
        "phase": "Failed", "reason": reason, "message": format!("a test wants {reason}"),
        "conditions": conditions(false, &now),
        // None of what ran runs; null removes what a patch before has said.
        "containerStatuses": null,
    })
}

fn containers(pod: &Pod, status: impl Fn(&str, &str) -> Value) -> Vec<Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers
        .map(|container| {
            status(
                &container.name,
                container.image.as_deref().unwrap_or_default(),
            )
        })
        .collect()
}

fn conditions(is_ready: bool, now: &str) -> Value {
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastTransitionTime": now})
    };
    json!([
        condition("PodScheduled", true),
        condition("Initialized", true),
        condition("ContainersReady", is_ready),
        condition("Ready", is_ready),
    ])
}

fn container_id(pod: &Pod, run: u32) -> String {
    format!(
        "test://{}/{run}",
        pod.metadata.uid.as_deref().unwrap_or_default()
    )
}
