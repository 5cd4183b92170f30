//! A batch that is being deleted ends its tasks, and never gets stuck.

use crate::fixtures::Is::{Deleting, Evicted, New, Ready};
use crate::fixtures::Says::{Cleared, Clearing, Running, Silent};
use crate::fixtures::{Case, batch, check, check_conditions, now, seconds};

fn deleted() -> Case {
    batch().task("run").deleted(0)
}

#[test]
fn tasks_are_ended_before_the_finalizer_goes() {
    let before = deleted()
        .replicas(2)
        .pods(0..2, Ready)
        .agents(0..2, Running);
    check(&before, &["clear uid-0", "clear uid-1"]);
    let half = before.agent(0, Cleared);
    check(&half, &["clear uid-1"]);
    check(&half.agent(1, Cleared), &["finalizers []"]);
}

#[test]
fn an_agent_that_never_answers_is_given_up() {
    let before = deleted().pod(0, Ready);
    check(&before.clone().agent(0, Clearing(119)), &["clear uid-0"]);
    check(
        &before.agent(0, Clearing(120)),
        &["finalizers []", "give up b-0"],
    );
}

#[test]
fn an_agent_has_its_time_even_if_the_deletion_is_old() {
    let before = batch().task("run").deleted(3600).pod(0, Ready);
    check(&before.clone().agent(0, Running), &["clear uid-0"]);
    check(&before.clone().agent(0, Silent(3600)), &["clear uid-0"]);
    assert_eq!(before.plan().wake_at, Some(now() + seconds(120)));
}

#[test]
fn a_pod_without_an_address_or_taken_away_holds_nothing_up() {
    check(&deleted().pod(0, New), &["finalizers []"]);
    check(&deleted().pod(0, Evicted), &["finalizers []"]);
}

#[test]
fn a_pod_on_its_way_out_is_waited_for_too() {
    check(&deleted().pod(0, Deleting), &["clear uid-0"]);
}

#[test]
fn nothing_allocated_is_no_reason_to_wait() {
    check(&deleted().replicas(5), &["finalizers []"]);
}

#[test]
fn all_released_is_no_reason_to_wait() {
    check(&deleted().release().results(&[0], &[]), &["finalizers []"]);
}

#[test]
fn finalizers_of_others_stay() {
    let before = batch().finalizer("example.com/keep").task("run").deleted(0);
    check(&before, &["finalizers [keep]"]);
    let others = batch()
        .finalizer("example.com/keep")
        .deleted(0)
        .pod(0, Ready);
    check(&others, &[]);
}

#[test]
fn a_malformed_spec_does_not_hold_it_up() {
    let wrong = deleted().pod(0, Ready).agent(0, Running);
    let wrong = wrong.edit(|object| object.spec.task_template = Some(serde_json::json!(7)));
    check(&wrong, &["clear uid-0"]);
    check(&wrong.agent(0, Cleared), &["finalizers []"]);
}

#[test]
fn an_expired_batch_that_is_being_deleted_is_not_deleted_again() {
    check(&batch().expires_in(-5).deleted(1), &[]);
}

#[test]
fn nothing_is_made_for_it_any_more() {
    check(&batch().replicas(3).deleted(1), &[]);
}

// agent-sandbox 275: a sandbox that was being drained still said Ready.
#[test]
fn a_deletion_that_takes_a_while_is_no_longer_ready() {
    let ready = batch().task("run").pod(0, Ready).agent(0, Running);
    let status = ready.planned_status();
    let before = ready.status(status);
    assert_eq!(before.clone().deleted(0).plan().status, None);
    let slow = before.deleted(2);
    let expected = ["Progressing (Terminating): its tasks are being ended"];
    check_conditions(&slow, &expected);
    assert_eq!(slow.planned_status().task_running, 1);
    let shown = slow.clone().status(slow.planned_status());
    assert_eq!(shown.plan().status, shown.object.status);
}
