//! Sidecar mode on real namespaces: where commands run, as whom, and how they end.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testkit::agent::{Agent, PATIENCE, Setup};
use testkit::target::{self, ELSEWHERE, HOME, HOST_NAME, Layout, Plan, Target, need_namespaces};
use testkit::{eventually, place};

const PROGRAM: &str = env!("CARGO_BIN_EXE_task-executor");

/// An agent in sidecar mode, started as OpenSandbox does it.
fn agent(name: &str) -> Agent {
    Setup::new(PROGRAM)
        .flag("-enable-sidecar-mode=true")
        .flag(format!("-main-container-name={name}"))
        .start()
}

fn both(name: &str, test: impl Fn(&Agent, &Target, Layout)) {
    if !need_namespaces() {
        return;
    }
    for layout in Layout::ALL {
        let name = format!("{name}-{layout:?}");
        let target = Plan::new(&name, layout).start();
        test(&agent(&name), &target, layout);
    }
}

fn sh(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

/// What a command that succeeds prints.
fn printed(agent: &Agent, name: &str, process: &Value) -> String {
    let end = agent.run(name, process);
    let stderr = std::fs::read_to_string(agent.dir().join(name).join("stderr.log"));
    assert_eq!(end["exitCode"], 0, "{end} {stderr:?}");
    agent.stdout(name)
}

#[test]
fn a_task_is_in_every_namespace_of_the_main_container() {
    both("ns", |agent, target, layout| {
        let script = "for n in mnt uts ipc net pid cgroup user; do readlink /proc/self/ns/$n; done";
        let told = printed(agent, "t", &sh(script));
        let kinds = ["mnt", "uts", "ipc", "net", "pid", "cgroup", "user"];
        let theirs: Vec<_> = kinds.iter().map(|kind| target.namespace(kind)).collect();
        assert_eq!(told.lines().collect::<Vec<_>>(), theirs, "{layout:?}");
        for (kind, theirs) in kinds.iter().zip(theirs) {
            let shared = *kind == "user" || (*kind == "pid" && layout == Layout::Shared);
            assert_eq!(target::namespace("self", kind) == theirs, shared, "{kind}");
        }
        assert_eq!(
            printed(agent, "host", &json!({"command": ["hostname"]})).trim(),
            HOST_NAME
        );
        let mounts = printed(
            agent,
            "mounts",
            &json!({"command": ["cat", "/proc/self/mounts"]}),
        );
        assert!(mounts.contains(" /mnt tmpfs "), "{mounts}");
    });
}

#[test]
fn a_task_of_the_guide_lists_the_namespaces() {
    both("guide", |agent, _, _| {
        let listed = printed(agent, "t", &json!({"command": ["ls", "/proc/self/ns"]}));
        assert!(listed.lines().any(|line| line == "mnt"), "{listed}");
    });
}

#[test]
fn a_task_sees_the_processes_that_the_main_container_sees() {
    both("pids", |agent, target, layout| {
        let told = printed(
            agent,
            "t",
            &sh("tr '\\0' ' ' </proc/1/cmdline; echo; echo $$"),
        );
        let mut lines = told.lines();
        let (first, own) = (lines.next().unwrap_or_default(), lines.next());
        let own: i32 = own.and_then(|pid| pid.parse().ok()).expect("is a pid");
        match layout {
            Layout::Own => assert!(first.starts_with("sleep") && own < 50, "{told}"),
            Layout::Shared => assert!(!first.starts_with("sleep"), "{told}"),
        }
        assert!(place::is_alive(target.pid()));
    });
}

#[test]
fn a_task_starts_where_the_main_container_is_or_in_a_directory_that_only_that_has() {
    both("cwd", |agent, _, _| {
        assert!(!Path::new(HOME).exists(), "this test would prove nothing");
        assert_eq!(printed(agent, "t", &sh("pwd -P")).trim(), HOME);
        let there = json!({"command": ["pwd"], "workingDir": ELSEWHERE});
        assert_eq!(printed(agent, "there", &there).trim(), ELSEWHERE);
        let nowhere = agent.run("no", &json!({"command": ["pwd"], "workingDir": "/no/such"}));
        assert_eq!(
            (&nowhere["reason"], &nowhere["exitCode"]),
            (&json!("StartError"), &json!(126))
        );
        let text = nowhere["message"].as_str().unwrap_or_default();
        assert!(text.contains("/no/such: No such file"), "{text}");
    });
}

#[test]
fn a_task_has_the_environment_of_the_main_container_and_nothing_of_the_agents() {
    if !need_namespaces() {
        return;
    }
    let name = "env";
    let plan = Plan::new(name, Layout::Shared)
        .env("COLOR=red")
        .env("SHAPE=round");
    let _target = plan.start();
    let agent = Setup::new(PROGRAM)
        .flag("--enable-sidecar-mode")
        .flag(format!("--main-container-name={name}"))
        .env("SECRET_OF_THE_AGENT", "1")
        .env("LD_LIBRARY_PATH", "/nowhere")
        .start();
    let env = json!([{"name": "SHAPE", "value": "square"}, {"name": "MORE", "value": "1"}]);
    let told = printed(&agent, "t", &json!({"command": ["env", "-0"], "env": env}));
    let mut told: Vec<_> = told.split_terminator('\0').collect();
    told.sort_unstable();
    let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    let mark = "SANDBOX_MAIN_CONTAINER=env";
    assert_eq!(told, ["COLOR=red", "MORE=1", path, mark, "SHAPE=square"]);
    let local = json!({"command": ["env"], "execMode": "Local"});
    assert!(printed(&agent, "local", &local).contains("SECRET_OF_THE_AGENT=1"));
}

/// The lines of a task's own status that say who it is.
fn who(status: &str) -> Vec<&str> {
    let names = ["Umask", "Uid", "Gid", "Groups", "Cap", "NoNewPrivs"];
    let is_wanted = |line: &&str| names.iter().any(|name| line.starts_with(name));
    status
        .lines()
        .filter(is_wanted)
        .map(str::trim_end)
        .collect()
}

fn status_of_task(agent: &Agent, name: &str, more: &Value) -> String {
    let mut process = json!({"command": ["cat", "/proc/self/status"]});
    if let (Some(process), Some(more)) = (process.as_object_mut(), more.as_object()) {
        process.extend(more.clone());
    }
    printed(agent, name, &process)
}

#[test]
fn a_task_is_who_the_main_process_is_with_its_capabilities_and_limits() {
    if !need_namespaces() || !place::need_command(&["setpriv", "--version"]) {
        return;
    }
    let all = "+chown,+kill,+setgid,+setuid,+net_bind_service,+sys_chroot";
    let bounding = format!("--bounding-set=-all,{all}");
    let user = [
        "setpriv",
        "--reuid=1234",
        "--regid=2345",
        "--groups=3456,4567",
    ];
    let ambient = [
        "--inh-caps=-all,+net_bind_service",
        "--ambient-caps=-all,+net_bind_service",
        "--no-new-privs",
    ];
    for (index, words) in [
        vec!["setpriv", "--no-new-privs"],
        vec!["setpriv", &bounding, "--inh-caps=-all"],
        user.to_vec(),
        [&user[..], &[&bounding], &ambient].concat(),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("who-{index}");
        let plan = Plan::new(&name, Layout::ALL[index % 2]);
        let target = plan
            .shell("umask 027; ulimit -n 321; ulimit -Hc 0; chmod 755 .")
            .wrapper(&words)
            .start();
        let agent = agent(&name);
        let theirs = std::fs::read_to_string(format!("/proc/{}/status", target.pid()));
        let told = status_of_task(&agent, "t", &json!({}));
        assert_eq!(who(&told), who(&theirs.expect("reads")), "{words:?}");
        let theirs = std::fs::read_to_string(format!("/proc/{}/limits", target.pid()));
        let told = printed(
            &agent,
            "limits",
            &json!({"command": ["cat", "/proc/self/limits"]}),
        );
        assert_eq!(told, theirs.expect("reads"), "{words:?}");
        // Its own log can be opened by name, as /dev/stdout.
        assert_eq!(
            printed(&agent, "out", &sh("echo x >/proc/self/fd/1")),
            "x\n"
        );
    }
}

#[test]
fn a_task_may_be_another_user_with_other_limits() {
    if !need_namespaces() {
        return;
    }
    let _target = Plan::new("other", Layout::Own).shell("chmod 755 .").start();
    let agent = agent("other");
    let asked = json!({"runAsUser": 77, "runAsGroup": 78, "supplementalGroups": [79],
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}]});
    let told = status_of_task(&agent, "t", &asked);
    let told = who(&told);
    for line in [
        "Uid:\t77\t77\t77\t77",
        "Gid:\t78\t78\t78\t78",
        "Groups:\t79",
    ] {
        assert!(told.contains(&line), "{line} in {told:?}");
    }
    assert!(told.contains(&"CapEff:\t0000000000000000"), "{told:?}");
    let mut process = sh("ulimit -Sn; ulimit -Hn");
    process["rlimits"] = asked["rlimits"].clone();
    assert_eq!(printed(&agent, "limits", &process), "50\n60\n");
}

