//! Who may depend on whom. The table is the one of ARCHITECTURE.md; a new crate needs a line in both.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::tree;

/// What one crate may use of ours, in the shipped code.
struct Rule {
    name: &'static str,
    may_use: &'static [&'static str],
    /// Crates of others that must not be used, as name prefixes.
    never: &'static [&'static str],
}

const KUBE: &[&str] = &["kube"];
const ASYNC: &[&str] = &["tokio", "hyper", "axum", "tracing", "kube"];

const RULES: &[Rule] = &[
    Rule {
        name: "sandbox-api",
        may_use: &[],
        never: &["tokio", "hyper", "axum", "tracing", "nix", "libc"],
    },
    Rule {
        name: "sandbox-sys",
        may_use: &[],
        never: ASYNC,
    },
    Rule {
        name: "task-shim",
        may_use: &["sandbox-sys"],
        never: ASYNC,
    },
    Rule {
        name: "task-executor",
        may_use: &["sandbox-api", "sandbox-sys", "task-shim"],
        never: KUBE,
    },
    Rule {
        name: "sandbox-planner",
        may_use: &["sandbox-api"],
        never: ASYNC,
    },
    Rule {
        name: "task-client",
        may_use: &["sandbox-api"],
        never: KUBE,
    },
    Rule {
        name: "sandbox-operator",
        may_use: &["sandbox-api", "sandbox-planner", "task-client"],
        never: &[],
    },
    // Development only: nothing that ships may use it.
    Rule {
        name: "testkit",
        may_use: &["sandbox-api", "sandbox-sys", "task-shim", "task-executor"],
        never: KUBE,
    },
    Rule {
        name: "testkit-kube",
        may_use: &[
            "sandbox-api",
            "sandbox-planner",
            "task-client",
            "sandbox-operator",
        ],
        never: &[],
    },
    Rule {
        name: "house",
        may_use: &[],
        never: &[],
    },
];

/// One edge of the dependency graph: kind is `normal`, `build` or `dev`.
struct Dependency {
    user: String,
    used: String,
    kind: String,
}

struct Workspace {
    members: Vec<String>,
    dependencies: Vec<Dependency>,
}

impl Workspace {
    fn read() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
            .current_dir(tree::root())
            .output()
            .expect("cargo runs");
        assert!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
        let packages = list(&metadata, "packages");
        let dependencies = packages.iter().flat_map(|package| {
            list(package, "dependencies")
                .iter()
                .map(|dependency| Dependency {
                    user: string(package, "name"),
                    used: string(dependency, "name"),
                    kind: dependency["kind"].as_str().unwrap_or("normal").to_owned(),
                })
        });
        Self {
            members: packages
                .iter()
                .map(|package| string(package, "name"))
                .collect(),
            dependencies: dependencies.collect(),
        }
    }

    fn is_ours(&self, name: &str) -> bool {
        self.members.iter().any(|member| member == name)
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn string(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn rules() -> BTreeMap<&'static str, &'static Rule> {
    RULES.iter().map(|rule| (rule.name, rule)).collect()
}

#[test]
fn every_crate_has_a_place_in_the_layers() {
    let rules = rules();
    let complaints: Vec<_> = Workspace::read()
        .members
        .into_iter()
        .filter(|member| !rules.contains_key(member.as_str()))
        .map(|member| format!("{member} has no rule in tests/layers.rs"))
        .collect();
    tree::expect_none("a crate without a layer", &complaints);
}

#[test]
fn dependencies_between_our_crates_only_go_down() {
    let (rules, workspace) = (rules(), Workspace::read());
    let complaints: Vec<_> = workspace
        .dependencies
        .iter()
        .filter(|edge| workspace.is_ours(&edge.used) && edge.kind != "dev")
        .filter(|edge| {
            rules
                .get(edge.user.as_str())
                .is_some_and(|rule| !rule.may_use.contains(&edge.used.as_str()))
        })
        .map(|edge| format!("{} may not use {} ({})", edge.user, edge.used, edge.kind))
        .collect();
    tree::expect_none("a dependency against the layers", &complaints);
}

#[test]
fn the_testkit_is_used_by_tests_only() {
    let complaints: Vec<_> = Workspace::read()
        .dependencies
        .iter()
        .filter(|edge| edge.used.starts_with("testkit") && edge.kind != "dev")
        .map(|edge| format!("{} has it as a {} dependency", edge.user, edge.kind))
        .collect();
    tree::expect_none("testkit must be a dev dependency", &complaints);
}

#[test]
fn no_crate_uses_a_library_that_its_layer_excludes() {
    let (rules, workspace) = (rules(), Workspace::read());
    let complaints: Vec<_> = workspace
        .dependencies
        .iter()
        .filter(|edge| edge.kind != "dev")
        .filter(|edge| {
            rules.get(edge.user.as_str()).is_some_and(|rule| {
                rule.never
                    .iter()
                    .any(|prefix| is_family(&edge.used, prefix))
            })
        })
        .map(|edge| format!("{} may not use {}", edge.user, edge.used))
        .collect();
    tree::expect_none("a library against the layers", &complaints);
}

/// Whether `name` is `prefix` itself or one of its family, as `kube-client` is of `kube`.
fn is_family(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[test]
fn all_dependencies_come_from_one_public_registry() {
    let complaints: Vec<_> = tree::read("Cargo.lock")
        .lines()
        .filter_map(|line| line.strip_prefix("source = "))
        .filter(|source| *source != "\"registry+https://github.com/rust-lang/crates.io-index\"")
        .map(str::to_owned)
        .collect();
    tree::expect_none("a source other than crates.io in Cargo.lock", &complaints);
}
