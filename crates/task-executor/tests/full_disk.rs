//! A data directory without room, or one that can't be written any more.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use testkit::agent::{Agent, PATIENCE, Setup};
use testkit::eventually;
use testkit::place;

/// An agent whose data directory is a small file system that only it can see.
struct Small {
    agent: Agent,
    dir: tempfile::TempDir,
}

impl Small {
    /// None where this can't be done.
    fn start(kib: u32, flag: &str) -> Option<Self> {
        let probe = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /mnt"];
        if !place::need_root() || !place::need_command(&probe) {
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mount = dir.path().join("tasks");
        fs::create_dir(&mount).expect("makes");
        let mount = mount.display().to_string();
        let script = format!("mount -t tmpfs -o size={kib}k none \"$0\" && exec \"$@\"");
        let agent = Setup::new(env!("CARGO_BIN_EXE_task-executor"))
            .dir(&mount)
            .flag(flag)
            .wrapper(["unshare", "-m", "sh", "-c", script.as_str(), mount.as_str()])
            .start();
        Some(Self { agent, dir })
    }

    /// A path in the data directory, as it can be reached from outside.
    fn path(&self, below: &str) -> PathBuf {
        let init = self.agent.init();
        let dir = self.agent.dir().strip_prefix("/").expect("is absolute");
        Path::new(&format!("/proc/{init}/root"))
            .join(dir)
            .join(below)
    }

    /// Takes all the room there is, then gives back so many KiB.
    fn fill_but(&self, kib: usize) {
        let mut filler = fs::File::create(self.path(".filler")).expect("creates");
        let mut written = 0;
        while let Ok(more) = filler.write(&[b'x'; 4096]) {
            written += more;
        }
        filler
            .set_len(u64::try_from(written - kib * 1024).expect("fits"))
            .expect("cuts");
    }

    fn free(&self) {
        fs::remove_file(self.path(".filler")).expect("removes");
    }

    fn stdout(&self, name: &str) -> String {
        fs::read_to_string(self.path(name).join("stdout.log")).unwrap_or_default()
    }

    /// A task that ends with a code when `go` is called, whatever the disk is like.
    fn patient(&self, code: i32) -> Value {
        let go = self.dir.path().join("go");
        let script = format!(
            "while [ ! -e {} ]; do sleep 0.05; done; exit {code}",
            go.display()
        );
        json!({"process": {"command": ["sh", "-c", script]}})
    }

    fn go(&self) {
        fs::write(self.dir.path().join("go"), "").expect("writes");
    }
}

fn quick(name: &str) -> Value {
    json!({"name": name, "spec": {"process": {"command": ["true"]}}})
}

#[test]
fn d02_a_full_disk_refuses_new_tasks_with_507_and_loses_no_exit() {
    let Some(small) = Small::start(512, "--log-level=info") else {
        return;
    };
    let agent = &small.agent;
    agent.create("t", &small.patient(4));
    agent.running("t");
    small.fill_but(0);
    let (_, before) = agent.get("/getTasks");
    for (path, body) in [
        ("/tasks", quick("new")),
        ("/setTasks", json!([before[0], quick("new")])),
    ] {
        let (code, error) = agent.post(path, &body);
        assert_eq!(
            (code, &error["code"]),
            (507, &json!("InsufficientStorage")),
            "{error}"
        );
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|m| m.contains("full")),
            "{error}"
        );
    }
    assert_eq!(agent.get("/getTasks").1, before);
    small.go();
    let end = agent.ended("t");
    assert_eq!(
        (&end["exitCode"], &end["reason"]),
        (&json!(4), &json!("Failed"))
    );
    small.free();
    assert_eq!(
        agent.run("new", &json!({"command": ["true"]}))["exitCode"],
        0
    );
}

#[test]
fn a_killed_server_on_a_full_disk_comes_back_with_every_exit() {
    let Some(small) = Small::start(512, "--log-level=info") else {
        return;
    };
    let agent = &small.agent;
    agent.create("t", &small.patient(4));
    agent.running("t");
    small.fill_but(0);
    agent.signal(agent.server(), nix::sys::signal::Signal::SIGKILL);
    small.go();
    agent.wait_healthy();
    let end = agent.ended("t");
    assert_eq!(
        (&end["exitCode"], &end["reason"]),
        (&json!(4), &json!("Failed"))
    );
    small.free();
}

