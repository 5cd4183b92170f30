//! The tasks of the stand-in: what its model's manager does with them, tick by tick.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use sandbox_api::Timestamp;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// What the shell around a task writes down as soon as it is asked to stop.
const STOPPED: i32 = 143;
/// Members of `process` that the model knows; it drops the others.
const PROCESS_MEMBERS: [&str; 4] = ["args", "env", "workingDir", "timeoutSeconds"];

/// All tasks there are.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// A hash map, so that a list has no order, as its model's has none.
    by_name: HashMap<String, Task>,
    starts: BTreeMap<String, usize>,
    /// Processes of tasks that are gone from the list; the model forgets them.
    leftovers: Vec<Child>,
}

#[derive(Debug)]
struct Task {
    process: Value,
    child: Option<Child>,
    started_at: Option<Timestamp>,
    started: Instant,
    /// The exit code that is on record, shown at the next tick.
    recorded: Option<i32>,
    shown: Shown,
    is_deleting: bool,
}

/// What clients see.
#[derive(Debug)]
enum Shown {
    Running,
    Ended {
        exit_code: i32,
        finished_at: Option<Timestamp>,
    },
}

impl Tasks {
    /// How often which tasks were started.
    pub(super) fn starts(&self) -> &BTreeMap<String, usize> {
        &self.starts
    }

    /// One task as clients see it.
    pub(super) fn show(&self, name: &str) -> Option<Value> {
        self.by_name.get(name).map(|task| task.show(name))
    }

    /// All tasks as clients see them.
    pub(super) fn list(&self) -> Value {
        self.by_name
            .iter()
            .map(|(name, task)| task.show(name))
            .collect()
    }

    /// Creates and starts a task.
    pub(super) fn create(&mut self, name: &str, task: &Value) -> Result<(), String> {
        if self.by_name.contains_key(name) {
            return Err(format!("task {name} already exists"));
        }
        let is_active = |task: &Task| !task.is_deleting && matches!(task.shown, Shown::Running);
        if self.by_name.values().any(is_active) {
            return Err("maximum concurrent tasks (1) reached, cannot create new task".to_owned());
        }
        let process = match &task["process"] {
            Value::Null => {
                let text = "container mode is not implemented yet - use process mode instead";
                return Err(text.to_owned());
            }
            process => known_members(process),
        };
        let (child, recorded) = spawn(&process)?;
        *self.starts.entry(name.to_owned()).or_default() += 1;
        let task = Task {
            process,
            child,
            started_at: now(),
            started: Instant::now(),
            recorded,
            shown: Shown::Running,
            is_deleting: false,
        };
        self.by_name.insert(name.to_owned(), task);
        Ok(())
    }

    /// Marks a task for deletion, which the ticks to come carry out.
    pub(super) fn delete(&mut self, name: &str) {
        if let Some(task) = self.by_name.get_mut(name) {
            task.is_deleting = true;
        }
    }

    /// Deletes what is not desired, then creates what is not there. What is there is left as it
    /// is: ended, being deleted, or of another spec. One failure does not undo the rest.
    pub(super) fn set(&mut self, desired: &[Value]) -> Result<(), String> {
        let desired: Vec<_> = desired
            .iter()
            .filter_map(|task| Some((task["name"].as_str()?, task)))
            .filter(|(name, _)| !name.is_empty())
            .collect();
        for (name, task) in &mut self.by_name {
            task.is_deleting |= !desired.iter().any(|(wanted, _)| wanted == name);
        }
        let mut problems = Vec::new();
        for (name, task) in desired {
            if !self.by_name.contains_key(name)
                && let Err(problem) = self.create(name, task)
            {
                problems.push(format!("failed to create task {name}: {problem}"));
            }
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(problems.join("\n"))
        }
    }

