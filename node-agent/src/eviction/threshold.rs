//! Signals, and how little of each is too little: pure (the kubelet's `evictionHard`).

use std::fmt;

use xebec_schema::quantity::{Format, Quantity};

use super::Pressure;

/// Something that can run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory.
    MemoryAvailable,
    /// Bytes where pods' files are.
    NodeFsAvailable,
    /// Files there.
    NodeFsInodesFree,
    /// Bytes where images are.
    ImageFsAvailable,
    /// Files there.
    ImageFsInodesFree,
    /// Process ids.
    PidAvailable,
}

impl Signal {
    /// All of them, memory first: what is reclaimed first if several are short.
    pub const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::NodeFsAvailable,
        Self::NodeFsInodesFree,
        Self::ImageFsAvailable,
        Self::ImageFsInodesFree,
        Self::PidAvailable,
    ];

    /// As configurations call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodeFsAvailable => "nodefs.available",
            Self::NodeFsInodesFree => "nodefs.inodesFree",
            Self::ImageFsAvailable => "imagefs.available",
            Self::ImageFsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// The resource that is short, as messages call it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodeFsAvailable | Self::ImageFsAvailable => "ephemeral-storage",
            Self::NodeFsInodesFree | Self::ImageFsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    /// Whether a disk is what is short.
    pub fn is_disk(self) -> bool {
        !matches!(self, Self::MemoryAvailable | Self::PidAvailable)
    }

    /// The condition of the node that comes of it.
    pub fn presses(self, pressure: &mut Pressure) {
        match self {
            Self::MemoryAvailable => pressure.memory = true,
            Self::PidAvailable => pressure.pid = true,
            _ => pressure.disk = true,
        }
    }

    /// An amount of it, as messages write it.
    pub fn amount(self, value: i64) -> Quantity {
        let bytes = matches!(self, Self::MemoryAvailable | Self::NodeFsAvailable | Self::ImageFsAvailable);
        Quantity::new(value, if bytes { Format::BinarySi } else { Format::DecimalSi })
    }
}

/// How much is left of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Left.
    pub available: i64,
    /// There is.
    pub capacity: i64,
}

/// How much of a signal is too little.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// Less than this.
    pub least: Least,
}

/// An amount, or a share of the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Least {
    /// So much.
    Amount(Quantity),
    /// This share, 0 to 1: in single precision, as upstream counts.
    Share(f32),
}

impl fmt::Display for Least {
    /// As configurations write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amount(amount) => write!(f, "{amount}"),
            Self::Share(share) => write!(f, "{}%", share * 100.0),
        }
    }
}

/// Why a threshold is none, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThresholdError {
    /// There is no such signal.
    #[error("unsupported eviction signal {0}")]
    Signal(String),
    /// The amount is none.
    #[error("eviction threshold {0} must be a quantity or a percentage: {1}")]
    Amount(String, String),
    /// Nothing, or less.
    #[error("eviction threshold {0} must be positive: {1}")]
    NotPositive(String, String),
    /// Less than nothing.
    #[error("eviction percentage threshold {0} must be >= 0%: {1}")]
    Negative(String, String),
    /// More than there can be.
    #[error("eviction percentage threshold {0} must be <= 100%: {1}")]
    MoreThanAll(String, String),
}

impl Threshold {
    /// Reads one: `memory.available` and `100Mi`, or `10%`. `0%` and `100%` are none.
    pub fn parse(signal: &str, least: &str) -> Result<Option<Self>, ThresholdError> {
        let known = Signal::ALL.into_iter().find(|known| known.name() == signal);
        let known = known.ok_or_else(|| ThresholdError::Signal(signal.to_owned()))?;
        let (name, text) = (signal.to_owned(), least.to_owned());
        let Some(percent) = least.strip_suffix('%') else {
            let amount = Quantity::parse(least).map_err(|_| ThresholdError::Amount(name.clone(), text.clone()))?;
            if amount.is_negative() || amount.is_zero() {
                return Err(ThresholdError::NotPositive(name, text));
            }
            return Ok(Some(Self { signal: known, least: Least::Amount(amount) }));
        };
        if matches!(percent, "0" | "100") {
            return Ok(None);
        }
        match percent.parse::<f32>() {
            Ok(share) if share < 0.0 => Err(ThresholdError::Negative(name, text)),
            Ok(share) if share > 100.0 => Err(ThresholdError::MoreThanAll(name, text)),
            Ok(share) if share.is_finite() => Ok(Some(Self { signal: known, least: Least::Share(share / 100.0) })),
            _ => Err(ThresholdError::Amount(name, text)),
        }
    }

