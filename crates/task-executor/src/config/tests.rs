//! Tests of the module above.

use std::path::Path;

use super::*;

/// Parses a command line given as words, with an environment given as pairs.
fn parsed(words: &[&str], env: &[(&str, &str)]) -> Result<Config, Exit> {
    let argv = std::iter::once("task-executor")
        .chain(words.iter().copied())
        .map(OsString::from);
    let look_up = |name: &str| {
        env.iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    };
    parse(argv, &look_up)
}

/// The line that ends a start with exit code 2.
fn complaint(words: &[&str], env: &[(&str, &str)]) -> String {
    let exit = parsed(words, env).unwrap_err();
    assert_eq!((exit.code, exit.to_stderr), (2, true), "{words:?}");
    assert!(
        exit.text.ends_with('\n') && exit.text.trim_end().lines().count() == 1,
        "{}",
        exit.text
    );
    exit.text
        .trim_end()
        .trim_start_matches("task-executor: ")
        .to_owned()
}

type FlagCase = (&'static str, &'static str, fn(&Config) -> bool);
/// Words of a command line, and variables of an environment.
type Given<'a> = (Vec<String>, Vec<(&'a str, &'a str)>);

/// Every flag with a value that differs from its default, and how that shows in the [`Config`].
fn every_flag() -> Vec<FlagCase> {
    vec![
        ("data-dir", "/d", |c| c.data_dir == Path::new("/d")),
        ("listen-addr", ":1", |c| c.listen_addr.to_string() == ":1"),
        ("main-container-name", "app", |c| c.sidecar.is_none()),
        ("cri-socket", "/s", |c| c.container.is_none()),
        ("reconcile-interval", "1m30s", |c| {
            c.reconcile_interval == Duration::from_secs(90)
        }),
        ("max-concurrent-tasks", "7", |c| {
            c.max_concurrent_tasks == NonZeroUsize::new(7)
        }),
        ("max-tasks", "8", |c| c.max_tasks.get() == 8),
        ("termination-grace-period", "0", |c| {
            c.termination_grace_period.is_zero()
        }),
        ("durability", "sync", |c| c.durability == Durability::Sync),
        ("log-max-bytes", "10Mi", |c| {
            c.log_max_bytes == NonZeroU64::new(10 << 20)
        }),
        ("task-ttl-after-finished", "1h", |c| {
            c.task_ttl_after_finished == Some(Duration::from_hours(1))
        }),
        ("auth-token-file", "/t", |c| {
            c.auth_token_file == Some(PathBuf::from("/t"))
        }),
        ("max-request-bytes", "1G", |c| {
            c.max_request_bytes == 1_000_000_000
        }),
        ("volume", "data=/srv/data", |c| {
            c.volumes.get("data") == Some(&PathBuf::from("/srv/data"))
        }),
        ("log-format", "json", |c| c.log_format == LogFormat::Json),
        ("log-level", "task_executor=debug,warn", |c| {
            c.log_level.to_string() == "task_executor=debug,warn"
        }),
        ("shutdown-policy", "terminate", |c| {
            c.shutdown_policy == Some(ShutdownPolicy::Terminate)
        }),
    ]
}

#[test]
fn the_defaults_are_those_of_the_guide() {
    let config = parsed(&[], &[]).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/sandbox/tasks"));
    assert_eq!(config.listen_addr.to_string(), "0.0.0.0:5758");
    assert_eq!((config.sidecar, config.container), (None, None));
    assert_eq!(config.reconcile_interval, Duration::from_millis(500));
    assert_eq!(
        (config.max_concurrent_tasks, config.max_tasks.get()),
        (None, 100_000)
    );
    assert_eq!(config.termination_grace_period, Duration::from_secs(10));
    assert_eq!(config.durability, Durability::Process);
    assert_eq!(
        (config.log_max_bytes, config.task_ttl_after_finished),
        (None, None)
    );
    assert_eq!((config.auth_token_file, config.tls), (None, None));
    assert_eq!(config.max_request_bytes, 4 << 20);
    assert!(config.volumes.is_empty() && config.ignored_flags.is_empty());
    assert_eq!(
        (config.shutdown_policy, config.log_format),
        (None, LogFormat::Text)
    );
    assert_eq!(config.log_level.to_string(), "info");
    let text = parsed(&["--print-config"], &[]).unwrap_err().text;
    assert!(text.contains("\"main-container-name\": \"main\""), "{text}");
    assert!(
        text.contains("\"cri-socket\": \"/var/run/containerd/containerd.sock\""),
        "{text}"
    );
}

