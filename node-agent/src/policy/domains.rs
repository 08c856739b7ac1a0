//! Names of hosts in rules, and the addresses that they were found to have. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xebec_ebpf_loader::layout::Addr;

/// For how long an address is kept when its answer's time is over: clients hold on to what they have looked up.
pub const GRACE_S: u32 = 60;
/// The longest time that an answer is believed.
const TTL_MAX_S: u32 = 86_400;
/// Addresses of one name that are kept; the API asks for a hundred at least.
const ADDRESSES_OF_NAME_MAX: usize = 1_024;
/// Pairs of a name and an address that are kept. More are refused, and counted.
pub const PAIRS_MAX: usize = 16_384;
/// The longest name, as text.
const NAME_BYTES_MAX: usize = 253;

/// What a rule says of names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// This name.
    Exactly(String),
    /// All names below this one, and not itself: `*.NAME`.
    Below(String),
}

impl Pattern {
    /// From `NAME` or `*.NAME`, with a last dot or without.
    ///
    /// # Errors
    /// If it is neither.
    pub fn read(text: &str) -> Result<Self, String> {
        let (is_wild, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if name.len() > NAME_BYTES_MAX || !name.split('.').all(|label| is_label(label.as_bytes())) {
            return Err(format!("{text:?} is neither a domain name nor *. and a domain name"));
        }
        Ok(if is_wild { Self::Below(name) } else { Self::Exactly(name) })
    }

    /// Whether a name, in the form of [`plain`], is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exactly(own) => own == name,
            Self::Below(parent) => name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.')),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// Whether this is a label of a host's name; others, whose text would have to be escaped, no pattern can mean.
fn is_label(label: &[u8]) -> bool {
    !label.is_empty() && label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// A name by its labels as patterns are compared with it: in lower case, without a last dot. None if no pattern can mean
/// it.
pub fn plain<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut out = String::new();
    for label in labels {
        if !is_label(label) {
            return None;
        }
        if !out.is_empty() {
            out.push('.');
        }
        out.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    (!out.is_empty()).then_some(out)
}

/// Patterns together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    exact: BTreeSet<String>,
    parents: BTreeSet<String>,
}

impl Patterns {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.parents.is_empty()
    }

    /// Whether one of them means the name. The costs do not grow with their number.
    pub fn matches(&self, name: &str) -> bool {
        self.exact.contains(name) || name.match_indices('.').any(|(at, _)| self.parents.contains(&name[at + 1..]))
    }
}

impl<'a> FromIterator<&'a Pattern> for Patterns {
    fn from_iter<T: IntoIterator<Item = &'a Pattern>>(all: T) -> Self {
        let mut out = Self::default();
        for pattern in all {
            match pattern {
                Pattern::Exactly(name) => out.exact.insert(name.clone()),
                Pattern::Below(name) => out.parents.insert(name.clone()),
            };
        }
        out
    }
}

/// What a lookup found: the name that was asked for, and the addresses at the end of its aliases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In the form of [`plain`].
    pub name: String,
    /// Each with its time to live, in seconds.
    pub addresses: Vec<(IpAddr, u32)>,
}

/// An address of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// In the form of [`plain`].
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// When it goes, by the kernel's monotonic clock.
    pub until_s: u32,
}

/// The addresses that names were found to have.
#[derive(Debug, Default)]
pub struct Learned {
    /// By name, until when.
    addresses: BTreeMap<Addr, BTreeMap<Arc<str>, u32>>,
    /// How many addresses each name has.
    names: BTreeMap<Arc<str>, usize>,
    pairs: usize,
    refused: u64,
    /// Whether something is other than when [`Self::take_changed`] was last asked.
    changed: bool,
}

impl Learned {
    /// Takes in what a lookup found; gives what was not known.
    pub fn learn(&mut self, found: &Found, now_s: u32) -> Vec<Entry> {
        let mut new = Vec::new();
        for (address, ttl_s) in &found.addresses {
            let until_s = now_s.saturating_add((*ttl_s).min(TTL_MAX_S)).saturating_add(GRACE_S);
            if self.put(&found.name, (*address).into(), until_s) {
                new.push(Entry { name: found.name.clone(), address: *address, until_s });
            }
        }
        new
    }

    /// Takes back what an earlier agent knew. Its clients may have looked it up when that was last written, or later.
    pub fn restore(&mut self, entry: &Entry, now_s: u32) {
        let latest = now_s.saturating_add(TTL_MAX_S).saturating_add(GRACE_S);
        self.put(&entry.name, entry.address.into(), entry.until_s.clamp(now_s.saturating_add(GRACE_S), latest));
    }

