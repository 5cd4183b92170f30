//! Tests of the custom resources that need no API server.

use super::*;

#[test]
fn the_names_of_the_resources_are_those_of_the_contract() {
    let crds = all();
    let names: Vec<_> = crds
        .iter()
        .map(|crd| crd.metadata.name.as_deref())
        .collect();
    let expected = [
        "batchsandboxes.sandbox.opensandbox.io",
        "pools.sandbox.opensandbox.io",
    ];
    assert_eq!(names, expected.map(Some));
}

#[test]
fn a_status_always_has_its_counters_and_conditions() {
    let status = serde_json::to_value(BatchSandboxStatus::default()).unwrap();
    let expected = serde_json::json!({
        "replicas": 0, "allocated": 0, "ready": 0, "taskRunning": 0, "taskSucceed": 0,
        "taskFailed": 0, "taskPending": 0, "taskUnknown": 0, "conditions": [],
    });
    assert_eq!(status, expected);
}
