//! The watches: what the API server says, as news for the engine.

mod pod;

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use sandbox_api::crd::{BATCH_NAME_LABEL, BatchSandbox};
use sandbox_planner::engine::{Input, Key};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

pub use pod::SlimPod;

/// Below the 240 s after which load balancers of cloud providers drop silent connections.
const WATCH_SECONDS: u32 = 230;
/// First pause after a watch failed; doubled with each failure.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What a watch tells the engine's loop.
#[derive(Debug)]
pub enum News {
    /// For the engine.
    Input(Box<Input>),
    /// The watch of this kind has listed everything that there is.
    Synced(Kind),
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `BatchSandbox`
    Batches,
    /// `Pod`
    Pods,
}

impl Kind {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batches => "batchsandboxes",
            Self::Pods => "pods",
        }
    }
}

/// Where the news go.
#[derive(Clone, Debug)]
pub struct Sink {
    /// The engine's loop.
    pub news: mpsc::Sender<News>,
    /// Counts.
    pub metrics: Metrics,
    /// When to stop.
    pub stop: CancellationToken,
}

impl Sink {
    /// Sends news; `false` when nobody listens any more.
    async fn send(&self, news: News) -> bool {
        self.news.send(news).await.is_ok()
    }
}

/// All objects of a type, or those of one namespace.
pub fn api<K>(client: Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

/// Watches `BatchSandbox` objects until it is told to stop.
pub async fn batches(client: Client, namespace: Option<String>, sink: Sink) {
    let objects: Api<Guarded> = api(client, namespace.as_deref());
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let mut listed = BTreeSet::new();
    let metrics = sink.metrics.clone();
    let stream = watcher::watcher(objects, config);
    let take = move |event| match event {
        Event::Init => {
            listed.clear();
            None
        }
        Event::InitApply(object) => {
            listed.insert(key(&object));
            batch(object, &metrics)
        }
        Event::InitDone => Some(Input::BatchesListed(std::mem::take(&mut listed))),
        Event::Apply(object) => batch(object, &metrics),
        Event::Delete(object) => Some(Input::BatchGone(key(&object))),
    };
    follow(Kind::Batches, stream, sink, take).await;
}

/// An object that may not fit the schema of today.
type Guarded = DeserializeGuard<BatchSandbox>;

fn key(object: &Guarded) -> Key {
    let meta = object.meta();
    Key {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// An object that can't even be decoded was stored under another schema. It is left alone, and nobody else suffers.
fn batch(object: Guarded, metrics: &Metrics) -> Option<Input> {
    let name = key(&object);
    match object.0 {
        Ok(object) => Some(Input::Batch(Box::new(object))),
        Err(invalid) => {
            metrics.undecodable();
            tracing::error!(batch = %name, error = invalid.error, "object can't be decoded");
            None
        }
    }
}

/// Watches the Pods of batches until it is told to stop.
pub async fn pods(client: Client, namespace: Option<String>, sink: Sink) {
    let objects: Api<SlimPod> = api(client, namespace.as_deref());
    let config = watcher::Config::default()
        .labels(BATCH_NAME_LABEL)
        .timeout(WATCH_SECONDS);
    let mut listed = BTreeSet::new();
    let stream = watcher::watcher(objects, config);
    let take = move |event: Event<SlimPod>| match event {
        Event::Init => {
            listed.clear();
            None
        }
        Event::InitApply(pod) => {
            listed.extend(pod.meta().uid.clone());
            see(pod)
        }
        Event::InitDone => Some(Input::PodsListed(std::mem::take(&mut listed))),
        Event::Apply(pod) => see(pod),
        Event::Delete(pod) => pod.read().map(|(batch, pod, _)| Input::PodGone {
            batch,
            uid: pod.uid,
        }),
    };
    follow(Kind::Pods, stream, sink, take).await;
}

fn see(pod: SlimPod) -> Option<Input> {
    pod.read().map(|(batch, pod, version)| Input::Pod {
        batch,
        pod,
        version,
    })
}

/// Takes events from a watch, which mends itself, with a growing pause between failures.
async fn follow<K>(
    kind: Kind,
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    sink: Sink,
    mut take: impl FnMut(Event<K>) -> Option<Input>,
) {
    let mut stream = pin!(stream);
    let mut pause = PAUSE_MIN;
    loop {
        let event = tokio::select! {
            // Cancel-safe: the stream keeps its state between polls.
            event = stream.next() => event,
            () = sink.stop.cancelled() => return,
        };
        match event {
            Some(Ok(event)) => {
                pause = PAUSE_MIN;
                let is_done = matches!(event, Event::InitDone);
                if let Some(input) = take(event)
                    && !sink.send(News::Input(Box::new(input))).await
                {
                    return;
                }
                if is_done && !sink.send(News::Synced(kind)).await {
                    return;
                }
            }
            Some(Err(error)) => {
                sink.metrics.watch_failed(kind);
                tracing::warn!(kind = kind.as_str(), %error, "watch failed");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = sink.stop.cancelled() => return,
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
            None => return,
        }
    }
}
