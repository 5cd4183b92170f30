//! What users are told by events: one for each change that matters, none for things that go on.

use sandbox_api::crd::BatchCondition;

use crate::conditions::types;
use crate::plan::DeleteReason;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How bad it is.
    pub severity: Severity,
    /// One word.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// How bad something is; the two types of events that Kubernetes has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody may have to act.
    Warning,
}

impl Note {
    pub(super) fn normal(reason: &str, message: String) -> Self {
        let reason = reason.to_owned();
        Self {
            severity: Severity::Normal,
            reason,
            message,
        }
    }

    pub(super) fn warning(reason: &str, message: String) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::normal(reason, message)
        }
    }

    /// What became true from one status to the next.
    pub(super) fn of_change(before: &[BatchCondition], after: &[BatchCondition]) -> Vec<Self> {
        let held = |new: &BatchCondition| {
            before
                .iter()
                .any(|old| old.type_ == new.type_ && old.reason == new.reason)
        };
        let news = after.iter().filter(|new| !held(new));
        news.filter_map(Self::of_condition).collect()
    }

    fn of_condition(condition: &BatchCondition) -> Option<Self> {
        let message = condition.message.clone().unwrap_or_default();
        let word = condition.type_.as_str();
        match word {
            types::PROGRESSING => None,
            types::READY | types::TASKS_COMPLETED => Some(Self::normal(word, message)),
            _ => Some(Self::warning(word, message)),
        }
    }

    /// Agents were given up; the names of a few of their Pods are enough.
    pub(super) fn of_given_up(pods: &[String]) -> Self {
        let few = pods.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let message = format!(
            "gave up on {} agents that did not end their tasks in time, such as {few}",
            pods.len()
        );
        Self::warning("TaskCleanupTimedOut", message)
    }

    /// Pods were deleted, for one reason.
    pub(super) fn of_deletions(why: DeleteReason, count: usize) -> Self {
        match why {
            DeleteReason::ScaleIn => {
                Self::normal("SuccessfulDelete", format!("scaled in by {count} Pods"))
            }
            DeleteReason::Released => Self::normal(
                "Released",
                format!("deleted {count} Pods whose tasks are over"),
            ),
            DeleteReason::Lost => Self::warning(
                "PodLost",
                format!("deleted {count} Pods that were taken away; others are made"),
            ),
        }
    }
}
