//! Tests of what clients make of answers.

use proptest::prelude::*;

use super::*;
use crate::fixtures;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn the_guides_terminated_task_is_read() {
    let report = parse_report(fixtures::GUIDE_TERMINATED.as_bytes()).unwrap();
    assert_eq!(
        (report.name.as_str(), report.uid.as_deref()),
        ("task-beta", Some("u-1"))
    );
    assert_eq!(report.dialect, Dialect::Nested);
    let state = ReportedState::Terminated {
        exit_code: 0,
        signal: None,
        reason: "Succeeded".to_owned(),
        message: Some("Task completed successfully".to_owned()),
        started_at: Some(at("2025-12-17T10:06:00Z")),
        finished_at: Some(at("2025-12-17T10:06:01Z")),
    };
    assert_eq!(report.state, Some(state));
}

#[test]
fn answers_of_another_agent_are_read_with_unset_times_and_unknown_reasons() {
    let text = r#"[
      {"name":"a","process":{"command":null},"processStatus":{"terminated":{"exitCode":137,
        "reason":"ProcessCrashed","startedAt":"2026-02-01T00:00:00.5+01:00","finishedAt":null}}},
      {"name":"b","deletionTimestamp":null,"process":{},"processStatus":{"running":{"startedAt":null}}},
      {"name":"c","process":{},"processStatus":{"waiting":{"reason":"Pending"}},"extra":[{}]},
      {"name":"d","podTemplateSpec":{},"podStatus":{"phase":"Running","conditions":[]}},
      {"name":"e","process":{},"processStatus":{"running":{"startedAt":"0001-01-01T00:00:00Z"}}},
      {"name":"f","spec":{},"status":{"state":{},"lastState":{}}}
    ]"#;
    let reports = parse_reports(text.as_bytes()).unwrap();
    assert!(
        reports[..5]
            .iter()
            .all(|report| report.dialect == Dialect::Flat)
    );
    let states: Vec<_> = reports.iter().map(|report| report.state.clone()).collect();
    assert_eq!(
        states,
        [
            Some(ReportedState::Terminated {
                exit_code: 137,
                signal: None,
                reason: "ProcessCrashed".to_owned(),
                message: None,
                started_at: Some(at("2026-01-31T23:00:00Z")),
                finished_at: None,
            }),
            Some(ReportedState::Running { started_at: None }),
            Some(ReportedState::Waiting {
                reason: "Pending".to_owned(),
                message: None
            }),
            None,
            Some(ReportedState::Running { started_at: None }),
            None,
        ]
    );
    assert_eq!(reports[3].pod_phase.as_deref(), Some("Running"));
    assert_eq!(reports[5].dialect, Dialect::Nested);
}

#[test]
fn what_is_no_answer_is_refused_with_its_place() {
    for (text, path) in [
        ("null", ""),
        ("[{}]", "[0]"),
        (r#"[{"name":1}]"#, "[0].name"),
        (
            r#"[{"name":"a","processStatus":{"running":{"startedAt":"now"}}}]"#,
            "[0].processStatus.running.startedAt",
        ),
        (
            r#"[{"name":"a","status":{"state":{"terminated":{}}}}]"#,
            "[0].status.state.terminated",
        ),
        ("[] []", ""),
    ] {
        assert_eq!(
            parse_reports(text.as_bytes()).unwrap_err().path,
            path,
            "{text}"
        );
    }
    let error = parse_report(br#"{"name":null}"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        "name: invalid type: null, expected a string at line 1 column 12"
    );
}

proptest! {
    #[test]
    fn no_answer_makes_a_client_panic(
        cut in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = fixtures::GUIDE_TERMINATED.as_bytes().to_vec();
        let at = cut.index(bytes.len());
        bytes[at] = byte;
        let _ = parse_report(&bytes);
        let _ = parse_reports(&bytes[..at]);
    }
}
