//! The measured defects of the Go agent, one by one: each by its number, or as a line of the fault list.
//!
//! D2, D4 and D19 are in `faults.rs` and `full_disk.rs`; what D9, D10 and D20 are about is not here yet.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use serde_json::{Value, json};
use testkit::agent::{PATIENCE, Setup};
use testkit::eventually;
use testkit::place::{is_alive, status_line};
use testkit::task::{check_end, sh};

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_task-executor"))
}

fn scratch(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join(name);
    (dir, file)
}

fn count(path: &Path) -> usize {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().count()
}

#[test]
fn d01_a_task_that_traps_term_and_exits_7_is_reported_as_7() {
    let agent = setup().start();
    let stream = agent.client().open("GET", "/getTasks?watch=true", b"");
    let mut events = BufReader::new(stream.expect("is answered")).lines();
    let script = "trap 'sleep 1; exit 7' TERM; echo $$; while :; do sleep 0.1; done";
    agent.create("t", &json!({"process": sh(script)}));
    let leader = agent.told_pids("t", 1)[0];
    assert_eq!(agent.delete("/tasks/t"), 204);
    let mut end = Value::Null;
    loop {
        let line = events.next().expect("the stream goes on").expect("reads");
        let event: Value = serde_json::from_str(&line).expect("is JSON");
        let state = &event["object"]["status"]["state"]["terminated"];
        if state.is_object() && end.is_null() {
            assert!(!is_alive(leader), "the end is told when it has come");
            end = state.clone();
        }
        if event["type"] == "DELETED" {
            break;
        }
    }
    check_end(&end, "Failed", 7, None);
}

#[test]
fn d03_a_task_that_failed_while_the_agent_was_down_is_not_run_again() {
    for code in [0, 7] {
        let mut agent = setup().start();
        let (_dir, runs) = scratch("runs");
        let go = runs.with_extension("go");
        let script = format!(
            "echo $$ | tee -a {}; while [ ! -e {} ]; do sleep 0.05; done; exit {code}",
            runs.display(),
            go.display()
        );
        let list = json!([{"name": "t", "spec": {"process": sh(&script)}}]);
        assert_eq!(agent.post("/setTasks", &list).0, 200);
        let leader = agent.told_pids("t", 1)[0];
        agent.stop();
        fs::write(&go, "").expect("writes");
        eventually("it has ended", PATIENCE, || {
            (!is_alive(leader)).then_some(())
        });
        agent.launch();
        agent.wait_healthy();
        assert_eq!(agent.post("/setTasks", &list).0, 200);
        assert_eq!(agent.ended("t")["exitCode"], code);
        assert_eq!(count(&runs), 1);
    }
}

#[test]
fn d05_a_signal_is_filled_in_and_an_unknown_end_is_no_code_of_the_task() {
    let agent = setup().start();
    check_end(
        &agent.run("signal", &sh("kill -9 $$")),
        "Failed",
        137,
        Some(9),
    );
    check_end(&agent.run("code", &sh("exit 137")), "Failed", 137, None);
    agent.create(
        "lost",
        &json!({"process": sh("echo $$; sleep 2; exec sleep 1000")}),
    );
    agent.told_pids("lost", 1);
    agent.running("lost");
    let shims = agent.shims();
    assert_eq!(shims.len(), 1);
    agent.signal(shims[0], nix::sys::signal::Signal::SIGKILL);
    check_end(&agent.ended("lost"), "Unknown", 255, None);
}

#[test]
fn d06_the_reason_task_timeout_stays() {
    let mut agent = setup().start();
    agent.create(
        "t",
        &json!({"process": {"command": ["sleep", "1000"]}, "timeoutSeconds": 1}),
    );
    let end = agent.ended("t");
    check_end(&end, "TaskTimeout", 143, Some(15));
    agent.restart();
    assert_eq!(agent.ended("t"), end);
    agent.signal(agent.server(), nix::sys::signal::Signal::SIGKILL);
    agent.wait_healthy();
    assert_eq!(agent.ended("t"), end);
}

