//! The custom resources of the group `sandbox.opensandbox.io/v1alpha1`, and the words of their contract.
//!
//! Field for field those of `OpenSandbox`, so that its manifests, server and clients work unchanged. Parts that
//! are merged before they mean anything (templates and patches) stay JSON here.

mod batch;
mod keys;
mod pool;
mod schema;

pub use batch::{
    BatchCondition, BatchPhase, BatchSandbox, BatchSandboxSpec, BatchSandboxStatus,
    TaskResourcePolicy,
};
pub use keys::*;
pub use pool::{
    CapacitySpec, IntOrPercent, Pool, PoolSpec, PoolStatus, RecycleStrategy, RecycleType,
    ScaleStrategy, UpdateStrategy,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// All resources of the group, in the order in which they are installed.
pub fn all() -> [CustomResourceDefinition; 2] {
    [BatchSandbox::crd(), Pool::crd()]
}

#[cfg(test)]
mod tests;