#[test]
fn every_flag_is_read_in_each_of_its_forms() {
    for (flag, value, shows) in every_flag() {
        let env = flag.to_uppercase().replace('-', "_");
        let forms: [Given<'_>; 5] = [
            (vec![format!("--{flag}"), value.to_owned()], vec![]),
            (vec![format!("--{flag}={value}")], vec![]),
            (vec![format!("-{flag}"), value.to_owned()], vec![]),
            (vec![format!("-{flag}={value}")], vec![]),
            (vec![], vec![(&env, value)]),
        ];
        for (words, env) in &forms {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let config = parsed(&words, env).unwrap_or_else(|exit| panic!("{}", exit.text));
            assert!(shows(&config), "{flag} as {words:?} {env:?}");
        }
    }
}

#[test]
fn every_flag_has_a_test() {
    let tested: Vec<_> = every_flag().iter().map(|(flag, ..)| *flag).collect();
    let elsewhere = [
        "enable-sidecar-mode",
        "enable-container-mode",
        "tls-cert-file",
        "tls-key-file",
        "tls-client-ca-file",
        "print-config",
        "copy-to",
    ];
    for arg in args::command().get_arguments() {
        let flag = arg.get_long().unwrap();
        let known = tested.contains(&flag)
            || elsewhere.contains(&flag)
            || args::IGNORED_FLAGS.contains(&flag);
        assert!(known, "no test for --{flag}");
    }
}

#[test]
fn a_flag_wins_over_its_variable_and_the_last_flag_over_the_first() {
    let env = [
        ("MAX_TASKS", "5"),
        ("DATA_DIR", "/from-env"),
        ("VOLUME", "a=/a,b=/b"),
    ];
    let config = parsed(&["-max-tasks=6", "--volume=c=/c", "--volume", "d=/d"], &env).unwrap();
    assert_eq!(config.max_tasks.get(), 6);
    assert_eq!(config.data_dir, PathBuf::from("/from-env"));
    assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["c", "d"]);
    assert_eq!(parsed(&[], &env).unwrap().volumes.len(), 2);
    assert_eq!(
        parsed(&["--max-tasks=1", "-max-tasks", "2"], &[])
            .unwrap()
            .max_tasks
            .get(),
        2
    );
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let config = parsed(
        &[],
        &[
            ("MAX_TASKS", ""),
            ("ENABLE_SIDECAR_MODE", ""),
            ("DATA_DIR", ""),
        ],
    )
    .unwrap();
    assert_eq!(config.max_tasks.get(), 100_000);
    assert_eq!(
        parsed(&["--auth-token-file="], &[])
            .unwrap()
            .auth_token_file,
        None
    );
}

#[test]
fn a_bad_variable_is_not_looked_at_when_the_flag_is_given() {
    let env = [("RECONCILE_INTERVAL", "soon")];
    assert_eq!(
        parsed(&["--reconcile-interval=2s"], &env)
            .unwrap()
            .reconcile_interval,
        Duration::from_secs(2)
    );
}

#[test]
fn switches_are_read_as_go_does() {
    for value in ["0", "f", "F", "false", "FALSE", "False"] {
        let words = [
            format!("--enable-sidecar-mode={value}"),
            format!("-enable-container-mode={value}"),
        ];
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        assert!(parsed(&words, &[]).unwrap().sidecar.is_none());
        assert!(
            parsed(&[], &[("ENABLE_CONTAINER_MODE", value)])
                .unwrap()
                .container
                .is_none()
        );
    }
    for value in ["1", "t", "T", "true", "TRUE", "True"] {
        let flag = format!("--enable-sidecar-mode={value}");
        assert!(parsed(&[&flag], &[]).unwrap().sidecar.is_some());
        assert!(
            complaint(&[], &[("ENABLE_CONTAINER_MODE", value)])
                .contains("not available in this build yet")
        );
    }
    let on = parsed(&["-enable-sidecar-mode", "-main-container-name=app"], &[]);
    let on = on.unwrap().sidecar.map(|mode| mode.main_container_name);
    assert_eq!(on.as_deref(), Some("app"));
    assert_eq!(
        complaint(&["--enable-sidecar-mode=yes"], &[]),
        "--enable-sidecar-mode: \"yes\" is not a boolean; write true or false"
    );
    assert!(
        complaint(&["--enable-sidecar-mode", "false"], &[])
            .starts_with("unexpected argument \"false\"")
    );
}

