//! What a task's records and its shim say about it. Recovery and everyday news are the same question.

use std::fs::File;
use std::io;
use std::path::Path;

use sandbox_api::{Terminated, TerminatedReason, Timestamp};
use task_shim::lock::{self, Holder};
use task_shim::record::{self, ExitRecord, Outcome, PostRecord, RunRecord};

/// One of the records, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found<T> {
    Nothing,
    Record(T),
    Unreadable,
}

/// All that was found, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) shim: Holder,
    pub(crate) run: Found<RunRecord>,
    pub(crate) exit: Found<ExitRecord>,
    pub(crate) post: Found<PostRecord>,
}

/// What it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was never started: start it, if that is wanted.
    NotStarted,
    /// A shim is at work and has not said yet what runs.
    Starting,
    /// It runs.
    Running(i64),
    /// It is over; a shim may still hold processes that it left behind.
    Over(Box<ExitRecord>),
    /// It is over, but its postStop hook was never started.
    OwesPostStop(Box<ExitRecord>),
    /// It was started, and nobody saw the end. The text says why.
    Lost(&'static str, Option<RunRecord>),
}

/// Decides. Pure: the whole table of recovery is here.
pub(crate) fn judge(seen: &Seen, has_post_stop: bool) -> Verdict {
    let alive = seen.shim != Holder::Nobody;
    match (&seen.exit, &seen.run, alive) {
        (Found::Record(exit), _, _) => {
            let pending = has_post_stop && seen.post == Found::Nothing;
            let working = has_post_stop && seen.post == Found::Record(PostRecord::Started);
            match (alive, pending, working) {
                (true, true, _) | (true, _, true) => {
                    Verdict::Running(exit.started_at.unwrap_or(exit.finished_at))
                }
                (false, true, _) => Verdict::OwesPostStop(Box::new(exit.clone())),
                _ => Verdict::Over(Box::new(exit.clone())),
            }
        }
        (_, Found::Record(run), true) => Verdict::Running(run.started_at),
        (_, _, true) => Verdict::Starting,
        (Found::Unreadable, run, false) => {
            Verdict::Lost("its exit record is unreadable", known(run))
        }
        (Found::Nothing, Found::Nothing, false) => Verdict::NotStarted,
        (Found::Nothing, Found::Unreadable, false) => Verdict::Lost(
            "its supervisor is gone and its run record is unreadable",
            None,
        ),
        (Found::Nothing, run, false) => Verdict::Lost(
            "its supervisor was killed, or its PID namespace ended, before the end was recorded",
            known(run),
        ),
    }
}

fn known(run: &Found<RunRecord>) -> Option<RunRecord> {
    match run {
        Found::Record(run) => Some(run.clone()),
        Found::Nothing | Found::Unreadable => None,
    }
}

/// Reads a task's records. A record of another uid counts as unreadable.
pub(crate) fn look(dir: &Path, uid: &str) -> io::Result<Seen> {
    let dir = File::open(dir)?;
    // The shim first: if it is gone now, its records are final.
    let shim = lock::holder(&dir)?;
    let run = found(record::read(&dir, record::RUN_FILE)?, |b| {
        RunRecord::decode(b).ok().filter(|r| r.uid == uid)
    });
    let exit = found(record::read(&dir, record::EXIT_FILE)?, |b| {
        ExitRecord::decode(b).ok().filter(|r| r.uid == uid)
    });
    let post = found(record::read(&dir, record::POST_FILE)?, |b| {
        PostRecord::decode(b).ok()
    });
    Ok(Seen {
        shim,
        run,
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
        .unwrap_or_else(|| unreachable!())
}

#[cfg(test)]
mod tests {
    use super::*;
    use task_shim::record::{Identity, Phase};

    fn run() -> RunRecord {
        let leader = Identity {
            boot: "b".to_owned(),
            pid_namespace: 1,
            pid: 7,
            start_ticks: 9,
        };
        RunRecord {
            uid: "u".to_owned(),
            leader,
            phase: Phase::Main,
            started_at: 5,
        }
    }

    fn exit() -> ExitRecord {
        ExitRecord {
            uid: "u".to_owned(),
            outcome: Outcome::Ended,
            code: 7,
            signal: None,
            started_at: Some(5),
            finished_at: 6,
            message: String::new(),
        }
    }

    fn seen(
        alive: bool,
        run: Found<RunRecord>,
        exit: Found<ExitRecord>,
        post: Found<PostRecord>,
    ) -> Seen {
        let shim = if alive {
            Holder::Elsewhere
        } else {
            Holder::Nobody
        };
        Seen {
            shim,
            run,
            exit,
            post,
        }
    }

    #[test]
    fn a_task_is_started_only_if_no_trace_of_a_start_is_there() {
        for run in [Found::Nothing, Found::Record(run()), Found::Unreadable] {
            for exit in [Found::Nothing, Found::Record(exit()), Found::Unreadable] {
                for alive in [true, false] {
                    let untouched = run == Found::Nothing && exit == Found::Nothing && !alive;
                    let verdict = judge(
                        &seen(alive, run.clone(), exit.clone(), Found::Nothing),
                        false,
                    );
                    assert_eq!(
                        verdict == Verdict::NotStarted,
                        untouched,
                        "{run:?} {exit:?} {alive}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_exit_that_was_recorded_is_exact_whoever_died_since() {
        for alive in [true, false] {
            let verdict = judge(
                &seen(
                    alive,
                    Found::Unreadable,
                    Found::Record(exit()),
                    Found::Nothing,
                ),
                false,
            );
            assert_eq!(verdict, Verdict::Over(Box::new(exit())));
        }
    }

    #[test]
    fn an_unreadable_exit_record_is_lost_and_never_a_success() {
        let verdict = judge(
            &seen(
                false,
                Found::Record(run()),
                Found::Unreadable,
                Found::Nothing,
            ),
            false,
        );
        assert!(matches!(verdict, Verdict::Lost(_, Some(_))));
    }

    #[test]
    fn a_post_stop_hook_is_owed_until_it_was_started_once() {
        let with = |alive, post| {
            judge(
                &seen(alive, Found::Record(run()), Found::Record(exit()), post),
                true,
            )
        };
        assert!(matches!(with(true, Found::Nothing), Verdict::Running(5)));
        assert!(matches!(
            with(false, Found::Nothing),
            Verdict::OwesPostStop(_)
        ));
        assert!(matches!(
            with(false, Found::Record(PostRecord::Started)),
            Verdict::Over(_)
        ));
        assert!(matches!(
            with(true, Found::Record(PostRecord::Done)),
            Verdict::Over(_)
        ));
    }
}
