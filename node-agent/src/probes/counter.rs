//! When a run of outcomes changes the verdict.

use super::{Kind, Outcome};
use crate::api::pod::Probe;

/// Counts the outcomes of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    healthy: bool,
    settled: bool,
    run: i64,
    run_success: bool,
}

impl Counter {
    /// Before the first outcome: alive, but not ready and not started.
    pub fn new(kind: Kind) -> Self {
        Self { healthy: kind == Kind::Liveness, settled: false, run: 0, run_success: false }
    }

    /// Takes in an outcome; gives the verdict when it changes, and the first one.
    pub fn observe(&mut self, probe: &Probe, outcome: &Outcome) -> Option<bool> {
        let success = match outcome {
            Outcome::Success | Outcome::Warned(_) => true,
            Outcome::Failure(_) => false,
            Outcome::Unknown(_) => return None,
        };
        if self.run > 0 && self.run_success == success {
            self.run += 1;
        } else {
            (self.run, self.run_success) = (1, success);
        }
        let threshold = if success { probe.success_threshold } else { probe.failure_threshold }.max(1);
        if self.run < threshold || (self.settled && self.healthy == success) {
            return None;
        }
        (self.healthy, self.settled) = (success, true);
        Some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(kind: Kind, outcomes: &str) -> Vec<Option<bool>> {
        let probe = Probe { failure_threshold: 3, success_threshold: 2, ..Probe::default() };
        let mut counter = Counter::new(kind);
        outcomes
            .chars()
            .map(|c| {
                let outcome = match c {
                    '+' => Outcome::Success,
                    '-' => Outcome::Failure(String::new()),
                    _ => Outcome::Unknown(String::new()),
                };
                counter.observe(&probe, &outcome)
            })
            .collect()
    }

    #[test]
    fn verdicts_change_at_their_thresholds() {
        assert_eq!(run(Kind::Readiness, "++--+---"), [None, Some(true), None, None, None, None, None, Some(false)]);
    }

    #[test]
    fn a_probe_that_could_not_be_made_counts_for_nothing() {
        assert_eq!(run(Kind::Liveness, "--?-"), [None, None, None, Some(false)]);
    }
}
