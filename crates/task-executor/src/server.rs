//! The server role: wires configuration, state and HTTP together, and stops in order.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::sync::Arc;

use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use task_shim::proc::Scope;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::auth::TokenFile;
use crate::cgroups::Cgroups;
use crate::config::{self, Config, Durability, ShutdownPolicy};
use crate::http::{self, App, Options};
use crate::instance;
use crate::launcher::Launcher;
use crate::manager::{Bounds, Owner, Tools};
use crate::metrics::Metrics;
use crate::probe;
use crate::runtime::Settings;
use crate::sidecar::Sidecar;
use crate::store::Store;
use crate::tls::Tls;

/// Hints that may wait for the manager; a full queue only makes shims wait a moment.
const HINTS_MAX: usize = 256;

/// Runs the server role.
pub fn main() -> ExitCode {
    let environment = |name: &str| std::env::var(name).ok();
    let config = match config::parse(std::env::args_os(), &environment) {
        Ok(config) => config,
        Err(exit) => {
            let shown = if exit.to_stderr {
                writeln!(io::stderr(), "{}", exit.text.trim_end())
            } else {
                writeln!(io::stdout(), "{}", exit.text.trim_end())
            };
            return if shown.is_ok() {
                ExitCode::from(exit.code)
            } else {
                ExitCode::FAILURE
            };
        }
    };
    let done = match &config.copy_to {
        Some(path) => crate::copy::program(path)
            .map_err(|error| format!("copy to {}: {error}", path.display())),
        None => start(&config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr gone there is nobody to tell.
            let _ = writeln!(io::stderr(), "task-executor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(config: &Config) -> Result<(), String> {
    crate::telemetry::init(config).map_err(|e| e.to_string())?;
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| e.to_string())?;
    // It was started by way of /proc/self/exe, which would show as `exe` in ps and top.
    nix::sys::prctl::set_name(c"task-executor").map_err(|e| e.to_string())?;
    SigSet::empty()
        .thread_set_mask()
        .map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    runtime.block_on(serve(config))
}

/// Removes nothing of others: a FIFO that is there already is used again.
fn hints(store: &Store) -> io::Result<File> {
    let path = store.hints();
    match nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    // Open for writing too, so that it never reports an end while no shim has it open.
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

async fn serve(config: &Config) -> Result<(), String> {
    let in_dir =
        |error: io::Error| format!("data directory {}: {error}", config.data_dir.display());
    let sync = config.durability == Durability::Sync;
    std::fs::create_dir_all(config.data_dir.join(".agent")).map_err(in_dir)?;
    let root = config.data_dir.canonicalize().map_err(in_dir)?;
    let Some(_lock) = instance::take(&root.join(".agent")).map_err(in_dir)? else {
        return Err(format!(
            "data directory {} is in use by another task-executor",
            config.data_dir.display()
        ));
    };
    let store = Store::open(&root, sync).map_err(in_dir)?;
    let fifo = hints(&store).map_err(in_dir)?;
    let metrics = Arc::new(Metrics::new());
    let (token, tls) = credentials(config)?;
    let listener = http::bind(&config.listen_addr)
        .map_err(|e| format!("listen on {}: {e}", config.listen_addr))?;
    let init = instance::init();
    let settings = settings(config, &store, init).map_err(|e| e.to_string())?;
    let scope = settings.scope.clone();
    let sidecar = config.sidecar.as_ref();
    let sidecar = sidecar.map(|mode| Sidecar::new(mode, &root, init));
    let sidecar = sidecar.transpose().map_err(|e| e.to_string())?;
    let found = probe::capabilities(config, init, &settings.cgroups, sidecar.as_ref());
    let launcher = Launcher::start(settings, sidecar).map_err(|e| e.to_string())?;
    let tools = Tools {
        store,
        launcher,
        scope,
        metrics: Arc::clone(&metrics),
    };
    let (owner, handle) = Owner::recover(tools, bounds(config)).map_err(in_dir)?;
    let app = App::new(
        handle,
        metrics,
        Options::new(config.max_request_bytes, token),
        &found,
    );
    let local = listener.local_addr().map_err(|e| e.to_string())?;
    tracing::info!(address = %local, data_dir = %config.data_dir.display(), "agent.listening");

    // Much of what ran until here is not needed again. It only saves memory.
    let _ = sandbox_sys::forget_program_pages();

    let mut others = JoinSet::new();
    let (hint, hinted) = mpsc::channel(HINTS_MAX);
    others.spawn(read_hints(fifo, hint));
    others.spawn(reap());
    let (wish, wished) = watch::channel(None);
    let orderly = async {
        let web = http::serve(listener, tls, app, wait_for(wished.clone()));
        let work = owner.run(hinted, wait_for(wished.clone()));
        let ((), mut owner) = tokio::join!(web, work);
        let by_policy = *wished.borrow() == Some(Stop::ByPolicy);
        if by_policy && policy(config, init) == ShutdownPolicy::Terminate {
            owner.terminate().await;
        }
        others.shutdown().await;
        owner.close().await;
        tracing::info!("agent.stopped");
    };
    let mut signals = Signals::new().map_err(|e| e.to_string())?;
    let impatient = async {
        wish.send_replace(Some(signals.next().await));
        signals.next().await
    };
    tokio::select! {
        () = orderly => {}
        _ = impatient => tracing::warn!("agent.stopped_at_once"),
    }
    Ok(())
}

/// Resolves when a stop is wished for.
async fn wait_for(mut wished: watch::Receiver<Option<Stop>>) {
    // The sender lives as long as whoever waits: an error can't come before the wish.
    let _ = wished.wait_for(Option::is_some).await;
}

/// Loads the token and the certificates that are configured.
fn credentials(config: &Config) -> Result<(Option<TokenFile>, Option<Arc<Tls>>), String> {
    let token = config
        .auth_token_file
        .clone()
        .map(TokenFile::load)
        .transpose()
        .map_err(|e| chain(&e))?;
    let tls = config
        .tls
        .clone()
        .map(Tls::load)
        .transpose()
        .map_err(|e| chain(&e))?
        .map(Arc::new);
    Ok((token, tls))
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn bounds(config: &Config) -> Bounds {
    Bounds {
        tasks_max: config.max_tasks.get(),
        active_max: config
            .max_concurrent_tasks
            .map_or(usize::MAX, std::num::NonZero::get),
        ttl: config.task_ttl_after_finished,
        interval: config.reconcile_interval,
    }
}

/// What becomes of running tasks. With PID 1 they would be killed anyway, so they are
/// ended in order, whatever was configured.
fn policy(config: &Config, init: Option<Pid>) -> ShutdownPolicy {
    if init.is_some_and(|init| init.as_raw() == 1) {
        return ShutdownPolicy::Terminate;
    }
    config.shutdown_policy.unwrap_or(ShutdownPolicy::Keep)
}

fn settings(config: &Config, store: &Store, init: Option<Pid>) -> io::Result<Settings> {
    Ok(Settings {
        scope: Scope::current()?,
        hints: std::path::absolute(store.hints())?
            .to_string_lossy()
            .into_owned(),
        grace_ms: u64::try_from(config.termination_grace_period.as_millis()).unwrap_or(u64::MAX),
        sync: config.durability == Durability::Sync,
        log_bytes_max: config.log_max_bytes.map_or(0, std::num::NonZero::get),
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        cgroups: Cgroups::open(store.root(), config.durability == Durability::Sync)?,
        init,
        open_files: instance::raise_open_files(),
    })
}

async fn read_hints(fifo: File, hints: mpsc::Sender<String>) {
    let Ok(mut pipe) = tokio::net::unix::pipe::Receiver::from_file_unchecked(fifo) else {
        return;
    };
    // Any process of this user can write here, so no line is waited for without bound.
    let mut buffer = [0; 4096];
    let mut filled = 0;
    while let Ok(length @ 1..) = pipe.read(&mut buffer[filled..]).await {
        filled += length;
        let whole = buffer[..filled].iter().rposition(|b| *b == b'\n');
        let used = match whole {
            Some(end) => end + 1,
            None if filled == buffer.len() => filled,
            None => continue,
        };
        for line in String::from_utf8_lossy(&buffer[..used]).lines() {
            if hints.send(line.to_owned()).await.is_err() {
                return;
            }
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
}

/// Reaps what ends under this process: the launcher, and orphans that it was handed. No status is needed.
async fn reap() {
    let Ok(mut ended) = signal(SignalKind::child()) else {
        return;
    };
    loop {
        while let Ok(Some(_)) = sandbox_sys::reap_any() {}
        ended.recv().await;
    }
}

/// How the server was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Running tasks are treated as the policy says.
    ByPolicy,
    /// Another server goes on with them.
    HandOver,
}

/// The signals that ask for a stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hand_over: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hand_over: signal(SignalKind::from_raw(instance::HAND_OVER))?,
        })
    }

    /// The next wish. Cancel safe: a signal that came is not lost, only one is needed.
    async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.terminate.recv() => Stop::ByPolicy,
            _ = self.interrupt.recv() => Stop::ByPolicy,
            _ = self.hand_over.recv() => Stop::HandOver,
        }
    }
}
