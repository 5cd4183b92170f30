//! The agent over time: the queue, what expires, log caps, its own stop and restart, and life as PID 1.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use testkit::agent::{PATIENCE, Setup};
use testkit::eventually;
use testkit::place::{self, is_alive, state};
use testkit::task::{check_end, sh};

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_task-executor"))
}

fn scratch(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join(name);
    (dir, file)
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A task that notes its start, then runs until there is a file.
fn waits_for(go: &Path, log: &Path, name: &str) -> Value {
    let script = format!(
        "echo {name} >> {}; while [ ! -e {} ]; do sleep 0.05; done",
        log.display(),
        go.display()
    );
    json!({"process": sh(&script)})
}

#[test]
fn tasks_beyond_the_limit_wait_in_line_and_start_first_in_first_out() {
    let agent = setup().flag("--max-concurrent-tasks=2").start();
    let (_dir, log) = scratch("log");
    // Not in the order of their names, so that the two orders can be told apart.
    let names = ["f", "b", "e", "a", "d", "c"];
    let go = |name: &str| log.with_extension(name);
    for name in names {
        agent.create(name, &waits_for(&go(name), &log, name));
    }
    for name in &names[2..] {
        let waiting = eventually("it is in line", PATIENCE, || {
            let (_, task) = agent.get(&format!("/tasks/{name}"));
            let waiting = task["status"]["state"]["waiting"].clone();
            (waiting["reason"] != "Initialized").then_some(waiting)
        });
        assert_eq!(waiting["reason"], "Queued", "{name}");
    }
    for (index, name) in names.iter().enumerate() {
        let expected = names.len().min(index + 2);
        eventually("two run", PATIENCE, || {
            (lines(&log).len() == expected).then_some(())
        });
        let (_, list) = agent.get("/getTasks");
        let running = list.as_array().expect("a list").iter();
        let running = running.filter(|t| t["status"]["state"]["running"].is_object());
        assert!(running.count() <= 2, "{list}");
        fs::write(go(name), "").expect("writes");
        check_end(&agent.ended(name), "Succeeded", 0, None);
    }
    let mut started = lines(&log);
    // The first two start at once, side by side.
    started[..2].sort();
    assert_eq!(started, ["b", "f", "e", "a", "d", "c"]);
}

#[test]
fn the_line_keeps_its_order_over_a_restart_of_the_agent() {
    let mut agent = setup().flag("--max-concurrent-tasks=1").start();
    let (_dir, log) = scratch("log");
    let go = |name: &str| log.with_extension(name);
    for name in ["c", "b", "a"] {
        agent.create(name, &waits_for(&go(name), &log, name));
    }
    eventually("the first runs", PATIENCE, || {
        (lines(&log).len() == 1).then_some(())
    });
    agent.restart();
    agent.signal(agent.server(), Signal::SIGKILL);
    agent.wait_healthy();
    for name in ["c", "b", "a"] {
        fs::write(go(name), "").expect("writes");
        check_end(&agent.ended(name), "Succeeded", 0, None);
    }
    assert_eq!(lines(&log), ["c", "b", "a"]);
}

#[test]
fn a_daemon_left_behind_takes_no_place_in_the_line() {
    let agent = setup().flag("--max-concurrent-tasks=1").start();
    agent.run("leaver", &sh("setsid sleep 1000 & true"));
    check_end(&agent.run("next", &sh("true")), "Succeeded", 0, None);
}

#[test]
fn a_finished_task_is_removed_after_its_time_and_no_other() {
    let agent = setup().flag("--task-ttl-after-finished=2s").start();
    agent.create("runs", &json!({"process": {"command": ["sleep", "1000"]}}));
    let began = Instant::now();
    let end = agent.run("done", &sh("sleep 1000 & echo $!"));
    check_end(&end, "Succeeded", 0, None);
    let daemon = agent.told_pids("done", 1)[0];
    agent.gone("done");
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "it was kept for a while"
    );
    assert!(!agent.dir().join("done").exists());
    assert!(!is_alive(daemon), "its daemon ends with it");
    agent.running("runs");
}

#[test]
fn without_a_time_to_live_finished_tasks_are_kept_over_restarts() {
    let mut agent = setup().start();
    let ok = agent.run("ok", &sh("exit 0"));
    let failed = agent.run("failed", &sh("echo no >&2; exit 3"));
    let killed = agent.run("killed", &sh("kill -9 $$"));
    let (_, before) = agent.get("/getTasks");
    agent.restart();
    assert_eq!(agent.get("/getTasks").1, before);
    assert_eq!(agent.ended("ok"), ok);
    assert_eq!(agent.ended("failed"), failed);
    assert_eq!(agent.ended("killed"), killed);
}

