//! The one owner of all task state.
//!
//! ```text
//! waiting ──launch──► running ──exit record──► terminated
//!    └───────────────────┴── DELETE or changed spec ──► stopping ──► removed ──► successor
//! ```
//! Commands come in over a bounded queue, news of shims as hints and pidfds. Whatever
//! brings news, the answer is the same: read the task's records ([`inspect`]), decide
//! ([`plan`], pure) and act ([`owner`]). Records are changed by the store's thread, shims
//! started by the launcher's; memory follows when they have answered.

mod feed;
pub(crate) mod handle;
mod inspect;
mod owner;
mod plan;
mod tasks;

pub use handle::{
    Change, ChangeKind, Gone, Handle, Health, Listing, LogSource, Refused, Shown, Subscription,
};
pub(crate) use owner::{Bounds, Owner, Tools};
