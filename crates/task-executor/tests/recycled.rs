//! A task that gets the directory of a removed one: nothing of the old shows, whatever happens.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::json;
use testkit::agent::{Agent, PATIENCE, Setup};
use testkit::eventually;
use testkit::task::{check_end, sh};

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_task-executor"))
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("is there").ino()
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).expect("is there").count()
}

/// Runs a task that leaves as much as one can, deletes it, and gives the inode of its
/// directory and its log as somebody holds it who had been reading it.
fn use_up(agent: &Agent) -> (u64, File) {
    let mut process = sh("echo secret; echo secret >&2; exit 7");
    process["lifecycle"] = json!({"postStop": {"exec": {"command": ["true"]}}});
    let dir = agent.dir().join("old");
    check_end(&agent.run("old", &process), "Failed", 7, None);
    let seen = (
        inode(&dir),
        File::open(dir.join("stdout.log")).expect("opens"),
    );
    agent.delete("/tasks/old");
    agent.gone("old");
    eventually("it is a spare", PATIENCE, || {
        (entries(&agent.dir().join(".spare")) > 0).then_some(())
    });
    seen
}

fn check_nothing_old_shows(setup: Setup) {
    let agent = setup.start();
    let (old, mut log) = use_up(&agent);
    let go = tempfile::tempdir().expect("a temporary directory");
    let script = format!(
        "while [ ! -e {}/go ]; do sleep 0.05; done; echo new",
        go.path().display()
    );
    agent.create("new", &json!({"process": sh(&script)}));
    agent.running("new");
    let dir = agent.dir().join("new");
    assert_eq!(inode(&dir), old, "the directory is used again");
    for gone in ["exit.rec", "post.rec", "delete.rec"] {
        assert!(!dir.join(gone).exists(), "{gone}");
    }
    for stream in ["stdout", "stderr"] {
        let answer = agent.call("GET", &format!("/tasks/new/logs?stream={stream}"), "");
        assert_eq!(answer.text(), "");
    }
    // Recovery reads the records, and nothing else.
    agent.signal(agent.server(), Signal::SIGKILL);
    agent.wait_healthy();
    agent.running("new");
    fs::write(go.path().join("go"), "").expect("writes");
    check_end(&agent.ended("new"), "Succeeded", 0, None);
    assert_eq!(agent.stdout("new"), "new\n");
    let mut read = String::new();
    log.read_to_string(&mut read).expect("reads");
    assert_eq!(
        read, "secret\n",
        "whoever reads the old log sees nothing new"
    );
}

#[test]
fn a_recycled_directory_shows_nothing_of_the_task_before() {
    check_nothing_old_shows(setup());
}

#[test]
fn a_recycled_directory_shows_nothing_of_the_task_before_with_sync() {
    check_nothing_old_shows(setup().flag("--durability=sync"));
}

#[test]
fn spares_are_no_tasks_and_do_not_outlive_the_server() {
    let agent = setup().start();
    use_up(&agent);
    assert_eq!(agent.get("/getTasks").1, json!([]));
    agent.signal(agent.server(), Signal::SIGKILL);
    agent.wait_healthy();
    assert_eq!(agent.get("/getTasks").1, json!([]));
    assert_eq!(entries(&agent.dir().join(".spare")), 0);
    check_end(&agent.run("old", &sh("exit 3")), "Failed", 3, None);
}

#[test]
fn a_replaced_task_gets_its_own_records_also_when_there_is_a_spare() {
    let agent = setup().start();
    use_up(&agent);
    let list = |code: i32| json!([{"name": "t", "spec": {"process": sh(&format!("exit {code}"))}}]);
    for code in 4..8 {
        assert_eq!(agent.post("/setTasks", &list(code)).0, 200);
        eventually("the successor has ended", PATIENCE, || {
            let task = agent.get("/tasks/t").1;
            (task["status"]["state"]["terminated"]["exitCode"] == code).then_some(())
        });
    }
    assert_eq!(entries(&agent.dir().join(".new")), 0);
}
