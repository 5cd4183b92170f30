//! A Pod as the planner sees it: the few facts that decisions depend on.

use std::net::IpAddr;

/// What is known of one Pod of a `BatchSandbox`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name, unique in its namespace at any time.
    pub name: String,
    /// Its uid, unique for ever.
    pub uid: String,
    /// The uid of its controller.
    pub owner: Option<String>,
    /// Its index within the batch.
    pub index: Option<u32>,
    /// Its address, once it has one.
    pub address: Option<IpAddr>,
    /// Whether a node was chosen.
    pub is_scheduled: bool,
    /// Whether it runs and is ready.
    pub is_ready: bool,
    /// Whether its deletion was asked for.
    pub is_deleting: bool,
    /// Why the whole Pod was taken away by its node or by the cluster, such as `Evicted`.
    pub lost: Option<String>,
    /// A container that can't run.
    pub trouble: Option<Trouble>,
    /// The container that was restarted last.
    pub restart: Option<Restart>,
}

impl Pod {
    /// Whether it counts as allocated in status.
    pub fn is_allocated(&self) -> bool {
        self.is_scheduled || self.address.is_some()
    }
}

/// Why a container can't run, as its `state.waiting` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One of [`TROUBLES`].
    pub reason: String,
    /// The words of the kubelet or the runtime.
    pub message: String,
}

/// Reasons of a waiting container that mean that the Pod has failed, for now.
pub const TROUBLES: [&str; 7] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "InvalidImageName",
    "RunContainerError",
];

/// A container that was restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// Name of the container.
    pub container: String,
    /// How often all containers of the Pod were restarted.
    pub count: u32,
    /// Why it had ended, such as `OOMKilled` or `Error`.
    pub reason: String,
}
