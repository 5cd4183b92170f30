//! Tests of flags, without the environment.

use super::*;

fn read(flags: &[&str]) -> Result<Config, String> {
    let words = std::iter::once("sandbox-operator").chain(flags.iter().copied());
    let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
    let run = match args.command {
        Some(Command::Run(run)) => *run,
        _ => args.run,
    };
    run.check().map_err(|error| error.to_string())
}

#[test]
fn without_flags_it_runs_with_the_defaults() {
    let config = read(&[]).unwrap();
    assert_eq!(config, read(&["run"]).unwrap());
    assert_eq!(config.agent_port, 5758);
    assert_eq!(config.election, None);
    assert_eq!(config.settings, Settings::default());
    assert_eq!(config.metrics_address, "[::]:8080".parse().ok());
}

#[test]
fn the_arguments_of_the_deployment_of_opensandbox_are_understood() {
    let flags = [
        "--metrics-bind-address=:8443",
        "--leader-elect",
        "--leader-elect-namespace=opensandbox-system",
        "--health-probe-bind-address=:8081",
        "--concurrency=batchsandbox=32;pool=16",
        "--snapshot-registry=registry.example",
        "--kube-client-qps=100",
        "--kube-client-burst=200",
        "--zap-log-level=info",
    ];
    let config = read(&flags).unwrap();
    assert_eq!(config.metrics_address, "[::]:8443".parse().ok());
    assert_eq!(config.api_concurrency.get(), 32);
    assert_eq!(
        config.without_meaning,
        ["snapshot-registry", "zap-log-level"]
    );
    assert_eq!(config.pace, NonZeroU32::new(100).zip(NonZeroU32::new(200)));
    let election = config.election.expect("it stands for election");
    assert_eq!(election.id, "2fa1c467.opensandbox.io");
    assert_eq!(election.namespace, "opensandbox-system");
}

#[test]
fn a_wrong_value_names_the_flag_and_what_would_be_right() {
    let cases = [
        (
            &["--agent-timeout=soon"][..],
            "must be a duration such as 500ms",
        ),
        (&["--agent-timeout=0s"], "--agent-timeout"),
        (&["--metrics-addr=here"], "must be an address such as :8080"),
        (&["--concurrency=0"], "at least 1"),
        (&["--leader-elect"], "--leader-elect-namespace"),
        (
            &[
                "--leader-elect",
                "--leader-elect-namespace=x",
                "--leader-elect-renew-deadline=9s",
            ],
            "must be shorter than",
        ),
    ];
    for (flags, expected) in cases {
        let error = read(flags).unwrap_err();
        assert!(error.contains(expected), "{flags:?}: {error}");
    }
}

#[test]
fn durations_are_those_of_go() {
    let cases = [
        ("500ms", 500),
        ("2s", 2000),
        ("1m30s", 90_000),
        ("1h", 3_600_000),
    ];
    for (text, ms) in cases {
        assert_eq!(
            values::duration(text),
            Ok(Duration::from_millis(ms)),
            "{text}"
        );
    }
    for text in ["", "s", "5", "5d", "-1s", "0ms"] {
        assert!(values::duration(text).is_err(), "{text}");
    }
}
