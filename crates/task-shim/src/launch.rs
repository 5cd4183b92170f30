//! The order that the server gives a new shim: what to run, and how.
//!
//! It travels in a memory file (`memfd_create(2)`) and never touches a disk. Writer and
//! reader are the same program file, so the encoding is plain: fields in order, lists and
//! strings with a length before them.

use std::io;

use sandbox_sys::Capabilities;

use crate::proc::Scope;

/// Whose namespaces a command runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The agent's.
    Local,
    /// Those of the process that [`Remote`] is about.
    Remote,
}

/// The process whose place remote commands take: which namespaces to enter, and as what. The
/// process itself travels beside the order, as a pidfd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remote {
    /// Its pid, as the agent sees it.
    pub pid: i32,
    /// Namespaces to enter, as flags of setns(2); not the PID namespace.
    pub namespaces: i32,
    /// Its PID namespace, by inode, if that is not the agent's.
    pub pid_namespace: Option<u64>,
    /// Environment, `NAME=value` each.
    pub env: Vec<Vec<u8>>,
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// File mode creation mask.
    pub umask: u32,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// Whether programs can't gain privileges.
    pub no_new_privs: bool,
    /// Its control groups, those that may be joined.
    pub cgroups: Vec<String>,
}

/// A command that runs in the task's place before or after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// How long it may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Where it runs.
    pub mode: Mode,
}

/// A resource limit: Linux number, soft and hard value (`u64::MAX` is no limit).
pub type Rlimit = (i32, u64, u64);

/// What this shim is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// The whole life of a task.
    Run,
    /// Only the postStop hook of a task whose own shim was lost before it.
    PostStop,
}

/// Everything a shim needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// What this shim is for.
    pub job: Job,
    /// The task's uid.
    pub uid: String,
    /// The boot and PID namespace that the shim runs in, as the server sees them.
    pub scope: Scope,
    /// FIFO on which the server is told to look at the task.
    pub hints: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment of local commands, `NAME=value` each, no name twice.
    pub env: Vec<Vec<u8>>,
    /// Working directory; none: the shim's own.
    pub working_dir: Option<String>,
    /// User id to run as, locally.
    pub user: Option<u32>,
    /// Group id to run as, locally.
    pub group: Option<u32>,
    /// Supplementary groups, locally; replaced only if `user` or `group` is set or this is not empty.
    pub groups: Vec<u32>,
    /// Resource limits of local commands.
    pub rlimits: Vec<Rlimit>,
    /// Wall time that the task may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// From the stop signal to SIGKILL, in milliseconds.
    pub grace_ms: u64,
    /// The stop signal's number.
    pub stop_signal: i32,
    /// Whether processes that are left when the command exits by itself are ended.
    pub kill_leftovers: bool,
    /// Whether records are flushed to the disk.
    pub sync: bool,
    /// Cap for each log file in bytes; 0 is none.
    pub log_bytes_max: u64,
    /// Runs before the command.
    pub pre_start: Option<Hook>,
    /// Runs after the command.
    pub post_stop: Option<Hook>,
    /// Control group directories that the command joins.
    pub cgroups: Vec<String>,
    /// Files that count out-of-memory kills, and what they said before the start.
    pub oom_counters: Vec<(String, u64)>,
    /// Where the command runs.
    pub mode: Mode,
    /// What remote commands need.
    pub remote: Option<Remote>,
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn signed(&mut self, value: i32) {
        self.0.extend_from_slice(&i64::from(value).to_le_bytes());
    }

    fn count(&mut self, value: usize) {
        self.number(u64::try_from(value).unwrap_or(u64::MAX));
    }

    fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.0.extend_from_slice(value);
    }

    fn string(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    fn list<T>(&mut self, values: &[T], write: impl Fn(&mut Self, &T)) {
        self.count(values.len());
        for value in values {
            write(self, value);
        }
    }

    fn strings(&mut self, values: &[String]) {
        self.list(values, |w, value| w.string(value));
    }

    fn env(&mut self, values: &[Vec<u8>]) {
        self.list(values, |w, value| w.bytes(value));
    }

    fn ids(&mut self, values: &[u32]) {
        self.list(values, |w, id| w.number(u64::from(*id)));
    }

    fn rlimits(&mut self, values: &[Rlimit]) {
        self.list(values, |w, (resource, soft, hard)| {
            w.signed(*resource);
            w.number(*soft);
            w.number(*hard);
        });
    }

    fn mode(&mut self, mode: Mode) {
        self.number(u64::from(mode == Mode::Remote));
    }

    fn remote(&mut self, remote: &Remote) {
        self.signed(remote.pid);
        self.signed(remote.namespaces);
        self.option(remote.pid_namespace.as_ref(), |w, inode| w.number(*inode));
        self.env(&remote.env);
        self.number(u64::from(remote.user));
        self.number(u64::from(remote.group));
        self.ids(&remote.groups);
        self.rlimits(&remote.rlimits);
        self.number(u64::from(remote.umask));
        let sets = remote.capabilities;
        self.number(sets.bounding);
        self.number(sets.permitted);
        self.number(sets.effective);
        self.number(sets.inheritable);
        self.number(sets.ambient);
        self.number(u64::from(remote.no_new_privs));
        self.strings(&remote.cgroups);
    }

    fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.number(u64::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn hook(&mut self, hook: Option<&Hook>) {
        self.option(hook, |w, hook| {
            w.strings(&hook.argv);
            w.option(hook.timeout_ms.as_ref(), |w, ms| w.number(*ms));
            w.mode(hook.mode);
        });
    }
}

struct Reader<'a>(&'a [u8]);

