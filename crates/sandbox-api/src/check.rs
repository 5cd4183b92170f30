//! The rules for tasks: from what JSON said to what can be run.

mod container;
mod parts;
mod process;

use serde_json::Value;

use container::container;
use parts::no_nul;
use process::process;

use crate::decode::printable;
use crate::name::TaskName;
use crate::parse::InvalidTask;
use crate::spec::{Dialect, NewTask, PodTemplate, TaskSpec, Work};
use crate::wire::{Object, WireProcess, WireSpec, WireTask};

type Checked<T> = Result<T, InvalidTask>;

/// Says on the way out where a problem is.
trait Within {
    fn within(self, outer: &str) -> Self;
}

impl<T> Within for Checked<T> {
    fn within(self, outer: &str) -> Self {
        self.map_err(|invalid| invalid.within(outer))
    }
}

const NOTHING_TO_RUN: &str = "has nothing to run; give it \"spec\" with a process or container, \
    or \"process\" or \"podTemplateSpec\" beside the name";
const TWO_DIALECTS: &str = "mixes two dialects; give either \"spec\", or \"process\" or \
    \"podTemplateSpec\" beside the name";

/// A task in either dialect.
pub(crate) fn task(wire: WireTask) -> Checked<NewTask> {
    let Some(name) = wire.name else {
        return Err(InvalidTask::new("name", "is required"));
    };
    let name = TaskName::parse(&name).map_err(|invalid| InvalidTask::new("name", invalid))?;
    let (dialect, spec) = match (wire.spec, wire.process, wire.pod_template_spec) {
        (Some(Object(spec)), None, None) => (Dialect::Nested, nested(spec).within("spec")?),
        (None, Some(Object(process)), None) => (Dialect::Flat, flat(process).within("process")?),
        (None, None, Some(template)) => (Dialect::Flat, pod(template).within("podTemplateSpec")?),
        (None, None, None) => return Err(InvalidTask::new("", NOTHING_TO_RUN)),
        (None, Some(_), Some(_)) => {
            let problem = "has both \"process\" and \"podTemplateSpec\"; give one of them";
            return Err(InvalidTask::new("", problem));
        }
        (Some(_), _, _) => return Err(InvalidTask::new("", TWO_DIALECTS)),
    };
    Ok(NewTask {
        name,
        dialect,
        spec,
    })
}

/// How long a task may take, from one of the places where that can stand.
#[derive(Clone, Copy)]
struct Times {
    timeout: Option<u64>,
    grace: Option<u64>,
}

impl Times {
    fn read(timeout: Option<i64>, grace: Option<i64>) -> Checked<Self> {
        let timeout = at_least(1, "timeoutSeconds", timeout)?;
        let grace = at_least(0, "terminationGracePeriodSeconds", grace)?;
        Ok(Self { timeout, grace })
    }

    /// These, completed by those that stand under `process`.
    fn and(self, inner: Self) -> Checked<Self> {
        Ok(Self {
            timeout: agreed("timeoutSeconds", "process", self.timeout, inner.timeout)?,
            grace: agreed(
                "terminationGracePeriodSeconds",
                "process",
                self.grace,
                inner.grace,
            )?,
        })
    }

    fn limit(self, work: Work) -> TaskSpec {
        TaskSpec {
            work,
            timeout_seconds: self.timeout,
            termination_grace_period_seconds: self.grace,
        }
    }
}

fn at_least(least: u64, field: &str, seconds: Option<i64>) -> Checked<Option<u64>> {
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    match u64::try_from(seconds) {
        Ok(seconds) if seconds >= least => Ok(Some(seconds)),
        _ => {
            let problem = format!("must be at least {least}, not {seconds}; or leave it out");
            Err(InvalidTask::new(field, problem))
        }
    }
}

/// A value that may stand here, under `inner`, or in both places if it is the same.
fn agreed(field: &str, inner: &str, here: Option<u64>, there: Option<u64>) -> Checked<Option<u64>> {
    match (here, there) {
        (Some(one), Some(other)) if one != other => {
            let problem = format!("is {one}, but {inner}.{field} is {other}; give one of them");
            Err(InvalidTask::new(field, problem))
        }
        _ => Ok(here.or(there)),
    }
}

fn nested(wire: WireSpec) -> Checked<TaskSpec> {
    let times = Times::read(wire.timeout_seconds, wire.termination_grace_period_seconds)?;
    match (wire.process, wire.container) {
        (Some(Object(wire)), None) => {
            let (process, inner) = process(wire).within("process")?;
            Ok(times.and(inner)?.limit(Work::Process(process)))
        }
        (None, Some(Object(wire))) => {
            let container = container(wire).within("container")?;
            Ok(times.limit(Work::Container(container)))
        }
        _ => {
            let problem = "must have exactly one of \"process\" and \"container\"";
            Err(InvalidTask::new("", problem))
        }
    }
}

fn flat(wire: WireProcess) -> Checked<TaskSpec> {
    let (process, times) = process(wire)?;
    Ok(times.limit(Work::Process(process)))
}

fn pod(template: Value) -> Checked<TaskSpec> {
    if !template.is_object() {
        return Err(InvalidTask::new(
            "",
            "must be an object, a Kubernetes PodTemplateSpec",
        ));
    }
    no_nul_inside(&template)?;
    let times = Times {
        timeout: None,
        grace: None,
    };
    Ok(times.limit(Work::Pod(PodTemplate(template))))
}

/// No NUL in any key or string; depth is bounded by that of the JSON reader.
fn no_nul_inside(value: &Value) -> Checked<()> {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        Value::String(text) => no_nul(text),
        Value::Array(items) => items.iter().enumerate().try_for_each(|(index, item)| {
            no_nul_inside(item).map_err(|invalid| invalid.within(&format!("[{index}]")))
        }),
        Value::Object(members) => members.iter().try_for_each(|(key, member)| {
            no_nul(key)?;
            no_nul_inside(member).map_err(|invalid| invalid.within(&printable(key)))
        }),
    }
}
