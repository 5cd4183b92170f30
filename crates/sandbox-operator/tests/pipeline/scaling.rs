//! Changes of a running batch: replicas and templates.

use kube::api::DeleteParams;
use serde_json::json;
use testkit_kube::wait::{PATIENCE, eventually};

use crate::world::{World, condition, holds, names};

const UNTIL_STOPPED: &str =
    "trap 'echo x >> $D/stopped; exit 0' TERM; echo x >> $D/started; while :; do sleep 0.05; done";

#[tokio::test]
async fn a_scale_out_adds_pods_with_tasks_and_touches_no_other() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world
        .create(world.draft("run", 2).task(UNTIL_STOPPED))
        .await;
    world
        .status("run", "two run", |status| status.task_running == 2)
        .await;
    world.scale("run", 4).await;
    let batch = world
        .status("run", "four run", |status| status.task_running == 4)
        .await;
    assert!(condition(&batch, "Ready").is_some() || condition(&batch, "Progressing").is_some());
    let names = names(&world.pods_of("run", 4).await);
    assert_eq!(names, ["run-0", "run-1", "run-2", "run-3"]);
    world.has_lines("started", 4).await;
    assert_eq!(world.lines("stopped").len(), 0);
}

#[tokio::test]
async fn a_scale_in_takes_the_highest_and_stops_a_task_before_its_pod_goes() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    // It needs a while to stop, so that a Pod that does not wait for it goes before.
    let script = "trap 'echo $I >> $D/asked; sleep 0.7; echo $I >> $D/stopped; exit 0' TERM; while :; do sleep 0.05; done";
    world
        .create(world.draft("run", 3).task(script).indexed(3))
        .await;
    world
        .status("run", "all run", |status| status.task_running == 3)
        .await;
    let batch = world.batches.get("run").await.unwrap();
    world.scale("run", 1).await;
    eventually("the Pods go", PATIENCE, async || {
        let stopped = world.lines("stopped").len();
        let pods = world.pods.list(&kube::api::ListParams::default()).await;
        let pods = pods.map_err(|error| error.to_string())?.items;
        let stay =
            |pod: &&k8s_openapi::api::core::v1::Pod| pod.metadata.deletion_timestamp.is_none();
        let staying = pods.iter().filter(stay).count();
        assert!(
            staying + world.lines("stopped").len() >= 3,
            "{staying} Pods, {stopped} stopped"
        );
        if pods.len() == 1 {
            Ok(())
        } else {
            Err(names(&pods).join(" "))
        }
    })
    .await;
    let mut stopped = world.has_lines("stopped", 2).await;
    stopped.sort();
    assert_eq!(stopped, ["1", "2"]);
    assert_eq!(names(&world.pods_of("run", 1).await), ["run-0"]);
    let status = world
        .status("run", "one is left", |status| status.replicas == 1)
        .await;
    assert_eq!(status.status.unwrap_or_default().task_running, 1);
    let note = world.event(&batch, "SuccessfulDelete").await;
    assert!(note.contains("scaled in"), "{note}");
}

#[tokio::test]
async fn a_batch_scaled_to_nothing_and_back_begins_anew() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world
        .create(world.draft("run", 2).task(UNTIL_STOPPED))
        .await;
    world
        .status("run", "two run", |status| status.task_running == 2)
        .await;
    world.scale("run", 0).await;
    world.pods_of("run", 0).await;
    let batch = world
        .status("run", "nothing is left", |status| {
            status.replicas == 0 && holds(status, "Ready")
        })
        .await;
    assert!(condition(&batch, "TasksCompleted").is_none(), "{batch:?}");
    world.has_lines("stopped", 2).await;
    world.scale("run", 3).await;
    world
        .status("run", "three run", |status| status.task_running == 3)
        .await;
    world.has_lines("started", 5).await;
}