fn torn() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "launch order is torn")
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let (head, rest) = self.0.split_at_checked(length).ok_or_else(torn)?;
        self.0 = rest;
        Ok(head)
    }

    fn number(&mut self) -> io::Result<u64> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| torn())?))
    }

    fn signed(&mut self) -> io::Result<i32> {
        let bytes = self.take(8)?;
        let wide = i64::from_le_bytes(bytes.try_into().map_err(|_| torn())?);
        i32::try_from(wide).map_err(|_| torn())
    }

    fn small(&mut self) -> io::Result<u32> {
        u32::try_from(self.number()?).map_err(|_| torn())
    }

    fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.number()?).map_err(|_| torn())?;
        self.take(length).map(<[u8]>::to_vec)
    }

    fn string(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes()?).map_err(|_| torn())
    }

    fn mode(&mut self) -> io::Result<Mode> {
        Ok(if self.flag()? {
            Mode::Remote
        } else {
            Mode::Local
        })
    }

    fn rlimits(&mut self) -> io::Result<Vec<Rlimit>> {
        self.list(|r| Ok((r.signed()?, r.number()?, r.number()?)))
    }

    fn remote(&mut self) -> io::Result<Remote> {
        Ok(Remote {
            pid: self.signed()?,
            namespaces: self.signed()?,
            pid_namespace: self.option(Self::number)?,
            env: self.list(Self::bytes)?,
            user: self.small()?,
            group: self.small()?,
            groups: self.list(Self::small)?,
            rlimits: self.rlimits()?,
            umask: self.small()?,
            capabilities: Capabilities {
                bounding: self.number()?,
                permitted: self.number()?,
                effective: self.number()?,
                inheritable: self.number()?,
                ambient: self.number()?,
            },
            no_new_privs: self.flag()?,
            cgroups: self.list(Self::string)?,
        })
    }

    fn flag(&mut self) -> io::Result<bool> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(torn()),
        }
    }

    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> io::Result<T>) -> io::Result<Vec<T>> {
        let count = self.number()?;
        // Not `with_capacity(count)`: a torn count must not allocate.
        (0..count).map(|_| read(self)).collect()
    }

    fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        if self.flag()? {
            read(self).map(Some)
        } else {
            Ok(None)
        }
    }

    fn hook(&mut self) -> io::Result<Option<Hook>> {
        self.option(|r| {
            Ok(Hook {
                argv: r.list(Self::string)?,
                timeout_ms: r.option(Self::number)?,
                mode: r.mode()?,
            })
        })
    }
}

