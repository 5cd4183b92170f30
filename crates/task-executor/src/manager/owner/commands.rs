//! What the owner does for each command.

use sandbox_api::{NewTask, State, TaskName, TaskUid, Work};
use tokio::sync::oneshot;

use super::super::handle::{
    Change, ChangeKind, Command, Gone, Health, Listing, LogSource, Refused, Shown, Subscription,
};
use super::super::inspect;
use super::super::tasks::{Deletion, Successor, Task};
use super::{Owner, new_uid, refused, unix_seconds};

impl Owner {
    pub(super) fn obey(&mut self, command: Command) {
        // A client that has left before its answer is nobody to tell.
        match command {
            Command::Create(task, reply) => drop(reply.send(self.create(*task))),
            Command::Set(tasks, reply) => drop(reply.send(self.set(tasks))),
            Command::Delete(name, uid, reply) => drop(reply.send(self.delete(&name, uid.as_ref()))),
            Command::Get(name, uid, reply) => {
                drop(reply.send(self.find(&name, uid.as_ref()).map(Task::shown)));
            }
            Command::Wait(name, uid, reply) => self.wait(&name, uid.as_ref(), reply),
            Command::List(reply) => drop(reply.send(self.listing())),
            Command::Watch(since, reply) => drop(reply.send(self.watch(since))),
            Command::Logs(name, uid, reply) => drop(reply.send(self.logs(&name, uid.as_ref()))),
            Command::Health(reply) => drop(reply.send(self.health())),
        }
        self.start_waiting();
    }

