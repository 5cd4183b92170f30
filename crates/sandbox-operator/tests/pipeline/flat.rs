//! Pods with `OpenSandbox`'s agent instead of ours.

use std::net::IpAddr;

use serde_json::json;
use testkit_kube::flat_agent::FlatAgent;
use testkit_kube::kubelet::AGENT_PORT;
use testkit_kube::kubelet::plan::AGENT;
use testkit_kube::wait::{PATIENCE, eventually};

use crate::world::{World, holds};

/// Starts the agent of a Pod once that has an address.
async fn agent_of(world: &World<'_>, pod: &str) -> FlatAgent {
    let has_address = |pod: &k8s_openapi::api::core::v1::Pod| {
        pod.status
            .as_ref()
            .is_some_and(|status| status.pod_ip.is_some())
    };
    let pod = testkit_kube::wait::object(&world.pods, pod, "has an address", PATIENCE, has_address);
    let address = pod.await.status.and_then(|status| status.pod_ip);
    let address: IpAddr = address.unwrap_or_default().parse().expect("an address");
    FlatAgent::start((address, AGENT_PORT).into())
        .await
        .expect("an agent")
}

#[tokio::test]
async fn a_task_runs_once_and_its_end_is_seen_and_a_deletion_clears_the_agent() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let script = "echo x >> $D/started; until test -e $D/go; do sleep 0.02; done; exit 5";
    let draft = world.draft("run", 1).task(script);
    world.create(draft.annotated(AGENT, "none")).await;
    let agent = agent_of(&world, "run-0").await;
    world
        .status("run", "it runs", |status| {
            status.task_running == 1 && holds(status, "Ready")
        })
        .await;
    world.open("go");
    let batch = world.completed("run", 0, 1).await;
    let message = crate::world::condition(&batch, "TasksFailed").and_then(|one| one.message);
    assert!(
        message
            .unwrap_or_default()
            .contains("run-0 with exit code 5")
    );
    // Another process begins with what the agent shows.
    assert_eq!(agent.starts("run-0"), 1);
    world.delete("run").await;
    world.gone("run").await;
    let last = agent
        .journal()
        .into_iter()
        .rev()
        .find(|one| one.path == "/setTasks");
    assert_eq!(last.expect("a request").body, "[]");
    assert_eq!(agent.starts("run-0"), 1);
    world.has_lines("started", 1).await;
}

#[tokio::test]
async fn a_restarted_operator_does_not_start_the_task_of_an_old_agent_again() {
    let Some(mut world) = World::new(&[]).await else {
        return;
    };
    let script = "echo x >> $D/started; until test -e $D/go; do sleep 0.02; done";
    let draft = world.draft("run", 1).task(script);
    world.create(draft.annotated(AGENT, "none")).await;
    let agent = agent_of(&world, "run-0").await;
    world
        .status("run", "it runs", |status| status.task_running == 1)
        .await;
    world.operator.kill().unwrap();
    world.open("go");
    world.operator.launch().unwrap();
    world.completed("run", 1, 0).await;
    assert_eq!(agent.starts("run-0"), 1);
}

#[tokio::test]
async fn a_changed_task_replaces_the_old_one_after_that_is_gone() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let until_stopped = "trap 'echo x >> $D/stopped; exit 0' TERM; while :; do sleep 0.05; done";
    let draft = world
        .draft("run", 1)
        .task(until_stopped)
        .annotated(AGENT, "none");
    world.create(draft.clone()).await;
    let agent = agent_of(&world, "run-0").await;
    world
        .status("run", "it runs", |status| status.task_running == 1)
        .await;
    let process = draft.process("wc -l < $D/stopped >> $D/new");
    world
        .patch(
            "run",
            json!({"spec": {"taskTemplate": {"spec": {"process": process}}}}),
        )
        .await;
    world.completed("run", 1, 0).await;
    assert_eq!(world.lines("new"), ["1"]);
    assert_eq!(agent.starts("run-0"), 2);
}

#[tokio::test]
async fn old_and_new_agents_work_in_one_batch_and_a_scale_in_clears_both() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    let until_stopped = "trap 'echo x >> $D/stopped; exit 0' TERM; while :; do sleep 0.05; done";
    let draft = world.draft("run", 3).task(until_stopped);
    world.create(draft.annotated_at(2, AGENT, "none")).await;
    let agent = agent_of(&world, "run-2").await;
    world
        .status("run", "all run", |status| status.task_running == 3)
        .await;
    world.scale("run", 1).await;
    world.pods_of("run", 1).await;
    world.has_lines("stopped", 2).await;
    eventually("the old agent has nothing", PATIENCE, async || {
        let last = agent.journal().pop();
        if agent.starts("run-2") == 1 {
            Ok(())
        } else {
            Err(last)
        }
    })
    .await;
}
