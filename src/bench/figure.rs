//! A measured figure, its bound, and how both are printed.

use serde::Serialize;

/// Something measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    /// What it is.
    pub name: &'static str,
    /// Of what: `ms`, `s`, `MB`, `/s`.
    pub unit: &'static str,
    /// What was measured.
    pub value: f64,
    /// What is good.
    #[serde(flatten)]
    pub bound: Bound,
    /// From how many measurements.
    pub samples: usize,
}

/// On which side of what a figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Bound {
    /// At most this much is good.
    AtMost(f64),
    /// At least this much is good.
    AtLeast(f64),
}

impl Figure {
    /// One that should be small.
    pub fn at_most(name: &'static str, unit: &'static str, value: f64, bound: f64, samples: usize) -> Self {
        Self { name, unit, value, bound: Bound::AtMost(bound), samples }
    }

    /// One that should be large.
    pub fn at_least(name: &'static str, unit: &'static str, value: f64, bound: f64, samples: usize) -> Self {
        Self { name, unit, value, bound: Bound::AtLeast(bound), samples }
    }

    /// Whether the figure is within its bound.
    pub fn holds(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.value <= bound,
            Bound::AtLeast(bound) => self.value >= bound,
        }
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
    let mut text = format!("{:width$}  {:>10}  {:>19}\n", "figure", "measured", "bound");
    for figure in figures {
        let mark = if figure.holds() { "" } else { "  missed" };
        let with_unit = |value: f64| format!("{} {}", round(value), figure.unit).trim_end().to_owned();
        let value = with_unit(figure.value);
        let bound = match figure.bound {
            Bound::AtMost(bound) => format!("at most {}", with_unit(bound)),
            Bound::AtLeast(bound) => format!("at least {}", with_unit(bound)),
        };
        text += &format!("{:width$}  {value:>10}  {bound:>19}{mark}\n", figure.name);
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
        let figures = [
            Figure::at_most("one", "ms", 150.25, 200.0, 1),
            Figure::at_most("two", "ms", 250.0, 200.0, 1),
            Figure::at_least("three", "/s", 250.0, 200.0, 1),
            Figure::at_least("four", "", 0.5, 0.97, 1),
        ];
        insta::assert_snapshot!(table(&figures), @"
        figure    measured                bound
        one        150 ms       at most 200 ms
        two        250 ms       at most 200 ms  missed
        three      250 /s      at least 200 /s
        four         0.50        at least 0.97  missed
        ");
    }
}
