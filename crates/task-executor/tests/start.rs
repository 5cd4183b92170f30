//! Flags, environment variables, and how a start ends that can't succeed.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use testkit::agent::{PATIENCE, Setup};
use testkit::{eventually, place};

const PROGRAM: &str = env!("CARGO_BIN_EXE_task-executor");

/// Every flag with a value that differs from its default, and how that value is shown.
fn flags() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("data-dir", "/tmp/elsewhere", json!("/tmp/elsewhere")),
        ("listen-addr", "127.0.0.1:1234", json!("127.0.0.1:1234")),
        ("main-container-name", "my-main-app", json!("my-main-app")),
        ("cri-socket", "/run/cri.sock", json!("/run/cri.sock")),
        ("reconcile-interval", "1m30s", json!("1m30s")),
        ("max-concurrent-tasks", "7", json!(7)),
        ("max-tasks", "8", json!(8)),
        ("termination-grace-period", "2s", json!("2s")),
        ("durability", "sync", json!("sync")),
        ("log-max-bytes", "1Mi", json!(1 << 20)),
        ("task-ttl-after-finished", "10m", json!("10m0s")),
        ("auth-token-file", "/run/token", json!("/run/token")),
        ("max-request-bytes", "1MiB", json!(1 << 20)),
        ("volume", "data=/srv/data", json!({"data": "/srv/data"})),
        ("log-format", "json", json!("json")),
        ("log-level", "debug", json!("debug")),
        ("shutdown-policy", "terminate", json!("terminate")),
    ]
}

fn variable(flag: &str) -> String {
    flag.to_ascii_uppercase().replace('-', "_")
}

