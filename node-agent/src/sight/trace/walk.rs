//! Where a packet goes from one program to the next. Pure.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use xebec_ebpf_loader::layout::{Addr, DropReason, LocalPod, Peer, StepKind, TraceStep, peer_flags};

/// Where a program sees packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// `connect()` of a process.
    Connect,
    /// What a pod sends.
    PodEgress,
    /// What a pod gets.
    PodIngress,
    /// What comes in by the uplink.
    UplinkIngress,
    /// What goes out by it.
    UplinkEgress,
    /// What comes out of the tunnel.
    OverlayIngress,
    /// What goes into it.
    OverlayEgress,
}

impl Hook {
    /// The program there.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Connect => "trace_connect",
            Self::PodEgress => "pod_egress",
            Self::PodIngress => "pod_ingress",
            Self::UplinkIngress => "uplink_ingress",
            Self::UplinkEgress => "uplink_egress",
            Self::OverlayIngress => "overlay_ingress",
            Self::OverlayEgress => "overlay_egress",
        }
    }

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            other => other.program(),
        }
    }
}

/// What the kernel's maps say of addresses.
pub trait Facts {
    /// The pod of this node that has the address.
    fn pod(&self, addr: &Addr) -> Option<LocalPod>;
    /// Whether the address is this node's.
    fn is_own(&self, addr: &Addr) -> bool;
    /// Whether it is another node's.
    fn is_peer(&self, addr: &Addr) -> bool;
    /// Whether it is set apart for this node's pods.
    fn is_of_pods(&self, addr: &Addr) -> bool;
    /// The node whose pods have it.
    fn peer(&self, addr: &Addr) -> Option<Peer>;
    /// The uplink's interface.
    fn uplink(&self) -> u32;
    /// The tunnel's interface; 0 without one.
    fn tunnel(&self) -> u32;
}

/// A program to run, as at an interface, on a packet that came in by another (0: by none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which program.
    pub hook: Hook,
    /// The interface.
    pub ifindex: u32,
    /// Where the packet came in.
    pub ingress_ifindex: u32,
}

/// How a packet's way ends, on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum End {
    /// It was dropped.
    Dropped {
        /// A [`DropReason`]'s name.
        reason: String,
    },
    /// It was answered with a refusal.
    Refused {
        /// A [`DropReason`]'s name.
        reason: String,
        /// What the client gets.
        answer: String,
    },
    /// A pod of this node has it.
    Pod {
        /// The pod's address.
        address: IpAddr,
    },
    /// The node itself has it.
    Node {
        /// The address it is for.
        address: IpAddr,
    },
    /// It is for an address of this node's pods that no pod has: the kernel answers "unreachable".
    Nobody {
        /// The address.
        address: IpAddr,
    },
    /// It left the node.
    Left {
        /// For which node; none: for somebody outside.
        node: Option<IpAddr>,
        /// `uplink` or `tunnel`.
        by: String,
        /// The packet, in hexadecimal.
        packet: String,
    },
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another program.
    Run(Place),
    /// The end: delivered, dropped, or away; for [`End::Left`], without the packet.
    End(End),
}

/// `TC_ACT_SHOT` and `TC_ACT_REDIRECT`.
const SHOT: u32 = 2;
const REDIRECT: u32 = 7;

/// What comes after a program that decided this about a packet that is now for `destination`.
pub fn after(place: Place, verdict: u32, steps: &[TraceStep], destination: IpAddr, facts: &dyn Facts) -> Next {
    match verdict {
        SHOT => Next::End(End::Dropped { reason: reason(steps) }),
        REDIRECT => redirected(place, steps, facts),
        _ => passed(place, steps, destination, facts),
    }
}

/// The reason of the last drop.
pub fn reason(steps: &[TraceStep]) -> String {
    let drop = steps.iter().rev().find(|step| step.kind == StepKind::Drop as u8);
    let reason = drop.and_then(|step| DropReason::ALL.into_iter().find(|r| *r as u32 == step.number));
    // A program that gives up without a reason says nothing; none does.
    reason.map_or("unknown", DropReason::name).to_owned()
}

