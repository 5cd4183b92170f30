//! Patches against the reference's results, against what we do otherwise by choice, and against their laws.

use serde_json::{Value, json};

use super::{DEPTH_MAX, POD, TASK_TEMPLATE, merge};

mod laws;

/// Pods before and after, as `kubectl patch --local --type=strategic` (1.32) turned one into the other. The `random`
/// ones are the densest of a random comparison.
const KUBECTL: &str = include_str!("tests/kubectl.json");

fn pod(before: &Value, patch: &Value) -> Value {
    merge(before, patch, &POD).unwrap_or_else(|error| panic!("{error}, in {patch} over {before}"))
}

fn refused(before: &Value, patch: &Value) -> String {
    match merge(before, patch, &POD) {
        Ok(merged) => panic!("{patch} over {before} gave {merged}"),
        Err(error) => error.to_string(),
    }
}

fn env(items: &Value) -> Value {
    json!({"spec": {"containers": [{"name": "main", "env": items}]}})
}

#[test]
fn pods_are_patched_as_kubectl_patches_them() {
    let cases: Vec<Value> = serde_json::from_str(KUBECTL).unwrap();
    assert!(cases.len() >= 70, "{} cases", cases.len());
    for case in cases {
        let merged =
            merge(&case["before"], &case["patch"], &POD).map_err(|error| error.to_string());
        assert_eq!(
            merged,
            Ok(case["after"].clone()),
            "{}: {}",
            case["name"],
            case["patch"]
        );
    }
}

#[test]
fn a_task_template_merges_the_environment_and_replaces_the_rest() {
    let template = json!({"spec": {
        "process": {
            "command": ["run"], "args": ["a", "b"], "workingDir": "/w",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        },
        "timeoutSeconds": 60,
    }});
    let shard = json!({"spec": {
        "process": {"args": ["c"], "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]},
        "timeoutSeconds": 5,
    }});
    let merged = merge(&template, &shard, &TASK_TEMPLATE).unwrap();
    let wanted = json!({"spec": {
        "process": {
            "command": ["run"], "args": ["c"], "workingDir": "/w",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
        },
        "timeoutSeconds": 5,
    }});
    assert_eq!(merged, wanted);
}

#[test]
fn a_sidecar_put_first_inherits_nothing() {
    let template =
        json!({"spec": {"containers": [{"name": "main", "image": "a", "command": ["work"]}]}});
    let patch = json!({"spec": {"containers": [{"name": "side", "image": "b"}]}});
    let wanted = json!({"spec": {"containers": [
        {"name": "side", "image": "b"},
        {"name": "main", "image": "a", "command": ["work"]},
    ]}});
    assert_eq!(pod(&template, &patch), wanted);
}

/// Each of these the reference gets wrong or refuses; the module's documentation says why we don't follow.
#[test]
fn where_the_reference_is_not_followed() {
    let spec = |spec: Value| json!({"spec": spec});
    let replace = json!({"securityContext": {"$patch": "replace", "runAsNonRoot": true}});
    let cases = [
        // (before, patch, after)
        (
            json!({}),
            replace,
            json!({"securityContext": {"runAsNonRoot": true}}),
        ),
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "merge", "b": "2"}}),
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
        ),
        (
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{
                "name": "n", "tty": null, "$retainKeys": ["name", "tty", "env"],
                "env": [{"name": "A", "$patch": "delete"}, {"name": "B", "value": null}],
                "$setElementOrder/env": [{"name": "B"}],
            }]}),
            json!({"containers": [{"name": "n", "env": [{"name": "B"}]}, {"name": "a"}]}),
        ),
        (
            json!({"tolerations": []}),
            json!({"tolerations": [{"key": "a", "$patch": "delete"}, {"key": "b", "value": null}, null]}),
            json!({"tolerations": [{"key": "b"}, null]}),
        ),
        (
            json!({"containers": [{"name": "a", "env": [{"name": "A"}]}]}),
            json!({"containers": [{"name": "a", "$patch": "merge", "env": [{"name": "A", "value": "1", "$patch": "merge"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "A", "value": "1"}]}]}),
        ),
        (
            json!({"volumes": []}),
            json!({"$setElementOrder/volumes": []}),
            json!({"volumes": []}),
        ),
    ];
    for (before, patch, after) in cases {
        assert_eq!(pod(&spec(before), &spec(patch)), spec(after));
    }
}

