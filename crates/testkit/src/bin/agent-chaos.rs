//! Attacks real agents with seeded faults and checks what they say and leave behind.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    testkit::chaos::main()
}
