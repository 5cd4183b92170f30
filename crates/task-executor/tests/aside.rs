//! Damaged records of tasks of which something is left: nothing of them runs on unowned, whoever has been killed as well.

use std::fs;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;
use testkit::agent::{Agent, PATIENCE, Setup};
use testkit::eventually;
use testkit::place::is_alive;
use testkit::task::sh;

const STUBBORN: &str = "trap '' TERM; echo $$; while :; do sleep 1000; done";
const LEAVER: &str = "setsid sleep 1000 & echo $!";

fn start() -> Agent {
    Setup::new(env!("CARGO_BIN_EXE_task-executor")).start()
}

fn dead(what: &str, pids: &[Pid]) {
    eventually(what, PATIENCE, || {
        pids.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}

/// A task that has ended and left a process behind: that process, and its shim.
fn leave(agent: &Agent, name: &str) -> (Pid, Pid) {
    let others = agent.shims();
    agent.run(name, &sh(LEAVER));
    let mut shims = agent.shims();
    shims.retain(|shim| !others.contains(shim));
    (agent.told_pids(name, 1)[0], shims[0])
}

#[test]
fn what_a_finished_task_has_left_ends_when_its_shim_was_killed_and_its_record_is_damaged() {
    let mut agent = start();
    let (plain, first) = leave(&agent, "plain");
    let (torn, second) = leave(&agent, "torn");
    let (moved, third) = leave(&agent, "moved");
    let (spared, fourth) = leave(&agent, "spared");
    agent.stop();
    for shim in [first, second, third, fourth] {
        agent.signal(shim, Signal::SIGKILL);
    }
    dead("the shims are gone", &[first, second, third, fourth]);
    fs::write(agent.dir().join("plain/task.json"), "junk").expect("writes");
    fs::write(agent.dir().join("torn/task.json"), "").expect("writes");
    fs::write(agent.dir().join("torn/run.rec"), "").expect("writes");
    // An agent that was killed right after it had set this one aside.
    let aside = agent.dir().join(".corrupt/moved.1");
    fs::rename(agent.dir().join("moved"), &aside).expect("renames");
    agent.launch();
    agent.wait_healthy();
    dead("what they left is ended", &[plain, torn, moved]);
    assert!(is_alive(spared), "a task with sound records keeps its own");
    agent.delete("/tasks/spared");
    agent.gone("spared");
    assert!(!is_alive(spared));
}

#[test]
fn a_shim_that_is_killed_while_it_ends_what_was_set_aside_leaves_nothing() {
    let mut agent = start();
    agent.create("t", &json!({"process": sh(STUBBORN)}));
    let leader = agent.told_pids("t", 1)[0];
    let shim = agent.shims()[0];
    agent.stop();
    fs::write(agent.dir().join("t/task.json"), "junk").expect("writes");
    agent.launch();
    agent.wait_healthy();
    assert_eq!(agent.get("/tasks/t").0, 404);
    assert!(is_alive(leader), "it has its grace period");
    agent.signal(shim, Signal::SIGKILL);
    dead("the tree is ended", &[leader]);
}

#[test]
fn a_damaged_exit_record_is_an_end_though_the_shim_lives_for_what_was_left() {
    let mut agent = start();
    let (left, shim) = leave(&agent, "t");
    agent.stop();
    fs::write(agent.dir().join("t/exit.rec"), "junk").expect("writes");
    agent.launch();
    agent.wait_healthy();
    let end = agent.ended("t");
    assert_eq!(end["reason"], "Unknown", "{end}");
    assert!(is_alive(left) && is_alive(shim), "until the deletion");
    // It is not closed by that: its orphans are searched for.
    agent.signal(shim, Signal::SIGKILL);
    dead("the shim is gone", &[shim]);
    agent.delete("/tasks/t");
    agent.gone("t");
    assert!(!is_alive(left));
}
