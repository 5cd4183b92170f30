//! The client against the real agent, which has to be built before: `cargo build -p task-executor`.

use std::time::Duration;

use bytes::Bytes;
use sandbox_api::{ReportedState, TaskName, TaskUid};
use serde_json::{Value, json};
use task_client::{
    Change, Client, Endpoint, LogQuery, LogStream, Logs, Options, ResourceVersion, Target, Task,
    Watch, Watching,
};
use testkit::agent::{Agent, Setup};
use tokio::time::timeout;

/// Longer than any test takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn client() -> Client {
    Client::new(Options {
        request: PATIENCE,
        ..Options::default()
    })
}

fn start() -> (Agent, Endpoint) {
    let agent = Setup::built().start();
    let at = Endpoint::new(agent.address());
    (agent, at)
}

fn process(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

/// A body for `setTasks`, in the flat dialect.
fn flat(tasks: &[(&str, &Value)]) -> Bytes {
    let task = |(name, process): &(&str, &Value)| json!({"name": name, "process": process});
    let tasks: Vec<_> = tasks.iter().map(task).collect();
    Value::from(tasks).to_string().into()
}

fn named(name: &str) -> Target {
    Target::named(TaskName::parse(name).expect("a name"))
}

fn exactly(task: &Task) -> Target {
    let uid = task.report.uid.as_deref().expect("a uid");
    let uid = TaskUid::parse(uid).expect("a uid");
    Target::exactly(TaskName::parse(&task.report.name).expect("a name"), uid)
}

fn exit_code(task: &Task) -> Option<i32> {
    match task.report.state {
        Some(ReportedState::Terminated { exit_code, .. }) => Some(exit_code),
        Some(ReportedState::Waiting { .. } | ReportedState::Running { .. }) | None => None,
    }
}

async fn live(client: &Client, at: &Endpoint, since: Option<ResourceVersion>) -> Watch {
    match client.watch_tasks(at, since).await {
        Ok(Watching::Live(watch)) => watch,
        other => panic!("{other:?}"),
    }
}

async fn all(mut logs: Logs) -> String {
    let mut bytes = Vec::new();
    while let Some(piece) = logs.next().await.expect("a piece") {
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_set_listed_and_waited_for() {
    let (_agent, at) = start();
    let client = client();
    let (one, two) = (process("exit 3"), process("exit 0"));
    let set = client.set_tasks(&at, flat(&[("a", &one), ("b", &two)]));
    let set = set.await.expect("a list");
    assert!(set.version.is_some());
    assert!(set.get("a").is_some_and(|task| task.shows(&one)));
    assert!(set.get("b").is_some_and(|task| !task.shows(&one)));
    let ended = client.wait_task(&at, &named("a"), PATIENCE).await;
    assert_eq!(exit_code(&ended.expect("a task")), Some(3));
    let listed = client.get_tasks(&at).await.expect("a list");
    assert!(listed.version >= set.version);
    assert_eq!(listed.tasks.len(), 2);
    let same = client.set_tasks(&at, flat(&[("a", &one), ("b", &two)]));
    assert_eq!(same.await.expect("a list").tasks.len(), 2);
    let bad = client.set_tasks(&at, Bytes::from_static(b"[{}]")).await;
    assert_eq!(bad.expect_err("is refused").status(), Some(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_a_task_to_its_end_and_its_removal() {
    let (_agent, at) = start();
    let client = client();
    let before = client.get_tasks(&at).await.expect("a list").version;
    let mut watch = live(&client, &at, before).await;
    let script = process("exit 4");
    let set = client.set_tasks(&at, flat(&[("t", &script)])).await;
    set.expect("a list");
    let mut first = None;
    loop {
        let event = timeout(PATIENCE, watch.next()).await.expect("in time");
        let event = event.expect("an event").expect("an event");
        assert_eq!(watch.version(), Some(event.version));
        match event.change {
            Change::Added(task) => {
                assert!(task.shows(&script));
                first = Some(task);
            }
            Change::Modified(task) if task.report.deletion_timestamp.is_some() => {}
            Change::Modified(task) => {
                if exit_code(&task) == Some(4) {
                    let deleted = client.delete_task(&at, &exactly(&task)).await;
                    deleted.expect("is deleted");
                }
            }
            Change::Deleted(task) => {
                assert_eq!(task.report.uid, first.and_then(|first| first.report.uid));
                break;
            }
            Change::Bookmark => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_without_a_version_begins_with_all_tasks() {
    let (agent, at) = start();
    let client = client();
    agent.run("a", &process("exit 0"));
    let mut watch = live(&client, &at, None).await;
    let event = watch.next().await.expect("an event").expect("an event");
    assert!(matches!(event.change, Change::Added(task) if task.report.name == "a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_from_before_a_restart_is_gone_and_a_watch_ends_with_the_agent() {
    let (mut agent, at) = start();
    let client = client();
    let mut watch = live(&client, &at, None).await;
    watch.next().await.expect("an event");
    agent.run("t", &process("exit 0"));
    let version = client.get_tasks(&at).await.expect("a list").version;
    let version = version.expect("a version").to_string();
    let old = version.parse::<u64>().expect("a number") - 1;
    agent.restart();
    let rest = timeout(PATIENCE, async {
        while let Ok(Some(_)) = watch.next().await {}
    });
    rest.await.expect("the old watch ends");
    let since = old.to_string().parse().ok();
    let error = client.watch_tasks(&at, since).await.expect_err("is gone");
    assert!(error.is_gone(), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!(
            "watchTasks at {}: refused with 410 Gone: ",
            agent.address()
        )),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_until_the_task_has_ended() {
    let (agent, at) = start();
    let client = client();
    agent.create(
        "t",
        &json!({"process": process("echo one; echo two >&2; sleep 0.3; echo three")}),
    );
    let query = LogQuery {
        stream: LogStream::Stdout,
        ..LogQuery::default()
    };
    let followed = client.follow_logs(&at, &named("t"), &query).await;
    assert_eq!(all(followed.expect("logs")).await, "one\nthree\n");
    let tail = LogQuery {
        tail_lines: Some(1),
        ..query
    };
    let tail = client.logs(&at, &named("t"), &tail).await.expect("logs");
    assert_eq!(tail.offset(), Some(4));
    assert_eq!(all(tail).await, "three\n");
    let none = client.logs(&at, &named("none"), &query).await;
    assert!(none.expect_err("no such task").is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_created_read_and_deleted_by_its_uid() {
    let (_agent, at) = start();
    let client = client();
    let body = json!({"name": "t", "spec": {"process": process("sleep 60")}}).to_string();
    let task = client.create_task(&at, body.clone().into()).await;
    let task = task.expect("a task");
    let again = client.create_task(&at, body.into()).await;
    assert_eq!(again.expect_err("exists").status(), Some(409));
    let soon = Duration::from_millis(50);
    let waited = client.wait_task(&at, &exactly(&task), soon).await;
    assert_eq!(exit_code(&waited.expect("a task")), None);

    let other = Target::exactly(named("t").name, TaskUid::parse("other").expect("a uid"));
    let deleted = client.delete_task(&at, &other).await;
    assert!(deleted.expect_err("another uid").is_other_uid());
    let read = client.get_task(&at, &exactly(&task)).await.expect("a task");
    assert_eq!(read.report.uid, task.report.uid);
    client
        .delete_task(&at, &exactly(&task))
        .await
        .expect("is deleted");
    let gone = loop {
        match client.wait_task(&at, &exactly(&task), PATIENCE).await {
            Ok(_ended_but_not_gone) => {}
            Err(error) => break error,
        }
    };
    assert!(gone.is_not_found(), "{gone}");
    let none = client.delete_task(&at, &named("t")).await;
    none.expect("nothing to delete is fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_needed_where_the_agent_asks_for_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    std::fs::write(&file, "sesame\n").expect("is written");
    let flag = format!("--auth-token-file={}", file.display());
    let agent = Setup::built().flag(flag).token("sesame").start();
    let client = client();
    let without = Endpoint::new(agent.address());
    let wrong = without.clone().with_token("other").expect("a token");
    for at in [&without, &wrong] {
        let error = client.get_tasks(at).await.expect_err("is refused");
        assert_eq!(error.status(), Some(401), "{error}");
        client.health(at).await.expect("needs no token");
    }
    let with = without.with_token("sesame").expect("a token");
    client.get_tasks(&with).await.expect("a list");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_tells_its_version_and_what_it_can_do() {
    let (_agent, at) = start();
    let client = client();
    client.health(&at).await.expect("is healthy");
    let build = client.version(&at).await.expect("a version");
    assert!(!build.version.is_empty());
    let can = client.capabilities(&at).await.expect("capabilities");
    assert_eq!(can["version"], build.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_callers_share_a_client() {
    let (agent, at) = start();
    agent.create("t", &json!({"process": process("sleep 0.5; exit 7")}));
    let client = client();
    let callers: Vec<_> = (0..200)
        .map(|_| {
            let (client, at) = (client.clone(), at.clone());
            tokio::spawn(async move {
                let task = client.wait_task(&at, &named("t"), PATIENCE).await;
                assert_eq!(exit_code(&task.expect("a task")), Some(7));
                client.get_tasks(&at).await.expect("a list");
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("all calls succeed");
    }
}
