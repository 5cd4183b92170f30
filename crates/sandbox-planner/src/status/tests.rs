//! Tests of status and conditions.

use sandbox_api::crd::BatchPhase;

use crate::fixtures::Is::{self, Crashing, Deleting, Evicted, New, Reachable, Ready, Restarted};
use crate::fixtures::Says::{Ended, Running, Silent, Waiting};
use crate::fixtures::{Case, batch, check_conditions, now, seconds};

/// `replicas/allocated/ready phase`.
#[track_caller]
fn check_counts(before: &Case, expected: &str) {
    let status = before.planned_status();
    let (replicas, allocated, ready) = (status.replicas, status.allocated, status.ready);
    let phase = status.phase.unwrap();
    assert_eq!(
        format!("{replicas}/{allocated}/{ready} {phase:?}"),
        expected
    );
}

/// `pending+running+succeeded+failed+unknown`.
#[track_caller]
fn check_tasks(before: &Case, expected: [i32; 5]) {
    let status = before.planned_status();
    let counts = [
        status.task_pending,
        status.task_running,
        status.task_succeed,
        status.task_failed,
        status.task_unknown,
    ];
    assert_eq!(counts, expected);
}

#[test]
fn pods_are_counted() {
    check_counts(&batch().replicas(2), "0/0/0 Pending");
    let some = batch()
        .replicas(4)
        .pod(0, New)
        .pod(1, Reachable)
        .pod(2, Ready);
    check_counts(&some.clone().pod(3, Deleting), "4/3/1 Succeed");
    check_counts(&some.replicas(2), "3/2/0 Pending");
}

// OpenSandbox 1497: Failed stuck after the cause was gone.
#[test]
fn failed_is_left_when_the_cause_is_gone() {
    check_counts(&batch().pod(0, Crashing), "1/1/0 Failed");
    let failed = batch().pod(0, Crashing).planned_status();
    let better = batch().pod(0, Ready).status(failed);
    check_counts(&better, "1/1/1 Succeed");
    check_conditions(&better, &["Ready (PodsReady): 1 of 1 Pods are ready"]);
}

// OpenSandbox 1722: failures of containers were not surfaced.
#[test]
fn a_container_that_can_not_run_is_named() {
    let before = batch()
        .replicas(3)
        .pod(0, Ready)
        .pod(1, Crashing)
        .pod(2, New);
    let expected = [
        "PodFailed (CrashLoopBackOff): 1/3 observed pods failed; primary reason=CrashLoopBackOff; \
         sample pod=b-1: back-off 10s",
    ];
    check_conditions(&before, &expected);
}

#[test]
fn ready_needs_all_pods() {
    let before = batch().replicas(2).pod(0, Ready);
    let expected = ["Progressing (Creating): 1 of 2 Pods are ready"];
    check_conditions(&before, &expected);
    for is in [New, Reachable, Deleting] {
        check_conditions(&before.clone().pod(1, is), &expected);
    }
}

// OpenSandbox 1692, 1696, 1729, 893: reported ready with no agent answering.
#[test]
fn ready_needs_all_agents_to_answer() {
    let before = batch()
        .replicas(2)
        .task("run")
        .pods(0..2, Ready)
        .agent(0, Running);
    let waiting = ["Progressing (WaitingForAgents): 1 of 2 agents have answered"];
    check_conditions(&before, &waiting);
    let ready = ["Ready (PodsReady): 2 of 2 Pods are ready"];
    check_conditions(&before.agent(1, Waiting), &ready);
}

#[test]
fn a_released_index_does_not_stand_in_for_an_open_one() {
    let before = batch().replicas(2).task("run").release().results(&[0], &[]);
    let before = before.pods(0..2, Ready).agent(0, Ended(0));
    let waiting = ["Progressing (WaitingForAgents): 0 of 1 agents have answered"];
    check_conditions(&before, &waiting);
    let creating = before.pod(1, New).agent(1, Running);
    let expected = ["Progressing (Creating): 1 of 2 Pods are ready"];
    check_conditions(&creating, &expected);
}

#[test]
fn all_given_back_is_ready_and_succeeded() {
    let before = batch()
        .replicas(2)
        .task("run")
        .release()
        .results(&[0, 1], &[]);
    check_counts(&before, "0/0/0 Succeed");
    let expected = [
        "Ready (PodsReady): 2 of 2 Pods were given back, the rest is ready",
        "TasksCompleted (AllSucceeded): 2 tasks succeeded, 0 failed",
    ];
    check_conditions(&before, &expected);
    let without = before.edit(|object| object.spec.task_template = None);
    check_conditions(&without, &expected[..1]);
}

// OpenSandbox 1450: a Pod ran out of memory and was restarted, and nobody could see it.
#[test]
fn a_restart_is_visible_after_the_pod_is_ready_again() {
    let expected = [
        "Ready (PodsReady): 1 of 1 Pods are ready",
        "ContainerRestarted (OOMKilled): 1 of 1 Pods had containers restarted; b-0: container main, 2 times, \
         last OOMKilled",
    ];
    check_conditions(&batch().pod(0, Restarted), &expected);
}

#[test]
fn tasks_add_up_to_the_replicas() {
    let before = batch().replicas(7).task("run").pods(0..6, Ready);
    let before = before
        .agent(0, Running)
        .agent(1, Ended(0))
        .agent(2, Ended(1));
    check_tasks(
        &before.agent(3, Silent(60)).agent(4, Waiting),
        [3, 1, 1, 1, 1],
    );
    check_tasks(&batch().replicas(7), [0; 5]);
}