#[test]
fn d07_deletion_ends_a_deaf_task_with_its_grandchildren_and_daemons() {
    let agent = setup().start();
    let script = "trap '' TERM; echo $$; sh -c 'sh -c \"echo \\$\\$; exec sleep 1000\"; true' & setsid sh -c 'echo $$; exec sleep 1000' & while :; do sleep 0.5; done";
    agent.create(
        "t",
        &json!({"process": sh(script), "terminationGracePeriodSeconds": 1}),
    );
    let tree = agent.told_pids("t", 3);
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
    assert!(!tree.iter().any(|pid| is_alive(*pid)), "{tree:?}");
}

/// Clock ticks of CPU that a process has used.
fn ticks(pid: Pid) -> u64 {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, rest) = line.rsplit_once(") ").expect("a stat line");
    let fields: Vec<_> = rest.split(' ').collect();
    [11, 12]
        .map(|at| fields[at].parse::<u64>().expect("a number"))
        .iter()
        .sum()
}

#[test]
fn d08_finished_tasks_cost_nothing() {
    let agent = setup().start();
    let list: Vec<_> = (0..100)
        .map(|n| json!({"name": format!("t{n}"), "spec": {"process": {"command": ["true"]}}}))
        .collect();
    assert_eq!(agent.post("/setTasks", &json!(list)).0, 200);
    for n in 0..100 {
        assert_eq!(agent.ended(&format!("t{n}"))["exitCode"], 0);
    }
    eventually("no shim is left", PATIENCE, || {
        agent.shims().is_empty().then_some(())
    });
    let processes = [agent.init(), agent.server()];
    let used = || processes.map(ticks).iter().sum::<u64>();
    // The last events may still be at work at first.
    let idle = (0..10).any(|_| {
        let before = used();
        std::thread::sleep(std::time::Duration::from_secs(1));
        used() - before == 0
    });
    assert!(idle, "the agent works every second though nothing happens");
    for pid in processes {
        let threads = status_line(pid, "Threads").expect("it runs");
        assert!(threads.parse::<u32>().is_ok_and(|n| n <= 4), "{threads}");
    }
}

/// The half of D11 that concerns process mode.
#[test]
fn d11_a_task_inherits_no_secret_of_the_agent() {
    let (_dir, file) = scratch("token");
    fs::write(&file, "very-s3cret-token").expect("writes");
    let agent = setup()
        .flag(format!("--auth-token-file={}", file.display()))
        .token("very-s3cret-token")
        .start();
    let script = "cat /proc/self/environ /proc/self/cmdline /proc/$PPID/environ /proc/$PPID/cmdline; ls -l /proc/self/fd /proc/$PPID/fd";
    check_end(&agent.run("t", &sh(script)), "Succeeded", 0, None);
    assert!(!agent.stdout("t").contains("very-s3cret-token"));
}

#[test]
fn d12_two_tasks_of_one_set_run_side_by_side() {
    let agent = setup().start();
    let (_dir, file) = scratch("met");
    // Each waits for the other.
    let meet = |me: &str, other: &str| {
        let path = |name: &str| file.with_extension(name).display().to_string();
        let (me, other) = (path(me), path(other));
        sh(&format!(
            "touch {me}; while [ ! -e {other} ]; do sleep 0.05; done"
        ))
    };
    let list = json!([
        {"name": "a", "spec": {"process": meet("a", "b")}},
        {"name": "b", "process": meet("b", "a")},
    ]);
    let (code, answer) = agent.post("/setTasks", &list);
    assert_eq!(
        (code, answer.as_array().map(Vec::len)),
        (200, Some(2)),
        "{answer}"
    );
    check_end(&agent.ended("a"), "Succeeded", 0, None);
    eventually("b is over", PATIENCE, || {
        let (_, task) = agent.get("/tasks/b?wait=5s");
        (task["processStatus"]["terminated"]["exitCode"] == 0).then_some(())
    });
}

