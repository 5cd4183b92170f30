//! The only `unsafe` code of the project: thin, safe wrappers around Linux system calls
//! that neither `std` nor `nix` offers as safe functions.
//!
//! Each block is one call with its justification. Wrappers take [`BorrowedFd`] and give
//! [`OwnedFd`], never a raw descriptor, so that a descriptor always has one owner.
#![allow(
    unsafe_code,
    reason = "this crate exists to hold the unsafe calls of the project"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::{ForkResult, Pid};

mod capability;

pub use capability::Capabilities;

/// A stable reference to one process, immune to pid reuse (`pidfd_open(2)`, Linux 5.3).
///
/// Becomes readable when the process ends. Works for any process, not just children.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens a reference to the process that has `pid` now. `ESRCH` when there is none.
    pub fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: pidfd_open reads two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends `signal` to exactly this process (`pidfd_send_signal(2)`).
    /// `ESRCH` when it has ended and been reaped.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let none: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: the descriptor is open as long as `self` lives, and a null siginfo is
        // documented to mean "as kill(2) would".
        let done = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal,
                none,
                0,
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl PidFd {
    /// Whether the process has ended, reaped or not.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut ended = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut ended, PollTimeout::ZERO)?;
        Ok(ended[0].any().unwrap_or(true))
    }
}

impl From<OwnedFd> for PidFd {
    /// Takes over a descriptor that another process has opened with `pidfd_open(2)`.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Forks this process (fork(2)), provided that it has one thread.
///
/// With one thread the child is a full copy that may run any code, allocation included;
/// with more it could deadlock on a lock that another thread held. So a process with
/// several threads is refused with [`io::ErrorKind::Unsupported`].
pub fn fork() -> io::Result<ForkResult> {
    // A directory has two links and one more for each subdirectory; one per thread here.
    let links = std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata("/proc/self/task")?);
    if links != 3 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "fork needs a single-threaded process",
        ));
    }
    // SAFETY: this process has exactly one thread (checked above), so no lock can be held
    // by a thread that does not exist in the child.
    unsafe { nix::unistd::fork() }.map_err(io::Error::from)
}

/// Signals that Linux has, on every architecture but MIPS.
const SIGNALS: i32 = 64;
/// Size of the kernel's signal set.
const SIGNAL_SET_BYTES: usize = 8;

/// Puts every signal back to its default action and unblocks all of them, as a newly
/// started program expects (signal(7): ignored signals and the mask survive execve).
pub fn default_signals() -> io::Result<()> {
    // The kernel's struct sigaction, all zero: SIG_DFL, no flags, empty mask. Longer than it
    // is on any architecture.
    let action = [0_u64; 8];
    let none: *mut u64 = std::ptr::null_mut();
    for number in 1..=SIGNALS {
        // Not by way of the C library, which keeps two numbers to itself: posix_spawn(3)
        // leaves those ignored.
        // SAFETY: `action` outlives the call, is read only, and SIG_DFL installs no handler.
        // Numbers that can't be changed (KILL, STOP) answer EINVAL, which is fine.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                action.as_ptr(),
                none,
                SIGNAL_SET_BYTES,
            )
        };
    }
    nix::sys::signal::SigSet::empty()
        .thread_set_mask()
        .map_err(io::Error::from)
}

/// Closes every descriptor from `first` on (`close_range(2)`, Linux 5.9; else one by one).
///
/// Meant for the moment before execve: whoever owned those descriptors must be gone.
pub fn close_from(first: u32) {
    // SAFETY: closing is what the caller asks for; the call touches no memory of ours.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if done == 0 {
        return;
    }
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers: Vec<RawFd> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| u32::try_from(*fd).is_ok_and(|fd| fd >= first))
        .collect();
    for fd in numbers {
        // SAFETY: as above; a number that is no longer open answers EBADF.
        unsafe { libc::close(fd) };
    }
}

/// Whether the kernel has `close_range(2)`.
pub fn has_close_range() -> bool {
    // SAFETY: touches no memory, and no descriptor has the highest number.
    unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0) == 0 }
}

/// Reaps one child that has ended, if there is one (waitpid(2) with `WNOHANG`).
///
/// `None`: there are children and all of them live. `ECHILD`: there are no children.
/// Unlike nix's `waitpid` this keeps the status of a child ended by a real-time signal.
pub fn reap_any() -> io::Result<Option<(Pid, ExitStatus)>> {
    let mut status = 0;
    // SAFETY: `status` is a live integer for the call to write to.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some((Pid::from_raw(pid), ExitStatus::from_raw(status)))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits until one child has ended and reaps it (waitpid(2)). `ECHILD`: there are no children.
pub fn reap_next() -> io::Result<(Pid, ExitStatus)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live integer for the call to write to.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid > 0 {
            return Ok((Pid::from_raw(pid), ExitStatus::from_raw(status)));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sends `signal` to a process group (killpg(3)). The caller must know that the group is
/// still the one it means: its leader is a child that has not been reaped.
pub fn signal_group(leader: Pid, signal: i32) -> io::Result<()> {
    if leader.as_raw() <= 1 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: takes two integers and touches no memory of ours.
    let done = unsafe { libc::kill(-leader.as_raw(), signal) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Ends this process at once (_exit(2)): no destructors, no flushing of what a parent
/// process had buffered. For a forked child that could not become what it should.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Sets one resource limit of this process (setrlimit(2)) by its Linux number.
/// `u64::MAX` means no limit.
pub fn set_rlimit(resource: i32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: pid 0 is this process, `limit` outlives the call, and no old value is asked for.
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, 0) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Descriptors that one message may carry here; the kernel allows 253.
pub const MESSAGE_FDS_MAX: usize = 3;

/// Sends one message with descriptors over a Unix socket (`SCM_RIGHTS`, unix(7)).
pub fn send_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let part = [io::IoSlice::new(bytes)];
    // A peer that is gone is an error to handle, not a reason to die of SIGPIPE.
    sendmsg::<()>(
        socket.as_raw_fd(),
        &part,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives one message with its descriptors, which are closed on exec.
/// A length of 0 means that the peer has closed the socket.
pub fn receive_fds(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; MESSAGE_FDS_MAX]);
    let mut part = [io::IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut part,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            for fd in raw {
                // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok((message.bytes, fds))
}

/// Gives back the memory pages of this program's code and constants. They are taken from
/// the program file again when they are used: for a process that mostly waits from now on.
pub fn forget_program_pages() -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut range = None;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (fields.next(), fields.next()) else {
            continue;
        };
        if !first.ends_with(':') {
            let is_ours = fields
                .nth(3)
                .is_some_and(|path| program.as_os_str() == path);
            range = (is_ours && !second.contains('w')).then_some(first);
        } else if first == "Anonymous:"
            // Constants that were relocated are copies, and not in the file.
            && second == "0"
            && let Some((from, to)) = range.and_then(|range| range.split_once('-'))
        {
            let bound = |text| usize::from_str_radix(text, 16).map_err(io::Error::other);
            let (from, to) = (bound(from)?, bound(to)?);
            let start = std::ptr::with_exposed_provenance_mut(from);
            // SAFETY: the range maps this program's file, may not be written, and holds no
            // page that differs from the file; nobody may write to the file of a program
            // that runs. So dropping its pages only has them taken from there again.
            unsafe { libc::madvise(start, to - from, libc::MADV_DONTNEED) };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
