//! The agents of the model: one in each Pod, with the meaning of `setTasks` that ours has.

use std::sync::Arc;

use sandbox_planner::agent::{Ended, Order, TaskOrder, TaskSeen};

/// The agent of one Pod and what it holds.
#[derive(Clone, Debug, Default)]
pub struct ModelAgent {
    pub task: Option<Task>,
    /// Starts when the task that is being ended is gone.
    pub next: Option<Arc<TaskOrder>>,
    pub is_cut_off: bool,
}

#[derive(Clone, Debug)]
pub struct Task {
    pub order: Arc<TaskOrder>,
    pub run: Run,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    Running,
    Ending,
    Ended(i32),
}

impl ModelAgent {
    /// `POST /setTasks`; the task that it starts, if it does.
    pub fn set(&mut self, order: &Order) -> Option<Arc<TaskOrder>> {
        self.next = match order {
            Order::Clear => None,
            Order::Set(new) => {
                let is_held = |task: &Task| task.order == *new && task.run != Run::Ending;
                if self.task.as_ref().is_some_and(is_held) {
                    return None;
                }
                Some(Arc::clone(new))
            }
        };
        match self.task.as_mut() {
            Some(task) if matches!(task.run, Run::Running | Run::Ending) => {
                task.run = Run::Ending;
                None
            }
            Some(_) | None => self.start_next(),
        }
    }

    /// What was being ended is gone.
    pub fn end(&mut self) -> Option<Arc<TaskOrder>> {
        let is_ending = |task: &Task| task.run == Run::Ending;
        if self.task.as_ref().is_some_and(is_ending) {
            return self.start_next();
        }
        None
    }

    fn start_next(&mut self) -> Option<Arc<TaskOrder>> {
        self.task = self.next.take().map(|order| Task {
            order,
            run: Run::Running,
        });
        self.task.as_ref().map(|task| Arc::clone(&task.order))
    }

    /// What it answers about an order.
    pub fn says_of(&self, order: &Order) -> TaskSeen {
        let Some(task) = &self.task else {
            return TaskSeen::Absent;
        };
        let is_asked = matches!(order, Order::Set(asked) if *asked == task.order);
        match task.run {
            Run::Running if is_asked => TaskSeen::Running,
            Run::Ended(exit_code) if is_asked => TaskSeen::Ended(Ended {
                exit_code,
                reason: if exit_code == 0 {
                    "Succeeded"
                } else {
                    "Failed"
                }
                .to_owned(),
            }),
            Run::Running | Run::Ending | Run::Ended(_) => TaskSeen::Waiting,
        }
    }
}
