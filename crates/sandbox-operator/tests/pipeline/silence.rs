//! Agents that are dead or silent.

use std::time::{Duration, Instant};

use testkit_kube::Fault;
use testkit_kube::kubelet::plan::AGENT;

use crate::world::{World, condition, holds};

#[tokio::test]
async fn a_dead_and_a_silent_agent_delay_nobody_and_are_told_of() {
    // Whoever waits for these in turn waits so long.
    let flags = ["--agent-silence=1s", "--agent-timeout=6s"];
    let Some(world) = World::new(&flags).await else {
        return;
    };
    let draft = world.draft("run", 6).task("exit 0");
    let draft = draft.annotated_at(1, AGENT, "none");
    world.create(draft.annotated_at(4, AGENT, "silent")).await;
    world
        .status("run", "all Pods are ready", |status| status.ready == 6)
        .await;
    let ready = Instant::now();
    world
        .status("run", "four are over", |status| status.task_succeed == 4)
        .await;
    let took = ready.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    let batch = world
        .status("run", "four are over and two unknown", |status| {
            (status.task_succeed, status.task_unknown) == (4, 2)
        })
        .await;
    let unreachable = condition(&batch, "AgentUnreachable").expect("it holds");
    let message = unreachable.message.unwrap_or_default();
    assert!(
        message.starts_with("2 agents do not answer; run-1"),
        "{message}"
    );
    let status = batch.status.clone().unwrap_or_default();
    assert!(
        !holds(&status, "TasksCompleted") && !holds(&status, "Ready"),
        "{status:?}"
    );
    world.event(&batch, "AgentUnreachable").await;
}

#[tokio::test]
async fn an_agent_that_comes_back_is_no_longer_unreachable_and_its_task_ran_once() {
    let Some(world) = World::new(&["--agent-silence=500ms"]).await else {
        return;
    };
    let script = "echo x >> $D/started; until test -e $D/go; do sleep 0.02; done";
    world.create(world.draft("run", 2).task(script)).await;
    world
        .status("run", "both run", |status| status.task_running == 2)
        .await;
    world.suffer("run-0", Fault::KillAgent).await;
    world
        .status("run", "one is unknown", |status| {
            (status.task_unknown, status.task_running) == (1, 1)
                && holds(status, "AgentUnreachable")
        })
        .await;
    world.open("go");
    world.suffer("run-0", Fault::StartAgent).await;
    let batch = world.completed("run", 2, 0).await;
    assert!(condition(&batch, "AgentUnreachable").is_none(), "{batch:?}");
    world.has_lines("started", 2).await;
}

#[tokio::test]
async fn a_deletion_waits_for_a_silent_agent_no_longer_than_it_is_told_to() {
    const LIMIT: Duration = Duration::from_secs(2);
    let flags = ["--task-cleanup-timeout=2s", "--agent-timeout=1s"];
    let Some(world) = World::new(&flags).await else {
        return;
    };
    let draft = world.draft("run", 2).task("exec sleep 600");
    world.create(draft.annotated(AGENT, "silent")).await;
    let batch = world
        .status("run", "ready Pods", |status| status.ready == 2)
        .await;
    let begun = Instant::now();
    world.delete("run").await;
    world.gone("run").await;
    let took = begun.elapsed();
    // Times of deletion are in whole seconds.
    assert!(took + Duration::from_secs(1) >= LIMIT, "{took:?}");
    assert!(took < LIMIT + Duration::from_secs(5), "{took:?}");
    let note = world.event(&batch, "TaskCleanupTimedOut").await;
    assert!(note.contains("run-0") && note.contains("run-1"), "{note}");
    world.pods_of("run", 0).await;
}

#[tokio::test]
async fn a_scale_in_waits_for_a_silent_agent_no_longer_than_it_is_told_to() {
    let flags = ["--task-cleanup-timeout=1s", "--agent-timeout=500ms"];
    let Some(world) = World::new(&flags).await else {
        return;
    };
    let draft = world.draft("run", 2).task("exec sleep 600");
    world.create(draft.annotated_at(1, AGENT, "silent")).await;
    let batch = world
        .status("run", "one runs", |status| status.task_running == 1)
        .await;
    world.scale("run", 1).await;
    world.pods_of("run", 1).await;
    let note = world.event(&batch, "TaskCleanupTimedOut").await;
    assert!(note.contains("run-1"), "{note}");
    world
        .status("run", "ready", |status| holds(status, "Ready"))
        .await;
}
