//! The server's end of the launcher process, which starts shims and ends orphans.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, getpid};
use sandbox_api::{NewTask, TaskName, TaskSpec, TaskUid};
use sandbox_sys::PidFd;
use task_shim::launch::Job;
use task_shim::launcher::{MESSAGE_BYTES_MAX, Reply, Request};
use task_shim::record::RunRecord;
use tokio::io::unix::AsyncFd;

use crate::cgroups::{self, Cgroups};
use crate::fd::readable;
use crate::runtime::{self, Settings};
use crate::sidecar::{Absent, Door, Sidecar};

/// Orders that may be under way: few enough for the socket to hold all of them.
const ORDERS_MAX: usize = 16;

/// What is to be done for a task.
#[derive(Debug)]
pub(crate) enum Order {
    /// Start a shim.
    Start(Job, Option<Door>),
    /// End what a killed shim has left behind.
    EndOrphans(Option<RunRecord>),
}

/// Which task an order is for.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) name: TaskName,
    pub(crate) uid: TaskUid,
    pub(crate) dir: PathBuf,
    pub(crate) task: Arc<NewTask>,
}

/// What has been done.
#[derive(Debug)]
pub(crate) enum News {
    /// A shim was started, or could not be.
    Started(TaskName, TaskUid, io::Result<PidFd>),
    /// Whether all orphans of a task are gone.
    Orphans(TaskName, TaskUid, bool),
    /// The same of what was set aside, by its directory.
    Aside(PathBuf, bool),
}

/// An order that has not been answered.
#[derive(Debug)]
enum UnderWay {
    Start(TaskName, TaskUid),
    Orphans(TaskName, TaskUid),
    Aside(PathBuf),
}

impl UnderWay {
    fn failed(self, error: io::Error) -> News {
        match self {
            Self::Start(name, uid) => News::Started(name, uid, Err(error)),
            Self::Orphans(name, uid) => {
                tracing::warn!(task = %name, %error, "orphans.not_ended");
                News::Orphans(name, uid, false)
            }
            Self::Aside(dir) => {
                tracing::warn!(dir = %dir.display(), %error, "orphans.not_ended");
                News::Aside(dir, false)
            }
        }
    }

    /// What a reply tells. `None` when it answers something else.
    fn news(self, reply: Reply, fds: Vec<OwnedFd>) -> Option<News> {
        Some(match (self, reply) {
            (Self::Start(name, uid), Reply::Started(0)) => {
                let shim = fds.into_iter().next().map(PidFd::from);
                News::Started(name, uid, shim.ok_or_else(|| io::Error::other("no pidfd")))
            }
            (Self::Start(name, uid), Reply::Started(errno)) => {
                News::Started(name, uid, Err(io::Error::from_raw_os_error(errno)))
            }
            (Self::Orphans(name, uid), Reply::Orphans(left)) => News::Orphans(name, uid, left == 0),
            (Self::Aside(dir), Reply::Orphans(left)) => News::Aside(dir, left == 0),
            (Self::Start(..), Reply::Orphans(_))
            | (Self::Orphans(..) | Self::Aside(_), Reply::Started(_)) => return None,
        })
    }
}

/// The launcher process, started again when it dies.
#[derive(Debug)]
pub(crate) struct Launcher {
    settings: Settings,
    sidecar: Option<Sidecar>,
    program: Program,
    socket: AsyncFd<OwnedFd>,
    under_way: BTreeMap<u32, UnderWay>,
    failed: VecDeque<News>,
    last: u32,
}

impl Launcher {
    /// Starts the process. To be called inside the runtime.
    pub(crate) fn start(settings: Settings, sidecar: Option<Sidecar>) -> io::Result<Self> {
        let program = match &sidecar {
            Some(_) => Program::sealed(),
            None => Program::File,
        };
        Ok(Self {
            socket: spawn(&program)?,
            settings,
            sidecar,
            program,
            under_way: BTreeMap::new(),
            failed: VecDeque::new(),
            last: 0,
        })
    }

    /// Whether another order may be given.
    pub(crate) fn has_room(&self) -> bool {
        self.under_way.len() + self.failed.len() < ORDERS_MAX
    }

    /// Whether any order is not answered yet.
    pub(crate) fn is_busy(&self) -> bool {
        !self.under_way.is_empty() || !self.failed.is_empty()
    }

    /// The way into the main container for what a job starts of a task; none if it needs none.
    pub(crate) fn door(&mut self, spec: &TaskSpec, job: Job) -> Result<Option<Door>, Absent> {
        match &mut self.sidecar {
            Some(sidecar) => sidecar.door(spec, job, &self.settings.cgroups),
            None => Ok(None),
        }
    }

    /// Whether a task may have been started with less than it should have.
    pub(crate) fn may_warn(&self, spec: &TaskSpec) -> bool {
        self.sidecar.is_some() || cgroups::limits(spec).is_some()
    }

    /// Why a task can never be started here, if that is so.
    pub(crate) fn refusal(&self, spec: &TaskSpec) -> Option<String> {
        self.sidecar.as_ref()?.refusal(spec)
    }

