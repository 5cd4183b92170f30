//! Pods get a node, an address, a status and an agent; they suffer what they are told to, and leave nothing behind.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Resource as _;
use kube::api::{Api, DeleteParams, PostParams};
use sandbox_api::crd::BatchSandbox;
use serde_json::{Value, json};
use testkit_kube::control_plane::shared::can_start;
use testkit_kube::kubelet::{self, AGENT_PORT, Fault, plan};
use testkit_kube::wait::{self, PATIENCE, eventually};
use testkit_kube::{ControlPlane, Kubelet, Options, program, shared};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A namespace with a kubelet for it.
struct Ground {
    kubelet: Kubelet,
    namespace: String,
    pods: Api<Pod>,
}

impl Ground {
    async fn new(plane: &ControlPlane, options: impl FnOnce(&str) -> kubelet::Options) -> Self {
        let namespace = plane.temp_namespace().await.expect("a namespace");
        let kubelet = Kubelet::start(plane, options(&namespace)).expect("a kubelet");
        let pods = Api::namespaced(plane.admin().await.expect("a client"), &namespace);
        Self {
            kubelet,
            namespace,
            pods,
        }
    }

    async fn create(&self, name: &str, annotations: &[(&str, &str)]) {
        self.pods
            .create(&PostParams::default(), &pod(name, annotations))
            .await
            .expect("the API server takes it");
    }

    async fn ready(&self, name: &str) -> Pod {
        wait::object(&self.pods, name, "it is ready", PATIENCE, is_ready).await
    }

    async fn suffers(&self, name: &str, fault: Fault) {
        self.kubelet
            .order(&self.namespace, name, fault)
            .await
            .expect("the Pod suffers it");
    }
}

fn real(namespace: &str) -> kubelet::Options {
    kubelet::Options::real(namespace, program("task-executor"))
}

fn pod(name: &str, annotations: &[(&str, &str)]) -> Pod {
    let annotations = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "example.test/agent:1"}]},
    }))
    .expect("a Pod");
    pod.metadata.annotations = Some(annotations.collect::<BTreeMap<_, _>>());
    pod
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn address(pod: &Pod) -> String {
    let status = pod.status.as_ref().expect("a status");
    format!(
        "{}:{AGENT_PORT}",
        status.pod_ip.as_ref().expect("an address")
    )
}

/// The first container's status.
fn container(pod: &Pod) -> Value {
    let status = pod.status.as_ref().expect("a status");
    serde_json::to_value(&status.container_statuses.as_ref().expect("containers")[0]).expect("JSON")
}

