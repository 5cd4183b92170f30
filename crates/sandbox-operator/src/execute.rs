//! The API plane: carries out what the engine has decided, and says what came of it. No policy.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Client, Resource};
use sandbox_api::crd::BatchSandbox;
use sandbox_planner::engine::{BatchWrite, Failure, Key, Note, PodOutcome, PodWrite, Severity};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::lease::Leadership;
use crate::metrics::{Metrics, Verb};
use crate::observe::SlimPod;
use crate::pace::Pace;

/// Whose changes these are, for `managedFields` and events.
const MANAGER: &str = "sandbox-operator";
/// A write that takes longer has failed; what became of it shows in the watch.
const DEADLINE: Duration = Duration::from_secs(30);
/// Writes to Pods of one batch at once; all batches together have the limit of [`Executor::new`].
const PODS_AT_ONCE: usize = 32;

/// Carries out writes.
#[derive(Clone)]
pub struct Executor {
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
    permits: Arc<Semaphore>,
    pace: Option<Arc<Pace>>,
    instance: Arc<str>,
}

/// A write to a batch, with what must still hold.
#[derive(Debug)]
pub struct BatchOrder {
    /// The batch.
    pub batch: Key,
    /// Its uid.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
    /// What to write.
    pub write: BatchWrite,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

impl Executor {
    /// One that has at most `at_once` requests under way.
    pub fn new(
        client: Client,
        leadership: Leadership,
        metrics: Metrics,
        at_once: usize,
        instance: &str,
    ) -> Self {
        Self {
            client,
            leadership,
            metrics,
            permits: Arc::new(Semaphore::new(at_once)),
            pace: None,
            instance: instance.into(),
        }
    }

    /// The same with a limit on requests per second.
    #[must_use]
    pub fn at_pace(mut self, pace: Pace) -> Self {
        self.pace = Some(Arc::new(pace));
        self
    }

    /// Writes to a batch. The object as it is afterwards, if it is still there.
    pub async fn write_batch(
        &self,
        order: BatchOrder,
    ) -> Result<Option<Box<BatchSandbox>>, Failure> {
        let api: Api<BatchSandbox> = Api::namespaced(self.client.clone(), &order.batch.namespace);
        let name = &order.batch.name;
        // With its uid and version in the patch, the API server refuses it for any other object.
        let about = json!({"uid": order.uid, "resourceVersion": order.resource_version});
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let result = match order.write {
            BatchWrite::Meta(patch) => {
                let mut about = about;
                if let Some(finalizers) = patch.finalizers {
                    about["finalizers"] = json!(finalizers);
                }
                if !patch.annotations.is_empty() {
                    about["annotations"] = json!(patch.annotations);
                }
                let patch = Patch::Merge(json!({"metadata": about}));
                let call = api.patch(name, &params, &patch);
                self.call(Verb::PatchBatch, call).await.map(Some)
            }
            BatchWrite::Status(status) => {
                let patch = Patch::Merge(json!({"metadata": about, "status": status}));
                let call = api.patch_status(name, &params, &patch);
                self.call(Verb::PatchStatus, call).await.map(Some)
            }
            BatchWrite::Delete => {
                let params = uid_is(order.uid);
                // With a finalizer it stays for now, and is as the answer says.
                let call = async { Ok(api.delete(name, &params).await?.left()) };
                self.call(Verb::DeleteBatch, call).await
            }
        };
        match result {
            Ok(object) => Ok(object.map(Box::new)),
            Err(Refusal { code: 404, .. }) => Ok(None),
            Err(refusal) => Err(refusal.failure()),
        }
    }

    /// Writes to Pods of one batch, several at once.
    pub async fn write_pods(&self, batch: &Key, writes: Vec<PodWrite>) -> Vec<PodOutcome> {
        stream::iter(writes)
            .map(|write| self.write_pod(&batch.namespace, write))
            .buffer_unordered(PODS_AT_ONCE)
            .collect()
            .await
    }

