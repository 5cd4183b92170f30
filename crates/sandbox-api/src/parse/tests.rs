//! Tests of the door: what comes in, what does not, and what it says.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::fixtures;
use crate::spec::{Dialect, ProcessSpec, Work};

fn refused(body: &str) -> (String, String) {
    let invalid = parse_one(body.as_bytes()).expect_err(body);
    (invalid.path, invalid.problem)
}

/// A nested and a flat task whose process has `member` as well as a command.
fn with_member(member: &str) -> [String; 2] {
    [
        format!(r#"{{"name":"a","spec":{{"process":{{"command":["x"],{member}}}}}}}"#),
        format!(r#"{{"name":"a","process":{{"command":["x"],{member}}}}}"#),
    ]
}

/// Asserts that `member` of a process is refused at `path`, and that the text has `words`.
fn refuses_member(member: &str, path: &str, words: &str) {
    for (body, outer) in with_member(member)
        .into_iter()
        .zip(["spec.process.", "process."])
    {
        let (found, problem) = refused(&body);
        assert_eq!(found, format!("{outer}{path}"), "{body}: {problem}");
        assert!(problem.contains(words), "{body}: {problem}");
    }
}

fn process(body: &str) -> ProcessSpec {
    match parse_one(body.as_bytes()).unwrap().value.spec.work {
        Work::Process(process) => process,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_task_without_a_good_name_is_refused() {
    let work = r#""process":{"command":["x"]}"#;
    for (name, words) in [
        (String::new(), "is required"),
        (r#""name":null,"#.to_owned(), "is required"),
        (r#""name":"","#.to_owned(), "must not be empty"),
        (r#""name":"a/../c","#.to_owned(), "must not contain '/'"),
        (r#""name":"a\n","#.to_owned(), "must not contain"),
        (r#""name":"a\u0000","#.to_owned(), "must not contain"),
        (r#""name":".a","#.to_owned(), "start and end"),
        (format!(r#""name":"{}","#, "a".repeat(254)), "at most 253"),
        (r#""name":7,"#.to_owned(), "expected a string"),
    ] {
        let (path, problem) = refused(&format!("{{{name}{work}}}"));
        assert_eq!(path, "name");
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn a_task_runs_exactly_one_thing_in_one_dialect() {
    let process = r#"{"command":["x"]}"#;
    for (members, path, words) in [
        (String::new(), "", "nothing to run"),
        (r#","spec":null"#.to_owned(), "", "nothing to run"),
        (r#","spec":{}"#.to_owned(), "spec", "exactly one of"),
        (
            format!(r#","spec":{{"process":{process},"container":{{"image":"i"}}}}"#),
            "spec",
            "exactly one of",
        ),
        (
            format!(r#","spec":{{"process":{process}}},"process":{process}"#),
            "",
            "two dialects",
        ),
        (
            format!(r#","spec":{{"process":{process}}},"podTemplateSpec":{{}}"#),
            "",
            "two dialects",
        ),
        (
            format!(r#","process":{process},"podTemplateSpec":{{}}"#),
            "",
            "give one of them",
        ),
        (
            r#","podTemplateSpec":[]"#.to_owned(),
            "podTemplateSpec",
            "PodTemplateSpec",
        ),
        (
            r#","podTemplateSpec":{"a":["b","\u0000"]}"#.to_owned(),
            "podTemplateSpec.a[1]",
            "NUL",
        ),
        (
            r#","spec":[{"command":["x"]}]"#.to_owned(),
            "spec",
            "expected an object",
        ),
        (r#","spec":"x""#.to_owned(), "spec", "expected an object"),
    ] {
        let (found, problem) = refused(&format!(r#"{{"name":"a"{members}}}"#));
        assert_eq!(found, path, "{members}");
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn a_command_names_a_program() {
    for (command, path, words) in [
        ("", "command", "at least one element, e.g. [\"sh\",\"-c\"]"),
        (r#""command":null"#, "command", "at least one element"),
        (r#""command":[]"#, "command", "at least one element"),
        (r#""command":[""]"#, "command[0]", "must name a program"),
        (r#""command":["a",null]"#, "command[1]", "expected a string"),
        (r#""command":"sh""#, "command", "expected a sequence"),
        (r#""command":["a","b\u0000"]"#, "command[1]", "NUL"),
    ] {
        let (found, problem) = refused(&format!(r#"{{"name":"a","process":{{{command}}}}}"#));
        assert_eq!(found, format!("process.{path}"));
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn what_a_process_cannot_be_given_is_refused_where_it_stands() {
    for (member, path, words) in [
        (r#""args":["a","\u0000"]"#, "args[1]", "NUL"),
        (
            r#""env":[{"name":"A"},{"name":""}]"#,
            "env[1].name",
            "must not be empty",
        ),
        (
            r#""env":[{"name":"A=B"}]"#,
            "env[0].name",
            "must not contain '='",
        ),
        (r#""env":[{"name":"A\u0000"}]"#, "env[0].name", "NUL"),
        (
            r#""env":[{"name":"A","value":"\u0000"}]"#,
            "env[0].value",
            "NUL",
        ),
        (r#""env":[{"value":"x"}]"#, "env[0]", "missing field `name`"),
        (
            r#""env":[{"name":"A","valueFrom":{"fieldRef":{}}}]"#,
            "env[0].valueFrom",
            "not supported",
        ),
        (r#""env":{"A":"b"}"#, "env", "expected a sequence"),
        (r#""workingDir":"app""#, "workingDir", "absolute path"),
        (r#""workingDir":"/a\u0000""#, "workingDir", "NUL"),
        (
            r#""execMode":"remote""#,
            "execMode",
            "\"Local\" or \"Remote\"",
        ),
        (
            r#""leftoverProcesses":"x""#,
            "leftoverProcesses",
            "\"Keep\" or \"Kill\"",
        ),
        (
            r#""timeoutSeconds":0"#,
            "timeoutSeconds",
            "must be at least 1, not 0",
        ),
        (
            r#""timeoutSeconds":-5"#,
            "timeoutSeconds",
            "must be at least 1, not -5",
        ),
        (
            r#""timeoutSeconds":1.5"#,
            "timeoutSeconds",
            "floating point",
        ),
        (
            r#""terminationGracePeriodSeconds":-1"#,
            "terminationGracePeriodSeconds",
            "at least 0",
        ),
    ] {
        refuses_member(member, path, words);
    }
}

#[test]
fn an_id_that_no_user_or_group_can_have_is_refused() {
    for (member, path, words) in [
        (r#""runAsUser":-1"#, "runAsUser", "from 0 to 4294967294"),
        (
            r#""runAsUser":4294967295"#,
            "runAsUser",
            "from 0 to 4294967294",
        ),
        (r#""runAsGroup":-1"#, "runAsGroup", "from 0 to 4294967294"),
        (
            r#""supplementalGroups":[1,-1]"#,
            "supplementalGroups[1]",
            "from 0 to 4294967294",
        ),
    ] {
        refuses_member(member, path, words);
    }
}

#[test]
fn limits_that_mean_nothing_are_refused_where_they_stand() {
    for (member, path, words) in [
        (
            r#""rlimits":[{"type":"NOFILE","soft":1,"hard":2}]"#,
            "rlimits[0].type",
            "RLIMIT_NOFILE",
        ),
        (
            r#""rlimits":[{"type":"RLIMIT_AS","soft":3,"hard":2}]"#,
            "rlimits[0].soft",
            "hard limit 2",
        ),
        (
            r#""rlimits":[{"type":"RLIMIT_AS","soft":3}]"#,
            "rlimits[0]",
            "missing field `hard`",
        ),
        (
            r#""rlimits":[{"type":"RLIMIT_AS","soft":1,"hard":1},{"type":"RLIMIT_AS","soft":1,"hard":1}]"#,
            "rlimits[1].type",
            "twice",
        ),
        (
            r#""resources":{"limits":{"cpu":"0"}}"#,
            "resources.limits.cpu",
            "\"500m\"",
        ),
        (
            r#""resources":{"limits":{"memory":"64MB"}}"#,
            "resources.limits.memory",
            "\"64Mi\"",
        ),
        (
            r#""resources":{"limits":{"pids":-1}}"#,
            "resources.limits.pids",
            "\"100\"",
        ),
        (
            r#""resources":{"limits":{"pids":1.5}}"#,
            "resources.limits.pids",
            "expected a quantity",
        ),
        (
            r#""resources":{"limits":{"nvidia.com/gpu":1}}"#,
            "resources.limits.nvidia.com/gpu",
            "expected one of `cpu`, `memory`, `pids`",
        ),
    ] {
        refuses_member(member, path, words);
    }
}

#[test]
fn hooks_that_cannot_run_are_refused_where_they_stand() {
    for (lifecycle, path, words) in [
        (r#""preStart":{}"#, "preStart.exec", "is required"),
        (
            r#""preStart":{"exec":{}}"#,
            "preStart.exec.command",
            "at least one element",
        ),
        (
            r#""postStop":{"exec":{"command":[]}}"#,
            "postStop.exec.command",
            "at least one element",
        ),
        (
            r#""postStop":{"exec":{"command":[""]}}"#,
            "postStop.exec.command[0]",
            "name a program",
        ),
        (
            r#""preStart":{"exec":{"command":["\u0000"]}}"#,
            "preStart.exec.command[0]",
            "NUL",
        ),
        (
            r#""preStart":{"exec":{"command":["x"]},"timeoutSeconds":-1}"#,
            "preStart.timeoutSeconds",
            "at least 0",
        ),
        (
            r#""preStart":{"exec":{"command":["x"],"timeoutSeconds":-1}}"#,
            "preStart.exec.timeoutSeconds",
            "at least 0",
        ),
        (
            r#""preStart":{"exec":{"command":["x"],"timeoutSeconds":2},"timeoutSeconds":1}"#,
            "preStart.timeoutSeconds",
            "exec.timeoutSeconds is 2",
        ),
        (
            r#""preStart":{"exec":{"command":["x"]},"execMode":"x"}"#,
            "preStart.execMode",
            "Local",
        ),
        (r#""stopSignal":"TERM""#, "stopSignal", "SIG prefix"),
    ] {
        let member = format!(r#""lifecycle":{{{lifecycle}}}"#);
        refuses_member(&member, &format!("lifecycle.{path}"), words);
    }
}

#[test]
fn containers_are_checked_too() {
    for (member, path, words) in [
        (r#""image":"""#, "image", "is required"),
        (r#""image":"i\u0000""#, "image", "NUL"),
        (
            r#""image":"i","workingDir":"x""#,
            "workingDir",
            "absolute path",
        ),
        (
            r#""image":"i","env":[{"name":"A","valueFrom":{}}]"#,
            "env[0].valueFrom",
            "not supported",
        ),
        (
            r#""image":"i","volumeMounts":[{"name":"","mountPath":"/a"}]"#,
            "volumeMounts[0].name",
            "empty",
        ),
        (
            r#""image":"i","volumeMounts":[{"name":"v","mountPath":"a"}]"#,
            "volumeMounts[0].mountPath",
            "absolute",
        ),
        (
            r#""image":"i","volumeMounts":[{"name":"v","mountPath":"/a","subPath":"../b"}]"#,
            "volumeMounts[0].subPath",
            "relative path",
        ),
    ] {
        let (found, problem) = refused(&format!(
            r#"{{"name":"a","spec":{{"container":{{{member}}}}}}}"#
        ));
        assert_eq!(found, format!("spec.container.{path}"));
        assert!(problem.contains(words), "{problem}");
    }
}

#[test]
fn times_may_stand_in_either_place_of_a_nested_task_but_must_agree() {
    let body = |outer: &str, inner: &str| {
        format!(r#"{{"name":"a","spec":{{"process":{{"command":["x"]{inner}}}{outer}}}}}"#)
    };
    let times = |body: &str| {
        let spec = parse_one(body.as_bytes()).unwrap().value.spec;
        (spec.timeout_seconds, spec.termination_grace_period_seconds)
    };
    let five = r#","timeoutSeconds":5,"terminationGracePeriodSeconds":0"#;
    assert_eq!(times(&body(five, "")), (Some(5), Some(0)));
    assert_eq!(times(&body("", five)), (Some(5), Some(0)));
    assert_eq!(times(&body(five, five)), (Some(5), Some(0)));
    assert_eq!(times(&body("", "")), (None, None));
    let (path, problem) = refused(&body(five, r#","timeoutSeconds":6"#));
    assert_eq!(path, "spec.timeoutSeconds");
    assert_eq!(
        problem,
        "is 5, but process.timeoutSeconds is 6; give one of them"
    );
    let (path, _) = refused(&body(five, r#","terminationGracePeriodSeconds":1"#));
    assert_eq!(path, "spec.terminationGracePeriodSeconds");
    assert_eq!(
        refused(&body(r#","timeoutSeconds":-1"#, "")).0,
        "spec.timeoutSeconds"
    );
}

#[test]
fn a_hook_without_limit_says_so_with_a_zero_as_well() {
    let [nested, flat] = with_member(
        r#""lifecycle":{"preStart":{"exec":{"command":["x"]},"timeoutSeconds":0},
            "postStop":{"exec":{"command":["y"],"timeoutSeconds":3}}}"#,
    );
    assert_eq!(process(&nested), process(&flat));
    let lifecycle = process(&flat).lifecycle.unwrap();
    assert_eq!(lifecycle.pre_start.unwrap().timeout_seconds, None);
    assert_eq!(lifecycle.post_stop.unwrap().timeout_seconds, Some(3));
}

#[test]
fn a_variable_without_value_is_empty_and_null_is_absent() {
    let [_, flat] =
        with_member(r#""env":[{"name":"A"},{"name":"B","value":null,"valueFrom":null}]"#);
    let env = process(&flat).env;
    assert!(env.len() == 2 && env.iter().all(|variable| variable.value.is_empty()));
}

#[test]
fn what_is_no_single_json_value_is_refused() {
    for body in [
        "",
        " ",
        "{",
        "nul",
        "{\"name\":\"a\"",
        "\u{feff}{}",
        "{'name':'a'}",
        "{\"a\":01}",
    ] {
        assert!(parse_one(body.as_bytes()).is_err(), "{body:?}");
        assert!(parse_list(body.as_bytes()).is_err(), "{body:?}");
    }
    assert!(parse_one(b"{\"name\":\"\xff\"}").is_err());
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let body = format!(r#"{{"name":"a","process":{{"command":["x"]}},"status":{deep}}}"#);
    assert!(refused(&body).1.contains("recursion limit"));
    // An unknown field is skipped without recursion, so that no limit is needed.
    let body = format!(r#"{{"name":"a","process":{{"command":["x"]}},"unknown":{deep}}}"#);
    assert_eq!(parse_one(body.as_bytes()).unwrap().ignored, ["unknown"]);
    let (path, problem) = refused(&format!("{} x", fixtures::GUIDE_FIRST));
    assert_eq!(path, "");
    assert!(
        problem.starts_with("must be a single JSON value"),
        "{problem}"
    );
    let twice = r#"{"name":"a","name":"b","process":{"command":["x"]}}"#;
    assert!(refused(twice).1.contains("duplicate field `name`"));
}

#[test]
fn lists_that_would_wipe_every_task_by_accident_are_refused() {
    let task = r#"{"name":"a","process":{"command":["x"]}}"#;
    for (body, path, words) in [
        ("null".to_owned(), "", "expected an array of tasks"),
        ("{}".to_owned(), "", "expected an array of tasks"),
        (task.to_owned(), "", "expected an array of tasks"),
        ("[{}]".to_owned(), "[0].name", "is required"),
        ("[null]".to_owned(), "[0]", "expected an object"),
        ("[[]]".to_owned(), "[0]", "expected an object"),
        (
            r#"[{"name":""}]"#.to_owned(),
            "[0].name",
            "must not be empty",
        ),
        (
            format!("[{task},{task}]"),
            "[1].name",
            "already the name of [0]",
        ),
        (format!("[{task}] x"), "", "single JSON value"),
        (format!("[{task}]]"), "", "single JSON value"),
        (format!("[{task},"), "", "EOF"),
        (
            format!("[{task},{{\"name\":\"b\",\"spec\":{{\"process\":{{}}}}}}]"),
            "[1].spec.process.command",
            "element",
        ),
        (
            format!("[{task},{{\"name\":\"b\"}}]"),
            "[1]",
            "nothing to run",
        ),
    ] {
        let invalid = parse_list(body.as_bytes()).expect_err(&body);
        assert_eq!(invalid.path, path, "{body}: {}", invalid.problem);
        assert!(
            invalid.problem.contains(words),
            "{body}: {}",
            invalid.problem
        );
    }
}

#[test]
fn a_list_of_the_guide_is_read_in_order() {
    let body = r#"[
      {"name": "task-alpha", "spec": {"process": {"command": ["sleep", "10"]}}},
      {"name": "task-beta", "process": {"command": ["ls", "-l", "/tmp"]}}
    ]"#;
    let tasks = parse_list(body.as_bytes()).unwrap().value;
    let names: Vec<_> = tasks
        .iter()
        .map(|task| (task.name.as_str(), task.dialect))
        .collect();
    assert_eq!(
        names,
        [
            ("task-alpha", Dialect::Nested),
            ("task-beta", Dialect::Flat)
        ]
    );
    assert_eq!(parse_list(b" [ ] ").unwrap().value, []);
}

#[test]
fn errors_print_their_place_and_remedy() {
    let body = r#"[{"name":"a","process":{"command":["x"]}},{"name":"b","spec":{"process":{"command":[]}}}]"#;
    assert_eq!(
        parse_list(body.as_bytes()).unwrap_err().to_string(),
        r#"[1].spec.process.command: must have at least one element, e.g. ["sh","-c"]"#
    );
    let invalid = InvalidTask {
        path: String::new(),
        problem: "is wrong".to_owned(),
    };
    assert_eq!(invalid.to_string(), "is wrong");
}

#[test]
fn unknown_fields_are_named_with_their_paths() {
    let body = r#"[
      {"name":"a","process":{"command":["x"]},"kind":"Task"},
      {"name":"b","metadata":{"x":[1,{"y":null}]},"spec":{"foo":1,"process":{"command":["x"],
        "tty":true,"env":[{"name":"A","secret":1}],"lifecycle":{"preStart":{"exec":{"command":["x"],
        "shell":1},"httpGet":{}}},"resources":{"requests":{"cpu":"1"}}}}}
    ]"#;
    let ignored = parse_list(body.as_bytes()).unwrap().ignored;
    assert_eq!(
        ignored,
        [
            "[0].kind",
            "[1].metadata",
            "[1].spec.foo",
            "[1].spec.process.tty",
            "[1].spec.process.env[0].secret",
            "[1].spec.process.lifecycle.preStart.exec.shell",
            "[1].spec.process.lifecycle.preStart.httpGet",
            "[1].spec.process.resources.requests",
        ]
    );
    let one = r#"{"name":"a","process":{"command":["x"],"foo":1}}"#;
    assert_eq!(parse_one(one.as_bytes()).unwrap().ignored, ["process.foo"]);
}

#[test]
fn unknown_fields_cost_little_memory_and_fit_in_a_header() {
    let members: Vec<_> = (0..100).map(|index| format!("\"x{index}\":0,")).collect();
    let members = members.concat();
    let body = format!("{{{members}\"name\":\"a\",\"process\":{{\"command\":[\"x\"]}}}}");
    assert_eq!(
        parse_one(body.as_bytes()).unwrap().ignored.len(),
        IGNORED_MAX
    );
    let key = format!("\\r\\né\\u0000{}", "k".repeat(100_000));
    let body = format!(r#"{{"{key}":0,"name":"a","process":{{"command":["x"]}}}}"#);
    let ignored = parse_one(body.as_bytes()).unwrap().ignored;
    assert!(
        ignored[0].len() < 200 && ignored[0].starts_with("\\r\\n\\u{e9}\\u{0}kk"),
        "{ignored:?}"
    );
    let body = format!(r#"{{"name":"a","podTemplateSpec":{{"{key}":0}}}}"#);
    assert!(refused(&body).0.len() < 200);
    let body = format!(r#"{{"name":"a","process":{{"command":"{key}"}}}}"#);
    assert!(refused(&body).1.len() < 700);
}

#[test]
fn a_task_that_was_read_back_can_be_sent_again() {
    let body = r#"{"name":"a","uid":"u","deletionTimestamp":null,"process":{"command":["x"]},
        "processStatus":{"running":{"startedAt":"2025-12-17T10:00:00Z","x":[1.5,true,-1]}},
        "podStatus":null,"status":{"state":{}},"warnings":["w"]}"#;
    let parsed = parse_one(body.as_bytes()).unwrap();
    assert_eq!(parsed.ignored, [""; 0]);
    assert_eq!(parsed.value.dialect, Dialect::Flat);
}

/// Replaces the value that `pick` falls on, anywhere in the tree.
fn mutate(value: &mut Value, pick: &mut usize, with: &Value) {
    if *pick == 0 {
        *value = with.clone();
        *pick = usize::MAX;
        return;
    }
    *pick -= 1;
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| mutate(item, pick, with)),
        Value::Object(members) => members
            .values_mut()
            .for_each(|item| mutate(item, pick, with)),
        _ => {}
    }
}

fn odd_value() -> impl Strategy<Value = Value> {
    proptest::sample::select(vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}"),
        json!("x"),
        json!([]),
        json!({}),
        json!([null]),
        json!([[]]),
        json!({"a": 1}),
    ])
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_one(&bytes);
        let _ = parse_list(&bytes);
    }

    #[test]
    fn json_with_a_changed_byte_never_panics(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        for text in [fixtures::FULL_NESTED, fixtures::FULL_FLAT, fixtures::CONTAINER] {
            let mut bytes = text.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = parse_one(&bytes);
            let _ = parse_one(&bytes[..at]);
        }
    }

    #[test]
    fn a_task_with_a_changed_value_is_refused_or_reads_back_the_same(
        pick in 0..60_usize,
        with in odd_value(),
    ) {
        for text in [fixtures::FULL_NESTED, fixtures::FULL_FLAT, fixtures::CONTAINER] {
            let mut value: Value = serde_json::from_str(text).unwrap();
            mutate(&mut value, &mut pick.clone(), &with);
            let single = value.to_string();
            let list = format!("[{single}]");
            let (one, many) = (parse_one(single.as_bytes()), parse_list(list.as_bytes()));
            prop_assert_eq!(one.is_ok(), many.is_ok());
            if let Ok(parsed) = one {
                prop_assert_eq!(&parse_one(&parsed.value.to_json()).unwrap().value, &parsed.value);
            }
        }
    }
}
