//! Numbers as text for people.

/// A number with this number of decimals. A number that is too large for them has fewer.
pub fn number(value: f64, decimals: usize) -> String {
    match value.abs() {
        1000.0.. => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        _ => format!("{value:.decimals$}"),
    }
}
