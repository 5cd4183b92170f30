//! Codes, headers and bodies of every endpoint.

use std::fs;
use std::path::PathBuf;

use sandbox_api::{ROUTES, TaskName};

use super::{Server, soon};
use crate::auth::TokenFile;
use crate::manager::handle::Refused;

const TASK: &str = r#"{"name":"a","spec":{"process":{"command":["true"]}}}"#;

#[tokio::test]
async fn a_task_is_created_shown_and_deleted() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let created = client.ask("POST", "/tasks", TASK).await;
    assert_eq!(
        (created.status, created.body.as_str()),
        (201, "{\"name\":\"a\"}\n")
    );
    assert_eq!(created.header("content-type"), Some("application/json"));
    assert_eq!(created.header("location"), Some("/tasks/a"));
    let message = client
        .ask("POST", "/tasks", TASK)
        .await
        .error(409, "AlreadyExists");
    assert!(message.contains("task a already exists"), "{message}");
    let shown = client.ask("GET", "/tasks/a", "").await;
    assert_eq!(
        (shown.status, shown.body.as_str()),
        (200, "{\"name\":\"a\"}\n")
    );
    let deleted = client.ask("DELETE", "/tasks/a", "").await;
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    assert_eq!(client.ask("DELETE", "/tasks/a", "").await.status, 204);
    client
        .ask("GET", "/tasks/a", "")
        .await
        .error(404, "TaskNotFound");
}

#[tokio::test]
async fn lists_carry_their_version() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let empty = client.ask("GET", "/getTasks", "").await;
    assert_eq!((empty.status, empty.body.as_str()), (200, "[]\n"));
    assert_eq!(empty.header("x-resource-version"), Some("10"));
    let body = TASK.replace("\"a\"", "\"b\"");
    let set = client
        .ask("POST", "/setTasks", &format!("[{TASK},{body}]"))
        .await;
    assert_eq!(
        (set.status, set.body.as_str()),
        (200, "[{\"name\":\"a\"},{\"name\":\"b\"}]\n")
    );
    assert_eq!(set.header("x-resource-version"), Some("11"));
    for bad in ["null", "{}", "[{}]", "[] x", "", "[{\"name\":\"\"}]"] {
        let message = client
            .ask("POST", "/setTasks", bad)
            .await
            .error(400, "InvalidTask");
        assert!(!message.is_empty());
    }
    let same = client.ask("GET", "/getTasks", "").await;
    assert_eq!(same.body, set.body);
}

#[tokio::test]
async fn unknown_fields_are_named_in_warnings() {
    let server = Server::start().await;
    let task = r#"{"name":"a","spec":{"process":{"command":["true"]}},"foo":1}"#;
    let one = server.ask("POST", "/tasks", task).await;
    assert_eq!(
        one.all("warning").collect::<Vec<_>>(),
        ["299 - \"unknown field foo ignored\""]
    );
    let list = server.ask("POST", "/setTasks", &format!("[{task}]")).await;
    assert_eq!(
        list.all("warning").collect::<Vec<_>>(),
        ["299 - \"unknown field [0].foo ignored\""]
    );
}

#[tokio::test]
async fn refusals_of_the_manager_have_their_codes() {
    let server = Server::start().await;
    let name = TaskName::parse("a").unwrap();
    for (refusal, status, code) in [
        (Refused::Exists(name), 409, "AlreadyExists"),
        (Refused::TooMany(7), 429, "TooManyTasks"),
        (Refused::Unsupported("no".to_owned()), 400, "InvalidTask"),
        (
            Refused::StorageFull("disk".to_owned()),
            507,
            "InsufficientStorage",
        ),
        (Refused::Storage("disk".to_owned()), 500, "InternalError"),
        (Refused::Busy, 503, "ServiceUnavailable"),
    ] {
        server.fake.state().refusal = Some(refusal.clone());
        let reply = server.ask("POST", "/tasks", TASK).await;
        assert_eq!(reply.error(status, code), refusal.to_string());
        let again = matches!(status, 429 | 503).then_some("1");
        assert_eq!(reply.header("retry-after"), again, "{code}");
        assert_eq!(server.ask("POST", "/setTasks", "[]").await.status, status);
    }
}

