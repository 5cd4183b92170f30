//! The life of one Pod, from its node to its end.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::block_in_place;

use super::agent::Agent;
use super::plan::{Fate, Plan};
use super::status::{self, Life, Readiness};
use super::{Fault, Options, garbage};
use crate::loopback;
use crate::workdir::WorkDir;

/// What all nodes of test kubelets are called, with a number behind.
const NODE_PREFIX: &str = "test-node-";
/// How soon a request is repeated that the API server could not take.
const AGAIN: Duration = Duration::from_millis(100);

/// What all workers of a kubelet share.
#[derive(Debug)]
pub(super) struct Setting {
    options: Options,
    node: String,
    dir: WorkDir,
    busy: Semaphore,
    stopped: watch::Receiver<bool>,
}

impl Setting {
    pub(super) fn new(
        options: Options,
        dir: WorkDir,
        busy_max: usize,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        static NODES: AtomicU32 = AtomicU32::new(0);
        Self {
            options,
            node: format!("{NODE_PREFIX}{}", NODES.fetch_add(1, Ordering::Relaxed)),
            dir,
            busy: Semaphore::new(busy_max),
            stopped,
        }
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.options.namespace.as_deref()
    }

    /// Returns when the kubelet is to end.
    pub(super) async fn stopped(&self) {
        // A kubelet that is gone is to end too.
        let _ = self.stopped.clone().wait_for(|stopped| *stopped).await;
    }

    /// Whether a Pod is ours: it has no node yet, or one that no other test kubelet is.
    pub(super) fn takes(&self, pod: &Pod) -> bool {
        match node_of(pod) {
            Some(node) => node == self.node || !node.starts_with(NODE_PREFIX),
            None => true,
        }
    }
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Order {
    Fault(Fault, oneshot::Sender<anyhow::Result<()>>),
    /// The Pod's controller may be gone.
    CheckOwner,
}

/// An order for a Pod by name.
#[derive(Debug)]
pub(super) struct OrderTo {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) order: Order,
}

/// Whether the API server has done what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Yes,
    /// The Pod is gone, or another one has its name, or another kubelet has it.
    NotOurs,
}

pub(super) struct Worker {
    setting: Arc<Setting>,
    client: Client,
    api: Api<Pod>,
    pods: watch::Receiver<Arc<Pod>>,
    orders: UnboundedReceiver<Order>,
    agent: Option<Agent>,
    life: Option<Life>,
}

impl Worker {
    pub(super) fn new(
        client: Client,
        setting: Arc<Setting>,
        pods: watch::Receiver<Arc<Pod>>,
        orders: UnboundedReceiver<Order>,
    ) -> Self {
        let namespace = pods.borrow().namespace().unwrap_or_default();
        Self {
            api: Api::namespaced(client.clone(), &namespace),
            client,
            setting,
            pods,
            orders,
            agent: None,
            life: None,
        }
    }

    /// Lives with the Pod, and always ends its agent.
    pub(super) async fn run(mut self) {
        let lived = self.live().await;
        let ended = self.end_agent().await;
        if let Err(error) = lived.and(ended) {
            let pod = self.pod();
            let namespace = pod.namespace().unwrap_or_default();
            crate::tell(&format!(
                "test kubelet: Pod {namespace}/{}: {error:#}",
                pod.name_any()
            ));
        }
    }

    async fn live(&mut self) -> anyhow::Result<()> {
        let pod = self.pod();
        let plan = Plan::of(&pod, self.setting.options.agent)?;
        self.check_owner().await?;
        if self.begin(&pod, &plan).await? == Done::NotOurs {
            return Ok(());
        }
        let setting = Arc::clone(&self.setting);
        let mut agent_starts = pin!(tokio::time::sleep(plan.delay));
        let mut is_delayed = !plan.delay.is_zero();
        loop {
            if self
                .pods
                .borrow_and_update()
                .metadata
                .deletion_timestamp
                .is_some()
            {
                return self.terminate().await;
            }
            tokio::select! {
                changed = self.pods.changed() => if changed.is_err() { return Ok(()) },
                Some(order) = self.orders.recv() => self.follow(order).await?,
                () = &mut agent_starts, if is_delayed => {
                    is_delayed = false;
                    self.start_agent()?;
                }
                () = setting.stopped() => return Ok(()),
            }
        }
    }

    /// Gives the Pod a node, an agent and a status.
    async fn begin(&mut self, pod: &Pod, plan: &Plan) -> anyhow::Result<Done> {
        let setting = Arc::clone(&self.setting);
        let _slot = setting.busy.acquire().await?;
        if node_of(pod).is_none() && self.bind(pod).await? == Done::NotOurs {
            return Ok(Done::NotOurs);
        }
        let readiness = match &plan.fate {
            Fate::Ready => Readiness::Ready,
            Fate::NeverReady => Readiness::Unready,
            Fate::Waiting(reason) => return self.show(status::waiting(pod, reason)).await,
            Fate::Failed(reason) => return self.show(status::failed(reason)).await,
        };
        let address = loopback::address();
        let dir = setting.dir.path().join(pod.uid().unwrap_or_default());
        self.agent = Some(Agent::new(plan.agent, address, dir, &setting.options)?);
        if plan.delay.is_zero() {
            self.start_agent()?;
        }
        let life = Life {
            address,
            readiness,
            restarts: 0,
            last_end: None,
        };
        self.show_life(life).await
    }

