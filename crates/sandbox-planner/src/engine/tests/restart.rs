//! A new engine: what it may do before it knows everything.

use std::collections::BTreeSet;

use super::fixtures::Stage;
use crate::agent::TaskSeen;
use crate::engine::{Engine, Input, Settings};
use crate::fixtures::Is::Ready;
use crate::fixtures::Says::Running;
use crate::fixtures::{Case, batch, now};

/// Two tasks that run, and a status that says so.
fn settled() -> Case {
    let case = batch()
        .replicas(2)
        .task("run")
        .pods(0..2, Ready)
        .agents(0..2, Running);
    let shown = case.planned_status();
    let case = case.status(shown);
    case.annotation(
        "sandbox.opensandbox.io/endpoints",
        r#"["10.0.0.0","10.0.0.1"]"#,
    )
}

#[test]
fn nothing_is_decided_before_all_pods_were_listed() {
    let case = settled();
    let mut engine = Engine::new(Settings::default());
    engine.on(Input::Batch(Box::new(case.object.clone())), now());
    assert_eq!(engine.step(now()), []);
    engine.on(Input::PodsListed(BTreeSet::new()), now());
    assert!(!engine.step(now()).is_empty());
}

#[test]
fn started_in_a_settled_cluster_it_writes_nothing() {
    let mut stage = Stage::of(&settled());
    stage.check(&["set b-0 on uid-0", "set b-1 on uid-1"]);
    stage.wait(3000).hear("uid-0", Ok(TaskSeen::Running));
    stage.check(&[]);
    stage.hear("uid-1", Ok(TaskSeen::Running));
    stage.check(&[]);
    assert_eq!(stage.engine.next_wake(), None);
    stage.wait(3_600_000).check(&[]);
}

#[test]
fn an_agent_that_is_silent_since_the_start_is_told_of_in_the_end() {
    let mut stage = Stage::of(&settled());
    stage.step();
    stage.hear("uid-0", Ok(TaskSeen::Running));
    stage.wait(3000).hear("uid-1", Err("no route"));
    stage.check(&[]);
    stage.wait(9999).check(&[]);
    stage
        .wait(1)
        .check(&["status WaitingForAgents NoAnswer (1 running)"]);
}

#[test]
fn an_agent_of_which_nothing_is_heard_does_not_hold_status_up_for_ever() {
    let mut stage = Stage::of(&settled());
    stage.step();
    stage.wait(19_999).check(&[]);
    stage
        .wait(1)
        .check(&["status WaitingForAgents (0 running)"]);
}

#[test]
fn what_happened_meanwhile_is_told_once_all_agents_have_answered() {
    let mut stage = Stage::of(&settled());
    stage.step();
    stage.hear("uid-0", Ok(crate::fixtures::ended(0)));
    stage.check(&[]);
    stage.hear("uid-1", Ok(crate::fixtures::ended(0)));
    stage.check(&["status PodsReady AllSucceeded (0 running)"]);
}