#[test]
fn a_bad_value_is_one_line_that_names_flag_value_and_remedy() {
    for (word, remedy) in [
        (
            "--reconcile-interval=abc",
            "is not a duration; write a number and a unit (ms, s, m or h), such as 500ms or 1m30s",
        ),
        (
            "--reconcile-interval=0",
            "is too short; write a duration of 10ms or more",
        ),
        (
            "--max-tasks=0",
            "is not a count; write a whole number of 1 or more",
        ),
        (
            "--max-concurrent-tasks=+1",
            "is not a count; write a whole number of 0 or more",
        ),
        (
            "--max-concurrent-tasks=-1",
            "is not a count; write a whole number of 0 or more",
        ),
        (
            "--max-request-bytes=4m",
            "is not a size; write whole bytes, or a number with a unit, such as 4MiB, 10Mi or 1G",
        ),
        (
            "--max-request-bytes=0",
            "is out of range; write a size from 64 bytes to 1GiB, such as 4MiB",
        ),
        (
            "--durability=maybe\n",
            "is not a durability; write process or sync",
        ),
        (
            "--shutdown-policy=stop",
            "is not a policy; write keep or terminate",
        ),
        (
            "--log-format=xml",
            "is not a log format; write text or json",
        ),
        (
            "--task-ttl-after-finished=0",
            "is ambiguous; write off to keep finished tasks, or a duration such as 10m",
        ),
        (
            "--volume=data",
            "is not a volume; write NAME=HOSTPATH, such as data=/srv/data",
        ),
        (
            "--volume=data=srv",
            "has no absolute path; write NAME=/PATH, such as data=/srv/data",
        ),
    ] {
        let (flag, value) = word.split_once('=').unwrap();
        assert_eq!(
            complaint(&[word], &[]),
            format!("{flag}: {value:?} {remedy}")
        );
    }
    for level in ["loud", "task_executor=loud", ",", "a=b=c"] {
        let line = complaint(&["--log-level", level], &[]);
        assert!(
            line.starts_with("--log-level: ") && line.contains("is not a log level"),
            "{line}"
        );
    }
}

#[test]
fn values_that_do_not_fit_together_are_refused() {
    for (words, line) in [
        (
            &["--volume=a=/a", "--volume=a=/b"][..],
            "--volume names \"a\" twice; give each volume its own name",
        ),
        (
            &["--tls-cert-file=/c"],
            "--tls-cert-file needs --tls-key-file as well",
        ),
        (
            &["--tls-key-file=/k"],
            "--tls-key-file needs --tls-cert-file as well",
        ),
        (
            &["--tls-client-ca-file=/a"],
            "--tls-client-ca-file needs --tls-cert-file and --tls-key-file as well",
        ),
    ] {
        assert_eq!(complaint(words, &[]), line);
    }
}

#[test]
fn what_is_no_flag_and_what_has_no_value_is_refused() {
    for (words, line) in [
        (
            &["--data-dir="][..],
            "--data-dir needs a value; write --data-dir=VALUE",
        ),
        (
            &["--data-dir"],
            "--data-dir needs a value; write --data-dir=VALUE",
        ),
        (
            &["--data-dir", "--max-tasks=1"],
            "--data-dir needs a value; write --data-dir=VALUE",
        ),
        (
            &["--main-container-name="],
            "--main-container-name: \"\" must not be empty",
        ),
        (&["-foo=1"], "unknown flag --foo; see --help"),
        (
            &["--reconcile-intervall=1s"],
            "unknown flag --reconcile-intervall; see --help",
        ),
        (&["-x"], "unknown flag -x; see --help"),
        (
            &["serve"],
            "unexpected argument \"serve\"; write --flag=VALUE, and see --help for the flags",
        ),
    ] {
        assert_eq!(complaint(words, &[]), line);
    }
}

#[test]
fn a_bad_variable_is_named() {
    assert_eq!(
        complaint(&[], &[("MAX_TASKS", "many")]),
        "MAX_TASKS (environment variable for --max-tasks): \"many\" is not a count; write a whole number of 1 or more"
    );
    let line = complaint(&[], &[("RUST_LOG", "loud")]);
    assert!(
        line.starts_with("RUST_LOG (environment variable for --log-level): \"loud\""),
        "{line}"
    );
}

