//! Tasks and lists of tasks as clients may send them, and answers as agents may give them.

use sandbox_api::{
    IGNORED_MAX, InvalidTask, NewTask, State, TaskUid, TaskView, Terminated, TerminatedReason,
    Timestamp, WaitingReason, parse_list, parse_one, parse_report, parse_reports, render,
};
use serde_json::{Map, Value, json};

use super::mutate::{mutate, text};
use crate::random::Random;

const WORDS: &[&str] = &[
    "name",
    "\"name\":",
    "spec",
    "\"spec\":{",
    "process",
    "\"process\":{",
    "container",
    "status",
    "\"command\":[\"a\"]",
    "args",
    "\"env\":[{\"name\":\"A\",\"value\":\"b\"}]",
    "valueFrom",
    "workingDir",
    "timeoutSeconds",
    "terminationGracePeriodSeconds",
    "lifecycle",
    "preStart",
    "stopSignal",
    "rlimits",
    "resources",
    "limits",
    "podTemplateSpec",
    "volumeMounts",
    "execMode",
    "Local",
    "null",
    "true",
    "{}",
    "[]",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\u0000",
    "\\ud800",
    "0",
    "-1",
    "1e400",
    "1.5",
    "9223372036854775808",
    "18446744073709551615",
    "\u{feff}",
    "..",
];

fn corpus() -> Vec<Vec<u8>> {
    [
        r#"{"name":"a","spec":{"process":{"command":["sleep"],"args":["1"]}}}"#,
        r#"{"name":"a","process":{"command":["sleep","1"],"timeoutSeconds":3}}"#,
        r#"{"name":"a.b-c_1","spec":{"process":{"command":["sh","-c","x"],"env":[{"name":"A","value":"1"},{"name":"B"}],"workingDir":"/tmp","execMode":"Local","lifecycle":{"preStart":{"exec":{"command":["a"],"timeoutSeconds":1}},"postStop":{"exec":{"command":["b"]}},"stopSignal":"SIGINT"},"runAsUser":1,"runAsGroup":2,"supplementalGroups":[3],"rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}],"leftoverProcesses":"Kill"},"timeoutSeconds":9,"terminationGracePeriodSeconds":0}}"#,
        r#"{"name":"c","spec":{"container":{"image":"u:1","command":["a"],"env":[{"name":"A","value":"b"}],"volumeMounts":[{"name":"v","mountPath":"/d","readOnly":true,"subPath":"x"}],"resources":{"limits":{"cpu":"500m","memory":"1Gi"}}}}}"#,
        r#"{"name":"p","podTemplateSpec":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"x","image":"y"}]}}}"#,
        r#"[{"name":"a","spec":{"process":{"command":["a"]}}},{"name":"b","process":{"command":["b"]}}]"#,
        r#"[{"name":"a","uid":"u","spec":{"process":{"command":["a"]}},"status":{"state":{"terminated":{"exitCode":1,"reason":"Failed","finishedAt":"2026-01-01T00:00:00Z"}}}}]"#,
        "[]",
        "null",
        r#"{"name":"a","process":{"command":["a"],"resources":{"limits":{"pids":"10"}}},"processStatus":{"running":{"startedAt":"2026-01-01T00:00:00Z"}},"deletionTimestamp":"2026-01-01T00:00:00Z"}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub(super) fn mutated(random: &mut Random) -> Vec<u8> {
    mutate(random, &corpus(), WORDS)
}

/// A task that is right or nearly right, of fields that are.
pub(super) fn built(random: &mut Random) -> Vec<u8> {
    task(random).to_string().into_bytes()
}

/// A list of such tasks.
pub(super) fn built_list(random: &mut Random) -> Vec<u8> {
    let list: Vec<_> = (0..random.below(4)).map(|_| task(random)).collect();
    Value::Array(list).to_string().into_bytes()
}

fn task(random: &mut Random) -> Value {
    let mut process = Map::new();
    let mut times = Map::new();
    let words = |random: &mut Random| -> Value {
        let count = 1 + random.below(3);
        (0..count).map(|_| text(random, 5)).collect()
    };
    process.insert("command".into(), words(random));
    let optional = [
        "args",
        "env",
        "workingDir",
        "lifecycle",
        "runAsUser",
        "supplementalGroups",
        "rlimits",
        "leftoverProcesses",
        "execMode",
        "resources",
    ];
    for field in optional {
        if !random.chance(25) {
            continue;
        }
        let value = match field {
            "args" => words(random),
            "env" => json!([{"name": text(random, 3), "value": text(random, 5)}]),
            "workingDir" => format!("/{}", text(random, 5)).into(),
            "lifecycle" => json!({
                "preStart": {"exec": {"command": words(random), "timeoutSeconds": random.below(3)}},
                "stopSignal": random.pick(&["SIGTERM", "INT", "SIGRTMIN+3", "9", ""]),
            }),
            "runAsUser" => random.below(70_000).into(),
            "supplementalGroups" => json!([random.below(9)]),
            "rlimits" => json!([{"type": "RLIMIT_CORE", "soft": random.below(9), "hard": 5}]),
            "leftoverProcesses" => (*random.pick(&["Keep", "Kill", "keep"])).into(),
            "execMode" => (*random.pick(&["Local", "Remote"])).into(),
            _ => json!({"limits": {"memory": random.pick(&["1Gi", "12M", "1e3", "-1"])}}),
        };
        process.insert(field.into(), value);
    }
    for field in ["timeoutSeconds", "terminationGracePeriodSeconds"] {
        if random.chance(30) {
            times.insert(field.into(), random.below(4).into());
        }
    }
    let name = random.pick(&["a", "b", "x.y", "A-1", "", "-"]).to_string();
    if random.chance(50) {
        process.extend(times);
        return json!({"name": name, "process": process});
    }
    let mut spec = times;
    spec.insert("process".into(), process.into());
    json!({"name": name, "spec": spec})
}

/// One task: never panics; what is accepted reads back equal, as stored and as shown.
pub(super) fn check_one(bytes: &[u8]) -> Result<(), String> {
    match parse_one(bytes) {
        Ok(parsed) => {
            check_ignored(&parsed.ignored)?;
            check_accepted(&parsed.value)
        }
        Err(error) => check_error(&error),
    }
}

/// A list of tasks, likewise; and no name is there twice.
pub(super) fn check_list(bytes: &[u8]) -> Result<(), String> {
    match parse_list(bytes) {
        Ok(parsed) => {
            check_ignored(&parsed.ignored)?;
            let mut names: Vec<_> = parsed.value.iter().map(|task| &task.name).collect();
            names.sort();
            if names.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err("a list with a name twice was accepted".to_owned());
            }
            parsed.value.iter().try_for_each(check_accepted)
        }
        Err(error) => check_error(&error),
    }
}

