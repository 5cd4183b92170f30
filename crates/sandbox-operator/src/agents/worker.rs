//! One agent: told what to have, listened to until that is over.
//!
//! ```text
//!   order ──► setTasks ──► answer ──► over? ──yes──► silence, until the next order
//!                ▲                     │no
//!                │             ┌───────┴────────┐
//!                │           watch            poll, if the agent has no watch
//!                └── lost, or gone wrong ◄──────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sandbox_api::ReportedState;
use sandbox_planner::agent::{Ended, Order, TaskSeen};
use sandbox_planner::engine::{Heard, Input, Key};
use serde_json::Value;
use task_client::{CallError, Change, Endpoint, ResourceVersion, Task, Watching};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Assigned, Shared};
use crate::observe::News;

/// First pause after a call that failed; doubled with each.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// First and longest pause between polls of an agent without a watch.
const POLL_MIN: Duration = Duration::from_millis(500);
const POLL_MAX: Duration = Duration::from_secs(5);

/// Attends to one agent.
pub(super) struct Worker {
    shared: Arc<Shared>,
    batch: Key,
    pod_uid: String,
    orders: watch::Receiver<Assigned>,
    told: Option<Result<TaskSeen, ()>>,
    failures: u32,
}

/// Why following an order ended.
enum Ending {
    /// It is carried out and nothing will change by itself.
    Over,
    /// There is another order.
    NewOrder,
    /// Begin again with it.
    Again,
}

/// An order with what is needed to carry it out.
struct Work {
    at: Endpoint,
    order: Order,
    round: u64,
    body: Bytes,
    /// The member of the sent task that says what to run.
    sent: Value,
    begun: Instant,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        batch: Key,
        pod_uid: String,
        orders: watch::Receiver<Assigned>,
    ) -> Self {
        Self {
            shared,
            batch,
            pod_uid,
            orders,
            told: None,
            failures: 0,
        }
    }

    /// Follows one order after the other, until nobody gives any more.
    pub(super) async fn run(mut self) {
        loop {
            let assigned = self.orders.borrow_and_update().clone();
            let work = self.work(assigned);
            self.told = None;
            let ending = self.follow_through(&work).await;
            if matches!(ending, Ending::Over) && self.orders.changed().await.is_err() {
                return;
            }
            if self.orders.has_changed().is_err() {
                return;
            }
        }
    }

    fn work(&self, assigned: Assigned) -> Work {
        let Assigned { assignment, round } = assigned;
        let (body, sent) = match &assignment.order {
            Order::Set(task) => (Bytes::from(task.body.clone()), sent(&task.body)),
            Order::Clear => (Bytes::from_static(b"[]"), Value::Null),
        };
        Work {
            at: self.shared.endpoint(assignment.address),
            order: assignment.order,
            round,
            body,
            sent,
            begun: Instant::now(),
        }
    }

    async fn follow_through(&mut self, work: &Work) -> Ending {
        loop {
            // Not cancelled by a new order: two orders must never be on their way at once.
            let answer = self
                .call(self.shared.client.set_tasks(&work.at, work.body.clone()))
                .await;
            let ending = match answer {
                Ok(list) => {
                    if self.failures > 0 || self.told.is_none() {
                        self.shared.metrics.dispatched(work.begun.elapsed());
                    }
                    match list.version {
                        Some(version) => self.listen(work, list.tasks, version).await,
                        None => self.poll(work, list.tasks).await,
                    }
                }
                Err(error) => Err(error),
            };
            match ending {
                Ok(Ending::Again) => {}
                Ok(ending) => return ending,
                Err(error) => self.tell_failure(work, &error).await,
            }
            if self.pause().await {
                return Ending::NewOrder;
            }
        }
    }

    /// Listens to an agent with a watch, from a list on.
    async fn listen(
        &mut self,
        work: &Work,
        mut tasks: Vec<Task>,
        version: ResourceVersion,
    ) -> Result<Ending, CallError> {
        if self.tell(work, &tasks).await {
            return Ok(Ending::Over);
        }
        let opening = self.shared.client.watch_tasks(&work.at, Some(version));
        let mut watch = match self.call(opening).await {
            Ok(Watching::Live(watch)) => watch,
            Ok(Watching::Unsupported(list)) => return self.poll(work, list.tasks).await,
            Err(error) if error.is_gone() => return Ok(Ending::Again),
            Err(error) => return Err(error),
        };
        loop {
            let event = tokio::select! {
                // Cancel-safe, as its documentation says.
                event = watch.next() => event?,
                _ = self.orders.changed() => return Ok(Ending::NewOrder),
            };
            let Some(event) = event else {
                return Ok(Ending::Again); // The agent stops; it will be back, or its Pod goes.
            };
            self.failures = 0;
            match event.change {
                Change::Bookmark => continue,
                Change::Added(task) | Change::Modified(task) => {
                    tasks.retain(|known| known.report.name != task.report.name);
                    tasks.push(task);
                }
                Change::Deleted(task) => {
                    tasks.retain(|known| known.report.name != task.report.name);
                }
            }
            if self.tell(work, &tasks).await {
                return Ok(Ending::Over);
            }
            if self.is_missing(work) {
                return Ok(Ending::Again);
            }
        }
    }

    /// Asks an agent without a watch again and again, less and less often while nothing changes.
    async fn poll(&mut self, work: &Work, mut tasks: Vec<Task>) -> Result<Ending, CallError> {
        let mut pause = POLL_MIN;
        loop {
            if is_other(work, &tasks) {
                return self.replace(work).await;
            }
            let before = self.told.clone();
            if self.tell(work, &tasks).await {
                return Ok(Ending::Over);
            }
            if self.is_missing(work) {
                return Ok(Ending::Again);
            }
            if before != self.told {
                pause = POLL_MIN;
            }
            if self.sleep(pause).await {
                return Ok(Ending::NewOrder);
            }
            pause = (pause * 2).min(POLL_MAX);
            tasks = self
                .call(self.shared.client.get_tasks(&work.at))
                .await?
                .tasks;
            self.failures = 0;
        }
    }

    /// `OpenSandbox`'s agent passes over a changed spec: the old task has to be gone first.
    async fn replace(&mut self, work: &Work) -> Result<Ending, CallError> {
        let none = Bytes::from_static(b"[]");
        let mut list = self
            .call(self.shared.client.set_tasks(&work.at, none))
            .await?;
        while !list.tasks.is_empty() {
            self.tell_seen(work, TaskSeen::Waiting).await;
            if self.sleep(POLL_MIN).await {
                return Ok(Ending::NewOrder);
            }
            list = self.call(self.shared.client.get_tasks(&work.at)).await?;
        }
        Ok(Ending::Again)
    }

    /// One call, with a place among all calls, and only while this process may act.
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let _permit = self.shared.permits.acquire().await;
        while !self.shared.leadership.is_held() {
            tokio::time::sleep(PAUSE_MAX).await;
        }
        let result = call.await;
        self.shared.metrics.called_agent(result.is_ok());
        result
    }

    /// Tells what the agent shows; whether that is the end of it.
    async fn tell(&mut self, work: &Work, tasks: &[Task]) -> bool {
        self.failures = 0;
        let seen = seen(&work.order, tasks);
        let is_over = match (&work.order, &seen) {
            (Order::Set(_), TaskSeen::Ended(_)) | (Order::Clear, TaskSeen::Absent) => true,
            (Order::Set(_) | Order::Clear, _) => false,
        };
        self.tell_seen(work, seen).await;
        is_over
    }

    async fn tell_seen(&mut self, work: &Work, seen: TaskSeen) {
        if self.told.as_ref() == Some(&Ok(seen.clone())) {
            return;
        }
        self.told = Some(Ok(seen.clone()));
        self.send(work.round, Ok(seen)).await;
    }

    async fn tell_failure(&mut self, work: &Work, error: &CallError) {
        if self.told == Some(Err(())) {
            return;
        }
        self.told = Some(Err(()));
        self.send(work.round, Err(error.to_string())).await;
    }

    async fn send(&self, round: u64, news: Result<TaskSeen, String>) {
        let heard = Heard {
            batch: self.batch.clone(),
            pod_uid: self.pod_uid.clone(),
            round,
            news,
        };
        // When nobody listens any more, this worker is about to be ended.
        let _ = self
            .shared
            .news
            .send(News::Input(Box::new(Input::Heard(heard))))
            .await;
    }

    /// Whether the agent has lost the task that it was told to have.
    fn is_missing(&self, work: &Work) -> bool {
        matches!(work.order, Order::Set(_)) && self.told == Some(Ok(TaskSeen::Absent))
    }

    /// The pause after a failure. True when there is another order.
    async fn pause(&mut self) -> bool {
        let pause = PAUSE_MIN
            .saturating_mul(1 << self.failures.min(10))
            .min(PAUSE_MAX);
        self.failures += 1;
        self.sleep(spread(pause, &self.pod_uid, self.failures))
            .await
    }

    /// Sleeps. True when there is another order.
    async fn sleep(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => false,
            _ = self.orders.changed() => true,
        }
    }
}

