//! Many tasks at once.

use std::fs;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::agent::{Agent, Setup};
use testkit::eventually;

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_task-executor"))
}

/// A set of tasks that each note their number, one byte each, and exit with its last digit.
fn numbered(count: usize, file: &str) -> Value {
    let task = |n: usize| {
        let script = format!("printf . >> {file}; exit {}", n % 10);
        json!({"name": format!("t{n:05}"), "process": {"command": ["/bin/sh", "-c", script]}})
    };
    (0..count).map(task).collect()
}

/// Waits until all tasks are over, and checks that each was run once and told exactly.
fn check_all(agent: &Agent, count: usize, file: &str, patience: Duration) {
    let list = eventually("all are over", patience, || {
        // Asking for the whole list again and again would be the load that is measured.
        std::thread::sleep(Duration::from_millis(200));
        let page = agent.call("GET", "/metrics", "").text();
        let line = format!("task_executor_tasks{{state=\"terminated\"}} {count}");
        page.lines()
            .any(|found| found == line)
            .then(|| agent.get("/getTasks").1)
    });
    let list = list.as_array().expect("a list");
    assert_eq!(list.len(), count);
    for (n, task) in list.iter().enumerate() {
        let end = &task["processStatus"]["terminated"];
        assert_eq!(task["name"], format!("t{n:05}"));
        assert_eq!(end["exitCode"], n % 10, "{task}");
    }
    let ran = fs::metadata(file).expect("is there").len();
    assert_eq!(usize::try_from(ran), Ok(count), "each was run once");
}

fn run_all(flag: &str, count: usize, patience: Duration) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("ran").display().to_string();
    let agent = setup().flag(flag).start();
    let body = numbered(count, &file).to_string();
    let mut client = agent.client().with_patience(patience);
    let began = Instant::now();
    let set = client.request("POST", "/setTasks", body.as_bytes());
    assert_eq!(set.expect("is answered").code, 200);
    let accepted = began.elapsed();
    check_all(&agent, count, &file, patience);
    let done = began.elapsed();
    let listed = Instant::now();
    assert_eq!(agent.call("GET", "/getTasks", "").code, 200);
    let listed = listed.elapsed();
    let cleared = Instant::now();
    let set = client.request("POST", "/setTasks", b"[]");
    assert_eq!(set.expect("is answered").code, 200);
    eventually("all are gone", patience, || {
        std::thread::sleep(Duration::from_millis(100));
        (agent.get("/getTasks").1 == json!([])).then_some(())
    });
    let cleared = cleared.elapsed();
    // Not `println!`, which would be shown for a failure only. Without standard error there
    // is nobody to tell.
    let _ = writeln!(
        io::stderr(),
        "{count} tasks: accepted in {accepted:?}, over after {done:?}, listed in {listed:?}, deleted in {cleared:?}"
    );
}

#[test]
fn two_tasks_in_one_set() {
    run_all("--max-concurrent-tasks=0", 2, Duration::from_mins(1));
}

#[test]
fn a_thousand_tasks_in_one_set() {
    run_all("--max-concurrent-tasks=32", 1000, Duration::from_mins(2));
}

#[test]
fn ten_thousand_tasks_in_one_set() {
    run_all("--max-concurrent-tasks=64", 10_000, Duration::from_mins(5));
}
