//! The users of the model: they create, change and delete batches at any time.

use jiff::SignedDuration;
use sandbox_api::crd::{BatchSandboxSpec, TaskResourcePolicy};
use serde_json::{Value, json};

use super::api::blank_pod;
use super::world::{NAMES, REPLICAS_MAX, World};

impl World {
    pub fn user(&mut self) {
        let name = NAMES[self.rng.below(NAMES.len())];
        if !self.api.batches.contains_key(name) {
            let spec = self.new_spec();
            if self.rng.chance(80) && !self.api.pods.contains_key(&format!("{name}-0")) {
                let uid = self.api.new_uid();
                let mut stranger = blank_pod(&format!("{name}-0"), &uid);
                stranger.index = Some(0);
                self.api.put_pod(name, stranger);
            }
            self.api.create_batch(name, spec);
            return;
        }
        let replicas = i32::try_from(self.rng.below(REPLICAS_MAX + 1)).unwrap();
        let template = self.new_task();
        let now = self.now;
        let what = self.rng.below(12);
        if what < 2 {
            self.api.delete_batch(name, now);
            return;
        }
        self.book
            .journal(|| format!("user does {what} to {name}, {replicas}"));
        self.api.edit_batch(name, |spec| match what {
            2..6 => spec.replicas = replicas,
            6 | 7 => spec.task_template = Some(template),
            8 => spec.task_template = None,
            9 => {
                spec.template =
                    Some(json!({"spec": {"containers": [{"name": "main", "image": "new"}]}}));
            }
            10 => spec.task_template = Some(json!({"spec": {"process": {"command": 7}}})),
            _ => {
                let at = now + SignedDuration::from_secs(i64::from(replicas) * 60);
                spec.expire_time = Some(at.to_string());
            }
        });
    }

    fn new_task(&mut self) -> Value {
        self.tasks_made += 1;
        let word = format!("task-{}", self.tasks_made);
        json!({"spec": {"process": {"command": ["run", word]}}})
    }

    fn new_spec(&mut self) -> BatchSandboxSpec {
        let task = self.new_task();
        let release = TaskResourcePolicy::Release;
        BatchSandboxSpec {
            replicas: i32::try_from(self.rng.below(REPLICAS_MAX + 1)).unwrap(),
            template: Some(json!({"spec": {"containers": [{"name": "main", "image": "old"}]}})),
            task_template: self.rng.chance(800).then_some(task),
            task_resource_policy_when_completed: self.rng.chance(400).then_some(release),
            ..BatchSandboxSpec::default()
        }
    }
}
