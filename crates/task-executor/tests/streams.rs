//! What streams: watches and logs.

use std::io::{BufRead, BufReader, Read};

use serde_json::{Value, json};
use testkit::agent::{Agent, PATIENCE, Setup};
use testkit::eventually;
use testkit::http::Stream;

fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_task-executor"))
}

fn sh(script: &str) -> Value {
    json!({"process": {"command": ["sh", "-c", script]}})
}

struct Watch(BufReader<Stream>);

impl Watch {
    fn open(agent: &Agent, query: &str) -> Self {
        let path = format!("/getTasks?watch=true{query}");
        let stream = agent.client().open("GET", &path, b"").expect("is answered");
        assert_eq!(stream.code, 200);
        Self(BufReader::new(stream))
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line arrives");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }

    /// Events up to and with the first that `is_last`.
    fn until(&mut self, is_last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            seen.push(self.next());
            if seen.last().is_some_and(&is_last) {
                return seen;
            }
        }
    }
}

fn version(event: &Value) -> u64 {
    let text = event["resourceVersion"].as_str();
    text.and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no version in {event}"))
}

fn list_version(agent: &Agent) -> u64 {
    let answer = agent.call("GET", "/getTasks", "");
    let header = answer.header("x-resource-version");
    header.and_then(|v| v.parse().ok()).expect("a version")
}

#[test]
fn a_watch_from_scratch_begins_with_all_tasks_and_a_bookmark() {
    let agent = setup().start();
    agent.run("a", &json!({"command": ["true"]}));
    agent.run("b", &json!({"command": ["true"]}));
    let mut watch = Watch::open(&agent, "");
    let first = watch.until(|event| event["type"] == "BOOKMARK");
    let kinds: Vec<_> = first.iter().map(|e| e["type"].clone()).collect();
    assert_eq!(kinds, ["ADDED", "ADDED", "BOOKMARK"]);
    assert_eq!(first[0]["object"]["name"], "a");
    assert_eq!(first[1]["object"], agent.get("/tasks/b").1);
    assert_eq!(version(&first[2]), list_version(&agent));
}

#[test]
fn a_watch_tells_the_whole_life_of_a_task_in_order() {
    let agent = setup().start();
    let mut watch = Watch::open(
        &agent,
        &format!("&resourceVersion={}", list_version(&agent)),
    );
    assert_eq!(watch.next()["type"], "BOOKMARK");
    agent.create("t", &sh("exit 4"));
    let lived = watch.until(|e| e["object"]["status"]["state"]["terminated"].is_object());
    agent.delete("/tasks/t");
    let died = watch.until(|event| event["type"] == "DELETED");
    let all: Vec<_> = lived.iter().chain(&died).collect();
    assert_eq!(all[0]["type"], "ADDED");
    assert_eq!(
        all[0]["object"]["status"]["state"]["waiting"]["reason"],
        "Initialized"
    );
    let last = lived.last().expect("an event");
    assert_eq!(
        last["object"]["status"]["state"]["terminated"]["exitCode"],
        4
    );
    for event in &all[1..all.len() - 1] {
        assert_eq!(event["type"], "MODIFIED", "{event}");
    }
    assert!(
        died.iter()
            .any(|e| e["object"]["deletionTimestamp"].is_string()),
        "{died:?}"
    );
    for pair in all.windows(2) {
        assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        assert_eq!(pair[0]["object"]["uid"], pair[1]["object"]["uid"]);
    }
}

#[test]
fn a_watch_from_a_version_misses_and_repeats_nothing() {
    let agent = setup().start();
    let start = list_version(&agent);
    agent.run("a", &json!({"command": ["true"]}));
    agent.run("b", &json!({"command": ["true"]}));
    let middle = list_version(&agent);
    agent.run("c", &json!({"command": ["true"]}));
    let end = list_version(&agent);
    let from = |version: u64| {
        let mut watch = Watch::open(&agent, &format!("&resourceVersion={version}"));
        watch.until(|event| event["type"] == "BOOKMARK")
    };
    let whole = from(start);
    let rest = from(middle);
    assert_eq!(whole[whole.len() - rest.len()..], rest);
    let added: Vec<_> = whole
        .iter()
        .filter(|e| e["type"] == "ADDED")
        .map(|e| e["object"]["name"].clone())
        .collect();
    assert_eq!(added, ["a", "b", "c"]);
    assert!(
        rest.iter()
            .all(|e| e["type"] == "BOOKMARK" || e["object"]["name"] == "c")
    );
    assert_eq!(from(end).len(), 1);
}

