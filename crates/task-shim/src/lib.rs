//! The small synchronous roles of the agent's program file: the shim, which supervises
//! one task, the launcher, of which shims are forked, and the init, which keeps the server
//! running.
//!
//! All are entered from `main` before anything else is set up, have one thread, and
//! share no memory with the server. What a shim knows reaches others only through the
//! records in the task's directory ([`record`]), the lock that it holds ([`lock`]) and
//! hints that a record is worth reading ([`hint`]).
//!
//! ```text
//! init ──► server ──► launcher ──► shim ──► the task's process tree
//!  (restarts it) (restarts it)  (one per task; lives on when any of the others dies)
//! ```
#![forbid(unsafe_code)]

pub mod cgroup;
mod clock;
mod enter;
pub mod hint;
pub mod init;
pub mod launch;
pub mod launcher;
pub mod lock;
mod logcap;
mod orphans;
pub mod proc;
pub mod record;
mod relay;
mod shim;
mod signals;
mod spawn;
pub mod tree;

/// `argv[0]` that selects the launcher role; the shims that are forked from it keep it.
pub const SHIM_ROLE: &str = "task-shim";
/// Directory below the data directory for what could not be read.
pub const ASIDE_DIR: &str = ".corrupt";
/// `argv[0]` that selects the server role.
pub const SERVER_ROLE: &str = "task-executor-server";
