//! A test kubelet: gives Pods a node, an address, a status and a real agent, and ends them when they are deleted.
//!
//! It also does what a controller-manager would: Pods whose controller is gone are deleted. It runs on a thread and a
//! runtime of its own, with one watch of Pods; each Pod has a task there that sleeps until its Pod changes or an order
//! comes. What a Pod should suffer is said in its annotations ([`plan`]) or ordered later ([`Kubelet::order`]).

mod agent;
mod garbage;
pub mod plan;
mod pods;
mod status;
mod tree;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot, watch};

use crate::ControlPlane;
use crate::workdir::WorkDir;
use plan::AgentKind;
use pods::Pods;
use worker::{Order, OrderTo, Setting};

/// The user as whom the kubelet talks to the API server.
pub const USER: &str = "test-kubelet";
/// The port of every agent.
pub const AGENT_PORT: u16 = 5758;
/// Pods that are started or ended at the same time; each is a handful of processes.
const BUSY_MAX: usize = 16;

/// How a kubelet is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// The namespace whose Pods it takes; every namespace if none is given.
    pub namespace: Option<String>,
    /// The agent's program, for real agents.
    pub executor: Option<PathBuf>,
    /// More flags for real agents.
    pub agent_flags: Vec<String>,
    /// What runs in a Pod that does not say so itself.
    pub agent: AgentKind,
}

impl Options {
    /// Real agents for the Pods of one namespace. `executor` is the agent's program, see [`crate::program`].
    pub fn real(namespace: &str, executor: impl Into<PathBuf>) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            executor: Some(executor.into()),
            agent_flags: Vec::new(),
            agent: AgentKind::Real,
        }
    }

    /// Pods of one namespace that run and are ready, at whose addresses nobody listens.
    pub fn no_agents(namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            executor: None,
            agent_flags: Vec::new(),
            agent: AgentKind::None,
        }
    }
}

/// What happens to a running Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The agent is killed; its tasks are not, and the Pod's status stays as it is.
    KillAgent,
    /// The agent is started again, on the same data.
    StartAgent,
    /// Everything in the container is killed and it is started again, on the same data, with this reason for its end.
    RestartContainer {
        /// Such as `OOMKilled`.
        reason: String,
    },
    /// Everything in the Pod is ended, and it is `Failed` with the reason `Evicted`.
    Evict,
    /// The Pod is no longer ready; the agent goes on.
    Unready,
    /// The Pod is ready again.
    Ready,
}

/// A running kubelet. Dropping it ends all agents that it has started; the Pods stay as they are.
#[derive(Debug)]
pub struct Kubelet {
    orders: mpsc::UnboundedSender<OrderTo>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// Starts one for Pods of this control plane.
    pub fn start(plane: &ControlPlane, options: Options) -> anyhow::Result<Self> {
        let kubeconfig = plane.kubeconfig_file(USER, &["system:masters"])?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let setting = Setting::new(options, WorkDir::new()?, BUSY_MAX, stopped);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("test-kubelet")
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("test-kubelet".to_owned())
            .spawn(move || {
                let run = async {
                    let client = crate::control_plane::client_of(&kubeconfig).await?;
                    Pods::new(client, Arc::new(setting)).run(inbox).await;
                    anyhow::Ok(())
                };
                if let Err(error) = runtime.block_on(run) {
                    crate::tell(&format!("the test kubelet ends: {error:#}"));
                }
            })?;
        Ok(Self {
            orders,
            stop,
            thread: Some(thread),
        })
    }

    /// Lets a Pod suffer a fault; returns when it is done and the Pod's status tells of it.
    pub async fn order(&self, namespace: &str, pod: &str, fault: Fault) -> anyhow::Result<()> {
        let (done, result) = oneshot::channel();
        let order = OrderTo {
            namespace: namespace.to_owned(),
            name: pod.to_owned(),
            order: Order::Fault(fault, done),
        };
        self.orders.send(order).ok().context("the kubelet runs")?;
        result
            .await
            .with_context(|| format!("the kubelet has the Pod {namespace}/{pod}"))?
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
