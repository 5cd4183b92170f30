//! Limits of tasks on this machine's own control groups: what holds, what is removed, and
//! what is said when they can't be had.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::agent::{Agent, PATIENCE, Setup};
use testkit::eventually;

fn agent() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_task-executor"))
}

/// Whether tasks can be given a limit here. On the build machine they must be.
#[expect(clippy::print_stdout, reason = "a test that can't do its work says so")]
fn can_be_had(agent: &Agent, limit: &str) -> bool {
    let (_, found) = agent.get("/capabilities");
    let controllers = found["cgroup"]["controllers"].as_array();
    if controllers.is_some_and(|list| list.contains(&json!(limit))) {
        return true;
    }
    let why = &found["cgroup"]["unavailable"];
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "missing prerequisite: {why}"
    );
    println!("skipped: no limit of {limit} can be had: {why}");
    false
}

fn sh(script: &str, limits: &Value) -> Value {
    json!({"command": ["sh", "-c", script], "resources": {"limits": limits}})
}

/// Directories in which this agent has made groups, from its own record.
fn tops(agent: &Agent) -> Vec<PathBuf> {
    let record = fs::read_to_string(agent.dir().join(".agent/cgroups.rec")).unwrap_or_default();
    record.lines().skip(2).map(PathBuf::from).collect()
}

/// The groups of a task that exist.
fn groups(agent: &Agent, task: &Value) -> Vec<PathBuf> {
    let uid = task["uid"].as_str().expect("a uid");
    let dirs = tops(agent).into_iter().map(|top| top.join(uid));
    dirs.filter(|dir| dir.is_dir()).collect()
}

fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn daemon(agent: &Agent, task: &str) -> String {
    eventually("the daemon is there", PATIENCE, || {
        let pid = agent.stdout(task).trim().to_owned();
        (!pid.is_empty()).then_some(pid)
    })
}

/// Kills every process of an agent, but not its tasks.
fn kill_all_of(agent: &mut Agent) {
    agent.signal(agent.init(), Signal::SIGKILL);
    agent.wait();
    agent.signal(agent.server(), Signal::SIGKILL);
    eventually("there is no server", PATIENCE, || {
        agent.try_server().is_none().then_some(())
    });
    for shim in agent.shims() {
        agent.signal(shim, Signal::SIGKILL);
    }
    eventually("there is no shim", PATIENCE, || {
        agent.shims().is_empty().then_some(())
    });
}

#[test]
fn a_task_that_takes_too_much_memory_is_oom_killed() {
    let agent = agent().start();
    if !can_be_had(&agent, "memory") {
        return;
    }
    let limits = json!({"memory": "32Mi"});
    let end = agent.run(
        "greedy",
        &json!({"command": ["tail", "/dev/zero"], "resources": {"limits": limits}}),
    );
    assert_eq!(
        (&end["reason"], &end["exitCode"], &end["signal"]),
        (&json!("OOMKilled"), &json!(137), &json!(9)),
        "{end}"
    );
    let part = agent.run("part", &sh("tail /dev/zero; exit 3", &limits));
    assert_eq!(
        (&part["reason"], &part["exitCode"]),
        (&json!("Failed"), &json!(3))
    );
    let message = part["message"].as_str().expect("a message");
    assert!(
        message.starts_with("a process of it was killed by the kernel"),
        "{message}"
    );
    // Killed by hand within the same limits is not out of memory.
    let killed = agent.run("killed", &sh("kill -9 $$", &limits));
    assert_eq!(
        (&killed["reason"], &killed["exitCode"]),
        (&json!("Failed"), &json!(137))
    );
}

#[test]
fn a_task_can_not_have_more_processes_than_its_limit() {
    let agent = agent().start();
    if !can_be_had(&agent, "pids") {
        return;
    }
    let script = "for i in 1 2 3 4 5; do sleep 987651 & done; echo all";
    let end = agent.run("many", &sh(script, &json!({"pids": "4"})));
    assert_eq!(end["reason"], "Failed", "{end}");
    assert!(!agent.stdout("many").contains("all"));
    let free = agent.run("free", &sh(script, &json!({"pids": 6})));
    assert_eq!(free["reason"], "Succeeded", "{free}");
}

#[test]
fn limits_are_in_the_files_of_the_groups_and_the_groups_go_with_the_task() {
    let agent = agent().start();
    if !can_be_had(&agent, "cpu") || !can_be_had(&agent, "pids") {
        return;
    }
    let limits = json!({"cpu": "250m", "pids": "20"});
    agent.create("t", &json!({"process": sh("exec sleep 987652", &limits)}));
    let task = agent.running("t");
    assert!(task["warnings"].is_null(), "{task}");
    let read = |name: &str| {
        let mut files = groups(&agent, &task).into_iter().map(|dir| dir.join(name));
        files.find_map(|file| fs::read_to_string(file).ok())
    };
    let cpu = read("cpu.max")
        .or_else(|| read("cpu.cfs_quota_us"))
        .expect("a quota");
    assert!(cpu.starts_with("25000"), "{cpu}");
    assert_eq!(read("pids.max").as_deref(), Some("20\n"));
    eventually("it has joined its group", PATIENCE, || {
        (read("cgroup.procs")?.lines().count() == 1).then_some(())
    });
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
    assert_eq!(groups(&agent, &task), Vec::<PathBuf>::new());
}

#[test]
fn groups_of_a_task_that_ended_by_itself_are_removed_while_it_is_kept() {
    let agent = agent().start();
    if !can_be_had(&agent, "pids") {
        return;
    }
    agent.run("t", &sh("exit 0", &json!({"pids": "20"})));
    let (_, task) = agent.get("/tasks/t");
    eventually("its groups are gone", PATIENCE, || {
        groups(&agent, &task).is_empty().then_some(())
    });
}

