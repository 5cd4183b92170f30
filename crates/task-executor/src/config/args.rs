//! The command line as it is typed. [`super::Config`] is what it means.
//!
//! One field is one flag, one environment variable ([`env_name`]) and one paragraph of `--help`.
//! clap's own reading of the environment is not used, so that parsing stays a pure function.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, CommandFactory, Parser};

use super::duration::InvalidDuration;
use super::listen::ListenAddr;
use super::values::{self, DurabilityName, LogFormatName, ShutdownPolicyName, Ttl, Volume};
use super::{LogFilter, size};

/// Runs the tasks of a Kubernetes sandbox and reports on them over HTTP.
#[derive(Debug, Parser)]
#[expect(
    clippy::doc_markdown,
    reason = "the comments are the text of --help, where backticks are noise"
)]
#[command(
    name = "task-executor",
    version,
    disable_help_subcommand = true,
    args_override_self = true,
    after_help = FORMS,
)]
pub(super) struct Args {
    /// Directory for the state and the logs of all tasks; created when missing
    #[arg(long, value_name = "DIR", default_value = "/var/lib/sandbox/tasks", help_heading = TASKS)]
    pub data_dir: PathBuf,

    /// Interval at which task states are checked again, beyond what events tell
    ///
    /// Exits, deadlines and requests take effect at once; this is a safety net only.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = values::interval, help_heading = TASKS)]
    pub reconcile_interval: Duration,

    /// Tasks that run at the same time; 0 is no limit
    ///
    /// More tasks than this wait in line, first in first out, as waiting with the reason Queued.
    #[arg(long, value_name = "COUNT", default_value = "0", value_parser = values::count, help_heading = TASKS)]
    pub max_concurrent_tasks: usize,

    /// Tasks that are kept, finished ones included
    ///
    /// A task beyond this is refused with 429 and Retry-After.
    #[arg(long, value_name = "COUNT", default_value = "100000", value_parser = values::count_from_one, help_heading = TASKS)]
    pub max_tasks: usize,

    /// Time between SIGTERM and SIGKILL when a task is ended
    ///
    /// A task may set its own with terminationGracePeriodSeconds.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration, help_heading = TASKS)]
    pub termination_grace_period: Duration,

    /// Time after which a finished task's record and logs are removed, or "off"
    #[arg(long, value_name = "DURATION", default_value = "off", value_parser = values::ttl, help_heading = TASKS)]
    pub task_ttl_after_finished: Ttl,

    /// Bytes kept of each task's standard output and of its standard error; 0 is no limit
    ///
    /// The newest bytes are kept. The writer is never blocked or killed.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size::parse, help_heading = TASKS)]
    pub log_max_bytes: u64,

    /// What an acknowledged task survives: "process" or "sync"
    ///
    /// "process": the death of every process, since records are in the page cache. "sync": the
    /// host losing power as well, since records are on disk before a request is answered.
    #[arg(long, value_name = "LEVEL", default_value = "process", help_heading = TASKS)]
    pub durability: DurabilityName,

    /// What SIGTERM does to running tasks: "keep" or "terminate"
    ///
    /// "keep" leaves them to the next start of the agent; "terminate" ends them with their grace
    /// period. When the agent is PID 1 of a container the default is "terminate", since its tasks
    /// would die with it anyway; else it is "keep".
    #[arg(long, value_name = "POLICY", help_heading = TASKS)]
    pub shutdown_policy: Option<ShutdownPolicyName>,

    /// Host directory that the volumeMounts of a container task may name; repeatable
    ///
    /// The environment variable holds several of them with a comma between.
    #[arg(long, value_name = "NAME=HOSTPATH", action = ArgAction::Append, value_parser = values::volume, help_heading = TASKS)]
    pub volume: Vec<Volume>,

