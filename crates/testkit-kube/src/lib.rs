//! A real control plane, a test kubelet and fake agents, for tests of the operator; never part of a shipped program.
#![forbid(unsafe_code)]

pub mod control_plane;
pub mod flat_agent;
pub mod kubelet;
mod loopback;
pub mod manifests;
pub mod operator;
mod process;
pub mod wait;
mod workdir;

pub use control_plane::shared::shared;
pub use control_plane::{ControlPlane, Options};
pub use kubelet::{Fault, Kubelet};

use std::io::{self, Write as _};
use std::path::PathBuf;

/// A line on standard error that the test runner does not keep to itself, as it does what `eprintln!` writes.
fn tell(line: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

/// The path of one of the workspace's own programs, built as the running test or program was.
///
/// # Panics
/// When it is not built: `cargo test -p` builds the programs of that one crate only.
pub fn program(name: &str) -> PathBuf {
    let running = std::env::current_exe().expect("the path of this program");
    // A test is in `deps`, beside which the programs are.
    let places = running.ancestors().skip(1).take(2);
    let found = places
        .map(|place| place.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built: run `cargo build --workspace --bins`"))
}
