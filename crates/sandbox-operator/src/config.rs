//! Flags and environment: what was typed ([`Args`]), and what it means ([`Config`]).

mod args;
mod values;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use clap::Parser;
use jiff::SignedDuration;
use sandbox_planner::engine::Settings;
use sandbox_planner::plan::Limits;

use crate::lease::Times;
pub use args::{Args, Command, LogFormat, RunArgs};

/// What the operator was asked to do, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The namespace to watch; [`None`] means all.
    pub namespace: Option<String>,
    /// Path of a kubeconfig, instead of the usual places.
    pub kubeconfig: Option<String>,
    /// Most requests to the API server at once.
    pub api_concurrency: NonZeroUsize,
    /// Most requests a second that change something, and how many of them at once; [`None`] is no limit.
    pub pace: Option<(NonZeroU32, NonZeroU32)>,
    /// Most calls of agents at once, watches not counted.
    pub agent_concurrency: NonZeroUsize,
    /// Port of the agents.
    pub agent_port: u16,
    /// Longest time for one call of an agent.
    pub agent_timeout: Duration,
    /// Settings of the engine.
    pub settings: Settings,
    /// Leader election, if it is on.
    pub election: Option<Election>,
    /// Where metrics are served.
    pub metrics_address: Option<SocketAddr>,
    /// Where probes are served.
    pub health_address: Option<SocketAddr>,
    /// Longest time for ending in order.
    pub shutdown_timeout: Duration,
    /// Flags of `OpenSandbox` that have no meaning here.
    pub without_meaning: Vec<&'static str>,
}

/// Where and how to stand for election.
#[derive(Clone, Debug, PartialEq)]
pub struct Election {
    /// Name of the Lease.
    pub id: String,
    /// Its namespace.
    pub namespace: String,
    /// How long things hold.
    pub times: Times,
}

/// A combination of flags that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// The times of the election do not fit each other.
    #[error(
        "--leader-elect-renew-deadline ({renew_deadline:?}) must be shorter than \
         --leader-elect-lease-duration ({duration:?}), and longer than --leader-elect-retry-period ({retry_period:?})"
    )]
    Times {
        /// The duration.
        duration: Duration,
        /// The deadline.
        renew_deadline: Duration,
        /// The period.
        retry_period: Duration,
    },
    /// Nobody says in which namespace the Lease is.
    #[error("--leader-elect needs --leader-elect-namespace, or POD_NAMESPACE in the environment")]
    Namespace,
}

impl Args {
    /// Reads a command line; clap ends the program for `--help` and for what can't be read.
    pub fn read() -> Self {
        Self::parse()
    }
}

impl RunArgs {
    /// What the flags mean together.
    ///
    /// # Errors
    /// [`InvalidConfig`] when they contradict each other.
    pub fn check(self) -> Result<Config, InvalidConfig> {
        let without_meaning = self.ignored.given();
        let election = self.election()?;
        Ok(Config {
            namespace: self.namespace.filter(|name| !name.is_empty()),
            kubeconfig: self.kubeconfig.filter(|path| !path.is_empty()),
            api_concurrency: self.concurrency,
            pace: NonZeroU32::new(self.kube_qps).map(|per_second| (per_second, self.kube_burst)),
            agent_concurrency: self.agent_concurrency,
            agent_port: self.agent_port,
            agent_timeout: self.agent_timeout,
            settings: Settings {
                limits: Limits {
                    task_cleanup_timeout: signed(self.task_cleanup_timeout),
                    agent_silence: signed(self.agent_silence),
                },
                status_window: signed(self.status_window),
            },
            election,
            metrics_address: self.metrics_addr.0,
            health_address: self.health_addr.0,
            shutdown_timeout: self.shutdown_timeout,
            without_meaning,
        })
    }

    fn election(&self) -> Result<Option<Election>, InvalidConfig> {
        if !self.leader_elect {
            return Ok(None);
        }
        let times = Times {
            duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry_period: self.leader_elect_retry_period,
        };
        if times.renew_deadline >= times.duration || times.retry_period >= times.renew_deadline {
            return Err(InvalidConfig::Times {
                duration: times.duration,
                renew_deadline: times.renew_deadline,
                retry_period: times.retry_period,
            });
        }
        let namespace = self.leader_elect_namespace.clone();
        let namespace = namespace.or_else(|| self.pod_namespace.clone());
        Ok(Some(Election {
            id: self.leader_elect_id.clone(),
            namespace: namespace.ok_or(InvalidConfig::Namespace)?,
            times,
        }))
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests;
