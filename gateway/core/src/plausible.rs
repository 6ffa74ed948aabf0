//! Statistics of tests.

/// Whether the counts could well come from the expected ones: chi-squared within five standard
/// deviations of its mean (Wilson and Hilferty's normal approximation would say one in millions).
pub(crate) fn is_plausible(counts: &[u64], expected: &[f64]) -> bool {
    let chi: f64 = counts
        .iter()
        .zip(expected)
        .map(|(count, expected)| (*count as f64 - expected).powi(2) / expected)
        .sum();
    let degrees = (counts.len() as f64 - 1.0).max(1.0);
    chi < degrees + 5.0 * (2.0 * degrees).sqrt() + 10.0
}
