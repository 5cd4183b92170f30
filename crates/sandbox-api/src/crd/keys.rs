//! Names that are part of the contract: group, annotations, labels, finalizers.

/// API group of all resources.
pub const GROUP: &str = "sandbox.opensandbox.io";
/// API version of all resources.
pub const VERSION: &str = "v1alpha1";

/// Label of a Pod made for a `BatchSandbox`: its index, in decimal.
pub const POD_INDEX_LABEL: &str = "batch-sandbox.sandbox.opensandbox.io/pod-index";
/// Label of a Pod made for a `BatchSandbox`: the name of that.
pub const BATCH_NAME_LABEL: &str = "batch-sandbox.sandbox.opensandbox.io/name";
/// Label of a Pod made for a `Pool`: the name of that.
pub const POOL_NAME_LABEL: &str = "sandbox.opensandbox.io/pool-name";
/// Label of a Pod made for a `Pool`: the revision of the template that it was made from.
pub const POOL_REVISION_LABEL: &str = "sandbox.opensandbox.io/pool-revision";

/// Annotation of a pooled `BatchSandbox`: `{"pods":[…]}`, the Pods that it has, in the order of their indexes.
pub const ALLOC_STATUS_ANNOTATION: &str = "sandbox.opensandbox.io/alloc-status";
/// Annotation of a pooled `BatchSandbox`: `{"pods":[…]}`, the Pods that it gives back, sorted.
pub const ALLOC_RELEASE_ANNOTATION: &str = "sandbox.opensandbox.io/alloc-release";
/// Annotation of a pooled `BatchSandbox`: `{"pods":[…]}`, the Pods that were taken back.
pub const ALLOC_RELEASED_ANNOTATION: &str = "sandbox.opensandbox.io/alloc-released";
/// Annotation of a `BatchSandbox`: a JSON array of Pod addresses by index, `""` where there is none.
pub const ENDPOINTS_ANNOTATION: &str = "sandbox.opensandbox.io/endpoints";
/// Annotation of a `BatchSandbox` with policy `Release`: how the tasks ended whose Pods are given back,
/// `{"succeeded":"0-3,7","failed":"4"}`. Written before the Pod goes; ours, not in `OpenSandbox`.
pub const TASK_RESULTS_ANNOTATION: &str = "sandbox.opensandbox.io/task-results";

/// Finalizer of a `BatchSandbox` with tasks: they are stopped before it goes.
pub const TASK_CLEANUP_FINALIZER: &str = "batch-sandbox.sandbox.opensandbox.io/task-cleanup";
/// Finalizer of a pooled `BatchSandbox`: its Pods are given back before it goes.
pub const POOL_ALLOCATION_FINALIZER: &str = "pool.sandbox.opensandbox.io/pool-allocation";

/// The value of `poolRef` that leaves the choice of a pool to the operator.
pub const ANY_POOL: &str = "*";
