//! The launcher role: a small process of which shims are forked.
//!
//! A new program takes a kernel several times as long to set up as a copy of a small
//! process. So shims are copies of this one, which does nothing else but fork them, reap,
//! and end what killed shims have left behind. It takes requests from the server over a
//! socket and ends when the server closes it; shims live on. Being a subreaper, it is
//! handed the orphans of killed shims, and of nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signalfd::SignalFd;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpid};
use sandbox_sys::PidFd;

use crate::lock::TASK_FILE;
use crate::orphans::{self, Search};
use crate::proc::Scope;
use crate::record::{RunRecord, unframe};
use crate::shim;
use crate::signals::OF_A_SHIM;

/// Longest request or reply in bytes; what is longer travels in a memory file.
pub const MESSAGE_BYTES_MAX: usize = 1024;

/// What the server asks for. Each request carries the descriptor of the task's directory;
/// a start also that of the launch order, before it, and after it a pidfd of the main
/// container's process, if the order is about one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Start a shim.
    Start,
    /// End the orphans of a task whose shim was killed.
    EndOrphans {
        /// The task's uid; none if it was set aside.
        uid: Option<String>,
        /// The task's run record, if it could be read.
        run: Option<RunRecord>,
        /// Processes, besides the launcher, to which nothing else is handed.
        reapers: Vec<i32>,
    },
}

/// What has been done. A start that succeeded comes with a pidfd of the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// A shim was started (0), or could not be, for this errno.
    Started(i32),
    /// So many orphans are left.
    Orphans(u32),
}

fn torn() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a launcher message is torn")
}

