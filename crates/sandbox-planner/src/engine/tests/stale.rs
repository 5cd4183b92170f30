//! News that are old, come twice, or are about something that is gone.

use std::collections::BTreeSet;

use super::fixtures::{Stage, key};
use crate::agent::TaskSeen;
use crate::engine::{Failure, Input, PodOutcome};
use crate::fixtures::Is::{Deleting, Foreign, New, Ready};
use crate::fixtures::{batch, ended, pod};
use crate::plan::DeleteReason;

fn created(index: u32) -> PodOutcome {
    PodOutcome::Created {
        pod: Box::new(pod(index, New)),
        version: 5,
    }
}

#[test]
fn an_event_older_than_our_own_write_is_ignored() {
    let old = batch().new_task("run").pod(0, Ready).object;
    let mut stage = Stage::new([pod(0, Ready)]);
    stage.batch(&old);
    stage.check(&["write endpoints, finalizers [task-cleanup]"]);
    let mut new = old.clone();
    stage.done(&mut new);
    stage.batch(&old);
    let lines = stage.step();
    assert!(lines.contains(&"set b-0 on uid-0".to_owned()), "{lines:?}");
    assert!(
        !lines.iter().any(|line| line.starts_with("write")),
        "{lines:?}"
    );
}

// agent-sandbox 1215, 1266: a stale cache made more and more Pods.
#[test]
fn a_pod_that_was_made_is_not_made_again_before_the_watch_shows_it() {
    let mut stage = Stage::of(&batch().replicas(2));
    assert_eq!(stage.step()[..2], ["create b-0", "create b-1"]);
    stage.check(&[]);
    stage.wrote_pods(vec![created(0), created(1)]);
    stage.check(&["Normal SuccessfulCreate: created 2 Pods"]);
    stage.wait(60_000).check(&[]);
}

#[test]
fn a_pod_that_went_before_its_creation_was_answered_does_not_come_back() {
    let mut stage = Stage::of(&batch());
    stage.step();
    stage.pod(pod(0, New), 5);
    stage.pod_gone("uid-0");
    stage.wrote_pods(vec![created(0)]);
    assert!(stage.step().contains(&"create b-0".to_owned()));
}

#[test]
fn a_created_pod_that_a_list_does_not_have_is_not_believed_in() {
    let mut stage = Stage::of(&batch());
    stage.step();
    stage.on(Input::PodsListed(BTreeSet::new()));
    stage.wrote_pods(vec![created(0)]);
    assert!(stage.step().contains(&"create b-0".to_owned()));
}

#[test]
fn a_deletion_is_not_taken_back_by_an_older_event() {
    let mut stage = Stage::of(&batch().replicas(0).pod(0, Ready));
    assert_eq!(stage.step()[0], "delete uid-0 ScaleIn");
    stage.wrote_pods(vec![PodOutcome::Deleted {
        uid: "uid-0".to_owned(),
        why: DeleteReason::ScaleIn,
    }]);
    stage.pod(pod(0, Ready), 2);
    stage.check(&["Normal SuccessfulDelete: scaled in by 1 Pods"]);
}

#[test]
fn no_task_is_set_on_a_pod_whose_deletion_is_under_way() {
    let case = batch().replicas(0).task("run").pod(0, Ready);
    let mut stage = Stage::of(&case);
    assert_eq!(stage.step()[0], "clear uid-0");
    stage.hear("uid-0", Ok(TaskSeen::Absent));
    assert_eq!(stage.step(), ["forget uid-0", "delete uid-0 ScaleIn"]);
    let mut out = case.replicas(1).object;
    out.metadata.generation = Some(2);
    out.metadata.resource_version = Some("11".to_owned());
    stage.batch(&out);
    stage.check(&[]);
    stage.wrote_pods(vec![PodOutcome::Failed(Failure::Stale)]);
    assert_eq!(stage.step(), ["set b-0 on uid-0"]);
}

