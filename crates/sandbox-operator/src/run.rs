//! Runs the operator: wiring, and the loop that turns news into orders.
//!
//! ```text
//!   watches ──┐                          ┌──► Executor (API server) ──┐
//!   agents ───┼──► news ──► Engine ──────┼──► Agents                  │
//!   results ──┘        (this loop)       └──► events                  │
//!      ▲──────────────────────────────────────────────────────────────┘
//! ```

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use sandbox_planner::engine::{Engine, Input, Key, Output};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, HEARTBEAT, Health};
use crate::agents::{Agents, Assigned, Shared};
use crate::config::{Config, Election};
use crate::execute::{BatchOrder, Executor};
use crate::lease::{Candidate, Elector, Leadership};
use crate::metrics::Metrics;
use crate::observe::{self, Kind, News, Sink};
use crate::pace::Pace;

/// News that wait to be taken in. When it is full, watches and agents wait: they lose nothing by that.
const NEWS_MAX: usize = 1024;

/// Gauges are counted anew so long after the first news, since that goes through all batches.
const GAUGES_AFTER: Duration = Duration::from_millis(500);

/// Runs until `stop`; then ends in order.
///
/// # Errors
/// When an address can't be listened on, or the leadership was lost, after which the process must end.
pub async fn run(config: Config, client: Client, stop: CancellationToken) -> anyhow::Result<()> {
    let health = Health::default();
    let metrics = Metrics::default();
    let ending = CancellationToken::new();
    let mut servers = JoinSet::new();
    if let Some(address) = config.health_address {
        let listener = admin::listen("probes", address).await?;
        let router = admin::probes(health.clone());
        servers.spawn(admin::serve(listener, router, ending.clone()));
    }
    if let Some(address) = config.metrics_address {
        let listener = admin::listen("metrics", address).await?;
        let router = admin::metrics(metrics.clone());
        servers.spawn(admin::serve(listener, router, ending.clone()));
    }
    let result = match config.election.clone() {
        None => {
            let leadership = Leadership::without_election();
            let lead = Lead::new(config, client, leadership, metrics, health);
            lead.run(stop).await
        }
        Some(election) => elected(config, election, client, metrics, health, stop).await,
    };
    ending.cancel();
    while servers.join_next().await.is_some() {}
    result
}

/// Leads while elected.
async fn elected(
    config: Config,
    election: Election,
    client: Client,
    metrics: Metrics,
    health: Health,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let leadership = Leadership::by_election();
    let (sender, mut is_leader) = watch::channel(false);
    let candidate = Candidate {
        lease: election.id,
        identity: identity(),
        times: election.times,
    };
    let api: Api<Lease> = Api::namespaced(client.clone(), &election.namespace);
    let giving_back = CancellationToken::new();
    let elector = Elector::new(api, candidate, leadership.clone(), sender);
    let elector = tokio::spawn(elector.run(giving_back.clone()));
    health.set_standby(true);
    let mut beat = tokio::time::interval(HEARTBEAT);
    let won = loop {
        tokio::select! {
            // Cancel-safe: a change that was not looked at is seen next time.
            won = is_leader.wait_for(|is_leader| *is_leader) => break won.is_ok(),
            _ = beat.tick() => health.beat(),
            () = stop.cancelled() => break false,
        }
    };
    health.set_standby(false);
    let mut result = Ok(());
    if won {
        metrics.set_leader(true);
        let lead = Lead::new(config, client, leadership, metrics.clone(), health);
        result = tokio::select! {
            result = lead.run(stop) => result,
            // The elector ends by itself only when the leadership is lost.
            _ = is_leader.wait_for(|is_leader| !*is_leader) => {
                Err(anyhow!("lost the leadership; another replica acts now"))
            }
        };
        metrics.set_leader(false);
    }
    // Only now: as long as a write may be under way, the Lease must be held.
    giving_back.cancel();
    elector.await.context("leader election failed")?;
    result
}

/// A name that no other process has.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let unique = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    format!("{}_{}", host.trim(), unique.trim())
}

/// The operator while it is the one that acts.
struct Lead {
    config: Config,
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
    health: Health,
    engine: Engine,
    /// When batches without status were first seen.
    new_batches: HashMap<Key, Instant>,
    /// When gauges are to be counted anew; [`None`] when nothing has happened since.
    gauges_at: Option<Instant>,
}

/// A write that is done, or an event that is told.
enum Done {
    Write(Box<Input>),
    Told,
}

