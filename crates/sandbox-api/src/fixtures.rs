//! Tasks for tests: examples of the guide, tasks with every member, and random ones.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use crate::{
    ContainerSpec, Dialect, EnvVar, ExecHook, ExecMode, LeftoverProcesses, Lifecycle, Limits,
    NewTask, PodTemplate, ProcessSpec, Rlimit, RlimitResource, TaskName, TaskSpec, VolumeMount,
    Work, signal,
};

/// The first task of the guide.
pub(crate) const GUIDE_FIRST: &str = r#"{
  "name": "my-first-task",
  "spec": {
    "process": {
      "command": ["sh", "-c"],
      "args": ["echo 'Hello from my task!' && sleep 5 && echo 'Task finished.'"]
    }
  }
}"#;

/// A terminated task as the guide shows it, with a uid.
pub(crate) const GUIDE_TERMINATED: &str = r#"{
  "name": "task-beta",
  "uid": "u-1",
  "spec": {
    "process": {
      "command": ["ls", "-l", "/tmp"]
    }
  },
  "status": {
    "state": {
      "terminated": {
        "exitCode": 0,
        "reason": "Succeeded",
        "message": "Task completed successfully",
        "startedAt": "2025-12-17T10:06:00Z",
        "finishedAt": "2025-12-17T10:06:01Z"
      }
    }
  }
}"#;

/// The container task of the guide, plus what a Kubernetes user would add.
pub(crate) const CONTAINER: &str = r#"{
  "name": "my-container-task",
  "spec": {
    "container": {
      "image": "ubuntu:latest",
      "command": ["/bin/bash", "-c"],
      "args": ["apt update && apt install -y curl"],
      "env": [{"name": "http_proxy", "value": "http://myproxy.com:5758"}],
      "workingDir": "/data",
      "volumeMounts": [
        {"name": "data-volume", "mountPath": "/data", "readOnly": true, "subPath": "a/b"}
      ],
      "resources": {"limits": {"memory": "1Gi"}}
    },
    "timeoutSeconds": 60
  }
}"#;

/// A nested task with every member that a process can have.
pub(crate) const FULL_NESTED: &str = r#"{
  "name": "full",
  "spec": {
    "process": {
      "command": ["python3", "my_script.py"],
      "args": ["--config", "/etc/app/config.yaml"],
      "env": [{"name": "DEBUG_MODE", "value": "true"}, {"name": "EMPTY", "value": ""}],
      "workingDir": "/app",
      "execMode": "Local",
      "lifecycle": {
        "preStart": {"exec": {"command": ["true"]}, "execMode": "Remote", "timeoutSeconds": 5},
        "postStop": {"exec": {"command": ["rm", "-r", "/tmp/x"]}},
        "stopSignal": "SIGUSR1"
      },
      "runAsUser": 1000,
      "runAsGroup": 0,
      "supplementalGroups": [4, 27],
      "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2048}],
      "resources": {"limits": {"cpu": "500m", "memory": "64Mi", "pids": "100"}},
      "leftoverProcesses": "Kill"
    },
    "timeoutSeconds": 600,
    "terminationGracePeriodSeconds": 0
  }
}"#;

/// The same in the flat dialect.
pub(crate) const FULL_FLAT: &str = r#"{
  "name": "full",
  "process": {
    "command": ["python3", "my_script.py"],
    "args": ["--config", "/etc/app/config.yaml"],
    "env": [{"name": "DEBUG_MODE", "value": "true"}, {"name": "EMPTY", "value": ""}],
    "workingDir": "/app",
    "timeoutSeconds": 600,
    "terminationGracePeriodSeconds": 0,
    "execMode": "Local",
    "lifecycle": {
      "preStart": {"exec": {"command": ["true"]}, "execMode": "Remote", "timeoutSeconds": 5},
      "postStop": {"exec": {"command": ["rm", "-r", "/tmp/x"]}},
      "stopSignal": "SIGUSR1"
    },
    "runAsUser": 1000,
    "runAsGroup": 0,
    "supplementalGroups": [4, 27],
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 2048}],
    "resources": {"limits": {"cpu": "500m", "memory": "64Mi", "pids": "100"}},
    "leftoverProcesses": "Kill"
  }
}"#;

/// JSON without the blanks and line breaks between its tokens, members in the same order.
pub(crate) fn compact(text: &str) -> String {
    let mut in_string = false;
    let mut escaped = false;
    let keep = |letter: &char| {
        if in_string {
            in_string = escaped || *letter != '"';
            escaped = !escaped && *letter == '\\';
            return true;
        }
        in_string = *letter == '"';
        !letter.is_whitespace()
    };
    text.chars().filter(keep).collect()
}

