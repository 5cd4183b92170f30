//! The role that the project ships.

use std::collections::BTreeSet;

use testkit_kube::manifests;
use testkit_kube::operator::{NAMESPACE, USER};
use testkit_kube::wait::{PATIENCE, eventually};

use crate::world::World;

/// Allowed though never asked for: `blockOwnerDeletion` needs it where an admission plugin enforces that.
const ENFORCED_ONLY: (&str, &str) = ("update", "batchsandboxes/finalizers");

/// Verb and resource of all that a file of `config/rbac` allows.
fn allowed(file: &str) -> BTreeSet<(String, String)> {
    let path = manifests::project().join("config/rbac").join(file);
    let objects = manifests::read(&path).expect("a role");
    let rules = objects
        .iter()
        .flat_map(|object| object["rules"].as_array().into_iter().flatten());
    let words = |rule: &serde_json::Value, key: &str| -> Vec<String> {
        let list = rule[key].as_array().into_iter().flatten();
        list.filter_map(|word| Some(word.as_str()?.to_owned()))
            .collect()
    };
    rules
        .flat_map(|rule| {
            let resources = words(rule, "resources");
            let pairs = words(rule, "verbs").into_iter().flat_map(move |verb| {
                resources
                    .clone()
                    .into_iter()
                    .map(move |resource| (verb.clone(), resource))
            });
            pairs.collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test]
async fn the_shipped_roles_allow_what_is_done_and_nothing_that_is_never_done() {
    let id = format!("access-{}", std::process::id());
    let id_flag = format!("--leader-elect-id={id}");
    let namespace_flag = format!("--leader-elect-namespace={NAMESPACE}");
    let flags = [
        "--leader-elect",
        &id_flag,
        &namespace_flag,
        "--leader-elect-retry-period=200ms",
    ];
    let Some(mut world) = World::new(&flags).await else {
        return;
    };
    world.create(world.draft("run", 2).task("exit 0")).await;
    world.completed("run", 2, 0).await;
    world.scale("run", 1).await;
    world.pods_of("run", 1).await;
    let past = serde_json::json!({"spec": {"expireTime": "2020-01-01T00:00:00Z"}});
    world.patch("run", past).await;
    world.gone("run").await;
    world.operator.stop().await.unwrap();
    let of_leases = |one: &&testkit_kube::control_plane::audit::Request| {
        one.resource == "leases" && one.name == id
    };
    let mut wanted = allowed("role.yaml");
    let enforced = (ENFORCED_ONLY.0.to_owned(), ENFORCED_ONLY.1.to_owned());
    assert!(wanted.remove(&enforced), "{wanted:?}");
    wanted.extend(allowed("leader_election.yaml"));
    eventually("every verb was used, and no other", PATIENCE, async || {
        let all = world.plane.audit().expect("the audit log").of_user(USER);
        let leases = all.requests().iter().filter(of_leases);
        let audit = world.audit();
        let used: BTreeSet<_> = audit
            .requests()
            .iter()
            .chain(leases)
            .map(|one| (one.verb.clone(), one.resource.clone()))
            .collect();
        if used == wanted {
            return Ok(());
        }
        let unused: Vec<_> = wanted.difference(&used).cloned().collect();
        let others: Vec<_> = used.difference(&wanted).cloned().collect();
        Err(format!("never used: {unused:?}; not allowed: {others:?}"))
    })
    .await;
}
