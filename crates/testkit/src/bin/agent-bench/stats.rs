//! Percentiles within a run, medians over runs.

/// What the samples of several runs come to: medians of the runs' percentiles, and the largest sample of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of the samples of each run.
    pub(crate) fn of(runs: &[Vec<f64>]) -> Self {
        let over_runs = |percent| {
            let each: Vec<f64> = runs.iter().map(|run| percentile(run, percent)).collect();
            median(&each)
        };
        Self {
            p50: over_runs(50),
            p99: over_runs(99),
            max: runs.iter().flatten().copied().fold(f64::NAN, f64::max),
        }
    }
}

/// The smallest sample that `percent` of all samples do not exceed; NaN when there is none.
pub(crate) fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// The middle sample, or the mean of the two in the middle; NaN when there is none.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len().checked_rem(2), sorted.get(middle)) {
        (Some(0), Some(upper)) => f64::midpoint(sorted[middle - 1], *upper),
        (_, Some(only)) => *only,
        (_, None) => f64::NAN,
    }
}

/// A count as a number to calculate with.
pub(crate) fn float(count: impl TryInto<u32>) -> f64 {
    count.try_into().map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100_u32).rev().map(f64::from).collect();
        same(percentile(&hundred, 50), 50.0);
        same(percentile(&hundred, 99), 99.0);
        same(percentile(&hundred, 100), 100.0);
        same(percentile(&[7.0], 99), 7.0);
        same(percentile(&[1.0, 2.0], 99), 2.0);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        same(median(&[3.0, 1.0, 2.0]), 2.0);
        same(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_spread_takes_the_median_of_percentiles_and_the_largest_of_all() {
        let spread = Spread::of(&[
            vec![1.0, 2.0, 3.0],
            vec![5.0, 6.0, 7.0],
            vec![2.0, 3.0, 90.0],
        ]);
        same(spread.p50, 3.0);
        same(spread.p99, 7.0);
        same(spread.max, 90.0);
    }
}