#[test]
fn a_task_that_fills_the_disk_itself_is_told_exactly() {
    let Some(small) = Small::start(512, "--log-level=info") else {
        return;
    };
    let agent = &small.agent;
    let script = "head -c 10000000 /dev/zero; echo $? >&2; exit 6";
    agent.create("t", &json!({"process": {"command": ["sh", "-c", script]}}));
    let end = agent.ended("t");
    assert_eq!(
        (&end["exitCode"], &end["reason"]),
        (&json!(6), &json!("Failed")),
        "{end}"
    );
    assert!(small.stdout("t").len() > 100_000);
    fs::write(small.path("t").join("stdout.log"), "").expect("empties");
}

#[test]
fn a_set_that_does_not_fit_is_refused_as_a_whole() {
    let Some(small) = Small::start(512, "--max-concurrent-tasks=1") else {
        return;
    };
    let agent = &small.agent;
    agent.create("holder", &small.patient(0));
    agent.running("holder");
    small.fill_but(16);
    let (_, before) = agent.get("/getTasks");
    let mut list = vec![before[0].clone()];
    list.extend((0..20).map(|n| quick(&format!("new{n}"))));
    let (code, error) = agent.post("/setTasks", &json!(list));
    let (_, after) = agent.get("/getTasks");
    small.free();
    small.go();
    assert_eq!(code, 507, "{error}");
    assert_eq!(after, before);
}

#[test]
fn a_full_disk_is_cleaned_by_deleting_the_task_that_filled_it() {
    let Some(small) = Small::start(512, "--log-level=info") else {
        return;
    };
    let agent = &small.agent;
    let script = "head -c 10000000 /dev/zero; exit 6";
    agent.create("t", &json!({"process": {"command": ["sh", "-c", script]}}));
    agent.ended("t");
    let code = agent.delete("/tasks/t");
    if code != 204 {
        fs::write(small.path("t").join("stdout.log"), "").expect("empties");
    }
    assert_eq!(code, 204);
    agent.gone("t");
    assert_eq!(
        agent.run("new", &json!({"command": ["true"]}))["exitCode"],
        0
    );
}

#[test]
fn a_task_whose_turn_comes_on_a_full_disk_waits_for_room_and_then_runs() {
    let Some(small) = Small::start(512, "--max-concurrent-tasks=1") else {
        return;
    };
    let agent = &small.agent;
    agent.create("first", &small.patient(0));
    agent.running("first");
    agent.create(
        "second",
        &json!({"process": {"command": ["sh", "-c", "exit 3"]}}),
    );
    small.fill_but(0);
    small.go();
    assert_eq!(agent.ended("first")["exitCode"], 0);
    eventually("it waits for room", PATIENCE, || {
        let (_, task) = agent.get("/tasks/second");
        (task["status"]["state"]["waiting"]["reason"] == "DiskFull").then_some(())
    });
    // Longer than a few rounds of the safety net take.
    let (_, task) = agent.get("/tasks/second?wait=6s");
    small.free();
    assert!(task["status"]["state"]["waiting"].is_object(), "{task}");
    let end = agent.ended("second");
    assert_eq!(
        (&end["exitCode"], &end["reason"]),
        (&json!(3), &json!("Failed")),
        "{end}"
    );
}

#[test]
fn the_agent_is_not_healthy_when_its_data_directory_is_gone() {
    let agent = Setup::new(env!("CARGO_BIN_EXE_task-executor")).start();
    let away = agent.dir().with_extension("away");
    fs::rename(agent.dir(), &away).expect("renames");
    let (code, error) = agent.post("/tasks", &quick("t"));
    let unhealthy = (0..300).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        ["/health", "/readyz"]
            .iter()
            .all(|path| agent.get(path).0 == 503)
    });
    fs::rename(&away, agent.dir()).expect("renames");
    assert!(code >= 500, "{error}");
    assert!(unhealthy, "an agent that can't do its job says so");
    agent.wait_healthy();
}
