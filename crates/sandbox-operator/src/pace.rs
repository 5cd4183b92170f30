//! A limit on requests per second, with a burst: a token bucket. Off unless a user asks for it.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Lets so many requests a second pass.
#[derive(Debug)]
pub struct Pace {
    /// Time that one request costs.
    cost: Duration,
    /// Time that may be saved up, for requests at once.
    savings_max: Duration,
    /// From when on the next request may be sent, were nothing saved up.
    due: Mutex<Instant>,
}

impl Pace {
    /// At most `per_second` requests, `burst` at once.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let cost = Duration::from_secs(1) / per_second.get();
        Self {
            cost,
            savings_max: cost * burst.get(),
            due: Mutex::new(Instant::now()),
        }
    }

    /// Waits until one more request may be sent. In the order of the calls.
    pub async fn wait(&self) {
        let mut due = self.due.lock().await;
        let now = Instant::now();
        let saved_up = now.checked_sub(self.savings_max).unwrap_or(now);
        let begin = (*due).max(saved_up);
        *due = begin + self.cost;
        if *due > now {
            tokio::time::sleep_until(*due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn time_for(requests: u32, per_second: u32, burst: u32) -> Duration {
        let number = |number| NonZeroU32::new(number).expect("not zero");
        let pace = Pace::new(number(per_second), number(burst));
        // Everything is saved up after a while.
        tokio::time::sleep(Duration::from_mins(1)).await;
        let begun = Instant::now();
        for _ in 0..requests {
            pace.wait().await;
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_at_once_and_the_rest_at_its_pace() {
        assert_eq!(time_for(20, 10, 20).await, Duration::ZERO);
        let slow = time_for(50, 10, 20).await.as_millis();
        assert!((2990..=3010).contains(&slow), "{slow}");
    }
}