#[tokio::test]
async fn a_wrong_uid_is_a_failed_precondition() {
    let server = Server::start().await;
    server.fake.state().add("a");
    for method in ["GET", "DELETE"] {
        server
            .ask(method, "/tasks/a?uid=other", "")
            .await
            .error(412, "PreconditionFailed");
        let message = server
            .ask(method, "/tasks/a?uid=a_b", "")
            .await
            .error(400, "BadRequest");
        assert!(message.starts_with("query parameter uid: "), "{message}");
    }
    server
        .ask("GET", "/tasks/a/logs?uid=other", "")
        .await
        .error(412, "PreconditionFailed");
    assert_eq!(
        server.ask("GET", "/tasks/a?uid=uid-a", "").await.status,
        200
    );
    assert_eq!(
        server.ask("DELETE", "/tasks/a?uid=uid-a", "").await.status,
        204
    );
    assert_eq!(
        server.ask("DELETE", "/tasks/a?uid=uid-a", "").await.status,
        204
    );
}

#[tokio::test]
async fn names_that_no_task_can_have_are_not_found() {
    let server = Server::start().await;
    for name in [
        "..",
        "a%2F..%2Fc",
        "%2e%2e",
        "a%0Ab",
        "%ff",
        "-a",
        &"x".repeat(254),
        "a%00",
        "%C3%A9",
    ] {
        let path = format!("/tasks/{name}");
        server
            .ask("GET", &path, "")
            .await
            .error(404, "TaskNotFound");
        server
            .ask("GET", &format!("{path}?wait=1s"), "")
            .await
            .error(404, "TaskNotFound");
        server
            .ask("GET", &format!("{path}/logs"), "")
            .await
            .error(404, "TaskNotFound");
        assert_eq!(server.ask("DELETE", &path, "").await.status, 204, "{name}");
    }
    server.fake.state().add("a.b");
    assert_eq!(server.ask("GET", "/tasks/a%2Eb", "").await.status, 200);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json_errors() {
    let server = Server::start().await;
    for path in [
        "/",
        "/tasks/",
        "/tasks/a/b",
        "/settasks",
        "/tasks/a/logs/",
        "//tasks",
    ] {
        let message = server.ask("GET", path, "").await.error(404, "NotFound");
        assert!(message.contains(path), "{message}");
    }
    for (method, path, allow) in [
        ("GET", "/tasks", "POST"),
        ("PUT", "/tasks/a", "GET, DELETE, HEAD"),
        ("DELETE", "/getTasks", "GET, HEAD"),
        ("GET", "/setTasks", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("OPTIONS", "/tasks", "POST"),
        ("BREW", "/metrics", "GET, HEAD"),
    ] {
        let reply = server.ask(method, path, "").await;
        let message = reply.error(405, "MethodNotAllowed");
        assert!(
            message.contains(method) && message.contains(allow),
            "{message}"
        );
        let mut found: Vec<_> = reply.header("allow").unwrap().split(", ").collect();
        let mut wanted: Vec<_> = allow.split(", ").collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{method} {path}");
        assert_eq!(reply.all("allow").count(), 1);
    }
}

#[tokio::test]
async fn every_route_of_the_description_is_served() {
    let server = Server::start().await;
    server.fake.state().add("a");
    for route in ROUTES {
        let path = route.path.replace("{name}", "a");
        let reply = server.ask(route.method, &path, "").await;
        assert!(
            ![404, 405].contains(&reply.status),
            "{} {path}: {reply:?}",
            route.method
        );
        server.fake.state().add("a");
    }
}

#[tokio::test]
async fn head_works_where_get_does() {
    let server = Server::start().await;
    server.fake.state().add("a");
    let mut client = server.client().await;
    for path in [
        "/health",
        "/getTasks",
        "/tasks/a",
        "/metrics",
        "/openapi.json",
    ] {
        let get = client.ask("GET", path, "").await;
        let head = client.ask("HEAD", path, "").await;
        assert_eq!(
            (head.status, head.header("content-type")),
            (get.status, get.header("content-type"))
        );
        if path != "/metrics" {
            assert_eq!(
                head.header("content-length"),
                get.header("content-length"),
                "{path}"
            );
        }
    }
    assert_eq!(client.ask("HEAD", "/tasks/none", "").await.status, 404);
    assert_eq!(client.ask("HEAD", "/tasks", "").await.status, 405);
    assert_eq!(client.ask("GET", "/health", "").await.status, 200);
}

#[tokio::test]
async fn a_request_may_say_any_content_type() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let length = TASK.len();
    client.send(format!("POST /tasks HTTP/1.1\r\nhost: x\r\ncontent-type: text/html\r\ncontent-length: {length}\r\n\r\n{TASK}")).await;
    assert_eq!(client.reply().await.status, 201);
}

#[tokio::test]
async fn health_tells_why_not() {
    let server = Server::start().await;
    let healthy = server.ask("GET", "/health", "").await;
    assert_eq!(
        (healthy.status, healthy.body.as_str()),
        (200, "{\"status\":\"healthy\"}\n")
    );
    server.fake.state().health.corrupt = vec!["b.1".to_owned()];
    let body = server.ask("GET", "/health", "").await.json();
    assert_eq!(
        body,
        serde_json::json!({"status": "healthy", "corruptRecords": ["b.1"]})
    );
    server.fake.state().health.failing = Some("disk full".to_owned());
    let sick = server.ask("GET", "/health", "").await;
    assert_eq!(
        (sick.status, sick.json()["reason"].as_str()),
        (503, Some("disk full"))
    );
    assert_eq!(sick.json()["status"], "unhealthy");
    assert_eq!(server.ask("GET", "/livez", "").await.status, 200);
    let ready = server.ask("GET", "/readyz", "").await;
    assert_eq!(
        (ready.status, ready.header("retry-after")),
        (503, Some("1"))
    );
    let checks = ready.json()["checks"].clone();
    assert_eq!(
        checks[0],
        serde_json::json!({"name": "manager", "ok": true})
    );
    assert_eq!(
        checks[1],
        serde_json::json!({"name": "tasks", "ok": false, "reason": "disk full"})
    );
    server.fake.state().health = crate::manager::handle::Health::default();
    assert_eq!(
        server.ask("GET", "/readyz", "").await.json()["status"],
        "ready"
    );
}

#[tokio::test]
async fn a_manager_that_does_not_answer_fails_the_probes() {
    let server = Server::start().await;
    server.fake.state().silent = true;
    let (mut one, mut two) = (server.client().await, server.client().await);
    let (live, health) = tokio::join!(one.ask("GET", "/livez", ""), two.ask("GET", "/health", ""));
    assert_eq!(
        (live.status, live.json()["status"].as_str()),
        (503, Some("stuck"))
    );
    assert_eq!(
        (health.status, health.json()["status"].as_str()),
        (503, Some("unhealthy"))
    );
}

#[tokio::test]
async fn the_agent_tells_about_itself() {
    let server = Server::start().await;
    let version = server.ask("GET", "/version", "").await;
    assert_eq!(version.json()["version"], env!("CARGO_PKG_VERSION"));
    let capabilities = server.ask("GET", "/capabilities", "").await.json();
    assert_eq!(
        (&capabilities["version"], &capabilities["pid1"]),
        (&"1.2.3".into(), &true.into())
    );
    assert!(
        capabilities["limits"]["maxRequestBytes"].is_u64(),
        "{capabilities}"
    );
    assert!(
        capabilities["kernel"]["closeRange"].is_boolean(),
        "{capabilities}"
    );
    let openapi = server.ask("GET", "/openapi.json", "").await.json();
    assert!(
        openapi["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1"))
    );
}

