//! The watch: which Pods there are, and a worker for each.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt as _};
use sandbox_api::crd::{BatchSandbox, Pool};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::garbage::controller;
use super::worker::{Order, OrderTo, Setting, Worker};

/// What the loop keeps of a Pod, by its uid.
struct Entry {
    namespace: String,
    name: String,
    owner: Option<String>,
    pod: watch::Sender<Arc<Pod>>,
    orders: UnboundedSender<Order>,
}

/// News of owners of Pods.
enum OwnerNews {
    Gone(String),
    /// Some may have gone unseen.
    Listed,
    Other,
}

pub(super) struct Pods {
    client: Client,
    setting: Arc<Setting>,
    entries: HashMap<String, Entry>,
    /// While a list comes in: the uids that it holds.
    listed: HashSet<String>,
    workers: JoinSet<()>,
}

impl Pods {
    pub(super) fn new(client: Client, setting: Arc<Setting>) -> Self {
        Self {
            client,
            setting,
            entries: HashMap::new(),
            listed: HashSet::new(),
            workers: JoinSet::new(),
        }
    }

    /// Works until it is to stop and every worker has ended its agent.
    pub(super) async fn run(mut self, mut inbox: UnboundedReceiver<OrderTo>) {
        let setting = Arc::clone(&self.setting);
        let mut pods = pin!(watcher(self.api(), watcher::Config::default()).backoff(Soon));
        let mut owners = pin!(stream::select(
            self.owners::<BatchSandbox>(),
            self.owners::<Pool>()
        ));
        loop {
            tokio::select! {
                // An error is repeated by the watch; nobody needs to know while a test stops the API server.
                Some(event) = pods.next() => if let Ok(event) = event { self.pod_event(event) },
                Some(news) = owners.next() => self.owner_news(&news),
                Some(order) = inbox.recv() => self.pass_on(order),
                Some(_) = self.workers.join_next() => {}
                () = setting.stopped() => break,
            }
        }
        while self.workers.join_next().await.is_some() {}
    }

    fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        match self.setting.namespace() {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn owners<K>(&self) -> impl Stream<Item = OwnerNews> + use<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
    {
        let api = self.api::<PartialObjectMeta<K>>();
        let events = watcher(api, watcher::Config::default()).backoff(Soon);
        events.map(|event| match event {
            Ok(Event::Delete(owner)) => OwnerNews::Gone(uid(&owner)),
            Ok(Event::InitDone) => OwnerNews::Listed,
            Ok(Event::Apply(_) | Event::Init | Event::InitApply(_)) | Err(_) => OwnerNews::Other,
        })
    }

    fn pod_event(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(pod.uid().unwrap_or_default());
                self.apply(pod);
            }
            Event::InitDone => self.entries.retain(|uid, _| self.listed.contains(uid)),
            Event::Apply(pod) => self.apply(pod),
            // The worker sees that its Pod is gone, because the sender is.
            Event::Delete(pod) => drop(self.entries.remove(&pod.uid().unwrap_or_default())),
        }
    }

    fn apply(&mut self, pod: Pod) {
        let uid = pod.uid().unwrap_or_default();
        if let Some(entry) = self.entries.get(&uid) {
            entry.pod.send_replace(Arc::new(pod));
            return;
        }
        if !self.setting.takes(&pod) {
            return;
        }
        let namespace = pod.namespace().unwrap_or_default();
        let name = pod.name_any();
        let owner = controller(&pod).map(|owner| owner.uid.clone());
        let (sender, pods) = watch::channel(Arc::new(pod));
        let (orders, inbox) = mpsc::unbounded_channel();
        let worker = Worker::new(self.client.clone(), Arc::clone(&self.setting), pods, inbox);
        self.workers.spawn(worker.run());
        let entry = Entry {
            namespace,
            name,
            owner,
            pod: sender,
            orders,
        };
        self.entries.insert(uid, entry);
    }

    fn owner_news(&self, news: &OwnerNews) {
        let concerned = |entry: &&Entry| match news {
            OwnerNews::Gone(uid) => entry.owner.as_ref() == Some(uid),
            OwnerNews::Listed => entry.owner.is_some(),
            OwnerNews::Other => false,
        };
        for entry in self.entries.values().filter(concerned) {
            // A worker that has ended has nothing more to do.
            let _ = entry.orders.send(Order::CheckOwner);
        }
    }

    /// An order for a Pod that is not there is dropped, which whoever waits for its end sees.
    fn pass_on(&self, order: OrderTo) {
        let is_meant =
            |entry: &&Entry| entry.namespace == order.namespace && entry.name == order.name;
        if let Some(entry) = self.entries.values().find(is_meant) {
            let _ = entry.orders.send(order.order);
        }
    }
}

fn uid<K>(object: &PartialObjectMeta<K>) -> String {
    object.metadata.uid.clone().unwrap_or_default()
}

/// Tries again at once, more or less: tests stop the API server and don't want to wait for long afterwards.
struct Soon;

impl Iterator for Soon {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }
}

impl Backoff for Soon {
    fn reset(&mut self) {}
}
