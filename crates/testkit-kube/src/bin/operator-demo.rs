//! `make demo`: the whole pipeline on this machine, without a cluster: API server, operator, and a real agent a Pod.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it is made to be looked at")]

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use sandbox_api::crd::{BatchSandbox, ENDPOINTS_ANNOTATION};
use sandbox_api::{ReportedState, TaskName};
use serde_json::json;
use task_client::{Endpoint, LogQuery, Target};
use testkit_kube::operator::{self, Operator};
use testkit_kube::{ControlPlane, Kubelet, Options, kubelet, program, wait};
use tokio::signal::unix::{SignalKind, signal};

const NAME: &str = "rollouts";
const NAMESPACE: &str = "default";
const HELP: &str = "\
Brings up etcd, kube-apiserver, the operator and a test kubelet with real agents on loopback addresses, runs a
BatchSandbox whose tasks differ from shard to shard, shows what comes of it, and takes everything away again.

  --replicas N   sandboxes, 20 if not given
  --keep         stay until Ctrl-C, for kubectl from another shell
";

struct Flags {
    replicas: u16,
    keep: bool,
}

fn flags() -> anyhow::Result<Option<Flags>> {
    let mut flags = Flags {
        replicas: 20,
        keep: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--keep" => flags.keep = true,
            "--replicas" => {
                let number = words.next().and_then(|number| number.parse().ok());
                flags.replicas = number.context("--replicas needs a number")?;
            }
            "--help" | "-h" => return Ok(None),
            other => bail!("{other} is not known; see --help"),
        }
    }
    Ok(Some(flags))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(flags) = flags()? else {
        print!("{HELP}");
        return Ok(());
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        result = demo(&flags) => return result,
        _ = interrupt.recv() => println!("\nstopped; everything is taken away"),
        _ = term.recv() => {}
    }
    Ok(())
}

async fn demo(flags: &Flags) -> anyhow::Result<()> {
    let begun = Instant::now();
    let step = |what: &str| println!("[{:>5.1} s] {what}", begun.elapsed().as_secs_f64());
    step("starting etcd and kube-apiserver");
    let plane = ControlPlane::start(Options::default()).await?;
    plane.install_crds().await?;
    operator::install(&plane).await?;
    step("starting the operator under the role of config/rbac, and a kubelet with real agents");
    let log = tempfile::NamedTempFile::new()?;
    let program_of = |name| program(name);
    let operator = Operator::start(
        &plane,
        program_of("sandbox-operator"),
        &[],
        log.path().to_owned(),
    )?;
    operator.wait_ready().await;
    let mut options = kubelet::Options::real(NAMESPACE, program_of("task-executor"));
    options.namespace = None;
    let _kubelet = Kubelet::start(&plane, options)?;
    let client = plane.admin().await?;
    let kubeconfig = plane.kubeconfig_file("admin", &["system:masters"])?;
    step(&format!(
        "creating BatchSandbox {NAME} with {} replicas, each with a task of its own",
        flags.replicas
    ));
    let batches: Api<BatchSandbox> = Api::namespaced(client.clone(), NAMESPACE);
    batches
        .create(&PostParams::default(), &batch(flags.replicas)?)
        .await?;
    let done = progress(&batches, begun).await?;
    results(&done).await?;
    step(&conditions(&done));
    if flags.keep {
        let assets = plane.assets().dir().display();
        println!(
            "\nIn another shell:\n  export KUBECONFIG={}",
            kubeconfig.display()
        );
        println!("  export PATH=$PATH:{assets}   # if there is no kubectl\n  kubectl get bsbx -w");
        println!(
            "  kubectl apply -f config/samples/batchsandbox-shards.yaml\n\nCtrl-C ends everything."
        );
        std::future::pending::<()>().await;
    }
    clean_up(&client, &batches).await?;
    step("deleted; tasks, agents and Pods are gone");
    Ok(())
}