    /// Whether the pair was not there, and is now.
    fn put(&mut self, name: &str, address: Addr, until_s: u32) -> bool {
        if let Some(until) = self.addresses.get_mut(&address).and_then(|names| names.get_mut(name)) {
            self.changed |= until_s > *until;
            *until = until_s.max(*until);
            return false;
        }
        let of_name = self.names.get(name).copied().unwrap_or_default();
        if of_name >= ADDRESSES_OF_NAME_MAX || self.pairs >= PAIRS_MAX {
            self.refused += 1;
            return false;
        }
        let name = self.names.get_key_value(name).map_or_else(|| name.into(), |(name, _)| Arc::clone(name));
        *self.names.entry(Arc::clone(&name)).or_default() += 1;
        self.addresses.entry(address).or_default().insert(name, until_s);
        self.pairs += 1;
        self.changed = true;
        true
    }

    /// The names that led to an address.
    pub fn names_of(&self, address: &Addr) -> impl Iterator<Item = &str> {
        self.addresses.get(address).into_iter().flat_map(BTreeMap::keys).map(|name| &**name)
    }

    /// All addresses.
    pub fn addresses(&self) -> impl Iterator<Item = &Addr> {
        self.addresses.keys()
    }

    /// All of it.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.addresses.iter().flat_map(|(address, names)| {
            let entry = |(name, until_s): (&Arc<str>, &u32)| Entry {
                name: name.to_string(),
                address: address.to_ip(),
                until_s: *until_s,
            };
            names.iter().map(entry)
        })
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// How many pairs were refused because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The addresses that are due to be forgotten as that of some name.
    pub fn due(&self, now_s: u32) -> BTreeSet<Addr> {
        let is_due = |names: &BTreeMap<Arc<str>, u32>| names.values().any(|until| *until < now_s);
        self.addresses.iter().filter(|(_, names)| is_due(names)).map(|(address, _)| *address).collect()
    }

    /// Forgets what is due, but for addresses that are in use. Gives the addresses that have fewer names now.
    pub fn forget(&mut self, now_s: u32, in_use: &BTreeSet<Addr>) -> BTreeSet<Addr> {
        self.retain(|address, _, until_s| until_s >= now_s || in_use.contains(address))
    }

    /// Forgets names that nobody asks about. Gives the addresses that have fewer names now.
    pub fn keep(&mut self, wanted: &Patterns) -> BTreeSet<Addr> {
        self.retain(|_, name, _| wanted.matches(name))
    }

    /// Whether anything has changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn retain(&mut self, stays: impl Fn(&Addr, &str, u32) -> bool) -> BTreeSet<Addr> {
        let mut changed = BTreeSet::new();
        let (all, pairs) = (&mut self.names, &mut self.pairs);
        self.addresses.retain(|address, names| {
            names.retain(|name, until_s| {
                let is_kept = stays(address, name, *until_s);
                if !is_kept {
                    changed.insert(*address);
                    *pairs -= 1;
                    if let Some(count) = all.get_mut(name) {
                        *count -= 1;
                        if *count == 0 {
                            all.remove(name);
                        }
                    }
                }
                is_kept
            });
            !names.is_empty()
        });
        self.changed |= !changed.is_empty();
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(name: &str, address: &str, ttl_s: u32) -> Found {
        Found { name: name.to_owned(), addresses: vec![(address.parse().unwrap(), ttl_s)] }
    }

    fn names(learned: &Learned, address: &str) -> Vec<String> {
        let address: IpAddr = address.parse().unwrap();
        learned.names_of(&address.into()).map(str::to_owned).collect()
    }

    /// The API's own examples.
    #[test]
    fn patterns_mean_whole_labels() {
        let matches = |pattern: &str, name: &str| Pattern::read(pattern).unwrap().matches(name);
        assert!(matches("kubernetes.io", "kubernetes.io"));
        for other in ["www.kubernetes.io", "blog.kubernetes.io", "my-kubernetes.io", "wikipedia.org"] {
            assert!(!matches("kubernetes.io", other), "{other}");
        }
        for below in ["www.kubernetes.io", "blog.kubernetes.io", "latest.blog.kubernetes.io"] {
            assert!(matches("*.kubernetes.io", below), "{below}");
        }
        for other in ["kubernetes.io", "my-kubernetes.io", "wikipedia.org"] {
            assert!(!matches("*.kubernetes.io", other), "{other}");
        }
        assert!(matches("WWW.Kubernetes.io.", "www.kubernetes.io"));
        for odd in ["", ".", "*", "*.", "a..b", "*.*.io", "www.*.io", "a b.io", "*kubernetes.io"] {
            assert!(Pattern::read(odd).is_err(), "{odd:?}");
        }
        assert_eq!(Pattern::read("*.Example.COM.").unwrap().to_string(), "*.example.com");
    }

    #[test]
    fn a_dot_within_a_label_is_no_border() {
        assert_eq!(plain([&b"WWW"[..], b"example", b"com"].into_iter()).as_deref(), Some("www.example.com"));
        assert_eq!(plain([&b"www.example"[..], b"com"].into_iter()), None);
        assert_eq!(plain(std::iter::empty()), None);
    }

    #[test]
    fn addresses_are_kept_for_their_time_and_while_they_are_in_use() {
        let mut learned = Learned::default();
        assert_eq!(learned.learn(&found("a.example", "192.0.2.1", 30), 1_000).len(), 1);
        assert_eq!(learned.learn(&found("a.example", "192.0.2.1", 5), 1_010), [], "nothing new, and no shorter");
        learned.learn(&found("b.example", "192.0.2.1", 300), 1_010);
        learned.learn(&found("a.example", "2001:db8::1", u32::MAX), 1_010);
        assert!(learned.due(1_000 + 30 + GRACE_S).is_empty());
        assert!(learned.take_changed());
        learned.learn(&found("b.example", "192.0.2.1", 299), 1_010);
        assert!(!learned.take_changed(), "it is there for longer");
        let later = 1_001 + 30 + GRACE_S;
        let address: BTreeSet<Addr> = ["192.0.2.1".parse::<IpAddr>().unwrap().into()].into();
        assert_eq!(learned.due(later), address);
        assert!(learned.forget(later, &address).is_empty(), "in use");
        assert_eq!(learned.forget(later, &BTreeSet::new()), address);
        assert_eq!(names(&learned, "192.0.2.1"), ["b.example"]);
        assert_eq!(learned.due(1_011 + TTL_MAX_S + GRACE_S).len(), 2, "no answer is believed for ever");
        assert_eq!(learned.len(), 2);
        assert_eq!(learned.keep(&[Pattern::read("b.example").unwrap()].iter().collect()).len(), 1);
        assert_eq!(learned.entries().map(|entry| entry.name).collect::<Vec<_>>(), ["b.example"]);
    }

    #[test]
    fn what_is_restored_has_its_grace_again() {
        let mut learned = Learned::default();
        let entry = |name: &str, until_s| Entry { name: name.into(), address: "192.0.2.1".parse().unwrap(), until_s };
        learned.restore(&entry("old", 10), 1_000);
        learned.restore(&entry("good", 1_500), 1_000);
        learned.restore(&entry("odd", u32::MAX), 1_000);
        let until: Vec<u32> = learned.entries().map(|entry| entry.until_s).collect();
        assert_eq!(until, [1_500, 1_000 + TTL_MAX_S + GRACE_S, 1_000 + GRACE_S], "good, odd, old");
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let mut learned = Learned::default();
        let address = |n: usize| IpAddr::from(std::net::Ipv4Addr::from_bits(n as u32));
        let all = (0..ADDRESSES_OF_NAME_MAX + 2).map(|n| (address(n), 5)).collect();
        assert_eq!(
            learned.learn(&Found { name: "many.example".into(), addresses: all }, 0).len(),
            ADDRESSES_OF_NAME_MAX
        );
        assert_eq!(learned.refused(), 2);
        for n in 0..PAIRS_MAX {
            learned.learn(&found(&format!("n{n}.example"), "192.0.2.1", 5), 0);
        }
        assert_eq!((learned.len(), learned.refused()), (PAIRS_MAX, 2 + ADDRESSES_OF_NAME_MAX as u64));
        learned.forget(u32::MAX, &BTreeSet::new());
        assert!(learned.is_empty() && learned.names.is_empty());
    }

    fn label() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "ab", "x-y", "com"]).prop_map(str::to_owned)
    }

    proptest! {
        /// Together they mean what each of them means, and that is what comparing labels from the right says.
        #[test]
        fn patterns_match_by_labels(
            patterns in prop::collection::vec((any::<bool>(), prop::collection::vec(label(), 1..4)), 0..6),
            name in prop::collection::vec(label(), 1..5),
        ) {
            let by_labels = |(is_wild, labels): &(bool, Vec<String>)| match is_wild {
                true => name.len() > labels.len() && name.ends_with(labels),
                false => name == *labels,
            };
            let text = name.join(".");
            let mut read = Vec::new();
            for pattern in &patterns {
                let written = format!("{}{}", if pattern.0 { "*." } else { "" }, pattern.1.join("."));
                let one = Pattern::read(&written).unwrap();
                prop_assert_eq!(one.matches(&text), by_labels(pattern), "{} and {}", written, text);
                read.push(one);
            }
            let together: Patterns = read.iter().collect();
            prop_assert_eq!(together.matches(&text), patterns.iter().any(by_labels));
        }
    }
}
