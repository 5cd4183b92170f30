//! Process mode: turns a task into a launch order and starts a shim with it.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use sandbox_api::{ExecHook, LeftoverProcesses, ProcessSpec, TaskSpec, TaskUid};
use sandbox_sys::PidFd;
use task_shim::launch::{Hook, Job, Launch};
use task_shim::proc::Scope;

use crate::cgroups::Cgroups;

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
}

fn hook(hook: &ExecHook) -> Hook {
    Hook {
        argv: hook.command.clone(),
        timeout_ms: hook.timeout_seconds.map(|s| s.saturating_mul(1000)),
    }
}

/// The launch order for a task.
pub(crate) fn order(
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
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        working_dir: process.working_dir.clone(),
        user: process.run_as_user,
        group: process.run_as_group,
        groups: process.supplemental_groups.clone(),
        rlimits: process
            .rlimits
            .iter()
            .map(|r| (r.resource.number(), r.soft, r.hard))
            .collect(),
        timeout_ms: spec.timeout_seconds.map(|s| s.saturating_mul(1000)),
        grace_ms: grace.unwrap_or(settings.grace_ms),
        stop_signal,
        kill_leftovers: process.leftover_processes == Some(LeftoverProcesses::Kill),
        sync: settings.sync,
        log_bytes_max: settings.log_bytes_max,
        pre_start: lifecycle.and_then(|l| l.pre_start.as_ref()).map(hook),
        post_stop: lifecycle.and_then(|l| l.post_stop.as_ref()).map(hook),
        cgroups: Vec::new(),
        oom_counters: Vec::new(),
    }
}

/// Starts a shim in a task's directory.
pub(crate) fn start(dir: &Path, launch: &Launch) -> io::Result<PidFd> {
    let mut order = File::from(memfd_create(c"launch", MFdFlags::MFD_CLOEXEC)?);
    order.write_all(&launch.encode())?;
    order.rewind()?;
    let child = Command::new("/proc/self/exe")
        .arg0(task_shim::SHIM_ROLE)
        .stdin(Stdio::from(order))
        .stdout(Stdio::from(File::open(dir)?))
        .stderr(Stdio::null())
        .spawn()?;
    // The server reaps whatever ends in one place, so this child is not waited for here;
    // that place runs on this same thread, so the pid can't be reused before it is opened.
    PidFd::open(Pid::from_raw(
        i32::try_from(child.id()).map_err(io::Error::other)?,
    ))
}