impl Request {
    /// The message, with a number that comes back in the reply.
    pub fn encode(&self, id: u32) -> Vec<u8> {
        let mut bytes = id.to_le_bytes().to_vec();
        match self {
            Self::Start => bytes.push(0),
            Self::EndOrphans { uid, run, reapers } => {
                bytes.push(1);
                let uid = uid.as_deref().unwrap_or_default();
                bytes.push(u8::try_from(uid.len()).unwrap_or_default());
                bytes.extend_from_slice(uid.as_bytes());
                bytes.push(u8::try_from(reapers.len()).unwrap_or_default());
                for pid in reapers {
                    bytes.extend_from_slice(&pid.to_le_bytes());
                }
                if let Some(run) = run {
                    bytes.extend_from_slice(&run.encode());
                }
            }
        }
        bytes
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> io::Result<(u32, Self)> {
        let (id, rest) = bytes.split_first_chunk().ok_or_else(torn)?;
        let id = u32::from_le_bytes(*id);
        match rest {
            [0] => Ok((id, Self::Start)),
            [1, length, rest @ ..] => {
                let (uid, rest) = rest
                    .split_at_checked(usize::from(*length))
                    .ok_or_else(torn)?;
                let uid = String::from_utf8(uid.to_vec()).map_err(|_| torn())?;
                let (count, rest) = rest.split_first().ok_or_else(torn)?;
                let (pids, run) = rest
                    .split_at_checked(usize::from(*count) * 4)
                    .ok_or_else(torn)?;
                let (pids, _) = pids.as_chunks();
                let reapers = pids.iter().map(|pid| i32::from_le_bytes(*pid)).collect();
                let run = match run {
                    [] => None,
                    run => Some(RunRecord::decode(run).map_err(|_| torn())?),
                };
                let uid = (!uid.is_empty()).then_some(uid);
                Ok((id, Self::EndOrphans { uid, run, reapers }))
            }
            _ => Err(torn()),
        }
    }
}

impl Reply {
    /// The message, with the number of the request.
    pub fn encode(self, id: u32) -> Vec<u8> {
        let (kind, value) = match self {
            Self::Started(errno) => (0, errno.to_le_bytes()),
            Self::Orphans(left) => (1, left.to_le_bytes()),
        };
        [&id.to_le_bytes()[..], &[kind], &value].concat()
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> io::Result<(u32, Self)> {
        let (id, rest) = bytes.split_first_chunk().ok_or_else(torn)?;
        let id = u32::from_le_bytes(*id);
        let (kind, value) = rest.split_first().ok_or_else(torn)?;
        let value = value.try_into().map_err(|_| torn())?;
        match kind {
            0 => Ok((id, Self::Started(i32::from_le_bytes(value)))),
            1 => Ok((id, Self::Orphans(u32::from_le_bytes(value)))),
            _ => Err(torn()),
        }
    }
}

/// Runs the launcher role. Descriptor 0 is the socket to the server, and the argument where the
/// server's program is: this process may have been started from a copy.
pub fn main() -> ExitCode {
    match Launcher::new().and_then(Launcher::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

struct Launcher {
    socket: OwnedFd,
    signals: SignalFd,
    scope: Scope,
}

impl Launcher {
    fn new() -> io::Result<Self> {
        // Nothing that the agent was started with reaches a task. All that is open and ours
        // at this moment is descriptor 0.
        sandbox_sys::close_from(1);
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        dup2_stderr(&null)?;
        prctl::set_child_subreaper(true)?;
        prctl::set_name(c"task-launcher")?;
        // All but the first are for the agent's init and for the shims: a terminal's ^C
        // reaches this process too, and it must outlive the orderly end of the server.
        let signals = crate::signals::listen(&OF_A_SHIM)?;
        let scope = Scope::current()?;
        // Only saves memory.
        let _ = sandbox_sys::forget_program_pages();
        Ok(Self {
            socket,
            signals,
            scope,
        })
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            let mut wait = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            // An interrupted poll only makes the loop look sooner.
            let _ = poll(&mut wait, PollTimeout::NONE);
            let [asked, signalled] = wait.map(|fd| fd.any().unwrap_or(true));
            if signalled {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                while let Ok(Some(_)) = sandbox_sys::reap_any() {}
            }
            if asked {
                self = match self.serve()? {
                    Some(launcher) => launcher,
                    None => return Ok(()),
                };
            }
        }
    }

    /// Serves one request. `None`: the server is gone.
    fn serve(self) -> io::Result<Option<Self>> {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let (length, fds) = match sandbox_sys::receive_fds(self.socket.as_fd(), &mut buffer) {
            Ok((0, _)) => return Ok(None),
            Ok(message) => message,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        };
        let (id, request) = Request::decode(&buffer[..length])?;
        let mut fds = fds.into_iter();
        match request {
            Request::Start => {
                let (Some(order), Some(dir)) = (fds.next(), fds.next()) else {
                    return Err(torn());
                };
                let target = fds.next().map(PidFd::from);
                self.start(id, File::from(order), dir, target)
            }
            Request::EndOrphans { uid, run, reapers } => {
                let dir = fds.next().ok_or_else(torn)?;
                let left = self.end_orphans(&dir, uid.as_deref(), run.as_ref(), &reapers)?;
                self.reply(id, Reply::Orphans(left), &[])
            }
        }
    }

    /// Forks a shim. In the child this does not return.
    fn start(
        self,
        id: u32,
        order: File,
        dir: OwnedFd,
        target: Option<PidFd>,
    ) -> io::Result<Option<Self>> {
        let started = match sandbox_sys::fork() {
            Ok(ForkResult::Child) => {
                drop(self);
                let code = i32::from(shim::run(order, dir, target).is_err());
                sandbox_sys::exit_now(code)
            }
            // Nothing has been reaped since the fork, so the pid is this child's.
            Ok(ForkResult::Parent { child }) => PidFd::open(child),
            Err(error) => Err(error),
        };
        match started {
            Ok(shim) => self.reply(id, Reply::Started(0), &[shim.as_fd()]),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(nix::libc::EIO);
                self.reply(id, Reply::Started(errno), &[])
            }
        }
    }

    fn end_orphans(
        &self,
        dir: &OwnedFd,
        uid: Option<&str>,
        run: Option<&RunRecord>,
        reapers: &[i32],
    ) -> io::Result<u32> {
        let path = orphans::path_of(dir)?;
        // After the path was read: if it is this task's now, so was the path.
        if uid.is_some_and(|uid| is_anothers(&path, uid)) {
            return Ok(0);
        }
        let mut all = vec![getpid()];
        all.extend(reapers.iter().copied().map(Pid::from_raw));
        let left = orphans::end(&Search {
            scope: &self.scope,
            dir: &path,
            leader: run.map(|run| &run.leader),
            reapers: &all,
        });
        Ok(u32::try_from(left).unwrap_or(u32::MAX))
    }

    fn reply(self, id: u32, reply: Reply, fds: &[BorrowedFd<'_>]) -> io::Result<Option<Self>> {
        match sandbox_sys::send_fds(self.socket.as_fd(), &reply.encode(id), fds) {
            Ok(()) => Ok(Some(self)),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Whether a directory has become another task's. That can be when this process was held up
/// until the server that had asked was killed and the next one had removed the task. A damaged
/// record is nobody else's.
fn is_anothers(dir: &Path, uid: &str) -> bool {
    let bytes = std::fs::read(dir.join(TASK_FILE)).unwrap_or_default();
    let ours = format!("{uid} ");
    unframe("task", u32::MAX, &bytes).is_ok_and(|(_, task)| !task.starts_with(ours.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Identity, Phase, frame};

    #[test]
    fn messages_read_back_as_they_were_sent() {
        let leader = Identity {
            boot: "b".to_owned(),
            pid_namespace: 1,
            pid: 7,
            start_ticks: 9,
        };
        let run = RunRecord {
            uid: "u".to_owned(),
            leader,
            phase: Phase::Main,
            started_at: 5,
        };
        for request in [
            Request::Start,
            Request::EndOrphans {
                uid: None,
                run: None,
                reapers: vec![],
            },
            Request::EndOrphans {
                uid: Some("u".to_owned()),
                run: Some(run),
                reapers: vec![1, 77],
            },
        ] {
            let bytes = request.encode(42);
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            assert_eq!(Request::decode(&bytes).expect("decodes"), (42, request));
            for length in 0..5 {
                assert!(Request::decode(&bytes[..length]).is_err());
            }
        }
        for reply in [Reply::Started(0), Reply::Started(12), Reply::Orphans(3)] {
            assert_eq!(
                Reply::decode(&reply.encode(7)).expect("decodes"),
                (7, reply)
            );
        }
    }

    #[test]
    fn a_directory_is_anothers_only_if_a_sound_record_says_so() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let write = |bytes: &[u8]| std::fs::write(dir.path().join(TASK_FILE), bytes);
        assert!(!is_anothers(dir.path(), "u-1"), "there is none");
        let mut record = frame("task", 1, b"u-1 7\n{}");
        write(&record).expect("is written");
        assert!(!is_anothers(dir.path(), "u-1"));
        assert!(is_anothers(dir.path(), "u-2") && is_anothers(dir.path(), "u"));
        record.truncate(record.len() - 1);
        write(&record).expect("is written");
        assert!(!is_anothers(dir.path(), "u-2"), "it is damaged");
    }
}
