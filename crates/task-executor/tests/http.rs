//! The HTTP contract on the real program: codes, errors, sets, dialects, waiting, what the agent tells of itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::agent::{Agent, PATIENCE, Setup};
use testkit::http::Answer;
use testkit::{eventually, place};

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_task-executor"))
}

fn sleeper(name: &str) -> Value {
    json!({"name": name, "spec": {"process": {"command": ["sleep", "1000"]}}})
}

fn quick(name: &str) -> Value {
    json!({"name": name, "spec": {"process": {"command": ["true"]}}})
}

fn names(list: &Value) -> Vec<&str> {
    let tasks = list.as_array().expect("a list");
    tasks
        .iter()
        .map(|task| task["name"].as_str().expect("a name"))
        .collect()
}

/// Checks that an answer is an error of this code, in JSON, whose message has this fragment.
fn check_error(answer: &Answer, code: u16, word: &str, fragment: &str) {
    let text = answer.text();
    assert_eq!(answer.code, code, "{text}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{text}"
    );
    let body = answer.json();
    let members: Vec<_> = body.as_object().expect("an object").keys().collect();
    assert_eq!(members, ["code", "message"], "{text}");
    assert_eq!(body["code"], word, "{text}");
    let message = body["message"].as_str().expect("a message");
    assert!(message.contains(fragment), "{fragment} in {message}");
}

/// Calls that fail while there is a task `t`: status, code, and what the message says.
const ERRORS: &[(&str, u16, &str, &str)] = &[
    ("GET /tasks/none", 404, "TaskNotFound", "none"),
    ("GET /tasks/none/logs", 404, "TaskNotFound", "none"),
    ("GET /tasks/.hidden", 404, "TaskNotFound", ".hidden"),
    ("GET /tasks/a%2F..%2Fc", 404, "TaskNotFound", "a/../c"),
    ("GET /", 404, "NotFound", "/"),
    ("GET /nothing/here", 404, "NotFound", "/nothing/here"),
    ("GET /tasks/t/nothing", 404, "NotFound", "nothing"),
    ("GET /tasks", 405, "MethodNotAllowed", "POST"),
    ("DELETE /getTasks", 405, "MethodNotAllowed", "GET"),
    ("GET /setTasks", 405, "MethodNotAllowed", "POST"),
    ("POST /health", 405, "MethodNotAllowed", "GET"),
    ("PUT /tasks/t", 405, "MethodNotAllowed", "DELETE"),
    ("GET /tasks/t?wait=soon", 400, "BadRequest", "wait"),
    ("GET /tasks/t?wait=-1s", 400, "BadRequest", "wait"),
    ("GET /tasks/t?uid=other", 412, "PreconditionFailed", "other"),
    (
        "DELETE /tasks/t?uid=other",
        412,
        "PreconditionFailed",
        "other",
    ),
    ("GET /tasks/t/logs?stream=in", 400, "BadRequest", "stdout"),
    (
        "GET /tasks/t/logs?tailLines=x",
        400,
        "BadRequest",
        "tailLines",
    ),
    ("GET /tasks/t/logs?follow=x", 400, "BadRequest", "follow"),
    ("GET /getTasks?watch=x", 400, "BadRequest", "watch"),
    (
        "GET /getTasks?watch=true&resourceVersion=x",
        400,
        "BadRequest",
        "resourceVersion",
    ),
    (
        "GET /getTasks?watch=true&resourceVersion=1",
        410,
        "Gone",
        "list again",
    ),
];

#[test]
fn every_error_is_json_with_a_code_and_a_message() {
    let agent = setup().start();
    agent.create("t", &sleeper("t")["spec"]);
    let duplicate = agent.call("POST", "/tasks", &sleeper("t").to_string());
    check_error(&duplicate, 409, "AlreadyExists", "t");
    for (call, code, word, fragment) in ERRORS {
        let (method, path) = call.split_once(' ').expect("two words");
        check_error(&agent.call(method, path, ""), *code, word, fragment);
    }
    assert_eq!(agent.get("/tasks/t").0, 200);
}

