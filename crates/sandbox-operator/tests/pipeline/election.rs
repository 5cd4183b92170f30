//! Two replicas, one of which acts.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit_kube::operator::{NAMESPACE, Operator, USER};
use testkit_kube::wait::{PATIENCE, eventually};

use crate::world::World;

const LEASE: Duration = Duration::from_secs(4);
const SCRIPT: &str = "echo x >> $D/started; until test -e $D/go; do sleep 0.02; done";

/// Flags for an election that no other test takes part in.
fn flags(id: &str) -> Vec<String> {
    vec![
        "--leader-elect".to_owned(),
        format!("--leader-elect-id={id}-{}", std::process::id()),
        format!("--leader-elect-namespace={NAMESPACE}"),
        format!("--leader-elect-lease-duration={}s", LEASE.as_secs()),
        "--leader-elect-renew-deadline=3s".to_owned(),
        "--leader-elect-retry-period=200ms".to_owned(),
    ]
}

/// A place whose operator is the leader, and another that stands by.
async fn two(id: &str) -> Option<(World<'static>, Operator)> {
    let flags = flags(id);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let world = World::new(&flags).await?;
    leads(&world.operator, true).await;
    let standby = world.another_operator("standby", &flags);
    standby.wait_ready().await;
    Some((world, standby))
}

/// Waits until an operator says that it leads, or that it does not.
async fn leads(operator: &Operator, wanted: bool) {
    let line = format!("sandbox_operator_leader {}", u8::from(wanted));
    eventually(&line, PATIENCE, async || {
        let text = operator
            .metrics()
            .await
            .map_err(|error| error.to_string())?;
        if text.lines().any(|one| one == line) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
}

#[tokio::test]
async fn only_one_acts_and_hands_over_at_once_when_it_is_told_to_stop() {
    let Some((mut world, standby)) = two("told").await else {
        return;
    };
    world.create(world.draft("run", 3).task(SCRIPT)).await;
    world
        .status("run", "all run", |status| status.task_running == 3)
        .await;
    leads(&standby, false).await;
    assert!(standby.readyz().await.unwrap().contains("another replica"));
    assert!(!standby.log().contains("event"), "{}", standby.log());
    assert_eq!(world.audit().count(USER, "create", "pods"), 3);
    let begun = Instant::now();
    let status = world.operator.stop().await.unwrap();
    assert!(status.success(), "{status}");
    leads(&standby, true).await;
    let took = begun.elapsed();
    assert!(took < LEASE, "the Lease was not given back: {took:?}");
    world.open("go");
    world.completed("run", 3, 0).await;
    world.has_lines("started", 3).await;
}

#[tokio::test]
async fn a_killed_leader_is_followed_after_its_lease_and_no_task_runs_twice() {
    let Some((mut world, standby)) = two("killed").await else {
        return;
    };
    world.create(world.draft("run", 3).task(SCRIPT)).await;
    world
        .status("run", "all run", |status| status.task_running == 3)
        .await;
    let begun = Instant::now();
    world.operator.kill().unwrap();
    world.scale("run", 4).await;
    leads(&standby, true).await;
    // It was renewed a moment before the kill, no longer ago than the period.
    let took = begun.elapsed() + Duration::from_millis(500);
    assert!(
        took >= LEASE,
        "taken from a leader that may still act: {took:?}"
    );
    world.open("go");
    world.completed("run", 4, 0).await;
    world.has_lines("started", 4).await;
}

#[tokio::test]
async fn a_leader_that_was_cut_off_writes_nothing_any_more_and_ends() {
    let Some((mut world, standby)) = two("cut-off").await else {
        return;
    };
    world.create(world.draft("run", 2).task(SCRIPT)).await;
    world
        .status("run", "all run", |status| status.task_running == 2)
        .await;
    world.operator.signal(Signal::SIGSTOP).unwrap();
    leads(&standby, true).await;
    world.create(world.draft("second", 1).task(SCRIPT)).await;
    world
        .status("second", "it runs", |status| status.task_running == 1)
        .await;
    // Whatever is written from here on is written by the old leader.
    standby.signal(Signal::SIGSTOP).unwrap();
    world.create(world.draft("third", 1).task(SCRIPT)).await;
    world.scale("run", 5).await;
    let before = world.audit();
    world.operator.signal(Signal::SIGCONT).unwrap();
    let status = eventually("the old leader has ended", PATIENCE, async || {
        world.operator.ended().ok_or_else(|| world.operator.log())
    })
    .await;
    assert!(!status.success(), "{status}");
    let reads = ["get", "list", "watch"];
    let audit = world.audit().since(&before);
    let writes = audit
        .requests()
        .iter()
        .filter(|one| one.user == USER && !reads.contains(&one.verb.as_str()));
    let writes: Vec<_> = writes.collect();
    assert!(writes.is_empty(), "{writes:?}");
    world.has_lines("started", 3).await;
    // A third one goes on.
    drop(standby);
    world.operator.launch().unwrap();
    world.open("go");
    world.completed("run", 5, 0).await;
    world.completed("second", 1, 0).await;
    world.completed("third", 1, 0).await;
    world.has_lines("started", 7).await;
}
