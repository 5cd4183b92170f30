//! What each endpoint takes and answers, for the `OpenAPI` document.

use serde_json::{Map, Value, json};

use super::schema;
use crate::error::ErrorCode;
use crate::routes::Route;

/// Paths that need no token, since probes have none.
const OPEN_PATHS: [&str; 3] = ["/health", "/livez", "/readyz"];

/// The description of one endpoint.
pub(super) fn operation(route: &Route) -> Value {
    let id = route.operation_id;
    let mut operation = json!({
        "operationId": id,
        "summary": route.summary,
        "responses": responses(route),
    });
    let parameters = parameters(route);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(body) = request_body(id) {
        operation["requestBody"] = body;
    }
    if !OPEN_PATHS.contains(&route.path) {
        // The empty one: without --auth-token-file no token is needed.
        operation["security"] = json!([{}, {"token": []}]);
    }
    operation
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters = Vec::new();
    if route.path.contains("{name}") {
        parameters.push(json!({
            "name": "name",
            "in": "path",
            "required": true,
            "schema": schema("TaskName"),
        }));
    }
    let text = || json!({"type": "string"});
    let flag = || json!({"type": "boolean", "default": false});
    let count = || json!({"type": "integer", "minimum": 0});
    let query: Vec<(&str, Value, &str)> = match route.operation_id {
        "getTask" => vec![
            ("uid", text(), "Answers 412 unless the task has this uid."),
            (
                "wait",
                text(),
                "Waits so long for the task to be terminated or gone, e.g. 30s.",
            ),
        ],
        "deleteTask" => vec![("uid", text(), "Answers 412 unless the task has this uid.")],
        "getTaskLogs" => vec![
            (
                "stream",
                json!({"enum": ["stdout", "stderr", "both"], "default": "both"}),
                "What to read.",
            ),
            (
                "follow",
                flag(),
                "Goes on until the task has ended and its output is drained.",
            ),
            ("tailLines", count(), "Only so many lines from the end."),
            ("sinceBytes", count(), "Begins at this offset."),
            ("limitBytes", count(), "Ends after so many bytes."),
        ],
        "getTasks" => vec![
            ("watch", flag(), "Streams events, one JSON object a line."),
            (
                "resourceVersion",
                text(),
                "The version after which a watch begins.",
            ),
        ],
        _ => Vec::new(),
    };
    parameters.extend(query.into_iter().map(|(name, schema, description)| {
        json!({"name": name, "in": "query", "schema": schema, "description": description})
    }));
    parameters
}

fn request_body(id: &str) -> Option<Value> {
    let nested = json!({
        "name": "my-first-task",
        "spec": {"process": {"command": ["sh", "-c"], "args": ["echo hello"]}, "timeoutSeconds": 60},
    });
    let flat = json!({
        "name": "my-first-task",
        "process": {"command": ["sh", "-c"], "args": ["echo hello"], "timeoutSeconds": 60},
    });
    let (schema, nested, flat) = match id {
        "createTask" => (schema("NewTask"), nested, flat),
        "setTasks" => {
            let schema = json!({"type": "array", "items": schema("NewTask")});
            (schema, json!([nested]), json!([flat]))
        }
        _ => return None,
    };
    let examples = json!({"nested": {"value": nested}, "flat": {"value": flat}});
    let media = json!({"schema": schema, "examples": examples});
    Some(json!({"required": true, "content": {"application/json": media}}))
}

fn responses(route: &Route) -> Map<String, Value> {
    let mut responses = Map::new();
    let (status, success) = success(route.operation_id);
    responses.insert(status.to_owned(), success);
    if matches!(
        route.operation_id,
        "getHealth" | "getLiveness" | "getReadiness"
    ) {
        let unhealthy = content("application/json", &json!({"type": "object"}));
        responses.insert(
            "503".to_owned(),
            described("It cannot; the body says why.", unhealthy),
        );
        return responses;
    }
    for code in failures(route.operation_id) {
        let status = code.http_status().to_string();
        let response = responses
            .entry(status)
            .or_insert_with(|| described("", content("application/json", &schema("Error"))));
        let known = response["description"].as_str().unwrap_or_default();
        let separator = if known.is_empty() { "" } else { ", " };
        response["description"] = format!("{known}{separator}`{code}`").into();
    }
    responses
}

