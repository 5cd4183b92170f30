//! Sidecar mode over time: containers that come, go and come again, agents that are killed,
//! and trees that hide.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testkit::agent::{Agent, PATIENCE, Setup};
use testkit::target::{HOST_NAME, Layout, Plan, Target, need_namespaces};
use testkit::{eventually, place};

const PROGRAM: &str = env!("CARGO_BIN_EXE_task-executor");

fn setup(name: &str) -> Setup {
    Setup::new(PROGRAM)
        .flag("--enable-sidecar-mode")
        .flag(format!("--main-container-name={name}"))
        .flag("--reconcile-interval=50ms")
}

fn both(name: &str, test: impl Fn(&mut Agent, &mut Target, &Plan)) {
    if !need_namespaces() {
        return;
    }
    for layout in Layout::ALL {
        let name = format!("{name}-{layout:?}");
        let plan = Plan::new(&name, layout).shell(&format!("echo {layout:?} >layout"));
        let mut target = plan.start();
        test(&mut setup(&name).start(), &mut target, &plan);
    }
}

fn sh(script: &str) -> Value {
    json!({"process": {"command": ["sh", "-c", script]}})
}

/// A tree that hides: in sessions of its own, without open files, double-forked. It tells the
/// pids as its own PID namespace has them.
const TREE: &str = "trap '' TERM
sleep 1000 &
setsid sh -c 'exec >/dev/null 2>&1 </dev/null; setsid sleep 1000 & setsid sleep 1000 & sleep 1000' &
(setsid sleep 1000 >/dev/null 2>&1 &) &
sleep 0.1
echo ready
wait
sleep 1000";

/// Processes that are sleeping for 1000 seconds inside of the container.
fn sleepers(target: &Target) -> Vec<Pid> {
    let inside = target.namespace("mnt");
    let pids = std::fs::read_dir("/proc").expect("reads");
    pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .filter(|pid| {
            let link = std::fs::read_link(format!("/proc/{pid}/ns/mnt"));
            link.is_ok_and(|link| link.to_string_lossy() == inside)
        })
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline"));
            line.is_ok_and(|line| line == b"sleep\x001000\0")
        })
        .collect()
}

fn grown(agent: &Agent, target: &Target, name: &str) -> Vec<Pid> {
    eventually("the tree has grown", PATIENCE, || {
        let found = sleepers(target);
        (agent.stdout(name).contains("ready") && found.len() >= 5).then_some(found)
    })
}

fn all_gone(pids: &[Pid]) {
    for pid in pids {
        assert!(!place::is_alive(*pid), "{pid} lives");
    }
}

fn reason(agent: &Agent, name: &str) -> Value {
    agent.get(&format!("/tasks/{name}")).1["status"]["state"]["waiting"]["reason"].clone()
}

fn waits(agent: &Agent, name: &str, why: &str) {
    eventually(&format!("{name} waits: {why}"), PATIENCE, || {
        (reason(agent, name) == why).then_some(())
    });
}

#[test]
fn a_deleted_task_takes_its_hidden_tree_along_and_nothing_of_the_container() {
    both("delete", |agent, target, _| {
        let mut spec = sh(TREE);
        spec["terminationGracePeriodSeconds"] = 0.into();
        agent.create("t", &spec);
        let pids = grown(agent, target, "t");
        assert_eq!(agent.delete("/tasks/t"), 204);
        agent.gone("t");
        all_gone(&pids);
        assert!(place::is_alive(target.pid()));
        assert_eq!(
            agent.run("after", &json!({"command": ["true"]}))["exitCode"],
            0
        );
    });
}

#[test]
fn what_a_task_leaves_behind_belongs_to_it_until_it_is_deleted() {
    both("left", |agent, target, _| {
        agent.create(
            "t",
            &sh("setsid sleep 1000 >/dev/null 2>&1 & echo ready; exit 5"),
        );
        assert_eq!(agent.ended("t")["exitCode"], 5);
        let left = eventually("the daemon sleeps", PATIENCE, || {
            let found = sleepers(target);
            (found.len() == 1).then_some(found)
        });
        assert_eq!(agent.delete("/tasks/t"), 204);
        agent.gone("t");
        all_gone(&left);
        let mut spec = sh("setsid sleep 1000 >/dev/null 2>&1 & exit 6");
        spec["process"]["leftoverProcesses"] = "Kill".into();
        agent.create("kill", &spec);
        assert_eq!(agent.ended("kill")["exitCode"], 6);
        eventually("the leftovers are gone", PATIENCE, || {
            sleepers(target).is_empty().then_some(())
        });
        assert!(place::is_alive(target.pid()));
    });
}

#[test]
fn a_stop_signal_reaches_the_command_which_may_answer_it() {
    both("stop", |agent, _, _| {
        let mut spec =
            sh("trap 'echo asked; exit 9' INT; echo ready; while :; do sleep 0.05; done");
        spec["process"]["lifecycle"] = json!({"stopSignal": "SIGINT"});
        spec["timeoutSeconds"] = 1.into();
        agent.create("t", &spec);
        let end = agent.ended("t");
        assert_eq!(
            (&end["reason"], &end["exitCode"]),
            (&json!("TaskTimeout"), &json!(9)),
            "{end}"
        );
        assert_eq!(agent.stdout("t"), "ready\nasked\n");
    });
}

