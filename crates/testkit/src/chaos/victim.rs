//! The agent under attack: started, found, killed and started again.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::libc;
use nix::unistd::Pid;
use sandbox_sys::PidFd;
use task_shim::lock::{self, Holder, TASK_FILE};
use task_shim::proc;

use super::procs::{self, CONTAINER, ROUND};
use crate::http::Client;
use crate::target::{self, Layout};

/// How long the agent may take for anything that it must do.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// A process that can be killed without a doubt about who it is.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) pid: Pid,
    fd: PidFd,
}

impl Known {
    fn open(pid: Pid) -> Option<Self> {
        PidFd::open(pid).ok().map(|fd| Self { pid, fd })
    }

    pub(super) fn kill(&self) -> bool {
        self.fd.signal(libc::SIGKILL).is_ok()
    }

    pub(super) fn signal(&self, number: i32) -> bool {
        self.fd.signal(number).is_ok()
    }

    /// Waits until it is gone, after it was killed.
    pub(super) fn wait_end(&self) {
        let end = Instant::now() + PATIENCE;
        while self.is_alive() && Instant::now() < end {
            std::thread::sleep(PAUSE);
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        // Only when its last thread has ended are its files, and its address, free again.
        self.fd.has_ended().is_ok_and(|ended| !ended)
    }
}

/// Why the agent did not come up.
#[derive(Debug)]
pub(super) enum Down {
    /// The program that was started has ended.
    Ended(ExitStatus),
    /// It lives and does not answer as it should; the text says how far it got.
    Stuck(String),
}

/// An agent with a data directory and an address of its own.
#[derive(Debug)]
pub(super) struct Victim {
    program: PathBuf,
    flags: Vec<String>,
    pub(super) tag: String,
    pub(super) dir: PathBuf,
    /// Where its standard error goes.
    pub(super) log: PathBuf,
    pub(super) address: SocketAddr,
    init: Option<(Child, Arc<Known>)>,
    server: Option<Arc<Known>>,
    /// Where its tasks run, in sidecar mode.
    container: Option<target::Target>,
}

/// What of an agent can be hit at one moment.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) dir: PathBuf,
    pub(super) init: Option<Arc<Known>>,
    pub(super) server: Option<Arc<Known>>,
}

impl Target {
    /// The shim of the task in that directory, while it lives.
    pub(super) fn shim_of(&self, name: &str) -> Option<Known> {
        let dir = self.dir.join(name);
        let known = Known::open(holder(&dir, TASK_FILE)?)?;
        // Asked again: only then is the pidfd that of the holder.
        (holder(&dir, TASK_FILE) == Some(known.pid)).then_some(known)
    }

    /// Names that have a directory right now.
    pub(super) fn task_names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        names
    }
}

/// An address of this machine that no other round of this or another campaign uses and
/// no outgoing connection can take while the agent is down.
fn own_address(round: u64) -> SocketAddr {
    let campaign = std::process::id();
    let byte = |value: u64| u8::try_from(value % 250).unwrap_or_default();
    let host = Ipv4Addr::new(
        127,
        1 + byte(u64::from(campaign)),
        byte(round / 250),
        1 + byte(round),
    );
    let port = 10_000 + u16::try_from(campaign % 20_000).unwrap_or_default();
    SocketAddr::from((host, port))
}

impl Victim {
    /// An agent that is yet to be launched. `index` tells the rounds of a campaign apart.
    pub(super) fn new(program: &Path, root: &Path, index: u64, flags: Vec<String>) -> Self {
        Self {
            program: program.to_owned(),
            flags,
            tag: procs::tag(index),
            dir: root.join("disk/tasks"),
            log: root.join("agent.log"),
            address: own_address(index),
            init: None,
            server: None,
            container: None,
        }
    }

    /// Starts a main container, for an agent in sidecar mode.
    pub(super) fn add_container(&mut self, layout: Layout) {
        let name = format!("chaos-{}", self.tag);
        let plan = target::Plan::new(&name, layout)
            .env(&format!("{ROUND}={}", self.tag))
            .env(&format!("{CONTAINER}=1"));
        self.container = Some(plan.start());
        self.flags.push("--enable-sidecar-mode".to_owned());
        self.flags.push(format!("--main-container-name={name}"));
    }

