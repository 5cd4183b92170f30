//! What the agent itself may do, and whether that is enough to take another process's place.

use std::io;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Gid, getegid, geteuid, getgroups};

use super::traits::{self, Traits};
use crate::probe;

/// Needed for any command in the main container, by number: `SYS_CHROOT`, `SYS_PTRACE` and
/// `SYS_ADMIN`. setns(2) asks for the first and the last, `/proc` for the second.
const ALWAYS: [u32; 3] = [18, 19, 21];
const KILL: u32 = 5;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const SETPCAP: u32 = 8;
const SYS_RESOURCE: u32 = 24;

/// The agent's own identity and privileges.
#[derive(Debug)]
pub(crate) struct Own {
    user: u32,
    group: u32,
    groups: Vec<u32>,
    permitted: u64,
    bounding: u64,
    /// Hard limits, by the kernel's number of the resource.
    hard_limits: Vec<(i32, u64)>,
}

fn has(set: u64, number: u32) -> bool {
    set >> number & 1 == 1
}

fn names(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    let name = |number: u32| {
        let index = usize::try_from(number).ok()?;
        let name = probe::CAPABILITIES.get(index).copied();
        Some(name.map_or_else(|| format!("capability {number}"), str::to_owned))
    };
    numbers.into_iter().filter_map(name).collect()
}

/// What is said of a task that can't be run for want of capabilities.
pub(super) fn lacking(missing: &[String]) -> String {
    format!(
        "running inside of the main container needs {}, which this agent lacks; add it to the \
         securityContext of its container, or set execMode to Local",
        missing.join(" and ")
    )
}

impl Own {
    pub(super) fn current() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let limits = std::fs::read_to_string("/proc/self/limits")?;
        let mut hard_limits: Vec<_> = traits::limits(&limits)
            .into_iter()
            .map(|(resource, _, hard)| (resource, hard))
            .collect();
        // The file gives no numbers beyond what the table knows; this one the agent raises.
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            hard_limits.retain(|(resource, _)| *resource != traits::OPEN_FILES);
            hard_limits.push((traits::OPEN_FILES, hard));
        }
        Ok(Self {
            user: geteuid().as_raw(),
            group: getegid().as_raw(),
            groups: getgroups()?.into_iter().map(Gid::as_raw).collect(),
            permitted: traits::capability_set(&status, "CapEff"),
            bounding: traits::capability_set(&status, "CapBnd"),
            hard_limits,
        })
    }

    fn lacks(&self, number: u32) -> bool {
        !has(self.permitted, number)
    }

    /// Names of what the agent lacks for any command in the main container.
    pub(super) fn needed_and_missing(&self) -> Vec<String> {
        names(ALWAYS.into_iter().filter(|number| self.lacks(*number)))
    }

    /// Names of what the agent lacks to become this.
    pub(super) fn missing_for(&self, traits: &Traits) -> Vec<String> {
        let other_user = traits.user != self.user;
        let other_group = traits.group != self.group || traits.groups != self.groups;
        let fewer = self.bounding & !traits.capabilities.bounding != 0;
        let needed = [
            (KILL, other_user),
            (SETGID, other_group),
            (SETUID, other_user),
            (SETPCAP, fewer),
        ];
        let missing = needed
            .into_iter()
            .filter(|(number, needed)| *needed && self.lacks(*number));
        names(missing.map(|(number, _)| number))
    }

    /// Takes from the traits what the agent can't give. Says what that is.
    pub(super) fn limit(&self, traits: &mut Traits) -> Vec<String> {
        let mut warnings = Vec::new();
        let sets = &mut traits.capabilities;
        // Whoever runs as root is given all of its bounding set by execve(2).
        let (wanted, held) = if traits.user == 0 {
            (sets.bounding, self.bounding)
        } else {
            (sets.ambient, self.permitted)
        };
        let lost = wanted & !held;
        if lost != 0 {
            let lost = names((0..u64::BITS).filter(|number| has(lost, *number)));
            warnings.push(format!(
                "runs without {}: the main container has it, the agent does not",
                lost.join(", ")
            ));
        }
        sets.bounding &= self.bounding;
        sets.permitted &= self.permitted;
        sets.effective &= sets.permitted;
        sets.inheritable &= self.permitted;
        sets.ambient &= sets.permitted & sets.inheritable;
        if self.lacks(SYS_RESOURCE) {
            for (resource, soft, hard) in &mut traits.rlimits {
                let own = self.hard_limits.iter().find(|(own, _)| own == resource);
                let Some((_, own)) = own.filter(|(_, own)| own < hard) else {
                    continue;
                };
                warnings.push(format!(
                    "resource limit {resource} is {own}, as the agent's, instead of {hard}: \
                     raising it needs CAP_SYS_RESOURCE"
                ));
                *hard = *own;
                *soft = (*soft).min(*own);
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox_sys::Capabilities;

    const ALL: u64 = (1 << 41) - 1;

    fn own(permitted: u64) -> Own {
        Own {
            user: 0,
            group: 0,
            groups: vec![],
            permitted,
            bounding: ALL,
            hard_limits: vec![(traits::OPEN_FILES, 100)],
        }
    }

    fn root(bounding: u64) -> Traits {
        Traits {
            capabilities: Capabilities {
                bounding,
                permitted: bounding,
                effective: bounding,
                ..Capabilities::default()
            },
            ..Traits::default()
        }
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_else() {
        assert!(own(ALL).needed_and_missing().is_empty());
        let all_but_admin = own(ALL & !(1 << 21));
        assert_eq!(all_but_admin.needed_and_missing(), ["CAP_SYS_ADMIN"]);
        let minimal = own(ALWAYS.iter().fold(0, |set, number| set | 1 << number));
        assert!(minimal.needed_and_missing().is_empty());
        assert!(minimal.missing_for(&root(ALL)).is_empty());
        assert_eq!(minimal.missing_for(&root(1)), ["CAP_SETPCAP"]);
        let user = Traits {
            user: 7,
            groups: vec![8],
            ..root(ALL)
        };
        let missing = minimal.missing_for(&user);
        assert_eq!(missing, ["CAP_KILL", "CAP_SETGID", "CAP_SETUID"]);
        assert!(lacking(&missing).contains("CAP_KILL and CAP_SETGID and CAP_SETUID"));
    }

    #[test]
    fn what_the_agent_does_not_have_it_does_not_give_and_says_so() {
        let mut agent = own(ALL & !(1 << SYS_RESOURCE));
        agent.bounding &= !1;
        let mut wanted = root(ALL);
        wanted.rlimits = vec![(traits::OPEN_FILES, 150, 200), (1, 5, 6)];
        let warnings = agent.limit(&mut wanted);
        assert_eq!(wanted.rlimits, [(traits::OPEN_FILES, 100, 100), (1, 5, 6)]);
        assert!(!has(wanted.capabilities.bounding, 0));
        assert!(!has(wanted.capabilities.permitted, SYS_RESOURCE));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("CAP_CHOWN:"), "{warnings:?}");
        assert!(own(ALL).limit(&mut root(ALL)).is_empty());
    }
}
