//! Traces: a made-up packet through the datapath of this node, with each decision.
//!
//! - [`frame`] is packets as bytes, [`walk`] the way from program to program. Pure.
//! - Here the programs are run: a copy of them ([`Tracer`]), made for the one trace.

pub mod frame;
pub mod walk;

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use xebec_ebpf_loader::layout::{
    Addr, AffinityKey, CLIENT_NAMESPACE, CLIENT_SOCKET, Config, Direction, DropReason, LocalPod, Peer, SCOPE_CLUSTER,
    SCOPE_EXTERNAL, ServiceKey, StepKind, TraceStep, node_address_flags,
};
use xebec_ebpf_loader::{Error, Maps, Packet, Tracer};

use self::frame::Tuple;
use self::walk::{End, Facts, Hook, Next, Place};
use crate::network::XdpState;

/// Where the datapath is.
#[derive(Clone, Debug)]
pub struct Datapath {
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// What the programs were loaded with.
    pub config: Config,
    /// The folder with the pods' network namespaces.
    pub pod_namespaces: PathBuf,
}

/// Where the packet begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Origin {
    /// A process in a pod of this node.
    Pod {
        /// The pod's uid.
        uid: String,
    },
    /// A process of the node itself.
    Node,
    /// Somebody beyond the uplink.
    Uplink,
    /// Another node, by the tunnel.
    Tunnel,
}

/// What to trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// From where.
    pub origin: Origin,
    /// The packet, made up from this...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuple: Option<Tuple>,
    /// ...or as another node sent it, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<String>,
}

/// One decision of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Which: `service`, `backend`, `affinity`, `known-flow`, `drop`, `not-selected`, `own-node`, `allowed`, `denied`,
    /// `known-connection`, `to-pod`, `to-pod-hook`, `to-neighbour`, `by-route`, `into-tunnel`, `tunnel`, `back`, `source`,
    /// `destination`, `direct-return`.
    pub what: String,
    /// The address it is about, with the port if one goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// `ingress` or `egress`, of policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// Of a drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of a policy's verdict: the rule set and the peer's identity that it went by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Of a service: how many slots its set of backends has; several for each with Maglev.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
    /// Of a service with session affinity: how long a client stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_timeout_s: Option<u32>,
}

/// One program's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// Which program.
    pub program: String,
    /// Whether what is attached there is the same program, instruction by instruction; none for `connect`, whose hooks
    /// the kernel runs for real sockets only: the same code is run otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<bool>,
    /// The packet as it came.
    pub packet: Tuple,
    /// What was decided, in order.
    pub decisions: Vec<Decision>,
    /// The packet as it went.
    pub result: Tuple,
}

/// A packet's way on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// The node.
    pub node: String,
    /// Its programs, in the order in which they saw the packet.
    pub hops: Vec<Hop>,
    /// How it ended.
    pub end: End,
    /// What the uplink's driver makes of the packets that follow, if it came in by the uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Driver>,
    /// If a pod of the node sent it: the names that led pods of the node to its destination.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

impl Trace {
    /// Where it went when the policies for what pods send judged it.
    pub fn peer_out(&self) -> Option<IpAddr> {
        let judged = |hop: &&Hop| hop.decisions.iter().any(|decision| decision.direction.as_deref() == Some("egress"));
        self.hops.iter().find(judged).map(|hop| hop.packet.destination.ip())
    }
}

