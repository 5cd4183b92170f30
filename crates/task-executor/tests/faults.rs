//! What must lose nothing: killed processes, reused pids, torn records.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use task_shim::proc::{Scope, processes};
use task_shim::record::{Identity, Phase, RUN_FILE, RunRecord};
use testkit::agent::{PATIENCE, Setup};
use testkit::eventually;
use testkit::place::{self, is_alive, status_line};
use testkit::task::{check_end, sh};

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_task-executor"))
}

/// Checks that an end is told as not known, with the reason why.
fn check_unknown(end: &Value) {
    check_end(end, "Unknown", 255, None);
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.contains("not known") && message.len() > 40, "{end}");
}

fn dead(what: &str, pids: &[Pid]) {
    eventually(what, PATIENCE, || {
        pids.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
}

/// A task that counts its starts, tells its pid and exits with a code once there is a file.
struct Patient {
    dir: tempfile::TempDir,
}

impl Patient {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn process(&self, code: i32) -> Value {
        let script = format!(
            "echo run >> {}; echo $$; while [ ! -e {} ]; do sleep 0.05; done; exit {code}",
            self.path("runs").display(),
            self.path("go").display()
        );
        sh(&script)
    }

    fn list(&self, code: i32) -> Value {
        json!([{"name": "t", "spec": {"process": self.process(code)}}])
    }

    fn go(&self) {
        fs::write(self.path("go"), "").expect("writes");
    }

    fn runs(&self) -> usize {
        let text = fs::read_to_string(self.path("runs")).unwrap_or_default();
        text.lines().count()
    }
}

#[test]
fn a_server_killed_again_and_again_starts_nothing_twice_and_loses_no_exit() {
    let agent = setup().start();
    let task = Patient::new();
    assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
    let leader = agent.told_pids("t", 1)[0];
    for _ in 0..8 {
        agent.signal(agent.server(), Signal::SIGKILL);
        agent.wait_healthy();
        assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
        assert!(is_alive(leader));
    }
    agent.signal(agent.server(), Signal::SIGKILL);
    task.go();
    agent.wait_healthy();
    check_end(&agent.ended("t"), "Failed", 7, None);
    assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
    check_end(&agent.ended("t"), "Failed", 7, None);
    assert_eq!(task.runs(), 1);
}

#[test]
fn a_task_that_was_accepted_runs_once_though_the_server_is_killed_at_once() {
    let agent = setup().start();
    let tasks: Vec<_> = (0..12).map(|_| Patient::new()).collect();
    for (index, task) in tasks.iter().enumerate() {
        task.go();
        let server = agent.server();
        agent.create(&format!("t{index}"), &json!({"process": task.process(3)}));
        // It may be anywhere between the record and the start.
        agent.signal(server, Signal::SIGKILL);
        agent.wait_healthy();
    }
    for (index, task) in tasks.iter().enumerate() {
        check_end(&agent.ended(&format!("t{index}")), "Failed", 3, None);
        assert_eq!(task.runs(), 1, "t{index}");
    }
}

#[test]
fn a_deletion_goes_on_though_the_server_is_killed() {
    let agent = setup().start();
    let deaf =
        "trap '' TERM; echo $$; setsid sh -c 'echo $$; sleep 1000' & while :; do sleep 0.2; done";
    agent.create(
        "t",
        &json!({"process": sh(deaf), "terminationGracePeriodSeconds": 2}),
    );
    let tree = agent.told_pids("t", 2);
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.signal(agent.server(), Signal::SIGKILL);
    agent.wait_healthy();
    agent.gone("t");
    assert!(!tree.iter().any(|pid| is_alive(*pid)), "{tree:?}");
}

#[test]
fn a_replacement_goes_on_though_the_server_is_killed() {
    let agent = setup().start();
    let set = |script: &str| {
        let list = json!([{"name": "t", "spec": {"process": sh(script), "terminationGracePeriodSeconds": 2}}]);
        assert_eq!(agent.post("/setTasks", &list).0, 200);
    };
    set("trap '' TERM; echo $$; while :; do sleep 0.2; done");
    agent.told_pids("t", 1);
    set("exit 5");
    agent.signal(agent.server(), Signal::SIGKILL);
    agent.wait_healthy();
    let end = eventually("the new one is over", PATIENCE, || {
        let (_, task) = agent.get("/tasks/t");
        let end = task["status"]["state"]["terminated"].clone();
        (end["exitCode"] == 5).then_some(end)
    });
    check_end(&end, "Failed", 5, None);
}

#[test]
fn the_exit_of_a_task_whose_shim_was_killed_is_unknown_and_its_tree_is_ended() {
    let agent = setup().start();
    let task = Patient::new();
    let script = "sh -c 'echo $$; sleep 1000' & echo $$; sleep 1000";
    agent.create("t", &json!({"process": sh(script)}));
    let tree = agent.told_pids("t", 2);
    agent.running("t");
    let shims = agent.shims();
    assert_eq!(shims.len(), 1);
    agent.signal(shims[0], Signal::SIGKILL);
    check_unknown(&agent.ended("t"));
    dead("the tree is ended", &tree);
    // It is not run again on a guess.
    agent.create("counted", &json!({"process": task.process(0)}));
    agent.told_pids("counted", 1);
    agent.signal(agent.shims()[0], Signal::SIGKILL);
    check_unknown(&agent.ended("counted"));
    assert_eq!(task.runs(), 1);
    let page = agent.call("GET", "/metrics", "").text();
    assert!(
        page.lines()
            .any(|l| l == "task_executor_shims_lost_total 2"),
        "{page}"
    );
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
}

#[test]
fn a_killed_shim_leaves_no_daemon_behind() {
    let agent = setup().start();
    let script = "setsid sh -c 'echo $$; sleep 1000' & (setsid sh -c 'echo $$; sleep 1000' &); echo $$; sleep 1000";
    agent.create("t", &json!({"process": sh(script)}));
    let tree = agent.told_pids("t", 3);
    agent.running("t");
    agent.signal(agent.shims()[0], Signal::SIGKILL);
    check_unknown(&agent.ended("t"));
    let left: Vec<_> = tree.into_iter().filter(|pid| is_alive(*pid)).collect();
    for pid in &left {
        agent.signal(*pid, Signal::SIGKILL);
    }
    assert!(left.is_empty(), "{left:?} ran on when the end was visible");
}

#[test]
fn a_killed_shim_of_a_finished_task_leaves_no_daemon_behind() {
    let agent = setup().start();
    check_end(
        &agent.run("t", &sh("setsid sleep 1000 & echo $!")),
        "Succeeded",
        0,
        None,
    );
    let daemon = agent.told_pids("t", 1)[0];
    agent.signal(agent.shims()[0], Signal::SIGKILL);
    check_end(&agent.ended("t"), "Succeeded", 0, None);
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
    let left = is_alive(daemon);
    if left {
        agent.signal(daemon, Signal::SIGKILL);
    }
    assert!(!left, "it ran on when the task was gone");
}

#[test]
fn the_post_stop_hook_runs_also_for_a_task_whose_shim_was_killed() {
    let agent = setup().start();
    let task = Patient::new();
    let mut process = sh("echo $$; sleep 1000");
    let script = format!("echo post >> {}", task.path("runs").display());
    process["lifecycle"] = json!({"postStop": {"exec": {"command": ["sh", "-c", script]}}});
    agent.create("t", &json!({"process": process}));
    agent.told_pids("t", 1);
    agent.running("t");
    agent.signal(agent.shims()[0], Signal::SIGKILL);
    check_unknown(&agent.ended("t"));
    eventually("the hook has run", PATIENCE, || {
        (task.runs() == 1).then_some(())
    });
}

#[test]
fn after_the_death_of_init_and_server_the_next_start_takes_over() {
    let mut agent = setup().start();
    let task = Patient::new();
    assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
    agent.told_pids("t", 1);
    let server = agent.server();
    agent.signal(agent.init(), Signal::SIGKILL);
    agent.signal(server, Signal::SIGKILL);
    agent.wait();
    dead("the server is gone", &[server]);
    agent.launch();
    agent.wait_healthy();
    assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
    agent.running("t");
    task.go();
    check_end(&agent.ended("t"), "Failed", 7, None);
    assert_eq!(task.runs(), 1);
}

#[test]
fn after_the_death_of_init_server_and_shim_the_end_is_unknown() {
    let mut agent = setup().start();
    let task = Patient::new();
    assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
    let leader = agent.told_pids("t", 1)[0];
    let doomed = [agent.init(), agent.server(), agent.shims()[0]];
    for pid in doomed {
        agent.signal(pid, Signal::SIGKILL);
    }
    agent.wait();
    dead("they are gone", &doomed);
    agent.launch();
    agent.wait_healthy();
    check_unknown(&agent.ended("t"));
    dead("the task is ended", &[leader]);
    assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
    check_unknown(&agent.ended("t"));
    assert_eq!(task.runs(), 1, "it is not run again on a guess");
}

#[test]
fn a_start_after_the_death_of_init_alone_takes_over() {
    let mut agent = setup().start();
    let task = Patient::new();
    assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
    agent.told_pids("t", 1);
    let old = agent.server();
    agent.signal(agent.init(), Signal::SIGKILL);
    agent.wait();
    agent.launch();
    let new = eventually("the new agent serves", PATIENCE, || {
        let server = agent.try_server()?;
        agent.try_call("GET", "/health", "").ok()?;
        (server != old || !is_alive(old)).then_some(server)
    });
    assert_ne!(new, old);
    task.go();
    check_end(&agent.ended("t"), "Failed", 7, None);
    assert_eq!(task.runs(), 1);
}

#[test]
fn a_server_without_its_init_still_keeps_tasks_at_sigterm() {
    let mut agent = setup().start();
    let task = Patient::new();
    assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
    let leader = agent.told_pids("t", 1)[0];
    let server = agent.server();
    agent.signal(agent.init(), Signal::SIGKILL);
    agent.wait();
    agent.signal(server, Signal::SIGTERM);
    dead("the server is gone", &[server]);
    let kept = is_alive(leader);
    agent.launch();
    agent.wait_healthy();
    assert!(kept, "the default policy keeps tasks");
    task.go();
    check_end(&agent.ended("t"), "Failed", 7, None);
}

/// Writes a run record that names a live process which never was the task's.
fn forge(dir: &Path, uid: &str, leader: Identity) {
    let record = RunRecord {
        uid: uid.to_owned(),
        leader,
        phase: Phase::Main,
        started_at: 1_700_000_000,
    };
    fs::write(dir.join(RUN_FILE), record.encode()).expect("writes");
}

struct Innocent(Child);

impl Innocent {
    fn new() -> Self {
        let sleep = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .spawn();
        Self(sleep.expect("sleep starts"))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a pid fits"))
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        // It may have been killed, which is what its test is about.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn d04_a_process_that_only_has_the_pid_of_a_task_is_never_signalled() {
    let scope = Scope::current().expect("proc is there");
    let innocent = Innocent::new();
    let true_one = scope.identify(innocent.pid()).expect("it runs");
    let earlier = Identity {
        start_ticks: true_one.start_ticks - 1,
        ..true_one.clone()
    };
    let other_boot = Identity {
        boot: "another".to_owned(),
        ..true_one.clone()
    };
    let other_namespace = Identity {
        pid_namespace: 1,
        ..true_one
    };
    for leader in [earlier, other_boot, other_namespace] {
        let mut agent = setup().start();
        agent.create("t", &json!({"process": sh("echo $$; exec sleep 1000")}));
        let task = agent.told_pids("t", 1)[0];
        let uid = agent.running("t")["uid"].clone();
        let shim = agent.shims()[0];
        agent.stop();
        for pid in [shim, task] {
            agent.signal(pid, Signal::SIGKILL);
        }
        dead("shim and task are gone", &[shim, task]);
        forge(&agent.dir().join("t"), uid.as_str().expect("a uid"), leader);
        agent.launch();
        agent.wait_healthy();
        check_unknown(&agent.ended("t"));
        assert_eq!(agent.delete("/tasks/t"), 204);
        agent.gone("t");
        assert!(is_alive(innocent.pid()), "an innocent process was ended");
    }
}

/// A PID namespace that is held open by a process 1 which reaps.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", "while :; do sleep 0.2; done"])
            .stdin(Stdio::null())
            .spawn();
        Self(child.expect("unshare starts"))
    }

    fn holder(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a pid fits"))
    }

    /// A process of the namespace, by its pid in there.
    fn find(&self, inside: i32) -> Option<Pid> {
        let inside = inside.to_string();
        processes().into_iter().map(|(pid, _)| pid).find(|pid| {
            is_alive(*pid)
                && status_line(*pid, "NSpid").is_some_and(|line| {
                    let mut pids = line.split_ascii_whitespace();
                    pids.next_back() == Some(&inside) && pids.next().is_some()
                })
                && fs::read_link(format!("/proc/{pid}/ns/pid")).ok() == self.link()
        })
    }

    fn link(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/ns/pid_for_children", self.holder())).ok()
    }

    fn enter(&self) -> Vec<String> {
        let first = eventually("process 1 is there", PATIENCE, || self.find(1));
        // A path of /proc in there shows that its own /proc is mounted.
        eventually("its /proc is mounted", PATIENCE, || {
            fs::exists(format!("/proc/{first}/root/proc/1/stat"))
                .ok()?
                .then_some(())
        });
        ["nsenter", "-t", &first.to_string(), "-p", "-m"]
            .map(str::to_owned)
            .to_vec()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its process 1 ends with it, and with that all that is in there.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes a certain pid in the namespace it runs in, and holds it.
const TAKE_PID: &str = "i=0; while [ $i -lt 200 ]; do
    echo $(($1 - 1)) > /proc/sys/kernel/ns_last_pid || exit 1
    sleep 1000 &
    if [ $! -eq $1 ]; then wait; exit 0; fi
    kill $!; i=$((i + 1)); done; exit 2";

#[test]
fn d04_a_pid_that_is_really_reused_is_never_signalled() {
    let words = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        "echo 99 > /proc/sys/kernel/ns_last_pid",
    ];
    if !place::need_root() || !place::need_command(&words) {
        return;
    }
    let namespace = Namespace::new();
    let enter = namespace.enter();
    let mut agent = setup().wrapper(enter.clone()).start();
    agent.create("t", &json!({"process": sh("echo $$; exec sleep 1000")}));
    let inside = agent.told_pids("t", 1)[0].as_raw();
    agent.running("t");
    let task = namespace.find(inside).expect("the task is there");
    let shim = agent.shims()[0];
    agent.stop();
    for pid in [shim, task] {
        agent.signal(pid, Signal::SIGKILL);
    }
    eventually("the pid is free", PATIENCE, || {
        (!fs::exists(format!("/proc/{task}")).ok()?).then_some(())
    });
    let mut thief = Command::new(&enter[0])
        .args(&enter[1..])
        .args(["sh", "-c", TAKE_PID, "sh", &inside.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .expect("nsenter starts");
    let innocent = eventually("the pid is taken", PATIENCE, || namespace.find(inside));
    assert_ne!(innocent, task);
    agent.launch();
    agent.wait_healthy();
    check_unknown(&agent.ended("t"));
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
    assert_eq!(
        namespace.find(inside),
        Some(innocent),
        "an innocent process was ended"
    );
    kill(innocent, Signal::SIGKILL).expect("it is there");
    assert!(thief.wait().expect("ends").success());
    agent.stop();
}

/// The container restarts: every process is gone, the data dir stays, pids begin anew.
#[test]
fn a_restart_of_the_container_makes_running_tasks_unknown_and_runs_none_again() {
    let unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut words = unshare.to_vec();
    words.push("true");
    if !place::need_root() || !place::need_command(&words) {
        return;
    }
    let mut agent = setup().wrapper(unshare).start();
    let task = Patient::new();
    assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
    agent.told_pids("t", 1);
    agent.running("t");
    agent.signal(agent.init(), Signal::SIGKILL);
    agent.wait();
    agent.launch();
    agent.wait_healthy();
    check_unknown(&agent.ended("t"));
    assert_eq!(agent.post("/setTasks", &task.list(7)).0, 200);
    check_unknown(&agent.ended("t"));
    assert_eq!(task.runs(), 1);
}

type Spoiler<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

#[test]
fn d02_a_torn_exit_record_is_unknown_and_never_a_success() {
    let whole = |bytes: &[u8]| bytes.to_vec();
    let empty = |_: &[u8]| Vec::new();
    // The record ends in the room that was reserved for it.
    let written = |bytes: &[u8]| bytes.iter().rposition(|b| *b != 0).unwrap_or_default();
    let half = |bytes: &[u8]| bytes[..written(bytes) / 2].to_vec();
    let zeros = |bytes: &[u8]| vec![0; bytes.len()];
    let digit = |_: &[u8]| b"0".to_vec();
    let flipped = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.replace("code=7", "code=0").into_bytes()
    };
    let foreign = |bytes: &[u8]| bytes.iter().rev().copied().collect();
    let spoilers: [(&str, Spoiler<'_>); 7] = [
        ("whole", &whole),
        ("empty", &empty),
        ("half", &half),
        ("zeros", &zeros),
        ("digit", &digit),
        ("flipped", &flipped),
        ("foreign", &foreign),
    ];
    let mut agent = setup().start();
    for (name, _) in &spoilers {
        check_end(&agent.run(name, &sh("exit 7")), "Failed", 7, None);
    }
    eventually("no shim is left", PATIENCE, || {
        agent.shims().is_empty().then_some(())
    });
    agent.stop();
    for (name, spoil) in &spoilers {
        let file = agent.dir().join(name).join("exit.rec");
        let bytes = fs::read(&file).expect("reads");
        assert!(
            *name != "flipped" || spoil(&bytes) != bytes,
            "the code is in the record"
        );
        fs::write(&file, spoil(&bytes)).expect("writes");
    }
    agent.launch();
    agent.wait_healthy();
    check_end(&agent.ended("whole"), "Failed", 7, None);
    for (name, _) in &spoilers[1..] {
        check_unknown(&agent.ended(name));
    }
    // What was found out is kept.
    agent.restart();
    check_unknown(&agent.ended("empty"));
}

#[test]
fn an_exit_record_of_another_task_is_not_believed() {
    let mut agent = setup().start();
    check_end(&agent.run("good", &sh("exit 0")), "Succeeded", 0, None);
    check_end(&agent.run("bad", &sh("exit 7")), "Failed", 7, None);
    eventually("no shim is left", PATIENCE, || {
        agent.shims().is_empty().then_some(())
    });
    agent.stop();
    let record = |name: &str| agent.dir().join(name).join("exit.rec");
    fs::copy(record("good"), record("bad")).expect("copies");
    agent.launch();
    agent.wait_healthy();
    check_unknown(&agent.ended("bad"));
}

#[test]
fn a_lost_exit_record_is_unknown_and_the_task_is_not_run_again() {
    let mut agent = setup().start();
    let task = Patient::new();
    task.go();
    assert_eq!(agent.post("/setTasks", &task.list(0)).0, 200);
    check_end(&agent.ended("t"), "Succeeded", 0, None);
    eventually("no shim is left", PATIENCE, || {
        agent.shims().is_empty().then_some(())
    });
    agent.stop();
    fs::remove_file(agent.dir().join("t/exit.rec")).expect("removes");
    agent.launch();
    agent.wait_healthy();
    check_unknown(&agent.ended("t"));
    assert_eq!(agent.post("/setTasks", &task.list(0)).0, 200);
    check_unknown(&agent.ended("t"));
    assert_eq!(task.runs(), 1);
}

#[test]
fn d19_a_corrupt_task_record_is_set_aside_and_named_and_blocks_nothing() {
    let mut agent = setup().start();
    for name in ["broken", "empty", "other", "good"] {
        agent.run(name, &sh("exit 3"));
    }
    eventually("no shim is left", PATIENCE, || {
        agent.shims().is_empty().then_some(())
    });
    agent.stop();
    let record = |name: &str| agent.dir().join(name).join("task.json");
    let mut bytes = fs::read(record("broken")).expect("reads");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(record("broken"), bytes).expect("writes");
    fs::write(record("empty"), "").expect("writes");
    fs::copy(record("good"), record("other")).expect("copies");
    agent.launch();
    agent.wait_healthy();
    let (code, health) = agent.get("/health");
    assert_eq!((code, &health["status"]), (200, &json!("healthy")));
    let named = health["corruptRecords"].to_string();
    for name in ["broken", "empty", "other"] {
        assert!(named.contains(name), "{named}");
        assert_eq!(agent.get(&format!("/tasks/{name}")).0, 404);
    }
    let page = agent.call("GET", "/metrics", "").text();
    assert!(
        page.lines()
            .any(|l| l == "task_executor_records_corrupt_total 3"),
        "{page}"
    );
    check_end(&agent.ended("good"), "Failed", 3, None);
    check_end(&agent.run("broken", &sh("exit 0")), "Succeeded", 0, None);
    let aside = fs::read_dir(agent.dir().join(".corrupt")).expect("is there");
    assert_eq!(aside.count(), 3, "nothing is thrown away");
}

#[test]
fn d19_nothing_runs_on_unowned_when_a_record_is_corrupt() {
    let mut agent = setup().start();
    agent.create("t", &json!({"process": sh("echo $$; sleep 1000")}));
    let leader = agent.told_pids("t", 1)[0];
    let shim = agent.shims()[0];
    agent.stop();
    fs::write(agent.dir().join("t/task.json"), "junk").expect("writes");
    agent.launch();
    agent.wait_healthy();
    let owned = agent.get("/tasks/t").0 == 200;
    let ended = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        !is_alive(leader)
    });
    if !owned && !ended {
        agent.signal(shim, Signal::SIGTERM);
        dead("the tree is ended", &[shim, leader]);
    }
    assert!(owned || ended, "it ran on, and no task shows it");
}
