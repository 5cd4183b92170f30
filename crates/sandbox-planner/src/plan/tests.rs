//! Tests of the decision.

mod deletion;
mod pods;
mod tasks;
