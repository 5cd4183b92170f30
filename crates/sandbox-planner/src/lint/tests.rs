//! Each rule of the lint, broken once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::lint;
use crate::agent::{Assignment, Order};
use crate::fixtures::Is::{Deleting, Evicted, Foreign, New, Ready};
use crate::fixtures::Says::{Cleared, Clearing, Running};
use crate::fixtures::{Case, batch, pod};
use crate::plan::{DeleteReason, MetaPatch, Plan, PodAction};

fn plan_of(pods: Vec<PodAction>) -> Plan {
    Plan {
        pods,
        ..Plan::default()
    }
}

fn delete(index: u32, why: DeleteReason) -> PodAction {
    PodAction::Delete {
        name: format!("b-{index}"),
        uid: format!("uid-{index}"),
        why,
    }
}

fn create(index: u32) -> PodAction {
    PodAction::Create { index }
}

#[track_caller]
fn check(before: &Case, plan: &Plan, expected: &[&str]) {
    assert_eq!(before.seen(|seen| lint(seen, plan)), expected);
}

#[test]
fn creations_of_what_is_not_to_be_made_are_found() {
    let plan = plan_of(vec![create(0), create(1), create(1), create(2), create(5)]);
    let before = batch().replicas(3).pod(0, New).pod(2, Foreign);
    let expected = [
        "creates index 0, which exists",
        "creates index 1 twice",
        "creates index 2, whose name is taken",
        "creates index 5, which is not wanted",
    ];
    check(&before, &plan, &expected);
    let over = batch().task("run").release().results(&[0], &[]);
    let plan = plan_of(vec![create(0)]);
    check(&over, &plan, &["creates index 0, whose result is kept"]);
    let expected = ["writes Pods of a batch that is being deleted"];
    check(&batch().deleted(0), &plan, &expected);
}

#[test]
fn deletions_of_what_is_not_to_go_are_found() {
    let before = batch()
        .replicas(1)
        .task("run")
        .pods(0..3, Ready)
        .pod(3, Deleting);
    let before = before.agent(1, Cleared).agent(2, Clearing(60));
    for (action, expected) in [
        (
            delete(0, DeleteReason::ScaleIn),
            "deletes b-0, which is wanted",
        ),
        (
            delete(0, DeleteReason::Lost),
            "deletes b-0, which is not lost",
        ),
        (
            delete(0, DeleteReason::Released),
            "deletes b-0, whose result is not kept",
        ),
        (
            delete(2, DeleteReason::ScaleIn),
            "deletes b-2, whose task was not ended",
        ),
        (
            delete(9, DeleteReason::ScaleIn),
            "deletes b-9 with uid \"uid-9\", which is not ours",
        ),
    ] {
        check(&before, &plan_of(vec![action]), &[expected]);
    }
    let fine = plan_of(vec![delete(1, DeleteReason::ScaleIn)]);
    check(&before, &fine, &[]);
    let twice = plan_of(vec![delete(1, DeleteReason::ScaleIn); 2]);
    check(&before, &twice, &["deletes b-1 twice"]);
    let again = plan_of(vec![delete(0, DeleteReason::ScaleIn)]);
    check(
        &batch().replicas(0).pod(0, Deleting),
        &again,
        &["deletes b-0 again"],
    );
}

#[test]
fn a_name_with_another_uid_is_found() {
    let action = PodAction::Delete {
        name: "b-0".to_owned(),
        uid: String::new(),
        why: DeleteReason::ScaleIn,
    };
    let expected = ["deletes b-0 with uid \"\", which is not ours"];
    check(
        &batch().replicas(0).pod(0, Ready),
        &plan_of(vec![action]),
        &expected,
    );
}

fn orders(index: u32, order: Order) -> Plan {
    let address = pod(index, Ready).address.unwrap();
    let assignment = Assignment { address, order };
    Plan {
        agents: BTreeMap::from([(format!("uid-{index}"), assignment)]),
        ..Plan::default()
    }
}