#[test]
fn exit_codes_and_signals_are_exact() {
    both("exit", |agent, _, layout| {
        for (index, (script, code, signal)) in [
            ("exit 0", 0, None),
            ("exit 7", 7, None),
            ("exit 255", 255, None),
            ("kill -9 $$; sleep 9", 137, Some(9)),
            ("kill -34 $$; sleep 9", 162, Some(34)),
            ("ulimit -c 0; kill -SEGV $$; sleep 9", 139, Some(11)),
        ]
        .into_iter()
        .enumerate()
        {
            let end = agent.run(&format!("t{index}"), &sh(script));
            assert_eq!(end["exitCode"], code, "{layout:?} {script}: {end}");
            assert_eq!(end["signal"].as_i64(), signal, "{layout:?} {script}: {end}");
        }
        let end = agent.run("last-words", &sh("echo oh no >&2; exit 3"));
        assert_eq!(end["message"], "oh no");
    });
}

#[test]
fn what_cannot_be_executed_is_a_start_error_with_its_code() {
    both("error", |agent, _, _| {
        for (index, (program, code, text)) in [
            ("no-such-program", 127, "No such file"),
            ("/dev/null", 126, "Permission denied"),
            ("/no/such/program", 127, "No such file"),
        ]
        .into_iter()
        .enumerate()
        {
            let end = agent.run(&format!("t{index}"), &json!({"command": [program]}));
            assert_eq!(
                (&end["reason"], &end["exitCode"]),
                (&json!("StartError"), &json!(code))
            );
            let message = end["message"].as_str().unwrap_or_default();
            assert!(
                message.contains(text) && message.contains(program),
                "{message}"
            );
            assert!(end["startedAt"].is_null(), "{end}");
        }
    });
}