fn redirected(place: Place, steps: &[TraceStep], facts: &dyn Facts) -> Next {
    let out = |hook, ifindex| Next::Run(Place { hook, ifindex, ingress_ifindex: place.ifindex });
    for step in steps.iter().rev() {
        return match StepKind::ALL.into_iter().find(|kind| *kind as u8 == step.kind) {
            Some(StepKind::ToPod) => Next::End(End::Pod { address: step.addr.to_ip() }),
            Some(StepKind::ToPodHook) => out(Hook::PodIngress, step.number),
            Some(StepKind::ToNeighbour | StepKind::ByRoute) => out(Hook::UplinkEgress, facts.uplink()),
            Some(StepKind::IntoTunnel) => out(Hook::OverlayEgress, facts.tunnel()),
            Some(StepKind::Back) => Next::End(End::Refused { reason: reason(steps), answer: String::new() }),
            _ => continue,
        };
    }
    Next::End(End::Dropped { reason: reason(steps) })
}

fn passed(place: Place, steps: &[TraceStep], destination: IpAddr, facts: &dyn Facts) -> Next {
    let left = |node, by: &str| Next::End(End::Left { node, by: by.to_owned(), packet: String::new() });
    match place.hook {
        Hook::PodIngress => Next::End(End::Pod { address: destination }),
        Hook::UplinkEgress => left(node_of(destination, facts), "uplink"),
        Hook::OverlayEgress => {
            let tunnel = steps.iter().rev().find(|step| step.kind == StepKind::Tunnel as u8);
            left(tunnel.map(|step| step.addr.to_ip()), "tunnel")
        }
        Hook::Connect => route(destination, 0, facts),
        Hook::PodEgress | Hook::UplinkIngress | Hook::OverlayIngress => route(destination, place.ifindex, facts),
    }
}

/// The node that is or has an address, if it is not this one.
fn node_of(address: IpAddr, facts: &dyn Facts) -> Option<IpAddr> {
    let addr = Addr::from(address);
    facts.peer(&addr).map(|peer| peer.node.to_ip()).or_else(|| facts.is_peer(&addr).then_some(address))
}

/// Where the kernel's own forwarding takes a packet.
pub fn route(destination: IpAddr, ingress_ifindex: u32, facts: &dyn Facts) -> Next {
    let addr = Addr::from(destination);
    let run = |hook, ifindex| Next::Run(Place { hook, ifindex, ingress_ifindex });
    if facts.is_own(&addr) || destination.is_loopback() {
        return Next::End(End::Node { address: destination });
    }
    if let Some(pod) = facts.pod(&addr) {
        return run(Hook::PodIngress, pod.ifindex);
    }
    if facts.is_of_pods(&addr) {
        return Next::End(End::Nobody { address: destination });
    }
    match facts.peer(&addr) {
        Some(peer) if peer.flags & peer_flags::TUNNEL != 0 => run(Hook::OverlayEgress, facts.tunnel()),
        _ => run(Hook::UplinkEgress, facts.uplink()),
    }
}

#[cfg(test)]
mod tests {
    use xebec_ebpf_loader::layout::Port;

    use super::*;

    /// 10.1.0.0/24 are this node's pods, of which .5 is there; 10.2.x are the pods of 172.16.0.2 on the link, 10.3.x those
    /// of 172.16.0.3 behind the tunnel.
    struct Here;

    fn octets(addr: &Addr) -> [u8; 4] {
        addr.v4_word().to_ne_bytes()
    }

