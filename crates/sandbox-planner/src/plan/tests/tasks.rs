//! Which tasks agents are given, and what is kept of them.

use crate::agent::Order;
use crate::fixtures::Is::{Deleting, Evicted, New, Reachable, Ready};
use crate::fixtures::Says::{Cleared, Clearing, Ended, Running, Silent, Waiting};
use crate::fixtures::{Case, batch, check};

#[test]
fn the_finalizer_comes_before_the_first_task() {
    let before = batch().new_task("run").pod(0, Ready);
    check(&before, &["finalizers [task-cleanup]"]);
    assert!(before.plan().meta_is_urgent);
}

#[test]
fn the_finalizer_is_added_to_those_of_others() {
    let before = batch().finalizer("example.com/keep").new_task("run");
    check(&before, &["finalizers [keep, task-cleanup]", "create 0"]);
}

#[test]
fn a_task_is_set_as_soon_as_there_is_an_address() {
    let before = batch()
        .replicas(2)
        .task("run")
        .pod(0, New)
        .pod(1, Reachable);
    check(&before, &["set b-1 on uid-1"]);
}

// OpenSandbox's agents were bound in the order in which addresses came.
#[test]
fn task_i_runs_on_pod_i_always() {
    let before = batch()
        .replicas(3)
        .task("run")
        .pod(2, Ready)
        .pod(0, New)
        .pod(1, Ready);
    check(&before, &["set b-1 on uid-1", "set b-2 on uid-2"]);
}

#[test]
fn a_task_stays_set_whatever_its_agent_says() {
    let before = batch().task("run").pod(0, Ready);
    for says in [Waiting, Running, Ended(0), Ended(1), Silent(600), Cleared] {
        check(&before.clone().agent(0, says), &["set b-0 on uid-0"]);
    }
}

#[test]
fn a_changed_task_reaches_running_agents() {
    let body = |case: &Case| match &case.plan().agents["uid-0"].order {
        Order::Set(task) => task.body.clone(),
        Order::Clear => String::new(),
    };
    let before = batch().task("run").pod(0, Ready).agent(0, Running);
    let after = before.clone().new_task("walk");
    assert_eq!(
        body(&before),
        r#"[{"name":"b-0","process":{"command":["run"]}}]"#
    );
    assert_eq!(
        body(&after),
        r#"[{"name":"b-0","process":{"command":["walk"]}}]"#
    );
    let status = after.planned_status();
    assert_eq!((status.task_pending, status.task_running), (1, 0));
}

#[test]
fn no_task_is_set_on_a_pod_that_goes() {
    let before = batch()
        .replicas(2)
        .task("run")
        .pod(0, Deleting)
        .pod(1, Evicted);
    check(&before, &["delete b-1 uid-1 Lost"]);
}

#[test]
fn a_removed_task_template_ends_tasks_before_the_finalizer_goes() {
    let without = |case: Case| case.edit(|object| object.spec.task_template = None);
    let running = batch().task("run").pod(0, Ready).agent(0, Running);
    check(&without(running.clone()), &["clear uid-0"]);
    check(
        &without(running.clone().agent(0, Clearing(600))),
        &["clear uid-0"],
    );
    check(&without(running.agent(0, Cleared)), &["finalizers []"]);
    check(
        &without(batch().task("run").pod(0, New)),
        &["finalizers []"],
    );
}

#[test]
fn retain_keeps_the_pod_of_a_task_that_is_over() {
    let before = batch().task("run").pod(0, Ready).agent(0, Ended(0));
    check(&before, &["set b-0 on uid-0"]);
}

#[test]
fn release_keeps_the_result_before_the_pod_goes() {
    let before = batch().replicas(2).task("run").release().pods(0..2, Ready);
    let before = before.agent(0, Ended(0)).agent(1, Ended(7));
    let expected = [
        r#"results {"succeeded":"0","failed":"1"}"#,
        "set b-0 on uid-0",
        "set b-1 on uid-1",
    ];
    check(&before, &expected);
    let kept = before.results(&[0], &[1]);
    let expected = ["delete b-0 uid-0 Released", "delete b-1 uid-1 Released"];
    check(&kept, &expected);
}

#[test]
fn release_never_makes_a_pod_again_whose_task_is_over() {
    let before = batch()
        .replicas(3)
        .task("run")
        .release()
        .results(&[0], &[2]);
    check(&before, &["create 1"]);
}

#[test]
fn release_remembers_across_scaling_what_was_not_scaled_away() {
    let before = batch().task("run").release().results(&[0], &[2]);
    check(
        &before.clone().replicas(1),
        &[r#"results {"succeeded":"0"}"#],
    );
    check(
        &before.replicas(1).results(&[0], &[]).replicas(3),
        &["create 1", "create 2"],
    );
}

#[test]
fn a_result_that_was_heard_from_a_lost_pod_is_kept_before_it_goes() {
    let before = batch()
        .task("run")
        .release()
        .pod(0, Evicted)
        .agent(0, Ended(0));
    check(&before, &[r#"results {"succeeded":"0"}"#]);
    check(&before.results(&[0], &[]), &["delete b-0 uid-0 Released"]);
}

#[test]
fn the_first_word_on_a_result_holds() {
    let before = batch()
        .task("run")
        .release()
        .results(&[0], &[])
        .pod(0, Ready);
    check(&before.agent(0, Ended(1)), &["delete b-0 uid-0 Released"]);
}

#[test]
fn nothing_is_kept_of_a_task_that_still_runs() {
    let before = batch().task("run").release().pod(0, Ready);
    check(&before.agent(0, Running), &["set b-0 on uid-0"]);
}
