//! Typed client of the task-executor's HTTP API, and of OpenSandbox's agent, which speaks a part of it.
#![forbid(unsafe_code)]
