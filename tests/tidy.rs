//! The rules of the house that no compiler checks, read from the workspace's own files and manifests.

#![forbid(unsafe_code)]

mod documents;
mod layers;
mod sources;
mod tree;
