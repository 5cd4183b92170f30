//! `/tasks/{name}/logs`: what a task has written, and with `follow` what it is going to write.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;

use super::App;
use super::error::ApiError;
use super::query::Query;
use super::respond;
use super::stream::{Streaming, streamed};
use super::tasks::Named;
use crate::logs::{Reader, Selection, Streams};

/// Where in the file the first byte of the answer is.
const LOG_OFFSET: HeaderName = HeaderName::from_static("x-log-offset");

/// `GET /tasks/{name}/logs`
pub(super) async fn read(
    State(app): State<App>,
    named: Named,
    request: Request,
) -> Result<Response, ApiError> {
    let query = Query::parse(request.uri().query());
    let selection = selection(&query)?;
    let follow = query.switch("follow")?;
    let uid = query.uid()?;
    let source = app.manager.logs(named.name()?, uid).await?;
    let reader = Reader::open(source, selection, follow).await;
    let offset = HeaderValue::from_str(&reader.offset());
    let body = streamed(&app.stop, |out| reader.copy_to(out));
    let mut response = respond::with_type(StatusCode::OK, "text/plain; charset=utf-8", body);
    response.extensions_mut().insert(Streaming);
    if let Ok(offset) = offset {
        response.headers_mut().insert(LOG_OFFSET, offset);
    }
    Ok(response)
}

fn selection(query: &Query) -> Result<Selection, ApiError> {
    let streams = match query.get("stream") {
        None | Some("both") => Streams::Both,
        Some("stdout") => Streams::Stdout,
        Some("stderr") => Streams::Stderr,
        Some(other) => {
            return Err(ApiError::parameter(
                "stream",
                other,
                "is not a stream; write stdout, stderr or both",
            ));
        }
    };
    let since_bytes = query.number("sinceBytes")?;
    if let (Some(since), Streams::Both) = (since_bytes, streams) {
        let problem = "is an offset in one file; add stream=stdout or stream=stderr";
        return Err(ApiError::parameter(
            "sinceBytes",
            &since.to_string(),
            problem,
        ));
    }
    Ok(Selection {
        streams,
        tail_lines: query.number("tailLines")?,
        since_bytes: since_bytes.unwrap_or(0),
        limit_bytes: query.number("limitBytes")?,
    })
}
