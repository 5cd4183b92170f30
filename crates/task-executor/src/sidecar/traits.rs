//! What a process is besides its program: identity, limits and environment, as `/proc` tells.

use std::fs;
use std::io;

use nix::unistd::Pid;
use sandbox_api::ProcessSpec;
use sandbox_sys::Capabilities;
use task_shim::launch::Rlimit;

/// `RLIMIT_NOFILE`.
pub(super) const OPEN_FILES: i32 = 7;

/// Resources by their names in `/proc/PID/limits`, each with its number (getrlimit(2)).
const RESOURCES: [(&str, i32); 16] = [
    ("Max cpu time", 0),
    ("Max file size", 1),
    ("Max data size", 2),
    ("Max stack size", 3),
    ("Max core file size", 4),
    ("Max resident set", 5),
    ("Max processes", 6),
    ("Max open files", OPEN_FILES),
    ("Max locked memory", 8),
    ("Max address space", 9),
    ("Max file locks", 10),
    ("Max pending signals", 11),
    ("Max msgqueue size", 12),
    ("Max nice priority", 13),
    ("Max realtime priority", 14),
    ("Max realtime timeout", 15),
];

/// What a command is to be like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Traits {
    pub(super) env: Vec<Vec<u8>>,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) groups: Vec<u32>,
    pub(super) rlimits: Vec<Rlimit>,
    pub(super) umask: u32,
    pub(super) capabilities: Capabilities,
    pub(super) no_new_privs: bool,
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// A set of capabilities in a `/proc/PID/status`; empty if it is not there.
pub(super) fn capability_set(status: &str, name: &str) -> u64 {
    let hex = field(status, name).unwrap_or_default();
    u64::from_str_radix(hex, 16).unwrap_or_default()
}

/// The limits in a `/proc/PID/limits`.
pub(super) fn limits(text: &str) -> Vec<Rlimit> {
    let limit = |line: &str| {
        let (name, number) = RESOURCES.iter().find(|(name, _)| line.starts_with(name))?;
        let mut fields = line.get(name.len()..)?.split_ascii_whitespace();
        let mut next = || match fields.next()? {
            "unlimited" => Some(u64::MAX),
            value => value.parse().ok(),
        };
        Some((*number, next()?, next()?))
    };
    text.lines().filter_map(limit).collect()
}

