//! A measured figure, its bound, and how both are printed.

use serde::Serialize;

/// Something measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// Of what: `ms`, `s`, `MB`.
    pub unit: &'static str,
    /// What was measured.
    pub value: f64,
    /// At most this much is good.
    pub at_most: f64,
    /// From how many measurements.
    pub samples: usize,
}

impl Figure {
    /// Whether the figure is within its bound.
    pub fn holds(&self) -> bool {
        self.value <= self.at_most
    }
}

/// The value below which `percent` of the samples lie (nearest rank). Sorts the samples; 0 if there are none.
pub fn percentile(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (samples.len() * percent).div_ceil(100).max(1);
    samples.get(rank - 1).copied().unwrap_or(0.0)
}

/// A table for people.
pub fn table(figures: &[Figure]) -> String {
    let width = figures.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let mut text = format!("{:width$}  {:>10}  {:>10}\n", "figure", "measured", "at most");
    for figure in figures {
        let mark = if figure.holds() { "" } else { "  missed" };
        let with_unit = |value: f64| format!("{} {}", round(value), figure.unit);
        let (value, bound) = (with_unit(figure.value), with_unit(figure.at_most));
        text += &format!("{:width$}  {value:>10}  {bound:>10}{mark}\n", figure.name);
    }
    text
}

/// Two places below ten, one below a hundred, none above.
fn round(value: f64) -> String {
    let places = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut samples: Vec<f64> = (1..=50).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut samples, 50), 25.0);
        assert_eq!(percentile(&mut samples, 99), 50.0);
        assert_eq!(percentile(&mut [7.0], 50), 7.0);
        assert_eq!(percentile(&mut [], 50), 0.0);
    }

    #[test]
    fn the_table_marks_what_misses() {
        let figure = |name, value| Figure { name, unit: "ms", value, at_most: 200.0, samples: 1 };
        let text = table(&[figure("one", 150.25), figure("two", 250.0)]);
        insta::assert_snapshot!(text, @"
        figure    measured     at most
        one      150 ms      200 ms
        two      250 ms      200 ms  missed
        ");
    }
}
