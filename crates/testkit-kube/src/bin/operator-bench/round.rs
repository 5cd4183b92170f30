//! One run: a BatchSandbox from its creation to its end.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, PostParams};
use kube::runtime::watcher;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use sandbox_api::crd::{BatchSandbox, BatchSandboxStatus};
use serde_json::json;
use testkit_kube::ControlPlane;
use testkit_kube::operator::{self, Operator};
use testkit_kube::wait;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const NAME: &str = "bench";
const NAMESPACE: &str = "default";
/// How long anything may take; a thousand agents take a while to start on two cores.
const PATIENCE: Duration = Duration::from_mins(5);

/// Memory of the operator in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) now: u32,
    pub(crate) peak: u32,
}

/// What one run has shown; times in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// From the creation to the last Pod's being there.
    pub(crate) pods_created: f64,
    /// From the creation to the status that says that all Pods are ready and all tasks run.
    pub(crate) running: f64,
    /// From the last Pod's getting ready, which is the kubelet's doing, to that status.
    pub(crate) running_after_ready: f64,
    /// From the moment at which all tasks are let go, to the status that says that all are over.
    pub(crate) done: f64,
    /// From the deletion to the object's being gone.
    pub(crate) gone: f64,
    /// Requests of the operator by verb and resource, until all tasks run; without events.
    pub(crate) to_deliver: BTreeMap<String, usize>,
    /// The same for the whole life.
    pub(crate) whole_life: BTreeMap<String, usize>,
    pub(crate) memory: Memory,
}

/// The latest of what a watch has shown.
struct Watched<T> {
    value: watch::Receiver<T>,
    task: JoinHandle<()>,
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<T: Clone> Watched<T> {
    /// Waits until `is_so`; when that was.
    async fn until(&mut self, what: &str, is_so: impl Fn(&T) -> bool) -> anyhow::Result<Instant> {
        let waited = tokio::time::timeout(PATIENCE, self.value.wait_for(|value| is_so(value)));
        match waited.await {
            Ok(Ok(_)) => Ok(Instant::now()),
            Ok(Err(_)) => bail!("the watch has ended before: {what}"),
            Err(_) => bail!("not within {PATIENCE:?}: {what}"),
        }
    }
}

pub(crate) async fn run(
    plane: &ControlPlane,
    operator: &Operator,
    replicas: u32,
) -> anyhow::Result<Round> {
    let client = plane.admin().await?;
    let batches: Api<BatchSandbox> = Api::namespaced(client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let dir = tempfile::tempdir()?;
    let gate = dir.path().join("gate");
    mkfifo(&gate, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let mut status = watch_status(batches.clone());
    let mut seen = watch_pods(pods.clone());
    let before = plane.audit()?;
    let wanted = usize::try_from(replicas)?;

    let created = Instant::now();
    batches
        .create(&PostParams::default(), &batch(replicas, gate.as_os_str())?)
        .await?;
    let there = seen
        .until("all Pods are there", |seen| seen.all == wanted)
        .await?;
    let all = i32::try_from(replicas)?;
    let run = |status: &BatchSandboxStatus| status.ready == all && status.task_running == all;
    let running = status.until("all tasks run", run).await?;
    let ready = *seen.value.borrow();
    anyhow::ensure!(ready.ready == wanted, "the status is ahead of the Pods");
    let to_deliver = requests(plane, &before)?;

    let open = {
        let gate = gate.clone();
        tokio::task::spawn_blocking(move || OpenOptions::new().write(true).open(gate))
    };
    let let_go = Instant::now();
    drop(open.await?.context("open the gate")?);
    let over = |status: &BatchSandboxStatus| status.task_succeed == all;
    let done = status.until("all tasks are over", over).await?;
    let memory = memory(operator)?;

    let deleted = Instant::now();
    batches.delete(NAME, &DeleteParams::default()).await?;
    wait::gone(&batches, NAME, PATIENCE).await;
    let gone = Instant::now();
    let whole_life = requests(plane, &before)?;
    wait::objects(&pods, "all Pods are gone", PATIENCE, <[_]>::is_empty).await;

    let since =
        |end: Instant, begin: Instant| end.saturating_duration_since(begin).as_secs_f64() * 1e3;
    Ok(Round {
        pods_created: since(there, created),
        running: since(running, created),
        running_after_ready: since(running, ready.last_ready.unwrap_or(running)),
        done: since(done, let_go),
        gone: since(gone, deleted),
        to_deliver,
        whole_life,
        memory,
    })
}

/// Tasks that wait at a gate until it is opened, all at once.
fn batch(replicas: u32, gate: &OsStr) -> anyhow::Result<BatchSandbox> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "sandbox.opensandbox.io/v1alpha1",
        "kind": "BatchSandbox",
        "metadata": {"name": NAME},
        "spec": {
            "replicas": replicas,
            "template": {"spec": {"containers": [{"name": "main", "image": "sandbox:bench"}]}},
            "taskTemplate": {"spec": {"process": {"command": ["cat", gate.to_string_lossy()]}}},
        },
    }))?)
}

fn watch_status(api: Api<BatchSandbox>) -> Watched<BatchSandboxStatus> {
    let (sender, value) = watch::channel(BatchSandboxStatus::default());
    let task = tokio::spawn(async move {
        let mut events = pin!(watcher(api, watcher::Config::default()));
        while let Some(event) = events.next().await {
            if let Ok(watcher::Event::Apply(batch)) = event {
                sender.send_replace(batch.status.unwrap_or_default());
            }
        }
    });
    Watched { value, task }
}

#[derive(Clone, Copy, Debug, Default)]
struct Pods {
    all: usize,
    ready: usize,
    last_ready: Option<Instant>,
}

fn watch_pods(api: Api<Pod>) -> Watched<Pods> {
    let (sender, value) = watch::channel(Pods::default());
    let task = tokio::spawn(async move {
        let mut pods = BTreeMap::new();
        let mut events = pin!(watcher(api, watcher::Config::default()));
        while let Some(event) = events.next().await {
            if let Ok(watcher::Event::Apply(pod)) = event {
                let conditions = pod.status.and_then(|status| status.conditions);
                let is_ready = conditions
                    .into_iter()
                    .flatten()
                    .any(|one| one.type_ == "Ready" && one.status == "True");
                let was_ready = pods.insert(pod.metadata.name, is_ready) == Some(true);
                sender.send_modify(|seen| {
                    seen.all = pods.len();
                    if is_ready && !was_ready {
                        seen.ready += 1;
                        seen.last_ready = Some(Instant::now());
                    }
                });
            }
        }
    });
    Watched { value, task }
}

/// The operator's requests since `before`, but for events, its lease and its probes.
fn requests(
    plane: &ControlPlane,
    before: &testkit_kube::control_plane::audit::Audit,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut counts = BTreeMap::new();
    for request in plane
        .audit()?
        .since(before)
        .of_user(operator::USER)
        .requests()
    {
        *counts
            .entry(format!("{} {}", request.verb, request.resource))
            .or_default() += 1;
    }
    Ok(counts)
}

/// Resident memory of the operator, now and at its peak.
pub(crate) fn memory(operator: &Operator) -> anyhow::Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", operator.pid()?))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
    };
    Ok(Memory {
        now: field("VmRSS:").context("VmRSS")?,
        peak: field("VmHWM:").context("VmHWM")?,
    })
}
