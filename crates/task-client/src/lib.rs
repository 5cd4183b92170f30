//! Typed client of the task-executor's HTTP API, and of OpenSandbox's agent, which speaks a part of it.
//!
//! One [`Client`] serves any number of agents; an [`Endpoint`] says which. Every call has a deadline,
//! every answer a bound, and every failure is a [`CallError`] whose [`Class`] says what to do about it.
//!
//! ```text
//!   Client ──Ask──► exchange ──► kept-alive connections (hyper-util's pool) ──► Connector
//!      ▲               │  `─ connection lost while idle ─► one fresh connection, once
//!      └─ TaskList, Task, Watch, Logs ◄─ bounded body
//! ```
//!
//! OpenSandbox's agent has no uids, no versions and no watch: [`TaskList::version`] is [`None`] there
//! and [`Client::watch_tasks`] answers [`Watching::Unsupported`].
#![forbid(unsafe_code)]

mod client;
mod connect;
mod endpoint;
mod error;
mod exchange;
mod logs;
mod task;
mod watch;

pub use client::{Build, Client, Options};
pub use endpoint::{Endpoint, InvalidToken, Target};
pub use error::{Call, CallError, Class};
pub use logs::{LogQuery, LogStream, Logs};
pub use task::{InvalidVersion, ResourceVersion, Task, TaskList};
pub use watch::{Change, Watch, WatchEvent, Watching};
