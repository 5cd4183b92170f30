//! Process and sidecar mode: turns a task into a launch order.

use std::fs::File;
use std::io::{self, Seek, Write};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use sandbox_api::{ExecHook, ExecMode, LeftoverProcesses, ProcessSpec, TaskSpec, TaskUid, Work};
use task_shim::launch::{Hook, Job, Launch, Mode, Remote, Rlimit};
use task_shim::proc::Scope;

use crate::cgroups::Cgroups;
use crate::sidecar;

/// `RLIMIT_NOFILE`, the same number on every architecture that Rust has a musl target for.
const OPEN_FILES: i32 = 7;

/// What all launches share.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) scope: Scope,
    pub(crate) hints: String,
    pub(crate) grace_ms: u64,
    pub(crate) sync: bool,
    pub(crate) log_bytes_max: u64,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) cgroups: Cgroups,
    /// The agent's init, if this server has one.
    pub(crate) init: Option<Pid>,
    /// Open files that tasks may have, soft and hard: the agent raises its own limit.
    pub(crate) open_files: (u64, u64),
}

/// Where a command runs: without a way into the main container, in the agent's own.
fn mode(remote: Option<&Remote>, asked: Option<ExecMode>) -> Mode {
    remote.map_or(Mode::Local, |_| sidecar::mode(asked))
}

fn hook(remote: Option<&Remote>, hook: &ExecHook) -> Hook {
    Hook {
        argv: hook.command.clone(),
        timeout_ms: hook.timeout_seconds.map(|s| s.saturating_mul(1000)),
        mode: mode(remote, hook.exec_mode),
    }
}

/// The launch order for a task; `remote` is whose place its commands take in sidecar mode.
pub(crate) fn order(
    settings: &Settings,
    uid: &TaskUid,
    spec: &TaskSpec,
    job: Job,
    remote: Option<&Remote>,
) -> io::Result<Launch> {
    match &spec.work {
        Work::Process(process) => {
            let mut launch = process_order(settings, uid, spec, process, job);
            let lifecycle = process.lifecycle.as_ref();
            let of = |hook: &ExecHook| self::hook(remote, hook);
            launch.pre_start = lifecycle.and_then(|l| l.pre_start.as_ref()).map(of);
            launch.post_stop = lifecycle.and_then(|l| l.post_stop.as_ref()).map(of);
            launch.mode = mode(remote, process.exec_mode);
            launch.remote = remote.cloned();
            Ok(launch)
        }
        // Admission lets none of these through.
        Work::Container(_) | Work::Pod(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn rlimits(settings: &Settings, process: &ProcessSpec) -> Vec<Rlimit> {
    let (soft, hard) = settings.open_files;
    let mut limits = vec![(OPEN_FILES, soft, hard)];
    for limit in &process.rlimits {
        let number = limit.resource.number();
        limits.retain(|(resource, ..)| *resource != number);
        limits.push((number, limit.soft, limit.hard));
    }
    limits
}

fn process_order(
    settings: &Settings,
    uid: &TaskUid,
    spec: &TaskSpec,
    process: &ProcessSpec,
    job: Job,
) -> Launch {
    let mut env = settings.environment.clone();
    for set in &process.env {
        env.retain(|(name, _)| *name != set.name);
        env.push((set.name.clone(), set.value.clone()));
    }
    let lifecycle = process.lifecycle.as_ref();
    let stop_signal = lifecycle
        .and_then(|l| l.stop_signal)
        .map_or(nix::libc::SIGTERM, sandbox_api::StopSignal::number);
    let grace = spec
        .termination_grace_period_seconds
        .map(|s| s.saturating_mul(1000));
    Launch {
        job,
        uid: uid.to_string(),
        scope: settings.scope.clone(),
        hints: settings.hints.clone(),
        argv: process
            .command
            .iter()
            .chain(&process.args)
            .cloned()
            .collect(),
        env: env
            .into_iter()
            .map(|(name, value)| format!("{name}={value}").into_bytes())
            .collect(),
        working_dir: process.working_dir.clone(),
        user: process.run_as_user,
        group: process.run_as_group,
        groups: process.supplemental_groups.clone(),
        rlimits: rlimits(settings, process),
        timeout_ms: spec.timeout_seconds.map(|s| s.saturating_mul(1000)),
        grace_ms: grace.unwrap_or(settings.grace_ms),
        stop_signal,
        kill_leftovers: process.leftover_processes == Some(LeftoverProcesses::Kill),
        sync: settings.sync,
        log_bytes_max: settings.log_bytes_max,
        pre_start: None,
        post_stop: None,
        cgroups: Vec::new(),
        oom_counters: Vec::new(),
        mode: Mode::Local,
        remote: None,
    }
}

/// A launch order as a file that was never on a disk, ready to be read.
pub(crate) fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"launch", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}
