//! The thread that starts shims and ends what killed shims have left behind.
//!
//! Starting a process takes its parent as long as the child needs to become a program, so
//! it is not done on the server's thread. Whatever ends under the server is reaped on this
//! same thread: between the start of a shim and the opening of its pidfd nothing can be
//! reaped, so the pid can't have become another process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use sandbox_api::{NewTask, TaskName, TaskUid};
use sandbox_sys::PidFd;
use task_shim::launch::Job;
use task_shim::record::RunRecord;
use tokio::sync::mpsc;

use crate::orphans;
use crate::runtime::{self, Settings};

/// Orders that may be under way; the manager never has more, see [`Launcher::has_room`].
pub(crate) const ORDERS_MAX: usize = 16;

/// Enough for a launch order of the largest task, which is on the heap.
const STACK_BYTES: usize = 256 * 1024;

/// What the thread is to do for a task.
#[derive(Debug)]
pub(crate) enum Order {
    /// Start a shim.
    Start(Job),
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
    /// So many orphans of a task are still there.
    Orphans(TaskName, TaskUid, usize),
}

#[derive(Debug)]
enum Errand {
    For(Box<Subject>, Order),
    Reap,
}

/// Starts shims, one at a time.
#[derive(Debug)]
pub(crate) struct Launcher {
    errands: SyncSender<Errand>,
    news: mpsc::Receiver<News>,
    under_way: usize,
    thread: JoinHandle<()>,
}

/// Asks the thread to reap, from wherever SIGCHLD is heard.
#[derive(Debug, Clone)]
pub(crate) struct Reaper(SyncSender<Errand>);

impl Reaper {
    /// Has everything reaped that has ended. Never blocks: with a full queue the thread is
    /// at work, and it reaps after each piece of it.
    pub(crate) fn reap(&self) {
        let _ = self.0.try_send(Errand::Reap);
    }
}

impl Launcher {
    /// Starts the thread.
    pub(crate) fn start(settings: Settings) -> io::Result<Self> {
        let (errands, work) = sync_channel(ORDERS_MAX + 1);
        let (tell, news) = mpsc::channel(ORDERS_MAX);
        let thread = std::thread::Builder::new()
            .name("launcher".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || work_off(&settings, &work, &tell))?;
        Ok(Self {
            errands,
            news,
            under_way: 0,
            thread,
        })
    }

    /// A handle for reaping.
    pub(crate) fn reaper(&self) -> Reaper {
        Reaper(self.errands.clone())
    }

    /// Whether another order may be given.
    pub(crate) fn has_room(&self) -> bool {
        self.under_way < ORDERS_MAX
    }

    /// Gives an order. There must be room.
    pub(crate) fn order(&mut self, subject: Subject, order: Order) {
        self.under_way += 1;
        if self
            .errands
            .send(Errand::For(Box::new(subject), order))
            .is_err()
        {
            // Only if the thread has panicked, and then the program is over.
            tracing::error!("launcher.thread_gone");
        }
    }

    /// Whether any order is not answered yet.
    pub(crate) fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    /// The next answer. Cancel safe.
    pub(crate) async fn news(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => {
                self.under_way -= 1;
                news
            }
            // The thread has panicked: with `panic=abort` this is never reached.
            None => std::future::pending().await,
        }
    }

    /// Ends the thread once every [`Reaper`] is dropped. All orders must have been answered.
    pub(crate) fn stop(self) {
        drop(self.errands);
        if self.thread.join().is_err() {
            tracing::error!("launcher.thread_panicked");
        }
    }
}

fn work_off(settings: &Settings, work: &Receiver<Errand>, tell: &mpsc::Sender<News>) {
    while let Ok(errand) = work.recv() {
        let news = match errand {
            Errand::Reap => None,
            Errand::For(subject, Order::Start(job)) => {
                let started = start(settings, &subject.dir, &subject, job);
                Some(News::Started(subject.name, subject.uid, started))
            }
            Errand::For(subject, Order::EndOrphans(run)) => {
                let left = orphans::end(settings, &subject.dir, run.as_ref());
                Some(News::Orphans(subject.name, subject.uid, left))
            }
        };
        while let Ok(Some(_)) = sandbox_sys::reap_any() {}
        if let Some(news) = news
            && tell.blocking_send(news).is_err()
        {
            return;
        }
    }
}

fn start(settings: &Settings, dir: &Path, subject: &Subject, job: Job) -> io::Result<PidFd> {
    let order = runtime::order(settings, &subject.uid, &subject.task.spec, job)?;
    runtime::start(dir, &order)
}
