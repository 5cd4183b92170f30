//! What answers of the API server mean, by a client whose every request is answered alike.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http;
use kube::client::Body;
use sandbox_planner::plan::DeleteReason;
use tower::service_fn;

use super::*;

/// An executor at an API server that answers everything with this code and reason.
fn at_server(code: u16, reason: &'static str, leadership: Leadership) -> Executor {
    let service = service_fn(move |_: http::Request<Body>| async move {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": code, "reason": reason, "message": reason,
        });
        let response = http::Response::builder().status(code);
        let response = response.body(Body::from(status.to_string().into_bytes()));
        Ok::<_, Infallible>(response.expect("a response"))
    });
    let client = Client::new(service, "default");
    Executor::new(client, leadership, Metrics::default(), 4, "test")
}

fn batch() -> Key {
    Key {
        namespace: "default".to_owned(),
        name: "run".to_owned(),
    }
}

async fn create(code: u16, reason: &'static str) -> PodOutcome {
    let executor = at_server(code, reason, Leadership::without_election());
    let writes = vec![PodWrite::Create(json!({"metadata": {"name": "run-0"}}))];
    executor.write_pods(&batch(), writes).await.remove(0)
}

#[tokio::test]
async fn each_refusal_of_a_pod_has_its_meaning() {
    let text = |reason: &str| reason.to_owned();
    let cases = [
        (409, "Conflict", Failure::Stale),
        (409, "AlreadyExists", Failure::Taken(text("AlreadyExists"))),
        (403, "Forbidden", Failure::Refused(text("Forbidden"))),
        (404, "NotFound", Failure::Refused(text("NotFound"))),
        (422, "Invalid", Failure::Refused(text("Invalid"))),
        (
            429,
            "TooManyRequests",
            Failure::Later(text("TooManyRequests")),
        ),
        (500, "InternalError", Failure::Later(text("InternalError"))),
        (
            503,
            "ServiceUnavailable",
            Failure::Later(text("ServiceUnavailable")),
        ),
    ];
    for (code, reason, expected) in cases {
        match create(code, reason).await {
            PodOutcome::Failed(failure) => assert_eq!(failure, expected, "{code} {reason}"),
            other => panic!("{code} {reason}: {other:?}"),
        }
    }
}

/// Tries one write to a batch at a server that puts everything off; what came of it, and how often it was asked.
async fn put_off(leadership: Leadership) -> (Result<Option<Box<BatchSandbox>>, Failure>, usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let service = service_fn(move |_: http::Request<Body>| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, Infallible>(too_many()) }
    });
    let client = Client::new(service, "default");
    let executor = Executor::new(client, leadership, Metrics::default(), 4, "test");
    let outcome = executor
        .write_batch(order(BatchWrite::Status(Box::default())))
        .await;
    (outcome, count.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_request_that_is_put_off_is_made_once_and_not_repeated_here() {
    let (outcome, count) = put_off(Leadership::without_election()).await;
    assert!(matches!(outcome, Err(Failure::Later(_))), "{outcome:?}");
    assert_eq!(count, 1);
}

#[tokio::test]
async fn without_the_leadership_nothing_is_sent() {
    let (outcome, count) = put_off(Leadership::by_election()).await;
    assert!(matches!(outcome, Err(Failure::Later(_))), "{outcome:?}");
    assert_eq!(count, 0);
}

fn too_many() -> http::Response<Body> {
    let response = http::Response::builder().status(429);
    let response = response.header("Retry-After", "1").body(Body::empty());
    response.expect("a response")
}

fn order(write: BatchWrite) -> BatchOrder {
    BatchOrder {
        batch: batch(),
        uid: "u".to_owned(),
        resource_version: "1".to_owned(),
        write,
    }
}

#[tokio::test]
async fn what_is_gone_already_needs_no_deletion() {
    let executor = at_server(404, "NotFound", Leadership::without_election());
    let writes = vec![PodWrite::Delete {
        name: "run-0".to_owned(),
        uid: "p".to_owned(),
        why: DeleteReason::ScaleIn,
    }];
    let outcome = executor.write_pods(&batch(), writes).await.remove(0);
    assert!(matches!(outcome, PodOutcome::Deleted { uid, .. } if uid == "p"));
    let outcome = executor.write_batch(order(BatchWrite::Delete)).await;
    assert_eq!(outcome.map(|object| object.is_none()), Ok(true));
}
