//! A `BatchSandbox` as a test writes it down.

use std::path::Path;

use sandbox_api::crd::BatchSandbox;
use serde_json::{Map, Value, json};

/// A manifest that is not sent yet.
#[derive(Clone)]
pub(crate) struct Draft {
    manifest: Value,
    dir: String,
}

impl Draft {
    pub(crate) fn new(name: &str, replicas: u32, dir: &Path) -> Self {
        let manifest = json!({
            "apiVersion": "sandbox.opensandbox.io/v1alpha1",
            "kind": "BatchSandbox",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "template": {"spec": {"containers": [{"name": "main", "image": "sandbox:test"}]}},
            },
        });
        Self {
            manifest,
            dir: dir.display().to_string(),
        }
    }

    /// Sets a member by its path, such as `spec.template.spec`.
    pub(crate) fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.manifest;
        for key in path.split('.') {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            place = &mut place[key];
        }
        *place = value.into();
        self
    }

    /// Each sandbox runs this script as its task, with `$D` as the directory of the test.
    pub(crate) fn task(self, script: &str) -> Self {
        let process = self.process(script);
        self.set("spec.taskTemplate", json!({"spec": {"process": process}}))
    }

    /// The process of a task that runs a script.
    pub(crate) fn process(&self, script: &str) -> Value {
        json!({
            "command": ["sh", "-c"], "args": [script], "env": [{"name": "D", "value": self.dir}],
        })
    }

    /// Each task finds the index of its sandbox in `$I`.
    pub(crate) fn indexed(self, count: u32) -> Self {
        let patch = |index: u32| json!({"spec": {"process": {"env": [{"name": "I", "value": index.to_string()}]}}});
        self.set(
            "spec.shardTaskPatches",
            (0..count).map(patch).collect::<Value>(),
        )
    }

    /// An annotation of every Pod.
    pub(crate) fn annotated(mut self, key: &str, value: &str) -> Self {
        self.manifest["spec"]["template"]["metadata"]["annotations"][key] = value.into();
        self
    }

    /// An annotation of one Pod among `count`.
    pub(crate) fn annotated_at(mut self, index: usize, key: &str, value: &str) -> Self {
        let patches = &mut self.manifest["spec"]["shardPatches"];
        if !patches.is_array() {
            *patches = json!([]);
        }
        if let Some(patches) = patches.as_array_mut() {
            patches.resize_with(patches.len().max(index + 1), || json!({}));
            patches[index]["metadata"]["annotations"][key] = value.into();
        }
        self
    }

    pub(crate) fn finish(self) -> BatchSandbox {
        serde_json::from_value(self.manifest).expect("a BatchSandbox")
    }
}
