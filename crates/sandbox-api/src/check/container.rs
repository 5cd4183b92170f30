//! The rules for containers.

use super::parts::{absolute, each, inside, no_nul, resources, texts, variable, working_dir};
use super::{Checked, Within};
use crate::parse::InvalidTask;
use crate::spec::{ContainerSpec, VolumeMount};
use crate::wire::{WireContainer, WireVolumeMount};

pub(super) fn container(wire: WireContainer) -> Checked<ContainerSpec> {
    let image = wire.image.unwrap_or_default();
    if image.is_empty() {
        return Err(InvalidTask::new(
            "image",
            "is required, e.g. \"ubuntu:24.04\"",
        ));
    }
    no_nul(&image).within("image")?;
    Ok(ContainerSpec {
        image,
        command: texts("command", wire.command)?,
        args: texts("args", wire.args)?,
        env: each("env", wire.env, variable)?,
        working_dir: working_dir(wire.working_dir)?,
        volume_mounts: each("volumeMounts", wire.volume_mounts, mount)?,
        resources: inside("resources", wire.resources, resources)?.flatten(),
    })
}

fn mount(wire: WireVolumeMount) -> Checked<VolumeMount> {
    if wire.name.is_empty() {
        return Err(InvalidTask::new("name", "must not be empty"));
    }
    no_nul(&wire.name).within("name")?;
    let sub_path = wire.sub_path.filter(|path| !path.is_empty());
    if let Some(path) = &sub_path {
        no_nul(path).within("subPath")?;
        if path.starts_with('/') || path.split('/').any(|part| part == "..") {
            let problem = "must be a relative path without \"..\"";
            return Err(InvalidTask::new("subPath", problem));
        }
    }
    Ok(VolumeMount {
        name: wire.name,
        mount_path: absolute("mountPath", wire.mount_path)?,
        read_only: wire.read_only.unwrap_or(false),
        sub_path,
    })
}
