//! Ends: by request and by time.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::world::World;

const UNTIL_STOPPED: &str =
    "trap 'echo x >> $D/stopped; exit 0' TERM; echo x >> $D/started; while :; do sleep 0.05; done";

fn in_seconds(seconds: i64) -> (Timestamp, String) {
    let at = Timestamp::now() + SignedDuration::from_secs(seconds);
    let whole = Timestamp::from_second(at.as_second()).expect("a time");
    (whole, whole.to_string())
}

#[tokio::test]
async fn a_batch_expires_at_its_time_with_its_tasks_stopped() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let (at, text) = in_seconds(8);
    let draft = world
        .draft("run", 2)
        .task(UNTIL_STOPPED)
        .set("spec.expireTime", text);
    let batch = world.create(draft).await;
    world
        .status("run", "two run", |status| status.task_running == 2)
        .await;
    world.gone("run").await;
    let late = Timestamp::now().duration_since(at);
    assert!(!late.is_negative(), "it went {late:?} after its time");
    assert!(
        late < SignedDuration::from_secs(10),
        "it went {late:?} after its time"
    );
    world.has_lines("stopped", 2).await;
    world.event(&batch, "Expired").await;
    world.pods_of("run", 0).await;
}

#[tokio::test]
async fn a_time_in_the_past_means_at_once_and_no_pod_is_made() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let (_, text) = in_seconds(-60);
    world
        .create(
            world
                .draft("run", 2)
                .task("exit 0")
                .set("spec.expireTime", text),
        )
        .await;
    world.gone("run").await;
    assert_eq!(
        world
            .audit()
            .count(testkit_kube::operator::USER, "create", "pods"),
        0
    );
}

#[tokio::test]
async fn a_time_that_is_moved_forward_holds_at_once_and_one_taken_away_no_longer() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let (_, text) = in_seconds(3600);
    for name in ["run", "stays"] {
        world
            .create(world.draft(name, 1).set("spec.expireTime", text.clone()))
            .await;
    }
    world.condition("run", "Ready").await;
    let (_, soon) = in_seconds(5);
    world
        .patch("stays", json!({"spec": {"expireTime": soon}}))
        .await;
    world
        .patch("stays", json!({"spec": {"expireTime": null}}))
        .await;
    world
        .patch("run", json!({"spec": {"expireTime": soon}}))
        .await;
    world.gone("run").await;
    world.condition("stays", "Ready").await;
}

#[tokio::test]
async fn a_deletion_ends_in_every_state() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    // Before Pods exist; while they come; in mid-task; done; never to be ready.
    world
        .create(world.draft("fresh", 3).task(UNTIL_STOPPED))
        .await;
    world.delete("fresh").await;
    world
        .create(world.draft("running", 2).task(UNTIL_STOPPED))
        .await;
    world.create(world.draft("done", 2).task("exit 0")).await;
    let stuck = world.draft("stuck", 2).task("exit 0");
    world
        .create(stuck.annotated("kubelet.test/waiting", "ErrImagePull"))
        .await;
    world.completed("done", 2, 0).await;
    world.condition("stuck", "PodFailed").await;
    world
        .status("running", "two run", |status| status.task_running == 2)
        .await;
    for name in ["running", "done", "stuck"] {
        world.delete(name).await;
    }
    for name in ["fresh", "running", "done", "stuck"] {
        world.gone(name).await;
        world.pods_of(name, 0).await;
    }
    assert_eq!(world.lines("started").len(), world.lines("stopped").len());
}

#[tokio::test]
async fn the_object_goes_only_after_its_tasks_have_stopped() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let slow = "trap 'sleep 0.7; echo x >> $D/stopped; exit 0' TERM; while :; do sleep 0.05; done";
    world.create(world.draft("run", 2).task(slow)).await;
    world
        .status("run", "two run", |status| status.task_running == 2)
        .await;
    world.delete("run").await;
    world.gone("run").await;
    assert_eq!(world.lines("stopped").len(), 2);
}

#[tokio::test]
async fn a_deleted_batch_is_not_ready_any_more_while_it_waits() {
    let Some(world) = World::new(&["--task-cleanup-timeout=1m"]).await else {
        return;
    };
    let stubborn = "trap '' TERM; echo x >> $D/started; while :; do sleep 0.05; done";
    let draft = world.draft("run", 1).task(stubborn);
    let draft = draft.set("spec.taskTemplate.spec.terminationGracePeriodSeconds", 3);
    world.create(draft).await;
    world.has_lines("started", 1).await;
    world.condition("run", "Ready").await;
    world.delete("run").await;
    let patience = Duration::from_secs(2);
    let is_draining = |batch: &sandbox_api::crd::BatchSandbox| {
        let status = batch.status.clone().unwrap_or_default();
        !crate::world::holds(&status, "Ready")
    };
    testkit_kube::wait::object(&world.batches, "run", "not ready", patience, is_draining).await;
    world.gone("run").await;
}

#[tokio::test]
async fn a_batch_of_the_same_name_can_be_made_at_once_and_gets_pods_of_its_own() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    for round in 0..3 {
        let created = world
            .create(world.draft("run", 2).task(UNTIL_STOPPED))
            .await;
        let batch = world
            .status("run", "two run", |status| status.task_running == 2)
            .await;
        assert_eq!(batch.metadata.uid, created.metadata.uid);
        let owner = |pod: &k8s_openapi::api::core::v1::Pod| {
            let owners = pod.metadata.owner_references.clone().unwrap_or_default();
            owners.first().map(|owner| owner.uid.clone())
        };
        for pod in world.pods_of("run", 2).await {
            assert_eq!(owner(&pod), created.metadata.uid);
        }
        world.has_lines("started", 2 * (round + 1)).await;
        world.delete("run").await;
        world.gone("run").await;
    }
}

#[tokio::test]
async fn a_finalizer_of_somebody_else_is_left_and_no_pod_is_made_while_it_holds() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let finalizers = json!(["example.com/mine"]);
    let draft = world.draft("run", 2).task(UNTIL_STOPPED);
    let batch = world
        .create(draft.set("metadata.finalizers", finalizers.clone()))
        .await;
    world
        .status("run", "two run", |status| status.task_running == 2)
        .await;
    world.delete("run").await;
    world.has_lines("stopped", 2).await;
    let only_mine =
        |batch: &sandbox_api::crd::BatchSandbox| json!(batch.metadata.finalizers) == finalizers;
    let patience = testkit_kube::wait::PATIENCE;
    testkit_kube::wait::object(&world.batches, "run", "only one holds", patience, only_mine).await;
    // As the garbage collector does for a deletion in the foreground.
    for pod in ["run-0", "run-1"] {
        world
            .pods
            .delete(pod, &kube::api::DeleteParams::default())
            .await
            .unwrap();
    }
    world.pods_of("run", 0).await;
    world.create(world.draft("later", 1)).await;
    world.condition("later", "Ready").await;
    assert_eq!(
        world
            .audit()
            .count(testkit_kube::operator::USER, "create", "pods"),
        3
    );
    world
        .patch("run", json!({"metadata": {"finalizers": null}}))
        .await;
    world.gone("run").await;
    world.has_lines("started", 2).await;
    let told = world.events(&batch).await;
    assert!(
        told.iter()
            .all(|(reason, _)| reason != "TaskCleanupTimedOut"),
        "{told:?}"
    );
}
