//! Signals as something to read, for single-threaded loops (signalfd(2)).

use std::io;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What a shim listens to, and the launcher before it: nothing is lost between the two.
pub(crate) const OF_A_SHIM: [Signal; 5] = [
    Signal::SIGCHLD,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// Blocks these signals and gives a descriptor that tells of them. A forked child must
/// unblock them before it becomes another program.
pub(crate) fn listen(signals: &[Signal]) -> io::Result<SignalFd> {
    let mask: SigSet = signals.iter().copied().collect();
    mask.thread_set_mask()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    Ok(SignalFd::with_flags(&mask, flags)?)
}
