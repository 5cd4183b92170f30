//! A stand-in for OpenSandbox's agent: its wire and its habits, on a loopback address, with real processes.
//!
//! It speaks the flat dialect only and has what clients of the Go program have to live with: one
//! active task, ends that show up to half a second late, a changed spec that is ignored, no sign of
//! a deletion, no uid, no version and no watch, 500 for a client's mistakes, and a task that ignores
//! SIGTERM called ended while it still runs. It does not know `podTemplateSpec` and has no sidecar mode,
//! as its model has not, and it forgets everything when it stops.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use tasks::Tasks;

mod tasks;

/// How often the agent looks at its tasks.
const TICK: Duration = Duration::from_millis(500);
/// Its model reads any body; this bound only keeps a broken test from filling the memory.
const BODY_BYTES_MAX: usize = 64 << 20;

/// A request that has reached the agent, whatever became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The body.
    pub body: Bytes,
}

/// A running agent. Dropping it ends its tasks and closes its connections.
#[derive(Debug)]
pub struct FlatAgent {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
    ticking: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    tasks: Mutex<Tasks>,
    journal: Mutex<Vec<Received>>,
    mood: watch::Sender<Mood>,
}

/// How requests are treated.
#[derive(Clone, Copy, Debug, Default)]
struct Mood {
    hangs: bool,
    has_stopped: bool,
    failures_left: usize,
    delay: Duration,
}

impl FlatAgent {
    /// An agent that listens on `address`; port 0 is any that is free.
    ///
    /// # Errors
    /// When the address is taken, or is not a loopback address.
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            return Err(io::Error::other("tests listen on loopback only"));
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            tasks: Mutex::default(),
            journal: Mutex::default(),
            mood: watch::Sender::default(),
        });
        let mut mood = shared.mood.subscribe();
        let stopped = async move {
            let _stopped_or_dropped = mood.wait_for(|mood| mood.has_stopped).await;
        };
        let serving = axum::serve(listener, router(&shared)).with_graceful_shutdown(stopped);
        let ticking = Arc::clone(&shared);
        Ok(Self {
            address,
            shared,
            serving: tokio::spawn(async {
                // It ends when it is told to, and has nothing to complain of by then.
                let _served = serving.await;
            }),
            ticking: tokio::spawn(async move {
                let mut ticks = interval(TICK);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    lock(&ticking.tasks).tick();
                }
            }),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often a task of this name was started.
    pub fn starts(&self, name: &str) -> usize {
        self.all_starts().get(name).copied().unwrap_or_default()
    }

    /// How often which tasks were started.
    pub fn all_starts(&self) -> BTreeMap<String, usize> {
        lock(&self.shared.tasks).starts().clone()
    }

    /// Every request so far, in the order of arrival.
    pub fn journal(&self) -> Vec<Received> {
        lock(&self.shared.journal).clone()
    }

    /// From now on requests are accepted and not answered, until [`resume`](Self::resume).
    pub fn hang(&self) {
        self.shared.mood.send_modify(|mood| mood.hangs = true);
    }

    /// Serves the requests that hang, and those to come.
    pub fn resume(&self) {
        self.shared.mood.send_modify(|mood| mood.hangs = false);
    }

    /// The next `count` requests are answered with 500 and change nothing.
    pub fn fail_next(&self, count: usize) {
        self.shared
            .mood
            .send_modify(|mood| mood.failures_left = count);
    }

    /// From now on each request waits so long before it is served.
    pub fn delay(&self, delay: Duration) {
        self.shared.mood.send_modify(|mood| mood.delay = delay);
    }

    /// Ends the tasks and waits until nobody listens and every connection is closed.
    pub async fn stop(mut self) {
        self.shut_down();
        let _ended = (&mut self.serving).await;
    }

    fn shut_down(&self) {
        self.shared.mood.send_modify(|mood| mood.has_stopped = true);
        self.ticking.abort();
        lock(&self.shared.tasks).kill_all();
    }
}

