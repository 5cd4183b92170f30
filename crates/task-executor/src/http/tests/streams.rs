//! Watches, and logs over HTTP.

use std::fs;
use std::time::Duration;

use super::{Client, Server};
use crate::manager::handle::ChangeKind;

async fn open(server: &Server, path: &str) -> Client {
    let mut client = server.client().await;
    client
        .send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
        .await;
    let head = client.head().await;
    assert_eq!(head.status, 200, "{head:?}");
    client
}

async fn line(client: &mut Client) -> serde_json::Value {
    let piece = client.piece().await.expect("a line");
    assert!(
        piece.ends_with('\n') && piece.lines().count() == 1,
        "{piece:?}"
    );
    serde_json::from_str(&piece).unwrap()
}

#[tokio::test]
async fn a_watch_shows_what_is_then_what_happens() {
    let server = Server::start().await;
    server.fake.state().add("a");
    let mut watch = open(&server, "/getTasks?watch=true").await;
    let json =
        serde_json::json!({"type": "ADDED", "object": {"name": "a"}, "resourceVersion": "10"});
    assert_eq!(line(&mut watch).await, json);
    assert_eq!(
        line(&mut watch).await,
        serde_json::json!({"type": "BOOKMARK", "resourceVersion": "10"})
    );
    for (kind, text) in [
        (ChangeKind::Added, "ADDED"),
        (ChangeKind::Modified, "MODIFIED"),
        (ChangeKind::Deleted, "DELETED"),
    ] {
        server.fake.state().change(kind, "b");
        let event = line(&mut watch).await;
        assert_eq!(
            (event["type"].as_str(), &event["object"]["name"]),
            (Some(text), &"b".into())
        );
    }
    let page = server.ask("GET", "/metrics", "").await.body;
    assert!(page.contains("task_executor_watchers 1\n"), "{page}");
    drop(watch);
    super::soon(async {
        while !server
            .ask("GET", "/metrics", "")
            .await
            .body
            .contains("task_executor_watchers 0\n")
        {}
    })
    .await;
}

#[tokio::test]
async fn a_watch_goes_on_from_a_version() {
    let server = Server::start().await;
    server.fake.state().add("a");
    let mut watch = open(&server, "/getTasks?watch=1&resourceVersion=10").await;
    assert_eq!(line(&mut watch).await["type"], "BOOKMARK");
    // 0 is from wherever: all tasks.
    let mut watch = open(&server, "/getTasks?watch&resourceVersion=0").await;
    assert_eq!(line(&mut watch).await["type"], "ADDED");
}

#[tokio::test]
async fn a_version_too_old_is_gone() {
    let server = Server::start().await;
    let message = server
        .ask("GET", "/getTasks?watch=true&resourceVersion=4", "")
        .await
        .error(410, "Gone");
    assert!(message.contains("list again"), "{message}");
    for query in [
        "resourceVersion=x",
        "resourceVersion=-1",
        "timeoutSeconds=1s",
        "resourceVersion=",
    ] {
        server
            .ask("GET", &format!("/getTasks?watch=true&{query}"), "")
            .await
            .error(400, "BadRequest");
    }
    server
        .ask("GET", "/getTasks?watch=maybe", "")
        .await
        .error(400, "BadRequest");
    // Without a watch the parameter is none of our business.
    assert_eq!(
        server
            .ask("GET", "/getTasks?resourceVersion=x", "")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_silent_watch_sends_bookmarks() {
    let server =
        Server::with(|options| options.timeouts.heartbeat = Duration::from_millis(10)).await;
    let mut watch = open(&server, "/getTasks?watch=true").await;
    for _ in 0..4 {
        assert_eq!(
            line(&mut watch).await,
            serde_json::json!({"type": "BOOKMARK", "resourceVersion": "10"})
        );
    }
    server.fake.state().change(ChangeKind::Added, "a");
    while line(&mut watch).await["type"] == "BOOKMARK" {}
    assert_eq!(
        line(&mut watch).await,
        serde_json::json!({"type": "BOOKMARK", "resourceVersion": "11"})
    );
}

#[tokio::test]
async fn a_watch_ends_after_the_time_asked_for() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let reply = client
        .ask("GET", "/getTasks?watch=true&timeoutSeconds=0", "")
        .await;
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(reply.header("x-resource-version"), Some("10"));
    assert_eq!(
        reply.body,
        "{\"type\":\"BOOKMARK\",\"resourceVersion\":\"10\"}\n"
    );
    // The connection is good for another request.
    assert_eq!(client.ask("GET", "/health", "").await.status, 200);
    let huge = u64::MAX;
    drop(
        open(
            &server,
            &format!("/getTasks?watch=true&timeoutSeconds={huge}"),
        )
        .await,
    );
}

#[tokio::test]
async fn a_watcher_that_falls_behind_is_told_to_list_again() {
    let server = Server::start().await;
    let mut watch = open(&server, "/getTasks?watch=true").await;
    assert_eq!(line(&mut watch).await["type"], "BOOKMARK");
    {
        // More than the history, while the server has no turn.
        let mut state = server.fake.state();
        for _ in 0..10 {
            state.change(ChangeKind::Modified, "a");
        }
    }
    let error = line(&mut watch).await;
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str()),
        (Some("ERROR"), Some("Gone"))
    );
    assert_eq!(watch.piece().await, None);
}

