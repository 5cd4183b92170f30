//! Tests of what clients read.

use proptest::prelude::*;

use super::*;
use crate::fixtures::{self, compact};
use crate::state::WaitingReason;
use crate::{NewTask, ReportedState, parse_one, parse_report};

/// A view of a task, ready to be changed.
struct Shown {
    task: NewTask,
    uid: TaskUid,
    state: State,
    deletion_timestamp: Option<Timestamp>,
    warnings: Vec<String>,
}

impl Shown {
    fn new(text: &str, state: State) -> Self {
        Self {
            task: parse_one(text.as_bytes()).unwrap().value,
            uid: TaskUid::parse("u-1").unwrap(),
            state,
            deletion_timestamp: None,
            warnings: Vec::new(),
        }
    }

    fn render(&self) -> String {
        let view = TaskView {
            name: &self.task.name,
            uid: &self.uid,
            dialect: self.task.dialect,
            spec: &self.task.spec,
            deletion_timestamp: self.deletion_timestamp,
            state: &self.state,
            warnings: &self.warnings,
        };
        let mut out = Vec::new();
        render(&view, &mut out);
        String::from_utf8(out).unwrap()
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn initialized() -> State {
    State::Waiting {
        reason: WaitingReason::Initialized,
        message: None,
    }
}

fn ended(reason: TerminatedReason) -> Terminated {
    Terminated {
        exit_code: 0,
        signal: None,
        reason,
        message: None,
        started_at: Some(at("2025-12-17T10:06:00Z")),
        finished_at: at("2025-12-17T10:06:01Z"),
    }
}

#[test]
fn a_new_task_looks_as_in_the_guide_plus_its_uid() {
    let shown = Shown::new(fixtures::GUIDE_FIRST, initialized());
    let guide = r#"{
      "name": "my-first-task",
      "uid": "u-1",
      "spec": {
        "process": {
          "command": ["sh", "-c"],
          "args": ["echo 'Hello from my task!' && sleep 5 && echo 'Task finished.'"]
        }
      },
      "status": {
        "state": {
          "waiting": {
            "reason": "Initialized"
          }
        }
      }
    }"#;
    assert_eq!(shown.render(), compact(guide));
}

#[test]
fn a_terminated_task_looks_as_in_the_guide_plus_its_uid() {
    let mut end = ended(TerminatedReason::Succeeded);
    end.message = Some("Task completed successfully".to_owned());
    let shown = Shown::new(fixtures::GUIDE_TERMINATED, State::Terminated(end));
    assert_eq!(shown.render(), compact(fixtures::GUIDE_TERMINATED));
}

#[test]
fn a_flat_task_is_answered_flat_with_all_members_in_order() {
    let mut shown = Shown::new(
        r#"{"name":"a","process":{"command":["x"]}}"#,
        State::Terminated(Terminated {
            exit_code: 137,
            signal: Some(9),
            message: Some("out\nof \"memory\"".to_owned()),
            ..ended(TerminatedReason::OomKilled)
        }),
    );
    shown.deletion_timestamp = Some(at("2025-12-17T10:06:02Z"));
    shown.warnings = vec!["no cgroup".to_owned(), "é".to_owned()];
    let expected = concat!(
        r#"{"name":"a","uid":"u-1","deletionTimestamp":"2025-12-17T10:06:02Z","#,
        r#""process":{"command":["x"]},"processStatus":{"terminated":{"exitCode":137,"signal":9,"#,
        r#""reason":"OOMKilled","message":"out\nof \"memory\"","#,
        r#""startedAt":"2025-12-17T10:06:00Z","finishedAt":"2025-12-17T10:06:01Z"}},"#,
        r#""warnings":["no cgroup","é"]}"#
    );
    assert_eq!(shown.render(), expected);
}

#[test]
fn a_task_that_never_started_has_no_start_time() {
    let end = Terminated {
        started_at: None,
        exit_code: -1,
        ..ended(TerminatedReason::StartError)
    };
    let shown = Shown::new(
        r#"{"name":"a","process":{"command":["x"]}}"#,
        State::Terminated(end),
    );
    let expected = concat!(
        r#""processStatus":{"terminated":{"exitCode":-1,"reason":"StartError","#,
        r#""finishedAt":"2025-12-17T10:06:01Z"}}}"#
    );
    assert!(shown.render().ends_with(expected), "{}", shown.render());
}

#[test]
fn a_running_task_shows_its_start_and_a_waiting_one_its_message() {
    let text = r#"{"name":"a","process":{"command":["x"]}}"#;
    let running = State::Running {
        started_at: at("2025-12-17T10:00:00Z"),
    };
    let expected = r#""processStatus":{"running":{"startedAt":"2025-12-17T10:00:00Z"}}}"#;
    assert!(Shown::new(text, running).render().ends_with(expected));
    let message = Some("disk".to_owned());
    let waiting = State::Waiting {
        reason: WaitingReason::DiskFull,
        message,
    };
    let expected = r#""processStatus":{"waiting":{"reason":"DiskFull","message":"disk"}}}"#;
    assert!(Shown::new(text, waiting).render().ends_with(expected));
}

#[test]
fn a_pod_has_the_phase_of_kubernetes() {
    let text = r#"{"name":"a","podTemplateSpec":{"spec":{}}}"#;
    let running = State::Running {
        started_at: at("2025-12-17T10:00:00Z"),
    };
    for (state, phase) in [
        (initialized(), "Pending"),
        (running, "Running"),
        (
            State::Terminated(ended(TerminatedReason::Succeeded)),
            "Succeeded",
        ),
        (
            State::Terminated(ended(TerminatedReason::TaskTimeout)),
            "Failed",
        ),
        (
            State::Terminated(ended(TerminatedReason::Unknown)),
            "Unknown",
        ),
    ] {
        let report = parse_report(Shown::new(text, state).render().as_bytes()).unwrap();
        assert_eq!(report.pod_phase.as_deref(), Some(phase));
    }
}

fn state() -> impl Strategy<Value = State> {
    let time = || (0..4_000_000_000_i64).prop_map(|s| Timestamp::from_unix_seconds(s).unwrap());
    let message = || proptest::option::of(any::<String>());
    let waiting = (proptest::sample::select(WaitingReason::ALL), message())
        .prop_map(|(reason, message)| State::Waiting { reason, message });
    let running = time().prop_map(|started_at| State::Running { started_at });
    let reason = proptest::sample::select(TerminatedReason::ALL);
    let signal = proptest::option::of(1..65_i32);
    let start = proptest::option::of(time());
    let ended = (any::<i32>(), signal, reason, message(), start, time()).prop_map(|parts| {
        State::Terminated(Terminated {
            exit_code: parts.0,
            signal: parts.1,
            reason: parts.2,
            message: parts.3,
            started_at: parts.4,
            finished_at: parts.5,
        })
    });
    prop_oneof![waiting, running, ended]
}

/// What a client should make of `state`.
fn expected(state: State) -> ReportedState {
    match state {
        State::Waiting { reason, message } => ReportedState::Waiting {
            reason: reason.to_string(),
            message,
        },
        State::Running { started_at } => ReportedState::Running {
            started_at: Some(started_at),
        },
        State::Terminated(end) => ReportedState::Terminated {
            exit_code: end.exit_code,
            signal: end.signal,
            reason: end.reason.to_string(),
            message: end.message,
            started_at: end.started_at,
            finished_at: Some(end.finished_at),
        },
    }
}

proptest! {
    #[test]
    fn clients_read_what_was_written_and_may_post_it_back(
        task in fixtures::new_task(),
        state in state(),
        warnings in proptest::collection::vec(any::<String>(), 0..3),
    ) {
        let uid = TaskUid::parse("u-1").unwrap();
        let shown = Shown { task, uid, state, deletion_timestamp: None, warnings };
        let text = shown.render();
        let report = parse_report(text.as_bytes()).unwrap();
        prop_assert_eq!(&report.name, shown.task.name.as_str());
        prop_assert_eq!(report.uid.as_deref(), Some("u-1"));
        prop_assert_eq!(report.dialect, shown.task.dialect);
        prop_assert_eq!(&report.warnings, &shown.warnings);
        if report.pod_phase.is_none() {
            prop_assert_eq!(report.state, Some(expected(shown.state)));
        }
        let again = parse_one(text.as_bytes()).unwrap();
        prop_assert_eq!(again.value, shown.task);
        prop_assert_eq!(again.ignored.len(), 0);
    }
}
