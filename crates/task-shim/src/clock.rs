//! The two clocks of a shim: boot time for durations, real time for time stamps.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds since boot, suspended time included (`CLOCK_BOOTTIME`): deadlines and
/// grace periods count on it, so setting the wall clock changes neither.
pub(crate) fn boot_ms() -> u64 {
    millis(ClockId::CLOCK_BOOTTIME)
}

/// Whole seconds since the Unix epoch (`CLOCK_REALTIME`).
pub(crate) fn unix_seconds() -> i64 {
    i64::try_from(millis(ClockId::CLOCK_REALTIME) / 1000).unwrap_or(i64::MAX)
}

fn millis(clock: ClockId) -> u64 {
    // Linux always has both clocks; zero would only make a deadline come late.
    let Ok(time) = clock_gettime(clock) else {
        return 0;
    };
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or_default();
    seconds * 1000 + nanos / 1_000_000
}
