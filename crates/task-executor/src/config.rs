//! Command line and environment, read once into a validated [`Config`].
//!
//! [`parse`] is pure: only `main` touches the real command line and environment. It ends in one
//! of two ways: with a [`Config`] whose every field is fit for use, or with an [`Exit`].

mod args;
mod argv;
pub mod duration;
mod exit;
mod listen;
mod print;
mod size;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::FromArgMatches;
use tracing_subscriber::filter::Targets;

use args::Args;

pub use exit::Exit;
pub use listen::{InvalidListenAddr, ListenAddr};
pub(crate) use values::parse_bool;

/// Everything that can be set from outside, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where records and logs are kept.
    pub data_dir: PathBuf,
    /// Where the HTTP API listens.
    pub listen_addr: ListenAddr,
    /// Sidecar mode, when it is on.
    pub sidecar: Option<SidecarMode>,
    /// Container mode, when it is on.
    pub container: Option<ContainerMode>,
    /// How often task states are checked beyond what events tell.
    pub reconcile_interval: Duration,
    /// Tasks that may run at once; [`None`] is no limit.
    pub max_concurrent_tasks: Option<NonZeroUsize>,
    /// Records that are kept at once.
    pub max_tasks: NonZeroUsize,
    /// SIGTERM to SIGKILL, unless a task says otherwise.
    pub termination_grace_period: Duration,
    /// What an acknowledged task survives.
    pub durability: Durability,
    /// Cap for each log file; [`None`] is no cap.
    pub log_max_bytes: Option<NonZeroU64>,
    /// How long a finished task is kept; [`None`] is for ever.
    pub task_ttl_after_finished: Option<Duration>,
    /// What container tasks may mount, by name.
    pub volumes: BTreeMap<String, PathBuf>,
    /// What SIGTERM does to running tasks; [`None`]: depends on being PID 1.
    pub shutdown_policy: Option<ShutdownPolicy>,
    /// The largest request body.
    pub max_request_bytes: usize,
    /// Where the bearer token is, when one is needed.
    pub auth_token_file: Option<PathBuf>,
    /// Certificates, when TLS is on.
    pub tls: Option<TlsFiles>,
    /// Form of the agent's own log.
    pub log_format: LogFormat,
    /// Level of the agent's own log.
    pub log_level: LogFilter,
    /// Where to copy the program to instead of running it.
    pub copy_to: Option<PathBuf>,
    /// Flags of the Go agent that were given and have no effect here: worth one log line.
    pub ignored_flags: Vec<&'static str>,
}

/// Settings of sidecar mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarMode {
    /// Name of the container whose namespaces tasks run in.
    pub main_container_name: String,
}

/// Settings of container mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerMode {
    /// Socket of the CRI runtime.
    pub cri_socket: PathBuf,
}

/// The files that TLS needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Authorities of client certificates, PEM; with it TLS is mutual.
    pub client_ca: Option<PathBuf>,
}

/// What an acknowledged task survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of every process.
    Process,
    /// Power loss of the host as well.
    Sync,
}

/// What SIGTERM does to running tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownPolicy {
    /// They run on; the next start of the agent takes them over.
    Keep,
    /// They are ended with their grace period.
    Terminate,
}

/// Form of the agent's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A log level, possibly one for each module: `info`, `task_executor::http=debug,info`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogFilter {
    text: String,
    targets: Targets,
}

/// Why a text is no log level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a log level; write error, warn, info, debug, trace or off, or TARGET=LEVEL with commas between"
)]
pub struct InvalidLogFilter;

impl LogFilter {
    /// The levels in the form that the subscriber takes.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }
}

impl FromStr for LogFilter {
    type Err = InvalidLogFilter;

    fn from_str(text: &str) -> Result<Self, InvalidLogFilter> {
        // `Targets` takes a lone word for a target and would silence everything else: a mistyped
        // level must not do that.
        let words = text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        let mistyped = words.clone().any(|word| {
            !word.contains('=') && word.parse::<tracing::level_filters::LevelFilter>().is_err()
        });
        if mistyped || words.count() == 0 {
            return Err(InvalidLogFilter);
        }
        let targets = text.parse().map_err(|_| InvalidLogFilter)?;
        Ok(Self {
            text: text.to_owned(),
            targets,
        })
    }
}