/// The program in the uplink's driver, and a connection's later packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Driver {
    /// Whether it would forward them; else they are left to the programs behind it.
    pub forwards: bool,
    /// Whether it is in use, and why not.
    pub xdp: XdpState,
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Nothing to trace.
    #[error("{0}")]
    Request(String),
    /// The programs.
    #[error(transparent)]
    Datapath(#[from] Error),
    /// The pod's network namespace.
    #[error("cannot look into the network namespace of pod {uid}: {source} (is it running on this node?)")]
    Namespace {
        /// The pod.
        uid: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Whoever is outside.
const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// More programs than any packet meets on one node.
const HOPS_MAX: usize = 8;

/// Traces a packet. Blocks for about a tenth of a second.
pub fn trace(
    node: &str,
    datapath: &Datapath,
    maps: &Maps,
    xdp: &XdpState,
    request: &Request,
) -> Result<Trace, TraceError> {
    let facts = MapFacts { maps, config: &datapath.config, peers: maps.peers.entries()? };
    let tracer = Tracer::load(&datapath.bpffs, &datapath.config)?;
    let mut walker = Walker { tracer, facts, hops: Vec::new() };
    let end = walker.walk(datapath, request)?;
    let forwards = walker.is_forwarded_by_driver(request)?;
    let driver = forwards.map(|forwards| Driver { forwards, xdp: xdp.clone() });
    Ok(Trace { node: node.to_owned(), hops: walker.hops, end, driver, names: Vec::new() })
}

struct Walker<'a> {
    tracer: Tracer,
    facts: MapFacts<'a>,
    hops: Vec<Hop>,
}

impl Walker<'_> {
    fn walk(&mut self, datapath: &Datapath, request: &Request) -> Result<End, TraceError> {
        let (uplink, tunnel) = (self.facts.uplink(), self.facts.tunnel());
        let arrives = |hook, ifindex| Next::Run(Place { hook, ifindex, ingress_ifindex: ifindex });
        let (mut bytes, mut next) = match &request.origin {
            Origin::Pod { uid } => {
                let tuple = self.connect(Some((uid, datapath)), made_up(request)?)?;
                let tuple = match tuple {
                    Ok(tuple) => tuple,
                    Err(end) => return Ok(end),
                };
                if tuple.source.ip() == tuple.destination.ip() {
                    // Within the pod.
                    return Ok(End::Pod { address: tuple.destination.ip() });
                }
                let pod = self.facts.pod(&tuple.source.ip().into()).ok_or_else(|| {
                    TraceError::Request(format!("no pod of this node has the address {}", tuple.source.ip()))
                })?;
                let place = Place { hook: Hook::PodEgress, ifindex: pod.ifindex, ingress_ifindex: pod.ifindex };
                (packet(&tuple, pod.mac, pod.host_mac)?, Next::Run(place))
            }
            Origin::Node => {
                let tuple = match self.connect(None, made_up(request)?)? {
                    Ok(tuple) => tuple,
                    Err(end) => return Ok(end),
                };
                let mac = datapath.config.uplink_mac;
                (packet(&tuple, mac, [0; 6])?, walk::route(tuple.destination.ip(), 0, &self.facts))
            }
            Origin::Uplink => (self.arriving(request)?, arrives(Hook::UplinkIngress, uplink)),
            Origin::Tunnel => (self.arriving(request)?, arrives(Hook::OverlayIngress, tunnel)),
        };
        for _ in 0..HOPS_MAX {
            let place = match next {
                Next::Run(place) => place,
                Next::End(end) => return Ok(finish(end, &bytes)),
            };
            (bytes, next) = self.run(place, &bytes)?;
        }
        Err(TraceError::Request(format!("the packet went through more than {HOPS_MAX} programs of one node: a loop")))
    }

    /// Whether the uplink's driver would forward the packets that follow one that came in by the uplink: the copy's flow table
    /// knows its flow by now. `None` of others.
    fn is_forwarded_by_driver(&self, request: &Request) -> Result<Option<bool>, TraceError> {
        if request.origin != Origin::Uplink || request.packet.is_some() {
            return Ok(None);
        }
        let later = frame::later(made_up(request)?, OUTSIDE_MAC, self.facts.config.uplink_mac);
        Ok(later.map(|bytes| self.tracer.is_sent_back_by_driver(&bytes)).transpose()?)
    }

    /// The packet that another node or somebody outside sent.
    fn arriving(&self, request: &Request) -> Result<Vec<u8>, TraceError> {
        if let Some(text) = &request.packet {
            let bytes = frame::from_hex(text).filter(|bytes| frame::read(bytes).is_some());
            let mut bytes = bytes.ok_or_else(|| {
                TraceError::Request("the packet is not one in hexadecimal that can be read".to_owned())
            })?;
            if request.origin == Origin::Uplink {
                // The other node's kernel would have addressed it, after the programs.
                frame::address(&mut bytes, self.facts.config.uplink_mac);
            }
            return Ok(bytes);
        }
        packet(made_up(request)?, OUTSIDE_MAC, self.facts.config.uplink_mac)
    }

    /// What the socket hooks make of a destination: the tuple of the packet that is sent then, or how it ends.
    fn connect(&mut self, pod: Option<(&str, &Datapath)>, tuple: &Tuple) -> Result<Result<Tuple, End>, TraceError> {
        // Others are sent as they are.
        if tuple.protocol != "TCP" && tuple.protocol != "UDP" {
            return Ok(Ok(tuple.clone()));
        }
        let cookies = match pod {
            None => cookies(None),
            Some((uid, datapath)) => cookies(Some(&datapath.pod_namespaces.join(uid))),
        };
        let uid = pod.map(|(uid, _)| uid).unwrap_or_default();
        let cookies = cookies.map_err(|source| TraceError::Namespace { uid: uid.to_owned(), source })?;
        self.remember(cookies, tuple.source.ip())?;
        let [socket, namespace] = cookies;
        let bytes = packet(tuple, [0; 6], [0; 6])?;
        let control = [socket as u32, (socket >> 32) as u32, namespace as u32, (namespace >> 32) as u32, 0];
        let packet = Packet { bytes: &bytes, control, ..Packet::default() };
        let run = self.tracer.run(Hook::Connect.program(), &packet)?;
        let chosen = run.steps.iter().find(|step| step.kind == StepKind::Backend as u8);
        let mut result = tuple.clone();
        if let Some(step) = chosen {
            result.destination = SocketAddr::new(step.addr.to_ip(), step.port.get());
        }
        self.hops.push(Hop {
            program: Hook::Connect.name().to_owned(),
            attached: None,
            packet: tuple.clone(),
            decisions: self.decisions(Hook::Connect, tuple, &run.steps)?,
            result: result.clone(),
        });
        if run.verdict == 0 {
            let reason = DropReason::NoBackend.name().to_owned();
            return Ok(Err(End::Refused { reason, answer: "ECONNREFUSED".to_owned() }));
        }
        Ok(Ok(result))
    }

    /// Gives the copy what the datapath remembers of this client.
    fn remember(&mut self, [socket, namespace]: [u64; 2], address: IpAddr) -> Result<(), TraceError> {
        let clients = [
            AffinityKey::local(CLIENT_NAMESPACE, namespace, 0).client,
            AffinityKey::local(CLIENT_SOCKET, socket, 0).client,
            address.into(),
        ];
        for (key, known) in self.facts.maps.affinity.entries()? {
            if clients.contains(&key.client) {
                self.tracer.affinity.insert(&key, &known)?;
            }
        }
        Ok(())
    }

    fn run(&mut self, place: Place, bytes: &[u8]) -> Result<(Vec<u8>, Next), TraceError> {
        let unreadable = || TraceError::Request("a program made a packet that cannot be read".to_owned());
        let before = frame::read(bytes).ok_or_else(unreadable)?.tuple;
        if place.hook == Hook::UplinkIngress {
            self.remember([0; 2], before.source.ip())?;
        }
        let Place { ifindex, ingress_ifindex, .. } = place;
        let packet = Packet { bytes, ifindex, ingress_ifindex, control: [0; 5] };
        let program = place.hook.program();
        let run = self.tracer.run(program, &packet)?;
        let after = frame::read(&run.bytes).ok_or_else(unreadable)?;
        let link = match place.hook {
            Hook::PodEgress | Hook::PodIngress => {
                let interface = interface_name(ifindex);
                format!("{}{interface}", if place.hook == Hook::PodEgress { "pod-" } else { "to-pod-" })
            }
            _ => program.to_owned(),
        };
        self.hops.push(Hop {
            program: place.hook.name().to_owned(),
            attached: Some(self.tracer.is_attached(program, &link)?),
            packet: before.clone(),
            decisions: self.decisions(place.hook, &before, &run.steps)?,
            result: after.tuple.clone(),
        });
        let next = walk::after(place, run.verdict, &run.steps, after.tuple.destination.ip(), &self.facts);
        Ok((run.bytes, next))
    }

    fn decisions(&self, hook: Hook, packet: &Tuple, steps: &[TraceStep]) -> Result<Vec<Decision>, TraceError> {
        steps.iter().map(|step| self.decision(hook, packet, step)).collect()
    }

    fn decision(&self, hook: Hook, packet: &Tuple, step: &TraceStep) -> Result<Decision, TraceError> {
        let kind = StepKind::ALL.into_iter().find(|kind| *kind as u8 == step.kind);
        let Some(kind) = kind else {
            return Ok(Decision { what: format!("step {}", step.kind), ..Decision::default() });
        };
        let mut out = Decision { what: name(kind).to_owned(), ..Decision::default() };
        let direction = |d: u8| if d == Direction::Ingress as u8 { "ingress" } else { "egress" }.to_owned();
        match kind {
            StepKind::Allowed | StepKind::Denied => {
                let [a, b, c, d] = step.addr.0;
                out.direction = Some(direction(step.direction));
                out.by = Some(format!("rule set {a:08x}{b:08x}, identity {c:08x}{d:08x}"));
            }
            StepKind::NotSelected | StepKind::OwnNode | StepKind::KnownConnection => {
                out.direction = Some(direction(step.direction));
            }
            StepKind::Drop => {
                let reason = DropReason::ALL.into_iter().find(|reason| *reason as u32 == step.number);
                out.reason = reason.map(|reason| reason.name().to_owned());
            }
            StepKind::Affinity | StepKind::ByRoute | StepKind::IntoTunnel | StepKind::Back => {}
            _ => out.address = Some(SocketAddr::new(step.addr.to_ip(), step.port.get())),
        }
        if kind == StepKind::Service {
            let inside = matches!(hook, Hook::Connect | Hook::PodEgress | Hook::UplinkEgress);
            let scope = if inside { SCOPE_CLUSTER } else { SCOPE_EXTERNAL };
            let proto = frame::number(&packet.protocol).unwrap_or_default();
            let key = ServiceKey { addr: step.addr, port: step.port, proto, scope };
            if let Some(service) = self.facts.maps.services.get(&key)? {
                out.slots = Some(service.count);
                out.affinity_timeout_s = Some(service.affinity_timeout_s).filter(|s| *s != 0);
            }
        }
        Ok(out)
    }
}

