//! Starting one command: fork, prepare, wait for the word, execve. No shell, ever.
//!
//! The child prepares itself completely, then waits until its parent has put the run
//! record in place. If the parent dies first, the pipe ends and the child leaves without
//! having run anything. If a step fails, its number and errno come back over a
//! close-on-exec pipe, so a command that can't be started is never mistaken for one that
//! ran and exited with 127.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    ForkResult, Gid, Pid, Uid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, getgroups,
    pipe2, setgid, setgroups, setsid, setuid,
};

use crate::enter::{Door, Inside};
use crate::launch::{Remote, Rlimit};
use crate::relay::{self, Relay};

/// Where a command is looked for when its environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to start, and as whom.
#[derive(Debug)]
pub(crate) struct Command<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: &'a [Vec<u8>],
    pub(crate) working_dir: Option<&'a str>,
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) groups: &'a [u32],
    pub(crate) rlimits: &'a [Rlimit],
    pub(crate) cgroups: &'a [String],
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) stdout: BorrowedFd<'a>,
    pub(crate) stderr: BorrowedFd<'a>,
    /// Whom to become inside of the main container; none: it runs in the agent's namespaces.
    pub(crate) inside: Option<(&'a Remote, &'a Door)>,
}

/// File mode creation mask of what runs in the agent's namespaces.
const UMASK: u32 = 0o022;

/// What a child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Prepare,
    Cgroup,
    Rlimit,
    Groups,
    Group,
    User,
    WorkingDir,
    Exec,
    Enter,
    Capabilities,
}

const STEPS: [(Step, u8); 10] = [
    (Step::Prepare, 1),
    (Step::Cgroup, 2),
    (Step::Rlimit, 3),
    (Step::Groups, 4),
    (Step::Group, 5),
    (Step::User, 6),
    (Step::WorkingDir, 7),
    (Step::Exec, 8),
    (Step::Enter, 9),
    (Step::Capabilities, 10),
];

/// Why a command could not be started.
#[derive(Debug)]
pub(crate) struct StartError {
    step: Step,
    errno: Errno,
    subject: String,
}

impl StartError {
    /// The exit code that a shell would report: 127 not found, 126 found but not usable.
    pub(crate) fn code(&self) -> i32 {
        let missing = matches!(self.errno, Errno::ENOENT | Errno::ENOTDIR);
        if self.step == Step::Exec && missing {
            127
        } else {
            126
        }
    }

    fn at(step: Step, errno: Errno) -> Self {
        Self {
            step,
            errno,
            subject: String::new(),
        }
    }

    fn prepare(error: &io::Error) -> Self {
        Self::at(Step::Prepare, errno_of(error))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.step {
            Step::Prepare => "could not prepare the process",
            Step::Cgroup => "could not join the control group",
            Step::Rlimit => "could not set a resource limit (rlimits)",
            Step::Groups => "could not set the supplementary groups (supplementalGroups)",
            Step::Group => "could not become the group (runAsGroup)",
            Step::User => "could not become the user (runAsUser)",
            Step::WorkingDir => "could not enter the working directory",
            Step::Exec => "could not execute",
            Step::Enter => "could not enter the main container",
            Step::Capabilities => "could not take over the main container's capabilities",
        };
        write!(f, "{what}")?;
        if !self.subject.is_empty() {
            write!(f, " {}", self.subject)?;
        }
        write!(f, ": {}", self.errno.desc())
    }
}

/// A forked child that waits for the word to run its command.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) pid: Pid,
    release: File,
    report: File,
    program: String,
    working_dir: String,
    /// Its parent, if that is not this process.
    pub(crate) relay: Option<Relay>,
}

