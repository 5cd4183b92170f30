//! What is counted, in the text format of Prometheus. Label values come from enums only.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::observe::Kind;

/// Requests of the operator to the API server that change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Finalizers and annotations of a batch.
    PatchBatch,
    /// Status of a batch.
    PatchStatus,
    /// An expired batch.
    DeleteBatch,
    /// A Pod is made.
    CreatePod,
    /// A Pod is deleted.
    DeletePod,
    /// An event.
    CreateEvent,
}

const VERBS: [Verb; 6] = [
    Verb::PatchBatch,
    Verb::PatchStatus,
    Verb::DeleteBatch,
    Verb::CreatePod,
    Verb::DeletePod,
    Verb::CreateEvent,
];

/// The values of the label `phase`.
const PHASES: [&str; 4] = ["Pending", "Succeed", "Failed", "Paused"];

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::PatchBatch => "patch_batch",
            Self::PatchStatus => "patch_status",
            Self::DeleteBatch => "delete_batch",
            Self::CreatePod => "create_pod",
            Self::DeletePod => "delete_pod",
            Self::CreateEvent => "create_event",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    verb: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// A handle on all metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    writes: Family<WriteLabels, Counter>,
    watch_failures: Family<KindLabel, Counter>,
    undecodable: Counter,
    batches: Family<PhaseLabel, Gauge>,
    agents_silent: Gauge,
    agents_busy: Gauge,
    agent_calls: Family<ResultLabel, Counter>,
    leader: Gauge,
    step_seconds: Histogram,
    dispatch_seconds: Histogram,
    ready_seconds: Histogram,
}

/// Upper bounds in seconds, from a tenth of a millisecond to a minute.
const SECONDS: [f64; 13] = [
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

impl Default for Metrics {
    fn default() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix("sandbox_operator"),
            writes: Family::default(),
            watch_failures: Family::default(),
            undecodable: Counter::default(),
            batches: Family::default(),
            agents_silent: Gauge::default(),
            agents_busy: Gauge::default(),
            agent_calls: Family::default(),
            leader: Gauge::default(),
            step_seconds: Histogram::new(SECONDS),
            dispatch_seconds: Histogram::new(SECONDS),
            ready_seconds: Histogram::new(SECONDS),
        };
        inner.register();
        inner.touch();
        Self(Arc::new(inner))
    }
}

impl Inner {
    /// Makes the series that alerts ask for: one that is not there can't be told from one that was never scraped.
    fn touch(&self) {
        for kind in [Kind::Batches, Kind::Pods] {
            let kind = kind.as_str();
            drop(self.watch_failures.get_or_create(&KindLabel { kind }));
        }
        for result in [result(true), result(false)] {
            drop(self.agent_calls.get_or_create(&ResultLabel { result }));
            for verb in VERBS {
                let verb = verb.as_str();
                let labels = WriteLabels { verb, result };
                drop(self.writes.get_or_create(&labels));
            }
        }
        for phase in PHASES {
            drop(self.batches.get_or_create(&PhaseLabel { phase }));
        }
    }

    fn register(&mut self) {
        let all = &mut self.registry;
        all.register(
            "api_writes",
            "Requests that change something at the API server, by result.",
            self.writes.clone(),
        );
        all.register(
            "watch_failures",
            "Watches that failed and were begun again.",
            self.watch_failures.clone(),
        );
        all.register(
            "undecodable_objects",
            "Objects that do not fit the schema and were passed over.",
            self.undecodable.clone(),
        );
        all.register(
            "batches",
            "BatchSandbox objects by phase.",
            self.batches.clone(),
        );
        all.register(
            "agents_silent",
            "Agents that do not answer.",
            self.agents_silent.clone(),
        );
        all.register(
            "agents_attended",
            "Agents that have something to do.",
            self.agents_busy.clone(),
        );
        all.register(
            "agent_calls",
            "Calls of agents, by result.",
            self.agent_calls.clone(),
        );
        all.register(
            "leader",
            "Whether this replica is the leader.",
            self.leader.clone(),
        );
        all.register(
            "step_seconds",
            "Time for deciding about all that there is news of.",
            self.step_seconds.clone(),
        );
        all.register(
            "dispatch_seconds",
            "From the decision to send a task to the agent's first answer.",
            self.dispatch_seconds.clone(),
        );
        all.register(
            "ready_seconds",
            "From the first sight of a new BatchSandbox to its being Ready.",
            self.ready_seconds.clone(),
        );
    }
}

impl Metrics {
    /// All of them as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.0.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }

    /// A request that changes something was answered, or not.
    pub fn wrote(&self, verb: Verb, is_ok: bool) {
        let labels = WriteLabels {
            verb: verb.as_str(),
            result: result(is_ok),
        };
        self.0.writes.get_or_create(&labels).inc();
    }

    /// A watch failed.
    pub fn watch_failed(&self, kind: Kind) {
        let kind = kind.as_str();
        self.0
            .watch_failures
            .get_or_create(&KindLabel { kind })
            .inc();
    }

    /// An object could not be decoded.
    pub fn undecodable(&self) {
        self.0.undecodable.inc();
    }

    /// An agent was called.
    pub fn called_agent(&self, is_ok: bool) {
        let result = result(is_ok);
        self.0
            .agent_calls
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    /// This replica is the leader, or not.
    pub fn set_leader(&self, is_leader: bool) {
        self.0.leader.set(i64::from(is_leader));
    }

    /// How many agents are attended to.
    pub fn set_attended(&self, agents: usize) {
        self.0.agents_busy.set(to_gauge(agents));
    }

    /// How many agents do not answer.
    pub fn set_silent(&self, agents: usize) {
        self.0.agents_silent.set(to_gauge(agents));
    }

    /// How many batches there are in each phase.
    pub fn set_phases(&self, phases: &std::collections::BTreeMap<&'static str, usize>) {
        for phase in PHASES {
            let count = phases.get(phase).copied().unwrap_or_default();
            self.0
                .batches
                .get_or_create(&PhaseLabel { phase })
                .set(to_gauge(count));
        }
    }

    /// The engine decided.
    pub fn stepped(&self, took: Duration) {
        self.0.step_seconds.observe(took.as_secs_f64());
    }

    /// An agent answered for the first time to a new task.
    pub fn dispatched(&self, took: Duration) {
        self.0.dispatch_seconds.observe(took.as_secs_f64());
    }

    /// A batch became ready.
    pub fn became_ready(&self, took: Duration) {
        self.0.ready_seconds.observe(took.as_secs_f64());
    }
}

fn result(is_ok: bool) -> &'static str {
    if is_ok { "ok" } else { "error" }
}

fn to_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
