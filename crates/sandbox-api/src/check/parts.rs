//! The rules for what processes and containers have in common.

use super::{Checked, Within};
use crate::limits::Limits;
use crate::parse::InvalidTask;
use crate::spec::EnvVar;
use crate::wire::{Object, WireEnvVar, WireResources};

const COMMAND_IS_EMPTY: &str = "must have at least one element, e.g. [\"sh\",\"-c\"]";

/// Checks an object that may be missing.
pub(super) fn inside<W, T>(
    field: &str,
    wire: Option<Object<W>>,
    check: impl FnOnce(W) -> Checked<T>,
) -> Checked<Option<T>> {
    wire.map(|Object(wire)| check(wire).within(field))
        .transpose()
}

/// Checks every element of a list that may be missing.
pub(super) fn each<W, T>(
    field: &str,
    wire: Option<Vec<Object<W>>>,
    check: impl Fn(W) -> Checked<T>,
) -> Checked<Vec<T>> {
    let items = wire.unwrap_or_default();
    let mut checked = Vec::with_capacity(items.len());
    for (index, Object(item)) in items.into_iter().enumerate() {
        checked.push(check(item).map_err(|invalid| invalid.within(&format!("{field}[{index}]")))?);
    }
    Ok(checked)
}

pub(super) fn command(words: Option<Vec<String>>) -> Checked<Vec<String>> {
    let words = texts("command", words)?;
    match words.first() {
        None => Err(InvalidTask::new("command", COMMAND_IS_EMPTY)),
        Some(program) if program.is_empty() => Err(InvalidTask::new(
            "command[0]",
            "must name a program, e.g. \"sh\"",
        )),
        Some(_) => Ok(words),
    }
}

pub(super) fn texts(field: &str, texts: Option<Vec<String>>) -> Checked<Vec<String>> {
    let mut texts = texts.unwrap_or_default();
    for (index, text) in texts.iter().enumerate() {
        no_nul(text).map_err(|invalid| invalid.within(&format!("{field}[{index}]")))?;
    }
    // Kept as long as the task: no room for more.
    texts.shrink_to_fit();
    Ok(texts)
}

pub(super) fn no_nul(text: &str) -> Checked<()> {
    match text.bytes().position(|byte| byte == 0) {
        None => Ok(()),
        Some(at) => {
            let problem = format!("must not contain a NUL character (\\u0000), as at byte {at}");
            Err(InvalidTask::new("", problem))
        }
    }
}

/// An absolute path; an empty one is none, as in Kubernetes.
pub(super) fn working_dir(path: Option<String>) -> Checked<Option<String>> {
    let path = path.filter(|path| !path.is_empty());
    path.map(|path| absolute("workingDir", path)).transpose()
}

pub(super) fn absolute(field: &str, path: String) -> Checked<String> {
    if !path.starts_with('/') {
        let problem = "must be an absolute path, e.g. \"/app\"";
        return Err(InvalidTask::new(field, problem));
    }
    no_nul(&path).within(field)?;
    Ok(path)
}

pub(super) fn variable(wire: WireEnvVar) -> Checked<EnvVar> {
    if wire.value_from.is_some() {
        let problem = "is not supported, since the agent cannot look values up; give the value";
        return Err(InvalidTask::new("valueFrom", problem));
    }
    if wire.name.is_empty() {
        return Err(InvalidTask::new("name", "must not be empty"));
    }
    if wire.name.contains('=') {
        return Err(InvalidTask::new(
            "name",
            "must not contain '='; what follows it is the value",
        ));
    }
    no_nul(&wire.name).within("name")?;
    let value = wire.value.unwrap_or_default();
    no_nul(&value).within("value")?;
    Ok(EnvVar {
        name: wire.name,
        value,
    })
}

/// Limits; [`None`] when nothing is limited.
pub(super) fn resources(wire: WireResources) -> Checked<Option<Limits>> {
    let Some(Object(wire)) = wire.limits else {
        return Ok(None);
    };
    let [cpu, memory, pids] = [&wire.cpu, &wire.memory, &wire.pids]
        .map(|quantity| quantity.as_ref().map(|quantity| quantity.0.as_str()));
    let limits = Limits::parse(cpu, memory, pids)
        .map_err(|invalid| InvalidTask::new(format!("limits.{}", invalid.name), invalid.problem))?;
    Ok((!limits.is_empty()).then_some(limits))
}