impl Drop for FlatAgent {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// A test that panicked with the lock leaves nothing half done that matters to the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/tasks", post(create))
        .route("/tasks/{name}", get(show).delete(delete))
        .route("/setTasks", post(set))
        .route("/getTasks", get(list))
        .route("/health", get(health))
        .fallback(async || (StatusCode::NOT_FOUND, "404 page not found\n"))
        .layer(from_fn_with_state(Arc::clone(shared), treat))
        .with_state(Arc::clone(shared))
}

/// Writes every request down, and treats it as the test wants.
async fn treat(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return refused(StatusCode::BAD_REQUEST, "the body could not be read");
    };
    lock(&shared.journal).push(Received {
        method: parts.method.clone(),
        path: parts.uri.to_string(),
        body: body.clone(),
    });
    let mut fails = false;
    shared.mood.send_if_modified(|mood| {
        fails = mood.failures_left > 0;
        mood.failures_left = mood.failures_left.saturating_sub(1);
        false // Nobody waits for this.
    });
    let mut mood = shared.mood.subscribe();
    let waited = mood.wait_for(|mood| !mood.hangs || mood.has_stopped).await;
    let mood = waited.map(|mood| *mood).unwrap_or_default();
    if !mood.delay.is_zero() {
        sleep(mood.delay).await;
    }
    if fails || mood.has_stopped {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, "told to fail");
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

fn answer(status: StatusCode, value: &Value) -> Response {
    let kind = [(CONTENT_TYPE, "application/json")];
    (status, kind, format!("{value}\n")).into_response()
}

fn refused(status: StatusCode, message: &str) -> Response {
    let code = status.canonical_reason();
    answer(status, &json!({"code": code, "message": message}))
}

/// The first JSON value of a body; whatever follows is passed over.
fn decoded(body: &[u8]) -> Result<Value, String> {
    let first = serde_json::Deserializer::from_slice(body)
        .into_iter()
        .next();
    match first {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("EOF".to_owned()),
    }
}

fn bad_request(problem: &str) -> Response {
    let message = format!("invalid request body: {problem}");
    refused(StatusCode::BAD_REQUEST, &message)
}

/// `POST /tasks`
async fn create(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let task = match decoded(&body) {
        Ok(task) => task,
        Err(problem) => return bad_request(&problem),
    };
    let Some(name) = task["name"].as_str().filter(|name| !name.is_empty()) else {
        return refused(StatusCode::BAD_REQUEST, "task name is required");
    };
    let mut tasks = lock(&shared.tasks);
    match tasks.create(name, &task) {
        Ok(()) => answer(
            StatusCode::CREATED,
            &tasks.show(name).unwrap_or(Value::Null),
        ),
        Err(problem) => refused(StatusCode::INTERNAL_SERVER_ERROR, &problem),
    }
}

/// `GET /tasks/{name}`
async fn show(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    match lock(&shared.tasks).show(&name) {
        Some(task) => answer(StatusCode::OK, &task),
        None => refused(
            StatusCode::NOT_FOUND,
            &format!("task not found: task {name} not found"),
        ),
    }
}

/// `DELETE /tasks/{name}`
async fn delete(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> StatusCode {
    lock(&shared.tasks).delete(&name);
    StatusCode::NO_CONTENT
}

/// `POST /setTasks`
async fn set(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let desired = match decoded(&body) {
        Ok(Value::Null) => Vec::new(),
        Ok(Value::Array(tasks)) => tasks,
        Ok(_) => return bad_request("cannot unmarshal into a list of tasks"),
        Err(problem) => return bad_request(&problem),
    };
    let is_task = |task: &Value| task.is_object() || task.is_null();
    if !desired.iter().all(is_task) {
        return bad_request("cannot unmarshal into a task");
    }
    let mut tasks = lock(&shared.tasks);
    match tasks.set(&desired) {
        Ok(()) => answer(StatusCode::OK, &tasks.list()),
        Err(problem) => refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("failed to sync tasks: {problem}"),
        ),
    }
}

/// `GET /getTasks`, which has no parameters.
async fn list(State(shared): State<Arc<Shared>>) -> Response {
    answer(StatusCode::OK, &lock(&shared.tasks).list())
}

/// `GET /health`
async fn health() -> Response {
    answer(StatusCode::OK, &json!({"status": "healthy"}))
}

#[cfg(test)]
mod tests;