/// Patches that can't be merged into the Pod of the test below, and what is said about them.
const MISTAKES: &[(&str, &str)] = &[
    ("[]", "is not an object"),
    (
        r#"{"spec": {"containers": [{"name": "a"}, {}]}}"#,
        r#"spec.containers[1]: has no "name", by which the list is merged"#,
    ),
    (
        r#"{"spec": {"containers": [{"$patch": "delete"}]}}"#,
        r#"spec.containers[0]: has no "name", by which the list is merged"#,
    ),
    (
        r#"{"spec": {"containers": ["main"]}}"#,
        "spec.containers[0]: is not an object",
    ),
    (
        r#"{"spec": {"containers": [{"name": null}]}}"#,
        r#"spec.containers[0]: has a "name", by which the list is merged, that is no plain value"#,
    ),
    (
        r#"{"spec": {"containers": [{"name": "b", "env": [{"name": "A"}]}]}}"#,
        r#"spec.containers[0].env: item 0 of the original's list has no "name", by which the list is merged"#,
    ),
    (
        r#"{"spec": {"hostAliases": [{"ip": "1"}]}}"#,
        "spec.hostAliases: item 0 of the original's list is not an object",
    ),
    (
        r#"{"spec": {"$patch": "repalce"}}"#,
        r#"spec: has a "$patch" of "repalce"; known are "merge", "replace" and "delete""#,
    ),
    (
        r#"{"spec": {"containers": [{"name": "n", "$patch": 1}]}}"#,
        r#"spec.containers[0]: has a "$patch" of 1; known are "merge", "replace" and "delete""#,
    ),
    (
        r#"{"metadata": {"labels": {"a.b/c": {"$patch": null}}}}"#,
        r#"metadata.labels["a.b/c"]: has a "$patch" of null; known are "merge", "replace" and "delete""#,
    ),
    (
        r#"{"spec": {"affinity": {"$delete": true}}}"#,
        r#"spec.affinity: has a "$delete", which is no directive"#,
    ),
    (
        r#"{"$retainKeys": "spec"}"#,
        r#"has a "$retainKeys" that is not a list"#,
    ),
    (
        r#"{"$retainKeys": [1]}"#,
        r#"has a "$retainKeys" with something other than names of fields"#,
    ),
    (
        r#"{"$retainKeys": ["metadata"], "spec": {}}"#,
        r#"sets "spec", which its "$retainKeys" doesn't name"#,
    ),
    (
        r#"{"spec": {"$setElementOrder/containers": {}}}"#,
        r#"spec: has a "$setElementOrder/containers" that is not a list"#,
    ),
    (
        r#"{"spec": {"$setElementOrder/tolerations": []}}"#,
        r#"spec: orders "tolerations", which is not a list merged by items"#,
    ),
    (
        r#"{"spec": {"$setElementOrder/containers": [{}]}}"#,
        r#"spec.$setElementOrder/containers[0]: has no "name", by which the list is merged"#,
    ),
    (
        r#"{"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}"#,
        r#"spec.containers: has an item that "$setElementOrder" doesn't hold, or holds in another order"#,
    ),
    (
        r#"{"metadata": {"finalizers": [{}]}}"#,
        "metadata.finalizers[0]: is no plain value",
    ),
    (
        r#"{"metadata": {"$deleteFromPrimitiveList/finalizers": [["a"]]}}"#,
        "metadata.$deleteFromPrimitiveList/finalizers[0]: is no plain value",
    ),
    (
        r#"{"metadata": {"$deleteFromPrimitiveList/finalizers": null}}"#,
        r#"metadata: has a "$deleteFromPrimitiveList/finalizers" that is not a list"#,
    ),
];

#[test]
fn mistakes_are_named_with_their_place() {
    let template = json!({
        "metadata": {"finalizers": ["a"], "labels": {"a.b/c": {}}},
        "spec": {"containers": [{"name": "main"}, {"name": "b", "env": [{}]}], "hostAliases": [7]},
    });
    for (patch, message) in MISTAKES {
        assert_eq!(
            refused(&template, &serde_json::from_str(patch).unwrap()),
            *message
        );
    }
    assert_eq!(
        refused(&json!(null), &json!({})),
        "the original is not an object"
    );
}

#[test]
fn nesting_without_end_is_refused() {
    let nested = |levels: usize| (1..levels).fold(json!({}), |inner, _| json!({"a": inner}));
    assert_eq!(pod(&json!({}), &nested(DEPTH_MAX)), nested(DEPTH_MAX));
    let message = "the original or the patch is nested more than 128 levels deep";
    assert_eq!(refused(&json!({}), &nested(DEPTH_MAX + 1)), message);
    assert_eq!(refused(&nested(DEPTH_MAX + 1), &json!({})), message);
}

#[test]
fn long_lists_take_no_quadratic_time() {
    let items = |value: &str| {
        (0..50_000)
            .map(|n| json!({"name": format!("V{n}"), "value": value}))
            .collect::<Value>()
    };
    let merged = pod(&env(&items("old")), &env(&items("new")));
    assert_eq!(merged, env(&items("new")));
}