#[test]
fn when_the_container_ends_its_tasks_end_and_new_ones_go_to_the_next() {
    both("restart", |agent, target, plan| {
        let mut spec = sh("echo ready; cat layout; sleep 1000");
        spec["terminationGracePeriodSeconds"] = 1.into();
        agent.create("t", &spec);
        let local = json!({"process": {"command": ["sleep", "1000"], "execMode": "Local"}});
        agent.create("local", &local);
        agent.running("t");
        agent.running("local");
        target.stop();
        let end = agent.ended("t");
        assert_eq!(end["reason"], "Failed", "{end}");
        let signal = end["signal"].as_i64().expect("a signal has ended it");
        assert!([9, 15].contains(&signal), "{end}");
        assert_eq!(end["exitCode"], 128 + signal);
        assert!(
            end["message"].to_string().contains("main container ended"),
            "{end}"
        );
        agent.create("next", &sh("hostname"));
        waits(agent, "next", "MainContainerNotFound");
        *target = plan.start();
        assert_eq!(agent.ended("next")["exitCode"], 0);
        assert_eq!(agent.stdout("next").trim(), HOST_NAME);
        agent.running("local");
    });
}

#[test]
fn a_task_waits_for_its_container_until_its_time_is_over() {
    let agent = setup("never").start();
    let mut spec = sh("true");
    spec["timeoutSeconds"] = 1.into();
    agent.create("t", &spec);
    agent.create("patient", &sh("true"));
    agent.create(
        "beside",
        &json!({"process": {"command": ["true"], "execMode": "Local"}}),
    );
    assert_eq!(agent.ended("beside")["exitCode"], 0);
    waits(&agent, "patient", "MainContainerNotFound");
    let end = agent.ended("t");
    assert_eq!(end["reason"], "TaskTimeout", "{end}");
    assert!(end["startedAt"].is_null(), "{end}");
    assert!(
        end["message"]
            .to_string()
            .contains("SANDBOX_MAIN_CONTAINER=never"),
        "{end}"
    );
    assert_eq!(agent.delete("/tasks/patient"), 204);
    agent.gone("patient");
}

#[test]
fn a_waiting_task_starts_as_soon_as_there_is_a_container_also_with_another_server() {
    if !need_namespaces() {
        return;
    }
    let agent = setup("late").start();
    agent.create("t", &sh("hostname"));
    waits(&agent, "t", "MainContainerNotFound");
    kill(agent.server(), Signal::SIGKILL).expect("is killed");
    agent.wait_healthy();
    waits(&agent, "t", "MainContainerNotFound");
    let _target = Plan::new("late", Layout::Own).start();
    assert_eq!(agent.ended("t")["exitCode"], 0);
    assert_eq!(agent.stdout("t").trim(), HOST_NAME);
}

/// An agent that sees nothing but what is started in its own PID namespace, as in a Pod.
fn in_a_pod(plans: &str) -> Agent {
    let script = format!("mount -t proc proc /proc; {plans} \"$0\" \"$@\" & wait $!");
    Setup::new(PROGRAM)
        .wrapper([
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "sh",
            "-c",
            &script,
        ])
        .flag("--enable-sidecar-mode")
        .flag("--reconcile-interval=50ms")
        .start()
}

#[test]
fn without_a_mark_the_only_other_container_is_the_main_one_and_of_two_neither() {
    if !need_namespaces() {
        return;
    }
    let container = "unshare --mount --uts sh -c 'hostname the-other; exec sleep 1000' &";
    let agent = in_a_pod(container);
    assert_eq!(
        agent.run("t", &json!({"command": ["hostname"]}))["exitCode"],
        0
    );
    assert_eq!(agent.stdout("t").trim(), "the-other");
    drop(agent);
    let agent = in_a_pod(&format!("{container} {container}"));
    agent.create("t", &sh("true"));
    waits(&agent, "t", "MainContainerAmbiguous");
}

#[test]
fn a_killed_server_or_launcher_changes_nothing() {
    both("server", |agent, target, _| {
        let mut spec = sh(TREE);
        spec["terminationGracePeriodSeconds"] = 0.into();
        agent.create("tree", &spec);
        agent.create(
            "code",
            &sh("echo ready; while [ ! -e go ]; do sleep 0.05; done; exit 42"),
        );
        let pids = grown(agent, target, "tree");
        agent.running("code");
        for victim in [agent.launcher(), agent.server()] {
            kill(victim, Signal::SIGKILL).expect("is killed");
            agent.wait_healthy();
        }
        agent.create("go", &sh("touch go"));
        assert_eq!(agent.ended("code")["exitCode"], 42);
        assert_eq!(agent.delete("/tasks/tree"), 204);
        agent.gone("tree");
        all_gone(&pids);
        assert!(place::is_alive(target.pid()));
    });
}

