//! Tests of the Pods and tasks that are made.

use serde_json::{Value, json};

use super::pod;
use crate::batch::{Meta, Spec};
use crate::fixtures::batch;

fn made(template: &Value) -> Value {
    pod(&Meta::read(&batch().object), template, &[], 3).unwrap()
}

// agent-sandbox 1332, 1337; OpenSandbox 1570: names make a second one impossible.
#[test]
fn name_labels_and_owner_are_those_of_the_contract() {
    let expected = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "b-3",
            "namespace": "ns",
            "labels": {
                "batch-sandbox.sandbox.opensandbox.io/pod-index": "3",
                "batch-sandbox.sandbox.opensandbox.io/name": "b",
            },
            "ownerReferences": [{
                "apiVersion": "sandbox.opensandbox.io/v1alpha1",
                "kind": "BatchSandbox",
                "name": "b",
                "uid": "b-uid",
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": {"containers": []},
    });
    assert_eq!(made(&json!({"spec": {"containers": []}})), expected);
}

// OpenSandbox 1556: the security context of containers was dropped.
#[test]
fn the_spec_of_the_template_is_taken_whole() {
    let spec = json!({"containers": [{"securityContext": {"runAsUser": 7}, "of": "the future"}]});
    assert_eq!(made(&json!({"spec": spec}))["spec"], spec);
}

#[test]
fn labels_annotations_and_finalizers_of_the_template_are_taken_and_others_are_not() {
    let template = json!({
        "metadata": {
            "name": "mine",
            "generateName": "mine-",
            "ownerReferences": [{"uid": "other"}],
            "labels": {"a": "b", "batch-sandbox.sandbox.opensandbox.io/name": "wrong"},
            "annotations": {"c": "d"},
            "finalizers": ["e"],
        },
        "spec": {},
    });
    let about = &made(&template)["metadata"];
    assert_eq!(about["name"], "b-3");
    assert_eq!(about["generateName"], Value::Null);
    assert_eq!(about["ownerReferences"][0]["uid"], "b-uid");
    assert_eq!(about["labels"]["a"], "b");
    assert_eq!(
        about["labels"]["batch-sandbox.sandbox.opensandbox.io/name"],
        "b"
    );
    assert_eq!(about["annotations"], json!({"c": "d"}));
    assert_eq!(about["finalizers"], json!(["e"]));
}

fn task_of(template: Value) -> Result<Value, String> {
    let mut object = batch().object;
    object.spec.task_template = Some(template);
    match Spec::read(&object) {
        Ok(spec) => Ok(serde_json::from_str(&spec.tasks[0].body).unwrap()),
        Err(malformed) => Err(malformed.to_string()),
    }
}

#[test]
fn a_task_goes_out_in_the_dialect_that_every_agent_knows() {
    let template = json!({"spec": {"process": {"command": ["run"]}, "timeoutSeconds": 5}});
    let expected = json!([{"name": "b-0", "process": {"command": ["run"], "timeoutSeconds": 5}}]);
    assert_eq!(task_of(template), Ok(expected));
}

#[test]
fn a_task_that_makes_no_sense_is_found_before_anything_is_done() {
    for (template, expected) in [
        (
            json!({}),
            "spec.taskTemplate: must have spec, an object with process",
        ),
        (
            json!({"spec": {}}),
            "spec.taskTemplate: spec must have process, with command",
        ),
        (
            json!({"spec": {"process": 7}}),
            "spec.taskTemplate: spec.process must be an object with command",
        ),
    ] {
        assert_eq!(task_of(template), Err(expected.to_owned()));
    }
    assert!(
        task_of(json!({"spec": {"process": {"command": ["run"], "timeoutSeconds": 0}}})).is_err()
    );
}

#[test]
fn what_makes_no_sense_is_named_with_its_path() {
    let read = |edit: fn(&mut sandbox_api::crd::BatchSandbox)| {
        let case = batch().edit(edit);
        Spec::read(&case.object).unwrap_err().path
    };
    assert_eq!(read(|o| o.spec.replicas = -1), "spec.replicas");
    assert_eq!(read(|o| o.spec.replicas = 100_001), "spec.replicas");
    assert_eq!(read(|o| o.spec.template = None), "spec");
    assert_eq!(
        read(|o| o.spec.template = Some(json!({}))),
        "spec.template.spec"
    );
    assert_eq!(
        read(|o| o.spec.expire_time = Some("soon".to_owned())),
        "spec.expireTime"
    );
    assert_eq!(
        read(|o| o.metadata.name = Some("n".repeat(64))),
        "metadata.name"
    );
}
