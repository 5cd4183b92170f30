//! From requests to durable changes: what comes together is carried out together.
//!
//! One batch is under way at a time; requests that come meanwhile wait for the next. A
//! batch touches each name once, and memory follows only when the disk has it, so every
//! request is decided on what is true, and nothing is told that a crash could take back.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use sandbox_api::{NewTask, TaskName, TaskUid, Work};
use task_shim::record::ExitRecord;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::handle::{ChangeKind, Listing, Refused, Shown};
use super::super::inspect;
use super::super::tasks::{Deletion, Start, Task};
use super::{Owner, unix_seconds};
use crate::launcher::Launcher;
use crate::store::{After, Carried, Change, Newcomer, Op};

/// Changes in one batch: enough to share a flush among all clients of a busy agent.
const BATCH_MAX: usize = 256;

/// Something that changes records.
#[derive(Debug)]
pub(super) enum Request {
    Create(Box<NewTask>, oneshot::Sender<Result<Shown, Refused>>),
    Set(Vec<NewTask>, oneshot::Sender<Result<Listing, Refused>>),
    Delete(
        TaskName,
        Option<TaskUid>,
        oneshot::Sender<Result<(), Refused>>,
    ),
    /// The manager's own: the time after the end is over.
    Expire(TaskName, TaskUid),
    /// The manager's own: nothing of the task is left.
    Remove(TaskName, TaskUid),
    /// The manager's own: an end that no shim will record.
    Exit(TaskName, TaskUid, ExitRecord, After),
    /// The manager's own: the hook can't be run.
    SkipPostStop(TaskName, TaskUid),
    /// The manager's own: whether the data directory can be written again.
    Probe,
}

/// Whom to answer when a change is done.
#[derive(Debug)]
enum Reply {
    Nobody,
    /// Its own change of this task, which may be tried again.
    Own(TaskName),
    Create(TaskName, oneshot::Sender<Result<Shown, Refused>>),
    Set(oneshot::Sender<Result<Listing, Refused>>),
    Delete(oneshot::Sender<Result<(), Refused>>),
}

/// The batch that is being carried out.
#[derive(Debug, Default)]
pub(super) struct UnderWay(Vec<Reply>);

/// A batch in the making.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    replies: Vec<Reply>,
    names: BTreeSet<TaskName>,
    new: usize,
}

impl Batch {
    fn add(&mut self, change: Change, reply: Reply) {
        self.changes.push(change);
        self.replies.push(reply);
    }
}

impl Request {
    fn name(&self) -> Option<&TaskName> {
        match self {
            Self::Create(task, _) => Some(&task.name),
            Self::Delete(name, ..)
            | Self::Expire(name, _)
            | Self::Remove(name, _)
            | Self::Exit(name, ..)
            | Self::SkipPostStop(name, _) => Some(name),
            Self::Set(..) | Self::Probe => None,
        }
    }
}

fn new_uid() -> TaskUid {
    TaskUid::parse(&uuid::Uuid::new_v4().to_string())
        .unwrap_or_else(|_| unreachable!("a UUID is a valid uid"))
}

fn refused(error: &io::Error) -> Refused {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Refused::StorageFull(error.to_string())
        }
        _ => Refused::Storage(error.to_string()),
    }
}

/// Whether an error says nothing about the data directory as a whole: the task is still at
/// work, or something that isn't ours has its name.
fn is_of_one_task(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ResourceBusy
            | io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory
    )
}

/// Whether this agent can run a task at all.
fn admit(task: &NewTask, launcher: &Launcher) -> Result<(), Refused> {
    match &task.spec.work {
        Work::Process(_) => match launcher.refusal(&task.spec) {
            Some(why) => Err(Refused::Unsupported(format!("task {}: {why}", task.name))),
            None => Ok(()),
        },
        Work::Container(_) | Work::Pod(_) => Err(Refused::Unsupported(format!(
            "task {}: container tasks need --enable-container-mode; use process instead",
            task.name
        ))),
    }
}

impl Owner {
    /// Queues a change of the manager's own, unless one of this task is on its way.
    pub(super) fn request_for(
        &mut self,
        name: &TaskName,
        request: impl FnOnce(TaskName, TaskUid) -> Request,
    ) {
        let Some(uid) = self.tasks.get(name).map(|task| task.uid.clone()) else {
            return;
        };
        let first = self
            .tasks
            .update(name, |task| !std::mem::replace(&mut task.changing, true));
        if first == Some(true) {
            self.pending.push_back(request(name.clone(), uid));
        }
    }

