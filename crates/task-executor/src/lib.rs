//! The agent: serves the documented HTTP API over supervised, crash-safe processes.
#![forbid(unsafe_code)]

pub mod auth;
mod cgroups;
pub mod config;
mod copy;
mod fd;
pub mod http;
mod instance;
mod launcher;
pub mod logs;
pub mod manager;
pub mod metrics;
mod probe;
mod runtime;
pub mod server;
mod sidecar;
mod store;
pub mod telemetry;
pub mod tls;
