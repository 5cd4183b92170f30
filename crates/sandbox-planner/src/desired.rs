//! What is made for one index: its Pod and its task.

use std::sync::Arc;

use sandbox_api::crd::{BATCH_NAME_LABEL, BatchSandboxSpec, GROUP, POD_INDEX_LABEL, VERSION};
use serde_json::{Map, Value, json};

use crate::agent::TaskOrder;
use crate::batch::{Malformed, Meta};
use crate::strategic_merge::{self, POD, TASK_TEMPLATE};

/// Name of the Pod and of the task with this index.
pub fn name(batch: &str, index: u32) -> String {
    format!("{batch}-{index}")
}

/// The Pod with this index, ready to be created: template, patch, then what must hold whatever those say.
///
/// # Errors
/// [`Malformed`] when template and patch can't be merged.
pub fn pod(
    meta: &Meta,
    template: &Value,
    patches: &[Value],
    index: u32,
) -> Result<Value, Malformed> {
    let at = usize::try_from(index).unwrap_or(usize::MAX);
    let mut pod = merged_pod(template, patches, at)?;
    let about = member(member_of(&mut pod), "metadata");
    about.insert("name".to_owned(), name(&meta.name, index).into());
    about.insert("namespace".to_owned(), meta.namespace.clone().into());
    about.remove("generateName");
    about.insert(
        "ownerReferences".to_owned(),
        json!([{
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": "BatchSandbox",
            "name": meta.name,
            "uid": meta.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }]),
    );
    let labels = member(about, "labels");
    labels.insert(POD_INDEX_LABEL.to_owned(), index.to_string().into());
    labels.insert(BATCH_NAME_LABEL.to_owned(), meta.name.clone().into());
    Ok(pod)
}

/// A Pod made from the template and, if there is one, the patch with this index.
pub(crate) fn merged_pod(
    template: &Value,
    patches: &[Value],
    index: usize,
) -> Result<Value, Malformed> {
    let mut about = Map::new();
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field) {
            about.insert(field.to_owned(), value.clone());
        }
    }
    let Some(spec) = template.get("spec").filter(|spec| spec.is_object()) else {
        return Err(Malformed::new(
            "spec.template.spec",
            "must be a Pod's spec, an object with containers",
        ));
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec});
    let Some(patch) = patches.get(index) else {
        return Ok(pod);
    };
    strategic_merge::merge(&pod, patch, &POD)
        .map_err(|error| Malformed::new(format!("spec.shardPatches[{index}]"), error.to_string()))
}

/// The tasks of all indexes, or none without a task template.
pub(crate) fn tasks(
    batch: &str,
    replicas: u32,
    spec: &BatchSandboxSpec,
) -> Result<Vec<Arc<TaskOrder>>, Malformed> {
    let Some(template) = &spec.task_template else {
        return Ok(Vec::new());
    };
    let plain = task_work(template).map_err(|p| Malformed::new("spec.taskTemplate", p))?;
    for (index, patch) in spec.shard_task_patches.iter().enumerate() {
        // Also those beyond the replicas: a scale-out must not find them wrong.
        patched(template, patch, index)?;
    }
    let order = |index: u32| {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let work = match spec.shard_task_patches.get(at) {
            Some(patch) => patched(template, patch, at)?,
            None => plain.clone(),
        };
        let path = match spec.shard_task_patches.get(at) {
            Some(_) => format!("spec.taskTemplate with spec.shardTaskPatches[{at}]"),
            None => "spec.taskTemplate".to_owned(),
        };
        task(name(batch, index), work).map_err(|problem| Malformed::new(path, problem))
    };
    if replicas == 0 {
        task(name(batch, 0), plain).map_err(|p| Malformed::new("spec.taskTemplate", p))?;
        return Ok(Vec::new());
    }
    (0..replicas).map(order).collect()
}

fn patched(template: &Value, patch: &Value, index: usize) -> Result<Map<String, Value>, Malformed> {
    let path = || format!("spec.shardTaskPatches[{index}]");
    let merged = strategic_merge::merge(template, patch, &TASK_TEMPLATE)
        .map_err(|error| Malformed::new(path(), error.to_string()))?;
    task_work(&merged).map_err(|problem| Malformed::new(path(), problem))
}

/// The members of a task besides its name. A process goes out in the flat dialect, which `OpenSandbox`'s agent
/// understands too; it has the times inside of the process.
fn task_work(template: &Value) -> Result<Map<String, Value>, String> {
    let Some(spec) = template.get("spec").and_then(Value::as_object) else {
        return Err("must have spec, an object with process".to_owned());
    };
    let mut work = Map::new();
    let Some(process) = spec.get("process") else {
        if !spec.contains_key("container") {
            return Err("spec must have process, with command".to_owned());
        }
        work.insert("spec".to_owned(), Value::Object(spec.clone()));
        return Ok(work);
    };
    let Some(mut process) = process.as_object().cloned() else {
        return Err("spec.process must be an object with command".to_owned());
    };
    for time in ["timeoutSeconds", "terminationGracePeriodSeconds"] {
        if let Some(value) = spec.get(time) {
            process.insert(time.to_owned(), value.clone());
        }
    }
    work.insert("process".to_owned(), Value::Object(process));
    Ok(work)
}

/// The order for one task; the agent's own rules are applied here already.
fn task(name: String, work: Map<String, Value>) -> Result<Arc<TaskOrder>, String> {
    let mut task = Map::new();
    task.insert("name".to_owned(), name.clone().into());
    task.extend(work);
    let body = Value::Array(vec![Value::Object(task)]).to_string();
    sandbox_api::parse_list(body.as_bytes()).map_err(|invalid| invalid.to_string())?;
    Ok(Arc::new(TaskOrder { name, body }))
}

/// The object that `value` is; what is no object becomes an empty one.
fn member_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was just made an object"),
    }
}

fn member<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    member_of(map.entry(key).or_insert(Value::Null))
}

#[cfg(test)]
mod tests;
