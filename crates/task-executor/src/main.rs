//! One program file, four roles, told apart by `argv[0]` before anything else is set up.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os()
        .next()
        .as_deref()
        .and_then(|role| role.to_str())
    {
        Some(task_shim::SHIM_ROLE) => task_shim::launcher::main(),
        Some(task_shim::SERVER_ROLE) => task_executor::server::main(),
        _ => task_shim::init::main(),
    }
}