/// Any task that there can be.
pub(crate) fn new_task() -> impl Strategy<Value = NewTask> {
    let name = "[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?";
    let name = name.prop_map(|text: String| TaskName::parse(&text).unwrap());
    let times = || (of(1..=MAX_SECONDS), of(0..=MAX_SECONDS));
    let dialect = select(vec![Dialect::Nested, Dialect::Flat]);
    let process = (process(), times(), dialect)
        .prop_map(|(process, times, dialect)| (Work::Process(process), times, dialect));
    let container = (container(), times())
        .prop_map(|(container, times)| (Work::Container(container), times, Dialect::Nested));
    let pod = text().prop_map(|text| {
        let template = PodTemplate(json!({"spec": {"containers": [{"name": text, "n": 1.5}]}}));
        (Work::Pod(template), (None, None), Dialect::Flat)
    });
    let work = prop_oneof![6 => process, 2 => container, 1 => pod];
    (name, work).prop_map(|(name, (work, times, dialect))| NewTask {
        name,
        dialect,
        spec: TaskSpec {
            work,
            timeout_seconds: times.0,
            termination_grace_period_seconds: times.1,
        },
    })
}

const MAX_SECONDS: u64 = 9_223_372_036_854_775_807;

/// Any text without NUL; quotes, line breaks and other scripts are likely.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z /=-]{0,12}",
        "[\"\\\\\n\t\u{1}é☃<&]{0,6}",
        any::<String>()
    ]
    .prop_map(|text: String| text.replace('\0', ""))
}

fn command() -> impl Strategy<Value = Vec<String>> {
    ("[a-z/]{1,8}", vec(text(), 0..3)).prop_map(|(program, mut rest)| {
        rest.insert(0, program);
        rest
    })
}

fn variables() -> impl Strategy<Value = Vec<EnvVar>> {
    vec(
        ("[A-Z_ é]{1,8}", text()).prop_map(|(name, value)| EnvVar { name, value }),
        0..3,
    )
}

fn working_dir() -> impl Strategy<Value = Option<String>> {
    of(text().prop_map(|text| format!("/{text}")))
}

fn mode() -> impl Strategy<Value = Option<ExecMode>> {
    of(select(vec![ExecMode::Local, ExecMode::Remote]))
}

fn lifecycle() -> impl Strategy<Value = Option<Lifecycle>> {
    let hook =
        || {
            of((command(), of(1..=MAX_SECONDS), mode()).prop_map(
                |(command, timeout, exec_mode)| ExecHook {
                    command,
                    timeout_seconds: timeout,
                    exec_mode,
                },
            ))
        };
    let stop_signal = of(select(signal::all().collect::<Vec<_>>()));
    (hook(), hook(), stop_signal).prop_map(|(pre_start, post_stop, stop_signal)| {
        let is_empty = pre_start.is_none() && post_stop.is_none() && stop_signal.is_none();
        (!is_empty).then_some(Lifecycle {
            pre_start,
            post_stop,
            stop_signal,
        })
    })
}

fn limits() -> impl Strategy<Value = Option<Limits>> {
    let cpu = of(select(vec!["500m", "2", "0.25", "1e1"]));
    let memory = of(select(vec!["64Mi", "1G", "1.5Gi", "1000"]));
    let pids = of(select(vec!["1", "100", "1k"]));
    (cpu, memory, pids).prop_map(|(cpu, memory, pids)| {
        let limits = Limits::parse(cpu, memory, pids).unwrap();
        (!limits.is_empty()).then_some(limits)
    })
}

fn rlimits() -> impl Strategy<Value = Vec<Rlimit>> {
    let resources = proptest::sample::subsequence(RlimitResource::ALL.to_vec(), 0..3);
    (resources, any::<u64>(), any::<u64>()).prop_map(|(resources, one, other)| {
        let (soft, hard) = (one.min(other), one.max(other));
        resources
            .into_iter()
            .map(|resource| Rlimit {
                resource,
                soft,
                hard,
            })
            .collect()
    })
}

fn process() -> impl Strategy<Value = ProcessSpec> {
    let id = || of(0..u32::MAX);
    let leftover = of(select(vec![
        LeftoverProcesses::Keep,
        LeftoverProcesses::Kill,
    ]));
    let run = (
        command(),
        vec(text(), 0..3),
        variables(),
        working_dir(),
        mode(),
        lifecycle(),
    );
    let limit = (
        id(),
        id(),
        vec(0..u32::MAX, 0..3),
        rlimits(),
        limits(),
        leftover,
    );
    (run, limit).prop_map(|(run, limit)| ProcessSpec {
        command: run.0,
        args: run.1,
        env: run.2,
        working_dir: run.3,
        exec_mode: run.4,
        lifecycle: run.5,
        run_as_user: limit.0,
        run_as_group: limit.1,
        supplemental_groups: limit.2,
        rlimits: limit.3,
        resources: limit.4,
        leftover_processes: limit.5,
    })
}

fn container() -> impl Strategy<Value = ContainerSpec> {
    let sub_path = of("[a-z]{1,5}(/[a-z]{1,5})?");
    let mount = ("[a-z-]{1,8}", "/[a-z]{0,8}", any::<bool>(), sub_path).prop_map(
        |(name, mount_path, read_only, sub_path)| VolumeMount {
            name,
            mount_path,
            read_only,
            sub_path,
        },
    );
    let words = || vec(text(), 0..3);
    let parts = (
        "[a-z:/.]{1,20}",
        words(),
        words(),
        variables(),
        working_dir(),
        vec(mount, 0..3),
        limits(),
    );
    parts.prop_map(|parts| ContainerSpec {
        image: parts.0,
        command: parts.1,
        args: parts.2,
        env: parts.3,
        working_dir: parts.4,
        volume_mounts: parts.5,
        resources: parts.6,
    })
}