/// Most tasks sum up some numbers; every tenth fails, and one runs into its time limit.
fn batch(replicas: u16) -> anyhow::Result<BatchSandbox> {
    let patch = |index: u16| match index % 10 {
        7 => json!({"spec": {"process": {"args": ["echo this shard gives up >&2; exit 7"]}}}),
        9 if index < 10 => {
            json!({"spec": {"timeoutSeconds": 1, "process": {"args": ["sleep 600"]}}})
        }
        _ => json!({"spec": {"process": {"env": [{"name": "SHARD", "value": index.to_string()}]}}}),
    };
    let patches: Vec<_> = (0..replicas).map(patch).collect();
    let script = "sleep 0.$((SHARD * 3 % 10)); echo shard $SHARD: $((SHARD * SHARD))";
    Ok(serde_json::from_value(json!({
        "apiVersion": "sandbox.opensandbox.io/v1alpha1",
        "kind": "BatchSandbox",
        "metadata": {"name": NAME},
        "spec": {
            "replicas": replicas,
            "template": {"spec": {"containers": [{"name": "main", "image": "sandbox:demo"}]}},
            "taskTemplate": {"spec": {"process": {
                "command": ["sh", "-c"], "args": [script], "env": [{"name": "SHARD", "value": "?"}],
            }}},
            "shardTaskPatches": patches,
        },
    }))?)
}

/// Shows the status as it changes, until all tasks are over.
async fn progress(batches: &Api<BatchSandbox>, begun: Instant) -> anyhow::Result<BatchSandbox> {
    let is_live = std::io::stdout().is_terminal();
    let mut shown = String::new();
    let end = Instant::now() + Duration::from_mins(2);
    loop {
        let batch = batches.get(NAME).await?;
        let status = batch.status.clone().unwrap_or_default();
        let line = format!(
            "Pods {}/{} ready | tasks: {} pending, {} running, {} succeeded, {} failed",
            status.ready,
            batch.spec.replicas,
            status.task_pending,
            status.task_running,
            status.task_succeed,
            status.task_failed,
        );
        if line != shown {
            let time = begun.elapsed().as_secs_f64();
            if is_live {
                print!("\r[{time:>5.1} s] {line:<90}");
                std::io::stdout().flush()?;
            } else {
                println!("[{time:>5.1} s] {line}");
            }
            shown = line;
        }
        if has(&batch, "TasksCompleted") {
            if is_live {
                println!();
            }
            return Ok(batch);
        }
        if Instant::now() > end {
            bail!("the tasks are not over after two minutes");
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

fn has(batch: &BatchSandbox, condition: &str) -> bool {
    let status = batch.status.as_ref();
    status.is_some_and(|status| status.conditions.iter().any(|one| one.type_ == condition))
}

/// What each agent says of its task, with the first line of its output.
async fn results(batch: &BatchSandbox) -> anyhow::Result<()> {
    let annotations = batch.metadata.annotations.clone().unwrap_or_default();
    let endpoints: Vec<String> =
        serde_json::from_str(annotations.get(ENDPOINTS_ANNOTATION).context("endpoints")?)?;
    let client = task_client::Client::new(task_client::Options::default());
    println!(
        "\n{:<14}{:<12}{:>5}  {:<14}output",
        "TASK", "AGENT", "EXIT", "REASON"
    );
    for (index, address) in endpoints.iter().enumerate() {
        let agent =
            Endpoint::new((address.parse::<std::net::IpAddr>()?, kubelet::AGENT_PORT).into());
        let target = Target::named(TaskName::parse(&format!("{NAME}-{index}"))?);
        let task = client.get_task(&agent, &target).await?;
        let mut logs = client.logs(&agent, &target, &LogQuery::default()).await?;
        let mut output = Vec::new();
        while let Some(chunk) = logs.next().await? {
            output.extend_from_slice(&chunk);
        }
        let output = String::from_utf8_lossy(&output);
        let first = output.lines().next().unwrap_or_default();
        if let Some(ReportedState::Terminated {
            exit_code, reason, ..
        }) = &task.report.state
        {
            println!(
                "{:<14}{address:<12}{exit_code:>5}  {reason:<14}{first}",
                task.report.name
            );
        }
    }
    println!();
    Ok(())
}

fn conditions(batch: &BatchSandbox) -> String {
    let conditions = batch.status.clone().unwrap_or_default().conditions;
    let text = |one: &sandbox_api::crd::BatchCondition| {
        format!("{}: {}", one.type_, one.message.clone().unwrap_or_default())
    };
    conditions
        .iter()
        .map(text)
        .collect::<Vec<_>>()
        .join("\n          ")
}

async fn clean_up(client: &Client, batches: &Api<BatchSandbox>) -> anyhow::Result<()> {
    batches.delete(NAME, &DeleteParams::default()).await?;
    wait::gone(batches, NAME, wait::PATIENCE).await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), NAMESPACE);
    wait::objects(&pods, "no Pod is left", wait::PATIENCE, <[_]>::is_empty).await;
    Ok(())
}