fn program(args: &[String], env: &[(String, String)]) -> Output {
    let mut command = Command::new(PROGRAM);
    for (flag, ..) in flags() {
        command.env_remove(variable(flag));
    }
    command
        .args(args)
        .envs(env.iter().cloned())
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

/// The configuration that is in force with these flags and variables.
fn config(args: &[String], env: &[(String, String)]) -> Value {
    let mut args = args.to_vec();
    args.push("--print-config".to_owned());
    let output = program(&args, env);
    assert!(output.status.success(), "{args:?} {env:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("the configuration is JSON")
}

/// Checks that a start ends with this code and one line that names what is wrong.
fn refused(args: &[&str], env: &[(&str, &str)], code: i32, fragment: &str) {
    let words = |text: &str| text.to_owned();
    let args: Vec<_> = args.iter().copied().map(words).collect();
    let env: Vec<_> = env.iter().map(|(n, v)| (words(n), words(v))).collect();
    let output = program(&args, &env);
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
    assert!(line.contains(fragment), "{args:?}: {line}");
    assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
}

#[test]
fn the_defaults_are_those_of_the_guide() {
    let config = config(&[], &[]);
    for (flag, value) in [
        ("data-dir", json!("/var/lib/sandbox/tasks")),
        ("listen-addr", json!("0.0.0.0:5758")),
        ("enable-sidecar-mode", json!(false)),
        ("main-container-name", json!("main")),
        ("enable-container-mode", json!(false)),
        ("cri-socket", json!("/var/run/containerd/containerd.sock")),
        ("reconcile-interval", json!("500ms")),
        ("max-concurrent-tasks", json!(0)),
        ("max-tasks", json!(100_000)),
        ("termination-grace-period", json!("10s")),
        ("durability", json!("process")),
        ("log-max-bytes", json!(0)),
        ("task-ttl-after-finished", json!("off")),
        ("auth-token-file", Value::Null),
        ("max-request-bytes", json!(4 << 20)),
        ("log-format", json!("text")),
    ] {
        assert_eq!(config[flag], value, "{flag}");
    }
}

#[test]
fn every_flag_is_taken_in_every_form() {
    for (flag, value, shown) in flags() {
        for args in [
            vec![format!("--{flag}={value}")],
            vec![format!("--{flag}"), value.to_owned()],
            vec![format!("-{flag}={value}")],
            vec![format!("-{flag}"), value.to_owned()],
        ] {
            assert_eq!(config(&args, &[])[flag], shown, "{args:?}");
        }
    }
}

#[test]
fn every_flag_is_taken_from_the_environment_and_wins_over_it() {
    for (flag, value, shown) in flags() {
        let env = [(variable(flag), value.to_owned())];
        assert_eq!(config(&[], &env)[flag], shown, "{env:?}");
        let empty = [(variable(flag), String::new())];
        assert_eq!(config(&[], &empty)[flag], config(&[], &[])[flag], "{flag}");
    }
    let env = [("RECONCILE_INTERVAL".to_owned(), "2s".to_owned())];
    let args = ["-reconcile-interval=3s".to_owned()];
    assert_eq!(config(&args, &env)["reconcile-interval"], "3s");
    let env = [("DATA_DIR".to_owned(), "/from/env".to_owned())];
    let args = ["--data-dir=/from/flag".to_owned()];
    assert_eq!(config(&args, &env)["data-dir"], "/from/flag");
}

#[test]
fn switches_take_no_value_or_one_behind_an_equals_sign() {
    for arg in [
        "--enable-sidecar-mode=false",
        "-enable-sidecar-mode=false",
        "-enable-sidecar-mode=0",
    ] {
        assert_eq!(config(&[arg.to_owned()], &[])["enable-sidecar-mode"], false);
    }
    let env = [("ENABLE_CONTAINER_MODE".to_owned(), "false".to_owned())];
    assert_eq!(config(&[], &env)["enable-container-mode"], false);
}

#[test]
fn a_bad_value_ends_the_start_with_one_line_and_code_2() {
    for (arg, fragment) in [
        ("--listen-addr=5758", "--listen-addr"),
        ("-listen-addr=:99999", "--listen-addr"),
        ("--reconcile-interval=soon", "--reconcile-interval"),
        ("--reconcile-interval=500", "--reconcile-interval"),
        ("--reconcile-interval=-1s", "--reconcile-interval"),
        ("--max-concurrent-tasks=-1", "--max-concurrent-tasks"),
        ("--max-tasks=many", "--max-tasks"),
        (
            "--termination-grace-period=10",
            "--termination-grace-period",
        ),
        ("--durability=eventually", "--durability"),
        ("--log-max-bytes=1X", "--log-max-bytes"),
        (
            "--task-ttl-after-finished=never",
            "--task-ttl-after-finished",
        ),
        ("--max-request-bytes=0", "--max-request-bytes"),
        ("--volume=data", "--volume"),
        ("--volume=data=relative", "--volume"),
        ("--log-format=xml", "--log-format"),
        ("--log-level=loud", "--log-level"),
        ("--shutdown-policy=panic", "--shutdown-policy"),
        ("--enable-sidecar-mode=perhaps", "--enable-sidecar-mode"),
        ("--data-dir=", "--data-dir"),
        ("--tls-cert-file=/x", "--tls-key-file"),
        ("--tls-client-ca-file=/x", "--tls-cert-file"),
        ("--no-such-flag", "--no-such-flag"),
        ("-no-such-flag=1", "no-such-flag"),
        ("--data-dir", "--data-dir"),
        ("word", "word"),
    ] {
        refused(&[arg], &[], 2, fragment);
    }
    for (variable, value) in [
        ("LISTEN_ADDR", "nowhere"),
        ("RECONCILE_INTERVAL", "1"),
        ("MAX_TASKS", "0"),
        ("DURABILITY", "x"),
        ("ENABLE_SIDECAR_MODE", "perhaps"),
    ] {
        refused(&[], &[(variable, value)], 2, variable);
    }
}

#[test]
fn a_port_in_use_ends_the_start_with_one_line_and_code_1() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("has an address").to_string();
    refused(
        &[
            &format!("--data-dir={}", dir.path().display()),
            &format!("--listen-addr={address}"),
        ],
        &[],
        1,
        &address,
    );
}

#[test]
fn a_data_dir_that_cannot_be_written_ends_the_start_with_one_line_and_code_1() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("file");
    fs::write(&file, "in the way").expect("writes");
    for bad in [
        file.join("tasks"),
        file,
        Path::new("/proc/no-such-place").to_owned(),
    ] {
        let flag = format!("--data-dir={}", bad.display());
        let fragment = bad.display().to_string();
        refused(&[&flag, "--listen-addr=127.0.0.1:0"], &[], 1, &fragment);
    }
}

#[test]
fn a_read_only_data_dir_ends_the_start_with_one_line_and_code_1() {
    if !place::need_root() || !place::need_command(&["unshare", "-m", "true"]) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let script = "mount -t tmpfs -o ro none \"$0\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(dir.path())
        .args([PROGRAM, "--listen-addr=127.0.0.1:0"])
        .arg(format!("--data-dir={}", dir.path().display()))
        .output()
        .expect("unshare starts");
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains("Read-only file system"), "{line}");
}

#[test]
fn a_data_dir_in_use_ends_the_start_of_a_second_agent() {
    let agent = Setup::new(PROGRAM).start();
    let flag = format!("--data-dir={}", agent.dir().display());
    refused(&[&flag, "--listen-addr=127.0.0.1:0"], &[], 1, "in use");
    assert_eq!(agent.get("/health").0, 200);
}

