//! Locks that tell who is at work, without a pid in a file.
//!
//! A shim holds a POSIX record lock (fcntl(2)) on its task's record for as long as it
//! lives: the kernel drops it when the holder dies, however it dies; a forked child does
//! not inherit it; and anyone may ask who holds it without taking it. The server holds one
//! on a file of its own. A shim that ends in order also marks the record as closed, so a
//! lock that is free without the mark tells of a shim that was killed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat};
use nix::unistd::Pid;

/// The file of a task's directory that its shim locks: its record, which is always there.
pub const TASK_FILE: &str = "task.json";

/// What a mode bit of a task's record says. On a file that nobody executes these bits mean
/// nothing else, and setting one takes no room on a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Nothing of the task is left to be looked after.
    Closed,
    /// It is to be deleted, and the disk had no room for a record of that.
    Deleting,
}

impl Mark {
    fn bit(self) -> Mode {
        match self {
            Self::Closed => Mode::S_IXUSR,
            Self::Deleting => Mode::S_IXGRP,
        }
    }

    /// Whether a record with this mode (stat(2) `st_mode`) has the mark.
    pub fn is_in(self, mode: u32) -> bool {
        mode & self.bit().bits() != 0
    }

    /// Sets the mark on the record of a task's directory.
    pub fn set(self, dir: impl AsFd) -> io::Result<()> {
        Self::change(dir, |mode| mode | self.bit())
    }

    /// Takes the mark from the record of a task's directory.
    pub fn clear(self, dir: impl AsFd) -> io::Result<()> {
        Self::change(dir, |mode| mode - self.bit())
    }

    fn change(dir: impl AsFd, to: impl FnOnce(Mode) -> Mode) -> io::Result<()> {
        let now = fstatat(dir.as_fd(), TASK_FILE, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let mode = to(Mode::from_bits_truncate(now.st_mode & 0o777));
        fchmodat(dir, TASK_FILE, mode, FchmodatFlags::FollowSymlink)?;
        Ok(())
    }
}

/// Who holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody, and nothing is left to be done: there is no file, or it was closed.
    Nobody,
    /// Nobody, but it was not closed: nobody has begun, or the last holder was killed.
    Left,
    /// A process of this PID namespace.
    Process(Pid),
    /// A process that has no pid here, or one of the server's threads.
    Elsewhere,
}

/// A held lock.
#[derive(Debug)]
pub struct Lock {
    file: File,
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

fn open(dir: impl AsFd, name: &str, access: OFlag) -> nix::Result<File> {
    let flags = access | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat(dir, name, flags, Mode::empty()).map(File::from)
}

impl Lock {
    /// Takes the lock of a process on a file, or says `None` when somebody has it. It is
    /// dropped with this value, and by any other closing of the same file in this process,
    /// so nothing else may open it.
    pub fn take(dir: impl AsFd, name: &str) -> io::Result<Option<Self>> {
        Self::take_with(dir, name, |lock| FcntlArg::F_SETLK(lock))
    }

    /// The same for one thread of a process whose other threads may open the file
    /// meanwhile: an open file description lock.
    pub fn take_as_thread(dir: impl AsFd, name: &str) -> io::Result<Option<Self>> {
        Self::take_with(dir, name, |lock| FcntlArg::F_OFD_SETLK(lock))
    }

    fn take_with(
        dir: impl AsFd,
        name: &str,
        set: impl Fn(&libc::flock) -> FcntlArg<'_>,
    ) -> io::Result<Option<Self>> {
        loop {
            let file = open(dir.as_fd(), name, OFlag::O_RDWR)?;
            match fcntl(&file, set(&write_lock())) {
                Ok(_) => {}
                Err(nix::Error::EAGAIN | nix::Error::EACCES) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // The name may have been given to another file since it was opened.
            let now = fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
            if file.metadata()?.ino() == now.st_ino {
                return Ok(Some(Self { file }));
            }
        }
    }

    /// The locked file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Who holds the lock on a file, without taking it.
pub fn holder(dir: impl AsFd, name: &str) -> io::Result<Holder> {
    let file = match open(dir, name, OFlag::O_RDONLY) {
        Ok(file) => file,
        Err(nix::Error::ENOENT) => return Ok(Holder::Nobody),
        Err(error) => return Err(error.into()),
    };
    let mut probe = write_lock();
    fcntl(&file, FcntlArg::F_GETLK(&mut probe))?;
    if i32::from(probe.l_type) != libc::F_UNLCK {
        return Ok(if probe.l_pid > 0 {
            Holder::Process(Pid::from_raw(probe.l_pid))
        } else {
            Holder::Elsewhere
        });
    }
    let closed = Mark::Closed.is_in(file.metadata()?.mode());
    Ok(if closed { Holder::Nobody } else { Holder::Left })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_held_by_another_process_is_seen_with_its_pid_and_freed_by_its_death() {
        let dir = tempfile::tempdir().expect("a temp dir");
        let handle = File::open(dir.path()).expect("opens");
        let asked = || holder(&handle, TASK_FILE).expect("asks");
        assert_eq!(asked(), Holder::Nobody);
        // A process of its own takes the lock: locks never conflict within one process.
        let script = "import fcntl,sys,time\nf=open(sys.argv[1],'w')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('held',flush=True)\ntime.sleep(60)";
        let path = dir.path().join(TASK_FILE);
        let mut child = std::process::Command::new("python3")
            .args(["-c", script, &path.to_string_lossy()])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).expect("reads");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("fits"));
        assert_eq!(asked(), Holder::Process(pid));
        assert!(Lock::take(&handle, TASK_FILE).expect("tries").is_none());
        let as_thread = Lock::take_as_thread(&handle, TASK_FILE);
        assert!(as_thread.expect("tries").is_none());
        child.kill().expect("is killed");
        child.wait().expect("is reaped");
        assert_eq!(asked(), Holder::Left);
        let lock = Lock::take_as_thread(&handle, TASK_FILE).expect("tries");
        assert_eq!(asked(), Holder::Elsewhere, "asking does not let it go");
        assert_eq!(asked(), Holder::Elsewhere);
        drop(lock);
        Mark::Closed.set(&handle).expect("is marked");
        assert_eq!(asked(), Holder::Nobody);
        assert!(Lock::take(&handle, TASK_FILE).expect("tries").is_some());
    }
}
