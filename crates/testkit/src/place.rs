//! What a test needs of the machine that it runs on, and what it may ask about processes.

use std::io::{self, Write};
use std::process::Command;

use nix::unistd::{Pid, geteuid};

/// Whether a test can run here. Where it cannot, it says so aloud and passes; on the build
/// machine (`CI=true`) that is a failure.
pub fn need(what: &str, is_there: bool) -> bool {
    if is_there {
        return true;
    }
    let on_build_machine = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!on_build_machine, "this test needs {what}");
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not `eprintln!`, which the test runner would keep to itself. Without standard error
    // there is nobody to tell.
    let _ = writeln!(io::stderr(), "SKIPPED {name}: it needs {what}");
    false
}

/// Whether the test runs as root.
pub fn need_root() -> bool {
    need("root", geteuid().is_root())
}

/// Whether a command works here, such as `unshare --pid --fork true`.
pub fn need_command(words: &[&str]) -> bool {
    let works = Command::new(words[0])
        .args(&words[1..])
        .output()
        .is_ok_and(|output| output.status.success());
    need(&words.join(" "), works)
}

/// Whether a process is there and has not ended: a zombie has.
pub fn is_alive(pid: Pid) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// The letter that `/proc/PID/stat` gives for the state of a process.
pub fn state(pid: Pid) -> Option<char> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    line.rsplit_once(") ")?.1.chars().next()
}

/// A line of `/proc/PID/status`, such as `VmHWM`, without its name.
pub fn status_line(pid: Pid, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
}
