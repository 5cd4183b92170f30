//! What a task is: strict domain types, free of anything that could not be run.

use std::fmt;

use serde_json::Value;

use crate::limits::Limits;
use crate::name::TaskName;
use crate::rlimit::Rlimit;
use crate::signal::StopSignal;

/// Which of the two JSON shapes a task was written in, and is answered in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// `spec.process` and `status.state`, as in the usage guide.
    Nested,
    /// `process` and `processStatus`, as `OpenSandbox` has it since January 2026.
    Flat,
}

/// A task as a client asks for it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// Its name, unique within one agent.
    pub name: TaskName,
    /// The shape that it was written in.
    pub dialect: Dialect,
    /// What to run.
    pub spec: TaskSpec,
}

/// What to run and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// What to run.
    pub work: Work,
    /// Wall-clock seconds from start after which the task is ended; 1 to [`i64::MAX`].
    pub timeout_seconds: Option<u64>,
    /// Seconds from the stop signal to `SIGKILL`; 0 to [`i64::MAX`].
    pub termination_grace_period_seconds: Option<u64>,
}

/// The kinds of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A process beside the agent, or inside of the main container.
    Process(ProcessSpec),
    /// A container; always in the nested dialect.
    Container(ContainerSpec),
    /// A Pod; always in the flat dialect.
    Pod(PodTemplate),
}

/// A command to run as a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Program and first arguments; at least one element, the first not empty.
    pub command: Vec<String>,
    /// Further arguments.
    pub args: Vec<String>,
    /// Variables set on top of the inherited environment, in order; later ones win.
    pub env: Vec<EnvVar>,
    /// Absolute path of the directory to run in.
    pub working_dir: Option<String>,
    /// Whose namespaces to run in; [`None`] leaves it to the agent's mode.
    pub exec_mode: Option<ExecMode>,
    /// Hooks before and after, and the signal to stop with.
    pub lifecycle: Option<Lifecycle>,
    /// Numeric user; `securityContext.runAsUser` of Kubernetes. Never [`u32::MAX`].
    pub run_as_user: Option<u32>,
    /// Numeric group; `securityContext.runAsGroup` of Kubernetes. Never [`u32::MAX`].
    pub run_as_group: Option<u32>,
    /// Further groups; `securityContext.supplementalGroups` of Kubernetes.
    pub supplemental_groups: Vec<u32>,
    /// Limits by setrlimit(2), each resource at most once.
    pub rlimits: Vec<Rlimit>,
    /// Limits of the control group; `resources.limits` of Kubernetes.
    pub resources: Option<Limits>,
    /// What happens to processes that outlive the command; [`None`] means keep.
    pub leftover_processes: Option<LeftoverProcesses>,
}

/// An environment variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name: not empty, without `=` and NUL.
    pub name: String,
    /// Its value, without NUL.
    pub value: String,
}

/// Whose namespaces a process or hook runs in when the agent is a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExecMode {
    /// The agent's own.
    Local,
    /// The main container's.
    Remote,
}

/// A text that is none of the values of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {0}")]
pub(crate) struct UnknownValue(&'static str);

impl ExecMode {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "Local",
            Self::Remote => "Remote",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, UnknownValue> {
        match text {
            "Local" => Ok(Self::Local),
            "Remote" => Ok(Self::Remote),
            _ => Err(UnknownValue("\"Local\" or \"Remote\"")),
        }
    }
}

/// What runs around a process, and how it is asked to end. At least one member is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// Runs before the process; when it fails the process is not started.
    pub pre_start: Option<ExecHook>,
    /// Runs once after the process, however that ended.
    pub post_stop: Option<ExecHook>,
    /// Sent first to end the process, `SIGTERM` if [`None`]; `lifecycle.stopSignal` of Kubernetes.
    pub stop_signal: Option<StopSignal>,
}

/// A command of a [`Lifecycle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecHook {
    /// Program and arguments; at least one element, the first not empty.
    pub command: Vec<String>,
    /// Seconds after which the hook has failed; at least 1, [`None`] is no limit.
    pub timeout_seconds: Option<u64>,
    /// Whose namespaces to run in.
    pub exec_mode: Option<ExecMode>,
}

/// What happens to processes that a task leaves behind when it exits by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeftoverProcesses {
    /// They go on, as part of the task, until it is deleted, replaced or out of time.
    Keep,
    /// They are ended when the command exits.
    Kill,
}

impl LeftoverProcesses {
    /// The value on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "Keep",
            Self::Kill => "Kill",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, UnknownValue> {
        match text {
            "Keep" => Ok(Self::Keep),
            "Kill" => Ok(Self::Kill),
            _ => Err(UnknownValue("\"Keep\" or \"Kill\"")),
        }
    }
}

/// A container to run, in the words of a Kubernetes `Container`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Image reference; not empty.
    pub image: String,
    /// Replaces the image's entry point when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Variables set on top of those of the image.
    pub env: Vec<EnvVar>,
    /// Absolute path inside of the container.
    pub working_dir: Option<String>,
    /// Volumes of the agent to mount.
    pub volume_mounts: Vec<VolumeMount>,
    /// Limits of the container.
    pub resources: Option<Limits>,
}

/// A volume mounted into a container; `volumeMounts` of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// Name of a volume that the agent was started with; not empty.
    pub name: String,
    /// Absolute path inside of the container.
    pub mount_path: String,
    /// Whether the container may only read.
    pub read_only: bool,
    /// Relative path inside of the volume, without `..`; [`None`] mounts its root.
    pub sub_path: Option<String>,
}

/// A Kubernetes `PodTemplateSpec`, not looked into: a JSON object without NUL in its strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTemplate(pub(crate) Value);

impl PodTemplate {
    /// The JSON object.
    pub fn as_value(&self) -> &Value {
        &self.0
    }
}

impl fmt::Display for ExecMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for LeftoverProcesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
