//! A rule set and an identity, compiled to entries of the kernel's rule map.

use std::collections::{BTreeMap, BTreeSet};

use xebec_ebpf_loader::layout::{Port, RuleKey, proto, verdict};

use super::rules::{Id, Identity, PortRule, Ports, RuleSet};

/// Entries: key and length of the prefix, and the verdict.
pub type Entries = BTreeMap<(RuleKey, u32), u32>;

/// Every protocol that rules can name with ports.
const PROTOCOLS: [u8; 3] = [proto::TCP, proto::UDP, proto::SCTP];

/// What a rule set says of an identity: a verdict for protocols without ports, and the verdicts of ports by range.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdicts {
    other: bool,
    /// By protocol: the first port of each range, and its verdict; two ranges side by side differ.
    ports: [Vec<(u16, bool)>; 3],
}

/// The entries for an identity; none if it is judged as those that no term matches.
pub fn compile(set_id: Id, set: &RuleSet, identity: &Identity) -> Entries {
    let strangers = Identity::default();
    let id = identity.id();
    let verdicts = verdicts(set, identity);
    let mut out = Entries::new();
    // Nothing at all is said of strangers to whom all is denied: the kernel denies what it does not find.
    let known = if id == Id::NONE { nothing() } else { self::verdicts(set, &strangers) };
    if verdicts == known {
        return out;
    }
    let key =
        |proto: u8, port: u16| RuleKey { set: set_id.0, identity: id.0, proto, padding: 0, port: Port::new(port) };
    let word = |allowed: bool| if allowed { verdict::ALLOW } else { verdict::DENY };
    out.insert((key(0, 0), RuleKey::ANY_PROTO), word(verdicts.other));
    for (protocol, ranges) in PROTOCOLS.into_iter().zip(&verdicts.ports) {
        // The verdict of most ports once for all, the others by what differs.
        let most = most(ranges);
        if most != verdicts.other {
            out.insert((key(protocol, 0), RuleKey::ANY_PORT), word(most));
        }
        for (index, (first, allowed)) in ranges.iter().enumerate() {
            if *allowed == most {
                continue;
            }
            let last = ranges.get(index + 1).map_or(u16::MAX, |(next, _)| next - 1);
            for (port, length) in prefixes(*first, last) {
                out.insert((key(protocol, port), RuleKey::ANY_PORT + length), word(*allowed));
            }
        }
    }
    out
}

fn nothing() -> Verdicts {
    Verdicts { other: false, ports: [vec![(0, false)], vec![(0, false)], vec![(0, false)]] }
}

fn verdicts(set: &RuleSet, identity: &Identity) -> Verdicts {
    Verdicts { other: set.allows(identity, proto::ICMP, 0), ports: PROTOCOLS.map(|p| ranges(set, identity, p)) }
}

/// Ranges of ports that are judged alike: between two ports that some rule names as first or one past last, nothing
/// changes.
fn ranges(set: &RuleSet, identity: &Identity, protocol: u8) -> Vec<(u16, bool)> {
    let mut borders = BTreeSet::from([0]);
    for rule in set.rules().filter(|rule| rule.is_about(identity)) {
        let Ports::Some(ports) = &rule.ports else { continue };
        for (of, port) in ports {
            if *of != protocol {
                continue;
            }
            let mut add = |first: u16, last: u16| {
                borders.insert(first);
                borders.extend(last.checked_add(1));
            };
            match port {
                PortRule::Range(first, last) => add(*first, *last),
                PortRule::Named(name) => {
                    for number in identity.ports.get(&(protocol, name.clone())).into_iter().flatten() {
                        add(*number, *number);
                    }
                }
            }
        }
    }
    let mut out: Vec<(u16, bool)> = Vec::new();
    for border in borders {
        let allowed = set.allows(identity, protocol, border);
        if out.last().is_none_or(|(_, before)| *before != allowed) {
            out.push((border, allowed));
        }
    }
    out
}

/// The verdict that more ports have.
fn most(ranges: &[(u16, bool)]) -> bool {
    let mut allowed = 0;
    for (index, (first, is_allowed)) in ranges.iter().enumerate() {
        let end = ranges.get(index + 1).map_or(0x1_0000, |(next, _)| u32::from(*next));
        allowed += if *is_allowed { end - u32::from(*first) } else { 0 };
    }
    allowed > 0x8000
}

/// The prefixes of 16 bits that make up a range: at most 30.
fn prefixes(first: u16, last: u16) -> Vec<(u16, u32)> {
    let mut out = Vec::new();
    let (mut at, end) = (u32::from(first), u32::from(last) + 1);
    while at < end {
        // As large as where it begins allows, and not past the end.
        let mut bits = if at == 0 { 16 } else { at.trailing_zeros() };
        while at + (1 << bits) > end {
            bits -= 1;
        }
        out.push((at as u16, 16 - bits));
        at += 1 << bits;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_prefixes() {
        assert_eq!(prefixes(80, 80), [(80, 16)]);
        assert_eq!(prefixes(0, u16::MAX), [(0, 0)]);
        assert_eq!(prefixes(8_000, 8_015), [(8_000, 12)]);
        assert_eq!(prefixes(1, 6), [(1, 16), (2, 15), (4, 15), (6, 16)]);
        assert_eq!(prefixes(u16::MAX, u16::MAX), [(u16::MAX, 16)]);
        for (first, last) in [(1, u16::MAX - 1), (0, 0), (1_024, 65_535), (30_000, 32_767)] {
            let all: usize = prefixes(first, last).iter().map(|(_, length)| 1 << (16 - length)).sum();
            assert_eq!(all, usize::from(last - first) + 1);
            assert!(prefixes(first, last).len() <= 30);
        }
    }
}
