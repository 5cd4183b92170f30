//! `/setTasks` and `/getTasks`: all tasks at once.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use sandbox_api::{Parsed, parse_list};

use super::App;
use super::error::ApiError;
use super::query::Query;
use super::respond::{self, RESOURCE_VERSION};
use super::watch;
use crate::manager::handle::Listing;

/// `POST /setTasks`
pub(super) async fn set(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let payload = app.limits.read(request).await?;
    let Parsed {
        value: tasks,
        ignored,
    } = parse_list(payload.bytes())?;
    let mut response = listed(app.manager.set(tasks).await?);
    respond::warn_of_ignored(response.headers_mut(), &ignored);
    Ok(response)
}

/// `GET /getTasks`, with `?watch=true` a stream of changes.
pub(super) async fn get(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri().query());
    if query.switch("watch")? {
        return watch::open(&app, &query).await;
    }
    Ok(listed(app.manager.list().await?))
}

fn listed(listing: Listing) -> Response {
    let mut response = respond::json_bytes(StatusCode::OK, listing.body);
    response
        .headers_mut()
        .insert(RESOURCE_VERSION, HeaderValue::from(listing.version));
    response
}
