//! What an agent is to do, and what it was last heard to say.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

/// What one agent is to have, until told otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// This task and no other.
    Set(Arc<TaskOrder>),
    /// No task at all, nothing of it running.
    Clear,
}

/// A task, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskOrder {
    /// Name of the task.
    pub name: String,
    /// Body of `POST /setTasks`: a JSON array with this one task.
    pub body: String,
}

impl Order {
    /// Whether an answer to `other` is an answer to this order.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Set(one), Self::Set(two)) => Arc::ptr_eq(one, two) || one == two,
            (Self::Clear, Self::Clear) => true,
            (Self::Set(_), Self::Clear) | (Self::Clear, Self::Set(_)) => false,
        }
    }
}

/// Where an order is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Address of the Pod.
    pub address: IpAddr,
    /// What its agent is to have.
    pub order: Order,
}

/// What was heard from the agent of one Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agent {
    /// The latest answer and the order that it answers.
    pub answer: Option<(Order, TaskSeen)>,
    /// Since when it does not answer, and the latest error; [`None`] when it did last time.
    pub failing: Option<Failing>,
    /// Since when it has been asked to clear; for the limit on how long that may hold things up.
    pub clearing_since: Option<Timestamp>,
}

/// An agent that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Since when.
    pub since: Timestamp,
    /// What went wrong last, for people.
    pub error: String,
}

/// The ordered task as its agent shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskSeen {
    /// The agent has no task: an order to clear is done.
    Absent,
    /// Accepted, or an earlier task is still being ended.
    Waiting,
    /// Started.
    Running,
    /// Over.
    Ended(Ended),
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; 0 alone is success.
    pub exit_code: i32,
    /// The agent's word for it, such as `TaskTimeout`.
    pub reason: String,
}

impl Agent {
    /// What this agent says of `order`; [`None`] when it has not answered that one yet.
    pub fn says_of(&self, order: &Order) -> Option<&TaskSeen> {
        let (answered, seen) = self.answer.as_ref()?;
        answered.is_same(order).then_some(seen)
    }

    /// Whether it is known that nothing runs there.
    pub fn is_clear(&self) -> bool {
        matches!(&self.answer, Some((Order::Clear, TaskSeen::Absent)))
    }
}
