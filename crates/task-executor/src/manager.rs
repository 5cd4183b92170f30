//! The one owner of all task state.
//!
//! ```text
//! waiting ──launch──► running ──exit record──► terminated
//!    └───────────────────┴── DELETE or changed spec ──► stopping ──► removed ──► successor
//! ```
//! Commands come in over a bounded queue, news of shims as hints and pidfds. Whatever
//! brings news, the answer is the same: read the task's records ([`inspect`]) and act.

pub(crate) mod handle;
mod inspect;
mod owner;
mod tasks;

pub use handle::{
    Change, ChangeKind, Gone, Handle, Health, Listing, LogSource, Refused, Shown, Subscription,
};
pub(crate) use owner::{Bounds, Owner};
