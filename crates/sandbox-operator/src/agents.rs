//! The agent plane: one small worker for each agent that has something to do, apart from everything else, so that a
//! dead agent or node delays nobody.
//!
//! Orders go in by a `watch` channel, where the latest counts; what agents say comes out by the bounded channel of
//! the engine's loop.

mod worker;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use sandbox_planner::agent::Assignment;
use sandbox_planner::engine::Key;
use task_client::{Client, Endpoint};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::observe::News;
use worker::Worker;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// Calls agents.
    pub client: Client,
    /// Port of all agents.
    pub port: u16,
    /// A place among the calls that are under way.
    pub permits: Semaphore,
    /// Whether calls may be made at all.
    pub leadership: Leadership,
    /// Counts.
    pub metrics: Metrics,
    /// Where answers go.
    pub news: mpsc::Sender<News>,
}

impl Shared {
    fn endpoint(&self, address: IpAddr) -> Endpoint {
        Endpoint::new(SocketAddr::new(address, self.port))
    }
}

/// All workers.
#[derive(Debug)]
pub struct Agents {
    shared: Arc<Shared>,
    workers: HashMap<String, Handle>,
    tasks: JoinSet<()>,
}

/// What an agent is to have, and which assignment that is.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// Where and what.
    pub assignment: Assignment,
    /// What an answer has to name.
    pub round: u64,
}

#[derive(Debug)]
struct Handle {
    orders: watch::Sender<Assigned>,
    abort: AbortHandle,
}

impl Agents {
    /// None yet.
    pub fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            workers: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Sees to it that the agent of a Pod has what it is to have.
    pub fn assign(&mut self, batch: Key, pod_uid: String, assigned: Assigned) {
        self.reap();
        if let Some(handle) = self.workers.get(&pod_uid) {
            handle.orders.send_replace(assigned);
            return;
        }
        let (orders, receiver) = watch::channel(assigned);
        let worker = Worker::new(Arc::clone(&self.shared), batch, pod_uid.clone(), receiver);
        let abort = self.tasks.spawn(worker.run());
        self.workers.insert(pod_uid, Handle { orders, abort });
    }

    /// Leaves the agent of a Pod alone from now on. A call that is under way is given up; what it may have done is
    /// what the order was.
    pub fn forget(&mut self, pod_uid: &str) {
        if let Some(handle) = self.workers.remove(pod_uid) {
            handle.abort.abort();
        }
        self.reap();
    }

    /// How many agents are attended to.
    pub fn attended(&self) -> usize {
        self.workers.len()
    }

    /// Ends all workers and waits for them.
    pub async fn stop(mut self) {
        self.workers.clear();
        self.tasks.shutdown().await;
    }

    /// Takes away workers that have ended.
    fn reap(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended
                && !error.is_cancelled()
            {
                tracing::error!(%error, "the worker of an agent failed");
            }
        }
    }
}
