//! A manager that keeps names only and does what the test says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sandbox_api::{TaskName, TaskUid};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use crate::manager::handle::{
    Change, ChangeKind, Command, Gone, Handle, Health, Listing, LogSource, Refused, Shown,
    Subscription,
};

/// Events that a slow watcher may fall behind.
const HISTORY: usize = 4;
/// The oldest version that a watch can start from.
const OLDEST: u64 = 5;

#[derive(Clone)]
pub(super) struct Fake {
    state: Arc<Mutex<State>>,
    /// Notified of every command that was taken.
    taken: Arc<Notify>,
}

type Waiting = (TaskName, oneshot::Sender<Result<Shown, Refused>>);

pub(super) struct State {
    pub(super) tasks: BTreeMap<TaskName, TaskUid>,
    pub(super) version: u64,
    pub(super) refusal: Option<Refused>,
    pub(super) health: Health,
    /// Commands are taken, but not answered.
    pub(super) silent: bool,
    pub(super) log_dir: PathBuf,
    /// Ends of the logs that are followed.
    pub(super) followers: Vec<oneshot::Sender<()>>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) unanswered: Vec<Command>,
    live: broadcast::Sender<Change>,
}

impl Fake {
    pub(super) fn start() -> (Self, Handle) {
        let (commands, mut queue) = mpsc::channel(8);
        let state = State {
            tasks: BTreeMap::new(),
            version: 10,
            refusal: None,
            health: Health::default(),
            silent: false,
            log_dir: PathBuf::from("/nonexistent"),
            followers: Vec::new(),
            waiting: Vec::new(),
            unanswered: Vec::new(),
            live: broadcast::Sender::new(HISTORY),
        };
        let fake = Self {
            state: Arc::new(Mutex::new(state)),
            taken: Arc::default(),
        };
        let worker = fake.clone();
        tokio::spawn(async move {
            while let Some(command) = queue.recv().await {
                worker.state().take(command);
                worker.taken.notify_waiters();
            }
        });
        (fake, Handle::new(commands))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the commands so far have led to this.
    pub(super) async fn until(&self, reached: impl Fn(&State) -> bool) {
        super::soon(async {
            loop {
                let taken = self.taken.notified();
                if reached(&self.state()) {
                    return;
                }
                taken.await;
            }
        })
        .await;
    }

    /// Ends a task: whoever waits for it gets his answer.
    pub(super) fn finish(&self, name: &str) {
        let waiting = std::mem::take(&mut self.state().waiting);
        let (over, others) = waiting
            .into_iter()
            .partition::<Vec<_>, _>(|(task, _)| task.as_str() == name);
        self.state().waiting = others;
        for (name, reply) in over {
            let _gone = reply.send(Ok(shown(&name)));
        }
    }
}

impl State {
    pub(super) fn add(&mut self, name: &str) {
        let task = TaskName::parse(name).unwrap();
        self.tasks.insert(
            task,
            TaskUid::parse(&format!("uid-{name}").replace('.', "-")).unwrap(),
        );
    }

    pub(super) fn change(&mut self, kind: ChangeKind, name: &str) {
        self.version += 1;
        let object = Bytes::from(format!("{{\"name\":\"{name}\"}}"));
        let _nobody_watches = self.live.send(Change {
            kind,
            version: self.version,
            object,
        });
    }

    fn take(&mut self, command: Command) {
        if self.silent {
            self.unanswered.push(command);
            return;
        }
        match command {
            Command::Create(task, reply) => {
                let answer = match self.refusal.clone() {
                    Some(refusal) => Err(refusal),
                    None if self.tasks.contains_key(&task.name) => Err(Refused::Exists(task.name)),
                    None => {
                        self.add(task.name.as_str());
                        Ok(shown(&task.name))
                    }
                };
                let _gone = reply.send(answer);
            }
            Command::Set(tasks, reply) => {
                self.tasks.clear();
                for task in &tasks {
                    self.add(task.name.as_str());
                }
                self.version += 1;
                let _gone =
                    reply.send(self.refusal.clone().map_or_else(|| Ok(self.listing()), Err));
            }
            Command::Delete(name, uid, reply) => {
                let answer = match self.find(&name, uid) {
                    Ok(()) => {
                        self.tasks.remove(&name);
                        Ok(())
                    }
                    Err(Refused::NotFound(_)) => Ok(()),
                    Err(refused) => Err(refused),
                };
                let _gone = reply.send(answer);
            }
            Command::Get(name, uid, reply) => {
                let _gone = reply.send(self.find(&name, uid).map(|()| shown(&name)));
            }
            Command::Wait(name, uid, reply) => match self.find(&name, uid) {
                Ok(()) => self.waiting.push((name, reply)),
                Err(refused) => drop(reply.send(Err(refused))),
            },
            Command::List(reply) => drop(reply.send(self.listing())),
            Command::Watch(since, reply) => drop(reply.send(self.subscribe(since))),
            Command::Logs(name, uid, reply) => {
                let source = self.find(&name, uid).map(|()| {
                    let (end, ended) = oneshot::channel();
                    self.followers.push(end);
                    LogSource {
                        dir: self.log_dir.clone(),
                        ended,
                    }
                });
                let _gone = reply.send(source);
            }
            Command::Health(reply) => drop(reply.send(self.health.clone())),
        }
    }

    fn find(&self, name: &TaskName, wanted: Option<TaskUid>) -> Result<(), Refused> {
        let Some(found) = self.tasks.get(name) else {
            return Err(Refused::NotFound(name.clone()));
        };
        match wanted {
            Some(wanted) if wanted != *found => Err(Refused::UidMismatch {
                name: name.clone(),
                found: found.clone(),
                wanted,
            }),
            _ => Ok(()),
        }
    }

    fn listing(&self) -> Listing {
        let names: Vec<_> = self
            .tasks
            .keys()
            .map(|name| format!("{{\"name\":\"{name}\"}}"))
            .collect();
        Listing {
            body: format!("[{}]", names.join(",")).into(),
            version: self.version,
        }
    }

    fn subscribe(&self, since: Option<u64>) -> Result<Subscription, Gone> {
        if let Some(asked) = since.filter(|since| *since < OLDEST) {
            return Err(Gone {
                asked,
                oldest: OLDEST,
                newest: self.version,
            });
        }
        let added = self.tasks.keys().filter(|_| since.is_none());
        let backlog = added
            .map(|name| Change {
                kind: ChangeKind::Added,
                version: self.version,
                object: shown(name).body,
            })
            .collect();
        Ok(Subscription {
            backlog,
            version: self.version,
            live: self.live.subscribe(),
        })
    }
}

fn shown(name: &TaskName) -> Shown {
    Shown {
        body: format!("{{\"name\":\"{name}\"}}").into(),
    }
}