#[tokio::test]
async fn requests_are_counted_by_route_and_not_by_path() {
    let server = Server::start().await;
    server.fake.state().health.running = 3;
    let mut client = server.client().await;
    for path in [
        "/tasks/none",
        "/tasks/neither",
        "/no/such/path",
        "/nor/this",
    ] {
        client.ask("GET", path, "").await;
    }
    client.ask("BREW", "/tasks", "").await;
    let page = client.ask("GET", "/metrics", "").await;
    assert!(
        page.header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    for line in [
        "task_executor_http_requests_total{route=\"/tasks/{name}\",method=\"GET\",code=\"404\"} 2",
        "task_executor_http_requests_total{route=\"other\",method=\"GET\",code=\"404\"} 2",
        "task_executor_http_requests_total{route=\"/tasks\",method=\"other\",code=\"405\"} 1",
        "task_executor_tasks{state=\"running\"} 3",
        "task_executor_connections 1",
    ] {
        assert!(
            page.body.lines().any(|found| found == line),
            "{line} is missing in\n{}",
            page.body
        );
    }
}

#[tokio::test]
async fn all_but_the_probes_want_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("token");
    fs::write(&path, "one\n").unwrap();
    let token = TokenFile::load(path.clone()).unwrap();
    let server = Server::with(|options| options.token = Some(token)).await;
    for path in ["/health", "/livez", "/readyz"] {
        assert_eq!(server.ask("GET", path, "").await.status, 200);
    }
    for (method, path) in [
        ("GET", "/getTasks"),
        ("POST", "/tasks"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("GET", "/health/"),
    ] {
        let reply = server.ask(method, path, "").await;
        reply.error(401, "Unauthorized");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{path}");
    }
    let mut client = server.client().await;
    let with = |token: &str| {
        format!("GET /getTasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n")
    };
    client.send(with("one")).await;
    assert_eq!(client.reply().await.status, 200);
    client.send(with("two")).await;
    assert_eq!(client.reply().await.status, 401);
    fs::write(&path, "two\n").unwrap();
    client.send(with("two")).await;
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn a_long_poll_answers_when_the_task_is_over() {
    let server = Server::start().await;
    server.fake.state().add("a");
    let mut client = server.client().await;
    client
        .send("GET /tasks/a?wait=300 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    server.fake.until(|state| state.waiting.len() == 1).await;
    server.fake.finish("a");
    assert_eq!(client.reply().await.body, "{\"name\":\"a\"}\n");
    // At the deadline it answers with what is.
    let shown = client.ask("GET", "/tasks/a?wait=10ms", "").await;
    assert_eq!(
        (shown.status, shown.body.as_str()),
        (200, "{\"name\":\"a\"}\n")
    );
    client
        .ask("GET", "/tasks/b?wait=1s", "")
        .await
        .error(404, "TaskNotFound");
    for bad in ["x", "-1s", "", "1w"] {
        let message = client
            .ask("GET", &format!("/tasks/a?wait={bad}"), "")
            .await
            .error(400, "BadRequest");
        assert!(message.starts_with("query parameter wait: "), "{message}");
    }
}

#[tokio::test]
async fn a_long_poll_of_a_client_that_left_is_given_up() {
    let server = Server::start().await;
    server.fake.state().add("a");
    let mut client = server.client().await;
    client
        .send("GET /tasks/a?wait=5m HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    server.fake.until(|state| state.waiting.len() == 1).await;
    drop(client);
    let mut waiting = server.fake.state().waiting.pop().unwrap();
    soon(waiting.1.closed()).await;
}