#[test]
fn a_capped_log_keeps_the_newest_bytes_and_stays_small_on_disk() {
    let agent = setup().flag("--log-max-bytes=64KiB").start();
    let script = "i=0; while [ $i -lt 60000 ]; do echo \"line $i of many that are written\"; i=$((i+1)); done; echo last";
    check_end(&agent.run("t", &sh(script)), "Succeeded", 0, None);
    let file = agent.dir().join("t/stdout.log");
    let used = eventually("the log is small", PATIENCE, || {
        let used = fs::metadata(&file).expect("is there").blocks() * 512;
        (used <= (64 << 10) + 3 * 4096).then_some(used)
    });
    assert!(used > 32 << 10, "the newest bytes are kept, not {used}");
    let log = agent.call("GET", "/tasks/t/logs?stream=stdout&tailLines=1", "");
    assert_eq!(log.text(), "last\n");
    let log = agent.call("GET", "/tasks/t/logs?stream=stdout", "");
    let text = log.text();
    assert!(
        text.len() <= 128 << 10 && text.ends_with("written\nlast\n"),
        "{}",
        text.len()
    );
    assert!(!text.contains('\0'), "what was punched out is not shown");
}

#[test]
fn exits_deletions_and_the_line_need_no_reconcile_interval() {
    let agent = setup()
        .flag("--reconcile-interval=1h")
        .flag("--max-concurrent-tasks=1")
        .start();
    agent.create("first", &json!({"process": {"command": ["sleep", "1000"]}}));
    agent.create(
        "second",
        &json!({"process": sh("setsid sleep 1000 & exit 2")}),
    );
    assert_eq!(agent.delete("/tasks/first"), 204);
    agent.gone("first");
    check_end(&agent.ended("second"), "Failed", 2, None);
    assert_eq!(agent.delete("/tasks/second"), 204);
    agent.gone("second");
    agent.create(
        "third",
        &json!({"process": {"command": ["sleep", "1000"]}, "timeoutSeconds": 1}),
    );
    check_end(&agent.ended("third"), "TaskTimeout", 143, Some(15));
}

#[test]
fn a_stop_keeps_running_tasks_and_the_next_start_takes_them_over() {
    let mut agent = setup().start();
    let (_dir, go) = scratch("go");
    let script = format!(
        "echo $$; while [ ! -e {} ]; do sleep 0.05; done; exit 7",
        go.display()
    );
    agent.create("t", &json!({"process": sh(&script)}));
    let before = agent.running("t");
    let leader = agent.told_pids("t", 1)[0];
    assert_eq!(agent.stop().code(), Some(0));
    assert!(is_alive(leader), "the default policy keeps tasks");
    agent.launch();
    agent.wait_healthy();
    assert_eq!(agent.get("/tasks/t").1, before);
    fs::write(&go, "").expect("writes");
    check_end(&agent.ended("t"), "Failed", 7, None);
    assert_eq!(agent.told_pids("t", 1)[0], leader, "it was started once");
}

#[test]
fn a_task_that_was_taken_over_can_be_deleted_with_its_daemons() {
    let mut agent = setup().start();
    let script = "setsid sleep 1000 & echo $!; sleep 1000";
    agent.create("runs", &json!({"process": sh(script)}));
    let end = agent.run("over", &sh("setsid sleep 1000 & echo $!"));
    check_end(&end, "Succeeded", 0, None);
    let daemons = [agent.told_pids("runs", 1)[0], agent.told_pids("over", 1)[0]];
    agent.restart();
    for name in ["runs", "over"] {
        assert_eq!(agent.delete(&format!("/tasks/{name}")), 204);
        agent.gone(name);
    }
    for daemon in daemons {
        assert!(!is_alive(daemon), "{daemon} runs on");
    }
}

