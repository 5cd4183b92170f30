//! The HTTP API: requests in, commands to the task manager, JSON out.
//!
//! ```text
//! serve ── accepts, one task per connection ──► router ── auth, count ──► tasks, lists, watch,
//!   │                                                                     logs, admin ──► Handle
//!   └── shutdown ──► Stop ──► connections, long polls, watches and followed logs end
//! ```
//!
//! Nothing here owns task state. Whatever a client can make grow is bounded: connections
//! ([`Options::max_connections`]), bytes of request bodies ([`limits`]), waiting commands
//! ([`crate::manager::handle`]), and one chunk for each streamed response ([`stream`]).

mod activity;
mod admin;
mod connection;
mod error;
mod limits;
mod lists;
mod logs;
mod query;
mod respond;
mod router;
mod serve;
pub(crate) mod stamp;
mod stop;
pub(crate) mod stream;
mod tasks;
mod watch;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::auth::TokenFile;
use crate::manager::handle::Handle;
use crate::metrics::Metrics;

pub use serve::{bind, serve};

use limits::Limits;
use stop::Stop;

/// What the HTTP server needs to know besides its manager.
#[derive(Debug)]
pub struct Options {
    /// The largest request body.
    pub max_request_bytes: usize,
    /// Connections that may be open at once.
    pub max_connections: usize,
    /// The token that requests must carry, when one is needed.
    pub token: Option<TokenFile>,
    /// Times that a client may take.
    pub timeouts: Timeouts,
}

impl Options {
    /// Connections unless said otherwise: about 13 MiB when each of them has been used and is idle.
    pub const MAX_CONNECTIONS: usize = 4096;

    /// The given limit and token; all else as it should be outside of tests.
    pub fn new(max_request_bytes: usize, token: Option<TokenFile>) -> Self {
        let max_connections = Self::MAX_CONNECTIONS;
        Self {
            max_request_bytes,
            max_connections,
            token,
            timeouts: Timeouts::default(),
        }
    }
}

/// How long things may take. Tests make these short.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the first byte of a request to the end of its header.
    pub header: Duration,
    /// For the whole body of a request.
    pub body: Duration,
    /// Between requests. More than the 90 s of Go's client, which then is the one to close.
    pub idle: Duration,
    /// From the end of a request until its connection gives its buffers back.
    pub park: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For any progress of a response that is not a stream.
    pub stalled_write: Duration,
    /// Silence in a watch until a bookmark is sent.
    pub heartbeat: Duration,
    /// From the wish to shut down to the end of the last connection.
    pub shutdown: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: Duration::from_mins(2),
            park: Duration::from_secs(1),
            handshake: Duration::from_secs(10),
            stalled_write: Duration::from_mins(1),
            heartbeat: Duration::from_secs(30),
            shutdown: Duration::from_secs(10),
        }
    }
}

/// What all requests share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App(Arc<Shared>);

/// What an [`App`] points to. Opaque from outside.
#[derive(Debug)]
pub struct Shared {
    manager: Handle,
    metrics: Arc<Metrics>,
    options: Options,
    /// What `/capabilities` answers, without a trailing newline.
    capabilities: Bytes,
    /// Whether sidecar mode is on, and why it can't be used.
    sidecar: Option<Result<(), String>>,
    limits: Limits,
    stop: Stop,
}

impl App {
    /// Puts together what requests need.
    pub fn new(
        manager: Handle,
        metrics: Arc<Metrics>,
        options: Options,
        capabilities: &Capabilities,
    ) -> Self {
        let limits = Limits::new(options.max_request_bytes, options.timeouts.body);
        let sidecar = capabilities.sidecar.as_ref();
        let sidecar = sidecar.map(|sidecar| sidecar.problem().map_or(Ok(()), Err));
        // A struct of plain fields always has a JSON form.
        let capabilities = serde_json::to_vec(capabilities).unwrap_or_default().into();
        let stop = Stop::default();
        Self(Arc::new(Shared {
            manager,
            metrics,
            options,
            capabilities,
            sidecar,
            limits,
            stop,
        }))
    }
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What this agent can do here: the answer of `/capabilities`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// The agent's version.
    pub version: String,
    /// Ways to run a task.
    pub modes: Modes,
    /// Features that were found in the kernel.
    pub kernel: Kernel,
    /// Control groups.
    pub cgroup: Cgroup,
    /// What the agent itself may do.
    pub privileges: Privileges,
    /// Sidecar mode, when it was switched on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Sidecar>,
    /// Bounds that are in force.
    pub limits: Bounds,
    /// Whether the agent is PID 1 of its PID namespace.
    pub pid1: bool,
    /// Whether an init process of the agent's own watches over the server.
    pub init: bool,
}

/// Ways to run a task, and whether each is on.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Modes {
    /// Beside the agent.
    pub process: bool,
    /// Inside of the main container.
    pub sidecar: bool,
    /// Through a CRI runtime.
    pub container: bool,
}

/// Features of the kernel that the agent uses where it finds them.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kernel {
    /// Release as `uname -r` gives it.
    pub release: String,
    /// `pidfd_open` (Linux 5.3).
    pub pidfd: bool,
    /// `cgroup.kill` (Linux 5.14).
    pub cgroup_kill: bool,
    /// `close_range` (Linux 5.9).
    pub close_range: bool,
}

/// Control groups as the agent finds them.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    /// 1 or 2; 0 when none are mounted.
    pub version: u8,
    /// Whether the agent may make groups of its own.
    pub delegated: bool,
    /// Controllers that such groups have: the limits that a task can be given.
    pub controllers: Vec<String>,
    /// The limits that a task runs without, each with the reason.
    pub unavailable: Vec<String>,
}

/// What the agent itself may do.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Privileges {
    /// Its effective user.
    pub uid: u32,
    /// Its effective capabilities, such as `CAP_SYS_ADMIN`.
    pub capabilities: Vec<String>,
}

/// Sidecar mode.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// The main container's name.
    pub main_container_name: String,
    /// Capabilities that the agent would need for it and does not have.
    pub missing_capabilities: Vec<String>,
}

impl Sidecar {
    /// Why tasks can't be run in the main container, if that is so.
    fn problem(&self) -> Option<String> {
        let missing = &self.missing_capabilities;
        (!missing.is_empty()).then(|| format!("the agent lacks {}", missing.join(" and ")))
    }
}

/// Bounds that are in force.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bounds {
    /// Records kept at once.
    pub max_tasks: usize,
    /// Tasks running at once; 0 is no limit.
    pub max_concurrent_tasks: usize,
    /// Bytes of a request body.
    pub max_request_bytes: usize,
    /// Open connections.
    pub max_connections: usize,
    /// Open files of the agent (`RLIMIT_NOFILE`).
    pub open_files: u64,
}