#[test]
fn set_and_list_carry_the_version_and_what_changes_nothing_keeps_it() {
    let agent = setup().start();
    let set = || {
        agent.call(
            "POST",
            "/setTasks",
            r#"[{"name":"t","process":{"command":["true"]}}]"#,
        )
    };
    assert!(set().header("x-resource-version").is_some());
    eventually("it is over", PATIENCE, || {
        let (_, task) = agent.get("/tasks/t?wait=5s");
        task["processStatus"]["terminated"]
            .is_object()
            .then_some(())
    });
    let before = list_version(&agent);
    assert_eq!(
        set().header("x-resource-version"),
        Some(before.to_string().as_str())
    );
    assert_eq!(list_version(&agent), before);
}

#[test]
fn a_version_from_before_a_restart_or_from_the_future_gets_410() {
    let mut agent = setup().start();
    agent.run("t", &json!({"command": ["true"]}));
    let before = list_version(&agent);
    let watch = |agent: &Agent, version: u64| {
        agent.call(
            "GET",
            &format!("/getTasks?watch=true&resourceVersion={version}"),
            "",
        )
    };
    let future = watch(&agent, before + 1_000_000);
    assert_eq!(
        (future.code, future.json()["code"].clone()),
        (410, json!("Gone"))
    );
    agent.restart();
    assert!(list_version(&agent) > before, "versions never go back");
    let old = watch(&agent, before - 1);
    assert_eq!((old.code, old.json()["code"].clone()), (410, json!("Gone")));
}

#[test]
fn a_version_beyond_what_is_remembered_gets_410() {
    let agent = setup().start();
    let start = list_version(&agent);
    // Each round is two changes; the agent remembers some thousands.
    let one = json!([{"name": "t", "spec": {"process": {"command": ["true"]}}}]).to_string();
    let mut client = agent.client();
    let path = format!("/getTasks?watch=true&timeoutSeconds=0&resourceVersion={start}");
    let gone = (0..20_000).any(|round| {
        let body = if round % 2 == 0 { one.as_str() } else { "[]" };
        let set = client.request("POST", "/setTasks", body.as_bytes());
        assert_eq!(set.expect("is answered").code, 200);
        round % 500 == 499 && agent.call("GET", &path, "").code == 410
    });
    assert!(gone, "the history is bounded");
}

/// A task that has written to both streams.
fn writer(agent: &Agent, name: &str) {
    let script = "printf 'one\\ntwo\\nthree\\n'; printf 'e1\\ne2\\n' >&2";
    assert_eq!(
        agent.run(name, &json!({"command": ["sh", "-c", script]}))["exitCode"],
        0
    );
}

#[test]
fn logs_are_read_by_stream_tail_offset_and_limit() {
    let agent = setup().start();
    writer(&agent, "t");
    for (query, expected) in [
        ("?stream=stdout", "one\ntwo\nthree\n"),
        ("?stream=stderr", "e1\ne2\n"),
        ("?stream=stdout&tailLines=1", "three\n"),
        ("?stream=stdout&tailLines=2", "two\nthree\n"),
        ("?stream=stdout&tailLines=0", ""),
        ("?stream=stdout&tailLines=99", "one\ntwo\nthree\n"),
        ("?stream=stdout&sinceBytes=4", "two\nthree\n"),
        ("?stream=stdout&sinceBytes=999", ""),
        ("?stream=stdout&limitBytes=5", "one\nt"),
        ("?stream=stdout&limitBytes=0", ""),
        ("?stream=stdout&sinceBytes=4&limitBytes=3", "two"),
        ("?stream=stdout&follow=true", "one\ntwo\nthree\n"),
    ] {
        let answer = agent.call("GET", &format!("/tasks/t/logs{query}"), "");
        assert_eq!(
            (answer.code, answer.text().as_str()),
            (200, expected),
            "{query}"
        );
        let media = answer.header("content-type").unwrap_or_default();
        assert!(media.starts_with("text/plain"), "{media}");
    }
    for query in ["", "?stream=both", "?follow=true"] {
        let text = agent
            .call("GET", &format!("/tasks/t/logs{query}"), "")
            .text();
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["e1", "e2", "one", "three", "two"], "{query}");
    }
}