/// Forks the child for a command. It does not execute anything before [`Held::release`].
pub(crate) fn hold(command: &Command<'_>) -> Result<Held, StartError> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|e| StartError::prepare(&e.into()));
    let (word, release) = pipe()?;
    let (report, told) = pipe()?;
    let held = |pid, relay| Held {
        pid,
        release: File::from(release),
        report: File::from(report),
        program: command.argv.first().cloned().unwrap_or_default(),
        working_dir: command
            .working_dir
            .unwrap_or("of the main container")
            .to_owned(),
        relay,
    };
    let through = command
        .inside
        .filter(|(remote, _)| remote.pid_namespace.is_some());
    let Some((_, door)) = through else {
        return match sandbox_sys::fork().map_err(|e| StartError::prepare(&e))? {
            ForkResult::Child => {
                // Its own copy would keep the pipe open when the parent is gone.
                drop(held);
                become_command(command, word, told)
            }
            ForkResult::Parent { child } => Ok(held(child, None)),
        };
    };
    let (status, tell) = pipe()?;
    let forked = door.fork_inside();
    match forked.map_err(|e| StartError::at(Step::Enter, errno_of(&e)))? {
        ForkResult::Child => {
            drop((held, status));
            relay::run(|| become_command(command, word, told), tell)
        }
        ForkResult::Parent { child } => {
            drop((word, told, tell));
            let relay = Relay::await_birth(child, status);
            let relay = relay.map_err(|errno| StartError::at(Step::Enter, errno))?;
            Ok(held(relay.leader, Some(relay)))
        }
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl Held {
    /// Lets the child execute its command; returns once it has, or has failed to.
    pub(crate) fn release(mut self) -> Result<(), StartError> {
        // A child that failed while preparing no longer listens; its report says why.
        let _ = self.release.write_all(b"!");
        drop(self.release);
        let mut report = [0; 5];
        let mut length = 0;
        while length < report.len() {
            match self.report.read(&mut report[length..]) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StartError::prepare(&error)),
            }
        }
        if length == 0 {
            return Ok(());
        }
        let [step, errno @ ..] = report;
        let step = STEPS
            .iter()
            .find_map(|(s, n)| (*n == step).then_some(*s))
            .unwrap_or(Step::Prepare);
        let subject = match step {
            Step::Exec => self.program,
            Step::WorkingDir => self.working_dir,
            _ => String::new(),
        };
        Err(StartError {
            step,
            errno: Errno::from_raw(i32::from_le_bytes(errno)),
            subject,
        })
    }
}

/// Name (prctl(2) `PR_SET_NAME`) of a child that has not become its command yet: it is a copy
/// of its shim, but not one.
pub(crate) const STARTING: &str = "task-start";

fn become_command(command: &Command<'_>, word: OwnedFd, told: OwnedFd) -> ! {
    // Fails only for a name with a NUL.
    let _ = CString::new(STARTING).map(|name| prctl::set_name(&name));
    let mut word = File::from(word);
    let mut told = File::from(told);
    let mut tell = |(step, errno): (Step, Errno)| {
        let number = STEPS
            .iter()
            .find_map(|(s, n)| (*s == step).then_some(*n))
            .unwrap_or_default();
        let [a, b, c, d] = i32::to_le_bytes(errno.cast());
        // The parent may be gone; there is nobody else to tell.
        let _ = told.write_all(&[number, a, b, c, d]);
    };
    let prepared = prepare(command);
    if let Err(failed) = prepared {
        tell(failed);
    }
    // Also when it has failed: whoever records this process must find it.
    let mut byte = [0];
    if !matches!(word.read(&mut byte), Ok(1)) {
        sandbox_sys::exit_now(0);
    }
    if prepared.is_ok() {
        tell((Step::Exec, execute(command)));
    }
    sandbox_sys::exit_now(127)
}

/// Errno as the integer that crosses the pipe.
trait Cast {
    fn cast(self) -> i32;
}

impl Cast for Errno {
    fn cast(self) -> i32 {
        io::Error::from(self).raw_os_error().unwrap_or_default()
    }
}

fn prepare(command: &Command<'_>) -> Result<(), (Step, Errno)> {
    let at = |step| move |errno| (step, errno);
    let io_at = |step| move |e: io::Error| (step, errno_of(&e));
    setsid().map_err(at(Step::Prepare))?;
    let mask = command.inside.map_or(UMASK, |(remote, _)| remote.umask);
    umask(Mode::from_bits_truncate(mask));
    for dir in command.cgroups {
        std::fs::write(format!("{dir}/cgroup.procs"), "0").map_err(io_at(Step::Cgroup))?;
    }
    for (resource, soft, hard) in command.rlimits {
        sandbox_sys::set_rlimit(*resource, *soft, *hard).map_err(io_at(Step::Rlimit))?;
    }
    dup2_stdin(command.stdin).map_err(at(Step::Prepare))?;
    dup2_stdout(command.stdout).map_err(at(Step::Prepare))?;
    dup2_stderr(command.stderr).map_err(at(Step::Prepare))?;
    let inside = command.inside.map(|(remote, door)| enter(remote, door));
    let inside = inside.transpose()?;
    become_user(command)?;
    if let Some((remote, _)) = command.inside {
        let taken = remote.capabilities.set();
        taken.map_err(io_at(Step::Capabilities))?;
    }
    match (command.working_dir, inside) {
        (Some(dir), _) => chdir(dir).map_err(at(Step::WorkingDir))?,
        (None, Some(inside)) => inside.change_dir().map_err(at(Step::WorkingDir))?,
        (None, None) => {}
    }
    if command
        .inside
        .is_some_and(|(remote, _)| remote.no_new_privs)
    {
        prctl::set_no_new_privs().map_err(at(Step::Prepare))?;
    }
    sandbox_sys::default_signals().map_err(io_at(Step::Prepare))
}

