//! The maps. What is in them is defined in the layout crate; the sizes here are limits, most of them without
//! memory until used.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use xebec_ebpf_layout::{
    Addr, Affinity, AffinityKey, Backend, Chunk, ChunkKey, Connection, DatagramKey, DatagramPorts, DropReason, Event,
    Flow, FlowKey, FragmentKey, Frontend, LocalPod, MemberKey, Peer, RuleKey, Service, ServiceCounters, ServiceKey,
    SocketKey, SourceRange, Stream, TraceLog, flow_counters,
};

use crate::nat::Tuple;
use crate::packet::Packet;

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static SERVICES: HashMap<ServiceKey, Service, 262_144, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static SLOTS: HashMap<ChunkKey, Chunk, 524_288, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static MEMBERS: HashMap<MemberKey, u32, 262_144, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity, 65_536> = LruHashMap::new();
#[btf_map]
pub static SOURCE_RANGES: LpmTrie<SourceRange, u32, 65_536> = LpmTrie::new();
#[btf_map]
pub static BACKENDS: HashMap<u32, Backend, 524_288, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static SERVICE_COUNTERS: HashMap<u32, ServiceCounters, 131_072, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static SOCKETS: LruHashMap<SocketKey, Frontend, 65_536> = LruHashMap::new();
#[btf_map]
pub static STREAMS: HashMap<u64, Stream, 1_048_576, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, Flow, 65_536> = LruHashMap::new();
#[btf_map]
pub static FLOW_COUNTERS: PerCpuArray<u64, { flow_counters::COUNT as usize }> = PerCpuArray::new();
#[btf_map]
pub static DATAGRAMS: LruHashMap<DatagramKey, DatagramPorts, 8_192> = LruHashMap::new();
#[btf_map]
pub static LOCAL_PODS: HashMap<Addr, LocalPod, 4_096, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static PEERS: LpmTrie<Addr, Peer, 16_384> = LpmTrie::new();
#[btf_map]
pub static NODE_ADDRESSES: HashMap<Addr, u32, 16_384, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static LB_ADDRESSES: HashMap<Addr, u32, 65_536, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static FORMER_OWNERS: HashMap<Addr, Addr, 65_536, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static IDENTITIES: HashMap<Addr, [u32; 2], 262_144, ON_DEMAND> = HashMap::new();
#[btf_map]
pub static BLOCKS: LpmTrie<Addr, [u32; 2], 65_536> = LpmTrie::new();
#[btf_map]
pub static RULES: LpmTrie<RuleKey, u32, 524_288> = LpmTrie::new();
#[btf_map]
pub static CONNECTIONS: LruHashMap<FlowKey, Connection, 131_072> = LruHashMap::new();
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, u32, 4_096> = LruHashMap::new();
#[btf_map]
pub static REVISION: Array<u32, 1> = Array::new();
#[btf_map]
pub static OWN_PORTS: Array<u32, 1> = Array::new();
#[btf_map]
pub static WATCHED: Array<u32, 1> = Array::new();
#[btf_map]
pub static DROPS: PerCpuArray<u64, { DropReason::COUNT as usize }> = PerCpuArray::new();
#[btf_map]
pub static TRACE: Array<TraceLog, 1> = Array::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, 262_144> = RingBuf::new();

/// A program's working memory: the stack is 512 bytes. A classifier runs with softirqs off and never within another,
/// so each CPU needs one.
#[repr(C)]
pub struct Scratch {
    pub packet: Packet,
    /// The tuple to write.
    pub to: Tuple,
    /// The key of the way back.
    pub back: FlowKey,
    /// The entry being written.
    pub entry: Flow,
}

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// A way by the uplink that the kernel has named.
#[repr(C)]
pub struct WayOut {
    /// For packets from here
    pub src: Addr,
    /// to there
    pub dst: Addr,
    /// of this class: of IPv4 the type of service, of IPv6 class and flow label.
    pub class: u32,
    /// When it was asked, by the kernel's monotonic clock, in seconds.
    pub asked_s: u32,
    /// The largest packet, in bytes of IP.
    pub mtu: u32,
    /// Ethernet addresses, destination first.
    pub macs: [[u8; 6]; 2],
}

/// So many are remembered.
pub const WAYS_OUT: u32 = 256;

#[btf_map]
pub static WAYS: PerCpuArray<WayOut, { WAYS_OUT as usize }> = PerCpuArray::new();

/// This CPU's working memory. Take it once, at the start of a program.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: see `Scratch`: nobody else uses this CPU's element until the program ends. All zeros, as the kernel made
    // it, is a valid value of every field, and so is whatever an earlier run left.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}
