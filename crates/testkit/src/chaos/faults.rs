//! The faults that strike while requests are under way.

use std::fs::File;
use std::time::Duration;

use nix::libc;
use nix::unistd::Pid;
use sandbox_sys::PidFd;
use task_shim::proc;
use task_shim::record::{self, RunRecord};

use super::damage;
use super::points::{Point, Watcher};
use super::victim::Target;
use crate::random::Random;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// SIGKILL of init alone.
    KillInit,
    /// SIGKILL of the server alone.
    KillServer,
    /// SIGKILL of the launcher alone.
    KillLauncher,
    /// SIGKILL of one shim.
    KillShim,
    /// SIGKILL of a task's leading process.
    KillLeader,
    /// SIGKILL of init, server and all shims.
    KillAll,
    /// SIGTERM of the agent: an orderly restart.
    Term,
    /// The server stands still for a while.
    Freeze,
    /// The agent is killed, and records are damaged while it is down.
    Damage,
    /// The disk is full for a while.
    DiskFull,
    /// Clients that send half a request, or don't read their answer.
    SlowPeer,
    /// Requests are sent twice.
    Duplicate,
}

impl Fault {
    pub(super) const ALL: &[Self] = &[
        Self::KillInit,
        Self::KillServer,
        Self::KillLauncher,
        Self::KillShim,
        Self::KillLeader,
        Self::KillAll,
        Self::Term,
        Self::Freeze,
        Self::Damage,
        Self::DiskFull,
        Self::SlowPeer,
        Self::Duplicate,
    ];

    /// The name on the command line and in the summary.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::KillInit => "kill-init",
            Self::KillServer => "kill-server",
            Self::KillLauncher => "kill-launcher",
            Self::KillShim => "kill-shim",
            Self::KillLeader => "kill-leader",
            Self::KillAll => "kill-all",
            Self::Term => "term",
            Self::Freeze => "freeze",
            Self::Damage => "damage",
            Self::DiskFull => "disk-full",
            Self::SlowPeer => "slow-peer",
            Self::Duplicate => "duplicate",
        }
    }
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Moment {
    After(Duration),
    At(Point),
}

impl Moment {
    pub(super) fn random(random: &mut Random) -> Self {
        if random.chance(50) {
            Self::At(*random.pick(Point::ALL))
        } else {
            Self::After(random.within(40))
        }
    }
}

/// What was hit.
#[derive(Debug, Clone)]
pub(super) enum Hit {
    Init,
    Server,
    /// A shim; whether its exit record was in place before, and a trace of its postStop
    /// hook after.
    Shim {
        name: String,
        uid: Option<String>,
        ended: bool,
        hook_begun: bool,
    },
    /// A task's leading process.
    Leader {
        name: String,
        uid: Option<String>,
    },
}

/// How a strike went.
#[derive(Debug, Default)]
pub(super) struct Struck {
    pub(super) hits: Vec<Hit>,
    /// The fault point, when it was reached.
    pub(super) point: Option<Point>,
}

/// Longest wait for a fault point: it may never come, then the fault strikes all the same.
const POINT_WAIT: Duration = Duration::from_millis(300);

