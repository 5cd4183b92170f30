//! Operators that are killed at any moment.

use std::collections::BTreeSet;
use std::time::Duration;

use testkit_kube::control_plane::audit::{Audit, Request};
use testkit_kube::wait::{PATIENCE, eventually};

use crate::draft::Draft;
use crate::world::{World, endpoints};

/// Times an operator is killed.
const KILLS: u64 = 24;

/// A small generator of numbers, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[tokio::test]
async fn however_often_the_operator_is_killed_each_task_is_started_once_and_the_end_is_right() {
    let Some(mut world) = World::new(&[]).await else {
        return;
    };
    let seed = std::env::var("PIPELINE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761 + 1);
    print_seed(seed);
    let mut random = Random(seed);
    let dir = world.path("");
    let batch = |name: &str, replicas| {
        let script = format!("echo {name}-$I >> $D/started; sleep 0.3");
        Draft::new(name, replicas, &dir).task(&script).indexed(6)
    };
    for kill in 0..KILLS {
        match kill {
            0 => drop(world.create(batch("a", 4)).await),
            3 => {
                let draft = batch("b", 4).set("spec.taskResourcePolicyWhenCompleted", "Release");
                world.create(draft).await;
            }
            6 => world.scale("a", 6).await,
            9 => drop(world.create(batch("c", 3)).await),
            12 => world.scale("b", 6).await,
            15 => world.scale("a", 5).await,
            18 => world.delete("c").await,
            _ => {}
        }
        // Not to wait for anything: the moment of the fault.
        tokio::time::sleep(Duration::from_millis(random.below(350))).await;
        world.operator.kill().unwrap();
        world.operator.launch().unwrap();
    }
    world.operator.wait_ready().await;
    world.completed("a", 5, 0).await;
    world.completed("b", 6, 0).await;
    world.gone("c").await;
    world.pods_of("a", 5).await;
    world.pods_of("b", 0).await;
    world.pods_of("c", 0).await;
    let mut started = world.lines("started");
    started.sort();
    let each_once: BTreeSet<_> = started.iter().cloned().collect();
    assert_eq!(started.len(), each_once.len(), "{started:?}");
    // Those that were scaled away or deleted may never have been sent.
    let lasting = [
        "a-0", "a-1", "a-2", "a-3", "a-4", "b-0", "b-1", "b-2", "b-3", "b-4", "b-5",
    ];
    assert!(
        lasting.iter().all(|task| each_once.contains(*task)),
        "{started:?}"
    );
    for name in ["a", "b"] {
        settled(&world, name).await;
    }
    nothing_is_written_after_a_restart(&mut world, 5).await;
    assert_eq!(world.lines("started").len(), started.len());
}

#[tokio::test]
async fn an_operator_that_finds_everything_settled_writes_nothing() {
    let Some(mut world) = World::new(&[]).await else {
        return;
    };
    world.create(world.draft("plain", 2)).await;
    world.create(world.draft("over", 2).task("exit 0")).await;
    world
        .create(
            world
                .draft("runs", 2)
                .task("echo x >> $D/started; exec sleep 600"),
        )
        .await;
    let released = world.draft("released", 2).task("exit 3");
    world
        .create(released.set("spec.taskResourcePolicyWhenCompleted", "Release"))
        .await;
    world.condition("plain", "Ready").await;
    world.completed("over", 2, 0).await;
    world.completed("released", 0, 2).await;
    world.pods_of("released", 0).await;
    world
        .status("released", "no Pods", |status| status.replicas == 0)
        .await;
    world
        .status("runs", "both run", |status| status.task_running == 2)
        .await;
    for name in ["plain", "over", "runs", "released"] {
        settled(&world, name).await;
    }
    nothing_is_written_after_a_restart(&mut world, 4).await;
    world.has_lines("started", 2).await;
}

/// Waits until an object says all there is to say of its Pods; what is not urgent is written a moment later.
async fn settled(world: &World<'_>, name: &str) {
    eventually(&format!("{name} is settled"), PATIENCE, async || {
        let batch = world.batches.get(name).await.unwrap();
        let mut addresses = Vec::new();
        for index in 0..batch.spec.replicas {
            let pod = world
                .pods
                .get_opt(&format!("{name}-{index}"))
                .await
                .unwrap();
            let address = pod.and_then(|pod| pod.status?.pod_ip);
            addresses.push(address.unwrap_or_default());
        }
        let shown = endpoints(&batch);
        let status = batch.status.unwrap_or_default();
        let there = addresses
            .iter()
            .filter(|address| !address.is_empty())
            .count();
        let counted = [status.replicas, status.allocated, status.ready].map(usize::try_from);
        if shown == addresses && counted.iter().all(|count| *count == Ok(there)) {
            Ok(())
        } else {
            Err(format!("{addresses:?} {shown:?} {status:?}"))
        }
    })
    .await;
}

/// Restarts the operator and waits until it has asked all agents, of which there are so many.
async fn nothing_is_written_after_a_restart(world: &mut World<'_>, agents: u64) {
    // In order, so that nothing is under way.
    world.operator.stop().await.unwrap();
    let before = world.audit();
    world.operator.launch().unwrap();
    world.operator.wait_ready().await;
    eventually("all agents were asked", PATIENCE, async || {
        let text = world.operator.metrics().await.unwrap_or_default();
        let calls = text.lines().find_map(|line| {
            let rest = line.strip_prefix("sandbox_operator_agent_calls_total{result=\"ok\"} ")?;
            rest.parse::<u64>().ok()
        });
        calls.filter(|calls| *calls >= agents).ok_or(text)
    })
    .await;
    // What it had to say of what it has heard would be said before it has made this.
    world.create(world.draft("canary", 1)).await;
    world.condition("canary", "Ready").await;
    let canary = world.batches.get("canary").await.unwrap();
    world.event(&canary, "Ready").await;
    // The log may be a moment behind.
    eventually("only the canary was written", PATIENCE, async || {
        only_of_canary(world, &before).await
    })
    .await;
    world.delete("canary").await;
    world.gone("canary").await;
}

/// Whether all writes since then have to do with the batch `canary`.
async fn only_of_canary(world: &World<'_>, before: &Audit) -> Result<(), String> {
    let audit = world.audit().since(before);
    let reads = ["get", "list", "watch"];
    let is_write = |one: &&Request| !reads.contains(&one.verb.as_str());
    let writes: Vec<_> = audit.requests().iter().filter(is_write).collect();
    // The generated names of events are not logged.
    let of_canary = |one: &Request| one.resource == "events" || one.name.starts_with("canary");
    let told = writes.iter().filter(|one| one.resource == "events").count();
    if writes.iter().all(|one| of_canary(one)) && told == world.told_of("canary").await {
        return Ok(());
    }
    Err(format!("{told} events, {writes:?}"))
}

#[expect(clippy::print_stdout, reason = "shown with a failed test")]
fn print_seed(seed: u64) {
    println!("to repeat it: PIPELINE_SEED={seed}");
}