impl Launch {
    /// The bytes for the memory file.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer(Vec::with_capacity(4096));
        w.number(u64::from(self.job == Job::PostStop));
        w.string(&self.uid);
        w.string(&self.scope.boot);
        w.number(self.scope.pid_namespace);
        w.string(&self.hints);
        w.strings(&self.argv);
        w.env(&self.env);
        w.option(self.working_dir.as_ref(), |w, dir| w.string(dir));
        w.option(self.user.as_ref(), |w, id| w.number(u64::from(*id)));
        w.option(self.group.as_ref(), |w, id| w.number(u64::from(*id)));
        w.ids(&self.groups);
        w.rlimits(&self.rlimits);
        w.option(self.timeout_ms.as_ref(), |w, ms| w.number(*ms));
        w.number(self.grace_ms);
        w.signed(self.stop_signal);
        w.number(u64::from(self.kill_leftovers));
        w.number(u64::from(self.sync));
        w.number(self.log_bytes_max);
        w.hook(self.pre_start.as_ref());
        w.hook(self.post_stop.as_ref());
        w.strings(&self.cgroups);
        w.count(self.oom_counters.len());
        for (path, count) in &self.oom_counters {
            w.string(path);
            w.number(*count);
        }
        w.mode(self.mode);
        w.option(self.remote.as_ref(), Writer::remote);
        w.0
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut r = Reader(bytes);
        let launch = Self {
            job: if r.flag()? { Job::PostStop } else { Job::Run },
            uid: r.string()?,
            scope: Scope {
                boot: r.string()?,
                pid_namespace: r.number()?,
            },
            hints: r.string()?,
            argv: r.list(Reader::string)?,
            env: r.list(Reader::bytes)?,
            working_dir: r.option(Reader::string)?,
            user: r.option(Reader::small)?,
            group: r.option(Reader::small)?,
            groups: r.list(Reader::small)?,
            rlimits: r.rlimits()?,
            timeout_ms: r.option(Reader::number)?,
            grace_ms: r.number()?,
            stop_signal: r.signed()?,
            kill_leftovers: r.flag()?,
            sync: r.flag()?,
            log_bytes_max: r.number()?,
            pre_start: r.hook()?,
            post_stop: r.hook()?,
            cgroups: r.list(Reader::string)?,
            oom_counters: r.list(|r| Ok((r.string()?, r.number()?)))?,
            mode: r.mode()?,
            remote: r.option(Reader::remote)?,
        };
        if r.0.is_empty() {
            Ok(launch)
        } else {
            Err(torn())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> Launch {
        let hook = Hook {
            argv: vec!["sh".into(), "-c".into()],
            timeout_ms: Some(7),
            mode: Mode::Remote,
        };
        Launch {
            job: Job::PostStop,
            uid: "u-1".into(),
            scope: Scope {
                boot: "b".into(),
                pid_namespace: 1,
            },
            hints: "/data/.agent/hints".into(),
            argv: vec!["sleep".into(), "ö 1".into()],
            env: vec![b"A=1".to_vec(), b"B=\xff".to_vec()],
            working_dir: Some("/tmp".into()),
            user: Some(u32::MAX),
            group: None,
            groups: vec![1, 2],
            rlimits: vec![(7, 1, u64::MAX)],
            timeout_ms: Some(1000),
            grace_ms: 0,
            stop_signal: 15,
            kill_leftovers: true,
            sync: false,
            log_bytes_max: 9,
            pre_start: Some(hook.clone()),
            post_stop: Some(Hook {
                timeout_ms: None,
                ..hook
            }),
            cgroups: vec!["/sys/fs/cgroup/x".into()],
            oom_counters: vec![("/f".into(), 3)],
            mode: Mode::Remote,
            remote: Some(Remote {
                pid: 7,
                namespaces: 1 << 17,
                pid_namespace: Some(9),
                env: vec![b"C=".to_vec()],
                user: 1,
                group: 2,
                groups: vec![3],
                rlimits: vec![(1, 2, 3)],
                umask: 0o27,
                capabilities: Capabilities {
                    bounding: 1,
                    permitted: 2,
                    effective: 3,
                    inheritable: 4,
                    ambient: 5,
                },
                no_new_privs: true,
                cgroups: vec!["/g".into()],
            }),
        }
    }

    #[test]
    fn an_order_reads_back_as_it_was_written() {
        assert_eq!(Launch::decode(&full().encode()).expect("decodes"), full());
    }

    #[test]
    fn an_order_cut_anywhere_is_refused() {
        let bytes = full().encode();
        for length in 0..bytes.len() {
            assert!(Launch::decode(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Launch::decode(&bytes);
        }
    }
}
