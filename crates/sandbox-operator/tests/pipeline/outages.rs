//! An API server that is stopped, killed, or has forgotten what it said before. Each test has one of its own.

use kube::api::DeleteParams;
use nix::sys::signal::Signal;
use testkit_kube::wait::{PATIENCE, eventually};
use testkit_kube::{ControlPlane, Options, operator};

use crate::world::World;

const SCRIPT: &str = "echo x >> $D/started; until test -e $D/go; do sleep 0.02; done";

async fn plane() -> Option<ControlPlane> {
    if !testkit_kube::control_plane::shared::can_start() {
        return None;
    }
    let plane = ControlPlane::start(Options::default())
        .await
        .expect("a control plane");
    plane.install_crds().await.expect("the CRDs");
    operator::install(&plane).await.expect("role and namespace");
    Some(plane)
}

#[tokio::test]
async fn what_happens_while_the_api_server_is_away_is_seen_when_it_is_back() {
    let Some(plane) = plane().await else { return };
    let world = World::on(&plane, &[]).await.may_be_refused();
    world.create(world.draft("run", 3).task(SCRIPT)).await;
    world
        .status("run", "all run", |status| status.task_running == 3)
        .await;
    // When it is back it knows no roles for a moment.
    plane.stop_api_server().await.unwrap();
    world.open("go");
    let failed = "sandbox_operator_watch_failures_total";
    eventually("the operator has noticed", PATIENCE, async || {
        let text = world.operator.metrics().await.unwrap();
        if text.contains(failed) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    world.operator.livez().await.unwrap();
    plane.start_api_server().await.unwrap();
    world.completed("run", 3, 0).await;
    world.has_lines("started", 3).await;
    // And killed, in the middle of much to do.
    world
        .create(world.draft("more", 4).task("echo x >> $D/more"))
        .await;
    plane.kill_api_server().unwrap();
    plane.start_api_server().await.unwrap();
    world.completed("more", 4, 0).await;
    world.has_lines("more", 4).await;
    world.delete("run").await;
    world.gone("run").await;
    world.pods_of("run", 0).await;
}

#[tokio::test]
async fn a_history_that_is_gone_is_listed_anew_and_nothing_is_made_twice() {
    let Some(plane) = plane().await else { return };
    let world = World::on(&plane, &["--agent-silence=5s"])
        .await
        .may_be_refused();
    world.create(world.draft("run", 3).task(SCRIPT)).await;
    world.create(world.draft("goes", 1)).await;
    world
        .status("run", "all run", |status| status.task_running == 3)
        .await;
    world.condition("goes", "Ready").await;
    // While it stands still, the server forgets the versions that it knows.
    world.operator.signal(Signal::SIGSTOP).unwrap();
    plane.stop_api_server().await.unwrap();
    plane.start_api_server().await.unwrap();
    world
        .pods
        .delete("run-1", &DeleteParams::default())
        .await
        .unwrap();
    testkit_kube::wait::gone(&world.pods, "run-1", PATIENCE).await;
    world.delete("goes").await;
    world.gone("goes").await;
    world.pods_of("goes", 0).await;
    world.create(world.draft("new", 1)).await;
    world.scale("run", 4).await;
    plane.kill_api_server().unwrap();
    plane.start_api_server().await.unwrap();
    world.operator.signal(Signal::SIGCONT).unwrap();
    world.condition("new", "Ready").await;
    world
        .status("run", "four run", |status| status.task_running == 4)
        .await;
    let log = world.operator.log();
    assert!(
        log.contains("too old resource version") || log.contains("410"),
        "{log}"
    );
    world.open("go");
    world.completed("run", 4, 0).await;
    // Three, the one that was deleted, and the new one.
    world.has_lines("started", 5).await;
}