/// Enters the main container, still with all privileges of the agent that it may have there.
fn enter(remote: &Remote, door: &Door) -> Result<Inside, (Step, Errno)> {
    let at = |step| move |errno| (step, errno);
    // Nothing inside may look into a copy of the shim, or trace it. Ends with execve.
    prctl::set_dumpable(false).map_err(at(Step::Prepare))?;
    let inside = door.enter().map_err(at(Step::Enter))?;
    inside.change_root().map_err(at(Step::Enter))?;
    let limited = remote.capabilities.limit_bounding();
    limited.map_err(|e| (Step::Capabilities, errno_of(&e)))?;
    // Else another user would have no capabilities to hand on.
    prctl::set_keepcaps(true).map_err(at(Step::Prepare))?;
    Ok(inside)
}

fn become_user(command: &Command<'_>) -> Result<(), (Step, Errno)> {
    let at = |step| move |errno| (step, errno);
    let groups: Vec<Gid> = command.groups.iter().map(|id| Gid::from_raw(*id)).collect();
    let replaced = match command.inside {
        // What is so already needs no privilege.
        Some(_) => getgroups().map_err(at(Step::Groups))? != groups,
        None => command.user.is_some() || command.group.is_some() || !groups.is_empty(),
    };
    if replaced {
        setgroups(&groups).map_err(at(Step::Groups))?;
    }
    if let Some(group) = command.group {
        setgid(Gid::from_raw(group)).map_err(at(Step::Group))?;
    }
    if let Some(user) = command.user {
        setuid(Uid::from_raw(user)).map_err(at(Step::User))?;
    }
    Ok(())
}

fn execute(command: &Command<'_>) -> Errno {
    let argv = command.argv.iter().map(|v| CString::new(v.as_bytes()));
    let env = command.env.iter().map(|v| CString::new(v.as_slice()));
    let argv: Result<Vec<_>, _> = argv.collect();
    let env: Result<Vec<_>, _> = env.collect();
    let (Ok(argv), Ok(env)) = (argv, env) else {
        return Errno::EINVAL;
    };
    let Some(program) = command.argv.first() else {
        return Errno::EINVAL;
    };
    let path = command
        .env
        .iter()
        .find_map(|entry| entry.strip_prefix(b"PATH="));
    let mut result = Errno::ENOENT;
    for candidate in candidates(program, path.unwrap_or(DEFAULT_PATH.as_bytes())) {
        let Ok(file) = CString::new(candidate) else {
            return Errno::EINVAL;
        };
        let Err(errno) = execve(&file, &argv, &env);
        match errno {
            // As execvp(3): go on looking, but remember that something was there.
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => result = errno,
            other => return other,
        }
    }
    result
}

/// The files that `program` may mean: itself with a slash in it, else one per `PATH` entry.
fn candidates(program: &str, path: &[u8]) -> Vec<Vec<u8>> {
    let program = program.as_bytes();
    if program.contains(&b'/') {
        return vec![program.to_owned()];
    }
    let in_dir = |dir: &[u8]| match dir {
        [] => [b"./", program].concat(),
        dir => [dir, b"/", program].concat(),
    };
    path.split(|byte| *byte == b':').map(in_dir).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_every_path_entry_and_a_path_is_taken_as_it_is() {
        assert_eq!(
            candidates("ls", b"/bin::/usr/bin"),
            [&b"/bin/ls"[..], b"./ls", b"/usr/bin/ls"]
        );
        assert_eq!(candidates("./ls", b"/bin"), [b"./ls"]);
    }

    #[test]
    fn codes_tell_not_found_from_not_usable() {
        let error = |step, errno| StartError {
            step,
            errno,
            subject: "x".to_owned(),
        };
        assert_eq!(error(Step::Exec, Errno::ENOENT).code(), 127);
        assert_eq!(error(Step::Exec, Errno::EACCES).code(), 126);
        assert_eq!(error(Step::WorkingDir, Errno::ENOENT).code(), 126);
        assert_eq!(
            error(Step::WorkingDir, Errno::ENOENT).to_string(),
            "could not enter the working directory x: No such file or directory"
        );
    }
}
