//! The lock that a shim holds for as long as it lives.
//!
//! A POSIX record lock (fcntl(2)): the kernel drops it when the holder dies, however it
//! dies; a forked child does not inherit it; and anyone may ask who holds it without
//! taking it. So "is there a shim for this task" never rests on a pid in a file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};

/// Name of the lock file in a directory.
pub const LOCK_FILE: &str = "lock";

/// Who holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody, and there is no lock file: none was ever taken, or the last holder ended in order.
    Nobody,
    /// Nobody, but the file is there: its last holder was killed, or it was only tried.
    Left,
    /// A process of this PID namespace.
    Process(Pid),
    /// A process that has no pid here: one of another PID namespace.
    Elsewhere,
}

/// A held lock. Dropped with this value, and by any other closing of the same file in
/// this process, so nothing else may open it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn write_lock() -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(libc::F_WRLCK).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn open(dir: impl AsFd, flags: OFlag) -> nix::Result<File> {
    let flags = flags | OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat(dir, LOCK_FILE, flags, Mode::from_bits_truncate(0o600)).map(File::from)
}

impl Lock {
    /// Takes the lock of a directory, or says `None` when somebody has it. Leaves the file
    /// behind when dropped: who ends in order also calls [`discard`].
    pub fn take(dir: impl AsFd) -> io::Result<Option<Self>> {
        let file = open(dir, OFlag::O_CREAT)?;
        match fcntl(&file, FcntlArg::F_SETLK(&write_lock())) {
            Ok(_) => Ok(Some(Self { _file: file })),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Who holds the lock of a directory, without taking it.
pub fn holder(dir: impl AsFd) -> io::Result<Holder> {
    let file = match open(dir, OFlag::empty()) {
        Ok(file) => file,
        Err(nix::Error::ENOENT) => return Ok(Holder::Nobody),
        Err(error) => return Err(error.into()),
    };
    let mut probe = write_lock();
    fcntl(&file, FcntlArg::F_GETLK(&mut probe))?;
    if i32::from(probe.l_type) == libc::F_UNLCK {
        return Ok(Holder::Left);
    }
    Ok(if probe.l_pid > 0 {
        Holder::Process(Pid::from_raw(probe.l_pid))
    } else {
        Holder::Elsewhere
    })
}

/// Removes the lock file of a directory: the sign that nothing is left to be done there.
/// Only for its holder, or where there can be none.
pub fn discard(dir: impl AsFd) -> io::Result<()> {
    match unlinkat(dir, LOCK_FILE, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_held_by_another_process_is_seen_with_its_pid_and_freed_by_its_death() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let handle = File::open(dir.path()).expect("opens");
        assert_eq!(holder(&handle).expect("asks"), Holder::Nobody);
        // A process of its own takes the lock: locks never conflict within one process.
        let script = "import fcntl,sys,time\nf=open(sys.argv[1],'w')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('held',flush=True)\ntime.sleep(60)";
        let path = dir.path().join(LOCK_FILE);
        let mut child = std::process::Command::new("python3")
            .args(["-c", script, &path.to_string_lossy()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).expect("reads");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("fits"));
        assert_eq!(holder(&handle).expect("asks"), Holder::Process(pid));
        assert!(Lock::take(&handle).expect("tries").is_none());
        child.kill().expect("is killed");
        child.wait().expect("is reaped");
        assert_eq!(holder(&handle).expect("asks"), Holder::Left);
        assert!(Lock::take(&handle).expect("tries").is_some());
        discard(&handle).expect("is removed");
        assert_eq!(holder(&handle).expect("asks"), Holder::Nobody);
    }
}
