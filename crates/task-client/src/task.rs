//! Tasks as agents show them: what the task says of itself, and what it was told to run.

use std::fmt;
use std::str::FromStr;

use sandbox_api::{InvalidReport, TaskReport, parse_report, parse_reports};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

/// Where an agent puts the version of a list.
pub(crate) const VERSION_HEADER: &str = "x-resource-version";

/// Members that every agent since January 2026 knows, so that one which it does not show is not
/// set. Others may have been dropped by an agent that does not know them.
const KNOWN_EVERYWHERE: [&str; 8] = [
    "args",
    "command",
    "env",
    "name",
    "process",
    "timeoutSeconds",
    "value",
    "workingDir",
];

/// The state of an agent's list of tasks. It grows with every change, also across a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceVersion(u64);

/// A text that is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number")]
pub struct InvalidVersion;

impl FromStr for ResourceVersion {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        text.parse().map(Self).map_err(|_| InvalidVersion)
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for ResourceVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// One task as an agent shows it.
#[derive(Clone, PartialEq)]
pub struct Task {
    /// Its name, uid and state.
    pub report: TaskReport,
    /// What it was told to run: `process` or `podTemplateSpec` when flat, `spec` when nested.
    pub spec: Option<Value>,
}

/// Without the spec, which holds the environment.
impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

/// All tasks of an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskList {
    /// The tasks, in the agent's order. Ours has those being deleted last; `OpenSandbox`'s has none.
    pub tasks: Vec<Task>,
    /// Where a watch can go on from; [`None`] when this agent has no watch.
    pub version: Option<ResourceVersion>,
}

/// The members that say what to run; the rest is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    process: Option<Value>,
    pod_template_spec: Option<Value>,
    spec: Option<Value>,
}

impl Shown {
    fn spec(self) -> Option<Value> {
        self.spec.or(self.process).or(self.pod_template_spec)
    }
}

impl Task {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, InvalidReport> {
        let report = parse_report(body)?;
        let shown: Shown = serde_json::from_slice(body).map_err(|error| invalid(&error))?;
        let spec = shown.spec();
        Ok(Self { report, spec })
    }

    /// Whether this is about the spec that was sent: `sent` is the value of the member that
    /// [`spec`](Self::spec) is. `OpenSandbox`'s agent passes over the changed spec of a name that it
    /// has, and goes on to show the old one.
    ///
    /// What is unset, null or empty is all the same. A field that is sent and not shown is a
    /// difference only if every agent knows it.
    pub fn shows(&self, sent: &Value) -> bool {
        let unset = Value::Null;
        agrees(self.spec.as_ref().unwrap_or(&unset), sent)
    }
}

impl TaskList {
    pub(crate) fn parse(
        body: &[u8],
        version: Option<ResourceVersion>,
    ) -> Result<Self, InvalidReport> {
        let reports = parse_reports(body)?;
        let shown: Vec<Shown> = serde_json::from_slice(body).map_err(|error| invalid(&error))?;
        let tasks = reports.into_iter().zip(shown).map(|(report, shown)| {
            let spec = shown.spec();
            Task { report, spec }
        });
        Ok(Self {
            tasks: tasks.collect(),
            version,
        })
    }

    /// The task with a name.
    pub fn get(&self, name: &str) -> Option<&Task> {
        self.tasks.iter().find(|task| task.report.name == name)
    }
}

fn invalid(error: &serde_json::Error) -> InvalidReport {
    InvalidReport {
        path: String::new(),
        problem: error.to_string(),
    }
}

fn agrees(shown: &Value, sent: &Value) -> bool {
    if is_unset(shown) && is_unset(sent) {
        return true;
    }
    match (shown, sent) {
        (Value::Object(shown), Value::Object(sent)) => {
            let all_sent = shown.iter().all(|(key, value)| {
                is_unset(value) || sent.get(key).is_some_and(|sent| agrees(value, sent))
            });
            let all_shown = sent.iter().all(|(key, value)| {
                is_unset(value)
                    || !KNOWN_EVERYWHERE.contains(&key.as_str())
                    || shown.get(key).is_some_and(|shown| !is_unset(shown))
            });
            all_sent && all_shown
        }
        (Value::Array(shown), Value::Array(sent)) => {
            shown.len() == sent.len() && shown.iter().zip(sent).all(|(a, b)| agrees(a, b))
        }
        (shown, sent) => shown == sent,
    }
}

/// Null, empty, or made of nothing else: what Go leaves out or fills in as it likes.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_unset),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_task_has_the_spec_that_it_shows() {
        let process = json!({"command": ["true"]});
        for (task, spec) in [
            (
                json!({"name": "a", "process": process}),
                Some(process.clone()),
            ),
            (
                json!({"name": "a", "spec": {"process": process}, "process": null}),
                Some(json!({"process": process})),
            ),
            (
                json!({"name": "a", "podTemplateSpec": {"x": 1}}),
                Some(json!({"x": 1})),
            ),
            (json!({"name": "a", "spec": null}), None),
        ] {
            let text = task.to_string();
            assert_eq!(Task::parse(text.as_bytes()).unwrap().spec, spec, "{task}");
            let list = TaskList::parse(format!("[{text}]").as_bytes(), None).unwrap();
            assert_eq!(list.get("a").unwrap().spec, spec, "{task}");
        }
    }

    #[test]
    fn debug_output_shows_no_environment() {
        let text = br#"{"name":"a","process":{"env":[{"name":"A","value":"secret"}]}}"#;
        let task = Task::parse(text).unwrap();
        assert!(!format!("{task:?}").contains("secret"));
    }

    #[test]
    fn an_answer_is_about_the_spec_that_was_sent_or_not() {
        let full = json!({"command": ["a"], "args": ["b"], "env": [{"name": "A", "value": "1"}],
            "workingDir": "/", "timeoutSeconds": 5});
        for (shown, sent, is_about) in [
            (full.clone(), full.clone(), true),
            (
                json!({"command": ["a"]}),
                json!({"command": ["a"], "args": [], "workingDir": ""}),
                true,
            ),
            (
                json!({"command": ["a"], "args": null}),
                json!({"command": ["a"]}),
                true,
            ),
            // An old agent drops what it does not know.
            (
                json!({"command": ["a"]}),
                json!({"command": ["a"], "terminationGracePeriodSeconds": 3}),
                true,
            ),
            (
                json!({"command": ["a"], "env": [{"name": "A"}]}),
                json!({"command": ["a"], "env": [{"name": "A", "value": ""}]}),
                true,
            ),
            (
                json!({"command": ["a"]}),
                json!({"command": ["a"], "timeoutSeconds": 5}),
                false,
            ),
            (
                json!({"command": ["a"], "timeoutSeconds": 5}),
                json!({"command": ["a"]}),
                false,
            ),
            (json!({"command": ["a"]}), json!({"command": ["b"]}), false),
            (
                json!({"command": ["a", "b"]}),
                json!({"command": ["a"]}),
                false,
            ),
            (
                json!({"command": ["a"], "env": [{"name": "A", "value": "1"}]}),
                json!({"command": ["a"], "env": [{"name": "A", "value": "2"}]}),
                false,
            ),
            (
                json!({"process": full}),
                json!({"process": {"command": ["a"]}}),
                false,
            ),
            (json!({}), json!({"command": ["a"]}), false),
        ] {
            let task = json!({"name": "t", "process": shown}).to_string();
            let task = Task::parse(task.as_bytes()).unwrap();
            assert_eq!(task.shows(&sent), is_about, "{shown} and {sent}");
        }
    }
}