#[test]
fn hooks_and_tasks_run_where_their_exec_mode_says() {
    both("modes", |agent, _, _| {
        let hook = |mode: Value| json!({"exec": {"command": ["hostname"]}, "execMode": mode});
        let process = json!({
            "command": ["hostname"],
            "execMode": "Local",
            "lifecycle": {"preStart": hook(Value::Null), "postStop": hook(json!("Remote"))},
        });
        let here = Command::new("hostname")
            .output()
            .expect("hostname runs")
            .stdout;
        let here = String::from_utf8_lossy(&here).trim().to_owned();
        assert_ne!(here, HOST_NAME);
        let told = printed(agent, "local", &process);
        assert_eq!(
            told.lines().collect::<Vec<_>>(),
            [HOST_NAME, &here, HOST_NAME]
        );
        let mut process = process;
        process["execMode"] = "Remote".into();
        process["lifecycle"] =
            json!({"preStart": hook(json!("Local")), "postStop": hook(json!("Local"))});
        let told = printed(agent, "remote", &process);
        assert_eq!(told.lines().collect::<Vec<_>>(), [&here, HOST_NAME, &here]);
        let failing = json!({"command": ["true"], "lifecycle":
            {"preStart": {"exec": {"command": ["sh", "-c", "exit 4"]}}}});
        let end = agent.run("failing", &failing);
        assert_eq!(
            (&end["reason"], &end["exitCode"]),
            (&json!("PreStartHookFailed"), &json!(4))
        );
    });
}

/// A static program that lists what is in the directories that it is given, or sleeps without.
const STATIC: &str = r#"fn main() {
    let names: Vec<_> = std::env::args().skip(1).collect();
    for name in &names {
        for entry in std::fs::read_dir(name).expect("can be read") {
            println!("{}", entry.expect("is read").file_name().to_string_lossy());
        }
    }
    if names.is_empty() {
        std::thread::sleep(std::time::Duration::from_secs(1_000_000));
    }
}"#;