/// Answers of agents: never panics.
pub(super) fn check_report(bytes: &[u8]) -> Result<(), String> {
    let one = parse_report(bytes).map(|_| ());
    let many = parse_reports(bytes).map(|_| ());
    for error in [one, many].into_iter().filter_map(Result::err) {
        if error.problem.is_empty() {
            return Err("an error without a message".to_owned());
        }
    }
    Ok(())
}

fn check_ignored(ignored: &[String]) -> Result<(), String> {
    let printable = |path: &String| path.bytes().all(|b| (0x20..0x7f).contains(&b));
    if ignored.len() > IGNORED_MAX || !ignored.iter().all(printable) {
        return Err(format!(
            "ignored fields can't be put in a header: {ignored:?}"
        ));
    }
    Ok(())
}

fn check_error(error: &InvalidTask) -> Result<(), String> {
    let shown = error.to_string();
    if error.problem.is_empty() {
        return Err("an error without a message".to_owned());
    }
    if shown.len() > 4096 {
        return Err(format!("an error of {} bytes", shown.len()));
    }
    if error.path.chars().any(char::is_control) {
        return Err(format!("a path that can't be shown: {:?}", error.path));
    }
    Ok(())
}

fn check_accepted(task: &NewTask) -> Result<(), String> {
    let stored = task.to_json();
    let again = parse_one(&stored)
        .map_err(|error| format!("what was stored is refused: {error}: {}", show(&stored)))?;
    if again.value != *task {
        return Err(format!(
            "what was stored reads differently: {}",
            show(&stored)
        ));
    }
    if !again.ignored.is_empty() || again.value.to_json() != stored {
        return Err(format!("what was stored is not stable: {}", show(&stored)));
    }
    states()
        .iter()
        .try_for_each(|state| check_shown(task, state))
}

fn check_shown(task: &NewTask, state: &State) -> Result<(), String> {
    let uid = TaskUid::parse("u-1").map_err(|error| error.to_string())?;
    let mut shown = Vec::new();
    let view = TaskView {
        name: &task.name,
        uid: &uid,
        dialect: task.dialect,
        spec: &task.spec,
        deletion_timestamp: None,
        state,
        warnings: &[],
    };
    render(&view, &mut shown);
    let report = parse_report(&shown)
        .map_err(|error| format!("what is shown can't be read: {error}: {}", show(&shown)))?;
    let right = report.name == task.name.as_str() && report.uid.as_deref() == Some("u-1");
    if !right || report.dialect != task.dialect || shown.contains(&b'\n') {
        return Err(format!("what is shown reads differently: {}", show(&shown)));
    }
    // A client may send back what it was shown.
    let again = parse_one(&shown)
        .map_err(|error| format!("what is shown is refused: {error}: {}", show(&shown)))?;
    if again.value != *task {
        return Err(format!("what is shown is another task: {}", show(&shown)));
    }
    Ok(())
}

fn states() -> Vec<State> {
    let Some(time) = Timestamp::from_unix_seconds(1) else {
        return Vec::new();
    };
    vec![
        State::Waiting {
            reason: WaitingReason::Queued,
            message: Some("\"\u{0}\n\u{2028}".to_owned()),
        },
        State::Running { started_at: time },
        State::Terminated(Terminated {
            exit_code: -1,
            signal: Some(9),
            reason: TerminatedReason::Failed,
            message: Some("\\".to_owned()),
            started_at: None,
            finished_at: time,
        }),
    ]
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox_api::Dialect;

    #[test]
    fn enough_of_what_is_built_is_accepted_in_both_dialects() {
        let mut random = Random::new(1);
        let accepted: Vec<_> = (0..400)
            .filter_map(|_| parse_one(&built(&mut random)).ok())
            .map(|parsed| parsed.value.dialect)
            .collect();
        for dialect in [Dialect::Nested, Dialect::Flat] {
            assert!(accepted.iter().filter(|d| **d == dialect).count() > 10);
        }
    }
}