    /// Hands the next batch to the store, if it is free.
    pub(super) fn submit(&mut self) {
        while self.under_way.is_none() && !self.pending.is_empty() {
            let mut batch = Batch::default();
            while batch.changes.len() < BATCH_MAX {
                let Some(request) = self.pending.pop_front() else {
                    break;
                };
                let conflict = match &request {
                    Request::Set(..) => !batch.changes.is_empty(),
                    other => other.name().is_some_and(|n| batch.names.contains(n)),
                };
                if conflict {
                    self.pending.push_front(request);
                    break;
                }
                let alone = matches!(request, Request::Set(..));
                self.decide(request, &mut batch);
                if alone {
                    break;
                }
            }
            if !batch.changes.is_empty() {
                self.worker.submit(batch.changes);
                self.under_way = Some(UnderWay(batch.replies));
            }
        }
    }

    /// Adds what a request changes to the batch, or answers it at once.
    fn decide(&mut self, request: Request, batch: &mut Batch) {
        batch.names.extend(request.name().cloned());
        // A client that has left before its answer is nobody to tell.
        match request {
            Request::Create(task, reply) => match self.may_create(&task, batch.new) {
                Ok(()) => {
                    batch.new += 1;
                    let name = task.name.clone();
                    let op = Op::Create(self.newcomer(*task));
                    batch.add(vec![op], Reply::Create(name, reply));
                }
                Err(refused) => drop(reply.send(Err(refused))),
            },
            Request::Set(wanted, reply) => match self.difference(wanted) {
                Ok(change) if change.is_empty() => drop(reply.send(Ok(self.listing()))),
                Ok(change) => batch.add(change, Reply::Set(reply)),
                Err(refused) => drop(reply.send(Err(refused))),
            },
            Request::Delete(name, uid, reply) => match self.deletion(&name, uid.as_ref()) {
                Ok(Some(op)) => batch.add(vec![op], Reply::Delete(reply)),
                Ok(None) => drop(reply.send(Ok(()))),
                Err(refused) => drop(reply.send(Err(refused))),
            },
            Request::Probe => batch.add(vec![Op::Probe], Reply::Nobody),
            own => {
                if let Some((name, op)) = self.own(own) {
                    batch.add(vec![op], Reply::Own(name));
                }
            }
        }
    }

    /// The step for one of the manager's own requests, if it still makes sense.
    fn own(&mut self, request: Request) -> Option<(TaskName, Op)> {
        let (name, uid, op) = match request {
            Request::Expire(name, uid) => {
                let op = self.deletion(&name, Some(&uid)).ok().flatten();
                (name, uid, op)
            }
            Request::Remove(name, uid) => {
                let deletion = self.tasks.get(&name).and_then(|t| t.deletion.as_ref());
                let op =
                    deletion.map(|d| Op::Remove(name.clone(), uid.clone(), d.successor.clone()));
                (name, uid, op)
            }
            Request::Exit(name, uid, exit, after) => {
                let op = Some(Op::Exit(name.clone(), exit, after));
                (name, uid, op)
            }
            Request::SkipPostStop(name, uid) => {
                let op = Some(Op::NoPostStop(name.clone()));
                (name, uid, op)
            }
            Request::Create(..) | Request::Set(..) | Request::Delete(..) | Request::Probe => {
                return None;
            }
        };
        let op = op.filter(|_| self.tasks.get(&name).is_some_and(|task| task.uid == uid));
        if op.is_none() {
            self.tasks.update(&name, |task| task.changing = false);
        }
        Some((name, op?))
    }

    fn may_create(&self, task: &NewTask, on_the_way: usize) -> Result<(), Refused> {
        admit(task, &self.launcher)?;
        if self.tasks.get(&task.name).is_some() {
            return Err(Refused::Exists(task.name.clone()));
        }
        if self.tasks.len() + on_the_way >= self.bounds.tasks_max {
            return Err(Refused::TooMany(self.bounds.tasks_max));
        }
        Ok(())
    }

    fn newcomer(&mut self, task: NewTask) -> Newcomer {
        self.created += 1;
        (new_uid(), self.created, Arc::new(task))
    }

