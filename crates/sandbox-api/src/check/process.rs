//! The rules for processes.

use super::parts::{command, each, inside, resources, texts, variable, working_dir};
use super::{Checked, Times, Within, agreed, at_least};
use crate::parse::InvalidTask;
use crate::rlimit::Rlimit;
use crate::spec::{ExecHook, ExecMode, LeftoverProcesses, Lifecycle, ProcessSpec};
use crate::wire::{Object, WireHook, WireLifecycle, WireProcess, WireRlimit};

pub(super) fn process(wire: WireProcess) -> Checked<(ProcessSpec, Times)> {
    let times = Times::read(wire.timeout_seconds, wire.termination_grace_period_seconds)?;
    let process = ProcessSpec {
        command: command(wire.command)?,
        args: texts("args", wire.args)?,
        env: each("env", wire.env, variable)?,
        working_dir: working_dir(wire.working_dir)?,
        exec_mode: exec_mode(wire.exec_mode.as_deref())?,
        lifecycle: inside("lifecycle", wire.lifecycle, lifecycle)?.flatten(),
        run_as_user: wire
            .run_as_user
            .map(|id| user_or_group("runAsUser", id))
            .transpose()?,
        run_as_group: wire
            .run_as_group
            .map(|id| user_or_group("runAsGroup", id))
            .transpose()?,
        supplemental_groups: groups(wire.supplemental_groups)?,
        rlimits: rlimits(wire.rlimits)?,
        resources: inside("resources", wire.resources, resources)?.flatten(),
        leftover_processes: match wire
            .leftover_processes
            .as_deref()
            .map(LeftoverProcesses::parse)
        {
            Some(Err(unknown)) => return Err(InvalidTask::new("leftoverProcesses", unknown)),
            Some(Ok(leftover)) => Some(leftover),
            None => None,
        },
    };
    Ok((process, times))
}

/// Hooks and signal; [`None`] when there are none.
fn lifecycle(wire: WireLifecycle) -> Checked<Option<Lifecycle>> {
    let stop_signal = wire.stop_signal.map(|name| name.parse()).transpose();
    let lifecycle = Lifecycle {
        pre_start: inside("preStart", wire.pre_start, hook)?,
        post_stop: inside("postStop", wire.post_stop, hook)?,
        stop_signal: stop_signal.map_err(|unknown| InvalidTask::new("stopSignal", unknown))?,
    };
    let Lifecycle {
        pre_start: None,
        post_stop: None,
        stop_signal: None,
    } = lifecycle
    else {
        return Ok(Some(lifecycle));
    };
    Ok(None)
}

/// A hook; its timeout may stand beside `exec`, as `OpenSandbox` has it, or inside.
fn hook(wire: WireHook) -> Checked<ExecHook> {
    let Some(Object(exec)) = wire.exec else {
        let problem = "is required, e.g. {\"command\":[\"sh\",\"-c\",\"true\"]}";
        return Err(InvalidTask::new("exec", problem));
    };
    let exec_mode = exec_mode(wire.exec_mode.as_deref())?;
    let beside = at_least(0, "timeoutSeconds", wire.timeout_seconds)?;
    let within = at_least(0, "timeoutSeconds", exec.timeout_seconds).within("exec")?;
    let seconds = agreed("timeoutSeconds", "exec", beside, within)?;
    Ok(ExecHook {
        command: command(exec.command).within("exec")?,
        timeout_seconds: seconds.filter(|seconds| *seconds > 0),
        exec_mode,
    })
}

fn exec_mode(text: Option<&str>) -> Checked<Option<ExecMode>> {
    let mode = text.map(ExecMode::parse).transpose();
    mode.map_err(|unknown| InvalidTask::new("execMode", unknown))
}

/// A numeric user or group. The highest number is -1 to the kernel, which means "no change".
fn user_or_group(field: &str, id: i64) -> Checked<u32> {
    match u32::try_from(id) {
        Ok(id) if id < u32::MAX => Ok(id),
        _ => {
            let problem = format!("must be from 0 to {}, not {id}", u32::MAX - 1);
            Err(InvalidTask::new(field, problem))
        }
    }
}

fn groups(ids: Option<Vec<i64>>) -> Checked<Vec<u32>> {
    let ids = ids.unwrap_or_default().into_iter().enumerate();
    let check = |(index, id)| {
        let id = user_or_group("", id);
        id.map_err(|invalid| invalid.within(&format!("supplementalGroups[{index}]")))
    };
    ids.map(check).collect()
}

fn rlimits(wire: Option<Vec<Object<WireRlimit>>>) -> Checked<Vec<Rlimit>> {
    let rlimits = each("rlimits", wire, rlimit)?;
    for (index, rlimit) in rlimits.iter().enumerate() {
        if rlimits[..index]
            .iter()
            .any(|earlier| earlier.resource == rlimit.resource)
        {
            let problem = format!("{} is there twice; give it once", rlimit.resource);
            return Err(InvalidTask::new(format!("rlimits[{index}].type"), problem));
        }
    }
    Ok(rlimits)
}

fn rlimit(wire: WireRlimit) -> Checked<Rlimit> {
    let WireRlimit {
        resource,
        soft,
        hard,
    } = wire;
    let resource = resource.parse();
    let resource = resource.map_err(|unknown| InvalidTask::new("type", unknown))?;
    if soft > hard {
        let problem = format!("must be at most the hard limit {hard}, not {soft}");
        return Err(InvalidTask::new("soft", problem));
    }
    Ok(Rlimit {
        resource,
        soft,
        hard,
    })
}
