//! Wire types of the task-executor's HTTP API: what clients send, what the agent answers.
//!
//! Layer 0: values in, values out. No I/O, no clock, no async.
//!
//! Three shapes are kept apart: the JSON as it arrives (private serde structs), the strict domain
//! types that are exported here ([`NewTask`], [`TaskSpec`]), and the JSON that goes out or is stored
//! (written by hand, byte for byte the same each time).
//!
//! ```text
//! bytes --parse_one / parse_list--> NewTask --to_json--> stored record --parse_one--> NewTask
//!                                      |
//!                    TaskView + State --render--> bytes --parse_report--> TaskReport
//! ```
#![forbid(unsafe_code)]

mod check;
#[cfg(feature = "crd")]
pub mod crd;
mod decode;
mod echo;
mod error;
mod json;
mod limits;
mod name;
#[cfg(feature = "schema")]
pub mod openapi;
mod parse;
mod render;
mod report;
mod rlimit;
mod routes;
mod signal;
mod spec;
mod state;
mod time;
mod wire;

#[cfg(test)]
mod fixtures;

pub use error::{ErrorBody, ErrorCode};
pub use limits::{InvalidLimit, Limits};
pub use name::{InvalidName, TaskName, TaskUid};
pub use parse::{IGNORED_MAX, InvalidTask, Parsed, parse_list, parse_one};
pub use render::{TaskView, render};
pub use report::{InvalidReport, ReportedState, TaskReport, parse_report, parse_reports};
pub use rlimit::{Rlimit, RlimitResource, UnknownRlimit};
pub use routes::{ROUTES, Route};
pub use signal::{StopSignal, UnknownSignal};
pub use spec::{
    ContainerSpec, Dialect, EnvVar, ExecHook, ExecMode, LeftoverProcesses, Lifecycle, NewTask,
    PodTemplate, ProcessSpec, TaskSpec, VolumeMount, Work,
};
pub use state::{State, Terminated, TerminatedReason, UnknownReason, WaitingReason};
pub use time::{InvalidTimestamp, Timestamp};
