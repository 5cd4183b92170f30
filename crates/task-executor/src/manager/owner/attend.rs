//! Looking at one task and doing what its records and its situation ask for.

use std::sync::Arc;

use nix::unistd::Pid;
use sandbox_api::{State, TaskName, TerminatedReason};
use sandbox_sys::PidFd;
use task_shim::launch::Job;
use task_shim::lock::{self, Holder};
use task_shim::record::{self, ExitRecord, Outcome, RunRecord};

use super::super::handle::{ChangeKind, Shown};
use super::super::inspect;
use super::super::plan::{Action, EXIT_TORN, Found, LAUNCHES_MAX, Seen, Situation, plan};
use super::super::tasks::{Shim, Task};
use super::changes::Request;
use super::{Owner, unix_seconds};
use crate::fd::readable;
use crate::launcher::Order;
use crate::store::After;

impl Owner {
    /// Looks at a task's records and does what they ask for.
    pub(super) fn attend(&mut self, name: &TaskName) {
        self.attend_after(name, false);
    }

    /// The same, when a search has just found no orphan of it.
    pub(super) fn attend_after(&mut self, name: &TaskName, orphans_ended: bool) {
        let Some(task) = self.tasks.get(name) else {
            return;
        };
        let seen = match inspect::look(&self.store.dir(name), task.uid.as_str()) {
            Ok(seen) => seen,
            // Somebody has removed it: nothing can be started there, or be read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Seen {
                shim: Holder::Nobody,
                run: Found::Nothing,
                run_at: None,
                exit: Found::Nothing,
                post: Found::Nothing,
            },
            Err(error) => {
                tracing::error!(task = %name, %error, "records.unreadable");
                self.metrics.store_error();
                self.look_again(name);
                return;
            }
        };
        let situation = Situation {
            phase: task.phase(),
            deleting: task.deletion.is_some(),
            has_post_stop: task.has_post_stop(),
            launches: task.launches,
            orphans_ended,
            scope: &self.scope,
        };
        for action in plan(&seen, &situation) {
            self.act(name, action);
        }
    }

    fn act(&mut self, name: &TaskName, action: Action) {
        match action {
            Action::Follow(shim) => self.follow_found(name, shim),
            Action::LookAgain => self.look_again(name),
            Action::ShowRunning(since) => {
                let started_at = inspect::stamp(since);
                self.become_state(name, State::Running { started_at });
            }
            Action::ShowOver(exit) => {
                self.become_state(name, State::Terminated(inspect::terminated(&exit)));
            }
            Action::Stop => self.stop(name),
            Action::EndOrphans(run) => self.end_orphans(name, run),
            Action::RecordLost(why, run) => {
                self.metrics.shim_lost();
                self.record_lost(name, why, run.as_ref(), After::Nothing);
            }
            Action::RecordTorn(run) => {
                self.record_lost(name, EXIT_TORN, run.as_ref(), After::Leftovers);
            }
            Action::GiveUp => {
                let message = format!(
                    "its supervisor ended {LAUNCHES_MAX} times before it could start the task"
                );
                let exit = end(Outcome::StartError, 126, message);
                self.record_end(name, exit, After::Nothing);
            }
            Action::RunPostStop => {
                if self.tasks.get(name).is_some_and(|task| !task.changing) {
                    self.launch(name, Job::PostStop);
                }
            }
            Action::SkipPostStop => self.request_for(name, Request::SkipPostStop),
            Action::Remove => self.remove(name),
        }
    }

    fn remove(&mut self, name: &TaskName) {
        let released = self.tasks.get(name).is_none_or(|task| {
            let cgroups = self.launcher.cgroups();
            cgroups.release(task.uid.as_str(), &task.asked.spec)
        });
        if released {
            self.request_for(name, Request::Remove);
        } else {
            self.look_again(name);
        }
    }

    fn stop(&mut self, name: &TaskName) {
        let shim = self.tasks.get(name).map(|task| &task.shim);
        match shim {
            Some(Shim::Supervised(shim)) => {
                if let Err(error) = shim.signal(nix::libc::SIGTERM) {
                    tracing::debug!(task = %name, %error, "shim.not_signalled");
                }
            }
            // It is stopped when its start is known.
            Some(Shim::Launching) | None => {}
            Some(Shim::Idle) => self.look_again(name),
        }
    }

    fn end_orphans(&mut self, name: &TaskName, run: Option<RunRecord>) {
        if self.tasks.get(name).is_none_or(|task| task.changing) {
            return;
        }
        if !self.launcher.has_room() {
            self.look_again(name);
            return;
        }
        let subject = self.tasks.update(name, |task| {
            task.changing = true;
            task.subject(&self.store)
        });
        if let Some(subject) = subject {
            self.launcher.cgroups().kill(subject.uid.as_str());
            self.launcher.order(&subject, &Order::EndOrphans(run));
        }
    }

    fn record_lost(&mut self, name: &TaskName, why: &str, run: Option<&RunRecord>, after: After) {
        tracing::warn!(task = %name, why, "task.lost");
        let message = format!("the true exit code is not known: {why}");
        let exit = ExitRecord {
            started_at: run.map(|run| run.started_at),
            ..end(Outcome::Lost, 255, message)
        };
        self.record_end(name, exit, after);
    }

    pub(super) fn record_end(&mut self, name: &TaskName, mut exit: ExitRecord, after: After) {
        self.request_for(name, |name, uid| {
            exit.uid = uid.to_string();
            Request::Exit(name, uid, exit, after)
        });
    }

    /// Watches a shim that was found at work, provided that it still is.
    fn follow_found(&mut self, name: &TaskName, shim: Pid) {
        let followed = PidFd::open(shim).and_then(|fd| {
            // Asked again once the reference is held: now the pid can't be another's.
            let dir = std::fs::File::open(self.store.dir(name))?;
            let holder = lock::holder(&dir, lock::TASK_FILE)?;
            Ok((holder == Holder::Process(shim)).then_some(fd))
        });
        match followed {
            Ok(Some(fd)) => self.follow(name, fd),
            Ok(None) => self.look_again(name),
            Err(error) => {
                tracing::debug!(task = %name, %error, "shim.not_followed");
                self.look_again(name);
            }
        }
    }

    /// Watches a shim until it ends.
    pub(super) fn follow(&mut self, name: &TaskName, fd: PidFd) {
        let fd = Arc::new(fd);
        let watched = Arc::clone(&fd);
        let Some(uid) = self.tasks.update(name, |task| {
            task.shim = Shim::Supervised(fd);
            task.uid.clone()
        }) else {
            return;
        };
        let name = name.clone();
        self.shims.spawn(async move {
            if let Ok(fd) = readable(watched) {
                // Readable or broken: either way the records are looked at next.
                let _ = fd.readable().await;
            }
            (name, uid)
        });
    }

    pub(super) fn become_state(&mut self, name: &TaskName, state: State) {
        let end = match &state {
            State::Terminated(end) => Some(end.reason),
            State::Running { .. } | State::Waiting { .. } => None,
        };
        let began = matches!(&state, State::Terminated(end) if end.started_at.is_some());
        let runs = matches!(state, State::Running { .. });
        let was_waiting = self
            .tasks
            .get(name)
            .is_some_and(|task| matches!(task.state, State::Waiting { .. }));
        let changed = self.tasks.update(name, |task| {
            if task.is_over() || task.state == state {
                return false;
            }
            task.state = state;
            task.draw();
            true
        });
        if runs || end.is_some() {
            self.unsettled.remove(name);
        }
        if changed != Some(true) {
            return;
        }
        // A short task may be over before it was seen to run.
        let has_run = runs || began;
        if has_run && was_waiting {
            self.started(name);
        }
        if let Some(reason) = end {
            self.ended(name, reason);
        }
        self.publish(name, ChangeKind::Modified);
    }

    fn started(&mut self, name: &TaskName) {
        let accepted = self.tasks.update(name, |task| {
            task.launches = 0;
            task.accepted
        });
        if let Some(accepted) = accepted.flatten() {
            self.metrics.task_started(accepted.elapsed());
        }
    }

    fn ended(&mut self, name: &TaskName, reason: TerminatedReason) {
        self.tasks.update(name, Task::tell_of_end);
        if self.recovering {
            return;
        }
        self.metrics.task_exited(reason);
        let written = std::fs::metadata(self.store.dir(name).join(record::EXIT_FILE));
        if let Some(latency) = written
            .ok()
            .and_then(|file| file.modified().ok()?.elapsed().ok())
        {
            self.metrics.exit_visible(latency);
        }
    }
}

/// An end that is recorded now; whose is not said yet.
pub(super) fn end(outcome: Outcome, code: i32, message: String) -> ExitRecord {
    ExitRecord {
        uid: String::new(),
        outcome,
        code,
        signal: None,
        started_at: None,
        finished_at: unix_seconds(),
        message,
    }
}

impl Task {
    /// Answers those who wait for the end.
    fn tell_of_end(&mut self) {
        for waiter in self.waiters.drain(..) {
            // A client that has left is nobody to tell.
            let _ = waiter.send(Ok(Shown {
                body: self.body.clone(),
            }));
        }
        self.readers.clear();
        self.waiters.shrink_to_fit();
        self.readers.shrink_to_fit();
    }
}