#[test]
fn deadlines_and_grace_hold_while_the_agent_is_down() {
    let mut agent = setup().start();
    let deaf = "trap '' TERM; echo $$; while :; do sleep 0.2; done";
    let spec =
        json!({"process": sh(deaf), "timeoutSeconds": 1, "terminationGracePeriodSeconds": 1});
    agent.create("deadline", &spec);
    let spec = json!({"process": sh(deaf), "terminationGracePeriodSeconds": 2});
    agent.create("deleted", &spec);
    let (deadline, deleted) = (
        agent.told_pids("deadline", 1)[0],
        agent.told_pids("deleted", 1)[0],
    );
    assert_eq!(agent.delete("/tasks/deleted"), 204);
    agent.stop();
    eventually("the deadline held", PATIENCE, || {
        (!is_alive(deadline)).then_some(())
    });
    eventually("the grace held", PATIENCE, || {
        (!is_alive(deleted)).then_some(())
    });
    agent.launch();
    agent.wait_healthy();
    check_end(&agent.ended("deadline"), "TaskTimeout", 137, Some(9));
    agent.gone("deleted");
}

#[test]
fn the_terminate_policy_ends_tasks_with_grace_and_records_how() {
    let mut agent = setup().flag("--shutdown-policy=terminate").start();
    let traps = "trap 'sleep 1; exit 6' TERM; echo $$; while :; do sleep 0.1; done";
    agent.create("traps", &json!({"process": sh(traps)}));
    agent.create("plain", &json!({"process": sh("echo $$; sleep 1000")}));
    let deaf = json!({"process": sh("trap '' TERM; echo $$; while :; do sleep 0.1; done"), "terminationGracePeriodSeconds": 1});
    agent.create("deaf", &deaf);
    agent.run("leaver", &sh("setsid sleep 1000 & echo $!"));
    let pids = ["traps", "plain", "deaf", "leaver"].map(|name| agent.told_pids(name, 1)[0]);
    assert_eq!(agent.stop().code(), Some(0));
    for pid in pids {
        assert!(!is_alive(pid), "{pid} runs on");
    }
    agent.launch();
    agent.wait_healthy();
    check_end(&agent.ended("traps"), "Failed", 6, None);
    check_end(&agent.ended("plain"), "Failed", 143, Some(15));
    check_end(&agent.ended("deaf"), "Failed", 137, Some(9));
    check_end(&agent.ended("leaver"), "Succeeded", 0, None);
}

#[test]
fn the_terminate_policy_leaves_what_waits_in_line_for_the_next_start() {
    let mut agent = setup()
        .flag("--shutdown-policy=terminate")
        .flag("--max-concurrent-tasks=1")
        .start();
    agent.create("first", &json!({"process": sh("echo $$; sleep 1000")}));
    agent.told_pids("first", 1);
    agent.create("second", &json!({"process": sh("exit 8")}));
    agent.stop();
    agent.launch();
    agent.wait_healthy();
    check_end(&agent.ended("first"), "Failed", 143, Some(15));
    check_end(&agent.ended("second"), "Failed", 8, None);
}

#[test]
fn a_second_signal_ends_the_agent_at_once() {
    let mut agent = setup().flag("--shutdown-policy=terminate").start();
    let deaf = json!({"process": sh("trap '' TERM; echo $$; while :; do sleep 0.1; done"), "terminationGracePeriodSeconds": 20});
    agent.create("deaf", &deaf);
    agent.told_pids("deaf", 1);
    let began = Instant::now();
    agent.signal(agent.init(), Signal::SIGTERM);
    eventually("it stops listening", PATIENCE, || {
        agent.try_call("GET", "/health", "").is_err().then_some(())
    });
    agent.signal(agent.init(), Signal::SIGTERM);
    agent.wait();
    assert!(began.elapsed() < Duration::from_secs(15));
    agent.launch();
    agent.wait_healthy();
    agent.ended("deaf");
}

/// Runs the agent as PID 1 of a PID namespace of its own.
const AS_PID_1: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

fn can_be_pid_1() -> bool {
    let mut words = AS_PID_1.to_vec();
    words.push("true");
    place::need_root() && place::need_command(&words)
}

/// Zombies below a process.
fn zombies(root: Pid) -> Vec<Pid> {
    let below = task_shim::proc::descendants(root);
    below
        .into_iter()
        .map(|(pid, _)| pid)
        .filter(|pid| state(*pid) == Some('Z'))
        .collect()
}

