//! Fixtures and wait helpers for tests; never part of a shipped program.
#![forbid(unsafe_code)]

pub mod agent;
pub mod chaos;
pub mod fuzz;
pub mod http;
pub mod place;
pub mod random;
pub mod target;
pub mod task;

use std::time::{Duration, Instant};

/// Waits until `check` gives a value, looking every few milliseconds; panics with `what`
/// after `deadline`.
pub fn eventually<T>(what: &str, deadline: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
