//! The agent: serves the documented HTTP API over supervised, crash-safe processes.
#![forbid(unsafe_code)]

pub mod auth;
mod cgroups;
pub mod config;
pub mod http;
pub mod logs;
pub mod manager;
pub mod metrics;
mod runtime;
pub mod server;
mod store;
pub mod telemetry;
pub mod tls;