    /// The control groups of the agent's tasks.
    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.settings.cgroups
    }

    /// Gives an order; there must be room. Returns the limits that the task has to do without.
    pub(crate) fn order(&mut self, subject: &Subject, order: &Order) -> Vec<String> {
        let (name, uid) = (subject.name.clone(), subject.uid.clone());
        let under_way = match order {
            Order::Start(..) => UnderWay::Start(name, uid),
            Order::EndOrphans(_) => UnderWay::Orphans(name, uid),
        };
        self.give(under_way, |launcher| launcher.send(subject, order))
    }

    /// Has the orphans of a task that was set aside ended; there must be room.
    pub(crate) fn end_aside(&mut self, dir: &Path, run: Option<&RunRecord>) {
        let under_way = UnderWay::Aside(dir.to_owned());
        self.give(under_way, |launcher| {
            launcher.send_search(&File::open(dir)?, None, run)?;
            Ok(Vec::new())
        });
    }

    fn give(
        &mut self,
        under_way: UnderWay,
        send: impl Fn(&Self) -> io::Result<Vec<String>>,
    ) -> Vec<String> {
        self.last = self.last.wrapping_add(1);
        let mut sent = send(self);
        if sent.as_ref().is_err_and(is_gone) {
            // Killed while there was nothing to do, so nobody has noticed.
            self.restart(&io::ErrorKind::BrokenPipe.into());
            sent = send(self);
        }
        match sent {
            Ok(warnings) => {
                self.under_way.insert(self.last, under_way);
                warnings
            }
            Err(error) => {
                self.failed.push_back(under_way.failed(error));
                Vec::new()
            }
        }
    }

    fn send(&self, subject: &Subject, order: &Order) -> io::Result<Vec<String>> {
        let dir = File::open(&subject.dir)?;
        let socket = self.socket.get_ref().as_fd();
        match order {
            Order::Start(job, door) => {
                let spec = &subject.task.spec;
                let remote = door.as_ref().map(|door| &door.remote);
                let mut launch = runtime::order(&self.settings, &subject.uid, spec, *job, remote)?;
                let warnings = door.as_ref().map(|door| door.warnings.clone());
                let warnings = warnings.unwrap_or_default();
                let warnings = self
                    .cgroups()
                    .prepare(&subject.dir, &mut launch, spec, warnings);
                let file = runtime::memory_file(&launch.encode())?;
                let mut fds = vec![file.as_fd(), dir.as_fd()];
                fds.extend(door.as_ref().map(|door| door.pidfd.as_fd()));
                sandbox_sys::send_fds(socket, &Request::Start.encode(self.last), &fds)?;
                Ok(warnings)
            }
            Order::EndOrphans(run) => {
                self.send_search(&dir, Some(&subject.uid), run.as_ref())?;
                Ok(Vec::new())
            }
        }
    }

    fn send_search(
        &self,
        dir: &File,
        uid: Option<&TaskUid>,
        run: Option<&RunRecord>,
    ) -> io::Result<()> {
        // PID 1 is handed everybody's orphans, so those say nothing.
        let init = self.settings.init.filter(|init| init.as_raw() > 1);
        let reapers = [Some(getpid()), init];
        let reapers = reapers.into_iter().flatten().map(Pid::as_raw).collect();
        let (uid, run) = (uid.map(TaskUid::to_string), run.cloned());
        let request = Request::EndOrphans { uid, run, reapers };
        let socket = self.socket.get_ref().as_fd();
        sandbox_sys::send_fds(socket, &request.encode(self.last), &[dir.as_fd()])
    }

    /// The next answer. Cancel safe.
    pub(crate) async fn news(&mut self) -> News {
        loop {
            if let Some(news) = self.failed.pop_front() {
                return news;
            }
            match self.receive().await {
                Ok(Some(news)) => return news,
                Ok(None) => {}
                Err(error) => self.restart(&error),
            }
        }
    }

    async fn receive(&mut self) -> io::Result<Option<News>> {
        let mut ready = self.socket.readable().await?;
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let received = ready.try_io(|socket| sandbox_sys::receive_fds(socket.as_fd(), &mut buffer));
        let (length, fds) = match received {
            Ok(Ok((0, _))) => return Err(io::ErrorKind::ConnectionReset.into()),
            Ok(message) => message?,
            Err(_would_block) => return Ok(None),
        };
        let (id, reply) = Reply::decode(&buffer[..length])?;
        let Some(under_way) = self.under_way.remove(&id) else {
            return Ok(None);
        };
        Ok(under_way.news(reply, fds))
    }

    /// The process has died. What was ordered may or may not have been done; records tell.
    fn restart(&mut self, error: &io::Error) {
        tracing::warn!(%error, "launcher.lost");
        match spawn(&self.program) {
            Ok(socket) => self.socket = socket,
            Err(error) => tracing::error!(%error, "launcher.not_started"),
        }
        for (_, under_way) in std::mem::take(&mut self.under_way) {
            let lost = io::Error::new(error.kind(), "the launcher was killed");
            self.failed.push_back(under_way.failed(lost));
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

/// What the launcher is started from.
#[derive(Debug)]
enum Program {
    /// The agent's program file.
    File,
    /// A copy of it in memory that nobody can change. A command that begins to run in the main
    /// container is a copy of the launcher, and what it says to run there may lead back to
    /// `/proc/self/exe`: the agent's own file must not be found, and be overwritten, that way.
    Memory(File),
}

impl Program {
    fn sealed() -> Self {
        Self::copy().map_or_else(
            |error| {
                tracing::warn!(%error, "sidecar.program_not_sealed");
                Self::File
            },
            Self::Memory,
        )
    }

    fn copy() -> io::Result<File> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut copy = File::from(memfd_create(c"task-executor", flags)?);
        io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
        let seals = SealFlag::F_SEAL_SEAL
            | SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_WRITE;
        fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(copy)
    }

    fn path(&self) -> String {
        match self {
            Self::File => "/proc/self/exe".to_owned(),
            Self::Memory(copy) => format!("/proc/self/fd/{}", copy.as_raw_fd()),
        }
    }
}

fn spawn(program: &Program) -> io::Result<AsyncFd<OwnedFd>> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // It is reaped like everything else that ends under the server.
    Command::new(program.path())
        .arg0(task_shim::SHIM_ROLE)
        // By which it knows the agent's other processes.
        .arg(std::fs::read_link("/proc/self/exe")?)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    readable(ours)
}
