//! Resource limits of a process, setrlimit(2), in the shape of the OCI runtime specification.

use std::fmt;
use std::str::FromStr;

/// One limit of a task's process: `{"type":"RLIMIT_NOFILE","soft":1024,"hard":2048}`.
///
/// Mirrors `process.rlimits` of the OCI runtime specification. `soft` is never above `hard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// Which resource is limited.
    pub resource: RlimitResource,
    /// What the kernel enforces, in the resource's own unit; [`u64::MAX`] is unlimited.
    pub soft: u64,
    /// How far the process may raise `soft`; [`u64::MAX`] is unlimited.
    pub hard: u64,
}

/// A name that is no `RLIMIT_` of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a Linux RLIMIT_ name, e.g. \"RLIMIT_NOFILE\"")]
pub struct UnknownRlimit;

macro_rules! resources {
    ($($variant:ident, $name:literal, $number:literal, $doc:literal;)*) => {
        /// The resources that setrlimit(2) knows on Linux.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum RlimitResource {
            $(#[doc = $doc] $variant,)*
        }

        impl RlimitResource {
            /// Every resource, in the order of its number.
            pub const ALL: [Self; 16] = [$(Self::$variant,)*];

            /// The name, e.g. `RLIMIT_NOFILE`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The number on Linux for x86-64 and arm64.
            pub fn number(self) -> i32 {
                match self { $(Self::$variant => $number,)* }
            }
        }
    };
}

resources! {
    Cpu, "RLIMIT_CPU", 0, "CPU time in seconds.";
    FileSize, "RLIMIT_FSIZE", 1, "Size of a file that is written, in bytes.";
    Data, "RLIMIT_DATA", 2, "Data segment in bytes.";
    Stack, "RLIMIT_STACK", 3, "Stack in bytes.";
    Core, "RLIMIT_CORE", 4, "Core dump in bytes.";
    ResidentSet, "RLIMIT_RSS", 5, "Resident memory in bytes; without effect on today's Linux.";
    Processes, "RLIMIT_NPROC", 6, "Processes and threads of the user.";
    OpenFiles, "RLIMIT_NOFILE", 7, "One more than the highest file descriptor.";
    LockedMemory, "RLIMIT_MEMLOCK", 8, "Locked memory in bytes.";
    AddressSpace, "RLIMIT_AS", 9, "Address space in bytes.";
    Locks, "RLIMIT_LOCKS", 10, "File locks; without effect on today's Linux.";
    PendingSignals, "RLIMIT_SIGPENDING", 11, "Queued signals of the user.";
    MessageQueues, "RLIMIT_MSGQUEUE", 12, "POSIX message queues in bytes.";
    Nice, "RLIMIT_NICE", 13, "20 minus the lowest nice value.";
    RealTimePriority, "RLIMIT_RTPRIO", 14, "Highest real-time priority.";
    RealTimeCpu, "RLIMIT_RTTIME", 15, "Real-time CPU time without a blocking call, in microseconds.";
}

impl FromStr for RlimitResource {
    type Err = UnknownRlimit;

    fn from_str(text: &str) -> Result<Self, UnknownRlimit> {
        let found = Self::ALL
            .into_iter()
            .find(|resource| resource.as_str() == text);
        found.ok_or(UnknownRlimit)
    }
}

impl fmt::Display for RlimitResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_reads_back_and_is_numbered_in_order() {
        for (number, resource) in (0_i32..).zip(RlimitResource::ALL) {
            assert_eq!(resource.as_str().parse(), Ok(resource));
            assert_eq!(resource.number(), number);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for text in ["", "NOFILE", "rlimit_nofile", "RLIMIT_FOO"] {
            assert_eq!(text.parse::<RlimitResource>(), Err(UnknownRlimit));
        }
    }
}
