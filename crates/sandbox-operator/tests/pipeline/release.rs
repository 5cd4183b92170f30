//! What becomes of Pods whose tasks are over.

use crate::world::{World, condition, names};

const GATED: &str =
    "echo $I >> $D/started; until test -e $D/go-$I; do sleep 0.02; done; test $I != 1";

#[tokio::test]
async fn released_pods_go_one_by_one_as_their_tasks_end_and_are_not_made_again() {
    let Some(mut world) = World::new(&[]).await else {
        return;
    };
    let draft = world.draft("run", 3).task(GATED).indexed(3);
    let created = world
        .create(draft.set("spec.taskResourcePolicyWhenCompleted", "Release"))
        .await;
    world
        .status("run", "all run", |status| status.task_running == 3)
        .await;
    world.open("go-1");
    assert_eq!(names(&world.pods_of("run", 2).await), ["run-0", "run-2"]);
    let counts = |status: &sandbox_api::crd::BatchSandboxStatus| {
        (
            status.task_running,
            status.task_succeed,
            status.task_failed,
            status.replicas,
        )
    };
    world
        .status("run", "one has failed", |status| {
            counts(status) == (2, 0, 1, 2)
        })
        .await;
    world.open("go-0");
    assert_eq!(names(&world.pods_of("run", 1).await), ["run-2"]);
    world
        .status("run", "two are over", |status| {
            counts(status) == (1, 1, 1, 1)
        })
        .await;
    world.operator.kill().unwrap();
    world.open("go-2");
    world.operator.launch().unwrap();
    world.operator.wait_ready().await;
    world.pods_of("run", 0).await;
    let batch = world.completed("run", 2, 1).await;
    assert!(condition(&batch, "Ready").is_some(), "{batch:?}");
    world.event(&created, "Released").await;
    // Another operator knows only what is written down.
    world.operator.stop().await.unwrap();
    world.operator.launch().unwrap();
    world.operator.wait_ready().await;
    world.create(world.draft("later", 1)).await;
    world.condition("later", "Ready").await;
    world.completed("run", 2, 1).await;
    world.pods_of("run", 0).await;
    let mut started = world.lines("started");
    started.sort();
    assert_eq!(started, ["0", "1", "2"]);
    world.delete("run").await;
    world.gone("run").await;
}

#[tokio::test]
async fn a_released_batch_that_is_scaled_out_runs_only_the_new_tasks() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let draft = world.draft("run", 2).task("echo x >> $D/started");
    world
        .create(draft.set("spec.taskResourcePolicyWhenCompleted", "Release"))
        .await;
    world.completed("run", 2, 0).await;
    world.pods_of("run", 0).await;
    world.scale("run", 4).await;
    world.completed("run", 4, 0).await;
    world.pods_of("run", 0).await;
    world.has_lines("started", 4).await;
}

#[tokio::test]
async fn retained_pods_stay_and_a_restarted_operator_runs_nothing_again() {
    let Some(mut world) = World::new(&[]).await else {
        return;
    };
    let draft = world.draft("run", 3).task("echo x >> $D/started");
    world
        .create(draft.set("spec.taskResourcePolicyWhenCompleted", "Retain"))
        .await;
    let batch = world.completed("run", 3, 0).await;
    let version = batch.metadata.resource_version;
    let before = world.pods_of("run", 3).await;
    world.operator.kill().unwrap();
    world.operator.launch().unwrap();
    world.operator.wait_ready().await;
    world.create(world.draft("later", 1).task("exit 0")).await;
    world.completed("later", 1, 0).await;
    let after = world.pods_of("run", 3).await;
    let uids = |pods: &[k8s_openapi::api::core::v1::Pod]| {
        pods.iter()
            .map(|pod| pod.metadata.uid.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(uids(&before), uids(&after));
    let batch = world.completed("run", 3, 0).await;
    assert_eq!(batch.metadata.resource_version, version, "{batch:?}");
    world.has_lines("started", 3).await;
}