    /// The mark of a deletion, unless there is one already.
    fn deletion(&self, name: &TaskName, uid: Option<&TaskUid>) -> Result<Option<Op>, Refused> {
        let mark = || Op::Mark(name.clone(), unix_seconds(), None);
        match self.find(name, uid) {
            Ok(task) => Ok(match &task.deletion {
                None => Some(mark()),
                Some(deletion) => deletion.successor.is_some().then(mark),
            }),
            Err(Refused::NotFound(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// What makes `wanted` the desired set.
    fn difference(&mut self, wanted: Vec<NewTask>) -> Result<Change, Refused> {
        let admitted = |task| admit(task, &self.launcher);
        wanted.iter().try_for_each(admitted)?;
        let names: BTreeSet<_> = wanted.iter().map(|t| t.name.clone()).collect();
        let new = names.iter().filter(|n| self.tasks.get(n).is_none()).count();
        if self.tasks.len() + new > self.bounds.tasks_max {
            return Err(Refused::TooMany(self.bounds.tasks_max));
        }
        let now = unix_seconds();
        let mut change = Vec::new();
        for task in wanted {
            let Some(old) = self.tasks.get(&task.name) else {
                change.push(Op::Create(self.newcomer(task)));
                continue;
            };
            let is_set_already = match &old.deletion {
                None => old.asked.spec == task.spec,
                Some(deletion) => deletion.successor.as_ref().is_some_and(|s| *s.2 == task),
            };
            if !is_set_already {
                let name = task.name.clone();
                let successor = self.newcomer(task);
                change.push(Op::Mark(name, now, Some(successor)));
            }
        }
        for name in self.tasks.names().filter(|name| !names.contains(*name)) {
            change.extend(self.deletion(name, None)?);
        }
        Ok(change)
    }

    /// Follows in memory what the store has done.
    pub(super) fn carried_out(&mut self, results: Vec<Carried>) {
        let UnderWay(replies) = self.under_way.take().unwrap_or_default();
        for ((change, result), reply) in results.into_iter().zip(replies) {
            if let Reply::Own(name) = &reply {
                self.tasks.update(name, |task| task.changing = false);
            }
            match result {
                Ok(()) => {
                    self.works_again();
                    for op in change {
                        self.apply(op);
                    }
                    self.answer(reply);
                }
                Err(error) => self.failed(&error, reply),
            }
        }
    }

    fn answer(&mut self, reply: Reply) {
        // A client that has left before its answer is nobody to tell.
        match reply {
            Reply::Nobody | Reply::Own(_) => {}
            Reply::Create(name, reply) => {
                drop(reply.send(self.find(&name, None).map(Task::shown)));
            }
            Reply::Set(reply) => drop(reply.send(Ok(self.listing()))),
            Reply::Delete(reply) => drop(reply.send(Ok(()))),
        }
    }

    fn failed(&mut self, error: &io::Error, reply: Reply) {
        if !is_of_one_task(error) {
            tracing::error!(%error, "change.failed");
            self.metrics.store_error();
            self.failing = Some(match refused(error) {
                Refused::StorageFull(_) => format!("the data directory is full: {error}"),
                _ => format!("the data directory could not be written: {error}"),
            });
            self.look_later();
        }
        match reply {
            Reply::Nobody => {}
            Reply::Own(name) => self.look_again(&name),
            Reply::Create(name, reply) if is_of_one_task(error) => {
                drop(reply.send(Err(Refused::Foreign(name))));
            }
            Reply::Create(_, reply) => drop(reply.send(Err(refused(error)))),
            Reply::Set(reply) => drop(reply.send(Err(refused(error)))),
            Reply::Delete(reply) => drop(reply.send(Err(refused(error)))),
        }
    }

    fn works_again(&mut self) {
        if self.failing.take().is_some() {
            tracing::info!("data_dir.works_again");
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Create(task) => self.add(task),
            Op::Mark(name, since, successor) => {
                let since = inspect::stamp(since);
                self.tasks.update(&name, |task| {
                    task.deletion = Some(Deletion { since, successor });
                    task.draw();
                });
                self.publish(&name, ChangeKind::Modified);
                self.attend(&name);
            }
            Op::Remove(name, _, successor) => self.removed(&name, successor),
            Op::Exit(name, ..) | Op::NoPostStop(name) => self.attend(&name),
            Op::Probe => {}
        }
    }

    fn add(&mut self, (uid, created, task): Newcomer) {
        let mut task = Task::new(uid, created, task);
        let name = task.asked.name.clone();
        task.start = Start::Fresh;
        task.accepted = Some(Instant::now());
        self.tasks.insert(task);
        self.fresh.push(name.clone());
        self.publish(&name, ChangeKind::Added);
    }

    fn removed(&mut self, name: &TaskName, successor: Option<Newcomer>) {
        self.publish(name, ChangeKind::Deleted);
        self.unsettled.remove(name);
        let Some(mut old) = self.tasks.remove(name) else {
            return;
        };
        for waiter in old.waiters.drain(..) {
            // A client that has left is nobody to tell.
            let _ = waiter.send(Err(Refused::NotFound(name.clone())));
        }
        if let Some(task) = successor {
            self.add(task);
        }
    }
}
