//! Numbers for Prometheus. Few series, and every label value comes from a closed list.

use std::fs;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use sandbox_api::TerminatedReason;

use crate::manager::handle::Health;

/// The media type of [`Metrics::encode`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds for what happens inside of the agent: half a millisecond to 2.5 s.
const INSIDE: [f64; 10] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5,
];
/// Upper bounds in seconds for requests; long polls fill the last ones.
const REQUESTS: [f64; 9] = [0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 10.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    code: u16,
}

/// All numbers of the agent. Shared by reference; every method takes `&self` and never blocks.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    tasks: Family<StateLabel, Gauge>,
    tasks_deleting: Gauge,
    exits: Family<ReasonLabel, Counter>,
    start_seconds: Histogram,
    exit_visible_seconds: Histogram,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabel, Histogram>,
    shims_lost: Counter,
    records_corrupt: Counter,
    store_errors: Counter,
    watchers: Gauge,
    connections: Gauge,
    connections_refused: Counter,
    resident_memory_bytes: Gauge,
    open_fds: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All numbers at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            tasks: Family::default(),
            tasks_deleting: Gauge::default(),
            exits: Family::default(),
            start_seconds: Histogram::new(INSIDE),
            exit_visible_seconds: Histogram::new(INSIDE),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| Histogram::new(REQUESTS)),
            shims_lost: Counter::default(),
            records_corrupt: Counter::default(),
            store_errors: Counter::default(),
            watchers: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            resident_memory_bytes: Gauge::default(),
            open_fds: Gauge::default(),
        };
        metrics.registry = metrics.registered();
        // Series that exist from the start read as zero instead of as missing.
        for reason in TerminatedReason::ALL {
            drop(metrics.exits.get_or_create(&ReasonLabel {
                reason: reason.as_str(),
            }));
        }
        metrics
    }

    /// Gives every number its name. Counters get `_total` behind it when they are written.
    fn registered(&self) -> Registry {
        let mut all = Registry::default();
        let agent = all.sub_registry_with_prefix("task_executor");
        self.register_tasks(agent);
        self.register_server(agent);
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        agent.register("build", "The version of the agent", version);
        let started: Gauge<f64, AtomicU64> = Gauge::default();
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        started.set(since_epoch.as_secs_f64());
        add(
            &mut all,
            "process_start_time_seconds",
            "Start of the process since the epoch",
            &started,
        );
        add(
            &mut all,
            "process_resident_memory_bytes",
            "Resident memory",
            &self.resident_memory_bytes,
        );
        add(
            &mut all,
            "process_open_fds",
            "Open file descriptors",
            &self.open_fds,
        );
        all
    }

    fn register_tasks(&self, agent: &mut Registry) {
        add(agent, "tasks", "Tasks that are kept, by state", &self.tasks);
        add(
            agent,
            "tasks_deleting",
            "Tasks being deleted, in whatever state",
            &self.tasks_deleting,
        );
        add(
            agent,
            "task_exits",
            "Tasks that ended, by reason",
            &self.exits,
        );
        let help = "Time from the acceptance of a task to its start";
        add(agent, "task_start_seconds", help, &self.start_seconds);
        let help = "Time from the exit of a task to its visibility";
        add(
            agent,
            "task_exit_visible_seconds",
            help,
            &self.exit_visible_seconds,
        );
        add(
            agent,
            "shims_lost",
            "Shims that died before their task did",
            &self.shims_lost,
        );
        let help = "Records that could not be read and were set aside";
        add(agent, "records_corrupt", help, &self.records_corrupt);
        add(
            agent,
            "store_errors",
            "Failed writes to the data directory",
            &self.store_errors,
        );
    }

    fn register_server(&self, agent: &mut Registry) {
        add(agent, "http_requests", "Requests answered", &self.requests);
        let help = "Time from a request's header to its response's header";
        add(agent, "http_request_seconds", help, &self.request_seconds);
        add(agent, "watchers", "Watches that are open", &self.watchers);
        add(
            agent,
            "connections",
            "Connections that are open",
            &self.connections,
        );
        let help = "Connections refused because too many were open";
        add(
            agent,
            "connections_refused",
            help,
            &self.connections_refused,
        );
    }

    /// A task ended.
    pub fn task_exited(&self, reason: TerminatedReason) {
        self.exits
            .get_or_create(&ReasonLabel {
                reason: reason.as_str(),
            })
            .inc();
    }

    /// A task was started this long after it was accepted.
    pub fn task_started(&self, latency: Duration) {
        self.start_seconds.observe(latency.as_secs_f64());
    }

    /// A task's exit became visible to clients this long after it happened.
    pub fn exit_visible(&self, latency: Duration) {
        self.exit_visible_seconds.observe(latency.as_secs_f64());
    }

    /// A shim died before its task did.
    pub fn shim_lost(&self) {
        self.shims_lost.inc();
    }

    /// A record could not be read and was set aside.
    pub fn record_corrupt(&self) {
        self.records_corrupt.inc();
    }

    /// The data directory could not be written.
    pub fn store_error(&self) {
        self.store_errors.inc();
    }

    /// A request was answered. `route` and `method` must come from closed lists.
    pub(crate) fn request(
        &self,
        route: &'static str,
        method: &'static str,
        code: u16,
        took: Duration,
    ) {
        self.requests
            .get_or_create(&RequestLabels {
                route,
                method,
                code,
            })
            .inc();
        self.request_seconds
            .get_or_create(&RouteLabel { route })
            .observe(took.as_secs_f64());
    }

    /// A connection was refused because too many were open.
    pub(crate) fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// Counts one open connection until the guard is dropped.
    pub(crate) fn connection(&self) -> Open {
        Open::new(&self.connections)
    }

    /// Counts one open watch until the guard is dropped.
    pub(crate) fn watcher(&self) -> Open {
        Open::new(&self.watchers)
    }

    /// All numbers as text, those of the process as they are now. Without `health` the numbers of
    /// tasks stay what they were.
    pub(crate) fn encode(&self, health: Option<&Health>) -> String {
        if let Some(health) = health {
            self.count_tasks(health);
        }
        self.resident_memory_bytes
            .set(resident_memory_bytes().unwrap_or(0));
        self.open_fds.set(open_fds().unwrap_or(0));
        let mut page = String::new();
        // Writing to a string does not fail.
        let _infallible = text::encode(&mut page, &self.registry);
        page
    }
}

