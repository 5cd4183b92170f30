//! When writes are made, joined, and tried again.

use super::fixtures::Stage;
use crate::agent::TaskSeen;
use crate::engine::{Failure, PodOutcome};
use crate::fixtures::Is::Ready;
use crate::fixtures::{batch, ended, pod};

/// The pauses after so many failures in a row, in milliseconds.
fn pauses(count: usize, failure: &Failure) -> Vec<i64> {
    let mut stage = Stage::of(&batch());
    stage.step();
    let pause = |_| {
        stage.wrote(Err(Failure::Stale));
        stage.step();
        stage.wrote_pods(vec![PodOutcome::Failed(failure.clone())]);
        let begun = stage.now;
        for _ in 0..100_000 {
            if stage.step().contains(&"create b-0".to_owned()) {
                break;
            }
            stage.now = stage.engine.next_wake().expect("it wakes up again");
        }
        i64::try_from(stage.now.duration_since(begun).as_millis()).unwrap()
    };
    (0..count).map(pause).collect()
}

// OpenSandbox 969: backoff grew to 1,000 s.
#[test]
fn pauses_after_failures_are_short() {
    let expected = [50, 100, 200, 400, 800, 1600, 2000, 2000];
    assert_eq!(pauses(8, &Failure::Later("busy".to_owned())), expected);
    assert_eq!(pauses(8, &Failure::Stale), expected);
}

#[test]
fn pauses_after_refusals_are_longer_but_end() {
    let expected = [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000];
    assert_eq!(pauses(8, &Failure::Refused("quota".to_owned())), expected);
}

#[test]
fn a_changed_spec_ends_a_pause() {
    let mut stage = Stage::of(&batch());
    stage.step();
    stage.wrote_pods(vec![PodOutcome::Failed(Failure::Refused(
        "quota".to_owned(),
    ))]);
    let lines = stage.step();
    assert!(!lines.contains(&"create b-0".to_owned()), "{lines:?}");
    let mut object = batch().replicas(2).object;
    object.metadata.generation = Some(2);
    stage.batch(&object);
    assert_eq!(stage.step()[..2], ["create b-0", "create b-1"]);
}

#[test]
fn one_write_at_a_time_goes_to_an_object() {
    let mut stage = Stage::of(&batch().pod(0, Ready));
    stage.check(&["write endpoints"]);
    stage.wait(60_000).check(&[]);
    stage.wrote(Err(Failure::Stale));
    stage.check(&[]);
    stage.wait(50).check(&["write endpoints"]);
}

// Finalizer, endpoints, the first status, and the last: however many Pods and tasks there are.
#[test]
fn a_delivery_takes_few_writes() {
    let mut object = batch().replicas(3).new_task("run").object;
    let mut stage = Stage::new([]);
    stage.batch(&object);
    let lines = stage.step();
    assert_eq!(lines[3..], ["write finalizers [task-cleanup]"]);
    stage.done(&mut object);
    let mut writes = 1;
    for index in 0..3 {
        stage.wait(5).pod(pod(index, Ready), 7);
        writes += stage
            .step()
            .iter()
            .filter(|line| line.starts_with("write"))
            .count();
    }
    stage.done(&mut object);
    for index in 0..3 {
        stage
            .wait(5)
            .hear(&format!("uid-{index}"), Ok(TaskSeen::Running));
        let lines = stage.step();
        if lines.iter().any(|line| line.starts_with("status")) {
            writes += 1;
            stage.done(&mut object);
        }
    }
    let lines = stage.wait(1000).step();
    writes += lines
        .iter()
        .filter(|line| line.starts_with("status"))
        .count();
    assert!(writes <= 4, "{writes}");
}

#[test]
fn small_changes_of_status_wait_for_others_and_big_ones_do_not() {
    let mut object = batch().replicas(2).task("run").pods(0..2, Ready).object;
    let mut stage = Stage::new([pod(0, Ready), pod(1, Ready)]);
    stage.batch(&object);
    stage.step();
    stage.done(&mut object);
    stage.check(&["status WaitingForAgents (0 running)"]);
    stage.done(&mut object);
    stage.step();
    stage.hear("uid-0", Ok(TaskSeen::Waiting));
    stage.hear("uid-1", Ok(TaskSeen::Waiting));
    stage.check(&["status PodsReady (0 running)"]);
    stage.done(&mut object);
    stage.step();
    stage.hear("uid-0", Ok(TaskSeen::Running));
    stage.wait(100).check(&[]);
    stage.hear("uid-1", Ok(TaskSeen::Running));
    stage.wait(99).check(&[]);
    stage.wait(1).check(&["status PodsReady (2 running)"]);
    stage.done(&mut object);
    stage.step();
    stage.hear("uid-0", Ok(ended(1)));
    stage.check(&["status PodsReady Failed (1 running)"]);
}

#[test]
fn a_malformed_object_says_so_and_is_left_alone() {
    let case = batch().replicas(3).task("run").pod(0, Ready);
    let wrong = case.edit(|object| object.spec.task_template = Some(serde_json::json!({})));
    let mut object = wrong.object.clone();
    let mut stage = Stage::of(&wrong);
    stage.check(&["status InvalidSpec (0 running)"]);
    stage.done(&mut object);
    assert_eq!(stage.step().len(), 1, "the event");
    stage.wait(3_600_000).check(&[]);
}

#[test]
fn results_that_can_not_be_read_stop_a_batch_before_tasks_run_again() {
    let case = batch().task("run").release().results(&[0], &[]);
    let mut stage = Stage::of(&case);
    stage.step();
    let mut broken = case
        .annotation("sandbox.opensandbox.io/task-results", "zero")
        .object;
    broken.metadata.resource_version = Some("12".to_owned());
    stage.batch(&broken);
    stage.wrote(Err(Failure::Stale));
    stage.wait(100).check(&["status InvalidSpec (0 running)"]);
}

#[test]
fn a_batch_that_is_known_to_be_gone_is_not_deleted_again() {
    let case = batch().expires_in(-1);
    let mut stage = Stage::of(&case);
    stage.check(&["delete", "Normal Expired: its expireTime has come"]);
    stage.wrote(Ok(None));
    stage.check(&[]);
    stage.batch(&case.object);
    stage.wait(60_000).check(&[]);
}

#[test]
fn an_expiry_comes_by_a_timer() {
    let mut stage = Stage::of(&batch().expires_in(60).pod(0, Ready));
    stage.step();
    stage.wrote(Err(Failure::Stale));
    let lines = stage.wait(60_000).step();
    assert_eq!(lines[0], "delete");
}
