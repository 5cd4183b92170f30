//! Writes a task with its state as JSON, as clients read it.

use crate::json::{Object, list, plain, string};
use crate::name::{TaskName, TaskUid};
use crate::spec::{Dialect, TaskSpec, Work};
use crate::state::{State, Terminated, TerminatedReason};
use crate::time::Timestamp;

/// All that clients see of a task.
#[derive(Clone, Copy, Debug)]
pub struct TaskView<'a> {
    /// Its name.
    pub name: &'a TaskName,
    /// Its uid.
    pub uid: &'a TaskUid,
    /// The shape to answer in.
    pub dialect: Dialect,
    /// What it runs.
    pub spec: &'a TaskSpec,
    /// Since when it is being deleted; `metadata.deletionTimestamp` of Kubernetes.
    pub deletion_timestamp: Option<Timestamp>,
    /// Where it is in its life.
    pub state: &'a State,
    /// What the client should know but need not act on.
    pub warnings: &'a [String],
}

/// Appends the task as one line of JSON without a line break at its end.
///
/// A container is always written nested and a Pod always flat, see [`TaskSpec::append_json`].
pub fn render(view: &TaskView<'_>, out: &mut Vec<u8>) {
    let mut task = Object::open(out);
    task.text("name", view.name.as_str());
    task.text("uid", view.uid.as_str());
    if let Some(time) = view.deletion_timestamp {
        write_time(&mut task, "deletionTimestamp", time);
    }
    view.spec.append_json(view.dialect, task.member());
    match (&view.spec.work, view.spec.dialect(view.dialect)) {
        (Work::Pod(_), _) => task.object("podStatus", |pod| write_pod_status(pod, view.state)),
        (_, Dialect::Flat) => {
            task.object("processStatus", |status| write_state(status, view.state));
        }
        (_, Dialect::Nested) => task.object("status", |status| {
            status.object("state", |state| write_state(state, view.state));
        }),
    }
    if !view.warnings.is_empty() {
        list(task.key("warnings"), view.warnings, |out, warning| {
            string(out, warning);
        });
    }
    task.close();
}

fn write_state(object: &mut Object<'_>, state: &State) {
    match state {
        State::Waiting { reason, message } => object.object("waiting", |waiting| {
            waiting.text("reason", reason.as_str());
            waiting.text_if("message", message.as_deref());
        }),
        State::Running { started_at } => object.object("running", |running| {
            write_time(running, "startedAt", *started_at);
        }),
        State::Terminated(end) => object.object("terminated", |object| write_end(object, end)),
    }
}

fn write_end(object: &mut Object<'_>, end: &Terminated) {
    object.number("exitCode", end.exit_code);
    object.number_if("signal", end.signal);
    object.text("reason", end.reason.as_str());
    object.text_if("message", end.message.as_deref());
    if let Some(time) = end.started_at {
        write_time(object, "startedAt", time);
    }
    write_time(object, "finishedAt", end.finished_at);
}

/// What a task's state says about a Pod, in the words of the Kubernetes `PodStatus`.
fn write_pod_status(object: &mut Object<'_>, state: &State) {
    match state {
        State::Waiting { reason, message } => {
            object.text("phase", "Pending");
            object.text_if("message", message.as_deref());
            object.text("reason", reason.as_str());
        }
        State::Running { started_at } => {
            object.text("phase", "Running");
            write_time(object, "startTime", *started_at);
        }
        State::Terminated(end) => {
            object.text("phase", pod_phase(end.reason));
            object.text_if("message", end.message.as_deref());
            object.text("reason", end.reason.as_str());
            if let Some(time) = end.started_at {
                write_time(object, "startTime", time);
            }
        }
    }
}

fn pod_phase(reason: TerminatedReason) -> &'static str {
    match reason {
        TerminatedReason::Succeeded => "Succeeded",
        TerminatedReason::Unknown => "Unknown",
        TerminatedReason::Failed
        | TerminatedReason::TaskTimeout
        | TerminatedReason::StartError
        | TerminatedReason::OomKilled
        | TerminatedReason::PreStartHookFailed => "Failed",
    }
}

/// A time needs no escape, so that it is written without a detour.
fn write_time(object: &mut Object<'_>, key: &'static str, time: Timestamp) {
    plain(object.key(key), format_args!("\"{time}\""));
}

#[cfg(test)]
mod tests;