#[test]
fn a_token_or_certificate_that_cannot_be_read_ends_the_start_with_its_name() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = format!("--data-dir={}", dir.path().join("tasks").display());
    let addr = "--listen-addr=127.0.0.1:0";
    let missing = "/no/such/token";
    let flag = format!("--auth-token-file={missing}");
    refused(&[&data, addr, &flag], &[], 1, missing);
    let tls = [
        "--tls-cert-file=/no/such/cert",
        "--tls-key-file=/no/such/key",
    ];
    refused(&[&data, addr, tls[0], tls[1]], &[], 1, "/no/such/cert");
}

#[test]
fn a_missing_data_dir_is_made() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let deep = dir.path().join("a/b/c");
    let agent = Setup::new(PROGRAM).dir(&deep).start();
    assert_eq!(agent.run("t", &json!({"command": ["true"]}))["exitCode"], 0);
    assert!(deep.join("t/stdout.log").exists());
}

#[test]
fn help_names_every_flag_and_version_the_version() {
    for arg in ["--help", "-help"] {
        let output = program(&[arg.to_owned()], &[]);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8_lossy(&output.stdout);
        for (flag, ..) in flags() {
            assert!(text.contains(&format!("--{flag}")), "--{flag}");
            assert!(text.contains(&variable(flag)), "{}", variable(flag));
        }
        for flag in [
            "--enable-sidecar-mode",
            "--enable-container-mode",
            "--tls-cert-file",
            "--tls-key-file",
            "--tls-client-ca-file",
            "--version",
        ] {
            assert!(text.contains(flag), "{flag}");
        }
    }
    for arg in ["--version", "-V"] {
        let output = program(&[arg.to_owned()], &[]);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            text.trim_end(),
            format!("task-executor {}", env!("CARGO_PKG_VERSION"))
        );
    }
}

#[test]
fn copy_to_puts_a_program_that_runs_where_it_was_told() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().expect("a temporary directory");
    let copy = dir.path().join("agent");
    fs::write(&copy, "an older one").expect("writes");
    for form in ["--copy-to=", "-copy-to="] {
        let output = program(&[format!("{form}{}", copy.display())], &[]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
    assert!(fs::read(&copy).expect("reads") == fs::read(PROGRAM).expect("reads"));
    let mode = fs::metadata(&copy).expect("is there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    let entries = fs::read_dir(dir.path()).expect("reads").count();
    assert_eq!(entries, 1, "nothing but the copy is left");
    let agent = Setup::new(copy.to_str().expect("is UTF-8")).start();
    assert_eq!(agent.run("t", &json!({"command": ["true"]}))["exitCode"], 0);
}

#[test]
fn copy_to_a_place_that_is_none_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for bad in [dir.path().join("no/such/place"), dir.path().to_owned()] {
        let flag = format!("--copy-to={}", bad.display());
        refused(&[&flag], &[], 1, &bad.display().to_string());
    }
    assert_eq!(fs::read_dir(dir.path()).expect("reads").count(), 0);
    let beside = dir
        .path()
        .file_name()
        .expect("has a name")
        .to_string_lossy();
    let left = fs::read_dir(std::env::temp_dir()).expect("reads");
    let mut names = left.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let temporary = format!(".{beside}.");
    assert!(!names.any(|name| name.starts_with(&temporary)));
    refused(&["--copy-to="], &[], 2, "--copy-to");
}

#[test]
fn help_shows_the_name_of_the_program_and_not_that_of_a_role() {
    let output = program(&["--help".to_owned()], &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    let usage = text.lines().find(|line| line.starts_with("Usage:"));
    assert_eq!(usage, Some("Usage: task-executor [OPTIONS]"));
}

#[test]
fn the_log_is_lines_of_json_when_asked_for() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let log = place.path().join("agent.log");
    let mut agent = Setup::new(PROGRAM)
        .flag("--log-format=json")
        .log(&log)
        .start();
    agent.run("t", &json!({"command": ["false"]}));
    agent.delete("/tasks/t");
    agent.gone("t");
    assert!(agent.stop().success());
    let text = fs::read_to_string(&log).expect("reads");
    assert!(text.lines().count() > 0);
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(entry["level"].is_string(), "{line}");
    }
}

#[test]
fn sigterm_and_sigint_end_an_idle_agent_at_once_with_code_0() {
    for signal in [
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGINT,
    ] {
        let mut agent = Setup::new(PROGRAM).start();
        agent.signal(agent.init(), signal);
        assert_eq!(agent.wait().code(), Some(0), "{signal}");
    }
}

#[test]
fn an_open_watch_does_not_hold_up_the_stop() {
    let mut agent = Setup::new(PROGRAM).start();
    let mut client = agent.client();
    let watch = client.open("GET", "/getTasks?watch=true", b"");
    assert_eq!(watch.expect("is answered").code, 200);
    assert_eq!(agent.stop().code(), Some(0));
    eventually("the port is free", PATIENCE, || {
        TcpListener::bind(agent.address()).ok()
    });
}
