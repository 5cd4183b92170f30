//! The operator: watches `BatchSandbox`, makes Pods, gives each its task, and tells the truth in status.
#![forbid(unsafe_code)]
