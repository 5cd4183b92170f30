//! Tasks that can't enter the main container: those that wait for it, and those that never will.

use std::fs;

use sandbox_api::{State, TaskName, WaitingReason};
use task_shim::launch::Job;
use task_shim::lock::TASK_FILE;
use task_shim::record::Outcome;

use super::super::tasks::{Start, Task};
use super::Owner;
use super::attend::end;
use crate::sidecar::Absent;
use crate::store::After;

/// Code of a task whose time was over before there was anything to start it in: it could not
/// be executed.
const NEVER_STARTED: i32 = 126;

impl Owner {
    /// What happens to a task when it can't be started in the main container.
    pub(super) fn without_door(&mut self, name: &TaskName, job: Job, absent: Absent) {
        match job {
            Job::Run => self.wait_for_container(name, absent),
            // It is given up when it could not be started a few times.
            Job::PostStop => {
                self.tasks.update(name, |task| task.launches += 1);
                self.look_again(name);
            }
        }
    }

    fn wait_for_container(&mut self, name: &TaskName, absent: Absent) {
        // Others go first.
        self.tasks.update(name, |task| task.start = Start::Later);
        let (reason, message) = match absent {
            Absent::NotFound(message) => (WaitingReason::MainContainerNotFound, message),
            Absent::Ambiguous(message) => (WaitingReason::MainContainerAmbiguous, message),
            Absent::Refused(message) => {
                let exit = end(Outcome::StartError, NEVER_STARTED, message);
                self.record_end(name, exit, After::Nothing);
                return;
            }
        };
        if let Some(timeout) = self.timeout_without_start(name) {
            let message = format!(
                "task exceeded its timeout of {timeout} seconds before it could be started: {message}"
            );
            let exit = end(Outcome::TimedOut, NEVER_STARTED, message);
            self.record_end(name, exit, After::Nothing);
            return;
        }
        if self.tasks.get(name).is_some_and(Task::is_waiting) {
            let message = Some(message);
            self.become_state(name, State::Waiting { reason, message });
        }
        self.look_again(name);
    }

    /// The timeout of a task, if it is over without a start. Its record is as old as the task.
    fn timeout_without_start(&self, name: &TaskName) -> Option<u64> {
        let timeout = self.tasks.get(name)?.asked.spec.timeout_seconds?;
        let record = fs::metadata(self.store.dir(name).join(TASK_FILE)).ok()?;
        let waited = record.modified().ok()?.elapsed().ok()?;
        (waited.as_secs() >= timeout).then_some(timeout)
    }
}
