//! What is at a Pod's address: a real agent's processes, a socket that never answers, or nothing.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};

use super::plan::AgentKind;
use super::tree;
use super::{AGENT_PORT, Options};
use crate::process::{Program, Running};

/// How long an agent may take to end its tasks before everything is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How long the kernel may take to end what was killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// The inside of a Pod, with its directory.
#[derive(Debug)]
pub(super) struct Agent {
    dir: PathBuf,
    inside: Inside,
}

#[derive(Debug)]
enum Inside {
    Nothing,
    Silent(Ipv4Addr, Option<TcpListener>),
    Real(Program, Option<Real>),
}

/// An agent's init, and with it all processes of a Pod: they are its descendants, since it adopts orphans.
#[derive(Debug)]
struct Real {
    init: Running,
    server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Runs,
    /// It was killed, and init was stopped so that it starts no other.
    Killed,
}

impl Agent {
    /// Prepares one without starting it.
    pub(super) fn new(
        kind: AgentKind,
        address: Ipv4Addr,
        dir: PathBuf,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let inside = match kind {
            AgentKind::None => Inside::Nothing,
            AgentKind::Silent => Inside::Silent(address, None),
            AgentKind::Real => {
                fs::create_dir_all(&dir)?;
                let path = options.executor.as_deref();
                let path = path.context("a real agent needs Options::executor")?;
                Inside::Real(program(path, address, &dir, options), None)
            }
        };
        Ok(Self { dir, inside })
    }

    /// Starts it, unless it runs. It may take a moment until it listens.
    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        match &mut self.inside {
            Inside::Nothing => {}
            Inside::Silent(address, listener) => {
                if listener.is_none() {
                    *listener = Some(TcpListener::bind((*address, AGENT_PORT))?);
                }
            }
            Inside::Real(program, real @ None) => {
                let init = program.start()?;
                let server = Server::Runs;
                *real = Some(Real { init, server });
            }
            Inside::Real(_, Some(real)) => {
                real.init.signal(Signal::SIGCONT)?;
                real.server = Server::Runs;
            }
        }
        Ok(())
    }

    /// Kills the server, so that nobody listens; tasks live on.
    pub(super) fn kill_server(&mut self) -> anyhow::Result<()> {
        match &mut self.inside {
            Inside::Nothing | Inside::Real(_, None) => Ok(()),
            Inside::Silent(_, listener) => {
                *listener = None;
                Ok(())
            }
            Inside::Real(_, Some(real)) => real.kill_server(),
        }
    }

    /// Ends it in an orderly way, with all of its tasks.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        match &mut self.inside {
            Inside::Nothing | Inside::Real(_, None) => Ok(()),
            Inside::Silent(_, listener) => {
                *listener = None;
                Ok(())
            }
            Inside::Real(_, real) => real.take().map_or(Ok(()), Real::stop),
        }
    }

    /// Kills all of it at once, as the kernel does when a container has no memory left.
    pub(super) fn destroy(&mut self) -> anyhow::Result<()> {
        match &mut self.inside {
            Inside::Real(_, real) => real.take().map_or(Ok(()), Real::destroy),
            Inside::Nothing | Inside::Silent(..) => self.stop(),
        }
    }

    /// Removes what a stopped one has stored.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Real {
    fn kill_server(&mut self) -> anyhow::Result<()> {
        self.init.signal(Signal::SIGSTOP)?;
        self.server = Server::Killed;
        let name = "task-executor-server";
        kill_until_none(|| tree::children_named(self.init.pid(), name))
    }

    fn stop(mut self) -> anyhow::Result<()> {
        if self.server == Server::Killed {
            return self.destroy();
        }
        self.init.signal(Signal::SIGTERM)?;
        match self.init.wait(STOP_PATIENCE)? {
            Some(_) => Ok(()),
            None => self.destroy(),
        }
    }

    fn destroy(mut self) -> anyhow::Result<()> {
        // Stopped, it starts nothing and still adopts the children of what is killed.
        self.init.signal(Signal::SIGSTOP)?;
        let killed = kill_until_none(|| tree::descendants(self.init.pid()));
        self.init.kill()?;
        killed
    }
}

/// Kills what there is until there is nothing. What has ended but is not yet waited for counts as nothing.
fn kill_until_none(mut find: impl FnMut() -> Vec<nix::unistd::Pid>) -> anyhow::Result<()> {
    let end = Instant::now() + KILL_PATIENCE;
    loop {
        let found = find();
        if found.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{found:?} were killed and live");
        for pid in found {
            // One that has just gone is what is wanted.
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn program(path: &Path, address: Ipv4Addr, dir: &Path, options: &Options) -> Program {
    let program = Program::new("task-executor", path, dir.join("agent.log"))
        // So that tasks end with a test that is killed, not only their agent.
        .on_death(Signal::SIGTERM)
        .flag("listen-addr", format!("{address}:{AGENT_PORT}"))
        .flag("data-dir", dir.join("tasks"))
        .flag("shutdown-policy", "terminate");
    options.agent_flags.iter().fold(program, Program::arg)
}