#[test]
fn wrong_orders_are_found() {
    let ready = batch().task("run").pod(0, Ready);
    let task = Order::Set(Arc::clone(&ready.batch().spec.tasks[0]));
    let set = orders(0, task);
    check(&ready, &set, &[]);
    for (before, expected) in [
        (
            batch().new_task("run").pod(0, Ready),
            "without the finalizer",
        ),
        (
            batch().task("walk").pod(0, Ready),
            "to run a task that is not its own",
        ),
        (
            batch().task("run").pod(0, Deleting),
            "to run a task while it is being deleted",
        ),
        (batch().task("run").pod(0, Evicted), "which is lost"),
        (batch().task("run").pod(0, New), "at a wrong address"),
        (
            batch().task("run").pod(0, Ready).deleted(0),
            "to run a task of a batch that is being deleted",
        ),
        (
            batch().task("run").results(&[0], &[]).pod(0, Ready),
            "to run a task whose result is kept",
        ),
    ] {
        check(&before, &set, &[&format!("has orders for b-0, {expected}")]);
    }
}

#[test]
fn orders_that_contradict_the_rest_are_found() {
    let ready = batch().task("run").pod(0, Ready);
    let set = orders(0, Order::Set(Arc::clone(&ready.batch().spec.tasks[0])));
    let clear = orders(0, Order::Clear);
    check(
        &ready,
        &clear,
        &["has orders for b-0, to end a task that is wanted"],
    );
    let foreign = batch().task("run").pod(0, Foreign);
    check(
        &foreign,
        &set,
        &["has orders for \"uid-0\", which is not ours"],
    );
    let mut both = set;
    both.pods = vec![delete(0, DeleteReason::Lost)];
    let expected = [
        "deletes b-0 and has orders for it",
        "has orders for b-0, which is lost",
    ];
    check(&batch().task("run").pod(0, Evicted), &both, &expected);
}

fn finalizers(after: &[&str]) -> Plan {
    Plan {
        meta: MetaPatch {
            finalizers: Some(after.iter().map(|one| (*one).to_owned()).collect()),
            ..MetaPatch::default()
        },
        ..Plan::default()
    }
}

#[test]
fn wrong_finalizers_are_found() {
    let running = batch().task("run").pod(0, Ready).agent(0, Running);
    let expected = [
        "takes away a finalizer that is needed",
        "takes the finalizer away while b-0 may have a task",
    ];
    check(&running, &finalizers(&[]), &expected);
    let deleted = running.deleted(0);
    check(&deleted, &finalizers(&[]), &expected[1..]);
    check(&deleted.clone().agent(0, Cleared), &finalizers(&[]), &[]);
    let others = deleted.agent(0, Cleared).finalizer("keep");
    check(&others, &finalizers(&[]), &["changes finalizers of others"]);
    let plan = finalizers(&[sandbox_api::crd::TASK_CLEANUP_FINALIZER]);
    check(&batch(), &plan, &["adds a finalizer that is not needed"]);
}

#[test]
fn forgotten_results_are_found() {
    let before = batch()
        .replicas(2)
        .task("run")
        .release()
        .results(&[0, 1], &[]);
    let mut plan = Plan::default();
    let name = sandbox_api::crd::TASK_RESULTS_ANNOTATION.to_owned();
    plan.meta
        .annotations
        .insert(name, r#"{"succeeded":"0"}"#.to_owned());
    check(&before, &plan, &["forgets the results of Some(1)"]);
    check(&before.replicas(1), &plan, &[]);
}

#[test]
fn a_status_that_does_not_add_up_is_found() {
    let before = batch().replicas(2).task("run");
    let mut plan = before.plan();
    let status = plan.status.as_mut().unwrap();
    status.task_running = 1;
    let twice = status.conditions[0].clone();
    status.conditions.push(twice);
    status.conditions[0].status = "False".to_owned();
    let expected = [
        "counts 3 tasks, not 2",
        "has the condition Progressing, which does not hold",
        "has the condition Progressing twice",
    ];
    check(&before, &plan, &expected);
}

#[test]
fn too_much_at_once_is_found() {
    let many = plan_of((0..257).map(create).collect());
    check(&batch().replicas(300), &many, &["has 257 writes to Pods"]);
    let mut expiry = plan_of(vec![create(0)]);
    expiry.expire = true;
    check(&batch(), &expiry, &["does more than to expire"]);
}
