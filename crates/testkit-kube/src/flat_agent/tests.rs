//! The stand-in, as the client of the project sees it.

use std::net::Ipv4Addr;
use std::time::Instant;

use sandbox_api::{Dialect, ReportedState, TaskName};
use task_client::{CallError, Class, Client, Endpoint, Options, Target, Task, TaskList, Watching};
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

async fn start() -> (FlatAgent, Client, Endpoint) {
    let agent = FlatAgent::start((Ipv4Addr::LOCALHOST, 0).into()).await;
    let agent = agent.expect("a free port");
    let at = Endpoint::new(agent.address());
    (agent, Client::new(Options::default()), at)
}

fn sh(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

fn body(tasks: &[(&str, &Value)]) -> Bytes {
    let task = |(name, process): &(&str, &Value)| json!({"name": name, "process": process});
    tasks.iter().map(task).collect::<Value>().to_string().into()
}

fn named(name: &str) -> Target {
    Target::named(TaskName::parse(name).expect("a name"))
}

/// The list once it is as wanted.
async fn eventually(
    client: &Client,
    at: &Endpoint,
    what: &str,
    check: impl Fn(&TaskList) -> bool,
) -> TaskList {
    let looking = async {
        let mut looks = tokio::time::interval(Duration::from_millis(10));
        loop {
            looks.tick().await;
            let list = client.get_tasks(at).await.expect("a list");
            if check(&list) {
                return list;
            }
        }
    };
    timeout(PATIENCE, looking)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

fn end(task: &Task) -> Option<(i32, &str)> {
    match &task.report.state {
        Some(ReportedState::Terminated {
            exit_code, reason, ..
        }) => Some((*exit_code, reason)),
        Some(ReportedState::Waiting { .. } | ReportedState::Running { .. }) | None => None,
    }
}

async fn ended(client: &Client, at: &Endpoint, name: &str) -> Task {
    let over = |list: &TaskList| list.get(name).is_some_and(|task| end(task).is_some());
    let list = eventually(client, at, "it is over", over).await;
    list.get(name).expect("a task").clone()
}

#[track_caller]
fn refusal(result: Result<impl std::fmt::Debug, CallError>, status: u16, text: &str) {
    let error = result.expect_err("is refused");
    assert_eq!(error.status(), Some(status), "{error}");
    assert!(error.to_string().contains(text), "{error}");
}

#[tokio::test]
async fn the_client_sees_that_there_is_no_watch_no_version_and_no_uid() {
    let (_agent, client, at) = start().await;
    let script = sh("exit 0");
    let set = client.set_tasks(&at, body(&[("a", &script)])).await;
    assert_eq!(set.expect("a list").version, None);
    match client.watch_tasks(&at, "7".parse().ok()).await {
        Ok(Watching::Unsupported(list)) => {
            let task = list.get("a").expect("the task");
            assert_eq!(task.report.dialect, Dialect::Flat);
            assert_eq!(task.report.uid, None);
            assert!(task.shows(&script));
        }
        other => panic!("{other:?}"),
    }
    client.health(&at).await.expect("is healthy");
    refusal(client.version(&at).await, 404, "404 page not found");
    refusal(client.capabilities(&at).await, 404, "404 page not found");
}

#[tokio::test]
async fn commands_run_for_real_and_their_ends_show_at_a_tick() {
    let (agent, client, at) = start().await;
    let dir = tempfile::tempdir().expect("a directory");
    for (name, process, code, reason) in [
        ("ok", sh("exit 0"), 0, "Succeeded"),
        ("seven", sh("exit 7"), 7, "Failed"),
        ("signal", sh("kill -9 $$"), 137, "Failed"),
        (
            "missing",
            json!({"command": ["no-such-program"]}),
            127,
            "Failed",
        ),
        (
            "place",
            json!({"command": ["sh"], "args": ["-c", "test \"$(pwd) $A\" = \"$0 2\"", dir.path()],
                "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
                "workingDir": dir.path()}),
            0,
            "Succeeded",
        ),
        (
            "timeout",
            json!({"command": ["sleep", "60"], "timeoutSeconds": 1}),
            143,
            "Failed",
        ),
    ] {
        let set = client.set_tasks(&at, body(&[(name, &process)])).await;
        let set = set.expect("a list");
        assert!(end(set.get(name).expect("a task")).is_none(), "{name}");
        let task = ended(&client, &at, name).await;
        assert_eq!(end(&task), Some((code, reason)), "{name}");
        assert_eq!(agent.starts(name), 1);
    }
}

#[tokio::test]
async fn only_one_task_is_active_and_bad_tasks_are_refused_with_500() {
    let (agent, client, at) = start().await;
    let sleep = sh("sleep 60");
    let two = client.set_tasks(&at, body(&[("a", &sleep), ("b", &sleep)]));
    refusal(
        two.await,
        500,
        "Internal Server Error: failed to sync tasks",
    );
    assert_eq!(agent.all_starts().values().sum::<usize>(), 1);
    let none = client.set_tasks(&at, Bytes::from_static(b"[{\"name\":\"c\"}]"));
    refusal(none.await, 500, "container mode is not implemented");
    refusal(
        client.set_tasks(&at, Bytes::from_static(b"{")).await,
        400,
        "Bad Request: invalid request body",
    );
    refusal(
        client.create_task(&at, Bytes::from_static(b"{}")).await,
        400,
        "task name is required",
    );
    refusal(
        client.get_task(&at, &named("x")).await,
        404,
        "task x not found",
    );
}

#[tokio::test]
async fn a_changed_spec_is_ignored_and_the_client_can_tell() {
    let (agent, client, at) = start().await;
    let (first, second) = (sh("exit 1"), sh("exit 2"));
    let set = client.set_tasks(&at, body(&[("t", &first)])).await;
    set.expect("a list");
    ended(&client, &at, "t").await;
    let set = client.set_tasks(&at, body(&[("t", &second)])).await;
    let set = set.expect("a list");
    let task = set.get("t").expect("the task");
    assert_eq!(end(task), Some((1, "Failed")));
    assert!(task.shows(&first) && !task.shows(&second));
    assert_eq!(agent.starts("t"), 1);
}

#[tokio::test]
async fn a_deleted_task_goes_at_a_tick_without_a_sign_and_is_not_revived_before() {
    let (agent, client, at) = start().await;
    let stubborn = sh("trap '' TERM; while true; do sleep 1; done");
    let set = client.set_tasks(&at, body(&[("t", &stubborn)])).await;
    set.expect("a list");
    let begun = Instant::now();
    client.delete_task(&at, &named("t")).await.expect("204");
    let set = client.set_tasks(&at, body(&[("t", &stubborn)])).await;
    let set = set.expect("a list");
    let task = set.get("t").expect("is still there");
    assert_eq!(task.report.deletion_timestamp, None);
    // It is gone although it ignores SIGTERM: its model forgets such a process.
    eventually(&client, &at, "it is gone", |list| list.tasks.is_empty()).await;
    assert!(begun.elapsed() >= TICK);
    assert_eq!(agent.starts("t"), 1);
    client.delete_task(&at, &named("t")).await.expect("204");
    let empty = client.set_tasks(&at, Bytes::from_static(b"null")).await;
    assert!(empty.expect("a list").tasks.is_empty());
}

#[tokio::test]
async fn it_hangs_fails_and_delays_as_told_and_writes_requests_down() {
    let (agent, _, at) = start().await;
    let client = Client::new(Options {
        request: Duration::from_millis(300),
        ..Options::default()
    });
    agent.hang();
    let hung = client.set_tasks(&at, body(&[("t", &sh("exit 0"))])).await;
    assert_eq!(hung.expect_err("times out").class(), Class::Unreachable);
    agent.resume();
    agent.fail_next(2);
    for _ in 0..2 {
        refusal(client.health(&at).await, 500, "told to fail");
    }
    client.health(&at).await.expect("no more failures");
    agent.delay(Duration::from_secs(5));
    let late = client.health(&at).await.expect_err("times out");
    assert_eq!(late.class(), Class::Unreachable);
    let journal = agent.journal();
    let paths: Vec<_> = journal.iter().map(|seen| seen.path.as_str()).collect();
    assert_eq!(
        paths,
        ["/setTasks", "/health", "/health", "/health", "/health"]
    );
    assert_eq!(journal[0].method, Method::POST);
    assert!(journal[0].body.starts_with(b"[{"));
    assert!(agent.starts("t") <= 1);
}

#[tokio::test]
async fn a_stopped_agent_is_unreachable_even_for_those_it_kept_waiting() {
    let (agent, client, at) = start().await;
    client.health(&at).await.expect("is healthy");
    agent.hang();
    let waiting = tokio::spawn({
        let (client, at) = (client.clone(), at.clone());
        async move { client.get_tasks(&at).await }
    });
    let journal = async {
        while agent.journal().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, journal).await.expect("it has arrived");
    timeout(PATIENCE, agent.stop()).await.expect("it stops");
    waiting.await.expect("ends").expect_err("is not served");
    let error = client.health(&at).await.expect_err("nobody is there");
    assert_eq!(error.class(), Class::Unreachable);
    let elsewhere = FlatAgent::start((Ipv4Addr::UNSPECIFIED, 0).into()).await;
    assert!(elsewhere.is_err());
}
