//! The `OpenAPI` 3.1 description of the API, made of [`ROUTES`] and of the wire types.

mod operations;
mod schemas;

use serde_json::{Map, Value, json};

use crate::routes::ROUTES;

/// The description of this API as served by an agent of `version`.
///
/// The same input gives the same document, so that it can be committed and compared.
pub fn document(version: &str) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "task-executor",
            "summary": "Runs and manages short-lived tasks inside of a Kubernetes Pod.",
            "version": version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost:5758", "description": "the default address"}],
        "paths": paths(),
        "components": {
            "schemas": schemas::all(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Only if the agent was started with --auth-token-file.",
                },
            },
        },
    })
}

fn paths() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operations::operation(route);
    }
    Value::Object(paths)
}

/// A reference to a schema of the document.
fn schema(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[cfg(test)]
mod tests;
