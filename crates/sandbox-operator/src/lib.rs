//! The operator: watches `BatchSandbox`, makes Pods, gives each its task, and tells the truth in status.
//!
//! What is decided is decided in `sandbox-planner`; here are the edges. `observe` reads, `execute` writes, `agents`
//! talks to agents, `lease` sees to it that only one replica acts, and `run` joins them.
#![forbid(unsafe_code)]

pub mod admin;
pub mod agents;
pub mod config;
pub mod connect;
pub mod crds;
pub mod execute;
pub mod lease;
pub mod metrics;
pub mod observe;
pub mod pace;
pub mod run;

pub use run::run;
