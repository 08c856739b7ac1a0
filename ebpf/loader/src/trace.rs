//! A copy of the programs for made-up packets: the same instructions with the same configuration, over the same services,
//! pods, peers and policies. What a packet leaves behind (flows, connections, counters, events) goes into maps of the
//! copy's own, so a trace changes nothing; and each decision is written down.

use std::path::{Path, PathBuf};

use aya::maps::Array;
use aya::programs::{Program, SchedClassifier, TestRun as _, TestRunOptions, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use xebec_ebpf_layout::{Affinity, AffinityKey, Config, TraceLog, TraceStep, map};

use crate::{Error, OVERLAY_PROGRAMS, POD_PROGRAMS, Table, UPLINK_PROGRAMS, UPLINK_XDP, load_programs, map_dir, sys};

/// Entries of the maps that the copy has of its own: more than a packet makes.
const PRIVATE_ENTRIES: u32 = 4_096;
/// The largest packet that comes back: more than goes in, by the headers of an answer.
const OUTPUT_MAX: usize = 2_048;
/// What the socket hooks do, as a program that takes packets.
const CONNECT: &str = "trace_connect";

/// A made-up packet, as a program is given it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet<'a> {
    /// From the Ethernet header on.
    pub bytes: &'a [u8],
    /// The interface whose hook sees it.
    pub ifindex: u32,
    /// The interface that it came into the node by; 0 for packets of the node itself.
    pub ingress_ifindex: u32,
    /// The control block.
    pub control: [u32; 5],
}

/// What a program made of a packet.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it returned (`TC_ACT_*`).
    pub verdict: u32,
    /// The packet as it left it.
    pub bytes: Vec<u8>,
    /// What it decided, in order.
    pub steps: Vec<TraceStep>,
}

/// The copy. It goes when the value is dropped.
pub struct Tracer {
    ebpf: Ebpf,
    log: Array<aya::maps::MapData, TraceLog>,
    /// What the copy remembers of clients with session affinity: empty at first.
    pub affinity: Table<AffinityKey, Affinity>,
    root: PathBuf,
}

impl Tracer {
    /// Loads the copy beside the programs that [`crate::Datapath::load`] has loaded under `bpffs` with `config`. Takes
    /// about as long as that.
    pub fn load(bpffs: &Path, config: &Config) -> Result<Self, Error> {
        let root = bpffs.join("xebec");
        let config = Config { trace: 1, ..*config };
        let mut loader = EbpfLoader::new();
        for name in map::PINNED {
            if map::PRIVATE_IN_TRACE.contains(&name) {
                // Numbers in arrays are as many as they are; the ring is of pages.
                if ![map::FLOW_COUNTERS, map::WATCHED, map::DROPS].contains(&name) {
                    loader.map_max_entries(name, PRIVATE_ENTRIES);
                }
            } else {
                loader.map_pin_path(name, map_dir(&root).join(name));
            }
        }
        let packets = UPLINK_PROGRAMS.iter().chain(&OVERLAY_PROGRAMS).map(|(name, _)| *name);
        let names = packets.chain(POD_PROGRAMS.iter().map(|(name, ..)| *name)).chain([CONNECT, UPLINK_XDP.0]);
        let mut ebpf = load_programs(&mut loader, &config, names)?;
        crate::give_back_memory();
        let mut take = |name| ebpf.take_map(name).ok_or(Error::Missing(name));
        let log = Array::try_from(take(map::TRACE)?)
            .map_err(|source| Error::Map { map: map::TRACE, source: Box::new(source) })?;
        let affinity = Table::new(map::AFFINITY, take(map::AFFINITY)?)?;
        Ok(Self { ebpf, log, affinity, root })
    }

    /// Runs a program on a packet.
    pub fn run(&mut self, program: &'static str, packet: &Packet<'_>) -> Result<Run, Error> {
        let failed = |source| Error::Map { map: map::TRACE, source: Box::new(source) };
        self.log.set(0, TraceLog::EMPTY, 0).map_err(failed)?;
        let mut output = vec![0; OUTPUT_MAX];
        let context = context(packet);
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet.bytes);
        options.data_out = Some(&mut output);
        options.ctx_in = Some(&context);
        let refused = |source| Error::Program { program, source: Box::new(source) };
        let result = self.classifier(program)?.test_run(options).map_err(refused)?;
        output.truncate(result.data_size_out as usize);
        let log = self.log.get(&0, 0).map_err(failed)?;
        let steps = log.steps.iter().take(log.count as usize).copied().collect();
        Ok(Run { verdict: result.return_value, bytes: output, steps })
    }

    /// Whether the uplink's program that runs in the driver would send a packet back out, by what the copy has seen so far.
    pub fn is_sent_back_by_driver(&self, bytes: &[u8]) -> Result<bool, Error> {
        /// `XDP_TX`.
        const SENT_BACK: u32 = 3;
        let Some(Program::Xdp(program)) = self.ebpf.program(UPLINK_XDP.0) else {
            return Err(Error::Missing(UPLINK_XDP.0));
        };
        let mut output = vec![0; OUTPUT_MAX];
        let mut options = TestRunOptions::new();
        options.data_in = Some(bytes);
        options.data_out = Some(&mut output);
        let refused = |source| Error::Program { program: UPLINK_XDP.0, source: Box::new(source) };
        Ok(program.test_run(options).map_err(refused)?.return_value == SENT_BACK)
    }

    /// The program pinned behind a link, if that is the same, instruction by instruction, as the copy's.
    pub fn is_attached(&self, program: &'static str, link: &str) -> Result<bool, Error> {
        let path = self.root.join("links").join(link);
        let Some(link) = sys::open_if_there(&path).map_err(|source| Error::Pin { path: path.clone(), source })? else {
            return Ok(false);
        };
        let id = sys::program_id(&link).map_err(|source| Error::Pin { path, source })?;
        let refused = |source| Error::Program { program, source: Box::new(source) };
        let own = self.classifier(program)?.info().map_err(refused)?.tag();
        Ok(loaded_programs().flatten().any(|info| info.id() == id && info.tag() == own))
    }

    fn classifier(&self, name: &'static str) -> Result<&SchedClassifier, Error> {
        match self.ebpf.program(name) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            _ => Err(Error::Missing(name)),
        }
    }
}

/// `struct __sk_buff` with the fields that a test may set.
fn context(packet: &Packet<'_>) -> [u8; 192] {
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    const CB: usize = 48;
    let mut out = [0; 192];
    let mut put = |at: usize, word: u32| out[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    put(INGRESS_IFINDEX, packet.ingress_ifindex);
    put(IFINDEX, packet.ifindex);
    for (index, word) in packet.control.into_iter().enumerate() {
        put(CB + 4 * index, word);
    }
    out
}