impl std::fmt::Display for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads the command line (program name first) and the environment.
pub fn parse(
    argv: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Config, Exit> {
    // Not the name that it was started under, which is that of a role.
    let command = args::command().bin_name("task-executor");
    let flags: Vec<String> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .collect();
    let mut argv: Vec<OsString> = argv.into_iter().map(argv::double_dash).collect();
    let from_env = argv::add_environment(&mut argv, &flags, env);
    let mut matches = command
        .try_get_matches_from(argv)
        .map_err(|error| exit::from_clap(&error, &from_env))?;
    let args = Args::from_arg_matches_mut(&mut matches)
        .map_err(|error| exit::from_clap(&error, &from_env))?;
    if args.print_config {
        let text = print::as_json(&args);
        Config::try_from(args)?;
        return Err(Exit::done(text));
    }
    Config::try_from(args)
}

impl TryFrom<Args> for Config {
    type Error = Exit;

    fn try_from(args: Args) -> Result<Self, Exit> {
        refuse_container_mode(&args)?;
        let ignored_flags = args.ignored_flags();
        Ok(Self {
            data_dir: nonempty(args.data_dir, "data-dir")?,
            listen_addr: args.listen_addr,
            sidecar: args.enable_sidecar_mode.then_some(SidecarMode {
                main_container_name: args.main_container_name,
            }),
            container: args.enable_container_mode.then_some(ContainerMode {
                cri_socket: nonempty(args.cri_socket, "cri-socket")?,
            }),
            reconcile_interval: args.reconcile_interval,
            max_concurrent_tasks: NonZeroUsize::new(args.max_concurrent_tasks),
            max_tasks: NonZeroUsize::new(args.max_tasks).unwrap_or(NonZeroUsize::MIN),
            termination_grace_period: args.termination_grace_period,
            durability: args.durability.0,
            log_max_bytes: NonZeroU64::new(args.log_max_bytes),
            task_ttl_after_finished: args.task_ttl_after_finished.0,
            volumes: volumes(args.volume)?,
            shutdown_policy: args.shutdown_policy.map(|policy| policy.0),
            max_request_bytes: args.max_request_bytes,
            auth_token_file: given(args.auth_token_file),
            tls: tls_files(
                given(args.tls_cert_file),
                given(args.tls_key_file),
                given(args.tls_client_ca_file),
            )?,
            log_format: args.log_format.0,
            log_level: args.log_level,
            copy_to: args
                .copy_to
                .map(|path| nonempty(path, "copy-to"))
                .transpose()?,
            ignored_flags,
        })
    }
}

impl Args {
    /// The flags without effect that were given.
    fn ignored_flags(&self) -> Vec<&'static str> {
        let values = [
            &self.log_dir,
            &self.log_max_size,
            &self.log_max_backups,
            &self.log_max_age,
        ];
        let pairs = args::IGNORED_FLAGS.into_iter().zip(values);
        pairs
            .filter_map(|(flag, value)| value.is_some().then_some(flag))
            .collect()
    }
}

/// This mode is parsed, so that manifests can be written, but not built yet.
fn refuse_container_mode(args: &Args) -> Result<(), Exit> {
    if !args.enable_container_mode {
        return Ok(());
    }
    let flag = "enable-container-mode";
    Err(Exit::refused(&format!(
        "--{flag}=true is not available in this build yet; leave it out or write --{flag}=false"
    )))
}

/// An empty path is how a template leaves a file out.
fn given(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

fn nonempty(path: PathBuf, flag: &str) -> Result<PathBuf, Exit> {
    given(Some(path))
        .ok_or_else(|| Exit::refused(&format!("--{flag} must not be empty; write a path")))
}

fn volumes(given: Vec<values::Volume>) -> Result<BTreeMap<String, PathBuf>, Exit> {
    let mut volumes = BTreeMap::new();
    for volume in given {
        if volumes
            .insert(volume.name.clone(), volume.host_path)
            .is_some()
        {
            let name = volume.name;
            return Err(Exit::refused(&format!(
                "--volume names {name:?} twice; give each volume its own name"
            )));
        }
    }
    Ok(volumes)
}

fn tls_files(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
) -> Result<Option<TlsFiles>, Exit> {
    match (cert, key, client_ca) {
        (Some(cert), Some(key), client_ca) => Ok(Some(TlsFiles {
            cert,
            key,
            client_ca,
        })),
        (None, None, None) => Ok(None),
        (Some(_), None, _) => Err(Exit::refused(
            "--tls-cert-file needs --tls-key-file as well",
        )),
        (None, Some(_), _) => Err(Exit::refused(
            "--tls-key-file needs --tls-cert-file as well",
        )),
        (None, None, Some(_)) => Err(Exit::refused(
            "--tls-client-ca-file needs --tls-cert-file and --tls-key-file as well",
        )),
    }
}