    /// Ends the agent, then lets the Pod go, as a kubelet does.
    async fn terminate(&mut self) -> anyhow::Result<()> {
        self.end_agent().await?;
        let params = DeleteParams::default().grace_period(0);
        self.delete(&self.pod(), params).await
    }

    async fn follow(&mut self, order: Order) -> anyhow::Result<()> {
        match order {
            Order::CheckOwner => self.check_owner().await,
            Order::Fault(fault, done) => {
                let result = self.suffer(fault).await;
                // Whoever ordered it may wait no longer.
                let _ = done.send(result);
                Ok(())
            }
        }
    }

    async fn suffer(&mut self, fault: Fault) -> anyhow::Result<()> {
        let mut life = self.life.clone().context("the Pod does not run")?;
        let agent = self.agent.as_mut().context("the Pod does not run")?;
        match fault {
            Fault::KillAgent => return block_in_place(|| agent.kill_server()),
            Fault::StartAgent => return block_in_place(|| agent.start()),
            Fault::Unready => life.readiness = Readiness::Unready,
            Fault::Ready => life.readiness = Readiness::Ready,
            Fault::RestartContainer { reason } => {
                block_in_place(|| agent.destroy())?;
                let readiness = life.readiness;
                life.readiness = Readiness::Unready;
                self.show_life(life.clone()).await?;
                self.start_agent()?;
                life.readiness = readiness;
                life.restarts += 1;
                life.last_end = Some(reason);
            }
            Fault::Evict => {
                self.end_agent().await?;
                self.life = None;
                self.show(status::failed("Evicted")).await?;
                return Ok(());
            }
        }
        self.show_life(life).await?;
        Ok(())
    }

    /// Deletes the Pod when its controller is gone; what follows is as for any deleted Pod.
    async fn check_owner(&self) -> anyhow::Result<()> {
        let pod = self.pod();
        let Some(owner) = garbage::controller(&pod) else {
            return Ok(());
        };
        let namespace = pod.namespace().unwrap_or_default();
        let gone = self
            .ask(|| garbage::is_gone(self.client.clone(), &namespace, owner))
            .await?;
        if pod.metadata.deletion_timestamp.is_none() && gone == Some(true) {
            self.delete(&pod, DeleteParams::background()).await?;
        }
        Ok(())
    }

    async fn delete(&self, pod: &Pod, params: DeleteParams) -> anyhow::Result<()> {
        let name = pod.name_any();
        let params = params.preconditions(Preconditions {
            uid: pod.uid(),
            resource_version: None,
        });
        self.ask(|| self.api.delete(&name, &params)).await?;
        Ok(())
    }

    async fn bind(&self, pod: &Pod) -> anyhow::Result<Done> {
        let name = pod.name_any();
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "uid": pod.uid()},
            "target": {"kind": "Node", "name": self.setting.node},
        });
        let params = PostParams::default();
        let bind = || {
            self.api
                .create_subresource::<Value, Value>("binding", &name, &params, &binding)
        };
        Ok(Done::from(self.ask(bind).await?))
    }

    async fn show_life(&mut self, life: Life) -> anyhow::Result<Done> {
        let status = status::running(&self.pod(), &life);
        self.life = Some(life);
        self.show(status).await
    }

    /// Writes the Pod's status.
    async fn show(&self, status: Value) -> anyhow::Result<Done> {
        let pod = self.pod();
        let name = pod.name_any();
        // The uid keeps it from a new Pod of the same name.
        let patch = Patch::Merge(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        let params = PatchParams::default();
        Ok(Done::from(
            self.ask(|| self.api.patch_status(&name, &params, &patch))
                .await?,
        ))
    }

    /// Asks until the API server answers; none when the answer is that the Pod is not ours.
    async fn ask<T, F>(&self, request: impl Fn() -> F) -> anyhow::Result<Option<T>>
    where
        F: Future<Output = kube::Result<T>>,
    {
        loop {
            match request().await {
                Ok(answer) => return Ok(Some(answer)),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    return Ok(None);
                }
                Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                    bail!("the API server refuses: {}", status.message)
                }
                // It may be stopped for a while, or for ever when we are to end too.
                Err(_) if *self.setting.stopped.borrow() => return Ok(None),
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    fn start_agent(&mut self) -> anyhow::Result<()> {
        self.agent
            .as_mut()
            .map_or(Ok(()), |agent| block_in_place(|| agent.start()))
    }

    async fn end_agent(&mut self) -> anyhow::Result<()> {
        let Some(mut agent) = self.agent.take() else {
            return Ok(());
        };
        let _slot = self.setting.busy.acquire().await?;
        block_in_place(|| {
            agent.stop()?;
            agent.remove().context("its directory")
        })
    }

    fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.pods.borrow())
    }
}

impl<T> From<Option<T>> for Done {
    fn from(answer: Option<T>) -> Self {
        if answer.is_some() {
            Self::Yes
        } else {
            Self::NotOurs
        }
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}