/// As decisions are shown.
const fn name(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Service => "service",
        StepKind::Backend => "backend",
        StepKind::Affinity => "affinity",
        StepKind::KnownFlow => "known-flow",
        StepKind::Drop => "drop",
        StepKind::NotSelected => "not-selected",
        StepKind::OwnNode => "own-node",
        StepKind::Allowed => "allowed",
        StepKind::Denied => "denied",
        StepKind::KnownConnection => "known-connection",
        StepKind::ToPod => "to-pod",
        StepKind::ToPodHook => "to-pod-hook",
        StepKind::ToNeighbour => "to-neighbour",
        StepKind::ByRoute => "by-route",
        StepKind::IntoTunnel => "into-tunnel",
        StepKind::Tunnel => "tunnel",
        StepKind::Back => "back",
        StepKind::Source => "source",
        StepKind::Destination => "destination",
        StepKind::DirectReturn => "direct-return",
    }
}

fn made_up(request: &Request) -> Result<&Tuple, TraceError> {
    request.tuple.as_ref().ok_or_else(|| TraceError::Request("the request has no tuple".to_owned()))
}

fn packet(tuple: &Tuple, source: [u8; 6], destination: [u8; 6]) -> Result<Vec<u8>, TraceError> {
    frame::first(tuple, source, destination).ok_or_else(|| {
        TraceError::Request(format!(
            "no packet goes from {} to {} by {}: use addresses of one family, and TCP, UDP or SCTP",
            tuple.source, tuple.destination, tuple.protocol
        ))
    })
}

