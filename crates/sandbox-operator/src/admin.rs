//! Probes and metrics over HTTP.
//!
//! `livez`: the loop turns. `readyz`: the watches have listed everything, or another replica is the leader.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The loop turns at least so often when it is well.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// After so long without a turn it is not.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(30);

/// What the probes tell; cheap to clone.
#[derive(Clone, Debug)]
pub struct Health(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    started: Instant,
    beat_ms: AtomicU64,
    is_synced: AtomicBool,
    is_standby: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Facts {
            started: Instant::now(),
            beat_ms: AtomicU64::new(0),
            is_synced: AtomicBool::new(false),
            is_standby: AtomicBool::new(false),
        }))
    }
}

impl Health {
    /// The loop has turned.
    pub fn beat(&self) {
        let elapsed = self.0.started.elapsed().as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.0.beat_ms.store(elapsed, Ordering::Relaxed);
    }

    /// All watches have listed everything.
    pub fn set_synced(&self) {
        self.0.is_synced.store(true, Ordering::Relaxed);
    }

    /// Another replica is the leader, or not.
    pub fn set_standby(&self, is_standby: bool) {
        self.0.is_standby.store(is_standby, Ordering::Relaxed);
    }

    fn is_alive(&self) -> bool {
        let last = Duration::from_millis(self.0.beat_ms.load(Ordering::Relaxed));
        self.0.started.elapsed().saturating_sub(last) < HEARTBEAT_LIMIT
    }

    fn live(&self) -> (StatusCode, &'static str) {
        if self.is_alive() {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "the loop does not turn\n")
        }
    }

    fn ready(&self) -> (StatusCode, &'static str) {
        if !self.is_alive() {
            self.live()
        } else if self.0.is_synced.load(Ordering::Relaxed) {
            (StatusCode::OK, "ok\n")
        } else if self.0.is_standby.load(Ordering::Relaxed) {
            (StatusCode::OK, "ok: another replica is the leader\n")
        } else {
            let waiting =
                "waiting for the API server: are the CRDs installed and the role bound?\n";
            (StatusCode::SERVICE_UNAVAILABLE, waiting)
        }
    }
}

/// Serves the probes and, where both have one address, the metrics.
pub fn probes(health: Health) -> Router {
    let live = health.clone();
    let healthz = health.clone();
    Router::new()
        .route("/livez", get(async move || live.live()))
        .route("/healthz", get(async move || healthz.live()))
        .route("/readyz", get(async move || health.ready()))
}

/// Serves the metrics.
pub fn metrics(metrics: Metrics) -> Router {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = async move || ([(header::CONTENT_TYPE, TEXT)], metrics.text()).into_response();
    Router::new().route("/metrics", get(text))
}

/// Listens; the address says what is wrong when that can't be.
pub async fn listen(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    use anyhow::Context;
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("listen on {address} for {what}"))
}

/// Serves until told to stop.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let served = axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "probes and metrics are not served any more");
    }
}