/// Status and description of the answer when all is well.
fn success(id: &str) -> (&'static str, Value) {
    let json = "application/json";
    let object = json!({"type": "object"});
    match id {
        "createTask" => (
            "201",
            warned(described(
                "The task, waiting.",
                content(json, &schema("Task")),
            )),
        ),
        "getTask" => (
            "200",
            described("The task.", content(json, &schema("Task"))),
        ),
        "deleteTask" => (
            "204",
            json!({"description": "The deletion is on record, or there is no such task."}),
        ),
        "getTaskLogs" => {
            let text = content("text/plain", &json!({"type": "string"}));
            ("200", described("The bytes as the task wrote them.", text))
        }
        "setTasks" => ("200", warned(listed(task_list()))),
        "getTasks" => {
            let mut content = task_list();
            content["application/x-ndjson"] = json!({"schema": schema("Event")});
            ("200", listed(content))
        }
        "getMetrics" => {
            let text = content("text/plain", &json!({"type": "string"}));
            (
                "200",
                described("Metrics in the text format of Prometheus.", text),
            )
        }
        "getHealth" => {
            let mut healthy = content(json, &object);
            healthy[json]["example"] = json!({"status": "healthy"});
            ("200", described("It can.", healthy))
        }
        _ => ("200", described("An object.", content(json, &object))),
    }
}

/// The codes that an endpoint may answer with.
fn failures(id: &str) -> Vec<ErrorCode> {
    use ErrorCode as Code;

    let own: &[ErrorCode] = match id {
        "createTask" => &[
            Code::InvalidTask,
            Code::RequestTimeout,
            Code::AlreadyExists,
            Code::PayloadTooLarge,
            Code::TooManyTasks,
            Code::InsufficientStorage,
        ],
        "setTasks" => &[
            Code::InvalidTask,
            Code::RequestTimeout,
            Code::PayloadTooLarge,
            Code::TooManyTasks,
            Code::InsufficientStorage,
        ],
        "getTask" => &[
            Code::BadRequest,
            Code::TaskNotFound,
            Code::PreconditionFailed,
        ],
        "deleteTask" => &[Code::BadRequest, Code::PreconditionFailed],
        "getTaskLogs" => &[Code::BadRequest, Code::TaskNotFound],
        "getTasks" => &[Code::BadRequest, Code::Gone],
        _ => &[],
    };
    let common = [
        Code::Unauthorized,
        Code::InternalError,
        Code::ServiceUnavailable,
    ];
    own.iter().copied().chain(common).collect()
}

fn content(media: &str, schema: &Value) -> Value {
    json!({media: {"schema": schema}})
}

fn described(description: &str, content: Value) -> Value {
    let mut response = json!({"description": description});
    response["content"] = content;
    response
}

fn task_list() -> Value {
    content(
        "application/json",
        &json!({"type": "array", "items": schema("Task")}),
    )
}

/// A list of tasks, with the version to watch from.
fn listed(content: Value) -> Value {
    let mut response = described("All tasks, those being deleted last.", content);
    response["headers"] = json!({
        "X-Resource-Version": {
            "description": "The version of the list, to watch from.",
            "schema": {"type": "string"},
        },
    });
    response
}

/// An answer that names the fields that were not understood.
fn warned(mut response: Value) -> Value {
    if !response["headers"].is_object() {
        response["headers"] = json!({});
    }
    response["headers"]["Warning"] = json!({
        "description": "Fields of the request that are unknown and were passed over.",
        "schema": {"type": "string"},
    });
    response
}