    /// What happens every half second: ends are seen, deletions go on.
    pub(super) fn tick(&mut self) {
        for task in self.by_name.values_mut() {
            task.inspect();
            if matches!(task.shown, Shown::Running) && (task.is_deleting || task.is_overdue()) {
                task.stop();
            }
        }
        let gone = self
            .by_name
            .extract_if(|_, task| task.is_deleting && !matches!(task.shown, Shown::Running));
        self.leftovers
            .extend(gone.filter_map(|(_, task)| task.child));
        self.leftovers
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    /// Ends everything that still runs, with all that it has started.
    pub(super) fn kill_all(&mut self) {
        let tasks = self.by_name.drain().filter_map(|(_, task)| task.child);
        for child in self.leftovers.drain(..).chain(tasks) {
            // A child that was waited for has no pid, so that nobody else's is hit.
            if let Some(pid) = pid(&child) {
                // It may have ended just now.
                let _may_be_gone = killpg(pid, Signal::SIGKILL);
            }
        }
    }
}

impl Task {
    fn show(&self, name: &str) -> Value {
        let status = match &self.shown {
            Shown::Running => json!({"running": {"startedAt": self.started_at}}),
            Shown::Ended {
                exit_code,
                finished_at,
            } => json!({"terminated": {
                "exitCode": exit_code,
                "reason": if *exit_code == 0 { "Succeeded" } else { "Failed" },
                "startedAt": self.started_at,
                "finishedAt": finished_at,
            }}),
        };
        json!({"name": name, "process": self.process, "processStatus": status})
    }

    fn inspect(&mut self) {
        if !matches!(self.shown, Shown::Running) {
            return;
        }
        if self.recorded.is_none() {
            let status = self.child.as_mut().and_then(|child| child.try_wait().ok());
            self.recorded = status.flatten().map(shell_code);
        }
        if let Some(exit_code) = self.recorded {
            let finished_at = now();
            self.shown = Shown::Ended {
                exit_code,
                finished_at,
            };
        }
    }

    fn is_overdue(&self) -> bool {
        let seconds = self.process["timeoutSeconds"].as_u64();
        seconds.is_some_and(|seconds| self.started.elapsed() > Duration::from_secs(seconds))
    }

    /// Asks the task to end, and puts on record that it has, whatever it does.
    fn stop(&mut self) {
        if let Some(pid) = self.child.as_ref().and_then(pid) {
            // It may have ended just now.
            let _may_be_gone = kill(pid, Signal::SIGTERM);
        }
        self.recorded = Some(STOPPED);
    }
}

fn pid(child: &Child) -> Option<Pid> {
    let id = i32::try_from(child.id()?).ok()?;
    Some(Pid::from_raw(id))
}

fn now() -> Option<Timestamp> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::from_unix_seconds(i64::try_from(since.ok()?.as_secs()).ok()?)
}

/// The exit code as a shell sees it.
fn shell_code(status: ExitStatus) -> i32 {
    let signal = status.signal().map(|signal| 128 + signal);
    status.code().or(signal).unwrap_or(255)
}

/// A process as the model keeps it: `command` always, the rest unless it is empty.
fn known_members(process: &Value) -> Value {
    let mut known = json!({"command": process["command"]});
    for name in PROCESS_MEMBERS {
        let is_empty = match &process[name] {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        };
        if !is_empty {
            known[name] = process[name].clone();
        }
    }
    known
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Starts a process in a group of its own. A program that is not there or can't be executed is what
/// the shell around it says: an exit code.
fn spawn(process: &Value) -> Result<(Option<Child>, Option<i32>), String> {
    let mut words = texts(&process["command"]).chain(texts(&process["args"]));
    let program = words.next().ok_or("process command is empty")?;
    let mut command = Command::new(program);
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    for variable in process["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap_or_default();
        if !name.is_empty() {
            // A value from elsewhere comes out empty.
            command.env(name, variable["value"].as_str().unwrap_or_default());
        }
    }
    if let Some(dir) = process["workingDir"].as_str() {
        if !Path::new(dir).is_dir() {
            return Err(format!("chdir {dir}: no such file or directory"));
        }
        command.current_dir(dir);
    }
    match command.spawn() {
        Ok(child) => Ok((Some(child), None)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok((None, Some(127))),
            io::ErrorKind::PermissionDenied => Ok((None, Some(126))),
            _ => Err(format!("failed to start: {error}")),
        },
    }
}
