//! Pods that go, or whose containers do, in mid-task.

use kube::ResourceExt as _;
use kube::api::DeleteParams;
use testkit_kube::Fault;

use crate::world::{World, condition, holds};

const SCRIPT: &str = "echo x >> $D/started; until test -e $D/go; do sleep 0.02; done";

#[tokio::test]
async fn a_pod_deleted_in_mid_task_is_made_again_and_its_task_is_sent_again_once() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world.create(world.draft("run", 3).task(SCRIPT)).await;
    world
        .status("run", "all run", |status| status.task_running == 3)
        .await;
    let before = world.pods.get("run-1").await.unwrap().uid();
    world
        .pods
        .delete("run-1", &DeleteParams::default())
        .await
        .unwrap();
    world.has_lines("started", 4).await;
    world
        .status("run", "all run again", |status| status.task_running == 3)
        .await;
    let after = world.pods.get("run-1").await.unwrap().uid();
    assert_ne!(before, after);
    world.open("go");
    world.completed("run", 3, 0).await;
    world.has_lines("started", 4).await;
}

#[tokio::test]
async fn a_finished_task_of_a_lost_pod_runs_again_and_the_status_does_not_say_it_is_over_before() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world.create(world.draft("run", 2).task(SCRIPT)).await;
    world.open("go");
    world.completed("run", 2, 0).await;
    std::fs::remove_file(world.path("go")).unwrap();
    world
        .pods
        .delete("run-0", &DeleteParams::default())
        .await
        .unwrap();
    world
        .status("run", "one runs again", |status| {
            (status.task_running, status.task_succeed) == (1, 1) && !holds(status, "TasksCompleted")
        })
        .await;
    world.open("go");
    world.completed("run", 2, 0).await;
    world.has_lines("started", 3).await;
}

#[tokio::test]
async fn an_evicted_pod_is_replaced() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let batch = world.create(world.draft("run", 2).task(SCRIPT)).await;
    world
        .status("run", "all run", |status| status.task_running == 2)
        .await;
    world.suffer("run-0", Fault::Evict).await;
    world.has_lines("started", 3).await;
    world.event(&batch, "PodLost").await;
    world.open("go");
    let batch = world.completed("run", 2, 0).await;
    assert!(condition(&batch, "Ready").is_some(), "{batch:?}");
}

#[tokio::test]
async fn a_container_killed_for_its_memory_is_told_of_and_its_task_is_not_started_again() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world.create(world.draft("run", 2).task(SCRIPT)).await;
    world
        .status("run", "all run", |status| status.task_running == 2)
        .await;
    let reason = "OOMKilled".to_owned();
    world
        .suffer("run-1", Fault::RestartContainer { reason })
        .await;
    let batch = world
        .status("run", "told of", |status| {
            holds(status, "ContainerRestarted") && status.task_failed == 1
        })
        .await;
    let restarted = condition(&batch, "ContainerRestarted").expect("it holds");
    assert_eq!(restarted.reason.as_deref(), Some("OOMKilled"));
    assert!(restarted.message.unwrap_or_default().contains("run-1"));
    world.open("go");
    let batch = world.completed("run", 1, 1).await;
    assert!(condition(&batch, "Ready").is_some(), "{batch:?}");
    world.has_lines("started", 2).await;
    world.event(&batch, "ContainerRestarted").await;
}

#[tokio::test]
async fn a_pod_that_is_not_ready_any_more_takes_ready_away_until_it_is_again() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world.create(world.draft("run", 2)).await;
    world.condition("run", "Ready").await;
    world.suffer("run-0", Fault::Unready).await;
    let batch = world
        .status("run", "not ready", |status| {
            !holds(status, "Ready") && status.ready == 1
        })
        .await;
    assert!(condition(&batch, "Progressing").is_some(), "{batch:?}");
    world.suffer("run-0", Fault::Ready).await;
    world.condition("run", "Ready").await;
}

#[tokio::test]
async fn a_pod_that_can_not_start_is_told_of_and_no_longer_when_it_can() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let waiting = testkit_kube::kubelet::plan::WAITING;
    let draft = world.draft("run", 1).task("exit 0");
    world
        .create(draft.annotated(waiting, "ImagePullBackOff"))
        .await;
    let failed = world.condition("run", "PodFailed").await;
    assert_eq!(failed.reason.as_deref(), Some("ImagePullBackOff"));
    let batch = world.batches.get("run").await.unwrap();
    let status = batch.status.clone().unwrap_or_default();
    assert_eq!(status.phase, Some(sandbox_api::crd::BatchPhase::Failed));
    world.event(&batch, "PodFailed").await;
    let annotations = serde_json::json!({waiting: null});
    let template = serde_json::json!({"template": {"metadata": {"annotations": annotations}}});
    world
        .patch("run", serde_json::json!({"spec": template}))
        .await;
    world
        .pods
        .delete("run-0", &DeleteParams::default())
        .await
        .unwrap();
    let batch = world.completed("run", 1, 0).await;
    assert!(condition(&batch, "PodFailed").is_none(), "{batch:?}");
    let phase = batch.status.and_then(|status| status.phase);
    assert_eq!(phase, Some(sandbox_api::crd::BatchPhase::Succeed));
}
