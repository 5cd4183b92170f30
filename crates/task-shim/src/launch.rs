//! The order that the server gives a new shim: what to run, and how.
//!
//! It travels in a memory file (`memfd_create(2)`) and never touches a disk. Writer and
//! reader are the same program file, so the encoding is plain: fields in order, lists and
//! strings with a length before them.

use std::io;

use crate::proc::Scope;

/// A command that runs in the task's place before or after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// How long it may take, in milliseconds.
    pub timeout_ms: Option<u64>,
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
    /// Environment, `NAME=value` each, no name twice.
    pub env: Vec<String>,
    /// Working directory; none: the shim's own.
    pub working_dir: Option<String>,
    /// User id to run as.
    pub user: Option<u32>,
    /// Group id to run as.
    pub group: Option<u32>,
    /// Supplementary groups; replaced only if `user` or `group` is set or this is not empty.
    pub groups: Vec<u32>,
    /// Resource limits.
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

    fn string(&mut self, value: &str) {
        self.count(value.len());
        self.0.extend_from_slice(value.as_bytes());
    }

    fn strings(&mut self, values: &[String]) {
        self.count(values.len());
        for value in values {
            self.string(value);
        }
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

    fn string(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.number()?).map_err(|_| torn())?;
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| torn())
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
        w.strings(&self.env);
        w.option(self.working_dir.as_ref(), |w, dir| w.string(dir));
        w.option(self.user.as_ref(), |w, id| w.number(u64::from(*id)));
        w.option(self.group.as_ref(), |w, id| w.number(u64::from(*id)));
        w.count(self.groups.len());
        self.groups.iter().for_each(|id| w.number(u64::from(*id)));
        w.count(self.rlimits.len());
        for (resource, soft, hard) in &self.rlimits {
            w.signed(*resource);
            w.number(*soft);
            w.number(*hard);
        }
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
            env: r.list(Reader::string)?,
            working_dir: r.option(Reader::string)?,
            user: r.option(Reader::small)?,
            group: r.option(Reader::small)?,
            groups: r.list(Reader::small)?,
            rlimits: r.list(|r| Ok((r.signed()?, r.number()?, r.number()?)))?,
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
            env: vec!["A=1".into(), "B=".into()],
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