/// Waits for the moment, then strikes.
pub(super) fn strike(
    target: &Target,
    fault: Fault,
    moment: Moment,
    watcher: Option<Watcher>,
    random: &mut Random,
) -> Struck {
    let mut struck = Struck::default();
    let mut name = None;
    match (moment, watcher) {
        (Moment::At(point), Some(mut watcher)) => {
            name = watcher.wait(point, POINT_WAIT);
            struck.point = name.is_some().then_some(point);
        }
        (Moment::After(delay), _) => std::thread::sleep(delay),
        (Moment::At(_), None) => {}
    }
    let init = || {
        target
            .init
            .as_ref()
            .filter(|init| init.kill())
            .map(|_| Hit::Init)
    };
    let server = || {
        let server = target.server.as_ref();
        server.filter(|server| server.kill()).map(|_| Hit::Server)
    };
    match fault {
        Fault::KillServer => struck.hits.extend(server()),
        Fault::KillInit => struck.hits.extend(init()),
        Fault::KillLauncher => kill_launcher(target),
        Fault::KillShim => struck.hits.extend(kill_shim(target, name, random)),
        Fault::KillLeader => struck.hits.extend(kill_leader(target, name, random)),
        Fault::KillAll => {
            let shims = || {
                target
                    .task_names()
                    .into_iter()
                    .filter_map(|n| shim(target, n))
            };
            if random.chance(50) {
                struck.hits.extend(init().into_iter().chain(server()));
                struck.hits.extend(shims());
            } else {
                struck.hits.extend(shims());
                struck.hits.extend(init().into_iter().chain(server()));
                // Those that were started meanwhile.
                struck.hits.extend(shims());
            }
        }
        Fault::Damage => struck.hits.extend(init().into_iter().chain(server())),
        Fault::Term => {
            if let Some(init) = &target.init
                && init.signal(libc::SIGTERM)
            {
                struck.hits.push(Hit::Init);
            }
        }
        Fault::Freeze => freeze(target, random),
        Fault::DiskFull | Fault::SlowPeer | Fault::Duplicate => {}
    }
    struck
}

/// Kills the process of which shims are forked. Nothing that a client sees may change.
fn kill_launcher(target: &Target) {
    let Some(server) = &target.server else { return };
    let is_launcher = |pid: Pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.trim_end() == "task-launcher")
    };
    for (pid, _) in proc::descendants(server.pid) {
        if let Ok(fd) = PidFd::open(pid)
            && is_launcher(pid)
        {
            // One that has just ended is as good.
            let _ = fd.signal(libc::SIGKILL);
        }
    }
}

fn freeze(target: &Target, random: &mut Random) {
    if let Some(server) = &target.server {
        server.signal(libc::SIGSTOP);
        std::thread::sleep(random.within(300));
        server.signal(libc::SIGCONT);
    }
}

fn shim(target: &Target, name: String) -> Option<Hit> {
    let shim = target.shim_of(&name)?;
    let dir = target.dir.join(&name);
    let uid = damage::uid_of(&dir);
    let ended = dir.join(record::EXIT_FILE).exists();
    if !shim.kill() {
        return None;
    }
    shim.wait_end();
    let hook_begun = ["post.rec", "post.rec.new"]
        .iter()
        .any(|file| dir.join(file).exists());
    Some(Hit::Shim {
        name,
        uid,
        ended,
        hook_begun,
    })
}

/// Kills the shim of the named task, or of a random one when that has none.
fn kill_shim(target: &Target, name: Option<String>, random: &mut Random) -> Option<Hit> {
    if let Some(hit) = name.and_then(|name| shim(target, name)) {
        return Some(hit);
    }
    let mut names = target.task_names();
    while !names.is_empty() {
        let name = names.swap_remove(random.below(names.len()));
        if let Some(hit) = shim(target, name) {
            return Some(hit);
        }
    }
    None
}

fn kill_leader(target: &Target, name: Option<String>, random: &mut Random) -> Option<Hit> {
    let mut names = target.task_names();
    let mut next = name;
    loop {
        let name = match next.take() {
            Some(name) => name,
            None if names.is_empty() => return None,
            None => names.swap_remove(random.below(names.len())),
        };
        if let Some(hit) = leader(target, name) {
            return Some(hit);
        }
    }
}

fn leader(target: &Target, name: String) -> Option<Hit> {
    let dir = File::open(target.dir.join(&name)).ok()?;
    let run = record::read(&dir, record::RUN_FILE).ok()??;
    let run = RunRecord::decode(&run).ok()?;
    let pid = Pid::from_raw(run.leader.pid);
    let fd = PidFd::open(pid).ok()?;
    let stat = proc::stat(pid)?;
    let same = stat.start_ticks == run.leader.start_ticks && !stat.is_dead();
    (same && fd.signal(libc::SIGKILL).is_ok()).then_some(Hit::Leader {
        name,
        uid: Some(run.uid),
    })
}
