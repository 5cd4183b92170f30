//! Seeded random numbers (splitmix64): the same seed gives the same decisions everywhere.

use std::time::Duration;

/// A generator. Seeds that follow one another give sequences that have nothing in common.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed that nobody chose: from the clock.
    pub fn any_seed() -> u64 {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(now.as_nanos() & 0xffff_ffff).unwrap_or_default()
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let wide = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.bits() % wide).unwrap_or_default()
    }

    /// True in so many of a hundred cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.bits() % 100 < percent
    }

    /// One of a list that is not empty.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// A time of less than `millis` milliseconds, in microseconds.
    pub fn within(&mut self, millis: u64) -> Duration {
        Duration::from_micros(self.bits() % (millis * 1000).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_sequence_and_its_neighbour_has_another() {
        let five = |seed| {
            let mut random = Random::new(seed);
            [(); 5].map(|()| random.below(1000))
        };
        assert_eq!(five(7), five(7));
        assert_ne!(five(7), five(8));
    }
}