#[test]
fn a_main_container_with_nothing_but_one_static_file_is_enough() {
    if !need_namespaces() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let (source, root) = (place.path().join("only.rs"), place.path().join("root"));
    std::fs::create_dir(&root).expect("is made");
    std::fs::write(&source, STATIC).expect("is written");
    let compiled = Command::new("rustc")
        .args(["-C", "target-feature=+crt-static", "-o"])
        .args([&root.join("only"), &source])
        .status();
    if !place::need(
        "rustc and a static C library",
        compiled.is_ok_and(|c| c.success()),
    ) {
        return;
    }
    let target = Target::in_root("scratch", &root, &["/only"]);
    let agent = agent("scratch");
    assert_eq!(
        printed(&agent, "t", &json!({"command": ["/only", "/"]})),
        "only\n"
    );
    let beside = json!({"command": ["./only", "."], "workingDir": "/"});
    assert_eq!(printed(&agent, "beside", &beside), "only\n");
    let end = agent.run("sh", &sh("true"));
    assert_eq!(
        (&end["reason"], &end["exitCode"]),
        (&json!("StartError"), &json!(127))
    );
    agent.create("long", &json!({"process": {"command": ["/only"]}}));
    agent.running("long");
    assert_eq!(agent.delete("/tasks/long"), 204);
    agent.gone("long");
    assert!(place::is_alive(target.pid()));
}

#[test]
fn the_log_of_a_task_can_be_followed_and_its_timeout_holds() {
    both("time", |agent, _, layout| {
        let spec = json!({"timeoutSeconds": 1, "terminationGracePeriodSeconds": 1,
            "process": sh("trap '' TERM; echo begun; setsid sleep 1000 & echo $! ; wait; sleep 1000")});
        agent.create("t", &spec);
        let end = agent.ended("t");
        assert_eq!(end["reason"], "TaskTimeout", "{layout:?} {end}");
        assert_eq!(end["exitCode"], 137, "{layout:?} {end}");
        let answer = agent.call("GET", "/tasks/t/logs?stream=stdout&follow=true", "");
        assert!(answer.text().starts_with("begun\n"), "{}", answer.text());
    });
}

#[test]
fn the_main_container_finds_no_file_of_the_agents_to_write_to() {
    both("exe", |agent, target, layout| {
        // What would run instead of a shell in an image that wants to get at the agent.
        let end = agent.run("t", &json!({"command": ["/proc/self/exe", "--version"]}));
        assert_eq!(end["exitCode"], 0, "{layout:?} {end}");
        agent.create("long", &json!({"process": {"command": ["sleep", "1000"]}}));
        agent.running("long");
        for pid in agent.shims().into_iter().chain([agent.launcher()]) {
            let program = format!("/proc/{pid}/exe");
            let link = std::fs::read_link(&program).expect("has a program");
            assert!(link.to_string_lossy().starts_with("/memfd:"), "{link:?}");
            let opened = std::fs::File::options().write(true).open(&program);
            assert!(opened.is_err(), "{pid} can be overwritten");
        }
        assert!(place::is_alive(target.pid()));
    });
}

#[test]
fn the_control_group_that_a_task_counts_against_is_the_containers_or_is_named() {
    both("group", |agent, target, _| {
        let told = printed(
            agent,
            "t",
            &json!({"command": ["cat", "/proc/self/cgroup"]}),
        );
        let (_, task) = agent.get("/tasks/t");
        let warned = task["warnings"].to_string().contains("control group");
        // Seen from inside of the container's own cgroup namespace.
        let inside = told.lines().all(|line| line.ends_with(":/"));
        assert!(inside || warned, "{told} {task}");
        assert!(place::is_alive(target.pid()));
    });
}

/// Control groups of a test's own; they are removed when everything in them has ended.
struct Groups(Vec<std::path::PathBuf>);

impl Drop for Groups {
    fn drop(&mut self) {
        for dir in &self.0 {
            eventually("the group is removed", PATIENCE, || {
                std::fs::remove_dir(dir).ok()
            });
        }
    }
}