#[test]
fn d13_a_changed_spec_replaces_and_a_name_set_while_it_is_deleted_comes_back() {
    let agent = setup().start();
    let set = |body: &Value| assert_eq!(agent.post("/setTasks", body).0, 200);
    let named = |script: &str| json!([{"name": "t", "spec": {"process": sh(script), "terminationGracePeriodSeconds": 2}}]);
    let slow = "trap '' TERM; echo $$; while :; do sleep 0.2; done";
    let ends_with = |code: i32| {
        eventually(&format!("it ends with {code}"), PATIENCE, || {
            let (_, task) = agent.get("/tasks/t");
            (task["status"]["state"]["terminated"]["exitCode"] == code)
                .then_some(task["uid"].clone())
        })
    };
    set(&named(slow));
    agent.told_pids("t", 1);
    set(&named("exit 3"));
    let first = ends_with(3);
    set(&named(slow));
    agent.told_pids("t", 1);
    set(&json!([]));
    assert!(agent.get("/tasks/t").1["deletionTimestamp"].is_string());
    set(&named("exit 4"));
    assert_ne!(ends_with(4), first);
    // The same spec again, while that very task is being deleted, is a new task too.
    set(&named(slow));
    let old = agent.told_pids("t", 1)[0];
    set(&json!([]));
    set(&named(slow));
    eventually("another one runs", PATIENCE, || {
        let text = agent.stdout("t");
        let pid: i32 = text.lines().next()?.parse().ok()?;
        (pid != old.as_raw()).then_some(())
    });
    assert!(!is_alive(old));
}

#[test]
fn d14_a_deletion_shows_in_both_dialects() {
    let agent = setup().start();
    let process = sh("trap '' TERM; echo $$; while :; do sleep 0.2; done");
    let nested =
        json!({"name": "nested", "spec": {"process": process, "terminationGracePeriodSeconds": 2}});
    let mut flat = json!({"name": "flat", "process": process});
    flat["process"]["terminationGracePeriodSeconds"] = json!(2);
    for task in [&nested, &flat] {
        assert_eq!(agent.post("/tasks", task).0, 201);
        agent.told_pids(task["name"].as_str().expect("a name"), 1);
    }
    let (code, list) = agent.post("/setTasks", &json!([]));
    assert_eq!(code, 200);
    for task in list.as_array().expect("a list") {
        assert!(task["deletionTimestamp"].is_string(), "{task}");
    }
    assert!(agent.get("/tasks/flat").1["processStatus"]["running"].is_object());
    assert!(agent.get("/tasks/flat").1["deletionTimestamp"].is_string());
}

#[test]
fn d15_logs_are_private_capped_and_can_be_read_over_http() {
    let agent = setup().flag("--log-max-bytes=16KiB").start();
    check_end(
        &agent.run("t", &sh("seq 1 100000; echo e >&2")),
        "Succeeded",
        0,
        None,
    );
    let dir = agent.dir().join("t");
    for file in ["stdout.log", "stderr.log"] {
        let mode = fs::metadata(dir.join(file))
            .expect("is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    eventually("the log is capped", PATIENCE, || {
        let log = agent.call("GET", "/tasks/t/logs?stream=stdout", "").text();
        (log.len() <= 32 << 10 && log.ends_with("99999\n100000\n")).then_some(())
    });
    let log = agent.call("GET", "/tasks/t/logs?stream=stderr&follow=true", "");
    assert_eq!(log.text(), "e\n");
}

