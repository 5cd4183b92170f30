//! `/tasks` and `/tasks/{name}`: create, show, await and delete one task.

use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sandbox_api::{Parsed, TaskName, TaskUid, parse_one};
use tokio::time::sleep;

use super::App;
use super::error::ApiError;
use super::query::Query;
use super::respond;
use crate::manager::handle::{Refused, Shown};

/// The longest long poll.
const WAIT_MAX: Duration = Duration::from_mins(5);

/// The task that a path names, or the reason why there can be none.
#[derive(Debug)]
pub(super) struct Named(Result<TaskName, ApiError>);

impl Named {
    /// The name; an error when no task can have it.
    pub(super) fn name(self) -> Result<TaskName, ApiError> {
        self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        // A segment that is not UTF-8 once decoded names no task either.
        let segment = Path::<String>::from_request_parts(parts, state).await;
        let text = segment.map_or_else(|_| String::new(), |Path(text)| text);
        Ok(Self(
            TaskName::parse(&text).map_err(|_| ApiError::no_such_task(&text)),
        ))
    }
}

/// `POST /tasks`
pub(super) async fn create(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let payload = app.limits.read(request).await?;
    let Parsed {
        value: task,
        ignored,
    } = parse_one(payload.bytes())?;
    let location = HeaderValue::from_str(&format!("/tasks/{}", task.name));
    let shown = app.manager.create(task).await?;
    let mut response = respond::json_bytes(StatusCode::CREATED, shown.body);
    respond::warn_of_ignored(response.headers_mut(), &ignored);
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// `GET /tasks/{name}`, with `?wait=30s` a long poll.
pub(super) async fn show(
    State(app): State<App>,
    named: Named,
    request: Request,
) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri().query());
    let (uid, wait) = (query.uid()?, query.duration("wait")?);
    let name = named.name()?;
    let shown = match wait {
        Some(wait) => terminated(&app, name, uid, wait.min(WAIT_MAX)).await?,
        None => app.manager.get(name, uid).await?,
    };
    Ok(respond::json_bytes(StatusCode::OK, shown.body))
}

/// The task once it is terminated, or as it is at the deadline or at shutdown.
async fn terminated(
    app: &App,
    name: TaskName,
    uid: Option<TaskUid>,
    wait: Duration,
) -> Result<Shown, Refused> {
    tokio::select! {
        // `Handle::wait` is cancel safe; the other two hold nothing.
        biased;
        shown = app.manager.wait(name.clone(), uid.clone()) => return shown,
        () = sleep(wait) => {}
        () = app.stop.requested() => {}
    }
    app.manager.get(name, uid).await
}

/// `DELETE /tasks/{name}`
pub(super) async fn delete(
    State(app): State<App>,
    named: Named,
    request: Request,
) -> Result<Response, ApiError> {
    let uid = Query::parse(request.uri().query()).uid()?;
    // A task that cannot exist is gone already.
    if let Ok(name) = named.name() {
        app.manager.delete(name, uid).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
