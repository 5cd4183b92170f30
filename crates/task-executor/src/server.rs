//! The server role: wires configuration, state and HTTP together, and stops in order.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::ExitCode;
use std::sync::Arc;

use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use task_shim::lock::Lock;
use task_shim::proc::Scope;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::auth::TokenFile;
use crate::cgroups::Cgroups;
use crate::config::{self, Config, Durability, ShutdownPolicy};
use crate::http::{self, App, Capabilities, Options};
use crate::manager::Owner;
use crate::metrics::Metrics;
use crate::runtime::Settings;
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
    match start(&config) {
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
    let agent_dir = File::open(config.data_dir.join(".agent")).map_err(in_dir)?;
    let Some(_lock) = Lock::take(&agent_dir).map_err(in_dir)? else {
        return Err(format!(
            "data directory {} is in use by another task-executor",
            config.data_dir.display()
        ));
    };
    let store = Store::open(&config.data_dir, sync).map_err(in_dir)?;
    let fifo = hints(&store).map_err(in_dir)?;
    let metrics = Arc::new(Metrics::new());
    let (token, tls) = credentials(config)?;
    let listener = http::bind(&config.listen_addr)
        .map_err(|e| format!("listen on {}: {e}", config.listen_addr))?;
    let settings = settings(config, &store, sync).map_err(|e| e.to_string())?;
    let bounds = crate::manager::Bounds {
        tasks_max: config.max_tasks.get(),
        active_max: config
            .max_concurrent_tasks
            .map_or(usize::MAX, std::num::NonZero::get),
        ttl: config.task_ttl_after_finished,
        interval: config.reconcile_interval,
    };
    let found = capabilities(config, &settings);
    let (owner, handle) =
        Owner::recover(store, settings, bounds, Arc::clone(&metrics)).map_err(in_dir)?;
    let app = App::new(
        handle,
        metrics,
        Options::new(config.max_request_bytes, token),
        &found,
    );
    let local = listener.local_addr().map_err(|e| e.to_string())?;
    tracing::info!(address = %local, data_dir = %config.data_dir.display(), "agent.listening");

    let (stopping, stopped) = watch::channel(false);
    let until = |mut stopped: watch::Receiver<bool>| async move {
        // The sender lives as long as this function: an error can't come before the stop.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let mut others = JoinSet::new();
    let (hint, hinted) = mpsc::channel(HINTS_MAX);
    others.spawn(read_hints(fifo, hint));
    others.spawn(reap());
    let web = http::serve(listener, tls, app, until(stopped.clone()));
    let work = owner.run(hinted, until(stopped));
    let signals = async {
        let ended = wait_for_stop().await;
        stopping.send_replace(true);
        ended
    };
    let (signalled, (), owner) = tokio::join!(signals, web, work);
    signalled.map_err(|e| e.to_string())?;
    let pid1 = nix::unistd::getppid().as_raw() == 1;
    let policy = config.shutdown_policy.unwrap_or(if pid1 {
        ShutdownPolicy::Terminate
    } else {
        ShutdownPolicy::Keep
    });
    if policy == ShutdownPolicy::Terminate {
        owner.terminate().await;
    }
    others.shutdown().await;
    tracing::info!("agent.stopped");
    Ok(())
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

fn settings(config: &Config, store: &Store, sync: bool) -> io::Result<Settings> {
    Ok(Settings {
        scope: Scope::current()?,
        hints: std::path::absolute(store.hints())?
            .to_string_lossy()
            .into_owned(),
        grace_ms: u64::try_from(config.termination_grace_period.as_millis()).unwrap_or(u64::MAX),
        sync,
        log_bytes_max: config.log_max_bytes.map_or(0, std::num::NonZero::get),
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        cgroups: Cgroups::open(&config.data_dir, sync)?,
    })
}

fn capabilities(config: &Config, settings: &Settings) -> Capabilities {
    let mut found = Capabilities {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Capabilities::default()
    };
    found.modes.process = true;
    found.cgroup = settings.cgroups.capabilities();
    found.kernel.pidfd = true;
    found.privileges.uid = nix::unistd::getuid().as_raw();
    found.limits.max_tasks = config.max_tasks.get();
    found.limits.max_concurrent_tasks = config
        .max_concurrent_tasks
        .map_or(0, std::num::NonZero::get);
    found.limits.max_request_bytes = config.max_request_bytes;
    found.limits.max_connections = Options::MAX_CONNECTIONS;
    found.pid1 = nix::unistd::getppid().as_raw() == 1;
    found.init = true;
    found
}

async fn read_hints(fifo: File, hints: mpsc::Sender<String>) {
    let Ok(pipe) = tokio::net::unix::pipe::Receiver::from_file_unchecked(fifo) else {
        return;
    };
    let mut lines = BufReader::with_capacity(4096, pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if hints.send(line).await.is_err() {
            return;
        }
    }
}

/// Reaps everything that ends under this process; shims are watched by pidfd, so no status is needed.
async fn reap() {
    let Ok(mut ended) = signal(SignalKind::child()) else {
        return;
    };
    loop {
        while let Ok(Some(_)) = sandbox_sys::reap_any() {}
        ended.recv().await;
    }
}

async fn wait_for_stop() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Both are cancel safe: a signal that came is not lost, only one is needed.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
