//! How tasks are ended: timeouts, grace, stop signals, deletion, replacement, leftovers, hooks.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::agent::{PATIENCE, Setup};
use testkit::eventually;
use testkit::place::{is_alive, state};
use testkit::task::{check_end, sh};

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_task-executor"))
}

fn wait_for(path: &Path) {
    eventually(&format!("{} is there", path.display()), PATIENCE, || {
        path.exists().then_some(())
    });
}

/// A file in a directory that lives as long as the guard.
fn scratch(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join(name);
    (dir, file)
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_timeout_ends_with_the_code_that_the_task_chose() {
    let agent = setup().start();
    let script = "trap 'echo bye >&2; exit 5' TERM; while :; do sleep 0.1; done";
    agent.create("t", &json!({"process": sh(script), "timeoutSeconds": 1}));
    let end = agent.ended("t");
    check_end(&end, "TaskTimeout", 5, None);
    let message = end["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("timeout") && message.contains("1 second"),
        "{end}"
    );
    assert!(message.ends_with("bye"), "{end}");
    agent.create(
        "plain",
        &json!({"process": {"command": ["sleep", "1000"]}, "timeoutSeconds": 1}),
    );
    check_end(&agent.ended("plain"), "TaskTimeout", 143, Some(15));
    // As OpenSandbox writes it.
    let flat =
        json!({"name": "flat", "process": {"command": ["sleep", "1000"], "timeoutSeconds": 1}});
    assert_eq!(agent.post("/tasks", &flat).0, 201);
    let end = eventually("flat is over", PATIENCE, || {
        let (_, task) = agent.get("/tasks/flat?wait=5s");
        let end = task["processStatus"]["terminated"].clone();
        end.is_object().then_some(end)
    });
    check_end(&end, "TaskTimeout", 143, Some(15));
}

#[test]
fn a_task_that_ends_in_time_is_not_timed_out() {
    let agent = setup().start();
    agent.create("t", &json!({"process": sh("exit 0"), "timeoutSeconds": 60}));
    check_end(&agent.ended("t"), "Succeeded", 0, None);
}

#[test]
fn without_grace_the_task_is_killed_at_once() {
    let agent = setup().start();
    let (_dir, file) = scratch("term");
    let script = format!(
        "trap 'echo got > {}' TERM; while :; do sleep 0.1; done",
        file.display()
    );
    let spec =
        json!({"process": sh(&script), "timeoutSeconds": 1, "terminationGracePeriodSeconds": 0});
    agent.create("t", &spec);
    check_end(&agent.ended("t"), "TaskTimeout", 137, Some(9));
    assert!(!file.exists(), "there is no stop signal without grace");
}

#[test]
fn the_grace_period_is_the_tasks_or_else_that_of_the_flag() {
    let agent = setup().flag("--termination-grace-period=1s").start();
    let script = "trap 'sleep 3; exit 7' TERM; while :; do sleep 0.1; done";
    agent.create("flag", &json!({"process": sh(script), "timeoutSeconds": 1}));
    let own =
        json!({"process": sh(script), "timeoutSeconds": 1, "terminationGracePeriodSeconds": 60});
    agent.create("own", &own);
    check_end(&agent.ended("flag"), "TaskTimeout", 137, Some(9));
    check_end(&agent.ended("own"), "TaskTimeout", 7, None);
}

#[test]
fn the_stop_signal_is_the_one_that_the_task_asks_for() {
    let agent = setup().start();
    let script = "trap 'exit 10' USR1; trap 'exit 15' TERM; while :; do sleep 0.1; done";
    let process = json!({"command": ["sh", "-c", script], "lifecycle": {"stopSignal": "SIGUSR1"}});
    agent.create("t", &json!({"process": process, "timeoutSeconds": 1}));
    check_end(&agent.ended("t"), "TaskTimeout", 10, None);
}

#[test]
fn a_stopped_task_can_still_act_on_the_stop_signal() {
    let agent = setup().start();
    let script = "trap 'exit 6' TERM; kill -STOP $$; while :; do sleep 0.1; done";
    agent.create("t", &json!({"process": sh(script), "timeoutSeconds": 1}));
    check_end(&agent.ended("t"), "TaskTimeout", 6, None);
}

#[test]
fn a_kill_from_outside_is_told_as_a_signal_and_not_as_a_stop() {
    let agent = setup().start();
    agent.create(
        "t",
        &json!({"process": sh("echo $$; sleep 1000"), "timeoutSeconds": 600}),
    );
    let leader = agent.told_pids("t", 1)[0];
    agent.signal(leader, Signal::SIGKILL);
    check_end(&agent.ended("t"), "Failed", 137, Some(9));
}

/// A tree that does all it can to get away, and tells the pids of its five processes.
const ESCAPERS: &str = "trap '' TERM; echo $$
    (trap '' TERM; exec sh -c 'echo $$; exec sleep 1000') &
    setsid sh -c 'trap \"\" TERM; echo $$; sleep 1000' &
    setsid sh -c '(setsid sh -c \"trap \\\"\\\" TERM HUP; echo \\$\\$; sleep 1000\" &)' &
    sh -c 'sh -c \"trap \\\"\\\" TERM; echo \\$\\$; sleep 1000\" & echo' &
    while :; do sleep 1; done";

#[test]
fn a_deleted_tree_is_dead_when_the_task_is_gone_however_it_hid() {
    let agent = setup().start();
    let spec = json!({"process": sh(ESCAPERS), "terminationGracePeriodSeconds": 1});
    agent.create("t", &spec);
    let tree = agent.told_pids("t", 5);
    assert!(tree.iter().all(|pid| is_alive(*pid)), "{tree:?}");
    assert_eq!(agent.delete("/tasks/t"), 204);
    let (code, task) = agent.get("/tasks/t");
    assert!(
        code == 200 && task["deletionTimestamp"].is_string(),
        "{task}"
    );
    agent.gone("t");
    for pid in tree {
        assert!(!is_alive(pid), "{pid} runs on");
    }
    assert!(!agent.dir().join("t").exists());
}

#[test]
fn a_timed_out_tree_is_dead_when_the_end_is_visible() {
    let agent = setup().start();
    let spec =
        json!({"process": sh(ESCAPERS), "timeoutSeconds": 3, "terminationGracePeriodSeconds": 1});
    agent.create("t", &spec);
    let tree = agent.told_pids("t", 5);
    check_end(&agent.ended("t"), "TaskTimeout", 137, Some(9));
    for pid in tree {
        assert!(!is_alive(pid), "{pid} runs on");
    }
}

#[test]
fn a_crowd_of_daemons_is_ended_to_the_last() {
    let agent = setup().start();
    let script = "i=0; while [ $i -lt 200 ]; do setsid sh -c 'echo $$; exec sleep 1000' & i=$((i+1)); done; wait";
    agent.create(
        "t",
        &json!({"process": sh(script), "terminationGracePeriodSeconds": 0}),
    );
    let crowd = agent.told_pids("t", 200);
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
    let left: Vec<_> = crowd.into_iter().filter(|pid| is_alive(*pid)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Live processes that have this word in their environment.
fn marked(word: &str) -> usize {
    let processes = task_shim::proc::processes().into_iter();
    processes
        .filter(|(_, stat)| !stat.is_dead())
        .filter_map(|(pid, _)| fs::read(format!("/proc/{pid}/environ")).ok())
        .filter(|env| String::from_utf8_lossy(env).contains(word))
        .count()
}

#[test]
fn a_tree_that_keeps_forking_is_ended() {
    let agent = setup().start();
    let (_dir, mark) = scratch("mark");
    let mark = mark.display().to_string();
    // Each generation starts the next one in a session of its own, and is gone.
    let script = "step() { setsid sh -c \"$0\" \"$0\" & }; echo $$; sleep 0.01; step";
    let process = json!({"command": ["sh", "-c", "exec sh -c \"$0\" \"$0\"", script],
        "env": [{"name": "MARK", "value": mark}]});
    agent.create(
        "t",
        &json!({"process": process, "terminationGracePeriodSeconds": 0}),
    );
    agent.told_pids("t", 20);
    // One that has just begun may not be seen in a single look.
    eventually("it is found by its mark", PATIENCE, || {
        (marked(&mark) > 0).then_some(())
    });
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
    assert_eq!(marked(&mark), 0);
}

#[test]
fn daemons_outlive_the_exit_of_their_task_and_still_belong_to_it() {
    let agent = setup().start();
    let script = "setsid sleep 1000 & echo $!; sh -c 'sleep 1000 & echo $!'";
    let end = agent.run("t", &sh(script));
    check_end(&end, "Succeeded", 0, None);
    let daemons = agent.told_pids("t", 2);
    assert!(daemons.iter().all(|pid| is_alive(*pid)), "{daemons:?}");
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
    assert!(!daemons.iter().any(|pid| is_alive(*pid)), "{daemons:?}");
}

#[test]
fn a_timeout_ends_daemons_of_a_task_that_is_over_and_changes_no_result() {
    let agent = setup().start();
    let script = "setsid sleep 1000 & echo $!; exit 3";
    agent.create("t", &json!({"process": sh(script), "timeoutSeconds": 2}));
    check_end(&agent.ended("t"), "Failed", 3, None);
    let daemon = agent.told_pids("t", 1)[0];
    assert!(is_alive(daemon), "it has its time");
    eventually("the daemon has ended", PATIENCE, || {
        (!is_alive(daemon)).then_some(())
    });
    check_end(&agent.ended("t"), "Failed", 3, None);
}

#[test]
fn leftovers_are_killed_at_the_exit_of_a_task_that_asks_for_it() {
    let agent = setup().start();
    let script = "setsid sleep 1000 & echo $!; setsid sh -c 'trap \"\" TERM; echo $$; sleep 1000' & sleep 0.3; exit 4";
    let process = json!({"command": ["sh", "-c", script], "leftoverProcesses": "Kill"});
    agent.create(
        "t",
        &json!({"process": process, "terminationGracePeriodSeconds": 1}),
    );
    check_end(&agent.ended("t"), "Failed", 4, None);
    for pid in agent.told_pids("t", 2) {
        assert!(!is_alive(pid), "{pid} runs on");
    }
    let keep =
        json!({"command": ["sh", "-c", "sleep 1000 & echo $!"], "leftoverProcesses": "Keep"});
    check_end(&agent.run("keep", &keep), "Succeeded", 0, None);
    assert!(is_alive(agent.told_pids("keep", 1)[0]));
}

#[test]
fn a_daemon_that_ends_is_reaped() {
    let agent = setup().start();
    let end = agent.run("t", &sh("sleep 1000 & echo $!"));
    check_end(&end, "Succeeded", 0, None);
    let daemon = agent.told_pids("t", 1)[0];
    agent.signal(daemon, Signal::SIGKILL);
    eventually("no zombie is left", PATIENCE, || {
        state(daemon).is_none().then_some(())
    });
}

#[test]
fn a_replacement_starts_when_nothing_of_its_predecessor_runs() {
    let agent = setup().start();
    let (_dir, lock) = scratch("lock");
    let set = |script: &str, grace: u32| {
        let spec = json!({"process": sh(script), "terminationGracePeriodSeconds": grace});
        agent.post("/setTasks", &json!([{"name": "t", "spec": spec}]))
    };
    let path = lock.display();
    // Holds the lock until the very end, in a daemon that does not listen.
    let old =
        format!("mkdir {path}; setsid sh -c 'trap \"\" TERM; echo $$; sleep 1000' & sleep 1000");
    let (code, list) = set(&old, 2);
    assert_eq!(code, 200);
    let first = list[0]["uid"].clone();
    let daemon = agent.told_pids("t", 1)[0];
    let new = format!("[ -e /proc/{daemon}/cwd ] && exit 1; rmdir {path} || exit 2; exit 0");
    let (code, list) = set(&new, 2);
    assert_eq!((code, &list[0]["uid"]), (200, &first), "{list}");
    assert!(list[0]["deletionTimestamp"].is_string(), "{list}");
    let end = eventually("the new one is over", PATIENCE, || {
        let (code, task) = agent.get("/tasks/t");
        assert_eq!(code, 200);
        let end = task["status"]["state"]["terminated"].clone();
        (task["uid"] != first && end.is_object()).then_some(end)
    });
    check_end(&end, "Succeeded", 0, None);
    assert_eq!(agent.stdout("t"), "", "the log is the new one's");
}

#[test]
fn of_many_changes_in_a_row_the_last_one_wins_and_each_runs_alone() {
    let agent = setup().start();
    let (_dir, file) = scratch("lock");
    let path = file.display();
    let script = |n: u32| {
        format!(
            "trap 'rmdir {path}; exit 0' TERM; mkdir {path} || exit 99; echo {n}; while :; do sleep 0.05; done"
        )
    };
    for n in 0..10 {
        let list = json!([{"name": "t", "spec": {"process": sh(&script(n))}}]);
        assert_eq!(agent.post("/setTasks", &list).0, 200);
    }
    eventually("the last one runs", PATIENCE, || {
        (agent.stdout("t") == "9\n").then_some(())
    });
    assert!(agent.get("/tasks/t").1["status"]["state"]["running"].is_object());
}

#[test]
fn a_deletion_cancels_the_replacement_that_was_to_follow() {
    let agent = setup().start();
    let set = |body: &Value| assert_eq!(agent.post("/setTasks", body).0, 200);
    let spec = json!({"process": sh("trap '' TERM; echo $$; while :; do sleep 1; done"), "terminationGracePeriodSeconds": 1});
    let (_dir, ran) = scratch("ran");
    set(&json!([{"name": "t", "spec": spec}]));
    agent.told_pids("t", 1);
    set(&json!([{"name": "t", "spec": {"process": {"command": ["touch", ran]}}}]));
    set(&json!([]));
    agent.gone("t");
    assert_eq!(agent.get("/getTasks").1, json!([]));
    assert!(!ran.exists());
}

#[test]
fn a_task_that_is_deleted_before_its_turn_never_starts() {
    let agent = setup().flag("--max-concurrent-tasks=1").start();
    let (_dir, ran) = scratch("ran");
    agent.create("first", &json!({"process": {"command": ["sleep", "1000"]}}));
    agent.create("second", &json!({"process": {"command": ["touch", ran]}}));
    assert_eq!(agent.delete("/tasks/second"), 204);
    agent.gone("second");
    assert_eq!(agent.delete("/tasks/first"), 204);
    agent.gone("first");
    agent.run("third", &json!({"command": ["true"]}));
    assert!(!ran.exists());
}

/// A task whose parts write their names into a file.
fn with_hooks(file: &Path, pre: &str, main: &str, post: &str) -> Value {
    let note = |word: &str, script: &str| {
        json!([
            "sh",
            "-c",
            format!("echo {word} >> {}; {script}", file.display())
        ])
    };
    json!({"command": note("main", main), "lifecycle": {
        "preStart": {"exec": {"command": note("pre", pre)}},
        "postStop": {"exec": {"command": note("post", post)}}}})
}

#[test]
fn hooks_run_once_around_the_command_and_in_its_place() {
    let agent = setup().start();
    let (dir, file) = scratch("order");
    let mut process = with_hooks(
        &file,
        "echo pre $A $PWD",
        "echo main; exit 3",
        "echo post $A $PWD",
    );
    process["env"] = json!([{"name": "A", "value": "a"}]);
    process["workingDir"] = json!(dir.path());
    let end = agent.run("t", &process);
    check_end(&end, "Failed", 3, None);
    eventually("the hook has run", PATIENCE, || {
        (lines(&file).len() >= 3).then_some(())
    });
    assert_eq!(lines(&file), ["pre", "main", "post"]);
    let here = dir.path().display();
    assert_eq!(
        agent.stdout("t"),
        format!("pre a {here}\nmain\npost a {here}\n")
    );
}

#[test]
fn a_failing_pre_start_hook_ends_the_task_before_it_runs() {
    let agent = setup().start();
    let (_dir, file) = scratch("order");
    let end = agent.run(
        "code",
        &with_hooks(&file, "echo no >&2; exit 9", "true", "true"),
    );
    check_end(&end, "PreStartHookFailed", 9, None);
    assert!(
        end["message"].as_str().unwrap_or_default().ends_with("no"),
        "{end}"
    );
    assert!(end["startedAt"].is_null(), "{end}");
    assert!(!lines(&file).contains(&"main".to_owned()));
    let hook =
        |command: Value| json!({"command": ["touch", file], "lifecycle": {"preStart": command}});
    let missing = agent.run(
        "missing",
        &hook(json!({"exec": {"command": ["no-such-program"]}})),
    );
    check_end(&missing, "PreStartHookFailed", 127, None);
    let slow = hook(json!({"exec": {"command": ["sleep", "1000"]}, "timeoutSeconds": 1}));
    let end = agent.run("slow", &slow);
    check_end(&end, "PreStartHookFailed", 137, Some(9));
    assert!(
        end["message"]
            .as_str()
            .unwrap_or_default()
            .contains("timeout"),
        "{end}"
    );
    let killed = agent.run(
        "killed",
        &hook(json!({"exec": {"command": ["sh", "-c", "kill -9 $$"]}})),
    );
    check_end(&killed, "PreStartHookFailed", 137, Some(9));
}

#[test]
fn the_tasks_timeout_holds_during_its_pre_start_hook() {
    let agent = setup().start();
    let (_dir, file) = scratch("order");
    let process = with_hooks(&file, "sleep 1000", "true", "true");
    agent.create("t", &json!({"process": process, "timeoutSeconds": 1}));
    let end = agent.ended("t");
    check_end(&end, "TaskTimeout", 143, Some(15));
    assert!(!lines(&file).contains(&"main".to_owned()));
}

#[test]
fn a_daemon_of_the_pre_start_hook_does_not_keep_the_task_from_running() {
    let agent = setup().start();
    let (_dir, file) = scratch("order");
    for leftover in ["Keep", "Kill"] {
        let mut process = with_hooks(&file, "sleep 1000 &", "true", "true");
        process["leftoverProcesses"] = json!(leftover);
        let end = agent.run(leftover, &process);
        check_end(&end, "Succeeded", 0, None);
    }
}

#[test]
fn the_post_stop_hook_runs_however_the_task_ended() {
    let agent = setup().start();
    let (_dir, file) = scratch("order");
    let posts = |count: usize| {
        eventually(
            &format!("{count} postStop hooks have run"),
            PATIENCE,
            || {
                let found = lines(&file).iter().filter(|line| *line == "post").count();
                (found == count).then_some(())
            },
        );
    };
    agent.run("well", &with_hooks(&file, "true", "exit 0", "true"));
    posts(1);
    agent.run("badly", &with_hooks(&file, "true", "exit 1", "true"));
    posts(2);
    agent.run("signal", &with_hooks(&file, "true", "kill -9 $$", "true"));
    posts(3);
    let spec =
        json!({"process": with_hooks(&file, "true", "sleep 1000", "true"), "timeoutSeconds": 1});
    agent.create("timeout", &spec);
    check_end(&agent.ended("timeout"), "TaskTimeout", 143, Some(15));
    posts(4);
    agent.create(
        "deleted",
        &json!({"process": with_hooks(&file, "true", "sleep 1000", "true")}),
    );
    agent.running("deleted");
    eventually("its command runs", PATIENCE, || {
        (lines(&file).last()? == "main").then_some(())
    });
    assert_eq!(agent.delete("/tasks/deleted"), 204);
    agent.gone("deleted");
    posts(5);
}

#[test]
fn the_post_stop_hook_runs_once_also_across_restarts_of_server_and_agent() {
    let mut agent = setup().start();
    let (_dir, file) = scratch("order");
    let (_go_dir, go) = scratch("go");
    let main = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    agent.create(
        "t",
        &json!({"process": with_hooks(&file, "true", &main, "sleep 1")}),
    );
    eventually("it runs", PATIENCE, || {
        (lines(&file).len() == 2).then_some(())
    });
    agent.signal(agent.server(), Signal::SIGKILL);
    agent.wait_healthy();
    fs::write(&go, "").expect("writes");
    eventually("the hook runs", PATIENCE, || {
        (lines(&file).len() == 3).then_some(())
    });
    agent.restart();
    check_end(&agent.ended("t"), "Succeeded", 0, None);
    agent.restart();
    check_end(&agent.ended("t"), "Succeeded", 0, None);
    assert_eq!(lines(&file), ["pre", "main", "post"]);
}

#[test]
fn an_endless_post_stop_hook_is_ended_by_its_timeout() {
    let agent = setup().start();
    let mut process = sh("exit 5");
    let hook = json!({"exec": {"command": ["sh", "-c", "trap '' TERM; echo $$; sleep 1000"]}, "timeoutSeconds": 1});
    process["lifecycle"] = json!({"postStop": hook});
    check_end(&agent.run("t", &process), "Failed", 5, None);
    let hook = agent.told_pids("t", 1)[0];
    eventually("the hook has ended", PATIENCE, || {
        (!is_alive(hook)).then_some(())
    });
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
}

#[test]
fn a_deletion_does_not_wait_for_a_hook_longer_than_its_grace() {
    let agent = setup().start();
    let (_dir, file) = scratch("order");
    let process = with_hooks(&file, "trap '' TERM; sleep 1000", "true", "true");
    agent.create(
        "t",
        &json!({"process": process, "terminationGracePeriodSeconds": 1}),
    );
    wait_for(&file);
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
    assert!(!lines(&file).contains(&"main".to_owned()));
}
