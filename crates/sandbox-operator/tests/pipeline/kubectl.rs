//! What people see and do with kubectl.

use crate::world::World;

#[tokio::test]
async fn kubectl_shows_the_columns_waits_and_describes_with_events() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world.create(world.draft("run", 2).task("exit 0")).await;
    let wait = |what| ["wait", "--timeout=30s", what, "bsbx/run"];
    world.kubectl(&wait("--for=condition=Ready")).await;
    world.kubectl(&wait("--for=condition=TasksCompleted")).await;
    world
        .kubectl(&wait("--for=jsonpath={.status.taskSucceed}=2"))
        .await;
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let table = world.kubectl(&["get", "bsbx"]).await;
    let rows: Vec<_> = table.lines().map(words).collect();
    let columns = [
        "NAME",
        "DESIRED",
        "TOTAL",
        "ALLOCATED",
        "READY",
        "EXPIRE",
        "AGE",
    ];
    assert_eq!(rows[0], columns, "{table}");
    assert_eq!(rows[1][..5], ["run", "2", "2", "2", "2"], "{table}");
    let table = world.kubectl(&["get", "sandboxes", "-o", "wide"]).await;
    let rows: Vec<_> = table.lines().map(words).collect();
    let columns = [
        "NAME",
        "DESIRED",
        "TOTAL",
        "ALLOCATED",
        "READY",
        "TASK_RUNNING",
        "TASK_SUCCEED",
        "TASK_FAILED",
        "TASK_UNKNOWN",
        "EXPIRE",
        "AGE",
    ];
    assert_eq!(rows[0], columns, "{table}");
    assert_eq!(
        rows[1][1..9],
        ["2", "2", "2", "2", "0", "2", "0", "0"],
        "{table}"
    );
    let batch = world.completed("run", 2, 0).await;
    for reason in ["SuccessfulCreate", "Ready", "TasksCompleted"] {
        world.event(&batch, reason).await;
    }
    let text = world.kubectl(&["describe", "bsbx/run"]).await;
    for word in [
        "SuccessfulCreate",
        "created 2 Pods",
        "TasksCompleted",
        "sandbox-operator",
    ] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
}

#[tokio::test]
async fn kubectl_scales_and_explains() {
    let Some(world) = World::new(&[]).await else {
        return;
    };
    world.create(world.draft("run", 1)).await;
    world.pods_of("run", 1).await;
    world.kubectl(&["scale", "bsbx/run", "--replicas=3"]).await;
    world.pods_of("run", 3).await;
    let ready = "--for=jsonpath={.status.ready}=3";
    world
        .kubectl(&["wait", "--timeout=30s", ready, "bsbx/run"])
        .await;
    world
        .kubectl(&["scale", "bsbx/run", "--current-replicas=3", "--replicas=0"])
        .await;
    world.pods_of("run", 0).await;
    let selector = world
        .kubectl(&[
            "get",
            "bsbx/run",
            "--subresource=scale",
            "-o",
            "jsonpath={.status.selector}",
        ])
        .await;
    assert_eq!(selector, "batch-sandbox.sandbox.opensandbox.io/name=run");
    let text = world.kubectl(&["explain", "bsbx.spec"]).await;
    for word in [
        "replicas",
        "taskTemplate",
        "shardTaskPatches",
        "Sandboxes that are wanted",
    ] {
        assert!(text.contains(word), "{word} is missing:\n{text}");
    }
    // kubectl waits for it by itself, and so sees that nothing holds it up.
    world
        .kubectl(&["delete", "--timeout=30s", "bsbx/run"])
        .await;
    world.gone("run").await;
}
