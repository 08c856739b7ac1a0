//! Kubernetes' libraries of IP addresses and CIDRs.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Called, EvalError, Val};

pub(super) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Called<'a>> {
    Some(match (function, args) {
        ("ip", [Val::Str(s)]) => parse_ip(s).map(Val::Ip),
        ("isIP", [Val::Str(s)]) => Ok(Val::Bool(parse_ip(s).is_ok())),
        ("ip.isCanonical", [Val::Str(s)]) => parse_ip(s).map(|ip| Val::Bool(ip.to_string() == s.as_ref())),
        ("family", [Val::Ip(ip)]) => Ok(Val::Int(if ip.is_ipv4() { 4 } else { 6 })),
        ("isUnspecified", [Val::Ip(ip)]) => Ok(Val::Bool(ip.is_unspecified())),
        ("isLoopback", [Val::Ip(ip)]) => Ok(Val::Bool(ip.is_loopback())),
        ("isLinkLocalMulticast", [Val::Ip(ip)]) => Ok(Val::Bool(is_link_local_multicast(ip))),
        ("isLinkLocalUnicast", [Val::Ip(ip)]) => Ok(Val::Bool(is_link_local_unicast(ip))),
        ("isGlobalUnicast", [Val::Ip(ip)]) => Ok(Val::Bool(is_global_unicast(ip))),
        ("cidr", [Val::Str(s)]) => parse_cidr(s).map(Val::Cidr),
        ("isCIDR", [Val::Str(s)]) => Ok(Val::Bool(parse_cidr(s).is_ok())),
        ("containsIP", [Val::Cidr(net), Val::Ip(ip)]) => Ok(Val::Bool(net.contains(ip))),
        ("containsIP", [Val::Cidr(net), Val::Str(s)]) => parse_ip(s).map(|ip| Val::Bool(net.contains(&ip))),
        ("containsCIDR", [Val::Cidr(net), Val::Cidr(inner)]) => Ok(Val::Bool(net.contains(&inner.trunc()))),
        ("containsCIDR", [Val::Cidr(net), Val::Str(s)]) => {
            parse_cidr(s).map(|inner| Val::Bool(net.contains(&inner.trunc())))
        }
        ("ip", [Val::Cidr(net)]) => Ok(Val::Ip(net.addr())),
        ("masked", [Val::Cidr(net)]) => Ok(Val::Cidr(net.trunc())),
        ("prefixLength", [Val::Cidr(net)]) => Ok(Val::Int(net.prefix_len().into())),
        _ => return None,
    })
}

fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    let failed =
        |why: &str| EvalError::new(format!("IP Address {text:?} parse error during conversion from string: {why}"));
    let ip: IpAddr = text.parse().map_err(|_| failed(&format!("ParseAddr({text:?}): unable to parse IP")))?;
    match ip {
        // Go tells these apart from IPv4 addresses; Kubernetes has none of them.
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(failed("IPv4-mapped IPv6 address is not allowed")),
        ip => Ok(ip),
    }
}

fn parse_cidr(text: &str) -> Result<IpNet, EvalError> {
    let failed = || {
        EvalError::new(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({text:?})"
        ))
    };
    text.parse().map_err(|_| failed())
}

fn is_link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => matches!(ip.octets(), [224, 0, 0, _]),
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local_unicast(ip) || broadcast)
}
