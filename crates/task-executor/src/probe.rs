//! What this agent finds where it runs, told by `/capabilities`.

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Pid, geteuid};
use sandbox_sys::PidFd;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::http::{self, Bounds, Capabilities, Kernel, Options, Privileges};
use crate::sidecar::Sidecar;

/// Names of the capabilities by their bits (capability.h of Linux 6.18).
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Looks around. `init` is the agent's init, if it has one.
pub(crate) fn capabilities(
    config: &Config,
    init: Option<Pid>,
    cgroups: &Cgroups,
    sidecar: Option<&Sidecar>,
) -> Capabilities {
    let mut found = Capabilities {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: Kernel {
            release: file("/proc/sys/kernel/osrelease").trim_end().to_owned(),
            pidfd: PidFd::open(Pid::this()).is_ok(),
            close_range: sandbox_sys::has_close_range(),
            cgroup_kill: cgroups.can_kill(),
        },
        cgroup: cgroups.capabilities(),
        privileges: Privileges {
            uid: geteuid().as_raw(),
            capabilities: held(&file("/proc/self/status")),
        },
        limits: Bounds {
            max_tasks: config.max_tasks.get(),
            max_concurrent_tasks: config
                .max_concurrent_tasks
                .map_or(0, std::num::NonZero::get),
            max_request_bytes: config.max_request_bytes,
            max_connections: Options::MAX_CONNECTIONS,
            open_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        },
        pid1: init.is_some_and(|init| init.as_raw() == 1),
        init: init.is_some(),
        ..Capabilities::default()
    };
    found.modes.process = true;
    if let Some((sidecar, mode)) = sidecar.zip(config.sidecar.as_ref()) {
        let missing = sidecar.missing();
        found.modes.sidecar = missing.is_empty();
        found.sidecar = Some(http::Sidecar {
            main_container_name: mode.main_container_name.clone(),
            missing_capabilities: missing,
        });
    }
    found
}

/// A file that is there on every Linux; empty where it is not, as in some sandboxes.
fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The effective capabilities in a `/proc/PID/status` (proc(5)).
fn held(status: &str) -> Vec<String> {
    let bits = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let named = CAPABILITIES.iter().enumerate();
    named
        .filter(|(bit, _)| bits >> bit & 1 == 1)
        .map(|(_, name)| (*name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_named_by_their_bits() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000200021\n";
        assert_eq!(held(status), ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"]);
        assert_eq!(
            held("CapEff:\t000001ffffffffff\n").len(),
            CAPABILITIES.len()
        );
        assert!(held("").is_empty());
    }
}
