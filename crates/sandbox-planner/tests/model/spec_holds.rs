//! What must be true of a cluster in which nothing is left to be done.

use sandbox_api::crd::{BatchSandbox, TASK_CLEANUP_FINALIZER, TaskResourcePolicy};
use sandbox_planner::batch::{Meta, Spec};

use super::agents::{ModelAgent, Run};
use super::world::World;

/// Everything that is not as the users want it, or not as status says.
pub fn broken(world: &World) -> Vec<String> {
    let mut broken = Vec::new();
    for object in world.api.batches.values() {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let mut of_batch = of_batch(world, object);
        broken.extend(of_batch.drain(..).map(|what| format!("{name}: {what}")));
    }
    for stored in world.api.pods.values() {
        let owner = stored.pod.owner.as_deref().unwrap_or_default();
        let mut batches = world.api.batches.values();
        if !batches.any(|object| object.metadata.uid.as_deref() == Some(owner)) {
            broken.push(format!("{} is left over", stored.pod.name));
        }
    }
    broken
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Tasks {
    pending: i32,
    running: i32,
    succeeded: i32,
    failed: i32,
}

fn of_batch(world: &World, object: &BatchSandbox) -> Vec<String> {
    let mut broken = Vec::new();
    let meta = Meta::read(object);
    let status = object.status.clone().unwrap_or_default();
    let has = |word: &str| status.conditions.iter().any(|one| one.type_ == word);
    if meta.deleted_at.is_some() {
        return vec!["is stuck in deletion".to_owned()];
    }
    let Ok(spec) = Spec::read(object) else {
        if !has("Malformed") || status.conditions.len() > 1 {
            broken.push("does not say that it is malformed".to_owned());
        }
        return broken;
    };
    if spec.expires_at.is_some_and(|at| at <= world.now) {
        broken.push("has expired".to_owned());
    }
    if meta.has_finalizer(TASK_CLEANUP_FINALIZER) != spec.has_tasks {
        broken.push(format!("has finalizers {:?}", meta.finalizers));
    }
    let tasks = of_pods(world, object, &spec, &mut broken);
    let said = Tasks {
        pending: status.task_pending,
        running: status.task_running,
        succeeded: status.task_succeed,
        failed: status.task_failed,
    };
    let tasks = if spec.has_tasks {
        tasks
    } else {
        Tasks::default()
    };
    if said != tasks || status.task_unknown > 0 {
        broken.push(format!("says {said:?}, truth is {tasks:?}"));
    }
    if !has("Ready") || has("Progressing") || has("Malformed") || has("PodFailed") {
        broken.push(format!("has conditions {:?}", status.conditions));
    }
    if status.observed_generation != Some(meta.generation) {
        broken.push("speaks of an older generation".to_owned());
    }
    broken
}

/// Checks the Pods and their tasks; what is true of the tasks.
fn of_pods(world: &World, object: &BatchSandbox, spec: &Spec, broken: &mut Vec<String>) -> Tasks {
    let meta = Meta::read(object);
    let pods: Vec<_> = world
        .api
        .pods
        .values()
        .map(|stored| &stored.pod)
        .filter(|pod| pod.owner.as_deref() == Some(&meta.uid))
        .collect();
    let mut tasks = Tasks::default();
    let mut endpoints = Vec::new();
    for index in 0..spec.replicas {
        let of_index: Vec<_> = pods.iter().filter(|pod| pod.index == Some(index)).collect();
        let is_over = meta.results.contains(index);
        if of_index.len() != usize::from(!is_over) {
            broken.push(format!("has {} Pods for index {index}", of_index.len()));
        }
        let pod = of_index.first();
        let address = pod.and_then(|pod| pod.address);
        endpoints.push(address.map(|a| a.to_string()).unwrap_or_default());
        let agent = pod.and_then(|pod| world.agents.get(&pod.uid));
        let run = of_agent(agent, spec, index, broken);
        match run {
            _ if meta.results.succeeded.contains(index) => tasks.succeeded += 1,
            _ if meta.results.failed.contains(index) => tasks.failed += 1,
            Some(Run::Ended(_)) if spec.policy == TaskResourcePolicy::Release => {
                broken.push(format!("does not release index {index}"));
            }
            Some(Run::Ended(0)) => tasks.succeeded += 1,
            Some(Run::Ended(_)) => tasks.failed += 1,
            Some(Run::Running) => tasks.running += 1,
            Some(Run::Ending) | None => tasks.pending += 1,
        }
    }
    if pods.iter().any(|pod| pod.index >= Some(spec.replicas)) {
        broken.push("has Pods beyond its replicas".to_owned());
    }
    let text = serde_json::to_string(&endpoints).unwrap();
    let shown = meta.annotations.get("sandbox.opensandbox.io/endpoints");
    let is_blank = endpoints.iter().all(String::is_empty);
    if shown.map_or(!is_blank, |shown| *shown != text) {
        broken.push(format!("shows endpoints {shown:?}, not {text}"));
    }
    tasks
}

/// Checks that an agent has its own task and no other; where that task is.
fn of_agent(
    agent: Option<&ModelAgent>,
    spec: &Spec,
    index: u32,
    broken: &mut Vec<String>,
) -> Option<Run> {
    let wanted = spec.tasks.get(usize::try_from(index).unwrap());
    let held = agent?.task.as_ref();
    if held.map(|task| &task.order) != wanted {
        broken.push(format!("index {index} has {held:?}, not {wanted:?}"));
    }
    held.map(|task| task.run)
}
