//! What a task is started with, and how its end is told.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use serde_json::{Value, json};
use testkit::agent::{Agent, Setup};
use testkit::place;
use testkit::task::{check_end, sh};

const PROGRAM: &str = env!("CARGO_BIN_EXE_task-executor");

fn setup() -> Setup {
    Setup::new(PROGRAM)
}

/// Starts an agent by way of a shell that runs `script` first.
fn after(script: &str) -> Setup {
    let script = format!("{script}; exec \"$@\"");
    setup().wrapper(["sh", "-c", &script, "sh"])
}

/// Runs a process that must succeed, and gives its output.
fn output(agent: &Agent, name: &str, process: &Value) -> String {
    let end = agent.run(name, process);
    assert_eq!(end["exitCode"], 0, "{name}: {end}");
    agent.stdout(name)
}

fn program_file(path: &Path, content: &str, mode: u32) {
    fs::write(path, content).expect("writes");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets the mode");
}

#[test]
fn the_environment_is_the_agents_own_then_that_of_the_task_in_order() {
    let agent = setup()
        .env("FROM_AGENT", "agent")
        .env("BOTH", "agent")
        .start();
    let process = json!({"command": ["env"], "env": [
        {"name": "BOTH", "value": "task"},
        {"name": "TWICE", "value": "first"},
        {"name": "TWICE", "value": "second"},
        {"name": "EMPTY", "value": ""},
        {"name": "LINES", "value": "a\nb"},
    ]});
    let text = output(&agent, "t", &process);
    for line in [
        "FROM_AGENT=agent",
        "BOTH=task",
        "TWICE=second",
        "EMPTY=",
        "LINES=a",
    ] {
        let count = text.lines().filter(|found| *found == line).count();
        assert_eq!(count, 1, "{line} in {text}");
    }
    for line in ["BOTH=agent", "TWICE=first"] {
        assert!(!text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[test]
fn arguments_arrive_as_they_were_given() {
    let agent = setup().start();
    let args = [
        "",
        " ",
        "two words",
        "$HOME",
        "$(id)",
        "*",
        "'",
        "\"",
        "\\",
        "a\nb",
        "-n",
        "ä",
    ];
    let mut command = vec!["printf", "<%s>"];
    command.extend(args);
    let expected: Vec<_> = args.iter().map(|arg| format!("<{arg}>")).collect();
    let whole = output(&agent, "command", &json!({"command": command}));
    assert_eq!(whole, expected.concat());
    let split = json!({"command": ["printf", "<%s>"], "args": args});
    assert_eq!(output(&agent, "args", &split), expected.concat());
}

#[test]
fn long_arguments_are_passed_up_to_the_kernels_limit() {
    let agent = setup().start();
    let many = vec!["x".repeat(60_000); 16];
    let process = json!({"command": ["sh", "-c", "echo $#", "sh"], "args": many});
    assert_eq!(output(&agent, "many", &process), "16\n");
    let end = agent.run("long", &json!({"command": ["true", "x".repeat(200_000)]}));
    check_end(&end, "StartError", 126, None);
    let message = end["message"].as_str().unwrap_or_default();
    assert!(message.contains("Argument list too long"), "{end}");
}

#[test]
fn the_program_is_looked_up_in_the_path_of_the_task() {
    let agent = setup().start();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for dir in [&one, &two] {
        fs::create_dir(dir).expect("makes");
    }
    program_file(&one.join("tool"), "#!/bin/sh\necho one\n", 0o644);
    program_file(&two.join("tool"), "#!/bin/sh\necho two\n", 0o755);
    program_file(&one.join("raw"), "echo no shell\n", 0o755);
    let with_path = |program: &str, path: &str| json!({"command": [program], "env": [{"name": "PATH", "value": path}], "workingDir": two});
    let (one, two) = (one.display().to_string(), two.display().to_string());
    let both = format!("{one}:{two}");
    assert_eq!(output(&agent, "skips", &with_path("tool", &both)), "two\n");
    assert_eq!(
        output(&agent, "relative", &with_path("./tool", "/none")),
        "two\n"
    );
    assert_eq!(
        output(&agent, "here", &with_path("tool", "/none:")),
        "two\n"
    );
    for (name, program, path, code, text) in [
        ("missing", "tool", "/none", 127, "No such file or directory"),
        ("plain", "tool", one.as_str(), 126, "Permission denied"),
        ("raw", "raw", one.as_str(), 126, "Exec format error"),
        ("directory", "/tmp", "/bin", 126, "Permission denied"),
        (
            "path",
            "/no/such/program",
            "/bin",
            127,
            "No such file or directory",
        ),
    ] {
        let end = agent.run(name, &with_path(program, path));
        check_end(&end, "StartError", code, None);
        let message = end["message"].as_str().unwrap_or_default();
        assert!(message.contains(text) && message.contains(program), "{end}");
        assert_eq!(agent.stdout(name), "");
    }
}

#[test]
fn without_a_path_in_the_environment_the_usual_places_are_searched() {
    let agent = setup().wrapper(["env", "-u", "PATH"]).start();
    let end = agent.run("t", &json!({"command": ["true"]}));
    check_end(&end, "Succeeded", 0, None);
}

#[test]
fn the_working_directory_is_the_one_asked_for_or_the_agents_own() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let real = dir.path().canonicalize().expect("is there");
    let agent = after(&format!("cd {}", real.display())).start();
    let own = output(&agent, "own", &json!({"command": ["pwd"]}));
    assert_eq!(own.trim_end(), real.display().to_string());
    let asked = json!({"command": ["pwd"], "workingDir": "/usr/bin"});
    assert_eq!(output(&agent, "asked", &asked), "/usr/bin\n");
    for (name, path, text) in [
        ("missing", "/no/such/dir", "No such file or directory"),
        ("file", "/etc/passwd", "Not a directory"),
    ] {
        let end = agent.run(name, &json!({"command": ["pwd"], "workingDir": path}));
        check_end(&end, "StartError", 126, None);
        let message = end["message"].as_str().unwrap_or_default();
        assert!(message.contains(text) && message.contains(path), "{end}");
    }
}

#[test]
fn standard_input_is_dev_null() {
    let agent = setup().start();
    let text = output(&agent, "t", &sh("readlink /proc/self/fd/0; cat; echo end"));
    assert_eq!(text, "/dev/null\nend\n");
}

#[test]
fn the_umask_is_022_whatever_the_agents_is() {
    let agent = after("umask 077").start();
    assert_eq!(output(&agent, "t", &sh("umask")), "0022\n");
}

#[test]
fn a_task_leads_its_own_session_and_group() {
    let agent = setup().start();
    let text = output(&agent, "t", &sh("echo $$; cat /proc/$$/stat"));
    let (pid, stat) = text.split_once('\n').expect("two lines");
    let (_, fields) = stat.rsplit_once(") ").expect("a stat line");
    let fields: Vec<_> = fields.split(' ').collect();
    assert_eq!((fields[2], fields[3], fields[4]), (pid, pid, "0"), "{text}");
}

#[test]
fn all_signals_are_at_their_default_whatever_the_agent_inherited() {
    let agent = after("trap '' INT QUIT PIPE HUP USR1 TERM").start();
    let text = output(&agent, "t", &signal_sets());
    for name in ["SigIgn", "SigBlk", "SigCgt"] {
        assert_eq!(mask(&text, name) & !C_LIBRARYS_OWN, 0, "{text}");
    }
    for (name, number) in [
        ("INT", 2),
        ("QUIT", 3),
        ("PIPE", 13),
        ("HUP", 1),
        ("USR1", 10),
    ] {
        let end = agent.run(name, &sh(&format!("kill -{name} $$; sleep 30")));
        check_end(&end, "Failed", 128 + number, Some(number));
    }
}

/// Signals 32 and 33, which the C library keeps to itself.
const C_LIBRARYS_OWN: u64 = 0b11 << 31;

fn signal_sets() -> Value {
    json!({"command": ["sed", "-n", "/^Sig/p", "/proc/self/status"]})
}

/// One of the sets of signals in `/proc/PID/status`.
fn mask(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let digits = line.and_then(|line| line.strip_prefix(":\t"));
    digits
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .unwrap_or_else(|| panic!("no {name} in {status}"))
}

#[test]
fn not_even_the_c_librarys_own_signals_are_ignored_in_a_task() {
    let agent = setup().start();
    let text = output(&agent, "t", &signal_sets());
    assert_eq!(mask(&text, "SigIgn"), 0, "{text}");
}

#[test]
fn a_task_inherits_no_descriptor() {
    let agent = after("exec 7</etc/passwd 9</etc/passwd").start();
    // The fourth is the directory that ls itself reads.
    let text = output(&agent, "t", &json!({"command": ["ls", "/proc/self/fd"]}));
    assert_eq!(text, "0\n1\n2\n3\n");
    let links = output(
        &agent,
        "links",
        &sh("readlink /proc/self/fd/1 /proc/self/fd/2"),
    );
    let own = agent.dir().join("links").canonicalize().expect("is there");
    let expected =
        ["stdout.log", "stderr.log"].map(|file| format!("{}\n", own.join(file).display()));
    assert_eq!(links, expected.concat());
}

#[test]
fn a_task_runs_as_the_user_and_groups_that_it_asks_for() {
    if !place::need_root() {
        return;
    }
    let agent = setup().start();
    let script = "id -u; id -g; id -G; grep ^CapEff /proc/self/status; echo x >>/dev/stdout";
    let as_user = |extra: Value| {
        let mut process = sh(script);
        let members = extra.as_object().expect("an object").clone();
        process.as_object_mut().expect("an object").extend(members);
        process
    };
    let none = "CapEff:\t0000000000000000";
    let text = output(
        &agent,
        "all",
        &as_user(
            json!({"runAsUser": 12345, "runAsGroup": 12346, "supplementalGroups": [12347, 12348]}),
        ),
    );
    assert_eq!(
        text,
        format!("12345\n12346\n12346 12347 12348\n{none}\nx\n")
    );
    let text = output(&agent, "user", &as_user(json!({"runAsUser": 12345})));
    assert_eq!(text, format!("12345\n0\n0\n{none}\nx\n"));
    let text = output(&agent, "group", &as_user(json!({"runAsGroup": 12346})));
    assert!(text.starts_with("0\n12346\n12346\n"), "{text}");
    let text = output(
        &agent,
        "groups",
        &as_user(json!({"supplementalGroups": [12347]})),
    );
    assert!(text.starts_with("0\n0\n0 12347\n"), "{text}");
}

#[test]
fn a_task_of_another_user_cannot_reach_the_records_of_the_agent() {
    if !place::need_root() {
        return;
    }
    let agent = setup().start();
    let open = fs::Permissions::from_mode(0o755);
    let above = agent.dir().parent().expect("has a parent");
    fs::set_permissions(above, open).expect("sets the mode");
    let dir = agent.dir().join("t");
    let script = format!(
        "cd {} || exit 0; echo x > exit.rec; echo x > task.json; rm -f run.rec; cat task.json; exit 0",
        dir.display()
    );
    let process = json!({"command": ["sh", "-c", script], "runAsUser": 12345, "runAsGroup": 12345});
    check_end(&agent.run("t", &process), "Succeeded", 0, None);
    assert_eq!(agent.stdout("t"), "", "it could not read its record");
    for file in ["task.json", "run.rec", "exit.rec"] {
        assert!(dir.join(file).exists(), "{file}");
    }
}

#[test]
fn rlimits_are_set() {
    let agent = setup().start();
    let process = json!({"command": ["sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sc"],
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                    {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]});
    assert_eq!(output(&agent, "t", &process), "100\n200\n0\n");
    let process = json!({"command": ["sh", "-c", "head -c 100000 /dev/zero"],
        "rlimits": [{"type": "RLIMIT_FSIZE", "soft": 1000, "hard": 1000}]});
    let end = agent.run("large", &process);
    assert_eq!(end["reason"], "Failed", "{end}");
    assert_eq!(agent.stdout("large").len(), 1000);
}

#[test]
fn exit_codes_are_exact() {
    let agent = setup().start();
    check_end(&agent.run("c0", &sh("exit 0")), "Succeeded", 0, None);
    for code in [1, 2, 7, 125, 126, 127, 128, 137, 143, 254, 255] {
        let end = agent.run(&format!("c{code}"), &sh(&format!("exit {code}")));
        check_end(&end, "Failed", code, None);
        assert!(end["message"].is_null(), "{end}");
    }
}

#[test]
fn signals_are_told_from_codes() {
    let agent = setup().start();
    for signal in [1, 2, 3, 4, 6, 8, 9, 11, 13, 14, 15, 31] {
        let end = agent.run(
            &format!("s{signal}"),
            &sh(&format!("ulimit -c 0; kill -{signal} $$")),
        );
        check_end(&end, "Failed", 128 + signal, Some(signal));
    }
}

#[test]
fn the_message_of_a_failure_is_the_end_of_stderr_in_whole_lines() {
    let agent = setup().start();
    let end = agent.run("short", &sh("echo out; echo one >&2; echo two >&2; exit 1"));
    assert_eq!(end["message"], "one\ntwo");
    let script =
        "i=0; while [ $i -lt 1000 ]; do echo \"line $i of stderr\" >&2; i=$((i+1)); done; exit 1";
    let end = agent.run("long", &sh(script));
    let message = end["message"].as_str().expect("a message");
    assert!(
        message.len() <= 2048 && message.len() > 1900,
        "{}",
        message.len()
    );
    assert!(
        message.starts_with("line ") && message.ends_with("line 999 of stderr"),
        "{message}"
    );
    let end = agent.run(
        "wide",
        &sh("head -c 100000 /dev/zero | tr '\\0' 'ä' >&2; echo >&2; echo end >&2; exit 1"),
    );
    let message = end["message"].as_str().expect("a message");
    assert!(
        message.len() <= 2048 && message.ends_with("end"),
        "{message}"
    );
    let end = agent.run("well", &sh("echo noise >&2"));
    assert!(end["message"].is_null(), "a success has no message: {end}");
}

#[test]
fn one_endless_line_of_stderr_still_gives_a_message() {
    let agent = setup().start();
    let end = agent.run("t", &sh("head -c 5000 /dev/zero | tr '\\0' x >&2; exit 1"));
    let message = end["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty() && message.len() <= 2048, "{end}");
}

#[test]
fn times_are_those_of_the_run() {
    let agent = setup().start();
    let before = now();
    let end = agent.run("t", &sh("sleep 1.2"));
    let seconds = |name: &str| {
        let text = end[name].as_str().unwrap_or_default();
        let time: sandbox_api::Timestamp = text.parse().unwrap_or_else(|_| panic!("{end}"));
        time.as_unix_seconds()
    };
    let (started, finished) = (seconds("startedAt"), seconds("finishedAt"));
    assert!(before <= started && finished <= now(), "{end}");
    assert!((1..30).contains(&(finished - started)), "{end}");
    let end = agent.run("missing", &json!({"command": ["no-such-program"]}));
    assert!(
        end["startedAt"].is_null() && end["finishedAt"].is_string(),
        "{end}"
    );
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_secs()).expect("fits")
}

#[test]
fn an_agent_without_privileges_runs_tasks_and_refuses_what_it_may_not_do() {
    if !place::need_root() || !place::need_command(&["setpriv", "--reuid=12345", "true"]) {
        return;
    }
    let dir = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir();
    let dir = dir.expect("a temporary directory");
    // The build directory may be closed to others.
    let program = dir.path().join("task-executor");
    fs::copy(PROGRAM, &program).expect("copies");
    let data = dir.path().join("tasks");
    fs::create_dir(&data).expect("makes");
    chown(&data, Some(12345), Some(12345)).expect("changes the owner");
    let agent = Setup::new(&program)
        .dir(&data)
        .wrapper([
            "setpriv",
            "--reuid=12345",
            "--regid=12345",
            "--clear-groups",
        ])
        .start();
    assert_eq!(output(&agent, "t", &sh("id -u")), "12345\n");
    for (name, extra) in [
        ("user", json!({"command": ["id"], "runAsUser": 0})),
        ("group", json!({"command": ["id"], "runAsGroup": 0})),
        (
            "groups",
            json!({"command": ["id"], "supplementalGroups": [0]}),
        ),
    ] {
        let end = agent.run(name, &extra);
        check_end(&end, "StartError", 126, None);
        let message = end["message"].as_str().unwrap_or_default();
        assert!(message.contains("Operation not permitted"), "{end}");
    }
    let daemon = agent.run("leaver", &sh("setsid sleep 1000 & echo $!"));
    assert_eq!(daemon["exitCode"], 0);
    assert_eq!(agent.delete("/tasks/leaver"), 204);
    agent.gone("leaver");
}
