//! A task as a client reads it back, from this agent or from `OpenSandbox`'s own.

use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};

use crate::decode::decode;
use crate::spec::Dialect;
use crate::time::Timestamp;
use crate::wire::{Object, Skipped};

/// What a task says of itself, in either dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskReport {
    /// Its name, not checked.
    pub name: String,
    /// Its uid; `OpenSandbox`'s agent gives none.
    pub uid: Option<String>,
    /// The shape that the answer has.
    pub dialect: Dialect,
    /// Since when it is being deleted.
    pub deletion_timestamp: Option<Timestamp>,
    /// Where it is in its life; [`None`] when the agent does not say.
    pub state: Option<ReportedState>,
    /// `podStatus.phase` of a Pod: `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub pod_phase: Option<String>,
    /// What the client should know but need not act on.
    pub warnings: Vec<String>,
}

/// A state as an agent reports it. Reasons are plain text, since every agent has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportedState {
    /// Not yet started.
    Waiting {
        /// What it waits for; may be empty.
        reason: String,
        /// Details for people.
        message: Option<String>,
    },
    /// Started, not yet ended.
    Running {
        /// When it was started.
        started_at: Option<Timestamp>,
    },
    /// Ended for good.
    Terminated {
        /// Exit code; 128 + s when signal s ended it.
        exit_code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Why it ended; may be empty.
        reason: String,
        /// Details for people.
        message: Option<String>,
        /// When it was started.
        started_at: Option<Timestamp>,
        /// When it ended.
        finished_at: Option<Timestamp>,
    },
}

/// An answer that is no task or list of tasks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{}{problem}", if path.is_empty() { "" } else { ": " })]
pub struct InvalidReport {
    /// Where, such as `[3].status.state`; empty for the whole answer.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

/// Reads the answer to `POST /tasks` or `GET /tasks/{name}`. Unknown fields are passed over.
///
/// # Errors
/// [`InvalidReport`] when it is no JSON object with a name and states of the right types.
pub fn parse_report(body: &[u8]) -> Result<TaskReport, InvalidReport> {
    read::<Object<WireReport>>(body).map(|wire| wire.0.into())
}

/// Reads the answer to `POST /setTasks` or `GET /getTasks`. Unknown fields are passed over.
///
/// # Errors
/// [`InvalidReport`] when it is no JSON array of such objects.
pub fn parse_reports(body: &[u8]) -> Result<Vec<TaskReport>, InvalidReport> {
    let wire = read::<Vec<Object<WireReport>>>(body)?;
    Ok(wire.into_iter().map(|wire| wire.0.into()).collect())
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, InvalidReport> {
    let read = decode(body, PhantomData::<T>, |_| {});
    read.map_err(|invalid| InvalidReport {
        path: invalid.path,
        problem: invalid.problem,
    })
}

/// A task in an answer, either dialect.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireReport {
    name: String,
    uid: Option<String>,
    #[serde(default, deserialize_with = "time")]
    deletion_timestamp: Option<Timestamp>,
    spec: Option<Skipped>,
    status: Option<Object<WireStatus>>,
    process_status: Option<Object<WireState>>,
    pod_status: Option<Object<WirePodStatus>>,
    warnings: Option<Vec<String>>,
}

/// The state of a task.
#[derive(Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "TaskStatus")
)]
pub(crate) struct WireStatus {
    /// Where the task is in its life.
    state: Option<Object<WireState>>,
}

/// Where a task is in its life: exactly one member.
#[derive(Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "TaskState")
)]
pub(crate) struct WireState {
    /// Accepted, not yet started.
    waiting: Option<Object<WireWaiting>>,
    /// Started, not yet ended.
    running: Option<Object<WireRunning>>,
    /// Ended for good.
    terminated: Option<Object<WireTerminated>>,
}

/// Accepted, not yet started.
#[derive(Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Waiting")
)]
pub(crate) struct WireWaiting {
    /// What the task waits for, in one word.
    reason: Option<String>,
    /// Details for people.
    message: Option<String>,
}

/// Started, not yet ended.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Running")
)]
pub(crate) struct WireRunning {
    /// When the task was started.
    #[serde(default, deserialize_with = "time")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>", extend("format" = "date-time")))]
    started_at: Option<Timestamp>,
}

/// Ended for good.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Terminated")
)]
pub(crate) struct WireTerminated {
    /// Exit code; 128 + s when signal s ended the task.
    exit_code: i32,
    /// The signal that ended the task.
    signal: Option<i32>,
    /// Why the task ended, in one word.
    reason: Option<String>,
    /// Details for people.
    message: Option<String>,
    /// When the task was started; absent when it never was.
    #[serde(default, deserialize_with = "time")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>", extend("format" = "date-time")))]
    started_at: Option<Timestamp>,
    /// When the task ended.
    #[serde(default, deserialize_with = "time")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>", extend("format" = "date-time")))]
    finished_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct WirePodStatus {
    phase: Option<String>,
}

/// A time that may be null, or the zero time of Go, both of which mean that it is not set.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    const GO_ZERO_TIME: i64 = -62_135_596_800;

    let time = Option::<Timestamp>::deserialize(deserializer)?;
    Ok(time.filter(|time| time.as_unix_seconds() != GO_ZERO_TIME))
}

impl From<WireReport> for TaskReport {
    fn from(wire: WireReport) -> Self {
        let is_nested = wire.spec.is_some() || wire.status.is_some();
        let state = match wire.status {
            Some(Object(status)) => status.state,
            None => wire.process_status,
        };
        Self {
            name: wire.name,
            uid: wire.uid,
            dialect: if is_nested {
                Dialect::Nested
            } else {
                Dialect::Flat
            },
            deletion_timestamp: wire.deletion_timestamp,
            state: state.and_then(|Object(state)| reported(state)),
            pod_phase: wire.pod_status.and_then(|Object(status)| status.phase),
            warnings: wire.warnings.unwrap_or_default(),
        }
    }
}

/// The state that is set; the latest one if there are several.
fn reported(wire: WireState) -> Option<ReportedState> {
    if let Some(Object(end)) = wire.terminated {
        return Some(ReportedState::Terminated {
            exit_code: end.exit_code,
            signal: end.signal,
            reason: end.reason.unwrap_or_default(),
            message: end.message,
            started_at: end.started_at,
            finished_at: end.finished_at,
        });
    }
    if let Some(Object(running)) = wire.running {
        return Some(ReportedState::Running {
            started_at: running.started_at,
        });
    }
    wire.waiting.map(|Object(waiting)| ReportedState::Waiting {
        reason: waiting.reason.unwrap_or_default(),
        message: waiting.message,
    })
}

#[cfg(test)]
mod tests;