#[test]
fn a_daemon_whose_shim_was_killed_ends_with_its_task() {
    let agent = agent().start();
    if !can_be_had(&agent, "pids") {
        return;
    }
    // The daemon is nobody's descendant any more when the shim and the shell are gone.
    let script = "setsid sh -c 'echo $$; exec sleep 987653' & wait";
    agent.create("t", &json!({"process": sh(script, &json!({"pids": "20"}))}));
    let task = agent.running("t");
    let daemon = daemon(&agent, "t");
    agent.signal(agent.shims()[0], Signal::SIGKILL);
    assert_eq!(agent.ended("t")["reason"], "Unknown");
    eventually("the daemon has ended", PATIENCE, || {
        (!is_alive(&daemon)).then_some(())
    });
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
    assert_eq!(groups(&agent, &task), Vec::<PathBuf>::new());
}

#[test]
fn what_a_killed_agent_left_is_removed_at_the_next_start() {
    let mut agent = agent().start();
    let other = self::agent().start();
    if !can_be_had(&agent, "pids") {
        return;
    }
    let script = "setsid sh -c 'echo $$; exec sleep 987654' & wait";
    let spec = json!({"process": sh(script, &json!({"pids": "20"}))});
    for name in ["kept", "lost"] {
        agent.create(name, &spec);
    }
    other.create("t", &spec);
    let (kept, lost, foreign) = (
        agent.running("kept"),
        agent.running("lost"),
        other.running("t"),
    );
    let daemons = [daemon(&agent, "kept"), daemon(&agent, "lost")];
    let others = daemon(&other, "t");
    kill_all_of(&mut agent);
    assert!(daemons.iter().all(|pid| is_alive(pid)));
    // As after a crash in the middle of a removal.
    fs::remove_dir_all(agent.dir().join("lost")).expect("is removed");
    agent.launch();
    agent.wait_healthy();
    assert_eq!(groups(&agent, &lost), Vec::<PathBuf>::new());
    assert!(!is_alive(&daemons[1]), "nobody would end it any more");
    assert_eq!(agent.ended("kept")["reason"], "Unknown");
    assert_eq!(agent.delete("/tasks/kept"), 204);
    agent.gone("kept");
    assert_eq!(groups(&agent, &kept), Vec::<PathBuf>::new());
    assert!(!is_alive(&daemons[0]));
    assert!(
        is_alive(&others),
        "the group of another agent is left alone"
    );
    assert!(!groups(&other, &foreign).is_empty());
}

#[test]
fn a_task_started_before_a_restart_loses_its_groups_when_it_is_deleted_after() {
    let mut agent = agent().start();
    if !can_be_had(&agent, "pids") {
        return;
    }
    agent.create(
        "t",
        &json!({"process": sh("exec sleep 987658", &json!({"pids": "20"}))}),
    );
    let task = agent.running("t");
    agent.restart();
    assert_eq!(agent.running("t")["uid"], task["uid"]);
    assert!(
        !groups(&agent, &task).is_empty(),
        "it runs on in its groups"
    );
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
    assert_eq!(groups(&agent, &task), Vec::<PathBuf>::new());
}

/// Mount points of all control group hierarchies.
fn hierarchies() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("reads");
    let mounts = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    mounts
        .filter(|fields| fields.len() > 2 && fields[2].starts_with("cgroup"))
        .map(|fields| fields[1].to_owned())
        .collect()
}

#[test]
fn without_a_writable_cgroup_a_task_runs_and_says_what_it_runs_without() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/unshare").exists() {
        println!("skipped: needs root and unshare");
        return;
    }
    let read_only = "while [ \"$1\" != -- ]; do mount -o remount,bind,ro \"$1\" || exit 9; shift; done; shift; exec \"$@\"";
    let mut wrapper = vec!["unshare", "--mount", "sh", "-c", read_only, "sh"];
    let hierarchies = hierarchies();
    wrapper.extend(hierarchies.iter().map(String::as_str));
    wrapper.push("--");
    let mut agent = agent().wrapper(wrapper).start();
    let limits = json!({"memory": "32Mi", "cpu": "1"});
    let end = agent.run("nested", &sh("exit 0", &limits));
    assert_eq!(end["reason"], "Succeeded", "{end}");
    let flat = json!({"name": "flat", "process": sh("sleep 987659", &limits)});
    assert_eq!(agent.post("/tasks", &flat).0, 201);
    let check = |agent: &Agent| {
        for name in ["nested", "flat"] {
            let task = eventually("it says so", PATIENCE, || {
                let (_, task) = agent.get(&format!("/tasks/{name}"));
                task["warnings"].is_array().then_some(task)
            });
            let warnings: Vec<_> = task["warnings"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            assert_eq!(warnings.len(), 2, "{warnings:?}");
            assert!(
                warnings[0].starts_with("resources.limits.cpu is not enforced: "),
                "{warnings:?}"
            );
            assert!(
                warnings[1].starts_with("resources.limits.memory is not enforced: "),
                "{warnings:?}"
            );
            assert!(
                warnings[1].ends_with("is mounted read-only"),
                "{warnings:?}"
            );
        }
    };
    check(&agent);
    agent.restart();
    check(&agent);
    let (_, found) = agent.get("/capabilities");
    assert_eq!(found["cgroup"]["delegated"], json!(false));
    assert_eq!(found["cgroup"]["controllers"], json!([]));
    assert_eq!(
        found["cgroup"]["unavailable"].as_array().map(Vec::len),
        Some(3)
    );
}
