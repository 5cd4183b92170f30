//! What operators and machines ask about the agent itself.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::App;
use super::respond;
use crate::manager::handle::Health;
use crate::metrics;

/// How long the manager may take to answer before the agent counts as stuck.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);
/// Pause before a manager with a full queue is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(20);
const NO_ANSWER: &str = "the task manager does not answer";

/// The `OpenAPI` description, generated from the code and committed.
static OPENAPI: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/openapi.json"
));

/// The manager's health; [`None`] when it does not answer in time.
async fn health_of_manager(app: &App) -> Option<Health> {
    let answered = async {
        loop {
            match app.manager.health().await {
                Ok(health) => return health,
                // A burst of requests is no illness: the queue drains in a moment.
                Err(_busy) => sleep(ASK_AGAIN).await,
            }
        }
    };
    timeout(ANSWER_TIME_MAX, answered).await.ok()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthBody<'a> {
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    corrupt_records: &'a [String],
}

/// `GET /health`
pub(super) async fn health(State(app): State<App>) -> Response {
    let health = health_of_manager(&app).await;
    let reason = match &health {
        Some(health) => health.failing.as_deref(),
        None => Some(NO_ANSWER),
    };
    let status = if reason.is_none() {
        "healthy"
    } else {
        "unhealthy"
    };
    let corrupt_records = health.as_ref().map_or(&[][..], |health| &health.corrupt);
    verdict(
        reason.is_none(),
        &HealthBody {
            status,
            reason,
            corrupt_records,
        },
    )
}

/// `GET /livez`: a restart would help when this fails, so it asks for no more than an answer.
pub(super) async fn livez(State(app): State<App>) -> Response {
    let reason = health_of_manager(&app).await.is_none().then_some(NO_ANSWER);
    let status = if reason.is_none() { "alive" } else { "stuck" };
    verdict(
        reason.is_none(),
        &HealthBody {
            status,
            reason,
            corrupt_records: &[],
        },
    )
}

#[derive(Serialize)]
struct Readiness<'a> {
    status: &'a str,
    checks: Vec<Check<'a>>,
}

#[derive(Serialize)]
struct Check<'a> {
    name: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// `GET /readyz`: whether tasks can be given to this agent.
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let health = health_of_manager(&app).await;
    let manager = health.is_none().then_some(NO_ANSWER);
    let tasks = match &health {
        Some(health) => health.failing.as_deref(),
        None => Some("not known"),
    };
    let check = |name, reason: Option<_>| Check {
        name,
        ok: reason.is_none(),
        reason,
    };
    let mut checks = vec![check("manager", manager), check("tasks", tasks)];
    if let Some(sidecar) = &app.sidecar {
        let problem = sidecar.as_ref().err().map(String::as_str);
        checks.push(check("sidecar", problem));
    }
    let ok = checks.iter().all(|check| check.ok);
    verdict(
        ok,
        &Readiness {
            status: if ok { "ready" } else { "notReady" },
            checks,
        },
    )
}

fn verdict(ok: bool, body: &impl Serialize) -> Response {
    if ok {
        return respond::json(StatusCode::OK, body);
    }
    let mut response = respond::json(StatusCode::SERVICE_UNAVAILABLE, body);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildBody {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    git_commit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rustc: Option<&'static str>,
}

/// `GET /version`. Commit and compiler are known when the build names them in the environment.
pub(super) async fn version() -> Response {
    let build = BuildBody {
        version: env!("CARGO_PKG_VERSION"),
        git_commit: option_env!("TASK_EXECUTOR_GIT_COMMIT"),
        rustc: option_env!("TASK_EXECUTOR_RUSTC"),
    };
    respond::json(StatusCode::OK, &build)
}

/// `GET /capabilities`
pub(super) async fn capabilities(State(app): State<App>) -> Response {
    respond::json_bytes(StatusCode::OK, app.capabilities.clone())
}

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let health = health_of_manager(&app).await;
    let page = app.metrics.encode(health.as_ref());
    respond::with_type(StatusCode::OK, metrics::CONTENT_TYPE, Body::from(page))
}

/// `GET /openapi.json`
pub(super) async fn openapi() -> Response {
    respond::json_bytes(
        StatusCode::OK,
        Bytes::from_static(OPENAPI.trim_ascii_end().as_bytes()),
    )
}