#[test]
fn an_unknown_method_is_answered_with_those_that_are_known() {
    let agent = setup().start();
    for (path, allowed) in [
        ("/tasks", vec!["POST"]),
        ("/setTasks", vec!["POST"]),
        ("/getTasks", vec!["GET", "HEAD"]),
        ("/tasks/t", vec!["DELETE", "GET", "HEAD"]),
        ("/tasks/t/logs", vec!["GET", "HEAD"]),
        ("/health", vec!["GET", "HEAD"]),
    ] {
        let answer = agent.call("PATCH", path, "");
        assert_eq!(answer.code, 405);
        let header = answer.header("allow").unwrap_or_default();
        let mut found: Vec<_> = header.split(", ").collect();
        found.sort_unstable();
        assert_eq!(found, allowed, "{path}");
    }
}

/// What makes a task invalid, and where the message says it is.
const BAD_TASKS: &[(&str, &str)] = &[
    ("", ""),
    ("not json", ""),
    ("null", ""),
    ("[]", ""),
    ("{}", "name"),
    (r#"{"name":"t"}"#, "nothing to run"),
    (r#"{"name":"t","spec":{}}"#, "spec"),
    (
        r#"{"name":"t","spec":{"process":{}}}"#,
        "spec.process.command",
    ),
    (
        r#"{"name":"t","spec":{"process":{"command":[]}}}"#,
        "spec.process.command",
    ),
    (
        r#"{"name":"t","spec":{"process":{"command":[""]}}}"#,
        "spec.process.command[0]",
    ),
    (
        r#"{"name":"t","spec":{"process":{"command":"sh"}}}"#,
        "spec.process.command",
    ),
    (r#"{"name":"t","spec":{"process":{"command":["a"]}}} x"#, ""),
    (
        r#"{"name":"t","spec":{"process":{"command":["a"]},"container":{"image":"i"}}}"#,
        "exactly one",
    ),
    (
        r#"{"name":"t","spec":{"process":{"command":["a"]}},"process":{"command":["a"]}}"#,
        "dialects",
    ),
    (
        r#"{"name":"t","process":{"command":["a"]},"podTemplateSpec":{}}"#,
        "podTemplateSpec",
    ),
    (
        r#"{"name":"t","process":{"command":[]}}"#,
        "process.command",
    ),
    (r#"{"name":"t","process":{"command":["a\u0000b"]}}"#, "NUL"),
    (
        r#"{"name":"t","process":{"command":["a"],"args":["\u0000"]}}"#,
        "process.args[0]",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"workingDir":"tmp"}}"#,
        "workingDir",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"timeoutSeconds":0}}"#,
        "timeoutSeconds",
    ),
    (
        r#"{"name":"t","spec":{"process":{"command":["a"]},"timeoutSeconds":-1}}"#,
        "timeoutSeconds",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"terminationGracePeriodSeconds":-1}}"#,
        "terminationGracePeriodSeconds",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"env":[{"name":"A","valueFrom":{"fieldRef":{}}}]}}"#,
        "process.env[0].valueFrom",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"env":[{"name":""}]}}"#,
        "process.env[0].name",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"env":[{"name":"A=B"}]}}"#,
        "process.env[0].name",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"env":[{"name":"A","value":"\u0000"}]}}"#,
        "process.env[0].value",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"runAsUser":-1}}"#,
        "runAsUser",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"supplementalGroups":[1,-1]}}"#,
        "supplementalGroups[1]",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"rlimits":[{"type":"X","soft":1,"hard":1}]}}"#,
        "rlimits[0].type",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"leftoverProcesses":"Maybe"}}"#,
        "leftoverProcesses",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"lifecycle":{"stopSignal":"SIGNOTHING"}}}"#,
        "stopSignal",
    ),
    (
        r#"{"name":"t","process":{"command":["a"],"lifecycle":{"preStart":{"exec":{"command":[]}}}}}"#,
        "preStart.exec.command",
    ),
    (
        r#"{"name":"t","spec":{"container":{"image":"i","volumeMounts":[{"name":"v","mountPath":"/v"}]}}}"#,
        "",
    ),
];

