//! The decision of leader election, pure: what a candidate does about the Lease that it sees.

use std::time::Duration;

/// How long a Lease holds, and how often it is looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Others may take the Lease when it was not renewed for so long.
    pub duration: Duration,
    /// The leader stops acting when it could not renew for so long; shorter than `duration`.
    pub renew_deadline: Duration,
    /// How often leader and candidates look.
    pub retry_period: Duration,
}

/// What a Lease says, and since when this candidate has seen it unchanged, on its own clock: the clocks of other
/// machines are never compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who holds it; empty when it was released.
    pub holder: String,
    /// For how long it was taken.
    pub duration: Duration,
    /// How long it has not changed.
    pub unchanged_for: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Make the Lease.
    Create,
    /// Put this candidate into it; a new holder, so the number of transitions grows.
    Take,
    /// Say that this candidate still holds it.
    Renew,
    /// Somebody else holds it.
    Wait,
}

/// Decides what `me` does about a Lease.
pub fn decide(seen: Option<&Seen>, me: &str) -> Decision {
    match seen {
        None => Decision::Create,
        Some(seen) if seen.holder == me => Decision::Renew,
        Some(seen) if seen.holder.is_empty() => Decision::Take,
        Some(seen) if seen.unchanged_for >= seen.duration => Decision::Take,
        Some(_) => Decision::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(holder: &str, unchanged_for: u64) -> Seen {
        Seen {
            holder: holder.to_owned(),
            duration: Duration::from_secs(8),
            unchanged_for: Duration::from_secs(unchanged_for),
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_nobody_holds_it() {
        assert_eq!(decide(None, "me"), Decision::Create);
        assert_eq!(decide(Some(&seen("", 0)), "me"), Decision::Take);
        assert_eq!(decide(Some(&seen("me", 100)), "me"), Decision::Renew);
        assert_eq!(decide(Some(&seen("other", 7)), "me"), Decision::Wait);
        assert_eq!(decide(Some(&seen("other", 8)), "me"), Decision::Take);
    }
}