    fn find(&self, name: &TaskName, uid: Option<&TaskUid>) -> Result<&Task, Refused> {
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

    fn create(&mut self, task: NewTask) -> Result<Shown, Refused> {
        admit(&task)?;
        if self.tasks.contains_key(&task.name) {
            return Err(Refused::Exists(task.name));
        }
        if self.tasks.len() >= self.bounds.tasks_max {
            return Err(Refused::TooMany(self.bounds.tasks_max));
        }
        let name = self.add(task)?;
        self.find(&name, None).map(Task::shown)
    }

    fn add(&mut self, task: NewTask) -> Result<TaskName, Refused> {
        let uid = new_uid();
        self.created += 1;
        self.store
            .create(&uid, self.created, &task)
            .map_err(|error| {
                self.metrics.store_error();
                refused(&error)
            })?;
        let name = task.name.clone();
        self.tasks
            .insert(name.clone(), Task::new(uid, self.created, task));
        self.publish(&name, ChangeKind::Added);
        Ok(name)
    }

    fn set(&mut self, wanted: Vec<NewTask>) -> Result<Listing, Refused> {
        wanted.iter().try_for_each(admit)?;
        let new = wanted
            .iter()
            .filter(|t| !self.tasks.contains_key(&t.name))
            .count();
        if self.tasks.len() + new > self.bounds.tasks_max {
            return Err(Refused::TooMany(self.bounds.tasks_max));
        }
        let names: std::collections::BTreeSet<_> = wanted.iter().map(|t| t.name.clone()).collect();
        for task in wanted {
            match self.tasks.get(&task.name) {
                None => drop(self.add(task)?),
                Some(old) if old.deletion.is_none() && old.asked.spec == task.spec => {}
                Some(old) => {
                    let same = old
                        .deletion
                        .as_ref()
                        .and_then(|d| d.successor.as_ref())
                        .is_some_and(|s| s.1 == task);
                    if !same {
                        let name = task.name.clone();
                        self.mark(&name, Some((new_uid(), task)))?;
                    }
                }
            }
        }
        let unwanted: Vec<_> = self
            .tasks
            .keys()
            .filter(|n| !names.contains(*n))
            .cloned()
            .collect();
        for name in unwanted {
            self.delete(&name, None)?;
        }
        Ok(self.listing())
    }

    pub(super) fn delete(&mut self, name: &TaskName, uid: Option<&TaskUid>) -> Result<(), Refused> {
        match self.find(name, uid) {
            Ok(task)
                if task
                    .deletion
                    .as_ref()
                    .is_some_and(|d| d.successor.is_none()) =>
            {
                Ok(())
            }
            Ok(_) => self.mark(name, None),
            Err(Refused::NotFound(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    fn mark(&mut self, name: &TaskName, successor: Option<Successor>) -> Result<(), Refused> {
        let now = unix_seconds();
        self.store
            .mark(name, now, successor.as_ref())
            .map_err(|error| refused(&error))?;
        if let Some(task) = self.tasks.get_mut(name) {
            task.deletion = Some(Deletion {
                since: inspect::stamp(now),
                successor,
            });
            task.draw();
        }
        self.publish(name, ChangeKind::Modified);
        self.attend(name);
        Ok(())
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
                if let Some(task) = self.tasks.get_mut(name) {
                    task.waiters.retain(|w| !w.is_closed());
                    task.waiters.push(reply);
                }
                return;
            }
            Err(refused) => Err(refused),
        };
        // A client that has left is nobody to tell.
        let _ = reply.send(answer);
    }

    fn in_order(&self) -> impl Iterator<Item = &Task> {
        let live = self.tasks.values().filter(|t| t.deletion.is_none());
        live.chain(self.tasks.values().filter(|t| t.deletion.is_some()))
    }

    fn listing(&mut self) -> Listing {
        if self.list.is_none() {
            let mut body = Vec::with_capacity(
                2 + self.tasks.values().map(|t| t.body.len() + 1).sum::<usize>(),
            );
            body.push(b'[');
            for (index, task) in self.in_order().enumerate() {
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
            version: self.version,
        }
    }

    fn watch(&self, since: Option<u64>) -> Result<Subscription, Gone> {
        let live = self.events.subscribe();
        let Some(asked) = since else {
            let version = self.version;
            let added = |t: &Task| Change {
                kind: ChangeKind::Added,
                version,
                object: t.body.clone(),
            };
            return Ok(Subscription {
                backlog: self.in_order().map(added).collect(),
                version,
                live,
            });
        };
        let oldest = self
            .history
            .front()
            .map_or(self.version, |change| change.version - 1);
        if asked < oldest || asked > self.version {
            return Err(Gone {
                asked,
                oldest,
                newest: self.version,
            });
        }
        let backlog = self
            .history
            .iter()
            .filter(|change| change.version > asked)
            .cloned()
            .collect();
        Ok(Subscription {
            backlog,
            version: self.version,
            live,
        })
    }

    fn logs(&mut self, name: &TaskName, uid: Option<&TaskUid>) -> Result<LogSource, Refused> {
        let over = self.find(name, uid)?.is_over();
        let (sender, ended) = oneshot::channel();
        if !over && let Some(task) = self.tasks.get_mut(name) {
            task.readers.retain(|r| !r.is_closed());
            task.readers.push(sender);
        }
        Ok(LogSource {
            dir: self.store.dir(name),
            ended,
        })
    }

    fn health(&self) -> Health {
        let count = |pick: fn(&Task) -> bool| self.tasks.values().filter(|t| pick(t)).count();
        Health {
            failing: self.failing.clone(),
            waiting: count(|t| matches!(t.state, State::Waiting { .. })),
            running: count(|t| matches!(t.state, State::Running { .. })),
            terminated: count(Task::is_over),
            deleting: count(|t| t.deletion.is_some()),
            corrupt: self.corrupt.clone(),
        }
    }
}

/// Whether this agent can run a task at all.
fn admit(task: &NewTask) -> Result<(), Refused> {
    match &task.spec.work {
        Work::Process(_) => Ok(()),
        Work::Container(_) | Work::Pod(_) => Err(Refused::Unsupported(format!(
            "task {}: container tasks need --enable-container-mode; use process instead",
            task.name
        ))),
    }
}
