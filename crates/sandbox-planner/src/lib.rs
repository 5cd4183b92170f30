//! The pure brain of the operator: what is wanted and what is seen in, actions and status out.
//!
//! No I/O, no clock, no randomness, no async: `now` is an argument, and the same input gives the same plan.
#![forbid(unsafe_code)]
