//! The samples that the project ships, applied as they are.

use testkit_kube::manifests;

use crate::world::{World, condition, endpoints, holds, names};

/// Applies a file of `config/samples`.
async fn apply(world: &World<'_>, sample: &str) {
    let path = manifests::project().join("config/samples").join(sample);
    let objects = manifests::read(&path).expect("a manifest");
    let applied = manifests::apply(&world.client, &world.namespace, objects).await;
    applied.expect("applied");
}

#[tokio::test]
async fn sandboxes_without_tasks_are_ready_and_show_their_addresses() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    apply(&world, "batchsandbox.yaml").await;
    let is_shown = |batch: &sandbox_api::crd::BatchSandbox| {
        let all = endpoints(batch);
        all.len() == 3 && all.iter().all(|address| !address.is_empty())
    };
    let batch = world
        .status("plain", "is ready", |status| holds(status, "Ready"))
        .await;
    let status = batch.status.clone().unwrap_or_default();
    assert_eq!((status.replicas, status.allocated, status.ready), (3, 3, 3));
    assert!(!holds(&status, "TasksCompleted"), "{status:?}");
    let patience = testkit_kube::wait::PATIENCE;
    let batch =
        testkit_kube::wait::object(&world.batches, "plain", "addresses", patience, is_shown).await;
    let client = task_client::Client::new(task_client::Options::default());
    for address in endpoints(&batch) {
        let at = format!("{address}:5758").parse().expect("an address");
        // This kubelet asks no probe before it says that a Pod is ready.
        testkit_kube::wait::eventually("an agent is behind it", patience, async || {
            client.health(&task_client::Endpoint::new(at)).await
        })
        .await;
    }
    // Nothing to clean up, so nothing that could hold up a deletion.
    assert_eq!(batch.metadata.finalizers, None);
}

#[tokio::test]
async fn tasks_run_and_complete_and_their_pods_stay() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    apply(&world, "batchsandbox-tasks.yaml").await;
    world
        .status("tasks", "all tasks run", |status| status.task_running == 5)
        .await;
    let batch = world.completed("tasks", 5, 0).await;
    let completed = condition(&batch, "TasksCompleted").expect("it holds");
    assert_eq!(completed.reason.as_deref(), Some("AllSucceeded"));
    assert!(condition(&batch, "TasksFailed").is_none());
    assert_eq!(names(&world.pods_of("tasks", 5).await).len(), 5);
    world.event(&batch, "TasksCompleted").await;
    world.event(&batch, "SuccessfulCreate").await;
}

#[tokio::test]
async fn shards_end_each_in_its_way_and_their_pods_are_given_back() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    apply(&world, "batchsandbox-shards.yaml").await;
    let batch = world.completed("shards", 2, 2).await;
    let failed = condition(&batch, "TasksFailed").expect("it holds");
    assert!(
        failed
            .message
            .unwrap_or_default()
            .starts_with("2 of 4 tasks failed")
    );
    world.pods_of("shards", 0).await;
    let batch = world.completed("shards", 2, 2).await;
    assert!(condition(&batch, "Ready").is_some(), "{batch:?}");
}
