//! The signals that may stop a task, by their Linux names.

use std::fmt;
use std::str::FromStr;

/// A signal by name, as in the Kubernetes field `lifecycle.stopSignal` (KEP-4960).
///
/// The names are those of the Kubernetes API for Linux: `SIGHUP` to `SIGSYS`, `SIGRTMIN` to
/// `SIGRTMIN+15`, `SIGRTMAX-14` to `SIGRTMAX`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StopSignal(u8);

/// A name that is no signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a Linux signal name with its SIG prefix, e.g. \"SIGTERM\" or \"SIGRTMIN+3\"")]
pub struct UnknownSignal;

impl StopSignal {
    /// The name as Kubernetes spells it, e.g. `SIGUSR1`.
    pub fn as_str(self) -> &'static str {
        self.entry().0
    }

    /// The number on Linux for x86-64 and arm64, 1 to 64.
    pub fn number(self) -> i32 {
        self.entry().1
    }

    fn entry(self) -> (&'static str, i32) {
        SIGNALS[usize::from(self.0)]
    }
}

impl FromStr for StopSignal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let found = SIGNALS.iter().position(|(name, _)| *name == text);
        found
            .and_then(|index| u8::try_from(index).ok())
            .map(Self)
            .ok_or(UnknownSignal)
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names and numbers, signal(7). Real-time numbers are those of libc: 32 and 33 are its own.
const SIGNALS: [(&str, i32); 65] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGIOT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGSTKFLT", 16),
    ("SIGCHLD", 17),
    ("SIGCLD", 17),
    ("SIGCONT", 18),
    ("SIGSTOP", 19),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGURG", 23),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
    ("SIGVTALRM", 26),
    ("SIGPROF", 27),
    ("SIGWINCH", 28),
    ("SIGIO", 29),
    ("SIGPOLL", 29),
    ("SIGPWR", 30),
    ("SIGSYS", 31),
    ("SIGRTMIN", 34),
    ("SIGRTMIN+1", 35),
    ("SIGRTMIN+2", 36),
    ("SIGRTMIN+3", 37),
    ("SIGRTMIN+4", 38),
    ("SIGRTMIN+5", 39),
    ("SIGRTMIN+6", 40),
    ("SIGRTMIN+7", 41),
    ("SIGRTMIN+8", 42),
    ("SIGRTMIN+9", 43),
    ("SIGRTMIN+10", 44),
    ("SIGRTMIN+11", 45),
    ("SIGRTMIN+12", 46),
    ("SIGRTMIN+13", 47),
    ("SIGRTMIN+14", 48),
    ("SIGRTMIN+15", 49),
    ("SIGRTMAX-14", 50),
    ("SIGRTMAX-13", 51),
    ("SIGRTMAX-12", 52),
    ("SIGRTMAX-11", 53),
    ("SIGRTMAX-10", 54),
    ("SIGRTMAX-9", 55),
    ("SIGRTMAX-8", 56),
    ("SIGRTMAX-7", 57),
    ("SIGRTMAX-6", 58),
    ("SIGRTMAX-5", 59),
    ("SIGRTMAX-4", 60),
    ("SIGRTMAX-3", 61),
    ("SIGRTMAX-2", 62),
    ("SIGRTMAX-1", 63),
    ("SIGRTMAX", 64),
];

/// Every signal, for tests.
#[cfg(test)]
pub(crate) fn all() -> impl Iterator<Item = StopSignal> {
    SIGNALS.iter().map(|(name, _)| name.parse().unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_itself() {
        assert_eq!(all().count(), SIGNALS.len());
        for signal in all() {
            assert_eq!(signal.as_str().parse(), Ok(signal));
            assert!((1..=64).contains(&signal.number()));
        }
    }

    #[test]
    fn numbers_are_those_of_linux() {
        let number = |name: &str| name.parse::<StopSignal>().unwrap().number();
        assert_eq!(number("SIGTERM"), 15);
        assert_eq!(number("SIGUSR1"), 10);
        assert_eq!(number("SIGKILL"), 9);
        assert_eq!(number("SIGRTMIN+3"), 37);
        assert_eq!(number("SIGRTMAX-2"), 62);
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "TERM",
            "sigterm",
            "15",
            "SIGRTMIN+16",
            "SIGRTMAX-15",
            "SIGFOO",
        ] {
            assert_eq!(text.parse::<StopSignal>(), Err(UnknownSignal), "{text}");
        }
    }
}
