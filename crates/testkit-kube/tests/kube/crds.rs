//! What a real API server makes of our custom resources: what it takes, fills in, keeps, and refuses with which words.

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Client, Resource as _};
use sandbox_api::crd::{BatchSandbox, Pool};
use serde_json::{Value, json};
use testkit_kube::shared;

/// An API of untyped objects, which sends what it is given and shows all that is stored.
struct Raw {
    api: Api<DynamicObject>,
    kind: ApiResource,
}

impl Raw {
    fn batch_sandboxes(client: Client, namespace: &str) -> Self {
        Self::new(client, namespace, ApiResource::erase::<BatchSandbox>(&()))
    }

    fn pools(client: Client, namespace: &str) -> Self {
        Self::new(client, namespace, ApiResource::erase::<Pool>(&()))
    }

    fn new(client: Client, namespace: &str, kind: ApiResource) -> Self {
        let api = Api::namespaced_with(client, namespace, &kind);
        Self { api, kind }
    }

    async fn create(&self, name: &str, spec: &Value) -> kube::Result<Value> {
        let object = DynamicObject::new(name, &self.kind).data(json!({"spec": spec}));
        let created = self.api.create(&PostParams::default(), &object).await?;
        Ok(created.data)
    }

    /// The spec as stored.
    async fn accepts(&self, name: &str, spec: Value) -> Value {
        let created = self.create(name, &spec).await;
        created.unwrap_or_else(|error| panic!("{name} is accepted: {error}"))["spec"].take()
    }

    async fn refuses(&self, name: &str, spec: Value, because: &str) {
        let error = self.create(name, &spec).await.expect_err(name).to_string();
        assert!(error.contains(because), "{name}: {error}");
    }
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "example"}},
        "spec": {"containers": [{"name": "main", "image": "example.test/agent:1", "aFieldOfTheFuture": {"x": 1}}]}})
}

fn task() -> Value {
    json!({"spec": {"process": {"command": ["echo"], "args": ["hello"], "env": [{"name": "A", "value": "1"}]},
        "timeoutSeconds": 30}})
}

fn capacity(buffer_min: i32, buffer_max: i32, pool_min: i32, pool_max: i32) -> Value {
    json!({"bufferMin": buffer_min, "bufferMax": buffer_max, "poolMin": pool_min, "poolMax": pool_max})
}

#[tokio::test]
async fn batch_sandboxes_of_open_sandbox_are_accepted_and_nothing_of_them_is_lost() {
    let Some(plane) = shared().await else { return };
    let namespace = plane.temp_namespace().await.unwrap();
    let api = Raw::batch_sandboxes(plane.admin().await.unwrap(), &namespace);
    let cases = [
        ("direct", json!({"replicas": 2, "template": template()})),
        (
            "pool-ref-empty",
            json!({"replicas": 1, "poolRef": "", "template": template()}),
        ),
        (
            "pooled",
            json!({"replicas": 3, "poolRef": "example", "taskTemplate": task()}),
        ),
        (
            "any-pool",
            json!({"replicas": 1, "poolRef": "*", "template": template()}),
        ),
        (
            "any-pool-without-template",
            json!({"replicas": 1, "poolRef": "*"}),
        ),
        ("none", json!({"replicas": 0, "template": template()})),
        (
            "patched",
            json!({"replicas": 2, "template": template(), "taskTemplate": task(),
            "shardPatches": [{"spec": {"containers": [{"name": "main", "image": "example.test/other:1"}]}}, {}],
            "shardTaskPatches": [{"spec": {"process": {"command": ["a"]}}},
                {"spec": {"process": {"env": [{"$patch": "delete", "name": "A"}]}}}]}),
        ),
        (
            "expires",
            json!({"replicas": 1, "poolRef": "example", "expireTime": "2036-01-02T03:04:05Z",
            "taskResourcePolicyWhenCompleted": "Release", "pause": false}),
        ),
    ];
    for (name, spec) in cases {
        let mut stored = api.accepts(name, spec.clone()).await;
        if spec.get("taskResourcePolicyWhenCompleted").is_none() {
            let policy = stored
                .as_object_mut()
                .unwrap()
                .remove("taskResourcePolicyWhenCompleted");
            assert_eq!(policy, Some(json!("Retain")), "{name}");
        }
        assert_eq!(stored, spec, "{name}");
    }
}

#[tokio::test]
async fn replicas_that_are_not_given_are_one() {
    let Some(plane) = shared().await else { return };
    let namespace = plane.temp_namespace().await.unwrap();
    let api = Raw::batch_sandboxes(plane.admin().await.unwrap(), &namespace);
    let stored = api.accepts("absent", json!({"template": template()})).await;
    assert_eq!(stored["replicas"], 1);
    // As Go clients write an unset pointer.
    let stored = api
        .accepts(
            "null",
            json!({"replicas": null, "poolRef": "example", "template": null}),
        )
        .await;
    assert_eq!(stored["replicas"], 1);
}

