//! What a Pod says, by annotations, about what should become of it.
//!
//! | annotation | value | what happens |
//! |---|---|---|
//! | `kubelet.test/agent` | `real`, `none`, `silent` | a real agent; an address that refuses; one that never answers |
//! | `kubelet.test/agent-delay-ms` | milliseconds | the agent starts so long after the Pod is ready |
//! | `kubelet.test/ready` | `never` | the Pod runs but is never ready |
//! | `kubelet.test/waiting` | such as `ImagePullBackOff` | containers wait for this reason, for ever |
//! | `kubelet.test/failed` | such as `Evicted` | the Pod is `Failed` for this reason |
//!
//! An unknown value is an error that the kubelet prints; the Pod is left alone.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

/// What kind of agent runs in the Pod.
pub const AGENT: &str = "kubelet.test/agent";
/// After how many milliseconds the agent starts.
pub const AGENT_DELAY: &str = "kubelet.test/agent-delay-ms";
/// `never`: the Pod never becomes ready.
pub const READY: &str = "kubelet.test/ready";
/// Why containers wait.
pub const WAITING: &str = "kubelet.test/waiting";
/// Why the Pod has failed.
pub const FAILED: &str = "kubelet.test/failed";

/// What is at a Pod's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentKind {
    /// A real agent.
    Real,
    /// Nothing: connections are refused.
    None,
    /// Connections are accepted and never answered.
    Silent,
}

/// What becomes of a Pod once it has a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It runs and is ready.
    Ready,
    /// It runs and is not ready.
    NeverReady,
    /// Its containers wait for this reason.
    Waiting(String),
    /// It has failed for this reason.
    Failed(String),
}

/// All that the annotations say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) fate: Fate,
    pub(super) agent: AgentKind,
    pub(super) delay: Duration,
}

impl Plan {
    pub(super) fn of(pod: &Pod, default: AgentKind) -> anyhow::Result<Self> {
        let says = |key: &str| pod.annotations().get(key).map(String::as_str);
        let fate = match (says(FAILED), says(WAITING), says(READY)) {
            (Some(reason), _, _) => Fate::Failed(reason.to_owned()),
            (None, Some(reason), _) => Fate::Waiting(reason.to_owned()),
            (None, None, None) => Fate::Ready,
            (None, None, Some("never")) => Fate::NeverReady,
            (None, None, Some(other)) => bail!("{READY} is {other:?}; only \"never\" is known"),
        };
        let agent = match says(AGENT) {
            None => default,
            Some("real") => AgentKind::Real,
            Some("none") => AgentKind::None,
            Some("silent") => AgentKind::Silent,
            Some(other) => bail!("{AGENT} is {other:?}; known are real, none and silent"),
        };
        let milliseconds = says(AGENT_DELAY).unwrap_or("0");
        let delay = milliseconds.parse().map(Duration::from_millis);
        Ok(Self {
            fate,
            agent,
            delay: delay.with_context(|| format!("{AGENT_DELAY} is {milliseconds:?}"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn plan(annotations: &[(&str, &str)]) -> anyhow::Result<Plan> {
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut pod = Pod::default();
        pod.metadata.annotations = Some(annotations.collect::<BTreeMap<_, _>>());
        Plan::of(&pod, AgentKind::Real)
    }

    #[test]
    fn a_pod_that_says_nothing_is_ready_and_has_the_usual_agent() {
        let expected = Plan {
            fate: Fate::Ready,
            agent: AgentKind::Real,
            delay: Duration::ZERO,
        };
        assert_eq!(plan(&[]).unwrap(), expected);
    }

    #[test]
    fn annotations_are_understood_and_unknown_values_refused() {
        let said = plan(&[(AGENT, "silent"), (AGENT_DELAY, "250"), (READY, "never")]).unwrap();
        let expected = Plan {
            fate: Fate::NeverReady,
            agent: AgentKind::Silent,
            delay: Duration::from_millis(250),
        };
        assert_eq!(said, expected);
        let waiting = plan(&[(WAITING, "ErrImagePull")]).unwrap().fate;
        assert_eq!(waiting, Fate::Waiting("ErrImagePull".to_owned()));
        for wrong in [(AGENT, "x"), (READY, "later"), (AGENT_DELAY, "1s")] {
            plan(&[wrong]).unwrap_err();
        }
    }
}
