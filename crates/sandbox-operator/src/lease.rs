//! Leader election by a Lease, with fencing: who has not renewed in time stops acting by itself, before others start.
//!
//! ```text
//!   leader:    |--renew--|--renew--|---- no answer ----X stops at renew_deadline
//!   candidate:                      |------- sees the Lease unchanged for duration -------| takes it
//! ```
//!
//! Each takes times from its own monotonic clock only: the leader from before its request was sent, a candidate from
//! after it has seen a change. So the leader's time is over first, however long answers take.

mod decide;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use decide::{Decision, Seen, Times, decide};

/// Whether this process may act, at this moment.
#[derive(Clone, Debug)]
pub struct Leadership {
    started: Instant,
    /// Milliseconds after `started` until which it may act.
    until: Arc<AtomicU64>,
}

impl Leadership {
    /// One that always holds: there is no other replica.
    pub fn without_election() -> Self {
        Self {
            started: Instant::now(),
            until: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    /// One that holds only while [`Elector`] says so.
    pub fn by_election() -> Self {
        let this = Self::without_election();
        this.until.store(0, Ordering::Release);
        this
    }

    /// Whether this process may act now.
    pub fn is_held(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until == u64::MAX || self.started.elapsed() < Duration::from_millis(until)
    }

    fn extend(&self, until: Instant) {
        let until = until.saturating_duration_since(self.started).as_millis();
        let until = u64::try_from(until).unwrap_or(u64::MAX - 1);
        self.until.store(until, Ordering::Release);
    }

    fn end(&self) {
        self.until.store(0, Ordering::Release);
    }
}

/// Where and as whom to stand for election.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Name of the Lease.
    pub lease: String,
    /// Who this is; different for each process.
    pub identity: String,
    /// How long things hold.
    pub times: Times,
}

/// Takes part in the election.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    candidate: Candidate,
    leadership: Leadership,
    is_leader: watch::Sender<bool>,
    /// The version of the Lease that was seen last, and since when.
    unchanged: Option<(String, Instant)>,
}

impl Elector {
    /// One for a Lease in the namespace of `api`. `is_leader` tells when it was won or lost.
    pub fn new(
        api: Api<Lease>,
        candidate: Candidate,
        leadership: Leadership,
        is_leader: watch::Sender<bool>,
    ) -> Self {
        Self {
            api,
            candidate,
            leadership,
            is_leader,
            unchanged: None,
        }
    }

    /// Stands for election until told to stop, or until leadership was lost; then gives the Lease back if it has it.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let deadline = self.candidate.times.renew_deadline;
            match tokio::time::timeout(deadline, self.round()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "lease can't be looked after"),
                Err(_) => tracing::warn!("lease can't be looked after: no answer in time"),
            }
            let holds = self.leadership.is_held();
            let was_leader = self.is_leader.send_replace(holds);
            if was_leader != holds {
                tracing::info!(identity = %self.candidate.identity, holds, "leadership changed");
            }
            if was_leader && !holds {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(self.candidate.times.retry_period) => {}
                () = stop.cancelled() => break,
            }
        }
        let release = tokio::time::timeout(self.candidate.times.renew_deadline, self.release());
        if let Ok(Err(error)) = release.await {
            tracing::warn!(%error, "lease can't be given back");
        }
    }

    /// Looks at the Lease once, and does what is to be done about it.
    async fn round(&mut self) -> kube::Result<()> {
        let lease = self.api.get_opt(&self.candidate.lease).await?;
        let seen = lease.as_ref().map(|lease| self.see(lease));
        let begun = Instant::now();
        let written = match (decide(seen.as_ref(), &self.candidate.identity), lease) {
            (Decision::Wait, _) => {
                self.leadership.end();
                return Ok(());
            }
            (Decision::Renew, Some(lease)) => self.write(lease, false).await,
            (Decision::Take, Some(lease)) => self.write(lease, true).await,
            (_, _) => {
                let lease = self.new_lease();
                self.api.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => {
                self.leadership
                    .extend(begun + self.candidate.times.renew_deadline);
                Ok(())
            }
            // Somebody else was faster; the next round sees who.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn see(&mut self, lease: &Lease) -> Seen {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.unchanged {
            Some((known, since)) if *known == version => *since,
            _ => Instant::now(),
        };
        self.unchanged = Some((version, since));
        let spec = lease.spec.clone().unwrap_or_default();
        let seconds = spec.lease_duration_seconds.unwrap_or_default();
        Seen {
            holder: spec.holder_identity.unwrap_or_default(),
            duration: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
            unchanged_for: since.elapsed(),
        }
    }

    /// Puts this candidate into the Lease, if nobody has changed it meanwhile.
    async fn write(&self, mut lease: Lease, is_new: bool) -> kube::Result<Lease> {
        let before = lease.spec.take().unwrap_or_default();
        let mut spec = self.spec();
        spec.lease_transitions =
            Some(before.lease_transitions.unwrap_or_default() + i32::from(is_new));
        if !is_new {
            spec.acquire_time = before.acquire_time;
        }
        lease.spec = Some(spec);
        let params = PostParams::default();
        self.api
            .replace(&self.candidate.lease, &params, &lease)
            .await
    }

    fn new_lease(&self) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.candidate.lease.clone()),
                labels: Some(BTreeMap::from([(
                    "app.kubernetes.io/name".to_owned(),
                    "sandbox-operator".to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            spec: Some(self.spec()),
        }
    }

    fn spec(&self) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let seconds = self.candidate.times.duration.as_secs();
        LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    /// Gives the Lease back, so that another candidate need not wait until it runs out.
    async fn release(&self) -> kube::Result<()> {
        self.leadership.end();
        let Some(mut lease) = self.api.get_opt(&self.candidate.lease).await? else {
            return Ok(());
        };
        let is_mine = |spec: &LeaseSpec| {
            spec.holder_identity.as_deref() == Some(self.candidate.identity.as_str())
        };
        if !lease.spec.as_ref().is_some_and(is_mine) {
            return Ok(());
        }
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
        }
        let params = PostParams::default();
        self.api
            .replace(&self.candidate.lease, &params, &lease)
            .await?;
        tracing::info!("lease given back");
        Ok(())
    }
}