    /// Starts the program, without waiting for anything.
    pub(super) fn launch(&mut self) -> io::Result<()> {
        self.server = None;
        if !procs::may_start() {
            return Err(io::Error::other("the campaign is being ended"));
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .arg(format!("--data-dir={}", self.dir.display()))
            .arg(format!("--listen-addr={}", self.address))
            .args(&self.flags)
            .env(ROUND, &self.tag)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let known = Known::open(pid).ok_or_else(|| io::Error::other("the agent has no pidfd"))?;
        self.init = Some((child, Arc::new(known)));
        Ok(())
    }

    /// Waits until the server of this init owns the data directory and is healthy.
    pub(super) fn wait_up(&mut self) -> Result<(), Down> {
        let end = Instant::now() + PATIENCE;
        loop {
            let Some(reached) = self.look()? else {
                return Ok(());
            };
            if Instant::now() > end {
                return Err(Down::Stuck(reached));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// `None` when the agent is up, else how far it got.
    fn look(&mut self) -> Result<Option<String>, Down> {
        let Some((child, init)) = &mut self.init else {
            return Ok(Some("it was not launched".to_owned()));
        };
        if let Ok(Some(status)) = child.try_wait() {
            self.init = None;
            return Err(Down::Ended(status));
        }
        let init = init.pid;
        let Some(owner) = self.lock_owner() else {
            return Ok(Some("no server holds the data directory".to_owned()));
        };
        let Some(server) = Known::open(owner) else {
            return Ok(Some("the server has just ended".to_owned()));
        };
        let parent = proc::stat(owner).map(|stat| stat.parent);
        if parent != Some(init.as_raw()) {
            return Ok(Some(format!(
                "server {owner} is not a child of init {init}"
            )));
        }
        let health = self.client().request("GET", "/health", b"");
        match health {
            Ok(answer) if answer.code == 200 => {
                self.server = Some(Arc::new(server));
                Ok(None)
            }
            Ok(answer) => Ok(Some(format!(
                "/health says {} {}",
                answer.code,
                answer.text()
            ))),
            Err(error) => Ok(Some(format!("/health is not answered: {error}"))),
        }
    }

    /// The process that holds the data directory.
    pub(super) fn lock_owner(&self) -> Option<Pid> {
        holder(&self.dir.join(".agent"), "lock")
    }

    /// What can be hit now.
    pub(super) fn target(&self) -> Target {
        Target {
            dir: self.dir.clone(),
            init: self.init.as_ref().map(|(_, known)| Arc::clone(known)),
            server: self.server.clone(),
        }
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.address).with_patience(PATIENCE)
    }

    pub(super) fn init_is_alive(&self) -> bool {
        self.init.as_ref().is_some_and(|(_, init)| init.is_alive())
    }

    pub(super) fn server_is_alive(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.is_alive())
    }

    /// Reaps an init that was killed or has been asked to stop.
    pub(super) fn wait_end(&mut self) -> Option<ExitStatus> {
        let (mut child, _) = self.init.take()?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(PAUSE);
        }
        // Still there: keep it, so that it is not forgotten.
        let known = Known::open(Pid::from_raw(i32::try_from(child.id()).ok()?))?;
        self.init = Some((child, Arc::new(known)));
        None
    }

    /// Waits until a server that was killed is gone.
    pub(super) fn wait_server_end(&self) {
        if let Some(server) = &self.server {
            server.wait_end();
        }
    }

    /// Kills the server that still owns the data directory, whoever its parent is.
    pub(super) fn kill_lock_owner(&self) {
        let end = Instant::now() + PATIENCE;
        while let Some(owner) = self.lock_owner()
            && Instant::now() < end
        {
            procs::kill(owner, &self.tag);
            std::thread::sleep(PAUSE);
        }
    }

    /// Kills all that is left of this round, and says what it was.
    pub(super) fn kill_everything(&mut self) -> Vec<procs::Process> {
        let mut killed = Vec::new();
        for _ in 0..50 {
            let left = procs::of_round(&self.tag);
            if left.is_empty() {
                break;
            }
            for process in left {
                procs::kill(process.pid, &self.tag);
                killed.push(process);
            }
            std::thread::sleep(PAUSE);
        }
        if let Some((mut child, _)) = self.init.take() {
            // It was killed above, so this does not block; its status says nothing.
            let _ = child.wait();
        }
        killed
    }

    /// The last lines that the agent logged.
    pub(super) fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill_everything();
    }
}

fn holder(dir: &Path, file: &str) -> Option<Pid> {
    match lock::holder(File::open(dir).ok()?, file) {
        Ok(Holder::Process(pid)) => Some(pid),
        Ok(Holder::Nobody | Holder::Left | Holder::Elsewhere) | Err(_) => None,
    }
}