#[test]
fn d16_with_a_token_nobody_else_can_run_anything() {
    let (_dir, file) = scratch("token");
    fs::write(&file, "t0ken\n").expect("writes");
    let flag = format!("--auth-token-file={}", file.display());
    let agent = setup().flag(flag).token("t0ken").start();
    let (_scratch, ran) = scratch("ran");
    let task = json!({"name": "t", "spec": {"process": {"command": ["touch", ran]}}});
    let mut stranger = testkit::http::Client::new(agent.address());
    let body = task.to_string();
    let answer = stranger.request("POST", "/tasks", body.as_bytes());
    assert_eq!(answer.expect("is answered").code, 401);
    assert_eq!(agent.get("/getTasks").1, json!([]));
    assert_eq!(agent.post("/tasks", &task).0, 201);
    check_end(&agent.ended("t"), "Succeeded", 0, None);
    assert!(ran.exists());
}

#[test]
fn d17_what_would_be_dropped_in_silence_is_refused_or_named() {
    let agent = setup().start();
    let mut task = json!({"name": "t", "spec": {"process": {"command": ["env"],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}}});
    for path in ["/tasks", "/setTasks"] {
        let body = if path == "/tasks" {
            task.clone()
        } else {
            json!([task])
        };
        let (code, error) = agent.post(path, &body);
        assert_eq!((code, &error["code"]), (400, &json!("InvalidTask")));
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains("spec.process.env[0].valueFrom"), "{error}");
    }
    task["spec"]["process"]["env"] = json!([{"name": "POD", "value": "p"}]);
    task["spec"]["process"]["evn"] = json!([]);
    let answer = agent.call("POST", "/tasks", &task.to_string());
    assert_eq!(answer.code, 201);
    let warning = answer.header("warning").unwrap_or_default();
    assert!(warning.contains("spec.process.evn"), "{warning}");
}

