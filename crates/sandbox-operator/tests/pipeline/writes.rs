//! How much the API server is asked for.

use testkit_kube::control_plane::audit::Request;
use testkit_kube::wait::{PATIENCE, eventually};

use crate::world::{World, holds};

/// Writes of a whole life besides those to Pods and events: finalizer, endpoints, status, finalizer again.
const LIFE_MAX: usize = 8;
/// Of a life without trouble: created, ready, over.
const EVENTS_MAX: usize = 3;

fn writes(world: &World<'_>) -> Vec<Request> {
    let reads = ["get", "list", "watch"];
    let all = world.audit().requests().to_vec();
    all.into_iter()
        .filter(|one| !reads.contains(&one.verb.as_str()))
        .collect()
}

#[tokio::test]
async fn a_batch_costs_one_write_for_each_pod_and_a_few_however_many_there_are() {
    // Else the number of writes depends on how long things take here.
    let Some(world) = World::new(&["--status-window=30s"]).await else {
        return;
    };
    world.create(world.draft("run", 24).task("sleep 0.2")).await;
    let batch = world.completed("run", 24, 0).await;
    assert!(holds(&batch.status.unwrap_or_default(), "Ready"));
    world.delete("run").await;
    world.gone("run").await;
    let all = writes(&world);
    print_counts(&all);
    let count = |resource: &str| all.iter().filter(|one| one.resource == resource).count();
    assert_eq!(count("pods"), 24, "{all:?}");
    assert!(count("events") <= EVENTS_MAX, "{all:?}");
    let others = all.len() - count("pods") - count("events");
    assert!(others <= LIFE_MAX, "{others}: {all:?}");
    let gets = world
        .audit()
        .count(testkit_kube::operator::USER, "get", "pods");
    assert_eq!(gets, 0);
}

#[tokio::test]
async fn names_that_begin_alike_are_not_confused() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    for name in ["run", "run-1", "run-1-0"] {
        world
            .create(
                world
                    .draft(name, 2)
                    .task(&format!("echo {name} >> $D/started")),
            )
            .await;
    }
    for name in ["run", "run-1", "run-1-0"] {
        world.completed(name, 2, 0).await;
    }
    world.delete("run").await;
    world.gone("run").await;
    eventually("only its Pods go", PATIENCE, async || {
        let pods = world
            .pods
            .list(&kube::api::ListParams::default())
            .await
            .unwrap()
            .items;
        if pods.len() == 4 {
            Ok(())
        } else {
            Err(crate::world::names(&pods))
        }
    })
    .await;
    world.completed("run-1", 2, 0).await;
    world.completed("run-1-0", 2, 0).await;
    world.has_lines("started", 6).await;
}

#[expect(
    clippy::print_stdout,
    reason = "shown with --nocapture and with a failed test"
)]
fn print_counts(all: &[Request]) {
    let of_batches = all
        .iter()
        .filter(|one| one.resource.starts_with("batchsandboxes"));
    println!("{} writes to the batch and its status", of_batches.count());
}
