//! The schemas of the `OpenAPI` document.

use std::borrow::Cow;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::schema;
use crate::error::{ErrorBody, ErrorCode};
use crate::report::{WireState, WireStatus};
use crate::state::{TerminatedReason, WaitingReason};
use crate::wire::{Object, WireProcess, WireSpec};

/// Every schema by its name: those of the wire types, and those of whole tasks.
pub(super) fn all() -> Value {
    let mut schemas = derived();
    for (name, schema) in [
        ("TaskName", name()),
        (
            "NewTask",
            either(["NewNestedTask", "NewFlatTask", "NewPodTask"]),
        ),
        ("Task", either(["NestedTask", "FlatTask", "PodTask"])),
        (
            "NewNestedTask",
            new_task(
                "Nested dialect, as in the guide.",
                "spec",
                &schema("TaskSpec"),
            ),
        ),
        (
            "NewFlatTask",
            new_task("Flat dialect.", "process", &schema("Process")),
        ),
        (
            "NewPodTask",
            new_task(
                "Pod, flat dialect.",
                "podTemplateSpec",
                &kubernetes("PodTemplateSpec"),
            ),
        ),
        ("Event", event()),
    ] {
        schemas.insert(name.to_owned(), schema);
    }
    shown(&mut schemas);
    words(
        &mut schemas,
        "Waiting",
        "reason",
        WaitingReason::ALL.iter().map(|word| word.as_str()),
    );
    let reasons = TerminatedReason::ALL.iter().map(|word| word.as_str());
    words(&mut schemas, "Terminated", "reason", reasons);
    words(
        &mut schemas,
        "Error",
        "code",
        ErrorCode::ALL.iter().map(|code| code.as_str()),
    );
    Value::Object(schemas)
}

/// A task as it is shown, in each of its shapes.
fn shown(schemas: &mut Map<String, Value>) {
    for (name, members, wanted, is) in [
        (
            "NestedTask",
            ["spec", "status"],
            schema("TaskSpec"),
            schema("TaskStatus"),
        ),
        (
            "FlatTask",
            ["process", "processStatus"],
            schema("Process"),
            schema("TaskState"),
        ),
        (
            "PodTask",
            ["podTemplateSpec", "podStatus"],
            kubernetes("PodTemplateSpec"),
            kubernetes("PodStatus"),
        ),
    ] {
        schemas.insert(name.to_owned(), task(members, &wanted, &is));
    }
}

/// The schemas that are derived from the types that read and write JSON.
fn derived() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    generator.subschema_for::<Object<WireSpec>>();
    generator.subschema_for::<Object<WireProcess>>();
    generator.subschema_for::<Object<WireStatus>>();
    generator.subschema_for::<Object<WireState>>();
    generator.subschema_for::<ErrorBody>();
    generator.take_definitions(true)
}

/// Names the words that a text member can have; more may come, so that it stays plain text.
fn words(
    schemas: &mut Map<String, Value>,
    schema: &str,
    member: &str,
    words: impl Iterator<Item = &'static str>,
) {
    let words: Vec<_> = words.collect();
    if let Some(member) = schemas
        .get_mut(schema)
        .map(|schema| &mut schema["properties"][member])
    {
        member["examples"] = words.into();
    }
}

fn name() -> Value {
    json!({
        "type": "string",
        "description": "Unique within one agent.",
        "minLength": 1,
        "maxLength": 253,
        "pattern": "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$",
    })
}

fn either(names: [&str; 3]) -> Value {
    json!({"oneOf": names.map(schema)})
}

/// An object of Kubernetes, which has a description of its own.
fn kubernetes(kind: &str) -> Value {
    json!({"type": "object", "description": format!("A Kubernetes {kind}.")})
}

fn new_task(description: &str, work: &str, schema_of_work: &Value) -> Value {
    json!({
        "type": "object",
        "description": description,
        "required": ["name", work],
        "properties": {"name": schema("TaskName"), work: schema_of_work},
    })
}

fn task([work, status]: [&str; 2], schema_of_work: &Value, schema_of_status: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["name", "uid", work, status],
        "properties": {
            "name": schema("TaskName"),
            "uid": {"type": "string", "description": "Never given to another task."},
            "deletionTimestamp": {
                "type": "string",
                "format": "date-time",
                "description": "Since when the task is being deleted.",
            },
            work: schema_of_work,
            status: schema_of_status,
            "warnings": {
                "type": "array",
                "items": {"type": "string"},
                "description": "What the client should know but need not act on.",
            },
        },
    })
}

fn event() -> Value {
    json!({
        "type": "object",
        "description": "One line of a watch.",
        "required": ["type"],
        "properties": {
            "type": {"type": "string", "enum": ["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]},
            "object": schema("Task"),
            "resourceVersion": {"type": "string"},
        },
    })
}

/// What must be an object is described by its members alone.
impl<T: JsonSchema> JsonSchema for Object<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
