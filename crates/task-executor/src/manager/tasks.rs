//! One task in memory, and how it is shown.

use std::sync::Arc;

use bytes::Bytes;
use sandbox_api::{NewTask, State, TaskUid, TaskView, Timestamp, WaitingReason, render};
use sandbox_sys::PidFd;
use tokio::sync::oneshot;

use super::handle::{Refused, Shown};

/// What is to follow a task that is being deleted.
pub(super) type Successor = (TaskUid, NewTask);

/// A deletion under way.
#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) since: Timestamp,
    pub(super) successor: Option<Successor>,
}

/// One task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) uid: TaskUid,
    pub(super) created: u64,
    /// What was asked for.
    pub(super) asked: NewTask,
    pub(super) state: State,
    pub(super) deletion: Option<Deletion>,
    /// Its shim, while one lives.
    pub(super) shim: Option<Arc<PidFd>>,
    /// Launches that ended without a trace of the task.
    pub(super) attempts: u32,
    pub(super) waiters: Vec<oneshot::Sender<Result<Shown, Refused>>>,
    pub(super) readers: Vec<oneshot::Sender<()>>,
    /// Limits that it runs without.
    pub(super) warnings: Vec<String>,
    pub(super) body: Bytes,
}

impl Task {
    /// A task that waits to be started.
    pub(super) fn new(uid: TaskUid, created: u64, task: NewTask) -> Self {
        let state = State::Waiting {
            reason: WaitingReason::Initialized,
            message: None,
        };
        let mut new = Self {
            uid,
            created,
            asked: task,
            state,
            deletion: None,
            shim: None,
            attempts: 0,
            waiters: Vec::new(),
            readers: Vec::new(),
            warnings: Vec::new(),
            body: Bytes::new(),
        };
        new.draw();
        new
    }

    /// Renders the wire form again, after a change.
    pub(super) fn draw(&mut self) {
        let view = TaskView {
            name: &self.asked.name,
            uid: &self.uid,
            dialect: self.asked.dialect,
            spec: &self.asked.spec,
            deletion_timestamp: self.deletion.as_ref().map(|d| d.since),
            state: &self.state,
            warnings: &self.warnings,
        };
        let mut body = Vec::with_capacity(256);
        render(&view, &mut body);
        self.body = body.into();
    }

    /// Whether it is over.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Terminated(_))
    }

    /// Whether it has a place among the running: started, and not over.
    pub(super) fn is_active(&self) -> bool {
        self.shim.is_some() && !self.is_over()
    }

    /// Whether it waits for its start.
    pub(super) fn is_waiting(&self) -> bool {
        self.shim.is_none() && matches!(self.state, State::Waiting { .. })
    }

    pub(super) fn shown(&self) -> Shown {
        Shown {
            body: self.body.clone(),
        }
    }
}
