//! The agent as a user runs it: the real program, real processes, its HTTP API.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::eventually;

const PATIENCE: Duration = Duration::from_secs(20);

struct Agent {
    init: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Agent {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temp dir");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        let mut agent = Self {
            init: Self::spawn(&dir, port),
            port,
            dir,
        };
        agent.wait_healthy();
        agent
    }

    fn spawn(dir: &tempfile::TempDir, port: u16) -> Child {
        Command::new(env!("CARGO_BIN_EXE_task-executor"))
            .arg(format!("--data-dir={}", dir.path().display()))
            .arg(format!("-listen-addr=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .spawn()
            .expect("the agent starts")
    }

    fn wait_healthy(&mut self) {
        eventually("the agent is healthy", PATIENCE, || {
            (self.try_call("GET", "/health", "")?.0 == 200).then_some(())
        });
    }

    fn try_call(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (code, answer) = self.try_call(method, path, &text).expect("an answer");
        (code, serde_json::from_str(&answer).unwrap_or(Value::Null))
    }

    fn run(&self, name: &str, process: &Value) -> Value {
        let (code, _) = self.call(
            "POST",
            "/tasks",
            &json!({"name": name, "spec": {"process": process}}),
        );
        assert_eq!(code, 201);
        self.ended(name)
    }

    fn ended(&self, name: &str) -> Value {
        let (code, task) = self.call("GET", &format!("/tasks/{name}?wait=20s"), &Value::Null);
        assert_eq!(code, 200);
        task["status"]["state"]["terminated"].clone()
    }

    /// The server's pid: the only child of init that is not a shim.
    fn server(&self) -> i32 {
        let pid = self.init.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .expect("init lives");
        let is_server = |p: &&str| {
            std::fs::read(format!("/proc/{p}/cmdline"))
                .is_ok_and(|line| line.starts_with(b"task-executor-server"))
        };
        children
            .split_whitespace()
            .find(is_server)
            .expect("a server")
            .parse()
            .expect("a pid")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some((_, _)) = self.try_call("POST", "/setTasks", "[]") {
            eventually("all tasks are gone", PATIENCE, || {
                (self.try_call("GET", "/getTasks", "")?.1.trim() == "[]").then_some(())
            });
        }
        signal(
            i32::try_from(self.init.id()).expect("fits"),
            nix::sys::signal::Signal::SIGTERM,
        );
        self.init.wait().expect("init ends");
    }
}

fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("is signalled");
}

#[test]
fn exit_codes_signals_and_start_errors_are_told_apart() {
    let agent = Agent::start();
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
    let agent = Agent::start();
    let count = agent.dir.path().join(".agent/runs");
    let script = format!("echo run >> {}; sleep 1; exit 7", count.display());
    let task = json!([{"name": "once", "spec": {"process": {"command": ["sh", "-c", script]}}}]);
    assert_eq!(agent.call("POST", "/setTasks", &task).0, 200);
    eventually("the task runs", PATIENCE, || count.exists().then_some(()));
    signal(agent.server(), nix::sys::signal::Signal::SIGKILL);
    eventually("a new server answers", PATIENCE, || {
        agent.try_call("GET", "/health", "").map(drop)
    });
    assert_eq!(agent.call("POST", "/setTasks", &task).0, 200);
    assert_eq!(agent.ended("once")["exitCode"], 7);
    assert_eq!(std::fs::read_to_string(&count).expect("reads"), "run\n");
}

#[test]
fn a_timeout_holds_against_a_task_that_ignores_the_signal() {
    let agent = Agent::start();
    let script = "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 1000\" & sleep 1000";
    let spec = json!({"process": {"command": ["sh", "-c", script]}, "timeoutSeconds": 1, "terminationGracePeriodSeconds": 1});
    assert_eq!(
        agent
            .call("POST", "/tasks", &json!({"name": "deaf", "spec": spec}))
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
    let agent = Agent::start();
    let end = agent.run(
        "leaver",
        &json!({"command": ["sh", "-c", "setsid sleep 987654 & echo $!"]}),
    );
    assert_eq!(end["reason"], "Succeeded");
    let log = std::fs::read_to_string(agent.dir.path().join("leaver/stdout.log")).expect("reads");
    let daemon = format!("/proc/{}", log.trim());
    assert!(
        std::path::Path::new(&daemon).exists(),
        "a daemon survives the exit of its task"
    );
    assert_eq!(agent.call("DELETE", "/tasks/leaver", &Value::Null).0, 204);
    eventually("the task is gone", PATIENCE, || {
        (agent.call("GET", "/tasks/leaver", &Value::Null).0 == 404).then_some(())
    });
    assert!(
        !std::path::Path::new(&daemon).exists(),
        "nothing of it runs when it is gone"
    );
}

#[test]
fn a_changed_spec_replaces_and_an_equal_one_does_not() {
    let agent = Agent::start();
    let with = |seconds: &str| json!([{"name": "t", "spec": {"process": {"command": ["sleep", seconds]}}}]);
    let uid = |list: &Value| list[0]["uid"].clone();
    let first = uid(&agent.call("POST", "/setTasks", &with("1000")).1);
    assert_eq!(
        uid(&agent.call("POST", "/setTasks", &with("1000")).1),
        first
    );
    assert_eq!(agent.call("POST", "/setTasks", &with("2000")).0, 200);
    eventually("the new one runs", PATIENCE, || {
        let (_, list) = agent.call("GET", "/getTasks", &Value::Null);
        (uid(&list) != first && list[0]["status"]["state"]["running"].is_object()).then_some(())
    });
}

#[test]
fn a_bad_set_changes_nothing() {
    let agent = Agent::start();
    let task = json!([{"name": "t", "spec": {"process": {"command": ["sleep", "1000"]}}}]);
    assert_eq!(agent.call("POST", "/setTasks", &task).0, 200);
    for bad in ["null", "{}", "[{}]", "[] x", "[{\"name\":\"\"}]"] {
        assert_eq!(
            agent
                .try_call("POST", "/setTasks", bad)
                .expect("an answer")
                .0,
            400,
            "{bad}"
        );
    }
    let (_, list) = agent.call("GET", "/getTasks", &Value::Null);
    assert_eq!(list.as_array().map(Vec::len), Some(1));
    assert!(list[0]["deletionTimestamp"].is_null());
}
