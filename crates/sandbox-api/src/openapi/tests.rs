//! Tests of the `OpenAPI` document.

use std::collections::BTreeSet;

use super::*;
use crate::fixtures;

/// Every `$ref` in `value`.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                if let (true, Some(target)) = (key == "$ref", member.as_str()) {
                    found.insert(target.to_owned());
                }
                references(member, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_route_is_described_with_its_parameters_and_answers() {
    let document = document("1.2.3");
    assert_eq!(document["info"]["version"], "1.2.3");
    for route in ROUTES {
        let operation = &document["paths"][route.path][route.method.to_ascii_lowercase()];
        assert_eq!(operation["operationId"], route.operation_id, "{route:?}");
        assert_eq!(operation["summary"], route.summary);
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses.keys().any(|status| status.starts_with('2')),
            "{route:?}"
        );
        assert!(
            responses
                .values()
                .all(|answer| answer["description"].is_string())
        );
        let posts = route.method == "POST";
        assert_eq!(operation["requestBody"].is_object(), posts, "{route:?}");
        let takes_name = operation["parameters"][0]["in"] == "path";
        assert_eq!(takes_name, route.path.contains('{'), "{route:?}");
    }
    let operations = document["paths"].as_object().unwrap().values();
    let described: usize = operations.map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(described, ROUTES.len());
}

#[test]
fn every_reference_leads_to_a_schema_and_every_schema_is_used() {
    let document = document("0");
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let there: BTreeSet<_> = schemas
        .keys()
        .map(|name| format!("#/components/schemas/{name}"))
        .collect();
    assert_eq!(found, there);
}

#[test]
fn every_member_that_a_task_can_have_is_in_its_schema() {
    fn check(value: &Value, schema: &Value, schemas: &Value, path: &str) {
        let target = schema["$ref"]
            .as_str()
            .or_else(|| schema["anyOf"][0]["$ref"].as_str());
        let schema = match target {
            Some(target) => &schemas[target.rsplit('/').next().unwrap()],
            None => schema,
        };
        match value {
            Value::Object(members) => {
                for (key, member) in members {
                    let inner = &schema["properties"][key];
                    assert!(
                        inner.is_object(),
                        "{path}.{key} is not described by {schema}"
                    );
                    check(member, inner, schemas, &format!("{path}.{key}"));
                }
            }
            Value::Array(items) => {
                for item in items {
                    check(item, &schema["items"], schemas, path);
                }
            }
            _ => {}
        }
    }
    let document = document("0");
    let schemas = &document["components"]["schemas"];
    for (text, name) in [
        (fixtures::FULL_NESTED, "NewNestedTask"),
        (fixtures::FULL_FLAT, "NewFlatTask"),
        (fixtures::CONTAINER, "NewNestedTask"),
        (fixtures::GUIDE_TERMINATED, "NestedTask"),
    ] {
        let value = serde_json::from_str(text).unwrap();
        check(&value, &schemas[name], schemas, name);
    }
}

#[test]
fn the_examples_of_requests_are_valid_tasks() {
    let document = document("0");
    for (path, is_list) in [("/tasks", false), ("/setTasks", true)] {
        let body = &document["paths"][path]["post"]["requestBody"];
        let examples = body["content"]["application/json"]["examples"]
            .as_object()
            .unwrap();
        assert_eq!(examples.len(), 2);
        for example in examples.values() {
            let bytes = example["value"].to_string();
            if is_list {
                assert_eq!(
                    crate::parse_list(bytes.as_bytes()).unwrap().ignored.len(),
                    0
                );
            } else {
                assert_eq!(crate::parse_one(bytes.as_bytes()).unwrap().ignored.len(), 0);
            }
        }
    }
}

#[test]
fn the_document_is_the_same_each_time() {
    assert_eq!(document("0").to_string(), document("0").to_string());
}
