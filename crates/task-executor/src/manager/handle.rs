//! What the rest of the agent may ask of the manager: a bounded queue of commands.
//!
//! One task owns all task state (see [`crate::manager`]). Everything else holds a
//! [`Handle`] and sends it a [`Command`] that carries the reply channel. A full queue
//! answers [`Refused::Busy`] at once instead of letting memory grow.

use std::path::PathBuf;

use bytes::Bytes;
use sandbox_api::{NewTask, TaskName, TaskUid};
use tokio::sync::{broadcast, mpsc, oneshot};

/// Commands that may wait for the manager at once. Each is at most one request body
/// (already parsed), and a busy manager drains thousands a second, so a full queue
/// means that the agent is overloaded and says so.
pub(crate) const QUEUE_MAX: usize = 1024;

/// Events kept for late watchers. A watcher that falls further behind gets `410 Gone`.
pub(crate) const HISTORY_MAX: usize = 4096;

/// Why the manager did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No task of that name.
    #[error("task {0} not found")]
    NotFound(TaskName),
    /// A task of that name exists already.
    #[error("task {0} already exists; delete it first, or use setTasks to replace it")]
    Exists(TaskName),
    /// The data directory has something else of that name.
    #[error(
        "the data directory holds something named {0} that is not a task; remove it, or choose another name"
    )]
    Foreign(TaskName),
    /// The `uid` precondition does not hold.
    #[error("task {name} has uid {found}, not {wanted}")]
    UidMismatch {
        /// The task that was named.
        name: TaskName,
        /// The uid of the task that has this name now.
        found: TaskUid,
        /// The uid that the caller insisted on.
        wanted: TaskUid,
    },
    /// `--max-tasks` records are kept already.
    #[error("{0} tasks are kept already, the limit of --max-tasks; delete finished ones")]
    TooMany(usize),
    /// The task is valid, but this agent can't run it; the text names field and remedy.
    #[error("{0}")]
    Unsupported(String),
    /// The data directory has no room.
    #[error("the data directory is full: {0}")]
    StorageFull(String),
    /// The data directory could not be written for another reason.
    #[error("the data directory could not be written: {0}")]
    Storage(String),
    /// Too many commands wait already, or the agent is stopping.
    #[error("the agent is busy or stopping; try again")]
    Busy,
}

/// All tasks at one moment, ready to be sent.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The JSON array, without a trailing newline.
    pub body: Bytes,
    /// The resource version that the array shows.
    pub version: u64,
}

/// One task at one moment, ready to be sent.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The JSON object, without a trailing newline.
    pub body: Bytes,
}

/// Where a task's logs are, and how to learn that nothing more will be written.
#[derive(Debug)]
pub struct LogSource {
    /// Directory that holds `stdout.log` and `stderr.log`. May vanish when the task is deleted.
    pub dir: PathBuf,
    /// Resolves (also by being dropped) once the task is over or gone.
    pub ended: oneshot::Receiver<()>,
}

/// What happened to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// First seen.
    Added,
    /// Its state, or its deletion mark, changed.
    Modified,
    /// Nothing of it is left.
    Deleted,
}

/// One event of a watch.
#[derive(Debug, Clone)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// The version that this event led to. Strictly increasing.
    pub version: u64,
    /// The task's JSON object after the change (for `Deleted`: the last that was known).
    pub object: Bytes,
}

/// A watch: first `backlog`, then whatever `live` brings.
#[derive(Debug)]
pub struct Subscription {
    /// Events to send at once: since the version asked for, or `Added` for every task.
    pub backlog: Vec<Change>,
    /// The version after the backlog, sent as a bookmark.
    pub version: u64,
    /// Later events. `Lagged` means that the watcher was too slow: end it with 410.
    pub live: broadcast::Receiver<Change>,
}

/// How a watch can't be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "resource version {asked} is not in the history that is kept ({oldest} to {newest}); list again"
)]
pub struct Gone {
    /// The version that was asked for.
    pub asked: u64,
    /// The oldest version that a watch can start from.
    pub oldest: u64,
    /// The version of now.
    pub newest: u64,
}

