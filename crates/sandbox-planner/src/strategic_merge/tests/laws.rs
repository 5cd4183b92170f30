//! What holds for any document and any patch.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{POD, Schema, TASK_TEMPLATE, merge};

const SCHEMAS: [&Schema; 2] = [&POD, &TASK_TEMPLATE];

/// Names that hit the merged lists, their keys and the directives often.
fn name() -> impl Strategy<Value = String> {
    let fields = [
        "metadata",
        "spec",
        "process",
        "containers",
        "volumes",
        "env",
        "ports",
        "finalizers",
        "tolerations",
    ];
    let keys = ["name", "containerPort", "value"];
    let directives = [
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$setElementOrder/env",
        "$deleteFromPrimitiveList/finalizers",
        "$setElementOrder/",
        "$",
        "",
    ];
    let names: Vec<_> = fields
        .into_iter()
        .chain(keys)
        .chain(directives)
        .map(str::to_owned)
        .collect();
    prop::sample::select(names)
}

fn leaf() -> impl Strategy<Value = Value> {
    let words = ["a", "b", "merge", "replace", "delete", "name", "env"];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3).prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(6, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..5)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

fn object(fields: Vec<(&str, Option<Value>)>) -> Value {
    let fields = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(fields.collect::<Map<_, _>>())
}

/// A list of objects that are told apart by `key`, in random order.
fn keyed(
    key: &'static str,
    rest: impl Strategy<Value = Value> + Clone,
) -> impl Strategy<Value = Value> {
    prop::collection::btree_map(0..5_u8, rest, 0..5)
        .prop_map(Vec::from_iter)
        .prop_shuffle()
        .prop_map(move |items| {
            let item = |(id, mut rest): (u8, Value)| {
                rest[key] = json!(format!("k{id}"));
                rest
            };
            items.into_iter().map(item).collect()
        })
}

fn values() -> impl Strategy<Value = Value> + Clone {
    prop::option::of(0..3).prop_map(|value| object(vec![("value", value.map(Value::from))]))
}

fn container() -> impl Strategy<Value = Value> + Clone {
    let command = prop::collection::vec(0..3, 0..3).prop_map(Value::from);
    let parts = (
        prop::option::of(keyed("name", values()).boxed()),
        prop::option::of(command),
        prop::option::of(0..3),
    );
    parts
        .prop_map(|(env, command, image)| {
            object(vec![
                ("env", env),
                ("command", command),
                ("image", image.map(Value::from)),
            ])
        })
        .boxed()
}

/// Pods, and as well patches that hold no directive and no null.
fn pod() -> impl Strategy<Value = Value> {
    let finalizers = prop::collection::btree_set(0..5, 0..5)
        .prop_map(Vec::from_iter)
        .prop_shuffle();
    let labels = prop::collection::btree_map("[ab]", 0..3, 0..3).prop_map(|labels| json!(labels));
    let metadata = (prop::option::of(finalizers), prop::option::of(labels));
    let spec = (
        prop::option::of(keyed("name", container())),
        prop::option::of(keyed("name", values())),
        prop::option::of(prop::collection::vec(values(), 0..3)),
    );
    (metadata, spec).prop_map(|((finalizers, labels), (containers, volumes, tolerations))| {
        json!({
            "metadata": object(vec![("finalizers", finalizers.map(Value::from)), ("labels", labels)]),
            "spec": object(vec![
                ("containers", containers),
                ("volumes", volumes),
                ("tolerations", tolerations.map(Value::from)),
            ]),
        })
    })
}

fn holds_directives(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.starts_with('$') || holds_directives(value)),
        Value::Array(items) => items.iter().any(holds_directives),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_documents_never_panic(before in anything(), patch in anything()) {
        for schema in SCHEMAS {
            let once = merge(&before, &patch, schema);
            prop_assert_eq!(&once, &merge(&before, &patch, schema));
            if let Err(error) = once {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn no_directive_is_left(before in pod(), patch in anything()) {
        for schema in SCHEMAS {
            if let Ok(merged) = merge(&before, &patch, schema) {
                prop_assert!(!holds_directives(&merged), "{}", merged);
            }
        }
    }

    #[test]
    fn an_empty_patch_changes_nothing(before in anything()) {
        for schema in SCHEMAS {
            match merge(&before, &json!({}), schema) {
                Ok(merged) => prop_assert_eq!(&merged, &before),
                Err(_) => prop_assert!(!before.is_object()),
            }
        }
    }

    #[test]
    fn a_patch_without_directives_can_be_repeated(before in pod(), patch in pod()) {
        let once = merge(&before, &patch, &POD).unwrap();
        prop_assert_eq!(merge(&once, &patch, &POD).unwrap(), once);
    }

    #[test]
    fn a_pod_merged_into_nothing_or_into_itself_is_itself(pod in pod()) {
        prop_assert_eq!(&merge(&json!({}), &pod, &POD).unwrap(), &pod);
        prop_assert_eq!(&merge(&pod, &pod, &POD).unwrap(), &pod);
    }

    #[test]
    fn nulls_remove_and_do_nothing_else(before in pod(), gone in prop::sample::subsequence(vec!["containers", "volumes", "tolerations", "nodeName"], 0..=4)) {
        let nulls: Map<_, _> = gone.iter().map(|&name| (name.to_owned(), Value::Null)).collect();
        let merged = merge(&before, &json!({"spec": nulls}), &POD).unwrap();
        let mut wanted = before;
        wanted["spec"].as_object_mut().unwrap().retain(|name, _| !gone.contains(&name.as_str()));
        prop_assert_eq!(merged, wanted);
    }

    #[test]
    fn a_merged_list_holds_each_item_once_and_named_ones_in_the_order_of_the_patch(before in pod(), patch in pod()) {
        let names = |pod: &Value| -> Vec<String> {
            let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
            containers.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
        };
        let (before_names, patch_names) = (names(&before), names(&patch));
        let merged = names(&merge(&before, &patch, &POD).unwrap());
        let of = |wanted: &[String], other: &[String]| -> Vec<String> {
            merged.iter().filter(|name| wanted.contains(name) && !other.contains(name)).cloned().collect()
        };
        prop_assert_eq!(of(&patch_names, &[]), patch_names.clone());
        let unnamed: Vec<_> = before_names.iter().filter(|name| !patch_names.contains(name)).cloned().collect();
        prop_assert_eq!(of(&before_names, &patch_names), unnamed.clone());
        prop_assert_eq!(merged.len(), patch_names.len() + unnamed.len());
    }
}
