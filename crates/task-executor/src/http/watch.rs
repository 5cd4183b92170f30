//! `/getTasks?watch=true`: every change of every task, as one line of JSON each.
//!
//! First comes what happened since the version asked for (or every task as `ADDED`), then a
//! `BOOKMARK` with the version of now, then each change as it happens. While nothing happens a
//! bookmark a time shows that the connection lives. A reader that is too slow gets an `ERROR` line
//! with the code `Gone` at the end and lists again.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use sandbox_api::ErrorCode;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, sleep_until};

use super::App;
use super::error::ApiError;
use super::query::Query;
use super::respond::{self, RESOURCE_VERSION};
use super::stream::{Out, ReaderGone, Streaming, streamed};
use crate::manager::handle::{Change, ChangeKind, Subscription};
use crate::metrics::Open;

/// The longest watch that can be asked for: a year, so that adding it to now cannot overflow.
const SECONDS_MAX: u64 = 365 * 24 * 60 * 60;

/// Opens a watch.
pub(super) async fn open(app: &App, query: &Query) -> Result<Response, ApiError> {
    // As in Kubernetes, 0 is "from wherever you like".
    let since = query
        .number("resourceVersion")?
        .filter(|version| *version > 0);
    let seconds = query.number("timeoutSeconds")?;
    let subscription = app.manager.watch(since).await??;
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds.min(SECONDS_MAX)));
    let version = HeaderValue::from(subscription.version);
    let pace = Pace {
        end,
        heartbeat: app.options.timeouts.heartbeat,
    };
    let watcher = app.metrics.watcher();
    let body = streamed(&app.stop, |out| watch(out, subscription, pace, watcher));
    let mut response = respond::with_type(StatusCode::OK, "application/x-ndjson", body);
    response.extensions_mut().insert(Streaming);
    response.headers_mut().insert(RESOURCE_VERSION, version);
    Ok(response)
}

/// When a watch sends what it has no event for.
#[derive(Debug, Clone, Copy)]
struct Pace {
    end: Option<Instant>,
    heartbeat: Duration,
}

async fn watch(
    out: Out,
    subscription: Subscription,
    pace: Pace,
    _watcher: Open,
) -> Result<(), ReaderGone> {
    let Subscription {
        backlog,
        mut version,
        mut live,
    } = subscription;
    for change in backlog {
        out.send(event(&change)).await?;
    }
    out.send(bookmark(version)).await?;
    loop {
        let change = tokio::select! {
            // All four are cancel safe: `recv` takes an event only when it is ready.
            biased;
            () = ended(pace.end) => return Ok(()),
            change = live.recv() => change,
            () = sleep(pace.heartbeat) => {
                out.send(bookmark(version)).await?;
                continue;
            }
        };
        match change {
            // What the backlog has shown already is not shown again.
            Ok(change) if change.version <= version => {}
            Ok(change) => {
                version = change.version;
                out.send(event(&change)).await?;
            }
            Err(RecvError::Lagged(missed)) => return out.send(lagged(missed)).await,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

async fn ended(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

fn event(change: &Change) -> Bytes {
    let kind = match change.kind {
        ChangeKind::Added => "ADDED",
        ChangeKind::Modified => "MODIFIED",
        ChangeKind::Deleted => "DELETED",
    };
    let tail = format!(",\"resourceVersion\":\"{}\"}}\n", change.version);
    let mut line = BytesMut::with_capacity(32 + change.object.len() + tail.len());
    line.put_slice(b"{\"type\":\"");
    line.put_slice(kind.as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(&change.object);
    line.put_slice(tail.as_bytes());
    line.freeze()
}

fn bookmark(version: u64) -> Bytes {
    format!("{{\"type\":\"BOOKMARK\",\"resourceVersion\":\"{version}\"}}\n").into()
}

fn lagged(missed: u64) -> Bytes {
    let code = ErrorCode::Gone.as_str();
    format!("{{\"type\":\"ERROR\",\"code\":\"{code}\",\"message\":\"the watch was too slow and missed {missed} events; list again\"}}\n").into()
}
