//! Tasks and their ends, in the words of the API.

use serde_json::{Value, json};

/// A process that runs a script with `sh -c`.
pub fn sh(script: &str) -> Value {
    json!({"command": ["sh", "-c", script]})
}

/// Checks reason, exit code and signal of a `terminated` state.
pub fn check_end(end: &Value, reason: &str, code: i32, signal: Option<i32>) {
    let found = (&end["reason"], &end["exitCode"], &end["signal"]);
    let expected = (&json!(reason), &json!(code), &json!(signal));
    assert_eq!(found, expected, "{end}");
}