#[test]
fn d18_the_agents_log_has_no_command_environment_body_or_output_in_it() {
    let (_dir, log) = scratch("agent.log");
    let mut agent = setup().flag("--log-level=trace").log(&log).start();
    let process = json!({
        "command": ["sh", "-c", "echo secret-in-output; echo secret-in-stderr >&2; exit 3 # secret-in-command"],
        "args": ["secret-in-args"],
        "env": [{"name": "TOKEN", "value": "secret-in-env"}],
        "lifecycle": {"postStop": {"exec": {"command": ["true", "secret-in-hook"]}}},
    });
    agent.run("t", &process);
    agent.run("missing", &json!({"command": ["/secret-in-program"]}));
    let odd = [
        r#"{"name":"x","secret-in-field":1,"process":{"command":["secret-in-bad"],"env":1}}"#,
        "secret-in-junk",
    ];
    for body in odd {
        assert_eq!(agent.call("POST", "/tasks", body).code, 400);
    }
    agent.call("GET", "/tasks/t?uid=secret-in-query", "");
    agent.call("GET", "/tasks/t/logs", "");
    agent.signal(agent.server(), nix::sys::signal::Signal::SIGKILL);
    agent.wait_healthy();
    agent.delete("/tasks/t");
    agent.gone("t");
    assert!(agent.stop().success());
    let text = fs::read_to_string(&log).expect("reads");
    assert!(
        text.contains("agent.listening") && text.contains("DEBUG"),
        "{text}"
    );
    let told: Vec<_> = text
        .lines()
        .filter(|line| line.contains("secret"))
        .collect();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn d21_the_agent_tells_its_numbers_and_version_and_logs_to_stderr() {
    let (_dir, log) = scratch("agent.log");
    let mut agent = setup().log(&log).start();
    check_end(&agent.run("t", &sh("exit 1")), "Failed", 1, None);
    let page = agent.call("GET", "/metrics", "").text();
    for name in [
        "task_executor_build_info",
        "task_executor_tasks",
        "task_executor_task_exits_total",
        "task_executor_http_requests_total",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(
            page.lines().any(|line| line.starts_with(name)),
            "{name} in\n{page}"
        );
    }
    assert_eq!(
        agent.get("/version").1["version"],
        env!("CARGO_PKG_VERSION")
    );
    assert!(agent.stop().success());
    let text = fs::read_to_string(&log).expect("reads");
    assert!(
        text.contains("agent.listening") && text.contains("agent.stopped"),
        "{text}"
    );
}

#[test]
fn sigint_and_sigquit_reach_a_task() {
    let agent = setup().start();
    for (name, number) in [("INT", 2), ("QUIT", 3)] {
        let script = format!("trap 'exit {number}' {name}; kill -{name} $$; sleep 0.1; exit 99");
        check_end(&agent.run(name, &sh(&script)), "Failed", number, None);
    }
}

#[test]
fn a_missing_binary_does_not_look_like_an_exit_with_127() {
    let agent = setup().start();
    let missing = agent.run("missing", &json!({"command": ["no-such-program"]}));
    check_end(&missing, "StartError", 127, None);
    let message = missing["message"].as_str().unwrap_or_default();
    assert!(message.contains("no-such-program"), "{missing}");
    assert!(message.contains("No such file or directory"), "{missing}");
    check_end(&agent.run("exits", &sh("exit 127")), "Failed", 127, None);
    check_end(
        &agent.run("shell", &sh("no-such-program")),
        "Failed",
        127,
        None,
    );
}

#[test]
fn odd_names_are_refused_and_leave_nothing_behind() {
    let agent = setup().start();
    for name in ["a/../c", "../x", "a/b", "a\nb", ".hidden", "", ".", ".."] {
        let task = json!({"name": name, "spec": {"process": {"command": ["true"]}}});
        assert_eq!(agent.post("/tasks", &task).0, 400, "{name:?}");
        assert_eq!(agent.post("/setTasks", &json!([task])).0, 400, "{name:?}");
    }
    let above = agent.dir().parent().expect("has a parent");
    let found: Vec<_> = [agent.dir(), above]
        .iter()
        .flat_map(|dir| fs::read_dir(dir).expect("reads"))
        .map(|entry| entry.expect("reads").file_name())
        .filter(|name| !name.as_encoded_bytes().starts_with(b".") && name != "tasks")
        .collect();
    assert!(found.is_empty(), "{found:?}");
    // "a" is as good a name as it was before.
    check_end(&agent.run("a", &sh("exit 0")), "Succeeded", 0, None);
}

#[test]
fn a_body_of_100_mb_is_refused_in_bounded_memory() {
    let agent = setup().start();
    let server = agent.server();
    let kib = || {
        let line = status_line(server, "VmHWM").expect("it runs");
        line.trim_end_matches(" kB")
            .parse::<u64>()
            .expect("a number")
    };
    let before = kib();
    let mut body = b"[{\"name\":\"t\",\"process\":{\"command\":[\"".to_vec();
    body.resize(100_000_000, b'x');
    for path in ["/tasks", "/setTasks"] {
        let answer = agent.client().request("POST", path, &body);
        let answer = answer.expect("the answer is seen though the client sends first");
        assert_eq!(
            (answer.code, answer.json()["code"].clone()),
            (413, json!("PayloadTooLarge"))
        );
    }
    let grown = kib() - before;
    assert!(grown < 16 << 10, "the server grew by {grown} KiB");
    assert_eq!(agent.get("/getTasks").1, json!([]));
}

#[test]
fn bodies_within_the_limit_take_bounded_memory_too() {
    let agent = setup().start();
    let server = agent.server();
    // Small JSON that is large once it is parsed.
    let body = format!("[{}]", vec!["{}"; 1_300_000].join(","));
    assert!(body.len() < 4 << 20);
    let mut threads = Vec::new();
    for _ in 0..4 {
        let (mut client, body) = (agent.client(), body.clone());
        threads.push(std::thread::spawn(move || {
            client
                .request("POST", "/setTasks", body.as_bytes())
                .map(|answer| answer.code)
        }));
    }
    for thread in threads {
        assert_eq!(thread.join().expect("ends").expect("is answered"), 400);
    }
    let line = status_line(server, "VmHWM").expect("it runs");
    let kib: u64 = line.trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 100 << 10, "the server took {line} at its peak");
}
