//! A lane: at most one write at a time, and a pause after one that failed.

use jiff::{SignedDuration, Timestamp};

use crate::plan::later;

/// Longest pause after failures that may pass by themselves.
const PAUSE_MAX: SignedDuration = SignedDuration::from_secs(2);
/// Longest pause after refusals.
const REFUSED_PAUSE_MAX: SignedDuration = SignedDuration::from_secs(60);
/// First pause; doubled with each failure.
const PAUSE_MIN: SignedDuration = SignedDuration::from_millis(50);
const REFUSED_PAUSE_MIN: SignedDuration = SignedDuration::from_secs(1);

/// Where a lane is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lane {
    is_busy: bool,
    failures: u32,
    paused_until: Option<Timestamp>,
}

impl Lane {
    /// Whether a write may start now; if only time is missing, `wake_at` is moved to then.
    pub(super) fn is_free(&mut self, now: Timestamp, wake_at: &mut Option<Timestamp>) -> bool {
        if self.is_busy {
            return false;
        }
        match self.paused_until {
            Some(until) if until > now => {
                *wake_at = Some(wake_at.map_or(until, |before| before.min(until)));
                false
            }
            _ => true,
        }
    }

    /// Whether a write is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    pub(super) fn start(&mut self) {
        self.is_busy = true;
    }

    pub(super) fn succeed(&mut self) {
        *self = Self::default();
    }

    /// The write failed in a way that passes by itself.
    pub(super) fn fail(&mut self, now: Timestamp) {
        self.pause(PAUSE_MIN, PAUSE_MAX, now);
    }

    /// The write was refused and will be for a while.
    pub(super) fn refuse(&mut self, now: Timestamp) {
        self.pause(REFUSED_PAUSE_MIN, REFUSED_PAUSE_MAX, now);
    }

    /// How often it failed since it last succeeded.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Something changed that the failures may have depended on.
    pub(super) fn hurry(&mut self) {
        self.paused_until = None;
    }

    fn pause(&mut self, least: SignedDuration, most: SignedDuration, now: Timestamp) {
        let factor = 1_i32 << self.failures.min(10);
        let pause = least
            .checked_mul(factor)
            .map_or(most, |pause| pause.min(most));
        self.failures += 1;
        self.is_busy = false;
        self.paused_until = Some(later(now, pause));
    }
}