/// One HTTP request on a connection of its own; the whole answer.
async fn ask(address: &str, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn answers(address: &str) {
    eventually("the agent answers", PATIENCE, async || {
        match ask(address, "GET", "/health", "").await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

async fn refuses(address: &str) {
    eventually(
        "nobody listens",
        PATIENCE,
        async || match TcpStream::connect(address).await {
            Err(_) => Ok(()),
            Ok(stream) => Err(stream),
        },
    )
    .await;
}

/// Starts a task that runs for ever and gives its pid.
async fn start_task(address: &str) -> u32 {
    let task =
        r#"{"name": "t", "process": {"command": ["sh", "-c", "echo pid=$$.; exec sleep 600"]}}"#;
    let created = ask(address, "POST", "/tasks", task).await;
    let created = created.expect("the agent answers");
    assert!(created.starts_with("HTTP/1.1 201"), "{created}");
    eventually("the task has told its pid", PATIENCE, async || {
        let logs = ask(address, "GET", "/tasks/t/logs", "").await;
        let logs = logs.unwrap_or_default();
        let told = logs
            .split_once("pid=")
            .and_then(|(_, rest)| rest.split_once('.'));
        told.and_then(|(pid, _)| pid.parse().ok()).ok_or(logs)
    })
    .await
}

async fn has_ended(pid: u32) {
    let look = async || if is_alive(pid) { Err(pid) } else { Ok(()) };
    eventually("the task has ended", PATIENCE, look).await;
}

/// What has ended and is not yet waited for does not live.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[tokio::test]
async fn a_pod_has_an_agent_and_both_end_with_its_deletion() {
    let Some(plane) = shared().await else { return };
    let ground = Ground::new(plane, real).await;
    ground.create("a", &[]).await;
    let pod = ground.ready("a").await;
    answers(&address(&pod)).await;
    let shown = container(&pod);
    assert_eq!(shown["image"], "example.test/agent:1");
    assert_eq!(shown["restartCount"], 0);
    assert!(pod.spec.as_ref().unwrap().node_name.is_some());
    let task = start_task(&address(&pod)).await;

    ground
        .pods
        .delete("a", &DeleteParams::default())
        .await
        .unwrap();
    wait::gone(&ground.pods, "a", PATIENCE).await;
    refuses(&address(&pod)).await;
    has_ended(task).await;
}

#[tokio::test]
async fn a_pod_that_is_deleted_at_once_leaves_no_agent() {
    let Some(plane) = shared().await else { return };
    let ground = Ground::new(plane, real).await;
    ground.create("a", &[]).await;
    let first = ground.ready("a").await;
    answers(&address(&first)).await;
    ground
        .pods
        .delete("a", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    // Another of the same name is another Pod, with an address of its own.
    ground.create("a", &[]).await;
    let second = ground.ready("a").await;
    assert_ne!(address(&first), address(&second));
    refuses(&address(&first)).await;
    answers(&address(&second)).await;
}

#[tokio::test]
async fn a_dropped_kubelet_has_ended_its_agents_and_their_tasks() {
    let Some(plane) = shared().await else { return };
    let ground = Ground::new(plane, real).await;
    ground.create("a", &[]).await;
    ground.create("b", &[]).await;
    let (a, b) = (ground.ready("a").await, ground.ready("b").await);
    answers(&address(&a)).await;
    let of_living = start_task(&address(&a)).await;
    answers(&address(&b)).await;
    let of_killed = start_task(&address(&b)).await;
    ground.suffers("b", Fault::KillAgent).await;
    drop(ground);
    assert!(!is_alive(of_living));
    has_ended(of_killed).await;
    refuses(&address(&a)).await;
}

#[tokio::test]
async fn a_killed_agent_refuses_until_it_is_started_and_its_tasks_live() {
    let Some(plane) = shared().await else { return };
    let ground = Ground::new(plane, real).await;
    ground.create("a", &[]).await;
    let pod = ground.ready("a").await;
    answers(&address(&pod)).await;
    let task = start_task(&address(&pod)).await;
    ground.suffers("a", Fault::KillAgent).await;
    TcpStream::connect(address(&pod))
        .await
        .expect_err("nobody listens");
    assert!(is_alive(task));
    ground.suffers("a", Fault::StartAgent).await;
    answers(&address(&pod)).await;
    assert!(is_alive(task));
}

#[tokio::test]
async fn a_restarted_container_has_lost_its_tasks_and_says_why() {
    let Some(plane) = shared().await else { return };
    let ground = Ground::new(plane, real).await;
    ground.create("a", &[]).await;
    let pod = ground.ready("a").await;
    answers(&address(&pod)).await;
    let task = start_task(&address(&pod)).await;
    let reason = "OOMKilled".to_owned();
    ground
        .suffers("a", Fault::RestartContainer { reason })
        .await;
    assert!(!is_alive(task));
    let after = ground.ready("a").await;
    let (before, shown) = (container(&pod), container(&after));
    assert_eq!(shown["restartCount"], 1);
    assert_eq!(shown["lastState"]["terminated"]["reason"], "OOMKilled");
    assert_ne!(shown["containerID"], before["containerID"]);
    assert_eq!(address(&after), address(&pod));
    answers(&address(&pod)).await;
}

#[tokio::test]
async fn an_evicted_pod_has_failed_and_its_agent_has_ended() {
    let Some(plane) = shared().await else { return };
    let ground = Ground::new(plane, real).await;
    ground.create("a", &[]).await;
    let pod = ground.ready("a").await;
    answers(&address(&pod)).await;
    ground.suffers("a", Fault::Evict).await;
    let status = ground.pods.get("a").await.unwrap().status.unwrap();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
    refuses(&address(&pod)).await;
    ground
        .pods
        .delete("a", &DeleteParams::default())
        .await
        .unwrap();
    wait::gone(&ground.pods, "a", PATIENCE).await;
}

#[tokio::test]
async fn pods_become_what_their_annotations_say() {
    let Some(plane) = shared().await else { return };
    let ground = Ground::new(plane, real).await;
    ground
        .create("unready", &[(plan::READY, "never"), (plan::AGENT, "none")])
        .await;
    ground
        .create("waiting", &[(plan::WAITING, "ImagePullBackOff")])
        .await;
    ground.create("failed", &[(plan::FAILED, "Evicted")]).await;
    ground.create("silent", &[(plan::AGENT, "silent")]).await;
    ground.create("none", &[(plan::AGENT, "none")]).await;
    ground.create("late", &[(plan::AGENT_DELAY, "300")]).await;

    let is_phase = |phase: &'static str| {
        move |pod: &Pod| {
            pod.status
                .as_ref()
                .is_some_and(|status| status.phase.as_deref() == Some(phase))
        }
    };
    let unready = wait::object(
        &ground.pods,
        "unready",
        "it runs",
        PATIENCE,
        is_phase("Running"),
    )
    .await;
    assert!(!is_ready(&unready));
    let has_containers = |pod: &Pod| {
        pod.status
            .as_ref()
            .is_some_and(|status| status.container_statuses.is_some())
    };
    let waiting = wait::object(
        &ground.pods,
        "waiting",
        "it waits",
        PATIENCE,
        has_containers,
    )
    .await;
    assert_eq!(
        container(&waiting)["state"]["waiting"]["reason"],
        "ImagePullBackOff"
    );
    let failed = wait::object(
        &ground.pods,
        "failed",
        "it has failed",
        PATIENCE,
        is_phase("Failed"),
    )
    .await;
    assert_eq!(failed.status.unwrap().reason.as_deref(), Some("Evicted"));
    let silent = ground.ready("silent").await;
    let silent = address(&silent);
    let asked = ask(&silent, "GET", "/health", "");
    tokio::time::timeout(Duration::from_millis(300), asked)
        .await
        .expect_err("it never answers");
    let none = ground.ready("none").await;
    TcpStream::connect(address(&none))
        .await
        .expect_err("nobody listens");
    let late = ground.ready("late").await;
    answers(&address(&late)).await;
}

#[tokio::test]
async fn pods_go_with_their_controller() {
    let Some(plane) = shared().await else { return };
    let ground = Ground::new(plane, kubelet::Options::no_agents).await;
    let batches: Api<BatchSandbox> =
        Api::namespaced(plane.admin().await.unwrap(), &ground.namespace);
    let batch: BatchSandbox = serde_json::from_value(json!({
        "apiVersion": "sandbox.opensandbox.io/v1alpha1", "kind": "BatchSandbox",
        "metadata": {"name": "batch"}, "spec": {"poolRef": "example"},
    }))
    .unwrap();
    let batch = batches
        .create(&PostParams::default(), &batch)
        .await
        .unwrap();
    let owned = |name: &str| {
        let mut pod = pod(name, &[]);
        pod.metadata.owner_references = batch.controller_owner_ref(&()).map(|owner| vec![owner]);
        pod
    };
    ground
        .pods
        .create(&PostParams::default(), &owned("owned"))
        .await
        .unwrap();
    ground.create("free", &[]).await;
    ground.ready("owned").await;
    ground.ready("free").await;

    batches
        .delete("batch", &DeleteParams::default())
        .await
        .unwrap();
    wait::gone(&ground.pods, "owned", PATIENCE).await;
    // And one that comes too late.
    ground
        .pods
        .create(&PostParams::default(), &owned("late"))
        .await
        .unwrap();
    wait::gone(&ground.pods, "late", PATIENCE).await;
    assert!(is_ready(&ground.pods.get("free").await.unwrap()));
}

#[tokio::test]
async fn hundreds_of_pods_cost_two_writes_each_and_no_reads() {
    let Some(plane) = shared().await else { return };
    let ground = Ground::new(plane, kubelet::Options::no_agents).await;
    for number in 0..200 {
        ground.create(&format!("pod-{number}"), &[]).await;
    }
    let all_ready = |pods: &[Pod]| pods.len() == 200 && pods.iter().all(is_ready);
    let pods = wait::objects(&ground.pods, "200 Pods are ready", PATIENCE, all_ready).await;
    let addresses: std::collections::BTreeSet<_> = pods.iter().map(address).collect();
    assert_eq!(addresses.len(), 200);
    let audit = plane
        .audit()
        .unwrap()
        .of_user(kubelet::USER)
        .in_namespace(&ground.namespace);
    let of_pods: Vec<_> = audit
        .requests()
        .iter()
        .filter(|request| request.resource.starts_with("pods"))
        .collect();
    // A binding and a status each; a list and a watch for all of them.
    assert!(of_pods.len() <= 402, "{}", of_pods.len());
}

#[tokio::test]
async fn a_kubelet_goes_on_after_the_api_server_was_away() {
    if !can_start() {
        return;
    }
    let plane = ControlPlane::start(Options::default()).await.unwrap();
    plane.install_crds().await.unwrap();
    let ground = Ground::new(&plane, real).await;
    ground.create("a", &[]).await;
    let pod = ground.ready("a").await;
    answers(&address(&pod)).await;
    plane.kill_api_server().unwrap();
    answers(&address(&pod)).await;
    plane.start_api_server().await.unwrap();
    ground.create("b", &[]).await;
    answers(&address(&ground.ready("b").await)).await;
    ground
        .pods
        .delete("a", &DeleteParams::default())
        .await
        .unwrap();
    wait::gone(&ground.pods, "a", PATIENCE).await;
}