impl Lead {
    fn new(
        config: Config,
        client: Client,
        leadership: Leadership,
        metrics: Metrics,
        health: Health,
    ) -> Self {
        let engine = Engine::new(config.settings);
        Self {
            config,
            client,
            leadership,
            metrics,
            health,
            engine,
            new_batches: HashMap::new(),
            gauges_at: None,
        }
    }

    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let (sender, mut news) = mpsc::channel(NEWS_MAX);
        let sink = Sink {
            news: sender.clone(),
            metrics: self.metrics.clone(),
            stop: stop.clone(),
        };
        let mut watches = JoinSet::new();
        let namespace = self.config.namespace.clone();
        watches.spawn(observe::batches(
            self.client.clone(),
            namespace.clone(),
            sink.clone(),
        ));
        watches.spawn(observe::pods(self.client.clone(), namespace, sink));
        let mut agents = Agents::new(self.shared(sender));
        let executor = self.executor();
        let mut writes = JoinSet::new();
        let mut to_sync = HashSet::from([Kind::Batches, Kind::Pods]);
        let mut fresh = Vec::new();
        let result = loop {
            self.health.beat();
            let pause = self.pause(to_sync.is_empty());
            tokio::select! {
                // All cancel-safe: what was not taken stays in its queue.
                _ = news.recv_many(&mut fresh, NEWS_MAX) => {}
                Some(done) = writes.join_next() => self.take_done(done),
                () = tokio::time::sleep(pause) => {}
                Some(ended) = watches.join_next() => break Err(anyhow!("a watch has ended: {ended:?}")),
                () = stop.cancelled() => break Ok(()),
            }
            for one in fresh.drain(..) {
                self.take(one, &mut to_sync);
            }
            while let Some(done) = writes.try_join_next() {
                self.take_done(done);
            }
            // Never decide on half of a picture.
            if to_sync.is_empty() {
                self.decide(&executor, &mut agents, &mut writes);
            }
            self.count_gauges(&agents);
        };
        agents.stop().await;
        watches.shutdown().await;
        let all_written = async { while writes.join_next().await.is_some() {} };
        if tokio::time::timeout(self.config.shutdown_timeout, all_written)
            .await
            .is_err()
        {
            tracing::warn!("writes were still under way at the end");
        }
        result
    }

    fn shared(&self, news: mpsc::Sender<News>) -> Shared {
        let options = task_client::Options {
            connect: self.config.agent_timeout,
            request: self.config.agent_timeout,
            ..task_client::Options::default()
        };
        Shared {
            client: task_client::Client::new(options),
            port: self.config.agent_port,
            permits: Semaphore::new(self.config.agent_concurrency.get()),
            leadership: self.leadership.clone(),
            metrics: self.metrics.clone(),
            news,
        }
    }

    fn executor(&self) -> Executor {
        let executor = Executor::new(
            self.client.clone(),
            self.leadership.clone(),
            self.metrics.clone(),
            self.config.api_concurrency.get(),
            &identity(),
        );
        match self.config.pace {
            Some((per_second, burst)) => executor.at_pace(Pace::new(per_second, burst)),
            None => executor,
        }
    }

    /// Until when nothing needs to be done.
    fn pause(&self, is_synced: bool) -> Duration {
        let gauges = self.gauges_at;
        let gauges = gauges.map(|at| at.saturating_duration_since(Instant::now()));
        let wake = self.engine.next_wake().filter(|_| is_synced);
        let wake = wake.map(|at| at.duration_since(Timestamp::now()));
        let wake = wake.map(|pause| Duration::try_from(pause).unwrap_or_default());
        [gauges, wake]
            .into_iter()
            .flatten()
            .fold(HEARTBEAT, Duration::min)
    }

    fn take(&mut self, news: News, to_sync: &mut HashSet<Kind>) {
        self.gauges_will_change();
        match news {
            News::Input(input) => {
                if let Input::Batch(object) = &*input
                    && object.status.is_none()
                {
                    self.new_batches
                        .entry(Key::of(object))
                        .or_insert_with(Instant::now);
                }
                if let Input::BatchGone(key) = &*input {
                    self.new_batches.remove(key);
                }
                self.engine.on(*input, Timestamp::now());
            }
            News::Synced(kind) => {
                if to_sync.remove(&kind) && to_sync.is_empty() {
                    tracing::info!("everything is listed");
                    self.health.set_synced();
                }
            }
        }
    }

    fn gauges_will_change(&mut self) {
        self.gauges_at
            .get_or_insert_with(|| Instant::now() + GAUGES_AFTER);
    }

    fn count_gauges(&mut self, agents: &Agents) {
        if self.gauges_at.is_some_and(|at| at <= Instant::now()) {
            self.gauges_at = None;
            self.metrics.set_attended(agents.attended());
            self.metrics.set_silent(self.engine.silent_agents());
            self.metrics.set_phases(&self.engine.phases());
        }
    }

    fn take_done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        self.gauges_will_change();
        match done {
            Ok(Done::Write(input)) => self.engine.on(*input, Timestamp::now()),
            Ok(Done::Told) => {}
            Err(error) => tracing::error!(%error, "a write failed in an unforeseen way"),
        }
    }

    fn decide(&mut self, executor: &Executor, agents: &mut Agents, writes: &mut JoinSet<Done>) {
        let begun = Instant::now();
        let outputs = self.engine.step(Timestamp::now());
        if outputs.is_empty() {
            return;
        }
        self.metrics.stepped(begun.elapsed());
        for output in outputs {
            self.carry_out(output, executor, agents, writes);
        }
    }

    fn carry_out(
        &mut self,
        output: Output,
        executor: &Executor,
        agents: &mut Agents,
        writes: &mut JoinSet<Done>,
    ) {
        let executor = executor.clone();
        match output {
            Output::WriteBatch {
                batch,
                uid,
                resource_version,
                write,
            } => {
                writes.spawn(async move {
                    let order = BatchOrder {
                        batch: batch.clone(),
                        uid,
                        resource_version,
                        write,
                    };
                    let outcome = executor.write_batch(order).await;
                    Done::Write(Box::new(Input::WroteBatch { batch, outcome }))
                });
            }
            Output::WritePods { batch, writes: all } => {
                writes.spawn(async move {
                    let outcomes = executor.write_pods(&batch, all).await;
                    Done::Write(Box::new(Input::WrotePods { batch, outcomes }))
                });
            }
            Output::Assign {
                batch,
                pod_uid,
                assignment,
                round,
            } => agents.assign(batch, pod_uid, Assigned { assignment, round }),
            Output::Forget { pod_uid } => agents.forget(&pod_uid),
            Output::Tell { batch, uid, note } => {
                tracing::info!(batch = %batch, reason = note.reason, message = note.message, "event");
                if note.reason == "Ready"
                    && let Some(since) = self.new_batches.remove(&batch)
                {
                    self.metrics.became_ready(since.elapsed());
                }
                writes.spawn(async move {
                    executor.tell(&batch, uid, note).await;
                    Done::Told
                });
            }
        }
    }
}