#[test]
fn a_bad_task_is_refused_and_the_message_says_where() {
    let agent = setup().start();
    for (body, place) in BAD_TASKS {
        let answer = agent.call("POST", "/tasks", body);
        check_error(&answer, 400, "InvalidTask", place);
    }
    assert_eq!(agent.get("/getTasks").1, json!([]));
}

#[test]
fn a_bad_set_is_refused_as_a_whole_and_touches_nothing() {
    let agent = setup().start();
    assert_eq!(agent.post("/setTasks", &json!([sleeper("keep")])).0, 200);
    let before = agent.running("keep");
    let mut bodies: Vec<String> = [
        "",
        "null",
        "{}",
        "[{}]",
        "[null]",
        "[[]]",
        "[] x",
        "[]]",
        "[",
        r#"[{"name":""}]"#,
        r#"{"name":"t","process":{"command":["a"]}}"#,
    ]
    .map(str::to_owned)
    .to_vec();
    bodies.push(json!([quick("new"), quick("new")]).to_string());
    bodies.push(format!("{} trailing", json!([quick("new")])));
    for (bad, _) in BAD_TASKS.iter().filter(|(bad, _)| !bad.is_empty()) {
        bodies.push(format!("[{},{bad}]", quick("new")));
    }
    for body in &bodies {
        let answer = agent.call("POST", "/setTasks", body);
        check_error(&answer, 400, "InvalidTask", "");
    }
    let third = format!(
        "[{},{},{{\"name\":\"c\",\"process\":{{}}}}]",
        quick("a"),
        quick("b")
    );
    let answer = agent.call("POST", "/setTasks", &third);
    check_error(&answer, 400, "InvalidTask", "[2].process.command");
    assert_eq!(agent.get("/getTasks").1, json!([before]));
}

#[test]
fn names_are_checked() {
    let agent = setup().start();
    let long = "n".repeat(253);
    for name in ["a", "A.b_c-9", "0", "task-01.example", &long] {
        let (code, task) = agent.post("/tasks", &quick(name));
        assert_eq!((code, &task["name"]), (201, &json!(name)));
        assert_eq!(agent.ended(name)["exitCode"], 0);
    }
    let longer = "n".repeat(254);
    for name in [
        "", ".", "..", "a/b", "a/../c", "../c", "/a", ".hidden", "-a", "a-", "a.", "_a", "a\n",
        "a b", "a\u{0}b", "ä", "a%2e", ".agent", ".corrupt", &longer,
    ] {
        let answer = agent.call("POST", "/tasks", &quick(name).to_string());
        check_error(&answer, 400, "InvalidTask", "name");
        let answer = agent.call("POST", "/setTasks", &json!([quick(name)]).to_string());
        check_error(&answer, 400, "InvalidTask", "[0].name");
    }
    assert_eq!(names(&agent.get("/getTasks").1).len(), 5);
}