#[test]
fn a_task_joins_the_control_groups_of_the_main_container_and_never_ends_them() {
    if !need_namespaces() {
        return;
    }
    let homes = task_shim::cgroup::Homes::current("none").expect("are read");
    let name = format!("sidecar-test-{}", std::process::id());
    let dirs = homes.dirs().into_iter().map(|dir| dir.join(&name));
    let made: Vec<_> = dirs
        .filter(|dir| std::fs::create_dir(dir).is_ok())
        .collect();
    let all = !made.is_empty() && made.len() == homes.dirs().len();
    let groups = Groups(made);
    if !place::need("writable control groups", all) {
        return;
    }
    let lines = groups
        .0
        .iter()
        .map(|dir| format!("echo $$ >{}/cgroup.procs\n", dir.display()));
    let plan = Plan::new("joined", Layout::Own).shell(&lines.collect::<String>());
    let target = plan.start();
    let agent = agent("joined");
    let told = printed(
        &agent,
        "t",
        &json!({"command": ["cat", "/proc/self/cgroup"]}),
    );
    let inside = told
        .lines()
        .filter(|line| line.ends_with(&format!("/{name}")));
    assert_eq!(inside.count(), groups.0.len(), "{told}");
    assert!(agent.get("/tasks/t").1["warnings"].is_null());
    let stubborn = json!({"terminationGracePeriodSeconds": 0,
        "process": sh("trap '' TERM; while :; do sleep 1000; done")});
    agent.create("stubborn", &stubborn);
    agent.running("stubborn");
    for task in ["stubborn", "t"] {
        assert_eq!(agent.delete(&format!("/tasks/{task}")), 204);
        agent.gone(task);
    }
    assert!(place::is_alive(target.pid()));
    assert!(groups.0.iter().all(|dir| dir.is_dir()));
}

#[test]
fn capabilities_and_readiness_tell_of_sidecar_mode() {
    let agent = agent("nobody");
    let (_, capabilities) = agent.get("/capabilities");
    assert_eq!(capabilities["sidecar"]["mainContainerName"], "nobody");
    let (code, ready) = agent.get("/readyz");
    let check = &ready["checks"][2];
    assert_eq!(check["name"], "sidecar");
    let missing = &capabilities["sidecar"]["missingCapabilities"];
    assert_eq!(
        capabilities["modes"]["sidecar"],
        json!(missing == &json!([]))
    );
    assert_eq!(check["ok"], capabilities["modes"]["sidecar"]);
    assert_eq!(code == 200, check["ok"] == true, "{ready}");
}

#[test]
fn what_the_agent_lacks_is_named_at_start_in_readiness_and_to_each_task() {
    if !place::need_root() || !place::need_command(&["setpriv", "--version"]) {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary directory");
    let log = place.path().join("agent.log");
    let agent = Setup::new(PROGRAM)
        .wrapper(["setpriv", "--bounding-set=-sys_admin,-sys_ptrace"])
        .flag("--enable-sidecar-mode")
        .log(&log)
        .start();
    let task = json!({"name": "t", "spec": {"process": {"command": ["true"]}}});
    let (code, answer) = agent.post("/tasks", &task);
    assert_eq!(code, 400, "{answer}");
    let (set, _) = agent.post("/setTasks", &json!([task]));
    assert_eq!(set, 400);
    let (ready_code, ready) = agent.get("/readyz");
    assert_eq!(ready_code, 503, "{ready}");
    let lines = std::fs::read_to_string(&log).expect("reads");
    let said: Vec<_> = lines
        .lines()
        .filter(|l| l.contains("lacks_capabilities"))
        .collect();
    assert_eq!(said.len(), 1, "{lines}");
    for text in [answer.to_string(), ready.to_string(), said[0].to_owned()] {
        for name in ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"] {
            assert!(text.contains(name), "{text}");
        }
    }
    let local = json!({"command": ["true"], "execMode": "Local"});
    assert_eq!(agent.run("local", &local)["exitCode"], 0);
}

#[test]
fn a_capability_that_only_this_container_asks_for_is_named_by_the_task() {
    if !need_namespaces() || !place::need_command(&["setpriv", "--version"]) {
        return;
    }
    let name = "lacking";
    let plan = Plan::new(name, Layout::Shared);
    let _target = plan.wrapper(&["setpriv", "--reuid=1234"]).start();
    let agent = Setup::new(PROGRAM)
        .wrapper(["setpriv", "--bounding-set=-setuid"])
        .flag("--enable-sidecar-mode")
        .flag(format!("--main-container-name={name}"))
        .start();
    let end = agent.run("t", &json!({"command": ["true"]}));
    assert_eq!(end["reason"], "StartError", "{end}");
    assert!(end["message"].to_string().contains("CAP_SETUID"), "{end}");
    eventually("nothing is left to be done", PATIENCE, || {
        (agent.get("/health").0 == 200).then_some(())
    });
}