#[test]
fn rust_log_stands_in_for_the_log_level() {
    let level = |words, env| parsed(words, env).unwrap().log_level.to_string();
    assert_eq!(level(&[], &[("RUST_LOG", "debug")]), "debug");
    assert_eq!(
        level(&[], &[("RUST_LOG", "debug"), ("LOG_LEVEL", "warn")]),
        "warn"
    );
    assert_eq!(
        level(
            &["--log-level=error"],
            &[("RUST_LOG", "debug"), ("LOG_LEVEL", "warn")]
        ),
        "error"
    );
}

#[test]
fn tls_files_come_together() {
    let words = ["--tls-cert-file=/c", "-tls-key-file", "/k"];
    let tls = parsed(&words, &[("TLS_CLIENT_CA_FILE", "/a")]).unwrap().tls;
    let want = TlsFiles {
        cert: "/c".into(),
        key: "/k".into(),
        client_ca: Some("/a".into()),
    };
    assert_eq!(tls, Some(want));
}

#[test]
fn the_flags_of_the_go_agent_are_accepted_and_named() {
    let words = [
        "-log-dir=logs",
        "--log-max-size",
        "100",
        "-log-max-backups",
        "10",
        "--log-max-age=7",
    ];
    assert_eq!(
        parsed(&words, &[]).unwrap().ignored_flags,
        args::IGNORED_FLAGS
    );
    let config = parsed(&["-log-max-age=7"], &[("LOG_DIR", "/logs")]).unwrap();
    assert_eq!(config.ignored_flags, ["log-max-age"]);
}

#[test]
fn help_and_version_go_to_standard_output() {
    for words in [["--help"], ["-h"], ["-help"]] {
        let exit = parsed(&words, &[]).unwrap_err();
        assert_eq!((exit.code, exit.to_stderr), (0, false));
        for (flag, ..) in every_flag() {
            let env = flag.to_uppercase().replace('-', "_");
            assert!(exit.text.contains(&format!("--{flag} ")), "{flag}");
            assert!(exit.text.contains(&format!("[env: {env}]")), "{env}");
        }
        assert!(exit.text.contains("[default: 500ms]"));
    }
    let short = parsed(&["-h"], &[]).unwrap_err().text;
    assert!(!short.contains("--log-dir"));
    for words in [["--version"], ["-V"], ["-version"]] {
        let exit = parsed(&words, &[]).unwrap_err();
        let want = format!("task-executor {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!((exit.code, exit.to_stderr, exit.text), (0, false, want));
    }
}

#[test]
fn the_long_help_fits_a_page() {
    let text = parsed(&["--help"], &[]).unwrap_err().text;
    let widest = text
        .lines()
        .max_by_key(|line| line.chars().count())
        .unwrap();
    assert!(widest.chars().count() <= 100, "{widest}");
}

#[test]
fn the_effective_configuration_is_printed_as_json() {
    let words = [
        "--print-config",
        "--max-request-bytes=1Mi",
        "--volume=a=/a",
        "-reconcile-interval=90s",
    ];
    let exit = parsed(&words, &[("DURABILITY", "sync")]).unwrap_err();
    assert_eq!((exit.code, exit.to_stderr), (0, false));
    let json: serde_json::Value = serde_json::from_str(&exit.text).unwrap();
    assert_eq!(json["max-request-bytes"], 1 << 20);
    assert_eq!(json["volume"]["a"], "/a");
    assert_eq!(json["reconcile-interval"], "1m30s");
    assert_eq!(json["durability"], "sync");
    assert_eq!(json["task-ttl-after-finished"], "off");
    let printed: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
    for arg in args::command()
        .get_arguments()
        .filter_map(clap::Arg::get_long)
    {
        let shown = args::env_name(arg).is_none() || printed.iter().any(|key| key == arg);
        assert!(shown, "--{arg} is not printed");
    }
    assert!(complaint(&["--print-config", "--tls-cert-file=/c"], &[]).contains("--tls-key-file"));
}

#[test]
fn a_path_need_not_be_utf8() {
    use std::os::unix::ffi::OsStringExt;
    let odd = |prefix: &[u8]| OsString::from_vec([prefix, b"/\xff"].concat());
    for argv in [
        vec![odd(b"--data-dir=")],
        vec![odd(b"-data-dir=")],
        vec!["--data-dir".into(), odd(b"")],
    ] {
        let argv = std::iter::once(OsString::from("x")).chain(argv);
        let config = parse(argv, &|_| Some("/env".to_owned()).filter(|_| false)).unwrap();
        assert_eq!(config.data_dir.as_os_str(), odd(b""));
    }
}
