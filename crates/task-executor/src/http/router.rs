//! Which handler answers which request, and what happens to every request around it.

use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{Extensions, HeaderValue, Method};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sandbox_api::{ErrorCode, ROUTES};

use super::error::ApiError;
use super::limits::check_header;
use super::{App, admin, lists, logs, tasks};

/// Paths that need no token, since probes have none.
const OPEN_PATHS: [&str; 3] = ["/health", "/livez", "/readyz"];

/// All endpoints.
pub(super) fn router(app: App) -> Router {
    Router::new()
        .route("/tasks", post(tasks::create))
        .route("/tasks/{name}", get(tasks::show).delete(tasks::delete))
        .route("/tasks/{name}/logs", get(logs::read))
        .route("/setTasks", post(lists::set))
        .route("/getTasks", get(lists::get))
        .route("/health", get(admin::health))
        .route("/livez", get(admin::livez))
        .route("/readyz", get(admin::readyz))
        .route("/version", get(admin::version))
        .route("/capabilities", get(admin::capabilities))
        .route("/metrics", get(admin::metrics))
        .route("/openapi.json", get(admin::openapi))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(app.clone(), around))
        .with_state(app)
}

/// Checks size and token, then answers, counts and logs.
async fn around(State(app): State<App>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = route_of(request.extensions());
    let method = method_name(request.method());
    let response = match admitted(&app, &request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let code = response.status().as_u16();
    let took = began.elapsed();
    app.metrics.request(route, method, code, took);
    // No path and no query: they may hold what nobody should read in a log.
    tracing::debug!(
        method,
        route,
        code,
        took_us = took.as_micros(),
        "http request"
    );
    response
}

fn admitted(app: &App, request: &Request) -> Result<(), ApiError> {
    check_header(request)?;
    let Some(token) = &app.options.token else {
        return Ok(());
    };
    let header = request
        .headers()
        .get(AUTHORIZATION)
        .map(HeaderValue::as_bytes);
    if OPEN_PATHS.contains(&request.uri().path()) || token.admits(header) {
        return Ok(());
    }
    let message = "this agent wants a token; send the header Authorization: Bearer TOKEN";
    Err(ApiError::new(ErrorCode::Unauthorized, message))
}

/// The route's pattern, for labels: one of a closed list.
fn route_of(extensions: &Extensions) -> &'static str {
    let matched = extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let known = ROUTES.iter().find(|route| matched == Some(route.path));
    known.map_or("other", |route| route.path)
}

/// The method, for labels: one of a closed list.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

async fn not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(128).collect();
    ApiError::new(
        ErrorCode::NotFound,
        format!("there is nothing at {path}; see /openapi.json for what there is"),
    )
}

async fn method_not_allowed(request: Request) -> ApiError {
    let path = route_of(request.extensions());
    let mut allowed: Vec<_> = ROUTES
        .iter()
        .filter(|route| route.path == path)
        .map(|route| route.method)
        .collect();
    // Where GET works HEAD does, as in Go's mux.
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let method: String = request.method().as_str().chars().take(32).collect();
    ApiError::method_not_allowed(&method, path, &allowed.join(", "))
}