#[test]
fn a_log_is_the_bytes_that_the_task_wrote() {
    let agent = setup().start();
    let bytes: Vec<u8> = (0..=255).collect();
    let octal: Vec<_> = bytes.iter().map(|b| format!("\\{b:03o}")).collect();
    agent.run("t", &json!({"command": ["printf", octal.concat()]}));
    let answer = agent.call("GET", "/tasks/t/logs?stream=stdout", "");
    assert_eq!(answer.body, bytes);
}

#[test]
fn a_followed_log_comes_as_it_is_written_and_ends_with_the_task() {
    let agent = setup().start();
    let place = tempfile::tempdir().expect("a temporary directory");
    let go = place.path().join("go");
    let script = format!(
        "echo first; while [ ! -e {} ]; do sleep 0.05; done; echo last; echo err >&2",
        go.display()
    );
    agent.create("t", &sh(&script));
    let path = "/tasks/t/logs?follow=true&stream=stdout";
    let stream = agent.client().open("GET", path, b"").expect("is answered");
    assert_eq!(stream.code, 200);
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).expect("the first line arrives");
    assert_eq!(line, "first\n");
    assert!(!go.exists(), "it was seen while the task runs");
    std::fs::write(&go, "").expect("writes");
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("the stream ends");
    assert_eq!(rest, "last\n");
    assert_eq!(agent.ended("t")["exitCode"], 0);
}

#[test]
fn a_followed_log_of_a_task_that_is_deleted_ends() {
    let agent = setup().start();
    agent.create("t", &sh("echo up; sleep 1000"));
    let path = "/tasks/t/logs?follow=true";
    let stream = agent.client().open("GET", path, b"").expect("is answered");
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).expect("a line arrives");
    assert_eq!(agent.delete("/tasks/t"), 204);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).expect("the stream ends");
    agent.gone("t");
}

#[test]
fn a_task_that_waits_or_could_not_start_has_an_empty_log() {
    let agent = setup().flag("--max-concurrent-tasks=1").start();
    agent.run("missing", &json!({"command": ["no-such-program"]}));
    agent.create("first", &sh("sleep 1000"));
    agent.create("queued", &sh("echo never"));
    for name in ["missing", "queued"] {
        let answer = agent.call("GET", &format!("/tasks/{name}/logs"), "");
        assert_eq!((answer.code, answer.body.len()), (200, 0), "{name}");
    }
}

#[test]
fn a_large_log_is_streamed_whole_with_bounded_memory() {
    let agent = setup().start();
    let end = agent.run(
        "t",
        &json!({"command": ["sh", "-c", "head -c 50000000 /dev/zero"]}),
    );
    assert_eq!(end["exitCode"], 0);
    let path = "/tasks/t/logs?stream=stdout&follow=true";
    let mut stream = agent.client().open("GET", path, b"").expect("is answered");
    let read = std::io::copy(&mut stream, &mut std::io::sink()).expect("reads");
    assert_eq!(read, 50_000_000);
    let peak = testkit::place::status_line(agent.server(), "VmHWM").expect("there is a server");
    let kib: u64 = peak.trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 40_000, "the server took {peak} at its peak");
}

#[test]
fn the_log_files_are_where_others_read_them_and_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let agent = setup().start();
    writer(&agent, "t");
    assert_eq!(agent.stdout("t"), "one\ntwo\nthree\n");
    for file in ["stdout.log", "stderr.log"] {
        let found = std::fs::metadata(agent.dir().join("t").join(file)).expect("is there");
        assert_eq!(found.permissions().mode() & 0o777, 0o600, "{file}");
    }
}