/// Sends a request as raw bytes and reads the answer to its end.
fn raw(agent: &Agent, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(agent.address()).expect("connects");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("takes a timeout");
    for part in parts {
        stream.write_all(part).expect("writes");
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("reads");
    text
}

#[test]
fn a_body_beyond_the_limit_gets_413_with_and_without_a_declared_length() {
    let agent = setup().flag("--max-request-bytes=1KiB").start();
    let pad = |bytes: usize| {
        let empty = json!({"name": "t", "process": {"command": ["true", ""]}}).to_string();
        let args = "x".repeat(bytes - empty.len());
        json!({"name": "t", "process": {"command": ["true", args]}}).to_string()
    };
    let answer = agent.call("POST", "/tasks", &pad(1025));
    check_error(&answer, 413, "PayloadTooLarge", "1024");
    let answer = agent.call("POST", "/setTasks", &"[".repeat(5000));
    check_error(&answer, 413, "PayloadTooLarge", "--max-request-bytes");
    let chunk = format!("800\r\n{}\r\n", "x".repeat(0x800));
    let head = b"POST /tasks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let text = raw(&agent, &[head, chunk.as_bytes(), b"0\r\n\r\n"]);
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    let exact = agent.call("POST", "/tasks", &pad(1024));
    assert_eq!(exact.code, 201, "{}", exact.text());
}

#[test]
fn a_client_that_waits_for_100_continue_is_told_to_go_on_or_not() {
    let agent = setup().flag("--max-request-bytes=1KiB").start();
    let head = "POST /tasks HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\n";
    let large = format!("{head}Content-Length: 5000\r\n\r\n");
    let text = raw(&agent, &[large.as_bytes()]);
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    let body = quick("t").to_string();
    let small = format!("{head}Content-Length: {}\r\n\r\n", body.len());
    let text = raw(&agent, &[small.as_bytes(), body.as_bytes()]);
    assert!(text.contains("HTTP/1.1 201 "), "{text}");
}

#[test]
fn beyond_max_tasks_comes_429_with_retry_after_and_a_delete_makes_room() {
    let agent = setup().flag("--max-tasks=2").start();
    agent.run("a", &json!({"command": ["true"]}));
    agent.create("b", &sleeper("b")["spec"]);
    for (path, body) in [
        ("/tasks", quick("c")),
        ("/setTasks", json!([quick("a"), sleeper("b"), quick("c")])),
        ("/setTasks", json!([quick("c"), quick("d"), quick("e")])),
    ] {
        let answer = agent.call("POST", path, &body.to_string());
        check_error(&answer, 429, "TooManyTasks", "--max-tasks");
        let after = answer.header("retry-after").and_then(|v| v.parse().ok());
        assert!(after.is_some_and(|seconds: u64| seconds >= 1));
    }
    assert_eq!(names(&agent.get("/getTasks").1), ["a", "b"]);
    assert_eq!(agent.delete("/tasks/a"), 204);
    agent.gone("a");
    assert_eq!(agent.post("/tasks", &quick("c")).0, 201);
}

#[test]
fn a_uid_protects_a_successor_from_a_late_delete() {
    let agent = setup().start();
    let first = agent.create("t", &sleeper("t")["spec"])["uid"].clone();
    let first = first.as_str().expect("a uid").to_owned();
    assert!(!first.is_empty());
    assert_eq!(agent.get(&format!("/tasks/t?uid={first}")).0, 200);
    assert_eq!(agent.delete(&format!("/tasks/t?uid={first}")), 204);
    agent.gone("t");
    let second = agent.create("t", &sleeper("t")["spec"])["uid"].clone();
    assert_ne!(second, json!(first));
    let late = agent.call("DELETE", &format!("/tasks/t?uid={first}"), "");
    check_error(&late, 412, "PreconditionFailed", &first);
    let late = agent.call("GET", &format!("/tasks/t?uid={first}"), "");
    check_error(&late, 412, "PreconditionFailed", &first);
    let now = agent.running("t");
    assert_eq!(
        (&now["uid"], &now["deletionTimestamp"]),
        (&second, &Value::Null)
    );
    assert_eq!(agent.delete("/tasks/none?uid=whatever"), 204);
}

#[test]
fn a_delete_is_answered_with_204_whatever_there_is() {
    let agent = setup().start();
    for path in ["/tasks/none", "/tasks/.hidden", "/tasks/a%2Fb"] {
        let answer = agent.call("DELETE", path, "");
        assert_eq!((answer.code, answer.body.len()), (204, 0), "{path}");
    }
    agent.run("t", &json!({"command": ["true"]}));
    assert_eq!(agent.delete("/tasks/t"), 204);
    assert_eq!(agent.delete("/tasks/t"), 204);
    agent.gone("t");
}

#[test]
fn the_list_is_in_name_order_with_those_being_deleted_at_the_end() {
    let agent = setup().start();
    let deaf = json!({"process": {"command": ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"]},
        "terminationGracePeriodSeconds": 600});
    for name in ["b", "a"] {
        agent.create(name, &deaf);
        eventually("it is deaf", PATIENCE, || {
            (agent.stdout(name) == "up\n").then_some(())
        });
    }
    let quick_ones = ["c", "Z", "d"].map(quick);
    for task in &quick_ones {
        assert_eq!(agent.post("/tasks", task).0, 201);
    }
    assert_eq!(names(&agent.get("/getTasks").1), ["Z", "a", "b", "c", "d"]);
    let (code, list) = agent.post("/setTasks", &json!(quick_ones));
    assert_eq!((code, names(&list)), (200, vec!["Z", "c", "d", "a", "b"]));
    for deleting in [&list[3], &list[4]] {
        let since = deleting["deletionTimestamp"].as_str().unwrap_or_default();
        assert!(since.ends_with('Z') && since.len() == 20, "{deleting}");
        assert!(deleting["status"]["state"].is_object(), "{deleting}");
    }
    let (_, listed) = agent.get("/getTasks");
    assert_eq!(names(&listed), ["Z", "c", "d", "a", "b"]);
    assert_eq!(agent.post("/tasks", &quick("a")).0, 409);
    // Nobody waits ten minutes for these two.
    for shim in agent.shims() {
        for (pid, _) in task_shim::proc::descendants(shim) {
            // It may have ended meanwhile.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
    agent.gone("a");
    agent.gone("b");
}

#[test]
fn unknown_fields_are_ignored_and_named_in_warnings() {
    let agent = setup().start();
    let body = json!({"name": "t", "colour": 1, "spec": {"process": {"command": ["true"], "enviroment": []}}});
    let answer = agent.call("POST", "/tasks", &body.to_string());
    assert_eq!(answer.code, 201);
    let warnings = |answer: &Answer| {
        let found = answer.headers.iter().filter(|(name, _)| name == "warning");
        found.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let found = warnings(&answer);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("299 ") && found[0].contains("colour"),
        "{found:?}"
    );
    assert!(found[1].contains("spec.process.enviroment"), "{found:?}");
    assert!(answer.json()["colour"].is_null());
    let set = json!([quick("a"), {"name": "b", "process": {"command": ["true"], "tty": true}}]);
    let answer = agent.call("POST", "/setTasks", &set.to_string());
    let found = warnings(&answer);
    assert!(
        found.len() == 1 && found[0].contains("[1].process.tty"),
        "{found:?}"
    );
    assert_eq!(warnings(&agent.call("POST", "/setTasks", "[]")), [""; 0]);
}

#[test]
fn a_task_is_answered_in_the_dialect_that_it_was_created_in() {
    let agent = setup().start();
    let flat = json!({"name": "flat", "process": {"command": ["sh", "-c"], "args": ["sleep 0.2; exit 3"],
        "env": [{"name": "A", "value": "1"}], "workingDir": "/tmp", "timeoutSeconds": 60,
        "terminationGracePeriodSeconds": 0}});
    let (code, task) = agent.post("/tasks", &flat);
    assert_eq!(code, 201, "{task}");
    let keys: Vec<_> = task.as_object().expect("an object").keys().collect();
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert_eq!(task["process"], flat["process"]);
    assert_eq!(
        task["processStatus"],
        json!({"waiting": {"reason": "Initialized"}})
    );
    let nested = json!({"name": "nested", "spec": {"process": flat["process"]}});
    let (code, list) = agent.post("/setTasks", &json!([flat, nested]));
    assert_eq!(code, 200, "{list}");
    let end = eventually("the flat one is over", PATIENCE, || {
        let (_, task) = agent.get("/tasks/flat?wait=5s");
        assert!(task["status"].is_null() && task["spec"].is_null(), "{task}");
        let end = task["processStatus"]["terminated"].clone();
        end.is_object().then_some(end)
    });
    assert_eq!(
        (&end["exitCode"], &end["reason"]),
        (&json!(3), &json!("Failed"))
    );
    assert_eq!(agent.ended("nested")["exitCode"], 3);
    let (_, list) = agent.get("/getTasks");
    assert!(list[0]["processStatus"].is_object() && list[0]["status"].is_null());
    assert!(list[1]["status"].is_object() && list[1]["processStatus"].is_null());
    assert_eq!(list[1]["spec"]["timeoutSeconds"], 60, "{list}");
}

/// `OpenSandbox`'s Go client: `[task]` or `[]` to setTasks, the first element of getTasks.
#[test]
fn the_client_of_opensandbox_drives_the_agent() {
    let agent = setup().start();
    let set = |body: &str| agent.call("POST", "/setTasks", body);
    assert_eq!(set("[]").json(), json!([]));
    let task = r#"{"name":"sbx-0","process":{"command":["/bin/sh","-c","sleep 1000 & echo up"],"args":[]}}"#;
    let answer = set(&format!("[{task}]"));
    assert_eq!(
        (answer.code, answer.json()[0]["name"].clone()),
        (200, json!("sbx-0"))
    );
    let first = || agent.get("/getTasks").1[0].clone();
    eventually("it has succeeded", PATIENCE, || {
        (first()["processStatus"]["terminated"]["reason"] == "Succeeded").then_some(())
    });
    let uid = first()["uid"].clone();
    assert_eq!(set(&format!("[{task}]")).json()[0]["uid"], uid);
    assert_eq!(set("[]").code, 200);
    eventually("the list is empty", PATIENCE, || {
        (agent.call("GET", "/getTasks", "").text().trim_end() == "[]").then_some(())
    });
}

#[test]
fn an_equal_spec_written_otherwise_is_left_alone() {
    let agent = setup().start();
    let one = r#"[{"name":"t","spec":{"process":{"command":["sh","-c","exit 5"],"args":[],"env":null}}}]"#;
    let same =
        r#"[ {"spec" : {"process":{"env":[], "command":["sh","-c","exit 5"]}}, "name":"t"} ]"#;
    let uid = agent.call("POST", "/setTasks", one).json()[0]["uid"].clone();
    agent.ended("t");
    for body in [one, same] {
        let answer = agent.call("POST", "/setTasks", body);
        assert_eq!(answer.json()[0]["uid"], uid, "{}", answer.text());
        assert_eq!(
            answer.json()[0]["status"]["state"]["terminated"]["exitCode"],
            5
        );
    }
}

#[test]
fn a_long_poll_answers_at_the_end_at_its_deadline_or_when_the_task_is_gone() {
    let agent = setup().start();
    agent.create("t", &json!({"process": {"command": ["sleep", "1000"]}}));
    agent.running("t");
    let (code, task) = agent.get("/tasks/t?wait=300ms");
    assert_eq!(
        (code, task["status"]["state"]["running"].is_object()),
        (200, true)
    );
    let began = Instant::now();
    let address = agent.address();
    let waiter = std::thread::spawn(move || {
        testkit::http::Client::new(address).request("GET", "/tasks/t?wait=50s", b"")
    });
    let deleted = agent.delete("/tasks/t");
    let answer = waiter.join().expect("ends").expect("is answered");
    assert_eq!(deleted, 204);
    assert!(
        answer.code == 404 || answer.json()["status"]["state"]["terminated"].is_object(),
        "{}",
        answer.text()
    );
    assert!(began.elapsed() < Duration::from_secs(40));
    assert_eq!(agent.get("/tasks/none?wait=30s").0, 404);
    agent.create("u", &json!({"process": {"command": ["sleep", "0.5"]}}));
    let (_, task) = agent.get("/tasks/u?wait=50");
    assert_eq!(
        task["status"]["state"]["terminated"]["exitCode"], 0,
        "{task}"
    );
    assert!(began.elapsed() < Duration::from_secs(40));
}

#[test]
fn a_long_poll_survives_a_replacement_of_its_task() {
    let agent = setup().start();
    let with =
        |code: &str| json!([{"name": "t", "spec": {"process": {"command": ["sh", "-c", code]}}}]);
    agent.post("/setTasks", &with("sleep 1000"));
    agent.running("t");
    agent.post("/setTasks", &with("exit 9"));
    assert_eq!(
        eventually("the new one is over", PATIENCE, || {
            let (code, task) = agent.get("/tasks/t?wait=10s");
            assert_eq!(code, 200, "a replaced name is never missing: {task}");
            let end = task["status"]["state"]["terminated"].clone();
            (end["signal"].is_null() && end.is_object()).then_some(end)
        })["exitCode"],
        9
    );
}

#[test]
fn the_agent_tells_its_health_version_and_description() {
    let agent = setup().start();
    for path in [
        "/health",
        "/livez",
        "/readyz",
        "/version",
        "/capabilities",
        "/openapi.json",
    ] {
        let answer = agent.call("GET", path, "");
        assert_eq!(answer.code, 200, "{path}");
        assert!(answer.json().is_object(), "{path}: {}", answer.text());
    }
    assert_eq!(
        agent.get("/version").1["version"],
        env!("CARGO_PKG_VERSION")
    );
    let (_, openapi) = agent.get("/openapi.json");
    assert!(
        openapi["openapi"]
            .as_str()
            .unwrap_or_default()
            .starts_with("3.1")
    );
    for path in [
        "/tasks",
        "/tasks/{name}",
        "/tasks/{name}/logs",
        "/setTasks",
        "/getTasks",
        "/health",
        "/livez",
        "/readyz",
        "/metrics",
        "/version",
        "/capabilities",
        "/openapi.json",
    ] {
        assert!(openapi["paths"][path].is_object(), "{path}");
    }
}

#[test]
fn the_agent_tells_what_it_can_do_here() {
    let agent = setup().flag("--max-tasks=77").start();
    let (_, found) = agent.get("/capabilities");
    assert_eq!(
        found["modes"],
        json!({"process": true, "sidecar": false, "container": false})
    );
    assert_eq!(found["limits"]["maxTasks"], 77);
    assert_eq!(found["limits"]["maxRequestBytes"], 4 << 20);
    assert_eq!(found["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(found["pid1"], false);
}

#[test]
fn the_capabilities_show_what_was_found_in_the_kernel() {
    let agent = setup().start();
    let (_, found) = agent.get("/capabilities");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("reads");
    assert_eq!(found["kernel"]["release"], release.trim_end());
    assert_eq!(found["kernel"]["closeRange"], true, "{found}");
    assert!(found["limits"]["openFiles"].as_u64() > Some(0), "{found}");
    assert_ne!(found["cgroup"]["version"], 0, "{found}");
    if place::need_root() {
        let held = found["privileges"]["capabilities"].as_array();
        assert!(held.is_some_and(|list| !list.is_empty()), "{found}");
    }
}

#[test]
fn metrics_are_prometheus_text_without_names_of_tasks() {
    let agent = setup().start();
    agent.run("very-special-name", &json!({"command": ["false"]}));
    agent.call("GET", "/no/such/very-special-path", "");
    agent.create("runs", &sleeper("runs")["spec"]);
    agent.running("runs");
    let answer = agent.call("GET", "/metrics", "");
    assert_eq!(answer.code, 200);
    let page = answer.text();
    let media = answer.header("content-type").unwrap_or_default();
    assert!(
        media.contains("text/plain") || media.contains("openmetrics-text"),
        "{media}"
    );
    for line in [
        "task_executor_tasks{state=\"running\"} 1",
        "task_executor_tasks{state=\"terminated\"} 1",
        "task_executor_task_exits_total{reason=\"Failed\"} 1",
        "task_executor_task_exits_total{reason=\"Unknown\"} 0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
    assert!(!page.contains("very-special"), "{page}");
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit_once(' ').map(|(_, value)| value.parse::<f64>());
        assert!(matches!(value, Some(Ok(_))), "{line}");
    }
}

#[test]
fn metrics_count_how_long_starts_and_exits_took() {
    let agent = setup().start();
    agent.run("t", &json!({"command": ["true"]}));
    let page = agent.call("GET", "/metrics", "").text();
    for line in [
        "task_executor_task_start_seconds_count 1",
        "task_executor_task_exit_visible_seconds_count 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}");
    }
}
