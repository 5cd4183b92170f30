//! Reading what a task's records and its shim say about it.

use std::fs::File;
use std::io;
use std::path::Path;

use sandbox_api::{Terminated, TerminatedReason, Timestamp};
use task_shim::lock;
use task_shim::record::{self, ExitRecord, Outcome, PostRecord, RunRecord};

use super::plan::{Found, Seen};

/// Reads a task's records. A record of another uid counts as unreadable.
pub(crate) fn look(dir: &Path, uid: &str) -> io::Result<Seen> {
    let dir = File::open(dir)?;
    // The shim first: if it is gone now, its records are final.
    let shim = lock::holder(&dir, lock::TASK_FILE)?;
    let run = found(record::read(&dir, record::RUN_FILE)?, |b| {
        RunRecord::decode(b).ok().filter(|r| r.uid == uid)
    });
    let run_at = match run {
        Found::Unreadable => Some(record::written_at(&dir, record::RUN_FILE)?),
        Found::Nothing | Found::Record(_) => None,
    };
    let exit = found(record::read(&dir, record::EXIT_FILE)?, |b| {
        ExitRecord::decode(b).ok().filter(|r| r.uid == uid)
    });
    let post = found(record::read(&dir, record::POST_FILE)?, |b| {
        PostRecord::decode(b).ok()
    });
    Ok(Seen {
        shim,
        run,
        run_at,
        exit,
        post,
    })
}

fn found<T>(bytes: Option<Vec<u8>>, decode: impl Fn(&[u8]) -> Option<T>) -> Found<T> {
    bytes.map_or(Found::Nothing, |b| {
        decode(&b).map_or(Found::Unreadable, Found::Record)
    })
}

/// The wire form of an exit record.
pub(crate) fn terminated(exit: &ExitRecord) -> Terminated {
    let reason = match exit.outcome {
        Outcome::Ended if exit.code == 0 => TerminatedReason::Succeeded,
        Outcome::Ended => TerminatedReason::Failed,
        Outcome::TimedOut => TerminatedReason::TaskTimeout,
        Outcome::StartError => TerminatedReason::StartError,
        Outcome::OomKilled => TerminatedReason::OomKilled,
        Outcome::PreStartFailed => TerminatedReason::PreStartHookFailed,
        Outcome::Lost => TerminatedReason::Unknown,
    };
    Terminated {
        exit_code: exit.code,
        signal: exit.signal,
        reason,
        message: (!exit.message.is_empty()).then(|| exit.message.clone()),
        started_at: exit.started_at.and_then(Timestamp::from_unix_seconds),
        finished_at: stamp(exit.finished_at),
    }
}

/// Unix seconds as a timestamp; what is out of range shows as the epoch.
pub(crate) fn stamp(seconds: i64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
        .or_else(|| Timestamp::from_unix_seconds(0))
        .unwrap_or_else(|| unreachable!("the epoch is a time"))
}