    /// The least of it that is enough, of a whole.
    pub fn of(&self, capacity: i64) -> Quantity {
        match self.least {
            Least::Amount(amount) => amount,
            Least::Share(share) => self.signal.amount((capacity as f64 * f64::from(share)) as i64),
        }
    }

    /// Whether there is too little.
    pub fn is_met(&self, observed: &Observation) -> bool {
        self.of(observed.capacity) > self.signal.amount(observed.available)
    }
}

/// Reads a configuration's thresholds.
pub fn parse<'a>(all: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<Vec<Threshold>, ThresholdError> {
    let mut thresholds = Vec::new();
    for (signal, least) in all {
        thresholds.extend(Threshold::parse(signal, least)?);
    }
    thresholds.sort_by_key(|threshold| threshold.signal);
    Ok(thresholds)
}

/// Upstream's.
pub fn defaults() -> Vec<Threshold> {
    let at = |signal, least| Threshold { signal, least };
    vec![
        at(Signal::MemoryAvailable, Least::Amount(Quantity::new(100 << 20, Format::BinarySi))),
        at(Signal::NodeFsAvailable, Least::Share(0.10)),
        at(Signal::NodeFsInodesFree, Least::Share(0.05)),
        at(Signal::ImageFsAvailable, Least::Share(0.15)),
        at(Signal::ImageFsInodesFree, Least::Share(0.05)),
    ]
}

/// Those of a machine whose disk and memory are not the node's alone: that others have filled most of a disk is no reason to
/// send pods away as long as some of it is left.
pub fn of_shared_machine() -> Vec<Threshold> {
    let left = |signal, bytes| Threshold { signal, least: Least::Amount(Quantity::new(bytes, Format::BinarySi)) };
    vec![
        left(Signal::MemoryAvailable, 100 << 20),
        left(Signal::NodeFsAvailable, 1 << 30),
        left(Signal::ImageFsAvailable, 1 << 30),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(signal: &str, least: &str) -> Result<Option<Threshold>, String> {
        Threshold::parse(signal, least).map_err(|e| e.to_string())
    }

    #[test]
    fn thresholds_are_amounts_or_shares() {
        let memory = parsed("memory.available", "100Mi").unwrap().unwrap();
        assert!(memory.is_met(&Observation { available: (100 << 20) - 1, capacity: 1 << 30 }));
        assert!(!memory.is_met(&Observation { available: 100 << 20, capacity: 1 << 30 }));
        assert_eq!(memory.of(1 << 30).to_string(), "100Mi");
        let disk = parsed("nodefs.available", "12.5%").unwrap().unwrap();
        assert_eq!(disk.of(1 << 30).to_string(), "128Mi");
        let inodes = parsed("nodefs.inodesFree", "5%").unwrap().unwrap();
        assert_eq!(inodes.of(2_000_000).to_string(), "100k");
        assert_eq!(parsed("imagefs.available", "0%"), Ok(None));
        assert_eq!(parsed("imagefs.available", "100%"), Ok(None));
    }

    #[test]
    fn mistakes_are_named() {
        for (signal, least, says) in [
            ("memory", "1", "unsupported eviction signal memory"),
            ("memory.available", "0", "eviction threshold memory.available must be positive: 0"),
            ("memory.available", "-1Mi", "eviction threshold memory.available must be positive: -1Mi"),
            ("pid.available", "-1%", "eviction percentage threshold pid.available must be >= 0%: -1%"),
            ("pid.available", "101%", "eviction percentage threshold pid.available must be <= 100%: 101%"),
            ("pid.available", "x%", "eviction threshold pid.available must be a quantity or a percentage: x%"),
            ("pid.available", "NaN%", "eviction threshold pid.available must be a quantity or a percentage: NaN%"),
            ("pid.available", "many", "eviction threshold pid.available must be a quantity or a percentage: many"),
        ] {
            assert_eq!(parsed(signal, least), Err(says.to_owned()));
        }
    }

    #[test]
    fn memory_comes_first() {
        let given = [("pid.available", "1"), ("memory.available", "1")].map(|(s, l)| (s.to_owned(), l.to_owned()));
        let thresholds = parse(given.iter().map(|(s, l)| (s, l))).unwrap();
        assert_eq!(thresholds[0].signal, Signal::MemoryAvailable);
    }
}
