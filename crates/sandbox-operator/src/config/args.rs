//! The command line as it is typed.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use super::values::{Address, concurrency, duration};

/// Watches BatchSandbox objects, makes their Pods, gives each its task, and tells the truth in status.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "sandbox-operator",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Without a subcommand it runs. Durations are written as 500ms, 2s, 1m30s. Where OpenSandbox's \
                  controller has other names for a flag, those are understood too."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the operator (the default)
    Run(Box<RunArgs>),
    /// Print the custom resource definitions as YAML, for kubectl apply --server-side -f -
    Crds,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Flags of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Watch this namespace only; all if empty
    #[arg(long, env = "WATCH_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// Kubeconfig to use; without it KUBECONFIG, ~/.kube/config or the service account of the Pod
    #[arg(long, env = "SANDBOX_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// Most requests to the API server at once
    #[arg(long, env = "CONCURRENCY", default_value = "64", value_name = "N", value_parser = concurrency)]
    pub concurrency: NonZeroUsize,
    /// Most requests a second that change something at the API server; 0 leaves that to the API server's own limits
    #[arg(
        long,
        env = "KUBE_QPS",
        alias = "kube-client-qps",
        default_value_t = 0,
        value_name = "N"
    )]
    pub kube_qps: u32,
    /// How many of them at once, when --kube-qps is set
    #[arg(
        long,
        env = "KUBE_BURST",
        alias = "kube-client-burst",
        default_value = "200",
        value_name = "N"
    )]
    pub kube_burst: NonZeroU32,
    /// Most calls of agents at once; watches are not counted
    #[arg(
        long,
        env = "AGENT_CONCURRENCY",
        default_value = "256",
        value_name = "N"
    )]
    pub agent_concurrency: NonZeroUsize,
    /// Port that the agents listen on
    #[arg(long, env = "AGENT_PORT", default_value_t = 5758, value_name = "PORT")]
    pub agent_port: u16,
    /// Longest time for one call of an agent
    #[arg(long, env = "AGENT_TIMEOUT", default_value = "3s", value_name = "DURATION", value_parser = duration)]
    pub agent_timeout: Duration,
    /// An agent that is silent for longer makes its task count as unknown
    #[arg(long, env = "AGENT_SILENCE", default_value = "10s", value_name = "DURATION", value_parser = duration)]
    pub agent_silence: Duration,
    /// Longest time that an agent which does not answer may hold up a deletion or a scale-in
    #[arg(long, env = "TASK_CLEANUP_TIMEOUT", default_value = "2m", value_name = "DURATION", value_parser = duration)]
    pub task_cleanup_timeout: Duration,
    /// Changes of status that nobody waits for are written at most so often
    #[arg(long, env = "STATUS_WINDOW", default_value = "200ms", value_name = "DURATION", value_parser = duration)]
    pub status_window: Duration,
    /// Longest time for ending in order after SIGTERM
    #[arg(long, env = "SHUTDOWN_TIMEOUT", default_value = "8s", value_name = "DURATION", value_parser = duration)]
    pub shutdown_timeout: Duration,
    /// Act only while holding a Lease, so that several replicas can run
    #[arg(
        long, env = "LEADER_ELECT", value_name = "BOOL", action = ArgAction::Set,
        default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true"
    )]
    pub leader_elect: bool,
    /// Name of the Lease; OpenSandbox's, so that its controller and this one never act at the same time
    #[arg(
        long,
        env = "LEADER_ELECT_ID",
        default_value = "2fa1c467.opensandbox.io",
        value_name = "NAME"
    )]
    pub leader_elect_id: String,
    /// Namespace of the Lease; that of the Pod if not given
    #[arg(long, env = "LEADER_ELECT_NAMESPACE", value_name = "NAME")]
    pub leader_elect_namespace: Option<String>,
    /// Another replica takes over when the Lease was not renewed for so long
    #[arg(long, env = "LEADER_ELECT_LEASE_DURATION", default_value = "8s", value_name = "DURATION", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    /// The leader stops acting when it could not renew for so long
    #[arg(long, env = "LEADER_ELECT_RENEW_DEADLINE", default_value = "6s", value_name = "DURATION", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    /// How often the Lease is looked at
    #[arg(long, env = "LEADER_ELECT_RETRY_PERIOD", default_value = "2s", value_name = "DURATION", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
    /// Address for /metrics, such as :8080; 0 is off
    #[arg(
        long,
        env = "METRICS_ADDR",
        visible_alias = "metrics-bind-address",
        default_value = ":8080",
        value_name = "ADDRESS"
    )]
    pub metrics_addr: Address,
    /// Address for /livez and /readyz; 0 is off
    #[arg(
        long,
        env = "HEALTH_ADDR",
        visible_alias = "health-probe-bind-address",
        default_value = ":8081",
        value_name = "ADDRESS"
    )]
    pub health_addr: Address,
    /// What is logged: off, error, warn, info, debug or trace
    #[arg(long, env = "LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: tracing::level_filters::LevelFilter,
    /// How log lines look
    #[arg(
        long,
        env = "LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
    #[arg(env = "POD_NAMESPACE", long, hide = true)]
    pub(super) pod_namespace: Option<String>,
    #[command(flatten)]
    pub(super) ignored: Ignored,
}

/// Declares flags of `OpenSandbox`'s controller that are accepted and have no meaning here.
macro_rules! ignored {
    ($($field:ident = $name:literal),* $(,)?) => {
        /// Flags of `OpenSandbox`'s controller that have no meaning here.
        #[derive(Clone, Debug, Default, clap::Args)]
        pub(super) struct Ignored {
            $(
                #[arg(long = $name, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
                $field: Option<String>,
            )*
        }

        impl Ignored {
            /// Names of those that were given.
            pub(super) fn given(&self) -> Vec<&'static str> {
                let all = [$((&self.$field, $name)),*];
                all.into_iter().filter(|(value, _)| value.is_some()).map(|(_, name)| name).collect()
            }
        }
    };
}

ignored! {
    allow_weak_tls_keylengths = "allow-weak-tls-keylengths",
    commit_job_timeout = "commit-job-timeout",
    containerd_socket_path = "containerd-socket-path",
    enable_file_log = "enable-file-log",
    enable_http2 = "enable-http2",
    expectation_timeout = "expectation-timeout",
    image_committer_image = "image-committer-image",
    log_compress = "log-compress",
    log_file_path = "log-file-path",
    log_max_age = "log-max-age",
    log_max_backups = "log-max-backups",
    log_max_size = "log-max-size",
    metrics_cert_key = "metrics-cert-key",
    metrics_cert_name = "metrics-cert-name",
    metrics_cert_path = "metrics-cert-path",
    metrics_secure = "metrics-secure",
    resume_pull_secret = "resume-pull-secret",
    snapshot_push_secret = "snapshot-push-secret",
    snapshot_registry = "snapshot-registry",
    snapshot_registry_insecure = "snapshot-registry-insecure",
    webhook_cert_key = "webhook-cert-key",
    webhook_cert_name = "webhook-cert-name",
    webhook_cert_path = "webhook-cert-path",
    zap_devel = "zap-devel",
    zap_encoder = "zap-encoder",
    zap_log_level = "zap-log-level",
    zap_stacktrace_level = "zap-stacktrace-level",
    zap_time_encoding = "zap-time-encoding",
}
