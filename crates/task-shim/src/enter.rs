//! Entering the main container: its namespaces, root and working directory.
//!
//! Everything that is needed for it is opened by way of the target's `/proc/PID` before the
//! first switch, and afterwards nothing but what was opened: the target may have no `/proc`.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, chroot, fchdir};
use sandbox_sys::PidFd;

use crate::launch::Remote;

/// Namespaces by their names below `/proc/PID/ns`, in an order in which they can be entered one
/// by one.
const NAMESPACES: [(CloneFlags, &str); 5] = [
    (CloneFlags::CLONE_NEWCGROUP, "ns/cgroup"),
    (CloneFlags::CLONE_NEWIPC, "ns/ipc"),
    (CloneFlags::CLONE_NEWUTS, "ns/uts"),
    (CloneFlags::CLONE_NEWNET, "ns/net"),
    (CloneFlags::CLONE_NEWNS, "ns/mnt"),
];

/// The process whose place commands take, held so that no other one is ever taken for it.
#[derive(Debug)]
pub(crate) struct Door {
    pidfd: PidFd,
    /// Its directory below `/proc`; as stable a reference as the pidfd.
    proc: OwnedFd,
    namespaces: CloneFlags,
}

/// What the inside is reached by once the namespaces are left.
#[derive(Debug)]
pub(crate) struct Inside {
    root: OwnedFd,
    cwd: OwnedFd,
}

impl Door {
    /// Holds the process that `pidfd` refers to. `ESRCH` when it has ended.
    pub(crate) fn open(remote: &Remote, pidfd: PidFd) -> nix::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        let path = format!("/proc/{}", remote.pid);
        let proc = open(path.as_str(), flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ENOENT => Errno::ESRCH,
            other => other,
        })?;
        // Asked after the directory was opened: it lives, so the pid is not another's.
        if pidfd.has_ended().unwrap_or(true) {
            return Err(Errno::ESRCH);
        }
        Ok(Self {
            pidfd,
            proc,
            namespaces: CloneFlags::from_bits_truncate(remote.namespaces),
        })
    }

    /// Whether the process has ended, or is about to: one that is the init of a PID namespace
    /// waits for all others in there, commands of ours too, but its program is gone by then.
    pub(crate) fn is_closed(&self) -> bool {
        let program = readlinkat(&self.proc, "exe");
        self.pidfd.has_ended().unwrap_or(false)
            || matches!(program, Err(Errno::ENOENT | Errno::ESRCH))
    }

    /// Becomes readable when the process ends.
    pub(crate) fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    fn open_below(&self, name: &str, flags: OFlag) -> nix::Result<OwnedFd> {
        openat(&self.proc, name, flags | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| {
            match errno {
                // What is below /proc/PID vanishes with the process.
                Errno::ENOENT => Errno::ESRCH,
                other => other,
            }
        })
    }

    /// Forks a child into the target's PID namespace. The caller stays in its own.
    pub(crate) fn fork_inside(&self) -> io::Result<ForkResult> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let own = open("/proc/self/ns/pid", flags, Mode::empty())?;
        match setns(&self.pidfd, CloneFlags::CLONE_NEWPID) {
            // Before Linux 5.8 a pidfd is not taken.
            Err(Errno::EINVAL) => {
                let theirs = self.open_below("ns/pid", OFlag::O_RDONLY)?;
                setns(&theirs, CloneFlags::CLONE_NEWPID)?;
            }
            other => other?,
        }
        match sandbox_sys::fork() {
            Ok(ForkResult::Child) => Ok(ForkResult::Child),
            forked => {
                // From the namespace that this process never left; what is refused here would
                // put its next children into the wrong one.
                setns(&own, CloneFlags::CLONE_NEWPID)?;
                forked
            }
        }
    }

    /// Enters the namespaces. The PID namespace is entered by [`Self::fork_inside`].
    pub(crate) fn enter(&self) -> nix::Result<Inside> {
        let path = OFlag::O_DIRECTORY | OFlag::O_PATH;
        let inside = Inside {
            root: self.open_below("root", path)?,
            cwd: self.open_below("cwd", path)?,
        };
        if self.namespaces.is_empty() {
            return Ok(inside);
        }
        match setns(&self.pidfd, self.namespaces) {
            // As above.
            Err(Errno::EINVAL) => self.enter_one_by_one()?,
            other => other?,
        }
        Ok(inside)
    }

    fn enter_one_by_one(&self) -> nix::Result<()> {
        let wanted = NAMESPACES
            .iter()
            .filter(|(flag, _)| self.namespaces.contains(*flag));
        let opened = wanted
            .map(|(flag, name)| Ok((*flag, self.open_below(name, OFlag::O_RDONLY)?)))
            .collect::<nix::Result<Vec<_>>>()?;
        for (flag, namespace) in opened {
            setns(&namespace, flag)?;
        }
        Ok(())
    }
}

impl Inside {
    /// Makes the target's root that of this process.
    pub(crate) fn change_root(&self) -> nix::Result<()> {
        fchdir(&self.root)?;
        chroot(".")
    }

    /// Goes where the target is.
    pub(crate) fn change_dir(&self) -> nix::Result<()> {
        fchdir(&self.cwd)
    }
}
