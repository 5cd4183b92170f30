//! The place of one test: a namespace, a kubelet with real agents, and an operator that sees this namespace only.

use std::path::{Path, PathBuf};
use std::process::Output;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use sandbox_api::crd::{BatchCondition, BatchSandbox, BatchSandboxStatus, ENDPOINTS_ANNOTATION};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit_kube::control_plane::audit::Audit;
use testkit_kube::operator::{self, Operator};
use testkit_kube::wait::{self, PATIENCE, eventually};
use testkit_kube::{ControlPlane, Fault, Kubelet, kubelet, shared};
use tokio::sync::OnceCell;

use crate::draft::Draft;

/// What a test has for itself. Dropping it ends everything, and fails the test if the operator was refused anything.
pub(crate) struct World<'a> {
    // Fields are dropped in this order.
    pub(crate) operator: Operator,
    kubelet: Kubelet,
    pub(crate) plane: &'a ControlPlane,
    pub(crate) namespace: String,
    pub(crate) client: Client,
    pub(crate) batches: Api<BatchSandbox>,
    pub(crate) pods: Api<Pod>,
    dir: TempDir,
    may_be_refused: bool,
}

/// The control plane of this program, with all that an operator needs there; none where it can't be started.
pub(crate) async fn plane() -> Option<&'static ControlPlane> {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let plane = shared().await?;
    INSTALLED
        .get_or_init(async || operator::install(plane).await.expect("role and namespace"))
        .await;
    Some(plane)
}

impl World<'static> {
    /// A place on the shared control plane, with an operator with these flags.
    pub(crate) async fn new(flags: &[&str]) -> Option<Self> {
        Some(World::on(plane().await?, flags).await)
    }
}

impl<'a> World<'a> {
    /// A place on a control plane of one's own.
    pub(crate) async fn on(plane: &'a ControlPlane, flags: &[&str]) -> Self {
        let namespace = plane.temp_namespace().await.expect("a namespace");
        let client = plane.admin().await.expect("a client");
        let executor = testkit_kube::program("task-executor");
        let kubelet = Kubelet::start(plane, kubelet::Options::real(&namespace, executor));
        let dir = tempfile::tempdir().expect("a directory");
        let operator = start_operator(plane, &namespace, flags, &dir.path().join("operator.log"));
        operator.wait_ready().await;
        Self {
            operator,
            kubelet: kubelet.expect("a kubelet"),
            batches: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            client,
            plane,
            namespace,
            dir,
            may_be_refused: false,
        }
    }

    /// For tests in which the operator is refused something for another reason than its role.
    pub(crate) fn may_be_refused(mut self) -> Self {
        self.may_be_refused = true;
        self
    }

    /// One more operator for this namespace.
    pub(crate) fn another_operator(&self, name: &str, flags: &[&str]) -> Operator {
        let log = self.path(&format!("{name}.log"));
        start_operator(self.plane, &self.namespace, flags, &log)
    }

    /// A file or directory of this test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The lines of a file of this test; none while it is not there.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A draft whose tasks find this test's directory in `$D`.
    pub(crate) fn draft(&self, name: &str, replicas: u32) -> Draft {
        Draft::new(name, replicas, self.dir.path())
    }

    /// Lets tasks go on that wait for a file.
    pub(crate) fn open(&self, gate: &str) {
        std::fs::write(self.path(gate), "").expect("a file");
    }

    pub(crate) async fn create(&self, draft: Draft) -> BatchSandbox {
        let batch = draft.finish();
        let params = PostParams::default();
        self.batches.create(&params, &batch).await.expect("created")
    }

    /// Changes a batch by a merge patch.
    pub(crate) async fn patch(&self, name: &str, patch: Value) -> BatchSandbox {
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let patched = self.batches.patch(name, &params, &patch).await;
        patched.expect("patched")
    }

    pub(crate) async fn scale(&self, name: &str, replicas: u32) {
        self.patch(name, json!({"spec": {"replicas": replicas}}))
            .await;
    }

    /// Asks for the deletion of a batch.
    pub(crate) async fn delete(&self, name: &str) {
        let params = DeleteParams::default();
        self.batches.delete(name, &params).await.expect("deleted");
    }

    /// Waits until a batch is gone.
    pub(crate) async fn gone(&self, name: &str) {
        wait::gone(&self.batches, name, PATIENCE).await;
    }

    /// Waits until the status, which speaks of the spec as it is now, is as wanted.
    pub(crate) async fn status(
        &self,
        name: &str,
        what: &str,
        is_so: impl Fn(&BatchSandboxStatus) -> bool,
    ) -> BatchSandbox {
        let is_so = |batch: &BatchSandbox| {
            let status = batch.status.as_ref();
            status.is_some_and(|status| {
                status.observed_generation == batch.metadata.generation && is_so(status)
            })
        };
        wait::object(&self.batches, name, what, PATIENCE, is_so).await
    }

    /// Waits until a condition holds, and gives it.
    pub(crate) async fn condition(&self, name: &str, type_: &str) -> BatchCondition {
        let batch = self.status(name, type_, |status| holds(status, type_));
        condition(&batch.await, type_).expect("it was there")
    }

    /// Waits until the batch is over: its tasks are, and so many have succeeded and failed.
    pub(crate) async fn completed(&self, name: &str, succeeded: i32, failed: i32) -> BatchSandbox {
        self.status(name, "its tasks are over", |status| {
            holds(status, "TasksCompleted")
                && (status.task_succeed, status.task_failed) == (succeeded, failed)
        })
        .await
    }

