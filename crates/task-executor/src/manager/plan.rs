//! The pure core: what a task's records and its situation ask for next.
//!
//! Recovery after a crash and everyday news are the same question, so there is one answer.
//! The owner looks at a task, asks [`plan`], carries the actions out, and looks again when
//! one of them has had an effect. No plan rests on what was planned before: any prefix of
//! one may be lost with the server that made it.

use nix::unistd::Pid;
use task_shim::lock::Holder;
use task_shim::proc::Scope;
use task_shim::record::{ExitRecord, PostRecord, RunRecord};

/// Launches that may end without a trace before a task (or its postStop hook) is given up.
pub(crate) const LAUNCHES_MAX: u32 = 5;

/// One of the records, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found<T> {
    Nothing,
    Record(T),
    Unreadable,
}

impl Seen {
    /// When the task was started, if it was.
    fn started_at(&self) -> Option<i64> {
        self.run.record().map(|run| run.started_at).or(self.run_at)
    }
}

impl<T> Found<T> {
    fn record(&self) -> Option<&T> {
        match self {
            Self::Record(record) => Some(record),
            Self::Nothing | Self::Unreadable => None,
        }
    }
}

/// All that was found in a task's directory, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) shim: Holder,
    pub(crate) run: Found<RunRecord>,
    /// When the run record was written (Unix seconds), if it can't be read.
    pub(crate) run_at: Option<i64>,
    pub(crate) exit: Found<ExitRecord>,
    pub(crate) post: Found<PostRecord>,
}

/// How far the server is with a task's shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It knows of none.
    Idle,
    /// One is being started.
    Launching,
    /// One was started or found, and its end has not been seen.
    Supervised,
}

/// What the server knows beyond the records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation<'a> {
    pub(crate) phase: Phase,
    pub(crate) deleting: bool,
    pub(crate) has_post_stop: bool,
    /// Shims of this task that ended without a trace.
    pub(crate) launches: u32,
    /// Whether a search has just found no orphan. Never kept: a late shim of an earlier
    /// server may come to life, and be killed, at any moment.
    pub(crate) orphans_ended: bool,
    /// Boot and PID namespace of now.
    pub(crate) scope: &'a Scope,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Watch this shim until it ends.
    Follow(Pid),
    /// Look again after a while: no event will tell.
    LookAgain,
    /// Say that the task runs since that time (Unix seconds).
    ShowRunning(i64),
    /// Say how it ended.
    ShowOver(Box<ExitRecord>),
    /// Have the shim end its tree.
    Stop,
    /// End what a killed shim has left behind.
    EndOrphans(Option<RunRecord>),
    /// Record that the end is not known. The text says why.
    RecordLost(&'static str, Option<RunRecord>),
    /// The same for a command whose exit record is damaged while its shim looks after what it
    /// has left behind.
    RecordTorn(Option<RunRecord>),
    /// Record that the task can't be started.
    GiveUp,
    /// Start a shim for the postStop hook alone.
    RunPostStop,
    /// Record that the postStop hook will not run.
    SkipPostStop,
    /// Nothing of it runs: remove its record, and let its successor have the name.
    Remove,
}

const SHIM_KILLED: &str = "its supervisor was killed before the end was recorded";
const SCOPE_ENDED: &str = "its container or host was restarted before the end was recorded";
pub(crate) const EXIT_TORN: &str = "its exit record is unreadable";
const RUN_TORN: &str = "its supervisor is gone and its run record is unreadable";

/// Decides what to do about a task. A task for which nothing is to be done and that has no
/// trace of a start waits for its place in the queue, see [`may_start`].
pub(crate) fn plan(seen: &Seen, situation: &Situation<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    match (situation.phase, seen.shim) {
        (Phase::Idle, Holder::Process(shim)) => actions.push(Action::Follow(shim)),
        (Phase::Idle, Holder::Elsewhere) => actions.push(Action::LookAgain),
        _ => {}
    }
    match &seen.exit {
        Found::Record(exit) => after_exit(seen, exit, situation, &mut actions),
        // It is put in place when the command is over, and never again by the same shim.
        Found::Unreadable if matches!(seen.shim, Holder::Process(_)) => {
            actions.extend(seen.started_at().map(Action::ShowRunning));
            actions.push(Action::RecordTorn(seen.run.record().cloned()));
            if situation.deleting {
                actions.push(Action::Stop);
            }
        }
        _ if is_alive(seen, situation) => {
            actions.extend(seen.started_at().map(Action::ShowRunning));
            if situation.deleting {
                actions.push(Action::Stop);
            }
        }
        Found::Nothing if seen.run == Found::Nothing => {
            if situation.deleting {
                actions.push(Action::Remove);
            } else if situation.launches >= LAUNCHES_MAX {
                actions.push(Action::GiveUp);
            }
        }
        exit => {
            let run = seen.run.record().cloned();
            // That it has run is certain, until it is certain that it is over.
            actions.extend(seen.started_at().map(Action::ShowRunning));
            if has_orphans(seen, situation) {
                actions.push(Action::EndOrphans(run));
            } else {
                let why = match (exit, &run) {
                    (Found::Unreadable, _) => EXIT_TORN,
                    (_, None) => RUN_TORN,
                    (_, Some(run)) if situation.scope.covers(&run.leader) => SHIM_KILLED,
                    (_, Some(_)) => SCOPE_ENDED,
                };
                actions.push(Action::RecordLost(why, run));
            }
        }
    }
    actions
}

/// The command has ended and its record is there.
fn after_exit(
    seen: &Seen,
    exit: &ExitRecord,
    situation: &Situation<'_>,
    actions: &mut Vec<Action>,
) {
    let alive = is_alive(seen, situation);
    let owes_post_stop = situation.has_post_stop && seen.post == Found::Nothing;
    let in_post_stop =
        situation.has_post_stop && seen.post == Found::Record(PostRecord::Started) && alive;
    if owes_post_stop || in_post_stop {
        // The task shows as over only when its hook is.
        actions.extend(exit.started_at.map(Action::ShowRunning));
    } else {
        actions.push(Action::ShowOver(Box::new(exit.clone())));
    }
    let orphans = || Action::EndOrphans(seen.run.record().cloned());
    if alive {
        if situation.deleting {
            actions.push(Action::Stop);
        }
    } else if owes_post_stop {
        actions.push(if has_orphans(seen, situation) {
            orphans()
        } else if situation.launches >= LAUNCHES_MAX {
            Action::SkipPostStop
        } else {
            Action::RunPostStop
        });
    } else if situation.deleting {
        // What the command left behind may run on until now, also without its shim.
        actions.push(if has_orphans(seen, situation) {
            orphans()
        } else {
            Action::Remove
        });
    }
}

/// Whether a shim is, or may be, at work.
fn is_alive(seen: &Seen, situation: &Situation<'_>) -> bool {
    situation.phase != Phase::Idle || matches!(seen.shim, Holder::Process(_) | Holder::Elsewhere)
}

/// Whether a shim was killed while it may have had something to look after.
fn has_orphans(seen: &Seen, situation: &Situation<'_>) -> bool {
    seen.shim == Holder::Left && seen.run != Found::Nothing && !situation.orphans_ended
}

/// Whether a task without a shim may be started: only if there is no trace of a start.
pub(crate) fn may_start(seen: &Seen) -> bool {
    seen.run == Found::Nothing
        && seen.exit == Found::Nothing
        && matches!(seen.shim, Holder::Nobody | Holder::Left)
}

#[cfg(test)]
mod tests;
