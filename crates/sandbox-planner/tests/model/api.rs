//! The API server of the model: objects with versions and preconditions, watch streams, and the garbage collector.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sandbox_api::crd::{BATCH_NAME_LABEL, BatchSandbox, BatchSandboxSpec, POD_INDEX_LABEL};
use sandbox_planner::engine::{BatchWrite, Failure, Input, Key};
use sandbox_planner::pod::Pod;
use serde_json::Value;

pub const NAMESPACE: &str = "default";

/// A Pod, the batch that its label names, and its version.
#[derive(Clone, Debug)]
pub struct Stored {
    pub pod: Pod,
    pub batch: String,
    pub version: u64,
}

#[derive(Debug, Default)]
pub struct Api {
    pub version: u64,
    pub uids: u64,
    pub batches: BTreeMap<String, BatchSandbox>,
    pub pods: BTreeMap<String, Stored>,
    /// What the watches have not delivered yet.
    pub batch_stream: VecDeque<Input>,
    pub pod_stream: VecDeque<Input>,
    pub writes: u64,
    pub status_writes: u64,
}

pub fn key(name: &str) -> Key {
    Key {
        namespace: NAMESPACE.to_owned(),
        name: name.to_owned(),
    }
}

impl Api {
    pub fn new_uid(&mut self) -> String {
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Stores a batch and tells the watch.
    fn put_batch(&mut self, mut object: BatchSandbox) -> BatchSandbox {
        object.metadata.resource_version = Some(self.next_version().to_string());
        let name = object.metadata.name.clone().unwrap();
        let is_deleting = object.metadata.deletion_timestamp.is_some();
        let is_free = object.metadata.finalizers.iter().flatten().count() == 0;
        if is_deleting && is_free {
            self.batches.remove(&name);
            self.batch_stream.push_back(Input::BatchGone(key(&name)));
        } else {
            self.batches.insert(name, object.clone());
            let event = Input::Batch(Box::new(object.clone()));
            self.batch_stream.push_back(event);
        }
        object
    }

    pub fn create_batch(&mut self, name: &str, spec: BatchSandboxSpec) {
        let mut object = BatchSandbox::new(name, spec);
        object.metadata.namespace = Some(NAMESPACE.to_owned());
        object.metadata.uid = Some(self.new_uid());
        object.metadata.generation = Some(1);
        self.put_batch(object);
    }

    pub fn edit_batch(&mut self, name: &str, edit: impl FnOnce(&mut BatchSandboxSpec)) {
        let Some(mut object) = self.batches.get(name).cloned() else {
            return;
        };
        let before = object.spec.clone();
        edit(&mut object.spec);
        if object.spec != before {
            object.metadata.generation = object.metadata.generation.map(|old| old + 1);
            self.put_batch(object);
        }
    }

    pub fn delete_batch(&mut self, name: &str, now: Timestamp) -> Option<BatchSandbox> {
        let mut object = self.batches.get(name).cloned()?;
        if object.metadata.deletion_timestamp.is_none() {
            object.metadata.deletion_timestamp = Some(Time(now));
            object.metadata.generation = object.metadata.generation.map(|old| old + 1);
            object = self.put_batch(object);
        }
        self.batches.contains_key(name).then_some(object)
    }

    /// A write of the operator, with its preconditions.
    pub fn write_batch(
        &mut self,
        (name, uid, version): (&str, &str, &str),
        write: &BatchWrite,
        now: Timestamp,
    ) -> Result<Option<Box<BatchSandbox>>, Failure> {
        self.writes += 1;
        let Some(object) = self.batches.get(name).cloned() else {
            return match write {
                BatchWrite::Delete => Ok(None),
                BatchWrite::Meta(_) | BatchWrite::Status(_) => Err(Failure::Stale),
            };
        };
        let is_same = object.metadata.uid.as_deref() == Some(uid)
            && object.metadata.resource_version.as_deref() == Some(version);
        if !is_same {
            return Err(Failure::Stale);
        }
        let mut object = object;
        match write {
            BatchWrite::Delete => return Ok(self.delete_batch(name, now).map(Box::new)),
            BatchWrite::Status(status) => {
                self.status_writes += 1;
                object.status = Some((**status).clone());
            }
            BatchWrite::Meta(patch) => {
                if let Some(finalizers) = &patch.finalizers {
                    object.metadata.finalizers = Some(finalizers.clone());
                }
                let annotations = object.metadata.annotations.get_or_insert_default();
                annotations.extend(patch.annotations.clone());
            }
        }
        Ok(Some(Box::new(self.put_batch(object))))
    }

    /// Stores a Pod and tells the watch.
    pub fn put_pod(&mut self, batch: &str, pod: Pod) -> u64 {
        let version = self.next_version();
        let batch = batch.to_owned();
        self.pod_stream.push_back(Input::Pod {
            batch: key(&batch),
            pod: pod.clone(),
            version,
        });
        let name = pod.name.clone();
        self.pods.insert(
            name,
            Stored {
                pod,
                batch,
                version,
            },
        );
        version
    }

    pub fn remove_pod(&mut self, name: &str) {
        if let Some(stored) = self.pods.remove(name) {
            self.next_version();
            self.pod_stream.push_back(Input::PodGone {
                batch: key(&stored.batch),
                uid: stored.pod.uid,
            });
        }
    }

    pub fn edit_pod(&mut self, name: &str, edit: impl FnOnce(&mut Pod)) {
        if let Some(Stored { mut pod, batch, .. }) = self.pods.get(name).cloned() {
            let before = pod.clone();
            edit(&mut pod);
            if pod != before {
                self.put_pod(&batch, pod);
            }
        }
    }

    /// A write of the operator; labels and owner are read as the operator's edges do.
    pub fn create_pod(&mut self, made: &Value) -> Result<(Pod, u64), Failure> {
        self.writes += 1;
        let about = &made["metadata"];
        let name = about["name"].as_str().unwrap().to_owned();
        if self.pods.contains_key(&name) {
            return Err(Failure::Stale);
        }
        let owner = &about["ownerReferences"][0];
        assert_eq!(owner["controller"], true, "{made}");
        let label = |word: &str| about["labels"][word].as_str().unwrap();
        let pod = Pod {
            index: label(POD_INDEX_LABEL).parse().ok(),
            owner: owner["uid"].as_str().map(ToOwned::to_owned),
            ..blank_pod(&name, &self.new_uid())
        };
        let batch = label(BATCH_NAME_LABEL).to_owned();
        let version = self.put_pod(&batch, pod.clone());
        Ok((pod, version))
    }

    pub fn delete_pod(&mut self, name: &str, uid: &str) {
        self.writes += 1;
        let Some(stored) = self.pods.get(name) else {
            return;
        };
        if stored.pod.uid != uid {
            return;
        }
        if stored.pod.is_scheduled {
            self.edit_pod(name, |pod| pod.is_deleting = true);
        } else {
            self.remove_pod(name);
        }
    }

    /// Deletes Pods whose owner is gone.
    pub fn collect_garbage(&mut self) {
        let owners: BTreeSet<_> = self
            .batches
            .values()
            .filter_map(|object| object.metadata.uid.clone())
            .collect();
        let is_orphan = |pod: &Pod| pod.owner.as_ref().is_some_and(|o| !owners.contains(o));
        let orphans: Vec<_> = self
            .pods
            .values()
            .filter(|stored| is_orphan(&stored.pod) && !stored.pod.is_deleting)
            .map(|stored| (stored.pod.name.clone(), stored.pod.uid.clone()))
            .collect();
        for (name, uid) in orphans {
            self.delete_pod(&name, &uid);
            self.writes -= 1; // Not one of the operator.
        }
    }

    /// The batch watch breaks: what it has not delivered is missed, and everything is listed.
    pub fn relist_batches(&mut self) {
        self.batch_stream.clear();
        for object in self.batches.values() {
            let event = Input::Batch(Box::new(object.clone()));
            self.batch_stream.push_back(event);
        }
        let all = self.batches.keys().map(|name| key(name)).collect();
        self.batch_stream.push_back(Input::BatchesListed(all));
    }

    /// The same for Pods.
    pub fn relist_pods(&mut self) {
        self.pod_stream.clear();
        for stored in self.pods.values() {
            self.pod_stream.push_back(Input::Pod {
                batch: key(&stored.batch),
                pod: stored.pod.clone(),
                version: stored.version,
            });
        }
        let all = self.pods.values().map(|stored| stored.pod.uid.clone());
        let listed = Input::PodsListed(all.collect());
        self.pod_stream.push_back(listed);
    }
}

pub fn blank_pod(name: &str, uid: &str) -> Pod {
    Pod {
        name: name.to_owned(),
        uid: uid.to_owned(),
        owner: None,
        index: None,
        address: None,
        is_scheduled: false,
        is_ready: false,
        is_deleting: false,
        lost: None,
        trouble: None,
        restart: None,
    }
}