/// Fills in what only the packet shows.
fn finish(end: End, bytes: &[u8]) -> End {
    match end {
        End::Left { node, by, .. } => End::Left { node, by, packet: frame::to_hex(bytes) },
        End::Refused { reason, .. } => {
            let answer = frame::read(bytes).and_then(|seen| seen.refusal).unwrap_or("nothing");
            End::Refused { reason, answer: answer.to_owned() }
        }
        other => other,
    }
}

fn interface_name(ifindex: u32) -> String {
    nix::net::if_::if_indextoname(ifindex).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The kernel's numbers of a new socket and of its network namespace: that at `namespace`, or this process's.
fn cookies(namespace: Option<&Path>) -> io::Result<[u64; 2]> {
    let read = |namespace: Option<&Path>| {
        if let Some(path) = namespace {
            setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
        }
        let socket = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
        Ok([option(&socket, libc::SO_COOKIE)?, option(&socket, SO_NETNS_COOKIE)?])
    };
    // A thread that has entered a namespace is not used for anything else.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| read(namespace));
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that looked died")))
    })
}

/// asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

fn option(socket: &UdpSocket, name: libc::c_int) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` bytes to a live local of that size.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// What the maps say. What cannot be read is not there; the programs would see it so too.
struct MapFacts<'a> {
    maps: &'a Maps,
    config: &'a Config,
    peers: Vec<(xebec_ebpf_loader::Prefix, Peer)>,
}

impl MapFacts<'_> {
    fn has(&self, addr: &Addr, flag: u32) -> bool {
        self.maps.node_addresses.get(addr).ok().flatten().is_some_and(|flags| flags & flag != 0)
    }
}

impl Facts for MapFacts<'_> {
    fn pod(&self, addr: &Addr) -> Option<LocalPod> {
        self.maps.local_pods.get(addr).ok().flatten()
    }

    fn is_own(&self, addr: &Addr) -> bool {
        self.has(addr, node_address_flags::LOCAL)
    }

    fn is_peer(&self, addr: &Addr) -> bool {
        self.has(addr, node_address_flags::PEER)
    }

    fn is_of_pods(&self, addr: &Addr) -> bool {
        let Config { pod_net, pod_mask, pod6_net, pod6_mask, dual_stack, .. } = self.config;
        if addr.is_v4() {
            return addr.v4_word() & pod_mask == *pod_net;
        }
        *dual_stack != 0 && addr.0.iter().zip(pod6_mask.0).map(|(word, mask)| word & mask).eq(pod6_net.0)
    }

    fn peer(&self, addr: &Addr) -> Option<Peer> {
        let holds = |(net, length): &xebec_ebpf_loader::Prefix| {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            let bits = |addr: &Addr| u128::from_be_bytes(addr.octets()) & mask;
            bits(net) == bits(addr)
        };
        let found = self.peers.iter().filter(|(prefix, _)| holds(prefix)).max_by_key(|((_, length), _)| *length);
        found.map(|(_, peer)| *peer)
    }

    fn uplink(&self) -> u32 {
        self.config.uplink_ifindex
    }

    fn tunnel(&self) -> u32 {
        self.config.vxlan_ifindex
    }
}