/// What `/readyz`, `/health` and `/metrics` show of the manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the agent can't do its job, when it can't.
    pub failing: Option<String>,
    /// Tasks by state: waiting, running, terminated.
    pub waiting: usize,
    /// Tasks whose process tree was started and is not over.
    pub running: usize,
    /// Tasks that are over and kept.
    pub terminated: usize,
    /// Tasks that are being deleted (counted in the three above as well).
    pub deleting: usize,
    /// Records that could not be read at start and were set aside: directory names.
    pub corrupt: Vec<String>,
}

/// One request to the manager.
#[derive(Debug)]
pub(crate) enum Command {
    Create(Box<NewTask>, oneshot::Sender<Result<Shown, Refused>>),
    Set(Vec<NewTask>, oneshot::Sender<Result<Listing, Refused>>),
    Delete(
        TaskName,
        Option<TaskUid>,
        oneshot::Sender<Result<(), Refused>>,
    ),
    Get(
        TaskName,
        Option<TaskUid>,
        oneshot::Sender<Result<Shown, Refused>>,
    ),
    /// Answered when the task is terminated or gone.
    Wait(
        TaskName,
        Option<TaskUid>,
        oneshot::Sender<Result<Shown, Refused>>,
    ),
    List(oneshot::Sender<Listing>),
    Watch(Option<u64>, oneshot::Sender<Result<Subscription, Gone>>),
    Logs(
        TaskName,
        Option<TaskUid>,
        oneshot::Sender<Result<LogSource, Refused>>,
    ),
    Health(oneshot::Sender<Health>),
}

/// A cloneable way to ask the manager.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    pub(crate) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .try_send(command(reply))
            .map_err(|_| Refused::Busy)?;
        answer.await.map_err(|_| Refused::Busy)
    }

    /// Creates one task. Answers once its record is durable.
    pub async fn create(&self, task: NewTask) -> Result<Shown, Refused> {
        self.ask(|reply| Command::Create(Box::new(task), reply))
            .await?
    }

    /// Makes `tasks` the desired set. Answers once every record is durable.
    pub async fn set(&self, tasks: Vec<NewTask>) -> Result<Listing, Refused> {
        self.ask(|reply| Command::Set(tasks, reply)).await?
    }

    /// Marks a task for deletion. Unknown names are no error.
    pub async fn delete(&self, name: TaskName, uid: Option<TaskUid>) -> Result<(), Refused> {
        self.ask(|reply| Command::Delete(name, uid, reply)).await?
    }

    /// Shows one task.
    pub async fn get(&self, name: TaskName, uid: Option<TaskUid>) -> Result<Shown, Refused> {
        self.ask(|reply| Command::Get(name, uid, reply)).await?
    }

    /// Shows one task as soon as it is terminated; an error when it is gone.
    /// Has no deadline of its own: wrap it in a timeout. Cancel safe.
    pub async fn wait(&self, name: TaskName, uid: Option<TaskUid>) -> Result<Shown, Refused> {
        self.ask(|reply| Command::Wait(name, uid, reply)).await?
    }

    /// Shows all tasks: in name order, those being deleted last.
    pub async fn list(&self) -> Result<Listing, Refused> {
        self.ask(Command::List).await
    }

    /// Opens a watch from a version, or from scratch.
    pub async fn watch(&self, since: Option<u64>) -> Result<Result<Subscription, Gone>, Refused> {
        self.ask(|reply| Command::Watch(since, reply)).await
    }

    /// Finds a task's logs.
    pub async fn logs(&self, name: TaskName, uid: Option<TaskUid>) -> Result<LogSource, Refused> {
        self.ask(|reply| Command::Logs(name, uid, reply)).await?
    }

    /// Counts, and whether the agent can do its job.
    pub async fn health(&self) -> Result<Health, Refused> {
        self.ask(Command::Health).await
    }
}
