//! Probes and metrics.

use std::collections::BTreeMap;

use testkit_kube::operator;
use testkit_kube::wait::{PATIENCE, eventually};
use testkit_kube::{ControlPlane, Options};

use crate::world::World;

#[tokio::test]
async fn metrics_have_every_family_and_each_line_can_be_read() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world.create(world.draft("run", 2).task("exit 0")).await;
    world.completed("run", 2, 0).await;
    let text = world.operator.metrics().await.unwrap();
    let mut types = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            types.insert(name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').expect("a series and a value");
            value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
            let name = series.split('{').next().unwrap_or_default();
            let is_of = |family: &String| name.starts_with(family.as_str());
            assert!(types.keys().any(is_of), "{line}");
        }
    }
    let families = [
        ("api_writes", "counter"),
        ("watch_failures", "counter"),
        ("undecodable_objects", "counter"),
        ("batches", "gauge"),
        ("agents_silent", "gauge"),
        ("agents_attended", "gauge"),
        ("agent_calls", "counter"),
        ("leader", "gauge"),
        ("step_seconds", "histogram"),
        ("dispatch_seconds", "histogram"),
        ("ready_seconds", "histogram"),
    ];
    let wanted: BTreeMap<_, _> = families
        .iter()
        .map(|(name, kind)| (format!("sandbox_operator_{name}"), (*kind).to_owned()))
        .collect();
    assert_eq!(types, wanted);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = [
        "sandbox_operator_api_writes_total{verb=\"create_pod\",result=\"ok\"} 2",
        "sandbox_operator_dispatch_seconds_count 2",
        "sandbox_operator_ready_seconds_count 1",
        "sandbox_operator_batches{phase=\"Succeed\"} 1",
    ];
    shows(&world, &lines).await;
    world.delete("run").await;
    world.gone("run").await;
    let none = [
        "sandbox_operator_batches{phase=\"Succeed\"} 0",
        "sandbox_operator_agents_attended 0",
    ];
    shows(&world, &none).await;
}

/// Waits until the metrics have these lines.
async fn shows(world: &World<'_>, lines: &[&str]) {
    eventually(&format!("{lines:?}"), PATIENCE, async || {
        let text = world.operator.metrics().await.unwrap();
        let is_there = |line: &&str| text.lines().any(|one| one == *line);
        if lines.iter().all(is_there) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
}

#[tokio::test]
async fn without_crds_the_operator_lives_and_is_not_ready_and_with_them_it_is() {
    if !testkit_kube::control_plane::shared::can_start() {
        return;
    }
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    operator::install(&plane).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_sandbox-operator").into();
    let log = dir.path().join("operator.log");
    let operator = operator::Operator::start(&plane, program, &[], log).unwrap();
    eventually(
        "it says what is missing",
        PATIENCE,
        async || match operator.readyz().await {
            Err(error) if error.to_string().contains("are the CRDs installed") => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    eventually("its watch has failed", PATIENCE, async || {
        let text = operator.metrics().await.unwrap();
        let line = "sandbox_operator_watch_failures_total{kind=\"batchsandboxes\"}";
        if text.contains(line) {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
    operator.livez().await.unwrap();
    operator.readyz().await.unwrap_err();
    plane.install_crds().await.unwrap();
    operator.wait_ready().await;
}