#[test]
fn an_answer_to_an_earlier_round_of_the_same_order_says_nothing() {
    let running = batch().task("run").pod(0, Ready);
    let mut stage = Stage::of(&running);
    stage.step();
    let first = stage.round("uid-0");
    stage.hear("uid-0", Ok(TaskSeen::Running));
    stage.step();
    let mut gone = running
        .clone()
        .edit(|object| object.spec.task_template = None);
    gone = gone.edit(|object| {
        object.metadata.generation = Some(2);
        object.metadata.resource_version = Some("20".to_owned());
    });
    stage.batch(&gone.object);
    assert!(stage.step().contains(&"clear uid-0".to_owned()));
    let mut back = running.release().object;
    back.metadata.generation = Some(3);
    back.metadata.resource_version = Some("30".to_owned());
    stage.batch(&back);
    assert!(stage.step().contains(&"set b-0 on uid-0".to_owned()));
    stage.hear_of("uid-0", first, Ok(ended(0)));
    stage.wrote(Err(Failure::Stale));
    let lines = stage.wait(5000).step();
    assert!(
        !lines.iter().any(|line| line.contains("task-results")),
        "{lines:?}"
    );
}

#[test]
fn an_answer_about_a_pod_that_is_gone_is_ignored() {
    let mut stage = Stage::of(&batch().task("run").pod(0, Ready));
    stage.step();
    stage.pod_gone("uid-0");
    stage.hear("uid-0", Ok(TaskSeen::Running));
    assert_eq!(stage.step()[..2], ["forget uid-0", "create b-0"]);
}

// The scheduler of OpenSandbox was keyed by name, not by uid.
#[test]
fn a_batch_made_again_waits_for_the_pods_of_its_predecessor_to_go() {
    let old = batch().task("run").pod(0, Ready);
    let mut stage = Stage::of(&old);
    stage.step();
    stage.on(Input::BatchGone(key()));
    stage.check(&["forget uid-0"]);
    let new = batch().edit(|object| {
        object.metadata.uid = Some("new-uid".to_owned());
        object.metadata.resource_version = Some("40".to_owned());
    });
    stage.batch(&new.object);
    let lines = stage.step();
    assert!(
        !lines.iter().any(|line| line.starts_with("create")),
        "{lines:?}"
    );
    stage.pod(pod(0, Deleting), 9);
    stage.pod_gone("uid-0");
    assert!(stage.step().contains(&"create b-0".to_owned()));
}

#[test]
fn a_missed_deletion_is_seen_in_the_next_list() {
    let mut stage = Stage::of(&batch().task("run").pod(0, Ready));
    stage.step();
    stage.on(Input::PodsListed(BTreeSet::new()));
    assert_eq!(stage.step()[..2], ["forget uid-0", "create b-0"]);
    stage.on(Input::BatchesListed(BTreeSet::new()));
    stage.check(&[]);
    assert!(stage.engine.phases().is_empty());
}

#[test]
fn a_creation_answered_after_its_batch_is_gone_leaves_nothing_behind() {
    let mut stage = Stage::of(&batch());
    stage.step();
    stage.on(Input::BatchGone(key()));
    stage.check(&[]);
    stage.pod(pod(0, New), 5);
    stage.pod_gone("uid-0");
    stage.check(&[]);
    stage.wrote_pods(vec![created(0)]);
    stage.check(&[]);
    stage.batch(&batch().object);
    assert!(stage.step().contains(&"create b-0".to_owned()));
}

#[test]
fn strangers_pods_alone_ask_for_nothing() {
    let mut stage = Stage::new([pod(0, Foreign), pod(1, Ready)]);
    stage.check(&[]);
}

#[test]
fn a_result_heard_from_a_pod_that_vanished_is_kept_and_not_run_again() {
    let mut stage = Stage::of(&batch().task("run").release().pod(0, Ready));
    stage.step();
    stage.hear("uid-0", Ok(ended(0)));
    stage.pod_gone("uid-0");
    stage.wrote(Err(Failure::Stale));
    let lines = stage.wait(5000).step();
    assert_eq!(
        lines,
        ["forget uid-0", "write task-results"].map(str::to_owned)
    );
}