impl Traits {
    pub(super) fn read(pid: Pid) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rlimits = limits(&fs::read_to_string(format!("/proc/{pid}/limits"))?);
        let environ = fs::read(format!("/proc/{pid}/environ"))?;
        Self::parse(&status, rlimits, &environ).ok_or_else(|| {
            let text = format!("/proc/{pid}/status is not as proc_pid_status(5) has it");
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }

    fn parse(status: &str, rlimits: Vec<Rlimit>, environ: &[u8]) -> Option<Self> {
        let set = |name| capability_set(status, name);
        // The real ids, as those of what was started: real, effective, saved, file system.
        let id = |name| {
            let real = field(status, name)?.split_ascii_whitespace().next()?;
            real.parse().ok()
        };
        let groups = field(status, "Groups")?.split_ascii_whitespace();
        let user = id("Uid")?;
        let mut capabilities = Capabilities {
            bounding: set("CapBnd"),
            permitted: set("CapPrm"),
            effective: set("CapEff"),
            inheritable: set("CapInh"),
            ambient: set("CapAmb"),
        };
        if user == 0 {
            // execve(2) gives root all of its bounding set: not more than this process kept.
            capabilities.bounding &= capabilities.permitted | capabilities.inheritable;
        }
        let entries = environ.split(|byte| *byte == 0);
        Some(Self {
            env: entries
                .filter(|entry| !entry.is_empty())
                .map(<[u8]>::to_vec)
                .collect(),
            user,
            group: id("Gid")?,
            groups: groups.map(str::parse).collect::<Result<_, _>>().ok()?,
            rlimits,
            umask: u32::from_str_radix(field(status, "Umask").unwrap_or("0022"), 8).ok()?,
            capabilities,
            no_new_privs: field(status, "NoNewPrivs") == Some("1"),
        })
    }

    /// Gives way to what a task asks for itself.
    pub(super) fn take(&mut self, process: &ProcessSpec) {
        for set in &process.env {
            let name = [set.name.as_bytes(), b"="].concat();
            self.env.retain(|entry| !entry.starts_with(&name));
            self.env.push([&name, set.value.as_bytes()].concat());
        }
        for limit in &process.rlimits {
            let number = limit.resource.number();
            self.rlimits.retain(|(resource, ..)| *resource != number);
            self.rlimits.push((number, limit.soft, limit.hard));
        }
        let groups = &process.supplemental_groups;
        if process.run_as_user.is_some() || process.run_as_group.is_some() || !groups.is_empty() {
            self.groups.clone_from(groups);
        }
        self.group = process.run_as_group.unwrap_or(self.group);
        if let Some(user) = process.run_as_user.filter(|user| *user != self.user) {
            self.user = user;
            // As in a container that is started as this user.
            let held = if user == 0 {
                self.capabilities.bounding
            } else {
                0
            };
            self.capabilities = Capabilities {
                bounding: self.capabilities.bounding,
                permitted: held,
                effective: held,
                ..Capabilities::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATUS: &str = "Name:\tx\nUmask:\t0027\nUid:\t1000\t0\t0\t0\nGid:\t7\t0\t0\t0\n\
        Groups:\t7 8 \nCapInh:\t0000000000000001\nCapPrm:\t0000000000000003\n\
        CapEff:\t0000000000000002\nCapBnd:\t00000000000000ff\nCapAmb:\t0000000000000001\n\
        NoNewPrivs:\t1\n";

    fn process(json: &str) -> ProcessSpec {
        let task = format!(r#"{{"name":"t","spec":{{"process":{json}}}}}"#);
        let task = sandbox_api::parse_one(task.as_bytes()).expect("is a task");
        match task.value.spec.work {
            sandbox_api::Work::Process(process) => process,
            other => panic!("{other:?}"),
        }
    }

    fn read() -> Traits {
        Traits::parse(STATUS, vec![(7, 1, 2)], b"A=1\0B=\xff\0\0A1=x\0").expect("is read")
    }

    #[test]
    fn a_process_is_read_as_it_is() {
        let traits = read();
        assert_eq!(traits.env, [&b"A=1"[..], b"B=\xff", b"A1=x"]);
        assert_eq!((traits.user, traits.group, traits.umask), (1000, 7, 0o27));
        assert_eq!(traits.groups, [7, 8]);
        assert!(traits.no_new_privs);
        let sets = traits.capabilities;
        assert_eq!((sets.bounding, sets.permitted, sets.effective), (255, 3, 2));
        assert_eq!((sets.inheritable, sets.ambient), (1, 1));
        let root = Traits::parse(&STATUS.replace("1000", "0"), vec![], b"");
        assert_eq!(root.expect("is read").capabilities.bounding, 3);
        assert!(Traits::parse("Uid:\tx", vec![], b"").is_none());
    }

    #[test]
    fn this_process_has_all_limits_that_the_kernel_knows() {
        let text = fs::read_to_string("/proc/self/limits").expect("reads");
        assert_eq!(limits(&text).len(), text.lines().count() - 1);
        let line = "Max open files            1024                 unlimited            files";
        assert_eq!(limits(line), [(7, 1024, u64::MAX)]);
    }

    #[test]
    fn what_a_task_asks_for_wins() {
        let mut traits = read();
        traits.take(&process(
            r#"{"command":["x"],"env":[{"name":"A","value":"2"}],"runAsUser":5,
                "rlimits":[{"type":"RLIMIT_NOFILE","soft":3,"hard":4}]}"#,
        ));
        assert_eq!(traits.env, [&b"B=\xff"[..], b"A1=x", b"A=2"]);
        assert_eq!(traits.rlimits, [(7, 3, 4)]);
        assert_eq!((traits.user, traits.group), (5, 7));
        assert!(traits.groups.is_empty());
        assert_eq!(traits.capabilities.permitted, 0);
        let mut same = read();
        same.take(&process(
            r#"{"command":["x"],"runAsUser":1000,"supplementalGroups":[9]}"#,
        ));
        assert_eq!(same.capabilities, read().capabilities);
        assert_eq!(same.groups, [9]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_readers_panic(text in ".{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = limits(&text);
            let _ = Traits::parse(&text, vec![], &bytes);
        }
    }
}
