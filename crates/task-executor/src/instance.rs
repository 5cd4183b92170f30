//! This server among others: its data directory is its own, its init restarts it, and a
//! server whose init was killed hands over to the next one that is started.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::{Pid, getppid};
use sandbox_sys::PidFd;
use task_shim::lock::{self, Holder, Lock};
use task_shim::proc;

/// Asks a server to hand over: it stops, whatever its policy, and leaves its tasks alone.
pub(crate) const HAND_OVER: i32 = libc::SIGUSR2;

/// What a server locks, in its own part of the data directory.
const LOCK_FILE: &str = "lock";

/// How long a server may take to hand over: longer than its connections take to end.
const HAND_OVER_MS: u16 = 20_000;

/// The init that started this server; none when it was started by hand, or is an orphan.
pub(crate) fn init() -> Option<Pid> {
    init_of(Pid::this(), getppid())
}

/// The parent, if it runs the same program file.
fn init_of(server: Pid, parent: Pid) -> Option<Pid> {
    let program = |pid: Pid| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let same = program(server).is_some_and(|file| program(parent) == Some(file));
    same.then_some(parent)
}

/// Takes a data directory, from an orphaned server if need be. `None`: it is in use.
pub(crate) fn take(agent_dir: &Path) -> io::Result<Option<Lock>> {
    let dir = File::open(agent_dir)?;
    drop(
        File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(agent_dir.join(LOCK_FILE))?,
    );
    if let Some(lock) = Lock::take(&dir, LOCK_FILE)? {
        return Ok(Some(lock));
    }
    let Holder::Process(server) = lock::holder(&dir, LOCK_FILE)? else {
        // Let go meanwhile, or held in another PID namespace.
        return Lock::take(&dir, LOCK_FILE);
    };
    let Ok(reference) = PidFd::open(server) else {
        return Lock::take(&dir, LOCK_FILE);
    };
    let has_init = proc::stat(server)
        .is_some_and(|stat| init_of(server, Pid::from_raw(stat.parent)).is_some());
    if has_init || lock::holder(&dir, LOCK_FILE)? != Holder::Process(server) {
        return Lock::take(&dir, LOCK_FILE);
    }
    tracing::warn!(server = %server, "server.taken_over");
    // One that ends by itself at this moment is as good.
    let _ = reference.signal(HAND_OVER);
    wait_for_end(&reference)?;
    Lock::take(&dir, LOCK_FILE)
}

/// Waits until a process has ended. Only then are all of its files closed, the one that it
/// listens on included.
fn wait_for_end(process: &PidFd) -> io::Result<()> {
    let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    match poll(&mut ended, HAND_OVER_MS) {
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Lets this process have as many open files as it may. Returns what it was allowed before,
/// soft and hard: that is what its tasks get.
pub(crate) fn raise_open_files() -> (u64, u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return (1024, 4096);
    };
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "open_files.not_raised");
    }
    (soft, hard)
}