/// Three quarters to five quarters of a pause, other for each Pod: agents that failed together are not asked again
/// together.
fn spread(pause: Duration, pod_uid: &str, attempt: u32) -> Duration {
    let seed = pod_uid.bytes().fold(attempt, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(byte))
    });
    pause.mul_f64(0.75 + f64::from(seed % 512) / 1024.0)
}

/// What the sent task says is to be run.
fn sent(body: &str) -> Value {
    let mut tasks: Value = serde_json::from_str(body).unwrap_or_default();
    let mut task = tasks.get_mut(0).map(Value::take).unwrap_or_default();
    for member in ["process", "spec"] {
        if let Some(value) = task.get_mut(member) {
            return value.take();
        }
    }
    Value::Null
}

/// Whether the agent still holds on to another task of the same name.
fn is_other(work: &Work, tasks: &[Task]) -> bool {
    let Order::Set(order) = &work.order else {
        return false;
    };
    let known = tasks.iter().find(|task| task.report.name == order.name);
    known.is_some_and(|task| task.spec.is_some() && !task.shows(&work.sent))
}

/// What an agent shows of the order.
fn seen(order: &Order, tasks: &[Task]) -> TaskSeen {
    let task = match order {
        Order::Set(order) => tasks.iter().find(|task| task.report.name == order.name),
        Order::Clear => tasks.first(),
    };
    let Some(task) = task else {
        return TaskSeen::Absent;
    };
    if task.report.deletion_timestamp.is_some() || *order == Order::Clear {
        return TaskSeen::Waiting; // An earlier task that is being ended.
    }
    match &task.report.state {
        Some(ReportedState::Running { .. }) => TaskSeen::Running,
        Some(ReportedState::Terminated {
            exit_code, reason, ..
        }) => TaskSeen::Ended(Ended {
            exit_code: *exit_code,
            reason: reason.clone(),
        }),
        Some(ReportedState::Waiting { .. }) | None => TaskSeen::Waiting,
    }
}
