//! Sandboxes of one batch that differ.

use serde_json::json;

use crate::world::{World, condition, endpoints};

#[tokio::test]
async fn each_shard_has_its_own_command_env_and_time_limit_on_the_pod_of_its_index() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let draft = world
        .draft("run", 4)
        .task("echo $I $WORD >> $D/said; exec sleep 600")
        .indexed(3);
    let patches = json!([
        {"spec": {"process": {"args": ["echo $I $WORD >> $D/said"], "env": [{"name": "I", "value": "0"}]}}},
        {"spec": {"timeoutSeconds": 1, "process": {"env": [{"name": "I", "value": "1"}, {"name": "WORD", "value": "one"}]}}},
        {"spec": {"process": {"command": ["true"], "args": null}}},
    ]);
    world
        .create(draft.set("spec.shardTaskPatches", patches))
        .await;
    let batch = world
        .status("run", "the last runs", |status| {
            (status.task_succeed, status.task_failed, status.task_running) == (2, 1, 1)
        })
        .await;
    let mut said = world.lines("said");
    said.sort();
    assert_eq!(said, ["", "0", "1 one"]);
    let client = task_client::Client::new(task_client::Options::default());
    for (index, address) in endpoints(&batch).iter().enumerate() {
        let at = format!("{address}:5758").parse().expect("an address");
        let list = client.get_tasks(&task_client::Endpoint::new(at)).await;
        let names: Vec<_> = list
            .expect("a list")
            .tasks
            .into_iter()
            .map(|task| task.report.name)
            .collect();
        assert_eq!(names, [format!("run-{index}")]);
    }
}

#[tokio::test]
async fn failures_signals_and_time_limits_are_counted_and_named() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let args = |script: &str| json!({"spec": {"process": {"args": [script]}}});
    let patches = json!([
        args("exit 0"),
        args("exit 7"),
        args("kill -KILL $$"),
        {"spec": {"timeoutSeconds": 1, "process": {"args": ["exec sleep 600"]}}},
    ]);
    let draft = world.draft("run", 4).task("exit 0");
    world
        .create(draft.set("spec.shardTaskPatches", patches))
        .await;
    let batch = world.completed("run", 1, 3).await;
    let completed = condition(&batch, "TasksCompleted").expect("it holds");
    assert_eq!(completed.reason.as_deref(), Some("SomeFailed"));
    let message = condition(&batch, "TasksFailed").and_then(|one| one.message);
    let message = message.expect("it holds");
    for part in [
        "3 of 4",
        "run-1 with exit code 7",
        "run-2 with exit code 137",
        "run-3 with exit code 143 (TaskTimeout)",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    world.event(&batch, "TasksFailed").await;
}

#[tokio::test]
async fn shard_patches_label_single_pods_and_add_containers_to_them() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let patches = json!([
        {"metadata": {"labels": {"shard": "first"}}},
        {"spec": {"containers": [{"name": "sidecar", "image": "side:car"}]}},
        {"spec": {"containers": [{"name": "main", "image": "main:two"}]}},
    ]);
    let draft = world.draft("run", 4).set("spec.shardPatches", patches);
    world.create(draft).await;
    let pods = world.pods_of("run", 4).await;
    let seen: Vec<_> = pods
        .iter()
        .map(|pod| {
            let label = pod
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get("shard"))
                .cloned();
            let containers = &pod.spec.as_ref().expect("a spec").containers;
            let mut images: Vec<_> = containers
                .iter()
                .filter_map(|one| one.image.clone())
                .collect();
            images.sort();
            (label, images.join(" "))
        })
        .collect();
    let plain = "sandbox:test".to_owned();
    let expected = [
        (Some("first".to_owned()), plain.clone()),
        (None, "sandbox:test side:car".to_owned()),
        (None, "main:two".to_owned()),
        (None, plain),
    ];
    assert_eq!(seen, expected);
}