    /// Waits until so many Pods of a batch are there and none is being deleted; their names, in order.
    pub(crate) async fn pods_of(&self, batch: &str, count: usize) -> Vec<Pod> {
        let is_of = |pod: &&Pod| pod.name_any().starts_with(&format!("{batch}-"));
        let settled = |pods: &[Pod]| {
            let of: Vec<_> = pods.iter().filter(is_of).collect();
            of.len() == count
                && of
                    .iter()
                    .all(|pod| pod.metadata.deletion_timestamp.is_none())
        };
        let what = format!("{batch} has {count} Pods");
        let all = wait::objects(&self.pods, &what, PATIENCE, settled).await;
        all.into_iter().filter(|pod| is_of(&pod)).collect()
    }

    /// Waits until a file of this test has so many lines.
    pub(crate) async fn has_lines(&self, file: &str, count: usize) -> Vec<String> {
        eventually(
            &format!("{file} has {count} lines"),
            PATIENCE,
            async || match self.lines(file) {
                lines if lines.len() == count => Ok(lines),
                lines => Err(lines),
            },
        )
        .await
    }

    /// Lets a Pod suffer.
    pub(crate) async fn suffer(&self, pod: &str, fault: Fault) {
        let done = self.kubelet.order(&self.namespace, pod, fault).await;
        done.unwrap_or_else(|error| panic!("{pod}: {error:#}"));
    }

    /// Reasons and notes of the events of a batch so far, without those of earlier ones of its name.
    pub(crate) async fn events(&self, batch: &BatchSandbox) -> Vec<(String, String)> {
        let events = self.all_events().await;
        let events = events.into_iter().filter(|event| {
            let of = event.regarding.as_ref();
            of.is_some_and(|of| of.uid == batch.metadata.uid)
        });
        events
            .map(|event| {
                let (reason, note) = (event.reason, event.note);
                (reason.unwrap_or_default(), note.unwrap_or_default())
            })
            .collect()
    }

    /// How many events there are of batches with this name.
    pub(crate) async fn told_of(&self, name: &str) -> usize {
        let is_of = |event: &&Event| {
            let of = event.regarding.as_ref().and_then(|of| of.name.as_deref());
            of == Some(name)
        };
        self.all_events().await.iter().filter(is_of).count()
    }

    async fn all_events(&self) -> Vec<Event> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        api.list(&ListParams::default())
            .await
            .expect("events")
            .items
    }

    /// Waits until there is an event with this reason, and gives its note.
    pub(crate) async fn event(&self, batch: &BatchSandbox, reason: &str) -> String {
        eventually(&format!("event {reason}"), PATIENCE, async || {
            let events = self.events(batch).await;
            let found = events.iter().find(|(word, _)| word == reason).cloned();
            found.map(|(_, note)| note).ok_or(events)
        })
        .await
    }

    /// What the operators of this test have asked the API server for.
    pub(crate) fn audit(&self) -> Audit {
        let audit = self.plane.audit().expect("the audit log");
        audit.of_user(operator::USER).in_namespace(&self.namespace)
    }

    /// Runs kubectl, which must succeed; what it prints.
    pub(crate) async fn kubectl(&self, args: &[&str]) -> String {
        let groups = ["system:masters"];
        let kubeconfig = self.plane.kubeconfig_file("admin", &groups);
        let output: Output = tokio::process::Command::new(self.plane.assets().program("kubectl"))
            .arg("--kubeconfig")
            .arg(kubeconfig.expect("a kubeconfig"))
            .args(["--namespace", &self.namespace])
            .args(args)
            .env("HOME", self.dir.path())
            .kill_on_drop(true)
            .output()
            .await
            .expect("kubectl runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "kubectl {args:?}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.operator.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines.iter().skip(lines.len().saturating_sub(60));
            let tail: Vec<_> = tail.copied().collect();
            // The runner keeps what a test prints and shows it when the test has failed.
            print_for_the_runner(&tail.join("\n"));
            return;
        }
        if self.may_be_refused {
            return;
        }
        let audit = self.audit();
        let refused = audit.requests().iter().filter(|one| one.code == 403);
        let refused: Vec<_> = refused.collect();
        assert!(refused.is_empty(), "the role lacks something: {refused:?}");
    }
}

#[expect(clippy::print_stdout, reason = "shown with a failed test")]
fn print_for_the_runner(text: &str) {
    println!("the operator's log ends so:\n{text}");
}

fn start_operator(plane: &ControlPlane, namespace: &str, flags: &[&str], log: &Path) -> Operator {
    let namespace = format!("--namespace={namespace}");
    let mut all = vec![namespace.as_str()];
    all.extend(flags);
    let program = PathBuf::from(env!("CARGO_BIN_EXE_sandbox-operator"));
    Operator::start(plane, program, &all, log.to_owned()).expect("the operator starts")
}

/// Whether a condition holds.
pub(crate) fn holds(status: &BatchSandboxStatus, type_: &str) -> bool {
    status.conditions.iter().any(|one| one.type_ == type_)
}

/// A condition of a batch.
pub(crate) fn condition(batch: &BatchSandbox, type_: &str) -> Option<BatchCondition> {
    let conditions = &batch.status.as_ref()?.conditions;
    conditions.iter().find(|one| one.type_ == type_).cloned()
}

/// The addresses that a batch shows, by index.
pub(crate) fn endpoints(batch: &BatchSandbox) -> Vec<String> {
    let text = batch.annotations().get(ENDPOINTS_ANNOTATION);
    let text = text.map_or("[]", String::as_str);
    serde_json::from_str(text).expect("a list of addresses")
}

/// Names of objects, in order.
pub(crate) fn names(pods: &[Pod]) -> Vec<String> {
    let mut names: Vec<_> = pods.iter().map(kube::ResourceExt::name_any).collect();
    names.sort();
    names
}
