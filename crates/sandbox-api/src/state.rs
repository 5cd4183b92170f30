//! The states of a task: waiting, running, terminated.
//!
//! ```text
//! Waiting ----> Running ----> Terminated
//!    |                            ^
//!    +----------------------------+
//! ```

use std::fmt;
use std::str::FromStr;

use crate::time::Timestamp;

/// Where a task is in its life. It never goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Accepted, not yet started.
    Waiting {
        /// What it waits for.
        reason: WaitingReason,
        /// Details for people.
        message: Option<String>,
    },
    /// Started, not yet ended.
    Running {
        /// When it was started.
        started_at: Timestamp,
    },
    /// Ended for good.
    Terminated(Terminated),
}

/// How a task ended; mirrors `ContainerStateTerminated` of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminated {
    /// Exit code; 128 + s when signal s ended it.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why it ended, in one word.
    pub reason: TerminatedReason,
    /// Details for people.
    pub message: Option<String>,
    /// When it was started; [`None`] when it never was.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// A word that is no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a known reason")]
pub struct UnknownReason;

/// An enum of reasons, each with its word.
macro_rules! reasons {
    ($(#[$outer:meta])* $name:ident { $($variant:ident, $word:literal, $doc:literal;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $doc] $variant,)*
        }

        impl $name {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownReason;

            fn from_str(text: &str) -> Result<Self, UnknownReason> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(UnknownReason),
                }
            }
        }
    };
}

reasons! {
    /// What a task waits for.
    WaitingReason {
        Initialized, "Initialized", "Its start, which follows at once.";
        Queued, "Queued", "A place among those that may run at once.";
        StartRetry, "StartRetry", "The next attempt to start it, after one that was not its fault.";
        DiskFull, "DiskFull", "Room in the data directory.";
        MainContainerNotFound, "MainContainerNotFound", "The main container, in sidecar mode.";
        MainContainerAmbiguous, "MainContainerAmbiguous", "That one container can be told to be the main one.";
        PullingImage, "PullingImage", "Its image, which is being pulled.";
        ErrImagePull, "ErrImagePull", "Its image; an attempt to pull it has just failed.";
        ImagePullBackOff, "ImagePullBackOff", "The next attempt to pull its image.";
    }
}

reasons! {
    /// Why a task ended.
    TerminatedReason {
        Succeeded, "Succeeded", "It exited with 0.";
        Failed, "Failed", "It exited with another code, or a signal ended it.";
        TaskTimeout, "TaskTimeout", "Its time was over.";
        StartError, "StartError", "It could not be started.";
        OomKilled, "OOMKilled", "It ran out of memory.";
        PreStartHookFailed, "PreStartHookFailed", "Its hook failed, so it was not started.";
        Unknown, "Unknown", "How it ended is not known; never a success.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_back_as_itself() {
        for reason in TerminatedReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
        }
        for reason in WaitingReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
        }
        assert_eq!(
            "ProcessCrashed".parse::<TerminatedReason>(),
            Err(UnknownReason)
        );
    }
}
