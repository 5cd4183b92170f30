//! The operator as it ships, under the role that it ships with, against a real API server, with real agents.
//!
//! All tests share one control plane, except those that stop it; each has a namespace, a kubelet and an operator.
#![allow(clippy::unwrap_used, reason = "tests")]

mod access;
mod admin;
mod crashes;
mod deletion;
mod draft;
mod election;
mod flat;
mod kubectl;
mod malformed;
mod outages;
mod pods;
mod release;
mod samples;
mod scaling;
mod shards;
mod silence;
mod world;
mod writes;
