//! A task as JSON has it: serde mirrors of what clients send, nothing checked but the types.
//!
//! The comments on fields are the descriptions in the `OpenAPI` document.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A task in either dialect.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireTask {
    pub(crate) name: Option<String>,
    pub(crate) spec: Option<Object<WireSpec>>,
    pub(crate) process: Option<Object<WireProcess>>,
    pub(crate) pod_template_spec: Option<Value>,
    // What follows is the server's to say. Clients post back what they read, so it may be there.
    #[serde(rename = "uid")]
    _uid: Option<Skipped>,
    #[serde(rename = "deletionTimestamp")]
    _deletion_timestamp: Option<Skipped>,
    #[serde(rename = "status")]
    _status: Option<Skipped>,
    #[serde(rename = "processStatus")]
    _process_status: Option<Skipped>,
    #[serde(rename = "podStatus")]
    _pod_status: Option<Skipped>,
    #[serde(rename = "warnings")]
    _warnings: Option<Skipped>,
}

/// What to run: exactly one of `process` and `container`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "TaskSpec")
)]
pub(crate) struct WireSpec {
    /// A command to run as a process.
    pub(crate) process: Option<Object<WireProcess>>,
    /// A container to run; needs container mode.
    pub(crate) container: Option<Object<WireContainer>>,
    /// Wall-clock seconds from start after which the task is ended.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub(crate) timeout_seconds: Option<i64>,
    /// Seconds from the stop signal to SIGKILL.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub(crate) termination_grace_period_seconds: Option<i64>,
}

/// A command to run as a process.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Process")
)]
pub(crate) struct WireProcess {
    /// Program and first arguments. No shell is involved.
    #[cfg_attr(feature = "schema", schemars(required, length(min = 1)))]
    pub(crate) command: Option<Vec<String>>,
    /// Further arguments.
    pub(crate) args: Option<Vec<String>>,
    /// Variables on top of the inherited environment, in order; a later one wins.
    pub(crate) env: Option<Vec<Object<WireEnvVar>>>,
    /// Absolute path of a directory that exists.
    pub(crate) working_dir: Option<String>,
    /// In the flat dialect: wall-clock seconds from start after which the task is ended.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub(crate) timeout_seconds: Option<i64>,
    /// In the flat dialect: seconds from the stop signal to SIGKILL.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub(crate) termination_grace_period_seconds: Option<i64>,
    /// In sidecar mode: the agent's own namespaces or the main container's (default).
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["Local", "Remote", null])))]
    pub(crate) exec_mode: Option<String>,
    /// Hooks before and after, and the signal to stop with.
    pub(crate) lifecycle: Option<Object<WireLifecycle>>,
    /// Numeric user to run as.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 4_294_967_294_i64)))]
    pub(crate) run_as_user: Option<i64>,
    /// Numeric group to run as.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 4_294_967_294_i64)))]
    pub(crate) run_as_group: Option<i64>,
    /// Numeric groups beside it.
    pub(crate) supplemental_groups: Option<Vec<i64>>,
    /// Limits by setrlimit(2), each type at most once.
    pub(crate) rlimits: Option<Vec<Object<WireRlimit>>>,
    /// Limits of the task's control group.
    pub(crate) resources: Option<Object<WireResources>>,
    /// What happens to processes that outlive the command; Keep is the default.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["Keep", "Kill", null])))]
    pub(crate) leftover_processes: Option<String>,
}

/// An environment variable.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "EnvVar")
)]
pub(crate) struct WireEnvVar {
    /// Name without `=`.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1), regex(pattern = "^[^=]+$"))
    )]
    pub(crate) name: String,
    /// Value; empty when left out.
    pub(crate) value: Option<String>,
    #[cfg_attr(feature = "schema", schemars(skip))]
    pub(crate) value_from: Option<Skipped>,
}

/// What runs around a process, and how it is asked to end.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Lifecycle")
)]
pub(crate) struct WireLifecycle {
    /// Runs before the process; when it fails the process is not started.
    pub(crate) pre_start: Option<Object<WireHook>>,
    /// Runs once after the process, however that ended.
    pub(crate) post_stop: Option<Object<WireHook>>,
    /// Signal that asks the process to end, SIGTERM by default.
    pub(crate) stop_signal: Option<String>,
}

