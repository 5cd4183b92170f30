//! The API as a client sees it: a real server on a real socket, with a fake manager behind it.

mod client;
mod contract;
mod fake;
mod lifecycle;
mod sizes;
mod streams;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{App, Capabilities, Options, serve};
use crate::metrics::Metrics;
use crate::tls::Tls;
use client::Client;
use fake::Fake;

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits something that must happen.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it must happen soon")
}

/// A server that runs until the test ends.
struct Server {
    addr: SocketAddr,
    fake: Fake,
    metrics: Arc<Metrics>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Starts one with other options than usual.
    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::with_tls(change, None).await
    }

    async fn with_tls(change: impl FnOnce(&mut Options), tls: Option<Arc<Tls>>) -> Self {
        let mut options = Options::new(1 << 20, None);
        change(&mut options);
        let (fake, manager) = Fake::start();
        let metrics = Arc::new(Metrics::new());
        let capabilities = Capabilities {
            version: "1.2.3".to_owned(),
            pid1: true,
            ..Capabilities::default()
        };
        let app = App::new(manager, Arc::clone(&metrics), options, &capabilities);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, tls, app, async {
            let _dropped = stopped.await;
        }));
        Self {
            addr,
            fake,
            metrics,
            stop: Some(stop),
            task,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// One request on a connection of its own.
    async fn ask(&self, method: &str, path: &str, body: &str) -> client::Reply {
        self.client().await.ask(method, path, body).await
    }

    /// Asks the server to stop and waits until it has.
    async fn stop(mut self) {
        drop(self.stop.take());
        soon(self.task).await.unwrap();
    }
}
