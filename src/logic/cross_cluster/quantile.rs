//! Quantiles estimated from a histogram's buckets.

/// The value below which `share` (0 to 1) of the observations are, in seconds; `None` without any.
///
/// Within its bucket the value is assumed to lie in proportion, as Prometheus' `histogram_quantile` does, so that
/// page and dashboards agree. Buckets are (upper bound, observations in this bucket alone), ascending. Above the last
/// finite bound nothing is known but that bound, which is then the answer.
pub fn quantile(buckets: &[(f64, u64)], share: f64) -> Option<f64> {
    let total: u64 = buckets.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return None;
    }
    let wanted = share.clamp(0.0, 1.0) * total as f64;
    let (mut below, mut lower) = (0.0, 0.0);
    for &(upper, count) in buckets {
        let count = count as f64;
        if count > 0.0 && below + count >= wanted {
            let inside = if upper.is_finite() { (upper - lower) * ((wanted - below) / count) } else { 0.0 };
            return Some(lower + inside);
        }
        below += count;
        lower = if upper.is_finite() { upper } else { lower };
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_within_its_bucket_in_proportion() {
        let buckets = [(0.1, 50), (0.2, 50), (f64::INFINITY, 0)];
        assert_eq!(quantile(&buckets, 0.25), Some(0.05));
        assert_eq!(quantile(&buckets, 0.5), Some(0.1));
        assert_eq!(quantile(&buckets, 1.0), Some(0.2));
        assert_eq!(quantile(&buckets, 7.0), Some(0.2));
    }

    #[test]
    fn above_the_last_bound_the_bound_is_all_that_is_known() {
        assert_eq!(quantile(&[(0.1, 1), (f64::INFINITY, 99)], 0.99), Some(0.1));
        assert_eq!(quantile(&[(f64::INFINITY, 99)], 0.5), Some(0.0));
    }

    #[test]
    fn without_observations_there_is_none() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[(0.1, 0), (f64::INFINITY, 0)], 0.5), None);
    }
}
