//! Fuzzes everything that reads what others wrote: bodies, records, queries, raw HTTP.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    testkit::fuzz::main()
}
