//! Networks of one family or both, as flags and configuration files name them: `10.244.0.0/16,fd00:10:244::/56`.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A network of IPv4, one of IPv6, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    preferred: IpNet,
    /// Dual stack: of the other family.
    second: Option<IpNet>,
}

impl Ranges {
    /// One of IPv4, and maybe one of IPv6 after it.
    pub fn new(v4: Ipv4Net, v6: Option<Ipv6Net>) -> Self {
        Self { preferred: IpNet::V4(v4), second: v6.map(IpNet::V6) }
    }

    /// One of IPv6, and maybe one of IPv4 after it.
    pub fn v6_first(v6: Ipv6Net, v4: Option<Ipv4Net>) -> Self {
        Self { preferred: IpNet::V6(v6), second: v4.map(IpNet::V4) }
    }

    /// The preferred one.
    pub fn preferred(&self) -> IpNet {
        self.preferred
    }

    /// That of IPv4.
    pub fn v4(&self) -> Option<Ipv4Net> {
        self.nets().find_map(|net| if let IpNet::V4(v4) = net { Some(v4) } else { None })
    }

    /// That of IPv6.
    pub fn v6(&self) -> Option<Ipv6Net> {
        self.nets().find_map(|net| if let IpNet::V6(v6) = net { Some(v6) } else { None })
    }

    /// The preferred one first.
    pub fn all(&self) -> Vec<IpNet> {
        self.nets().collect()
    }

    fn nets(&self) -> impl Iterator<Item = IpNet> {
        [self.preferred].into_iter().chain(self.second)
    }

    /// Whether the preferred one is of IPv6.
    pub fn prefers_v6(&self) -> bool {
        matches!(self.preferred, IpNet::V6(_))
    }

    /// Whether the two have addresses in common.
    pub fn overlap(&self, other: &Self) -> bool {
        let common = |a: &IpNet| other.all().iter().any(|b| a.contains(b) || b.contains(a));
        self.all().iter().any(common)
    }

    /// Whether they can be what `what` names; `v4` and `v6` are the lengths that their prefixes may have.
    pub fn check(
        &self,
        what: &str,
        v4: std::ops::RangeInclusive<u8>,
        v6: std::ops::RangeInclusive<u8>,
    ) -> anyhow::Result<()> {
        for net in self.all() {
            ensure!(
                net.addr() == net.network(),
                "{what} {net} has bits set after its prefix; did you mean {}?",
                net.trunc()
            );
            let allowed = if matches!(net, IpNet::V4(_)) { &v4 } else { &v6 };
            let (first, last) = (allowed.start(), allowed.end());
            ensure!(
                allowed.contains(&net.prefix_len()),
                "{what} {net}: the prefix must be {first} to {last} bits long"
            );
        }
        Ok(())
    }
}

impl FromStr for Ranges {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let nets = text.split(',').map(|part| {
            let part = part.trim();
            part.parse::<IpNet>().with_context(|| format!("{part:?} is not a network, such as 10.244.0.0/16"))
        });
        match nets.collect::<Result<Vec<_>, _>>()?[..] {
            [preferred] => Ok(Self { preferred, second: None }),
            [preferred @ IpNet::V4(_), second @ IpNet::V6(_)] | [preferred @ IpNet::V6(_), second @ IpNet::V4(_)] => {
                Ok(Self { preferred, second: Some(second) })
            }
            _ => anyhow::bail!(
                "{text}: give one network, or one of IPv4 and one of IPv6, the preferred one first: IPV4,IPV6 or IPV6,IPV4"
            ),
        }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.preferred)?;
        self.second.map_or(Ok(()), |second| write!(f, ",{second}"))
    }
}

impl Serialize for Ranges {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        text.parse().map_err(|error| serde::de::Error::custom(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_or_one_of_each_family() {
        let both = ["10.244.0.0/16,fd00:10:244::/56", "fd00:10:244::/56,10.244.0.0/16"];
        for text in ["10.244.0.0/16", "fd00:10:244::/56"].into_iter().chain(both) {
            assert_eq!(text.parse::<Ranges>().unwrap().to_string(), text);
        }
        let [v4_first, v6_first] = both.map(|text| text.parse::<Ranges>().unwrap());
        assert_eq!((v4_first.prefers_v6(), v6_first.prefers_v6()), (false, true));
        assert_eq!((v4_first.v4(), v4_first.v6()), (v6_first.v4(), v6_first.v6()));
        for (text, says) in [
            ("fd00::/56,fd01::/56", "one of IPv4 and one of IPv6"),
            ("10.0.0.0/8,11.0.0.0/8", "one of IPv4 and one of IPv6"),
            ("10.0.0.0/8,x", "\"x\" is not a network"),
        ] {
            let error = format!("{:#}", text.parse::<Ranges>().unwrap_err());
            assert!(error.contains(says), "{text}: {error}");
        }
        let (a, b): (Ranges, Ranges) =
            ("10.0.0.0/16,fd00::/56".parse().unwrap(), "10.1.0.0/16,fd00::/112".parse().unwrap());
        assert!(a.overlap(&b));
    }
}