    impl Facts for Here {
        fn pod(&self, addr: &Addr) -> Option<LocalPod> {
            (octets(addr) == [10, 1, 0, 5]).then_some(LocalPod { ifindex: 50, ..LocalPod::NOWHERE })
        }
        fn is_own(&self, addr: &Addr) -> bool {
            octets(addr) == [172, 16, 0, 1]
        }
        fn is_peer(&self, addr: &Addr) -> bool {
            matches!(octets(addr), [172, 16, 0, 2 | 3])
        }
        fn is_of_pods(&self, addr: &Addr) -> bool {
            matches!(octets(addr), [10, 1, 0, _])
        }
        fn peer(&self, addr: &Addr) -> Option<Peer> {
            let [10, net @ (2 | 3), ..] = octets(addr) else { return None };
            let flags = if net == 3 { peer_flags::TUNNEL } else { 0 };
            let node = std::net::Ipv4Addr::new(172, 16, 0, net).into();
            Some(Peer { node, flags, vtep_mac: [0; 6], mtu: 0 })
        }
        fn uplink(&self) -> u32 {
            2
        }
        fn tunnel(&self) -> u32 {
            3
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn step(kind: StepKind, number: u32, addr: &str) -> TraceStep {
        TraceStep { kind: kind as u8, direction: 0, port: Port(0), number, addr: Addr::from(ip(addr)) }
    }

    fn left(node: Option<&str>, by: &str) -> Next {
        Next::End(End::Left { node: node.map(ip), by: by.to_owned(), packet: String::new() })
    }

    #[test]
    fn the_kernels_own_forwarding() {
        let run = |hook, ifindex| Next::Run(Place { hook, ifindex, ingress_ifindex: 7 });
        for (to, expected) in [
            ("172.16.0.1", Next::End(End::Node { address: ip("172.16.0.1") })),
            ("10.1.0.5", run(Hook::PodIngress, 50)),
            ("10.1.0.6", Next::End(End::Nobody { address: ip("10.1.0.6") })),
            ("10.2.0.9", run(Hook::UplinkEgress, 2)),
            ("10.3.0.9", run(Hook::OverlayEgress, 3)),
            ("203.0.113.1", run(Hook::UplinkEgress, 2)),
        ] {
            assert_eq!(route(ip(to), 7, &Here), expected, "{to}");
        }
    }

    #[test]
    fn verdicts_lead_to_programs_and_ends() {
        let place = Place { hook: Hook::PodEgress, ifindex: 50, ingress_ifindex: 0 };
        let to = ip("10.2.0.9");
        let of = |verdict, steps: &[TraceStep]| after(place, verdict, steps, to, &Here);
        let next = |hook, ifindex| Next::Run(Place { hook, ifindex, ingress_ifindex: 50 });
        let dropped = step(StepKind::Drop, DropReason::PolicyEgress as u32, "10.2.0.9");
        assert_eq!(of(SHOT, &[dropped]), Next::End(End::Dropped { reason: "policy-egress".into() }));
        let refused = [step(StepKind::Drop, DropReason::NoBackend as u32, "::"), step(StepKind::Back, 0, "::")];
        let refused = of(REDIRECT, &refused);
        assert_eq!(refused, Next::End(End::Refused { reason: "no-backend".into(), answer: String::new() }));
        assert_eq!(of(REDIRECT, &[step(StepKind::ToPodHook, 51, "10.1.0.5")]), next(Hook::PodIngress, 51));
        let there = Next::End(End::Pod { address: ip("10.1.0.5") });
        assert_eq!(of(REDIRECT, &[step(StepKind::ToPod, 51, "10.1.0.5")]), there);
        assert_eq!(of(REDIRECT, &[step(StepKind::ToNeighbour, 2, "172.16.0.2")]), next(Hook::UplinkEgress, 2));
        assert_eq!(of(REDIRECT, &[step(StepKind::IntoTunnel, 3, "::")]), next(Hook::OverlayEgress, 3));
        let at = |hook| Place { hook, ifindex: 2, ingress_ifindex: 50 };
        assert_eq!(after(at(Hook::UplinkEgress), 0, &[], to, &Here), left(Some("172.16.0.2"), "uplink"));
        assert_eq!(after(at(Hook::UplinkEgress), 0, &[], ip("203.0.113.1"), &Here), left(None, "uplink"));
        let addressed = [step(StepKind::Tunnel, 0, "172.16.0.3")];
        let tunnelled = after(at(Hook::OverlayEgress), 0, &addressed, ip("10.3.0.9"), &Here);
        assert_eq!(tunnelled, left(Some("172.16.0.3"), "tunnel"));
    }
}
