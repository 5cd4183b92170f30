//! What the owner does for each command.

use sandbox_api::{TaskName, TaskUid};
use tokio::sync::oneshot;

use super::super::handle::{Command, Health, Listing, LogSource, Refused, Shown};
use super::super::tasks::Task;
use super::Owner;
use super::changes::Request;

impl Owner {
    pub(super) fn obey(&mut self, command: Command) {
        // A client that has left before its answer is nobody to tell.
        match command {
            Command::Create(task, reply) => self.pending.push_back(Request::Create(task, reply)),
            Command::Set(tasks, reply) => self.pending.push_back(Request::Set(tasks, reply)),
            Command::Delete(name, uid, reply) => {
                self.pending.push_back(Request::Delete(name, uid, reply));
            }
            Command::Get(name, uid, reply) => {
                drop(reply.send(self.find(&name, uid.as_ref()).map(Task::shown)));
            }
            Command::Wait(name, uid, reply) => self.wait(&name, uid.as_ref(), reply),
            Command::List(reply) => drop(reply.send(self.listing())),
            Command::Watch(since, reply) => {
                let now = self.tasks.in_order().map(|task| task.body.clone());
                drop(reply.send(self.feed.watch(since, now)));
            }
            Command::Logs(name, uid, reply) => drop(reply.send(self.logs(&name, uid.as_ref()))),
            Command::Health(reply) => drop(reply.send(self.health())),
        }
    }

    pub(super) fn find(&self, name: &TaskName, uid: Option<&TaskUid>) -> Result<&Task, Refused> {
        let task = self
            .tasks
            .get(name)
            .ok_or_else(|| Refused::NotFound(name.clone()))?;
        match uid {
            Some(wanted) if *wanted != task.uid => Err(Refused::UidMismatch {
                name: name.clone(),
                found: task.uid.clone(),
                wanted: wanted.clone(),
            }),
            _ => Ok(task),
        }
    }

    fn wait(
        &mut self,
        name: &TaskName,
        uid: Option<&TaskUid>,
        reply: oneshot::Sender<Result<Shown, Refused>>,
    ) {
        let answer = match self.find(name, uid) {
            Ok(task) if task.is_over() => Ok(task.shown()),
            Ok(_) => {
                self.tasks.update(name, |task| {
                    task.waiters.retain(|w| !w.is_closed());
                    task.waiters.push(reply);
                });
                return;
            }
            Err(refused) => Err(refused),
        };
        // A client that has left is nobody to tell.
        let _ = reply.send(answer);
    }

    pub(super) fn listing(&mut self) -> Listing {
        if self.list.is_none() {
            let mut body = Vec::with_capacity(
                2 + self.tasks.values().map(|t| t.body.len() + 1).sum::<usize>(),
            );
            body.push(b'[');
            for (index, task) in self.tasks.in_order().enumerate() {
                if index > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(&task.body);
            }
            body.push(b']');
            self.list = Some(body.into());
        }
        Listing {
            body: self.list.clone().unwrap_or_default(),
            version: self.feed.version(),
        }
    }

    fn logs(&mut self, name: &TaskName, uid: Option<&TaskUid>) -> Result<LogSource, Refused> {
        let over = self.find(name, uid)?.is_over();
        let (sender, ended) = oneshot::channel();
        if !over {
            self.tasks.update(name, |task| {
                task.readers.retain(|r| !r.is_closed());
                task.readers.push(sender);
            });
        }
        Ok(LogSource {
            dir: self.store.dir(name),
            ended,
        })
    }

    fn health(&self) -> Health {
        Health {
            failing: self.failing.clone(),
            corrupt: self.corrupt.clone(),
            ..self.tasks.health()
        }
    }
}
