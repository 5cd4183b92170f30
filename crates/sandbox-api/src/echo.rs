//! Writes a task's spec back as JSON, in the shape that it was written in.

use crate::json::{Object, list, plain, string};
use crate::limits::Limits;
use crate::rlimit::Rlimit;
use crate::spec::{
    ContainerSpec, Dialect, EnvVar, ExecHook, ExecMode, LeftoverProcesses, Lifecycle, NewTask,
    ProcessSpec, TaskSpec, VolumeMount, Work,
};

impl NewTask {
    /// The complete task as JSON: what a client could have sent, and what is stored.
    ///
    /// [`parse_one`](crate::parse_one) makes an equal task of it.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let mut task = Object::open(&mut out);
        task.text("name", self.name.as_str());
        self.spec.append_json(self.dialect, task.member());
        task.close();
        out
    }
}

impl TaskSpec {
    /// Appends the one member of a task that says what to run: `"spec":{…}` when nested,
    /// `"process":{…}` or `"podTemplateSpec":{…}` when flat; no comma before or after.
    ///
    /// A container has no flat shape and a Pod no nested one; they ignore `dialect`.
    pub fn append_json(&self, dialect: Dialect, out: &mut Vec<u8>) {
        match (&self.work, dialect) {
            (Work::Pod(template), _) => {
                out.extend_from_slice(b"\"podTemplateSpec\":");
                plain(out, template.as_value());
            }
            (Work::Process(process), Dialect::Flat) => {
                out.extend_from_slice(b"\"process\":");
                write_process(out, process, Some(self));
            }
            (Work::Process(_) | Work::Container(_), _) => {
                out.extend_from_slice(b"\"spec\":");
                write_nested(out, self);
            }
        }
    }

    /// The dialect that a task of this spec has, whatever was asked for.
    pub(crate) fn dialect(&self, asked: Dialect) -> Dialect {
        match self.work {
            Work::Process(_) => asked,
            Work::Container(_) => Dialect::Nested,
            Work::Pod(_) => Dialect::Flat,
        }
    }
}

fn write_nested(out: &mut Vec<u8>, spec: &TaskSpec) {
    let mut object = Object::open(out);
    match &spec.work {
        Work::Process(process) => write_process(object.key("process"), process, None),
        Work::Container(container) => write_container(object.key("container"), container),
        // Written as `podTemplateSpec` before we come here.
        Work::Pod(_) => {}
    }
    write_times(&mut object, spec);
    object.close();
}

fn write_times(object: &mut Object<'_>, spec: &TaskSpec) {
    object.number_if("timeoutSeconds", spec.timeout_seconds);
    object.number_if(
        "terminationGracePeriodSeconds",
        spec.termination_grace_period_seconds,
    );
}

/// A process; `times` is where its times are when they belong inside of it.
fn write_process(out: &mut Vec<u8>, process: &ProcessSpec, times: Option<&TaskSpec>) {
    let mut object = Object::open(out);
    list(object.key("command"), &process.command, write_text);
    object.list_if("args", &process.args, write_text);
    object.list_if("env", &process.env, write_env);
    object.text_if("workingDir", process.working_dir.as_deref());
    if let Some(spec) = times {
        write_times(&mut object, spec);
    }
    object.text_if("execMode", process.exec_mode.map(ExecMode::as_str));
    if let Some(lifecycle) = &process.lifecycle {
        object.object("lifecycle", |object| write_lifecycle(object, lifecycle));
    }
    object.number_if("runAsUser", process.run_as_user);
    object.number_if("runAsGroup", process.run_as_group);
    object.list_if(
        "supplementalGroups",
        &process.supplemental_groups,
        |out, id| plain(out, id),
    );
    object.list_if("rlimits", &process.rlimits, write_rlimit);
    write_resources(&mut object, process.resources.as_ref());
    let leftover = process.leftover_processes.map(LeftoverProcesses::as_str);
    object.text_if("leftoverProcesses", leftover);
    object.close();
}

fn write_container(out: &mut Vec<u8>, container: &ContainerSpec) {
    let mut object = Object::open(out);
    object.text("image", &container.image);
    object.list_if("command", &container.command, write_text);
    object.list_if("args", &container.args, write_text);
    object.list_if("env", &container.env, write_env);
    object.text_if("workingDir", container.working_dir.as_deref());
    object.list_if("volumeMounts", &container.volume_mounts, write_mount);
    write_resources(&mut object, container.resources.as_ref());
    object.close();
}

#[expect(
    clippy::ptr_arg,
    reason = "the type of an element of a list of strings"
)]
fn write_text(out: &mut Vec<u8>, text: &String) {
    string(out, text);
}

fn write_env(out: &mut Vec<u8>, variable: &EnvVar) {
    let mut object = Object::open(out);
    object.text("name", &variable.name);
    object.text("value", &variable.value);
    object.close();
}

fn write_mount(out: &mut Vec<u8>, mount: &VolumeMount) {
    let mut object = Object::open(out);
    object.text("name", &mount.name);
    object.text("mountPath", &mount.mount_path);
    if mount.read_only {
        plain(object.key("readOnly"), true);
    }
    object.text_if("subPath", mount.sub_path.as_deref());
    object.close();
}

fn write_lifecycle(object: &mut Object<'_>, lifecycle: &Lifecycle) {
    for (key, hook) in [
        ("preStart", &lifecycle.pre_start),
        ("postStop", &lifecycle.post_stop),
    ] {
        if let Some(hook) = hook {
            object.object(key, |object| write_hook(object, hook));
        }
    }
    object.text_if(
        "stopSignal",
        lifecycle.stop_signal.map(super::signal::StopSignal::as_str),
    );
}

/// A hook as `OpenSandbox` writes it: only the command is inside of `exec`.
fn write_hook(object: &mut Object<'_>, hook: &ExecHook) {
    object.object("exec", |object| {
        list(object.key("command"), &hook.command, write_text);
    });
    object.text_if("execMode", hook.exec_mode.map(ExecMode::as_str));
    object.number_if("timeoutSeconds", hook.timeout_seconds);
}

fn write_rlimit(out: &mut Vec<u8>, rlimit: &Rlimit) {
    let mut object = Object::open(out);
    object.text("type", rlimit.resource.as_str());
    object.number("soft", rlimit.soft);
    object.number("hard", rlimit.hard);
    object.close();
}

fn write_resources(object: &mut Object<'_>, limits: Option<&Limits>) {
    let Some(limits) = limits else { return };
    object.object("resources", |object| {
        object.object("limits", |object| {
            for (name, quantity) in limits.texts() {
                object.text(name, quantity);
            }
        });
    });
}

#[cfg(test)]
mod tests;
