//! How long to wait before trying again what failed: upstream's flow-control back-off.

use jiff::{SignedDuration, Timestamp};

/// The first wait.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait. Something that held for twice as long starts from the beginning.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// The back-off of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    last: Option<(SignedDuration, Timestamp)>,
}

impl Backoff {
    /// When what failed at `failed_at` may be tried again; none: at once.
    pub fn until(&self, failed_at: Timestamp) -> Option<Timestamp> {
        let (delay, updated_at) = self.last?;
        if expired(failed_at, updated_at) { None } else { failed_at.checked_add(delay).ok() }
    }

    /// The current wait.
    pub fn delay(&self) -> SignedDuration {
        self.last.map_or(SignedDuration::ZERO, |(delay, _)| delay)
    }

    /// What failed at `failed_at` is tried again now: the next wait is longer.
    pub fn advance(&mut self, failed_at: Timestamp, now: Timestamp) {
        let delay = match self.last {
            Some((delay, updated_at)) if !expired(failed_at, updated_at) => {
                delay.checked_mul(2).unwrap_or(MAX).min(MAX)
            }
            _ => INITIAL,
        };
        self.last = Some((delay, now));
    }
}

/// Whether what may begin at `at` has to wait at `now`. Nothing waits longer than [`MAX`]: what should was told before the
/// clock was set back.
pub fn waits(at: Timestamp, now: Timestamp) -> bool {
    at > now && at.duration_since(now) <= MAX
}

fn expired(failed_at: Timestamp, updated_at: Timestamp) -> bool {
    failed_at.duration_since(updated_at) > MAX + MAX
}

/// A duration as Go prints it, for whole seconds: `10s`, `1m20s`, `5m0s`.
pub fn go_seconds(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_first_retry_is_immediate_and_waits_double_up_to_the_limit() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.until(at(100)), None);
        let mut waits = Vec::new();
        let mut now = 100;
        for _ in 0..7 {
            backoff.advance(at(now), at(now));
            let until = backoff.until(at(now)).unwrap();
            waits.push(go_seconds(backoff.delay()));
            now = until.as_second();
        }
        assert_eq!(waits, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_wait_for_hours() {
        assert!(waits(at(310), at(10)));
        assert!(!waits(at(10), at(10)));
        assert!(!waits(at(3 * 3600), at(0)));
    }

    #[test]
    fn what_held_for_ten_minutes_starts_over() {
        let mut backoff = Backoff::default();
        backoff.advance(at(0), at(0));
        backoff.advance(at(10), at(10));
        assert_eq!(backoff.delay().as_secs(), 20);
        assert_eq!(backoff.until(at(10 + 601)), None);
        backoff.advance(at(611), at(611));
        assert_eq!(backoff.delay(), INITIAL);
    }
}
