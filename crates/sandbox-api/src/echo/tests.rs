//! Tests of the echo: what was sent comes back in the same shape.

use proptest::prelude::*;

use crate::fixtures::{self, compact};
use crate::{Dialect, NewTask, parse_one};

fn parse(text: &str) -> NewTask {
    let parsed = parse_one(text.as_bytes()).unwrap();
    assert_eq!(parsed.ignored, [""; 0]);
    parsed.value
}

fn written(task: &NewTask) -> String {
    String::from_utf8(task.to_json()).unwrap()
}

#[test]
fn tasks_come_back_byte_for_byte_but_for_blanks() {
    for text in [
        fixtures::GUIDE_FIRST,
        fixtures::CONTAINER,
        fixtures::FULL_NESTED,
        fixtures::FULL_FLAT,
        r#"{"name":"p","podTemplateSpec":{"spec":{"containers":[{"image":"a","name":"b"}]}}}"#,
    ] {
        assert_eq!(written(&parse(text)), compact(text));
    }
}

#[test]
fn both_dialects_say_the_same() {
    let (nested, flat) = (parse(fixtures::FULL_NESTED), parse(fixtures::FULL_FLAT));
    assert_eq!(
        (nested.dialect, flat.dialect),
        (Dialect::Nested, Dialect::Flat)
    );
    assert_eq!(nested.spec, flat.spec);
}

#[test]
fn a_spec_is_one_member_without_commas_around_it() {
    let task = parse(r#"{"name":"a","process":{"command":["x"],"timeoutSeconds":7}}"#);
    let mut out = b"<".to_vec();
    task.spec.append_json(Dialect::Flat, &mut out);
    assert_eq!(out, br#"<"process":{"command":["x"],"timeoutSeconds":7}"#);
    out.clear();
    task.spec.append_json(Dialect::Nested, &mut out);
    assert_eq!(
        out,
        br#""spec":{"process":{"command":["x"]},"timeoutSeconds":7}"#
    );
}

#[test]
fn members_that_say_nothing_are_left_out() {
    let text = r#"{"name":"a","spec":{"container":null,"timeoutSeconds":null,"process":{
        "command":["x"],"args":[],"env":null,"workingDir":"","execMode":null,"lifecycle":{},
        "supplementalGroups":[],"rlimits":null,"resources":{"limits":{}},"runAsUser":null}}}"#;
    let shortest = r#"{"name":"a","spec":{"process":{"command":["x"]}}}"#;
    assert_eq!(written(&parse(text)), shortest);
    assert_eq!(parse(text), parse(shortest));
}

#[test]
fn a_quantity_comes_back_as_it_was_written() {
    let text = r#"{"name":"a","process":{"command":["x"],
        "resources":{"limits":{"cpu":"0.50","memory":"1e6","pids":100}}}}"#;
    let echo = r#""resources":{"limits":{"cpu":"0.50","memory":"1e6","pids":"100"}}"#;
    assert!(written(&parse(text)).contains(echo));
}

proptest! {
    #[test]
    fn what_is_written_reads_back_as_the_same_task(task in fixtures::new_task()) {
        let json = task.to_json();
        let parsed = parse_one(&json).unwrap();
        prop_assert_eq!(&parsed.value, &task);
        prop_assert_eq!(parsed.ignored.len(), 0);
        prop_assert_eq!(parsed.value.to_json(), json);
    }
}
