//! Child processes that end with this process, however that ends.
//!
//! A child is started by way of `setpriv --pdeathsig`: the kernel signals it when the thread that started it is gone.
//! That thread lives as long as this process, so a child survives neither a panic nor an abort nor SIGKILL. This process
//! may also die after the fork and before setpriv has asked for the signal; so `nsenter --wd`, which fails when this
//! process is gone, looks once more before the program itself begins. Both become the program; there is no other process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;

/// How often a wait for an end looks.
const LOOK: Duration = Duration::from_millis(5);
/// How long a child may take to follow SIGTERM when its owner is dropped.
const DROP_PATIENCE: Duration = Duration::from_secs(10);
/// How much of a log an error shows.
const TAIL_BYTES: u64 = 4096;

/// What is to be started.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    path: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    on_death: Signal,
}

impl Program {
    /// A program whose output goes to a file.
    pub(crate) fn new(name: &str, path: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            path: path.into(),
            args: Vec::new(),
            log: log.into(),
            on_death: Signal::SIGKILL,
        }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds the flag `--name=value`.
    pub(crate) fn flag(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        let mut flag = OsString::from(format!("--{name}="));
        flag.push(value);
        self.arg(flag)
    }

    /// The signal that it gets when this process dies; SIGKILL if nothing else is said.
    pub(crate) fn on_death(mut self, signal: Signal) -> Self {
        self.on_death = signal;
        self
    }

    /// Starts it, in a process group of its own so that Ctrl-C reaches this process first.
    pub(crate) fn start(&self) -> io::Result<Running> {
        let log = File::options().append(true).create(true).open(&self.log)?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", self.on_death.as_str(), "--"])
            .args([
                "nsenter",
                "--target",
                &std::process::id().to_string(),
                "--wd",
                "--",
            ])
            .arg(&self.path)
            .args(&self.args)
            // A proxy or a debugging variable of the caller must not reach it.
            .env_clear()
            .envs(
                ["PATH", "HOME"]
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = start_from_lasting_thread(command).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("{}: by way of setpriv: {error}", self.name),
            )
        })?;
        Ok(Running {
            name: self.name.clone(),
            log: self.log.clone(),
            child,
        })
    }
}

/// A child process. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Running {
    /// Its process id; that of the program itself, once setpriv and nsenter have become it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log when it runs no longer.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                anyhow::bail!("{} has ended, {status}:\n{}", self.name, tail(&self.log))
            }
        }
    }

    /// Sends SIGTERM, and SIGKILL once `patience` is over; returns when it has ended.
    pub(crate) fn stop(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        match self.wait(patience)? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// Waits until it has ended; none when it has not within `patience`.
    pub(crate) fn wait(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + patience;
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() > end {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
    }

    /// Sends SIGKILL; returns when it has ended.
    pub(crate) fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Sends a signal. One that has ended keeps its pid until it is waited for, so nobody else is hit.
    pub(crate) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop(DROP_PATIENCE);
    }
}

/// The last lines of a log, for an error.
pub(crate) fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("{}: {error}", log.display()),
    }
}

struct Order {
    command: Command,
    answer: mpsc::Sender<io::Result<Child>>,
}

/// The death signal is tied to the thread that forks, and the threads of tests and runtimes come and go.
fn start_from_lasting_thread(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for mut order in inbox {
                let _ = order.answer.send(order.command.spawn());
            }
        });
        orders
    });
    let (answer, child) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts children is gone");
    let order = Order { command, answer };
    starter.send(order).ok().ok_or_else(gone)?;
    child.recv().ok().ok_or_else(gone)?
}

#[cfg(test)]
mod tests;