/// A hook.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Hook")
)]
pub(crate) struct WireHook {
    /// The command to run.
    #[cfg_attr(feature = "schema", schemars(required))]
    pub(crate) exec: Option<Object<WireExec>>,
    /// In sidecar mode: the agent's own namespaces or the main container's.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["Local", "Remote", null])))]
    pub(crate) exec_mode: Option<String>,
    /// Seconds after which the hook has failed; 0 is no limit.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub(crate) timeout_seconds: Option<i64>,
}

/// The command of a hook.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "ExecAction")
)]
pub(crate) struct WireExec {
    /// Program and arguments.
    #[cfg_attr(feature = "schema", schemars(required, length(min = 1)))]
    pub(crate) command: Option<Vec<String>>,
    /// The same as beside `exec`.
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
    pub(crate) timeout_seconds: Option<i64>,
}

/// A limit by setrlimit(2), in the shape of the OCI runtime specification.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Rlimit")
)]
pub(crate) struct WireRlimit {
    /// Name such as `RLIMIT_NOFILE`.
    #[serde(rename = "type")]
    pub(crate) resource: String,
    /// What is enforced; at most `hard`.
    pub(crate) soft: u64,
    /// How far the process may raise `soft`.
    pub(crate) hard: u64,
}

/// Limits as a Kubernetes container has them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Resources")
)]
pub(crate) struct WireResources {
    /// What the task may use at most.
    pub(crate) limits: Option<Object<WireLimits>>,
}

/// What a task may use at most, as Kubernetes quantities above zero.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Limits")
)]
pub(crate) struct WireLimits {
    /// CPUs, e.g. `500m`.
    pub(crate) cpu: Option<Quantity>,
    /// Bytes, e.g. `64Mi`.
    pub(crate) memory: Option<Quantity>,
    /// Processes and threads, e.g. `100`.
    pub(crate) pids: Option<Quantity>,
}

/// A container to run, in the words of a Kubernetes Container.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Container")
)]
pub(crate) struct WireContainer {
    /// Image reference.
    #[cfg_attr(feature = "schema", schemars(required, length(min = 1)))]
    pub(crate) image: Option<String>,
    /// Replaces the image's entry point.
    pub(crate) command: Option<Vec<String>>,
    /// Replaces the image's arguments.
    pub(crate) args: Option<Vec<String>>,
    /// Variables on top of those of the image.
    pub(crate) env: Option<Vec<Object<WireEnvVar>>>,
    /// Absolute path inside of the container.
    pub(crate) working_dir: Option<String>,
    /// Volumes of the agent to mount.
    pub(crate) volume_mounts: Option<Vec<Object<WireVolumeMount>>>,
    /// Limits of the container.
    pub(crate) resources: Option<Object<WireResources>>,
}

/// A volume mounted into a container.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "VolumeMount")
)]
pub(crate) struct WireVolumeMount {
    /// Name of a volume that the agent was started with.
    #[cfg_attr(feature = "schema", schemars(length(min = 1)))]
    pub(crate) name: String,
    /// Absolute path inside of the container.
    pub(crate) mount_path: String,
    /// Whether the container may only read.
    pub(crate) read_only: Option<bool>,
    /// Relative path inside of the volume.
    pub(crate) sub_path: Option<String>,
}

/// A `T` that must be a JSON object; what serde derives takes an array for a struct as well.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer
            .deserialize_map(Members(PhantomData))
            .map(Object)
    }
}

/// A Kubernetes quantity as text; a JSON integer is taken for its digits.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(extend("type" = ["string", "integer"])))]
pub(crate) struct Quantity(pub(crate) String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as \"500m\", \"64Mi\" or 100")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                Ok(Quantity(text.to_owned()))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Quantity, E> {
                Ok(Quantity(number.to_string()))
            }
        }

        deserializer.deserialize_any(Text)
    }
}

/// Any JSON value, read and forgotten. Unlike [`de::IgnoredAny`] it is not reported as unknown.
pub(crate) struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Skipped)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}
