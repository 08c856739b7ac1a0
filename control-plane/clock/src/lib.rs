//! The only sources of time and randomness.
//!
//! Everything else takes a [`Clock`] and a [`Random`] from its caller, so the whole control plane runs on virtual time
//! from a seed in a test. Durations and timers use `tokio::time`, which follows the runtime's (pausable) clock; wall
//! time is derived from it in a simulation.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

/// Supplies wall-clock time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Wall time is `epoch` plus the runtime's time since `start`, plus what it was stepped by.
    Simulated {
        epoch: Timestamp,
        start: Instant,
        stepped: Arc<Mutex<SignedDuration>>,
    },
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that starts at `epoch` and follows the tokio runtime's time, paused or not.
    pub fn simulated(epoch: Timestamp) -> Self {
        Self(Source::Simulated { epoch, start: Instant::now(), stepped: Arc::default() })
    }

    /// A clock that shows this one's time now, and from then on what has passed: it does not follow when somebody sets
    /// this one. For what has to take so long whatever the wall says: silences, pauses.
    pub fn steady(&self) -> Self {
        Self::simulated(self.now())
    }

    /// Sets a simulated clock, and its clones, forward or back, as an administrator does the machine's; that one is left
    /// alone.
    pub fn step(&self, by: SignedDuration) {
        if let Source::Simulated { stepped, .. } = &self.0 {
            let mut stepped = stepped.lock();
            *stepped = stepped.saturating_add(by);
        }
    }

    /// Wall-clock time, in nanosecond resolution.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the machine's clock")]
            Source::System => Timestamp::now(),
            Source::Simulated { epoch, start, stepped } => {
                let elapsed = SignedDuration::try_from(start.elapsed()).unwrap_or(SignedDuration::MAX);
                epoch.checked_add(elapsed.saturating_add(*stepped.lock())).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Wall-clock time cut to whole seconds, as `metav1.Time` is serialised.
    pub fn now_seconds(&self) -> Timestamp {
        Timestamp::from_second(self.now().as_second()).unwrap_or(Timestamp::MAX)
    }
}

/// Supplies randomness; clones share one stream.
#[derive(Clone, Debug)]
pub struct Random(Arc<Mutex<ChaCha8Rng>>);

/// The letters and digits upstream's generated names use: no vowels, and none that look alike
/// (apimachinery `util/rand`).
const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

impl Random {
    /// A stream seeded by the operating system.
    pub fn system() -> Self {
        Self(Arc::new(Mutex::new(ChaCha8Rng::from_os_rng())))
    }

    /// A stream that is the same for the same `seed`.
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))))
    }

    /// The next 64 random bits.
    pub fn next_u64(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// A number in `0..bound`; 0 if `bound` is 0. The bias is below 2^-32 for bounds under 2^32.
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// Fills `out` with random bytes.
    pub fn fill(&self, out: &mut [u8]) {
        self.0.lock().fill_bytes(out);
    }

    /// `length` characters for the end of a generated name.
    pub fn name_suffix(&self, length: usize) -> String {
        (0..length).map(|_| char::from(NAME_ALPHABET[self.below(NAME_ALPHABET.len() as u64) as usize])).collect()
    }

    /// A version 4 UUID in its usual text form.
    pub fn uuid(&self) -> String {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn simulated_time_follows_the_runtime() {
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = Clock::simulated(epoch);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(clock.now_seconds().to_string(), "2026-01-01T01:00:00Z");
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_clock_does_not_follow_steps() {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let (steady, follower) = (clock.steady(), clock.clone());
        clock.step(SignedDuration::from_hours(-3));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(follower.now_seconds().to_string(), "2025-12-31T21:00:01Z");
        assert_eq!(steady.now_seconds().to_string(), "2026-01-01T00:00:01Z");
    }

    #[test]
    fn the_same_seed_gives_the_same_names() {
        let (a, b) = (Random::seeded(7), Random::seeded(7));
        assert_eq!(a.uuid(), b.uuid());
        assert_eq!(a.name_suffix(5), b.name_suffix(5));
        assert_ne!(a.name_suffix(5), a.name_suffix(5));
    }

    #[test]
    fn suffixes_use_the_name_alphabet() {
        let suffix = Random::seeded(1).name_suffix(200);
        assert_eq!(suffix.len(), 200);
        assert!(suffix.bytes().all(|b| NAME_ALPHABET.contains(&b)));
    }
}