#[tokio::test]
async fn logs_are_text_with_an_offset() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("stdout.log"), "one\ntwo\nthree\n").unwrap();
    fs::write(dir.path().join("stderr.log"), "oops\n").unwrap();
    let server = Server::start().await;
    server.fake.state().add("a");
    server.fake.state().log_dir = dir.path().to_owned();
    for (query, body, offset) in [
        ("", "one\ntwo\nthree\noops\n", "stdout=0, stderr=0"),
        ("?stream=stdout", "one\ntwo\nthree\n", "0"),
        ("?stream=stderr", "oops\n", "0"),
        ("?stream=stdout&tailLines=1", "three\n", "8"),
        (
            "?stream=both&tailLines=1",
            "three\noops\n",
            "stdout=8, stderr=0",
        ),
        ("?stream=stdout&sinceBytes=4&limitBytes=3", "two", "4"),
        ("?limitBytes=0", "", "stdout=0, stderr=0"),
    ] {
        let reply = server
            .ask("GET", &format!("/tasks/a/logs{query}"), "")
            .await;
        assert_eq!(
            (
                reply.status,
                reply.body.as_str(),
                reply.header("x-log-offset")
            ),
            (200, body, Some(offset)),
            "{query}"
        );
        assert_eq!(
            reply.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
    for (query, parameter) in [
        ("stream=stdin", "stream"),
        ("follow=maybe", "follow"),
        ("tailLines=-1", "tailLines"),
        ("sinceBytes=x&stream=stdout", "sinceBytes"),
        ("sinceBytes=1", "sinceBytes"),
        ("limitBytes=1k", "limitBytes"),
    ] {
        let message = server
            .ask("GET", &format!("/tasks/a/logs?{query}"), "")
            .await
            .error(400, "BadRequest");
        assert!(
            message.starts_with(&format!("query parameter {parameter}: ")),
            "{message}"
        );
    }
    server
        .ask("GET", "/tasks/b/logs", "")
        .await
        .error(404, "TaskNotFound");
}

#[tokio::test]
async fn followed_logs_end_with_the_task() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    server.fake.state().add("a");
    server.fake.state().log_dir = dir.path().to_owned();
    let mut follow = open(&server, "/tasks/a/logs?stream=stdout&follow=true").await;
    fs::write(dir.path().join("stdout.log"), "late\n").unwrap();
    assert_eq!(follow.piece().await.as_deref(), Some("late\n"));
    fs::write(dir.path().join("stdout.log"), "late\nlast\n").unwrap();
    server.fake.state().followers.clear();
    let mut rest = String::new();
    while let Some(piece) = follow.piece().await {
        rest.push_str(&piece);
    }
    // Rewriting a file cuts it short for a moment, which may have been seen.
    assert!(rest.ends_with("last\n"), "{rest}");
}
