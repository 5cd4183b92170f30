//! Durable task records: one directory per task, made and removed in one step each.
//!
//! ```text
//! DATA_DIR/.agent/{lock,hints}     the server's own
//! DATA_DIR/.new/UID, .trash/UID    half made, half removed: emptied at start
//! DATA_DIR/.spare/N                emptied, for a task to come: emptied at start too
//! DATA_DIR/.corrupt/               what could not be read
//! DATA_DIR/NAME/task.json          the accepted task, framed
//! DATA_DIR/NAME/delete.rec         being deleted; holds the successor, if one was set
//! ```
//! The manager describes what is to change as [`Op`]s, several of them in one [`Change`]
//! that happens as a whole or not at all. The [`worker`] carries out whatever changes have
//! come together, with one flush for all of them under `--durability=sync`.

mod changes;
mod files;
mod load;
mod spares;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandbox_api::{NewTask, TaskName, TaskUid};
use task_shim::record::{self, ExitRecord};

pub(crate) use load::Loaded;
pub(crate) use worker::{Carried, Worker};

/// A task that is to have a name, at once or after another: its uid, its place in the order of acceptance, itself.
pub(crate) type Newcomer = (TaskUid, u64, Arc<NewTask>);

/// What a shim records, in an order in which it can be taken away.
const RECORDS: [&str; 3] = [record::RUN_FILE, record::EXIT_FILE, record::POST_FILE];

/// A task as it is kept.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) uid: TaskUid,
    pub(crate) created: u64,
    pub(crate) task: NewTask,
    /// When its deletion was asked for, and what is to follow it.
    pub(crate) deletion: Option<(i64, Option<Newcomer>)>,
}

impl Stored {
    fn new((uid, created, task): &Newcomer) -> Self {
        Self {
            uid: uid.clone(),
            created: *created,
            task: NewTask::clone(task),
            deletion: None,
        }
    }

    /// The highest place in the order of acceptance that is taken.
    pub(crate) fn last_created(&self) -> u64 {
        let next = self.deletion.as_ref().and_then(|(_, next)| next.as_ref());
        next.map_or(self.created, |(_, created, _)| self.created.max(*created))
    }
}

/// One step of a change.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Makes a task's directory appear with its record in it.
    Create(Newcomer),
    /// Notes that a task is being deleted since a time (Unix seconds), and what follows it.
    Mark(TaskName, i64, Option<Newcomer>),
    /// Removes a task of which nothing runs; its successor takes the name.
    Remove(TaskName, TaskUid, Option<Newcomer>),
    /// Records an end that no shim is going to record.
    Exit(TaskName, ExitRecord, After),
    /// Records that a postStop hook will not be run (again).
    NoPostStop(TaskName),
    /// Only tries whether the data directory can be written.
    Probe,
}

/// What there is to look after when an end has been recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing: the task is closed.
    Nothing,
    /// What its command has left behind, by the shim.
    Leftovers,
}

/// Steps that happen together or not at all.
pub(crate) type Change = Vec<Op>;

/// The data directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
    sync: bool,
    spares: spares::Spares,
}

impl Store {
    /// Path of a task's directory.
    pub(crate) fn dir(&self, name: &TaskName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// Path of the FIFO on which shims send hints.
    pub(crate) fn hints(&self) -> PathBuf {
        self.root.join(".agent/hints")
    }

    fn half_made(&self, uid: &TaskUid) -> PathBuf {
        self.root.join(".new").join(uid.as_str())
    }

    fn trash(&self, uid: &TaskUid) -> PathBuf {
        self.root.join(".trash").join(uid.as_str())
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}
