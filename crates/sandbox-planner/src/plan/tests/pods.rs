//! Which Pods are made and deleted, and where they are to be found.

use sandbox_api::crd::ENDPOINTS_ANNOTATION;

use crate::fixtures::Is::{Deleting, Evicted, Foreign, New, Ready};
use crate::fixtures::Says::{Cleared, Clearing, Running};
use crate::fixtures::{batch, check, endpoints, lines, now, seconds};
use crate::plan::PODS_PER_PLAN_MAX;

#[test]
fn missing_pods_are_made_at_once() {
    check(&batch().replicas(3), &["create 0", "create 1", "create 2"]);
}

#[test]
fn pods_that_are_there_are_left_alone() {
    check(&batch().replicas(2).pods(0..2, Ready), &[]);
    check(&batch().replicas(2).pods(0..2, New), &[]);
}

// OpenSandbox 954: an allocated Pod was deleted and never replaced.
#[test]
fn a_deleted_pod_is_made_again() {
    check(&batch().replicas(2).pod(0, Ready), &["create 1"]);
}

#[test]
fn a_pod_on_its_way_out_keeps_its_name_until_it_is_gone() {
    check(&batch().pod(0, Deleting), &[]);
}

#[test]
fn a_lost_pod_is_replaced_under_its_own_index() {
    let evicted = batch().replicas(2).pod(0, Ready).pod(1, Evicted);
    check(&evicted, &["delete b-1 uid-1 Lost"]);
}

#[test]
fn a_pod_of_another_owner_is_not_touched_and_its_name_is_waited_for() {
    check(&batch().replicas(2).pod(0, Foreign), &["create 1"]);
    check(&batch().replicas(0).pod(0, Foreign), &[]);
}

// OpenSandbox 1157, 1159: scaling in was not implemented.
#[test]
fn scaling_in_takes_the_highest_indexes_first() {
    let before = batch().replicas(1).pods(0..4, Ready);
    let expected = [
        "delete b-3 uid-3 ScaleIn",
        "delete b-2 uid-2 ScaleIn",
        "delete b-1 uid-1 ScaleIn",
    ];
    check(&before, &expected);
}

#[test]
fn scaling_in_ends_the_task_before_the_pod() {
    let before = batch().replicas(0).task("run").pod(0, Ready);
    check(&before, &["clear uid-0"]);
    check(&before.clone().agent(0, Clearing(60)), &["clear uid-0"]);
    check(&before.agent(0, Cleared), &["delete b-0 uid-0 ScaleIn"]);
}

#[test]
fn scaling_in_does_not_wait_for_an_agent_that_never_answers() {
    let before = batch().replicas(0).task("run").pod(0, Ready);
    let expected = ["delete b-0 uid-0 ScaleIn", "give up b-0"];
    check(&before.agent(0, Clearing(120)), &expected);
}

#[test]
fn scaling_in_wakes_up_when_the_time_of_an_agent_is_over() {
    let before = batch().replicas(0).task("run").pod(0, Ready);
    assert_eq!(before.plan().wake_at, Some(now() + seconds(120)));
    let later = before.agent(0, Clearing(50));
    assert_eq!(later.plan().wake_at, Some(now() + seconds(70)));
}

#[test]
fn scaling_in_does_not_wait_for_a_pod_without_an_address_or_for_a_lost_one() {
    let before = batch().replicas(0).task("run");
    let expected = ["delete b-0 uid-0 ScaleIn"];
    check(&before.clone().pod(0, New), &expected);
    check(&before.pod(0, Evicted), &expected);
}

// OpenSandbox 102: tasks were not pushed on scale-out.
#[test]
fn scaling_out_makes_pods_and_gives_them_tasks() {
    let before = batch().replicas(3).task("run").pods(0..2, Ready);
    let before = before.agent(0, Running);
    let expected = ["create 2", "set b-0 on uid-0", "set b-1 on uid-1"];
    check(&before, &expected);
}

#[test]
fn a_plan_is_bounded() {
    let plan = batch().replicas(1000).plan();
    assert_eq!(plan.pods.len(), PODS_PER_PLAN_MAX);
    let plan = batch().replicas(0).pods(0..1000, Ready).plan();
    assert_eq!(lines(&plan)[0], "delete b-999 uid-999 ScaleIn");
    assert_eq!(plan.pods.len(), PODS_PER_PLAN_MAX);
}

#[test]
fn endpoints_are_positional_with_gaps() {
    let plan = batch().replicas(4).pod(1, Ready).pod(3, Deleting).plan();
    assert_eq!(endpoints(&plan), Some(r#"["","10.0.0.1","",""]"#));
    assert!(!plan.meta_is_urgent);
}

#[test]
fn endpoints_are_urgent_only_when_all_are_there() {
    let plan = batch().replicas(2).pods(0..2, Ready).plan();
    assert_eq!(endpoints(&plan), Some(r#"["10.0.0.0","10.0.0.1"]"#));
    assert!(plan.meta_is_urgent);
}

#[test]
fn endpoints_are_not_shown_before_there_is_one_and_are_cleared_afterwards() {
    let before = batch().replicas(1);
    assert_eq!(endpoints(&before.plan()), None);
    let shown = before.annotation(ENDPOINTS_ANNOTATION, r#"["10.0.0.0"]"#);
    assert_eq!(endpoints(&shown.plan()), Some(r#"[""]"#));
    assert_eq!(endpoints(&shown.replicas(0).plan()), Some("[]"));
}

#[test]
fn endpoints_that_are_shown_already_are_not_written_again() {
    let before = batch().pod(0, Ready);
    let shown = before.annotation(ENDPOINTS_ANNOTATION, r#"["10.0.0.0"]"#);
    assert!(shown.plan().meta.is_empty());
}

#[test]
fn a_batch_expires_at_its_time_and_not_before() {
    check(&batch().expires_in(-1), &["expire"]);
    check(&batch().expires_in(0), &["expire"]);
    let later = batch().expires_in(60).pod(0, Ready);
    check(&later, &[]);
    assert_eq!(later.plan().wake_at, Some(now() + seconds(60)));
}

#[test]
fn a_batch_that_is_to_be_taken_from_a_pool_makes_no_pods() {
    let pooled = batch().replicas(2).edit(|object| {
        object.spec.template = None;
        object.spec.pool_ref = Some("warm".to_owned());
    });
    check(&pooled, &[]);
}