#[tokio::test]
async fn a_changed_task_reaches_running_agents_and_runs_once_after_the_old_one_has_ended() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let draft = world.draft("run", 2).task(UNTIL_STOPPED);
    world.create(draft.clone()).await;
    world
        .status("run", "two run", |status| status.task_running == 2)
        .await;
    // Each sees how many old ones have stopped: its own at least.
    let process = draft.process("wc -l < $D/stopped >> $D/new");
    world
        .patch(
            "run",
            json!({"spec": {"taskTemplate": {"spec": {"process": process}}}}),
        )
        .await;
    let batch = world.completed("run", 2, 0).await;
    world.has_lines("stopped", 2).await;
    let seen = world.has_lines("new", 2).await;
    assert!(seen.iter().all(|count| count.trim() >= "1"), "{seen:?}");
    world.has_lines("started", 2).await;
    assert_eq!(batch.status.unwrap_or_default().replicas, 2);
}

#[tokio::test]
async fn a_changed_template_holds_for_pods_that_are_made_from_then_on() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world.create(world.draft("run", 2)).await;
    world.condition("run", "Ready").await;
    let template = json!({"metadata": {"labels": {"is": "new"}}});
    world
        .patch(
            "run",
            json!({"spec": {"template": template, "replicas": 3}}),
        )
        .await;
    world.pods_of("run", 3).await;
    world
        .pods
        .delete("run-0", &DeleteParams::default())
        .await
        .unwrap();
    world
        .status("run", "seen", |status| {
            holds(status, "Ready") && status.ready == 3
        })
        .await;
    let pods = world.pods_of("run", 3).await;
    let is_new: Vec<_> = pods
        .iter()
        .map(|pod| {
            pod.metadata
                .labels
                .as_ref()
                .is_some_and(|labels| labels.contains_key("is"))
        })
        .collect();
    assert_eq!(is_new, [true, false, true]);
}

#[tokio::test]
async fn tasks_end_when_the_task_template_is_taken_away_and_the_pods_stay() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world
        .create(world.draft("run", 2).task(UNTIL_STOPPED))
        .await;
    world
        .status("run", "two run", |status| status.task_running == 2)
        .await;
    world
        .patch("run", json!({"spec": {"taskTemplate": null}}))
        .await;
    world.has_lines("stopped", 2).await;
    let free = |batch: &sandbox_api::crd::BatchSandbox| {
        let finalizers = batch.metadata.finalizers.as_ref();
        finalizers.is_none_or(Vec::is_empty)
    };
    testkit_kube::wait::object(&world.batches, "run", "no finalizer", PATIENCE, free).await;
    world
        .status("run", "no task counts", |status| {
            status.task_running + status.task_succeed + status.task_pending == 0
                && holds(status, "Ready")
        })
        .await;
    world.pods_of("run", 2).await;
    // And when it comes back, they run again.
    let process = world.draft("run", 2).process(UNTIL_STOPPED);
    world
        .patch(
            "run",
            json!({"spec": {"taskTemplate": {"spec": {"process": process}}}}),
        )
        .await;
    world
        .status("run", "two run again", |status| status.task_running == 2)
        .await;
    world.has_lines("started", 4).await;
}

#[tokio::test]
async fn replicas_that_change_to_and_fro_end_at_the_last_word_with_every_task_running() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let script = "trap 'echo x >> $D/stopped; exit 0' TERM; echo x >> $D/started; while :; do sleep 0.05; done";
    world.create(world.draft("run", 1).task(script)).await;
    for replicas in [4, 0, 5, 2, 6, 1, 3] {
        world.scale("run", replicas).await;
    }
    world
        .status("run", "three run", |status| {
            (status.task_running, status.replicas) == (3, 3) && holds(status, "Ready")
        })
        .await;
    assert_eq!(
        names(&world.pods_of("run", 3).await),
        ["run-0", "run-1", "run-2"]
    );
    let running = world.lines("started").len() - world.lines("stopped").len();
    assert_eq!(running, 3);
}

#[tokio::test]
async fn of_tasks_that_change_quickly_the_last_runs_once() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let draft = world.draft("run", 2).task(UNTIL_STOPPED);
    world.create(draft.clone()).await;
    for word in ["one", "two", "three", "last"] {
        let process = draft.process(&format!("echo {word} >> $D/said"));
        world
            .patch(
                "run",
                json!({"spec": {"taskTemplate": {"spec": {"process": process}}}}),
            )
            .await;
    }
    world.completed("run", 2, 0).await;
    let said = world.lines("said");
    assert_eq!(
        said.iter().filter(|word| *word == "last").count(),
        2,
        "{said:?}"
    );
    assert_eq!(world.lines("started").len(), world.lines("stopped").len());
}