impl Metrics {
    fn count_tasks(&self, health: &Health) {
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        let states = [
            ("waiting", health.waiting),
            ("running", health.running),
            ("terminated", health.terminated),
        ];
        for (state, count) in states {
            self.tasks
                .get_or_create(&StateLabel { state })
                .set(gauge(count));
        }
        self.tasks_deleting.set(gauge(health.deleting));
    }
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register(name, help, metric.clone());
}

/// One more in a gauge, as long as this lives.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// `VmRSS` of `/proc/self/status`, see proc(5).
fn resident_memory_bytes() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Open descriptors, without the one that counts them.
fn open_fds() -> Option<i64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    i64::try_from(count.saturating_sub(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_metric() {
        let metrics = Metrics::new();
        metrics.task_exited(TerminatedReason::Succeeded);
        metrics.task_started(Duration::from_millis(3));
        metrics.exit_visible(Duration::from_millis(1));
        metrics.request("/health", "GET", 200, Duration::from_micros(100));
        let watcher = metrics.watcher();
        let health = Health {
            running: 2,
            deleting: 1,
            ..Health::default()
        };
        let page = metrics.encode(Some(&health));
        for line in [
            "task_executor_tasks{state=\"running\"} 2",
            "task_executor_tasks_deleting 1",
            "task_executor_task_exits_total{reason=\"Succeeded\"} 1",
            "task_executor_task_exits_total{reason=\"Failed\"} 0",
            "task_executor_task_start_seconds_bucket{le=\"0.005\"} 1",
            "task_executor_task_exit_visible_seconds_count 1",
            "task_executor_http_requests_total{route=\"/health\",method=\"GET\",code=\"200\"} 1",
            "task_executor_http_request_seconds_count{route=\"/health\"} 1",
            "task_executor_shims_lost_total 0",
            "task_executor_records_corrupt_total 0",
            "task_executor_store_errors_total 0",
            "task_executor_watchers 1",
            "task_executor_connections 0",
            "task_executor_connections_refused_total 0",
            concat!(
                "task_executor_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "# EOF",
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "{line} is missing in\n{page}"
            );
        }
        for name in [
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            let value = page
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            assert!(value.is_some_and(|value| value > 0.0), "{name} in\n{page}");
        }
        drop(watcher);
        assert!(
            metrics
                .encode(Some(&health))
                .contains("task_executor_watchers 0")
        );
    }

    #[test]
    fn metrics_can_be_shared() {
        fn shared<T: Send + Sync>() {}
        shared::<Metrics>();
    }
}
