//! The agent as a user runs it: the real program, real processes, its HTTP API.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testkit::agent::{PATIENCE, Setup};
use testkit::eventually;

fn agent() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_task-executor"))
}

#[test]
fn exit_codes_signals_and_start_errors_are_told_apart() {
    let agent = agent().start();
    let sh = |script: &str| json!({"command": ["sh", "-c", script]});
    let ok = agent.run("ok", &sh("exit 0"));
    assert_eq!(
        (&ok["exitCode"], &ok["reason"]),
        (&json!(0), &json!("Succeeded"))
    );
    let failed = agent.run("failed", &sh("echo why >&2; exit 127"));
    assert_eq!(
        (&failed["exitCode"], &failed["reason"], &failed["message"]),
        (&json!(127), &json!("Failed"), &json!("why"))
    );
    let killed = agent.run("killed", &sh("kill -9 $$"));
    assert_eq!(
        (&killed["exitCode"], &killed["signal"], &killed["reason"]),
        (&json!(137), &json!(9), &json!("Failed"))
    );
    let missing = agent.run("missing", &json!({"command": ["no-such-program"]}));
    assert_eq!(
        (&missing["exitCode"], &missing["reason"]),
        (&json!(127), &json!("StartError"))
    );
    let nowhere = agent.run(
        "nowhere",
        &json!({"command": ["true"], "workingDir": "/no/such/dir"}),
    );
    assert_eq!(
        (&nowhere["exitCode"], &nowhere["reason"]),
        (&json!(126), &json!("StartError"))
    );
}

#[test]
fn a_killed_server_loses_no_exit_and_runs_nothing_twice() {
    let agent = agent().start();
    let count = agent.dir().join(".agent/runs");
    let script = format!("echo run >> {}; sleep 1; exit 7", count.display());
    let task = json!([{"name": "once", "spec": {"process": {"command": ["sh", "-c", script]}}}]);
    assert_eq!(agent.post("/setTasks", &task).0, 200);
    eventually("the task runs", PATIENCE, || count.exists().then_some(()));
    agent.signal(agent.server(), Signal::SIGKILL);
    eventually("a new server answers", PATIENCE, || {
        agent.try_call("GET", "/health", "").ok()
    });
    assert_eq!(agent.post("/setTasks", &task).0, 200);
    assert_eq!(agent.ended("once")["exitCode"], 7);
    assert_eq!(std::fs::read_to_string(&count).expect("reads"), "run\n");
}

#[test]
fn a_timeout_holds_against_a_task_that_ignores_the_signal() {
    let agent = agent().start();
    let script = "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 1000\" & sleep 1000";
    let spec = json!({"process": {"command": ["sh", "-c", script]}, "timeoutSeconds": 1, "terminationGracePeriodSeconds": 1});
    assert_eq!(
        agent
            .post("/tasks", &json!({"name": "deaf", "spec": spec}))
            .0,
        201
    );
    let end = agent.ended("deaf");
    assert_eq!(
        (&end["reason"], &end["exitCode"]),
        (&json!("TaskTimeout"), &json!(137))
    );
}

#[test]
fn a_deleted_task_is_gone_with_the_daemon_that_it_left_behind() {
    let agent = agent().start();
    let end = agent.run(
        "leaver",
        &json!({"command": ["sh", "-c", "setsid sleep 987654 & echo $!"]}),
    );
    assert_eq!(end["reason"], "Succeeded");
    let log = agent.stdout("leaver");
    let daemon = format!("/proc/{}", log.trim());
    assert!(
        std::path::Path::new(&daemon).exists(),
        "a daemon survives the exit of its task"
    );
    assert_eq!(agent.delete("/tasks/leaver"), 204);
    agent.gone("leaver");
    assert!(
        !std::path::Path::new(&daemon).exists(),
        "nothing of it runs when it is gone"
    );
}

#[test]
fn a_changed_spec_replaces_and_an_equal_one_does_not() {
    let agent = agent().start();
    let with = |seconds: &str| json!([{"name": "t", "spec": {"process": {"command": ["sleep", seconds]}}}]);
    let uid = |list: &Value| list[0]["uid"].clone();
    let first = uid(&agent.post("/setTasks", &with("1000")).1);
    assert_eq!(uid(&agent.post("/setTasks", &with("1000")).1), first);
    assert_eq!(agent.post("/setTasks", &with("2000")).0, 200);
    eventually("the new one runs", PATIENCE, || {
        let (_, list) = agent.get("/getTasks");
        (uid(&list) != first && list[0]["status"]["state"]["running"].is_object()).then_some(())
    });
}

#[test]
fn a_bad_set_changes_nothing() {
    let agent = agent().start();
    let task = json!([{"name": "t", "spec": {"process": {"command": ["sleep", "1000"]}}}]);
    assert_eq!(agent.post("/setTasks", &task).0, 200);
    for bad in ["null", "{}", "[{}]", "[] x", "[{\"name\":\"\"}]"] {
        assert_eq!(agent.call("POST", "/setTasks", bad).code, 400, "{bad}");
    }
    let (_, list) = agent.get("/getTasks");
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert!(list[0]["deletionTimestamp"].is_null());
}

#[test]
fn a_server_whose_init_was_killed_hands_its_tasks_over_to_the_next() {
    let mut agent = agent().start();
    agent.create(
        "t",
        &json!({"process": {"command": ["sh", "-c", "sleep 2; exit 5"]}}),
    );
    agent.running("t");
    let server = agent.server();
    agent.signal(agent.init(), Signal::SIGKILL);
    agent.wait();
    agent.wait_healthy();
    assert_eq!(agent.server(), server, "the server lives on");
    agent.launch();
    eventually("another server serves", PATIENCE, || {
        (agent.try_server()? != server && agent.try_call("GET", "/health", "").is_ok())
            .then_some(())
    });
    assert_eq!(agent.ended("t")["exitCode"], 5);
}

#[test]
fn a_daemon_of_a_killed_shim_is_ended_before_the_loss_is_recorded() {
    let agent = agent().start();
    let script =
        "setsid sh -c 'exec sleep 345678 </dev/null >/dev/null 2>&1' & echo $!; sleep 1000";
    agent.create("t", &json!({"process": {"command": ["sh", "-c", script]}}));
    let daemon = eventually("the daemon runs", PATIENCE, || {
        let pid: i32 = agent.stdout("t").trim().parse().ok()?;
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        line.starts_with("sleep").then_some(pid)
    });
    let [shim] = agent.shims()[..] else {
        panic!("one shim")
    };
    agent.signal(shim, Signal::SIGKILL);
    let end = agent.ended("t");
    assert_eq!(
        (&end["reason"], &end["exitCode"]),
        (&json!("Unknown"), &json!(255))
    );
    assert!(!std::path::Path::new(&format!("/proc/{daemon}")).exists());
}

#[test]
fn a_directory_of_somebody_else_is_left_alone_and_only_its_name_is_taken() {
    let mut agent = agent().start();
    let theirs = agent.dir().join("photos");
    std::fs::create_dir(&theirs).expect("is made");
    std::fs::write(theirs.join("1.jpg"), "x").expect("is written");
    agent.restart();
    assert!(theirs.join("1.jpg").exists());
    let task = json!({"name": "photos", "spec": {"process": {"command": ["true"]}}});
    let (code, error) = agent.post("/tasks", &task);
    assert_eq!((code, &error["code"]), (409, &json!("AlreadyExists")));
    assert_eq!(agent.get("/health").0, 200);
    assert_eq!(agent.run("t", &json!({"command": ["true"]}))["exitCode"], 0);
}
