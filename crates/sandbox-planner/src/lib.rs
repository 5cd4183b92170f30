//! The pure brain of the operator: what is wanted and what is seen in, actions and status out.
//!
//! No I/O, no clock, no randomness, no async: `now` is an argument, and the same input gives the same plan.
//!
//! ```text
//!   BatchSandbox ──Meta, Spec──►┐
//!   Pods         ──Pod─────────►├─ plan ──► writes, orders to agents, status      (plan.rs: one batch, one moment)
//!   agents       ──Agent───────►┘
//!   watches, answers, results ──► Engine ──► outputs                              (engine.rs: all batches, over time)
//! ```
#![forbid(unsafe_code)]

pub mod agent;
pub mod batch;
pub mod conditions;
pub mod desired;
pub mod engine;
#[cfg(test)]
mod fixtures;
pub mod lint;
pub mod plan;
pub mod pod;
pub mod ranges;
pub mod results;
mod status;
pub mod strategic_merge;