#[test]
fn a_task_of_a_pod_that_goes_does_not_run() {
    for is in [Deleting, Evicted] {
        let before = batch().task("run").pod(0, is).agent(0, Running);
        check_tasks(&before, [1, 0, 0, 0, 0]);
    }
}

#[test]
fn kept_results_are_counted() {
    let before = batch()
        .replicas(3)
        .task("run")
        .release()
        .results(&[0], &[1]);
    check_tasks(&before, [1, 0, 1, 1, 0]);
}

// OpenSandbox 1662: running though its task had failed.
#[test]
fn the_ends_of_tasks_are_visible() {
    let before = batch().replicas(3).task("run").pods(0..3, Ready);
    let ready = "Ready (PodsReady): 3 of 3 Pods are ready";
    let all = before.clone().agents(0..3, Ended(0));
    let succeeded = "TasksCompleted (AllSucceeded): 3 tasks succeeded, 0 failed";
    check_conditions(&all, &[ready, succeeded]);
    let one = all.agent(2, Ended(7));
    let expected = [
        ready,
        "TasksCompleted (SomeFailed): 2 tasks succeeded, 1 failed",
        "TasksFailed (Failed): 1 of 3 tasks failed: b-2 with exit code 7 (Failed)",
    ];
    check_conditions(&one, &expected);
    let early = before.agents(0..2, Running).agent(2, Ended(7));
    check_conditions(&early, &[ready, expected[2]]);
}

#[test]
fn a_message_names_a_few_failed_tasks_only() {
    let before = batch()
        .replicas(9)
        .task("run")
        .pods(0..9, Ready)
        .agents(0..9, Ended(1));
    let status = before.planned_status();
    let message = status.conditions.last().unwrap().message.clone().unwrap();
    let expected = "9 of 9 tasks failed: b-0 with exit code 1 (Failed), b-1 with exit code 1 (Failed), \
                    b-2 with exit code 1 (Failed)";
    assert_eq!(message, expected);
    assert_eq!(status.conditions[1].reason.as_deref(), Some("AllFailed"));
}

#[test]
fn a_short_silence_changes_nothing_and_is_looked_at_again() {
    let before = batch().task("run").pod(0, Ready).agent(0, Silent(4));
    check_tasks(&before, [0, 1, 0, 0, 0]);
    check_conditions(&before, &["Ready (PodsReady): 1 of 1 Pods are ready"]);
    assert_eq!(before.plan().wake_at, Some(now() + seconds(6)));
}

#[test]
fn a_long_silence_is_told_in_words_that_do_not_change() {
    let before = |ago| {
        batch()
            .replicas(2)
            .task("run")
            .pods(0..2, Ready)
            .agents(0..2, Silent(ago))
    };
    check_tasks(&before(10), [0, 0, 0, 0, 2]);
    let expected = [
        "Progressing (WaitingForAgents): 0 of 2 agents have answered",
        "AgentUnreachable (NoAnswer): 2 agents do not answer; b-0: connection refused",
    ];
    check_conditions(&before(10), &expected);
    let shown = before(600).status(before(10).planned_status());
    assert_eq!(shown.planned_status(), before(10).planned_status());
}

#[test]
fn the_time_of_a_condition_that_goes_on_is_kept() {
    let long_ago = "2020-01-01T00:00:00Z".to_owned();
    let mut shown = batch().pod(0, Ready).planned_status();
    shown.conditions[0].last_transition_time = Some(long_ago.clone());
    shown.conditions[0].message = Some("old words".to_owned());
    let time = |is: Is| {
        let status = batch().pod(0, is).status(shown.clone()).planned_status();
        status.conditions[0].last_transition_time.clone().unwrap()
    };
    assert_eq!(time(Ready), long_ago);
    assert_eq!(time(New), "2023-11-14T22:13:20Z");
}

#[test]
fn the_same_view_gives_the_same_status() {
    let before = batch()
        .replicas(2)
        .task("run")
        .pods(0..2, Ready)
        .agents(0..2, Running);
    let shown = before.clone().status(before.planned_status());
    assert_eq!(shown.planned_status(), before.planned_status());
    assert_eq!(shown.planned_status().phase, Some(BatchPhase::Succeed));
}

#[test]
fn a_pause_is_refused_in_words() {
    let before = batch()
        .pod(0, Ready)
        .edit(|object| object.spec.pause = Some(true));
    let status = before.planned_status();
    assert_eq!(status.conditions[1].type_, "PauseFailed");
    assert_eq!(status.conditions[1].reason.as_deref(), Some("NotSupported"));
}

#[test]
fn the_selector_of_the_scale_subresource_names_the_batch() {
    let expected = "batch-sandbox.sandbox.opensandbox.io/name=b";
    assert_eq!(batch().planned_status().selector.as_deref(), Some(expected));
}

#[test]
fn a_batch_that_waits_for_a_pool_says_that_there_are_none() {
    let pooled = batch().replicas(2).edit(|object| {
        object.spec.template = None;
        object.spec.pool_ref = Some("warm".to_owned());
    });
    check_counts(&pooled, "0/0/0 Pending");
    let status = pooled.planned_status();
    let reasons: Vec<_> = status
        .conditions
        .iter()
        .map(|one| one.reason.as_deref())
        .collect();
    assert_eq!(reasons, [Some("PoolsNotServed")]);
}