    async fn write_pod(&self, namespace: &str, write: PodWrite) -> PodOutcome {
        match write {
            PodWrite::Create(pod) => match self.create_pod(namespace, &pod).await {
                Ok(pod) => match pod.read() {
                    Some((_, pod, version)) => PodOutcome::Created {
                        pod: Box::new(pod),
                        version,
                    },
                    None => PodOutcome::Failed(Failure::Stale),
                },
                Err(refusal) => PodOutcome::Failed(refusal.failure()),
            },
            PodWrite::Delete { name, uid, why } => {
                let api: Api<SlimPod> = Api::namespaced(self.client.clone(), namespace);
                let params = uid_is(uid.clone());
                match self.call(Verb::DeletePod, api.delete(&name, &params)).await {
                    Ok(_) | Err(Refusal { code: 404, .. }) => PodOutcome::Deleted { uid, why },
                    Err(refusal) => PodOutcome::Failed(refusal.failure()),
                }
            }
        }
    }

    async fn create_pod(&self, namespace: &str, pod: &Value) -> Result<SlimPod, Refusal> {
        let url = SlimPod::url_path(&(), Some(namespace));
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let request = Request::new(url)
            .create(&params, pod.to_string().into_bytes())
            .map_err(|error| Refusal::local(&error))?;
        self.call(Verb::CreatePod, self.client.request::<SlimPod>(request))
            .await
    }

    /// Tells the users of a batch something, as an event. What can't be told is logged.
    pub async fn tell(&self, batch: &Key, uid: String, note: Note) {
        let now = Timestamp::now();
        let regarding = ObjectReference {
            api_version: Some(BatchSandbox::api_version(&()).into_owned()),
            kind: Some(BatchSandbox::kind(&()).into_owned()),
            name: Some(batch.name.clone()),
            namespace: Some(batch.namespace.clone()),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        let severity = match note.severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        };
        let event = Event {
            metadata: ObjectMeta {
                // The API server refuses one that ends with a dot.
                generate_name: Some(format!("{}-", batch.name)),
                namespace: Some(batch.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(shorten(note.message)),
            reason: Some(note.reason),
            regarding: Some(regarding),
            reporting_controller: Some(MANAGER.to_owned()),
            reporting_instance: Some(self.instance.to_string()),
            type_: Some(severity.to_owned()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &batch.namespace);
        let params = PostParams::default();
        let call = api.create(&params, &event);
        if let Err(refusal) = self.call(Verb::CreateEvent, call).await {
            tracing::warn!(batch = %batch, error = refusal.message, "event could not be written");
        }
    }

    /// One request: only while this is the leader, with a place among all requests, and with a deadline.
    async fn call<T>(
        &self,
        verb: Verb,
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Refusal> {
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|error| Refusal::local(&error))?;
        if let Some(pace) = &self.pace {
            pace.wait().await;
        }
        if !self.leadership.is_held() {
            return Err(Refusal::local(&"this is not the leader"));
        }
        let result = match tokio::time::timeout(DEADLINE, call).await {
            Ok(result) => result.map_err(Refusal::from),
            Err(late) => Err(Refusal::local(&late)),
        };
        self.metrics.wrote(verb, result.is_ok());
        result
    }
}

/// The API server lets an event's note have 1,024 bytes.
fn shorten(mut note: String) -> String {
    const BYTES_MAX: usize = 1024;
    if note.len() > BYTES_MAX {
        let end = (0..=BYTES_MAX - 3)
            .rev()
            .find(|at| note.is_char_boundary(*at));
        note.truncate(end.unwrap_or_default());
        note += "...";
    }
    note
}

fn uid_is(uid: String) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid),
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}

/// Why a request was not done; code 0 when the API server did not answer.
#[derive(Debug)]
struct Refusal {
    code: u16,
    /// Of the two meanings of 409, the one that there is another object of that name.
    is_taken: bool,
    message: String,
}

impl Refusal {
    fn local(error: &dyn std::fmt::Display) -> Self {
        Self {
            code: 0,
            is_taken: false,
            message: error.to_string(),
        }
    }

    /// What it means for the engine.
    fn failure(self) -> Failure {
        match self.code {
            // 404 of a create: the namespace is gone or not there yet.
            409 if self.is_taken => Failure::Taken(self.message),
            409 => Failure::Stale,
            400 | 401 | 403 | 404 | 405 | 413 | 422 => Failure::Refused(self.message),
            _ => Failure::Later(self.message),
        }
    }
}

impl From<kube::Error> for Refusal {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self {
                code: status.code,
                is_taken: status.reason == "AlreadyExists",
                message: status.message,
            },
            other => Self::local(&other),
        }
    }
}

#[cfg(test)]
mod tests;