#[test]
fn a_killed_shim_leaves_an_unknown_end_and_no_process() {
    both("shim", |agent, target, _| {
        agent.create("t", &sh(TREE));
        let pids = grown(agent, target, "t");
        let shims = agent.shims();
        assert_eq!(shims.len(), 1);
        kill(shims[0], Signal::SIGKILL).expect("is killed");
        let end = agent.ended("t");
        assert_eq!(
            (&end["reason"], &end["exitCode"]),
            (&json!("Unknown"), &json!(255)),
            "{end}"
        );
        all_gone(&pids);
        assert!(place::is_alive(target.pid()));
    });
}

#[test]
fn a_killed_relay_leaves_an_unknown_end_and_no_process_of_the_command() {
    if !need_namespaces() {
        return;
    }
    let target = Plan::new("relay", Layout::Own).start();
    let agent = setup("relay").start();
    agent.create("t", &sh("echo ready; sleep 1000"));
    let pids = eventually("the command runs", PATIENCE, || {
        let found = sleepers(&target);
        (!found.is_empty()).then_some(found)
    });
    let shim = agent.shims()[0];
    let list = std::fs::read_to_string(format!("/proc/{shim}/task/{shim}/children"));
    let relay = list.expect("reads").trim().parse().expect("is one pid");
    let name = std::fs::read_to_string(format!("/proc/{relay}/comm"));
    assert_eq!(name.expect("reads").trim_end(), "task-relay");
    kill(Pid::from_raw(relay), Signal::SIGKILL).expect("is killed");
    let end = agent.ended("t");
    assert_eq!(
        (&end["reason"], &end["exitCode"]),
        (&json!("Unknown"), &json!(255)),
        "{end}"
    );
    all_gone(&pids);
    assert!(place::is_alive(target.pid()));
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
}

#[test]
fn an_agent_that_is_started_again_goes_on_with_its_tasks() {
    both("again", |agent, target, _| {
        let mut spec = sh(TREE);
        spec["terminationGracePeriodSeconds"] = 0.into();
        agent.create("t", &spec);
        let pids = grown(agent, target, "t");
        agent.restart();
        agent.running("t");
        assert_eq!(agent.delete("/tasks/t"), 204);
        agent.gone("t");
        all_gone(&pids);
    });
}

#[test]
fn two_agents_beside_one_container_do_not_take_each_others_tasks_for_it() {
    both("two", |first, target, plan| {
        let name = format!("two-{:?}", plan.layout());
        let second = setup(&name).start();
        for agent in [&*first, &second] {
            agent.create("t", &sh("sleep 1000"));
            agent.running("t");
        }
        target.stop();
        for agent in [&*first, &second] {
            assert_eq!(agent.ended("t")["reason"], "Failed");
            agent.create("late", &sh("hostname"));
            waits(agent, "late", "MainContainerNotFound");
        }
        *target = plan.start();
        for agent in [&*first, &second] {
            assert_eq!(agent.ended("late")["exitCode"], 0);
        }
    });
}

#[test]
fn a_post_stop_hook_of_a_killed_shim_runs_in_the_container_or_is_given_up() {
    both("hook", |agent, target, _| {
        let mut spec = sh("echo ready; sleep 1000");
        spec["process"]["lifecycle"] =
            json!({"postStop": {"exec": {"command": ["sh", "-c", "hostname; touch hooked"]}}});
        for name in ["t", "without"] {
            agent.create(name, &spec);
            agent.running(name);
        }
        let shims = agent.shims();
        assert_eq!(shims.len(), 2);
        for shim in shims {
            kill(shim, Signal::SIGKILL).expect("is killed");
        }
        for name in ["t", "without"] {
            assert_eq!(agent.ended(name)["reason"], "Unknown");
            assert!(
                agent.stdout(name).contains(HOST_NAME),
                "{}",
                agent.stdout(name)
            );
        }
        agent.create("late", &spec);
        agent.running("late");
        let shim = agent.shims();
        target.stop();
        drop(shim);
        // Nothing can run there any more, and the task is over all the same.
        assert_eq!(agent.ended("late")["reason"], "Failed");
    });
}

#[test]
fn a_hook_that_takes_too_long_is_ended_with_all_that_it_started() {
    both("slow-hook", |agent, target, _| {
        let slow = "trap '' TERM; setsid sleep 1000 >/dev/null 2>&1 & sleep 1000";
        let hook = json!({"exec": {"command": ["sh", "-c", slow], "timeoutSeconds": 1}});
        let mut spec = sh("true");
        spec["process"]["lifecycle"] = json!({"preStart": hook});
        agent.create("before", &spec);
        spec["process"]["lifecycle"] = json!({"postStop": hook});
        agent.create("after", &spec);
        assert_eq!(agent.ended("before")["reason"], "PreStartHookFailed");
        assert_eq!(agent.ended("after")["reason"], "Succeeded");
        for name in ["before", "after"] {
            assert_eq!(agent.delete(&format!("/tasks/{name}")), 204);
            agent.gone(name);
        }
        assert_eq!(sleepers(target), []);
        assert!(place::is_alive(target.pid()));
    });
}