#[test]
fn as_pid_1_the_agent_runs_tasks_and_reaps_what_they_leave() {
    if !can_be_pid_1() {
        return;
    }
    let agent = setup().wrapper(AS_PID_1).start();
    assert_eq!(agent.get("/capabilities").1["pid1"], true);
    for name in ["a", "b", "c"] {
        // Orphans of every depth, which end by themselves.
        let end = agent.run(
            name,
            &sh("(sleep 0.1 &) ; setsid sh -c '(sleep 0.1 &)' ; sleep 0.1 & exit 3"),
        );
        check_end(&end, "Failed", 3, None);
    }
    let stray = "exec sh -c 'kill -0 1 && echo one'";
    check_end(&agent.run("stray", &sh(stray)), "Succeeded", 0, None);
    let init = agent.init();
    eventually("no zombie is left", PATIENCE, || {
        zombies(init).is_empty().then_some(())
    });
    eventually("no shim is left", PATIENCE, || {
        agent.shims().is_empty().then_some(())
    });
}

#[test]
fn as_pid_1_sigterm_ends_tasks_with_grace_before_the_container_ends() {
    if !can_be_pid_1() {
        return;
    }
    let mut agent = setup().wrapper(AS_PID_1).start();
    let script = "trap 'echo bye; exit 6' TERM; echo up; while :; do sleep 0.1; done";
    agent.create("t", &json!({"process": sh(script)}));
    eventually("it runs", PATIENCE, || {
        (agent.stdout("t") == "up\n").then_some(())
    });
    assert_eq!(agent.stop().code(), Some(0));
    assert_eq!(agent.stdout("t"), "up\nbye\n");
    agent.launch();
    agent.wait_healthy();
    check_end(&agent.ended("t"), "Failed", 6, None);
}

/// `kill 1` from within is how a Pod's sandbox is recycled.
#[test]
fn as_pid_1_a_kill_1_from_a_task_is_an_orderly_stop() {
    if !can_be_pid_1() {
        return;
    }
    let mut agent = setup().wrapper(AS_PID_1).start();
    agent.create(
        "t",
        &json!({"process": sh("trap 'exit 9' TERM; kill 1; while :; do sleep 0.1; done")}),
    );
    assert_eq!(agent.wait().code(), Some(0));
    agent.launch();
    agent.wait_healthy();
    check_end(&agent.ended("t"), "Failed", 9, None);
}

#[test]
fn as_pid_1_a_killed_server_is_started_again_and_loses_nothing() {
    if !can_be_pid_1() {
        return;
    }
    let agent = setup().wrapper(AS_PID_1).start();
    let (_dir, go) = scratch("go");
    let script = format!(
        "echo $$; while [ ! -e {} ]; do sleep 0.05; done; exit 7",
        go.display()
    );
    agent.create("t", &json!({"process": sh(&script)}));
    agent.running("t");
    for _ in 0..3 {
        agent.signal(agent.server(), Signal::SIGKILL);
        agent.wait_healthy();
    }
    fs::write(&go, "").expect("writes");
    check_end(&agent.ended("t"), "Failed", 7, None);
    assert_eq!(
        lines(&agent.dir().join("t/stdout.log")).len(),
        1,
        "it was started once"
    );
}

/// A parent that takes orphans in and never reaps them, as a careless container runtime does.
const FOREIGN_SUBREAPER: &str = "import ctypes, signal, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
child = subprocess.Popen(sys.argv[1:])
sys.exit(child.wait())";

#[test]
fn under_a_foreign_subreaper_trees_are_ended_and_exits_are_exact() {
    if !place::need_command(&["python3", "-c", "import ctypes"]) {
        return;
    }
    let mut agent = setup()
        .wrapper(["python3", "-c", FOREIGN_SUBREAPER])
        .start();
    let end = agent.run(
        "leaver",
        &sh("setsid sh -c '(sleep 1000 & echo $!)'; exit 2"),
    );
    check_end(&end, "Failed", 2, None);
    let daemon = agent.told_pids("leaver", 1)[0];
    agent.signal(agent.server(), Signal::SIGKILL);
    agent.wait_healthy();
    assert_eq!(agent.delete("/tasks/leaver"), 204);
    agent.gone("leaver");
    assert!(!is_alive(daemon));
    agent.create("t", &json!({"process": sh("trap 'exit 4' TERM; echo $$; while :; do sleep 0.1; done"), "timeoutSeconds": 1}));
    check_end(&agent.ended("t"), "TaskTimeout", 4, None);
    let init = agent.init();
    eventually("no zombie is left", PATIENCE, || {
        zombies(init).is_empty().then_some(())
    });
    assert_eq!(agent.stop().code(), Some(0));
}