#[tokio::test]
async fn wrong_batch_sandboxes_are_refused_with_words_that_help() {
    let Some(plane) = shared().await else { return };
    let namespace = plane.temp_namespace().await.unwrap();
    let api = Raw::batch_sandboxes(plane.admin().await.unwrap(), &namespace);
    let direct = |key: &str, value: Value| {
        let mut spec = json!({"template": template()});
        spec[key] = value;
        spec
    };
    let cases = [
        (
            "neither",
            json!({"replicas": 1}),
            "set template, or poolRef to the name of a Pool",
        ),
        (
            "neither-but-empty",
            json!({"replicas": 1, "poolRef": ""}),
            "set template, or poolRef to the name of a Pool",
        ),
        (
            "both",
            direct("poolRef", json!("example")),
            "template and poolRef exclude each other",
        ),
        (
            "negative",
            direct("replicas", json!(-1)),
            "greater than or equal to 0",
        ),
        (
            "huge",
            direct("replicas", json!(100_001)),
            "less than or equal to 100000",
        ),
        (
            "policy",
            direct("taskResourcePolicyWhenCompleted", json!("Keep")),
            "supported values: \"Retain\", \"Release\"",
        ),
        (
            "time",
            direct("expireTime", json!("tomorrow")),
            "must be of type date-time",
        ),
        (
            "template-is-text",
            json!({"template": "x"}),
            "must be of type object",
        ),
        (
            "patches-are-text",
            direct("shardPatches", json!(["x"])),
            "must be of type object",
        ),
    ];
    for (name, spec, because) in cases {
        api.refuses(name, spec, because).await;
    }
}

#[tokio::test]
async fn pools_of_open_sandbox_are_accepted_and_nothing_of_them_is_lost() {
    let Some(plane) = shared().await else { return };
    let namespace = plane.temp_namespace().await.unwrap();
    let api = Raw::pools(plane.admin().await.unwrap(), &namespace);
    let cases = [
        (
            "plain",
            json!({"template": template(), "capacitySpec": capacity(1, 5, 0, 10)}),
        ),
        (
            "empty",
            json!({"template": template(), "capacitySpec": capacity(0, 0, 0, 0)}),
        ),
        (
            "strategies",
            json!({"template": template(), "capacitySpec": capacity(1, 1, 1, 1),
            "scaleStrategy": {"maxUnavailable": "30%"}, "updateStrategy": {"maxUnavailable": 2},
            "recycleStrategy": {"type": "Restart"}}),
        ),
    ];
    for (name, spec) in cases {
        assert_eq!(api.accepts(name, spec.clone()).await, spec, "{name}");
    }
    let recycled = json!({"template": template(), "capacitySpec": capacity(1, 1, 1, 1), "recycleStrategy": {}});
    let stored = api.accepts("recycled", recycled).await;
    assert_eq!(stored["recycleStrategy"]["type"], "Delete");
}

#[tokio::test]
async fn wrong_pools_are_refused_with_words_that_help() {
    let Some(plane) = shared().await else { return };
    let namespace = plane.temp_namespace().await.unwrap();
    let api = Raw::pools(plane.admin().await.unwrap(), &namespace);
    let pool = |capacity: Value| json!({"template": template(), "capacitySpec": capacity});
    let recycled = json!({"template": template(), "capacitySpec": capacity(0, 1, 0, 1), "recycleStrategy": {"type": "Wash"}});
    let cases = [
        (
            "buffer",
            pool(capacity(5, 1, 0, 10)),
            "bufferMin must not be greater than bufferMax",
        ),
        (
            "pool",
            pool(capacity(0, 1, 11, 10)),
            "poolMin must not be greater than poolMax",
        ),
        (
            "negative",
            pool(capacity(-1, 1, 0, 10)),
            "greater than or equal to 0",
        ),
        ("lacking", pool(json!({"bufferMin": 1})), "Required value"),
        ("recycled", recycled, "supported values"),
    ];
    for (name, spec, because) in cases {
        api.refuses(name, spec, because).await;
    }
}

#[tokio::test]
async fn the_status_is_a_subresource_and_the_spec_does_not_change_with_it() {
    let Some(plane) = shared().await else { return };
    let namespace = plane.temp_namespace().await.unwrap();
    let client = plane.admin().await.unwrap();
    let api = Raw::batch_sandboxes(client.clone(), &namespace);
    api.accepts("batch", json!({"replicas": 2, "template": template()}))
        .await;

    let typed: Api<BatchSandbox> = Api::namespaced(client, &namespace);
    let patch = json!({"spec": {"replicas": 9}, "status": {
        "replicas": 2, "allocated": 2, "ready": 1, "taskRunning": 0, "taskSucceed": 0, "taskFailed": 0,
        "taskPending": 0, "taskUnknown": 0, "phase": "Succeed", "observedGeneration": 1, "selector": "a=b",
        "conditions": [{"type": "Ready", "status": "True", "reason": "PodsReady", "observedGeneration": 1,
            "lastTransitionTime": "2026-01-02T03:04:05Z", "message": "1 of 2"}],
    }});
    let params = PatchParams::default();
    let batch = typed
        .patch_status("batch", &params, &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!(batch.spec.replicas, 2);
    assert_eq!(batch.meta().generation, Some(1));
    let status = serde_json::to_value(batch.status.unwrap()).unwrap();
    assert_eq!(status, patch["status"], "no field of the status is lost");

    // And the other way about: a status that comes with the spec is not taken.
    let patch = json!({"status": {"ready": 7}, "spec": {"replicas": 3}});
    let batch = typed
        .patch("batch", &params, &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!((batch.spec.replicas, batch.status.unwrap().ready), (3, 1));
}

#[tokio::test]
async fn a_batch_sandbox_can_be_scaled_by_its_subresource() {
    let Some(plane) = shared().await else { return };
    let namespace = plane.temp_namespace().await.unwrap();
    let client = plane.admin().await.unwrap();
    let api = Raw::batch_sandboxes(client.clone(), &namespace);
    api.accepts("batch", json!({"replicas": 2, "template": template()}))
        .await;
    let typed: Api<BatchSandbox> = Api::namespaced(client, &namespace);
    let patch = json!({"spec": {"replicas": 5}});
    let scale: Scale = typed
        .patch_scale("batch", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(5));
    assert_eq!(typed.get("batch").await.unwrap().spec.replicas, 5);
}
