//! `sandbox-operator`: see `--help`.
#![forbid(unsafe_code)]

fn main() {}
