//! What users are told: one event for each change, none for each Pod, none again and again.

use super::fixtures::Stage;
use crate::agent::TaskSeen;
use crate::engine::{Failure, PodOutcome};
use crate::fixtures::Is::{New, Ready};
use crate::fixtures::{batch, pod};
use crate::plan::DeleteReason;

fn told(lines: &[String]) -> Vec<&str> {
    let is_told = |line: &&str| line.starts_with("Normal ") || line.starts_with("Warning ");
    lines.iter().map(String::as_str).filter(is_told).collect()
}

#[test]
fn many_pods_are_one_event() {
    let mut stage = Stage::of(&batch().replicas(100));
    stage.step();
    let created = |index| PodOutcome::Created {
        pod: Box::new(pod(index, New)),
        version: 5,
    };
    stage.wrote_pods((0..100).map(created).collect());
    assert_eq!(
        told(&stage.step()),
        ["Normal SuccessfulCreate: created 100 Pods"]
    );
    let lost = |index| PodOutcome::Deleted {
        uid: format!("uid-{index}"),
        why: DeleteReason::Lost,
    };
    stage.wrote_pods((0..100).map(lost).collect());
    let expected = ["Warning PodLost: deleted 100 Pods that were taken away; others are made"];
    assert_eq!(told(&stage.step()), expected);
}

#[test]
fn a_condition_is_told_once_also_if_the_watch_is_faster_than_the_answer() {
    let mut object = batch().pod(0, Ready).object;
    let mut stage = Stage::new([pod(0, Ready)]);
    stage.batch(&object);
    stage.step();
    stage.done(&mut object);
    stage.check(&["status PodsReady (0 running)"]);
    let mut written = object.clone();
    let mut other = Stage::new([]);
    other.asked = stage.asked.clone();
    other.done(&mut written);
    stage.batch(&written);
    assert!(told(&stage.step()).is_empty());
    stage.wrote(Ok(Some(&written)));
    assert_eq!(told(&stage.step()), ["Normal Ready: 1 of 1 Pods are ready"]);
    stage.batch(&written);
    assert!(told(&stage.step()).is_empty());
}

#[test]
fn a_refusal_is_told_once_and_again_after_it_had_passed() {
    let mut stage = Stage::of(&batch());
    stage.step();
    stage.wrote(Err(Failure::Stale));
    let refusal = || vec![PodOutcome::Failed(Failure::Refused("quota".to_owned()))];
    stage.wrote_pods(refusal());
    assert_eq!(told(&stage.step()), ["Warning FailedCreate: quota"]);
    stage.wait(1000).step();
    stage.wrote_pods(refusal());
    assert!(told(&stage.step()).is_empty());
    stage.wait(60_000).step();
    stage.wrote_pods(vec![]);
    stage.step();
    stage.wrote_pods(refusal());
    assert_eq!(told(&stage.step()), ["Warning FailedCreate: quota"]);
}

#[test]
fn an_expiry_is_told_once_however_often_it_is_tried() {
    let mut stage = Stage::of(&batch().expires_in(-1));
    assert_eq!(told(&stage.step()).len(), 1);
    for _ in 0..5 {
        stage.wrote(Err(Failure::Later("busy".to_owned())));
        stage.step();
        assert!(told(&stage.wait(5000).step()).is_empty());
    }
}

#[test]
fn agents_that_are_given_up_are_told_of_once() {
    let mut stage = Stage::of(&batch().replicas(2).task("run").deleted(0).pods(0..2, Ready));
    assert_eq!(stage.step()[..2], ["clear uid-0", "clear uid-1"]);
    stage.hear("uid-0", Ok(TaskSeen::Absent));
    assert!(told(&stage.step()).is_empty());
    stage.wrote(Err(Failure::Stale));
    let expected = [
        "Warning TaskCleanupTimedOut: gave up on 1 agents that did not end their tasks in time, such as b-1",
    ];
    assert_eq!(told(&stage.wait(120_000).step()), expected);
    stage.wrote(Err(Failure::Later("busy".to_owned())));
    assert!(told(&stage.wait(5000).step()).is_empty());
}
