//! What can go wrong with a call, and what a caller can do about it.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// The calls of the API, for messages and for labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `POST /setTasks`
    SetTasks,
    /// `GET /getTasks`
    GetTasks,
    /// `GET /getTasks?watch=true`
    WatchTasks,
    /// `POST /tasks`
    CreateTask,
    /// `GET /tasks/{name}`
    GetTask,
    /// `GET /tasks/{name}?wait=`
    WaitTask,
    /// `DELETE /tasks/{name}`
    DeleteTask,
    /// `GET /tasks/{name}/logs`
    GetLogs,
    /// `GET /health`
    GetHealth,
    /// `GET /capabilities`
    GetCapabilities,
    /// `GET /version`
    GetVersion,
}

impl Call {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SetTasks => "setTasks",
            Self::GetTasks => "getTasks",
            Self::WatchTasks => "watchTasks",
            Self::CreateTask => "createTask",
            Self::GetTask => "getTask",
            Self::WaitTask => "waitTask",
            Self::DeleteTask => "deleteTask",
            Self::GetLogs => "getLogs",
            Self::GetHealth => "getHealth",
            Self::GetCapabilities => "getCapabilities",
            Self::GetVersion => "getVersion",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a failure calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Nobody answered, or not to the end. Whether the call took effect is not known; try again.
    Unreachable,
    /// The agent answered that it will not do it; its status and code say why.
    Refused,
    /// What answered is not an agent, or one that this client does not understand.
    BadAnswer,
}

impl Class {
    /// One word, for labels of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::BadAnswer => "bad_answer",
        }
    }
}

/// Why a call has no result. Messages name the agent and the call, and show nothing of what was sent.
///
/// The text of a refusal is the agent's own, which may quote a name or a field.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No connection: refused, no route, or not in time.
    #[error("{call} at {at}: no connection")]
    Connect {
        /// What was asked.
        call: Call,
        /// Whom.
        at: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// No complete answer in time.
    #[error("{call} at {at}: no complete answer within {after:?}")]
    TimedOut {
        /// What was asked.
        call: Call,
        /// Whom.
        at: SocketAddr,
        /// The deadline.
        after: Duration,
    },
    /// A stream brought nothing for too long, not even a sign of life.
    #[error("{call} at {at}: nothing came for {after:?}")]
    Silent {
        /// What was asked.
        call: Call,
        /// Whom.
        at: SocketAddr,
        /// The deadline.
        after: Duration,
    },
    /// The connection ended before the answer was complete.
    #[error("{call} at {at}: the connection was lost")]
    Lost {
        /// What was asked.
        call: Call,
        /// Whom.
        at: SocketAddr,
        /// What the connection says.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The agent refused.
    #[error("{call} at {at}: refused with {status} {code}: {message}")]
    Refused {
        /// What was asked.
        call: Call,
        /// Whom.
        at: SocketAddr,
        /// The HTTP status.
        status: u16,
        /// The agent's word for it, such as `TaskNotFound`; `OpenSandbox`'s agent repeats the
        /// name of the status, such as `Not Found`.
        code: Box<str>,
        /// The agent's words, shortened.
        message: Box<str>,
        /// After what time the agent wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The answer can't be what an agent says.
    #[error("{call} at {at}: bad answer: {problem}")]
    BadAnswer {
        /// What was asked.
        call: Call,
        /// Whom.
        at: SocketAddr,
        /// What is wrong with it.
        problem: Box<str>,
    },
}

impl CallError {
    /// What the failure calls for.
    pub fn class(&self) -> Class {
        match self {
            Self::Connect { .. }
            | Self::TimedOut { .. }
            | Self::Silent { .. }
            | Self::Lost { .. } => Class::Unreachable,
            Self::Refused { .. } => Class::Refused,
            Self::BadAnswer { .. } => Class::BadAnswer,
        }
    }

    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Connect { .. }
            | Self::TimedOut { .. }
            | Self::Silent { .. }
            | Self::Lost { .. }
            | Self::BadAnswer { .. } => None,
        }
    }

    /// Whether there is no such task.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether the version to watch from is too old, so that the caller has to list again.
    pub fn is_gone(&self) -> bool {
        self.status() == Some(410)
    }

    /// Whether the name has gone to a task with another uid.
    pub fn is_other_uid(&self) -> bool {
        self.status() == Some(412)
    }
}