    /// Run tasks inside of the main container's namespaces
    ///
    /// Needs a shared process namespace, and SYS_ADMIN, SYS_PTRACE and SYS_CHROOT. A task or hook
    /// with execMode Local still runs in the agent's own.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
        default_missing_value = "true", action = ArgAction::Set, value_parser = values::boolean, help_heading = MODES)]
    pub enable_sidecar_mode: bool,

    /// Name of the main container, for sidecar mode
    #[arg(long, value_name = "NAME", default_value = "main", value_parser = values::nonempty, help_heading = MODES)]
    pub main_container_name: String,

    /// Run container tasks through a CRI runtime
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
        default_missing_value = "true", action = ArgAction::Set, value_parser = values::boolean, help_heading = MODES)]
    pub enable_container_mode: bool,

    /// Socket of the CRI runtime, for container mode
    #[arg(long, value_name = "PATH", default_value = "/var/run/containerd/containerd.sock", help_heading = MODES)]
    pub cri_socket: PathBuf,

    /// Address and port of the HTTP API; ":5758" is every address
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:5758", help_heading = SERVER)]
    pub listen_addr: ListenAddr,

    /// Largest request body; a larger one gets 413
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = values::request_bytes, help_heading = SERVER)]
    pub max_request_bytes: usize,

    /// File with the bearer token that every request must carry
    ///
    /// Read again when it changes. /health, /livez and /readyz need no token.
    #[arg(long, value_name = "PATH", value_parser = file(), help_heading = SERVER)]
    pub auth_token_file: Option<PathBuf>,

    /// PEM file with the server's certificate chain; switches TLS on
    ///
    /// Needs --tls-key-file. Both are read again when they change.
    #[arg(long, value_name = "PATH", value_parser = file(), help_heading = SERVER)]
    pub tls_cert_file: Option<PathBuf>,

    /// PEM file with the private key of the server's certificate
    #[arg(long, value_name = "PATH", value_parser = file(), help_heading = SERVER)]
    pub tls_key_file: Option<PathBuf>,

    /// PEM file with the authorities that client certificates must come from
    ///
    /// Switches mutual TLS on: a client without such a certificate is refused. Read again when it
    /// changes.
    #[arg(long, value_name = "PATH", value_parser = file(), help_heading = SERVER)]
    pub tls_client_ca_file: Option<PathBuf>,

    /// Form of the agent's own log on standard error: "text" or "json"
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = LOGGING)]
    pub log_format: LogFormatName,

    /// Level of the agent's own log: "error", "warn", "info", "debug", "trace" or "off"
    ///
    /// Single modules may differ, as in "task_executor::http=debug,info". The environment variable
    /// RUST_LOG is read when LOG_LEVEL is not set.
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = LOGGING)]
    pub log_level: LogFilter,

    /// Accepted for compatibility and ignored: the agent logs to standard error
    #[arg(long, value_name = "DIR", hide_short_help = true, help_heading = IGNORED)]
    pub log_dir: Option<String>,

    /// Accepted for compatibility and ignored
    #[arg(long, value_name = "MEGABYTES", hide_short_help = true, help_heading = IGNORED)]
    pub log_max_size: Option<String>,

    /// Accepted for compatibility and ignored
    #[arg(long, value_name = "COUNT", hide_short_help = true, help_heading = IGNORED)]
    pub log_max_backups: Option<String>,

    /// Accepted for compatibility and ignored
    #[arg(long, value_name = "DAYS", hide_short_help = true, help_heading = IGNORED)]
    pub log_max_age: Option<String>,

    /// Copy this program to PATH and exit, for an init container of an image without cp
    ///
    /// The file appears in one step, with mode 0755. Its directory must exist.
    #[arg(long, value_name = "PATH")]
    pub copy_to: Option<PathBuf>,

    /// Print the effective configuration as JSON and exit
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", hide_default_value = true,
        default_missing_value = "true", value_name = "BOOL", action = ArgAction::Set, value_parser = values::boolean)]
    pub print_config: bool,
}

/// What holds for all flags; printed below them.
const FORMS: &str = "\
A flag is written --flag=VALUE, --flag VALUE or -flag=VALUE; a switch --switch or --switch=false.
A flag wins over its environment variable, and that one over the default. An empty variable counts
as not set. Durations are written as in Go: 500ms, 2s, 1m30s. Sizes are bytes, or carry a unit:
4MiB, 10Mi, 1G.";

const TASKS: &str = "Tasks";
const MODES: &str = "Modes";
const SERVER: &str = "Server";
const LOGGING: &str = "Logging";
const IGNORED: &str = "Ignored";

fn duration(text: &str) -> Result<Duration, InvalidDuration> {
    super::duration::parse(text)
}

/// A path that may be empty, which is how a template leaves it out.
fn file() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The flags of the Go agent that are accepted and ignored; they have no environment variable.
pub(super) const IGNORED_FLAGS: [&str; 4] =
    ["log-dir", "log-max-size", "log-max-backups", "log-max-age"];

/// The environment variable of a flag: its name in upper snake case.
pub(super) fn env_name(flag: &str) -> Option<String> {
    let own = ["help", "version", "print-config", "copy-to"].contains(&flag);
    let has_none = own || IGNORED_FLAGS.contains(&flag);
    (!has_none).then(|| flag.to_ascii_uppercase().replace('-', "_"))
}

/// The command line's grammar, with environment variables and defaults named in its help.
pub(super) fn command() -> clap::Command {
    Args::command().mut_args(|arg| {
        let Some(notes) = notes(&arg) else { return arg };
        let short = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let long = arg
            .get_long_help()
            .map_or_else(|| short.clone(), ToString::to_string);
        let long = long.lines().map(wrapped).collect::<Vec<_>>().join("\n");
        arg.help(format!("{short} {notes}"))
            .long_help(format!("{long}\n\n{notes}"))
            .hide_default_value(true)
    })
}

/// `[env: DATA_DIR] [default: /var/lib/sandbox/tasks]`, or less.
fn notes(arg: &Arg) -> Option<String> {
    let env = env_name(arg.get_long()?)?;
    let default = arg.get_default_values().first();
    let default = default.map(|value| format!(" [default: {}]", value.display()));
    Some(format!("[env: {env}]{}", default.unwrap_or_default()))
}

/// Columns of a paragraph in `--help`. The help is committed, so it must not depend on a terminal.
const COLUMNS: usize = 86;

fn wrapped(paragraph: &str) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        if column > 0 && column + 1 + word.len() > COLUMNS {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    text
}
