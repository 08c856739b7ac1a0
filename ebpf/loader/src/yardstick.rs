//! How fast packets can go at best, on a link of two interfaces of this network namespace: for the benchmark.
//!
//! One interface has the sink, which counts what arrives there, and from there packets are sent to the other. That has the
//! program to measure, which sends them back.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::programs::{Program, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use xebec_ebpf_layout::{Config, YARDSTICK_BYTES, flow_counters, map};

use crate::maps::Counters;
use crate::sys::{AttachType, attach_interface};
use crate::{Datapath, Error, load_programs};

const SEND: &str = "xdp_send";
const BACK: &str = "xdp_back";
const SINK: &str = "xdp_sink";
/// Packets that the kernel sends at a time: as many as a driver takes at a time.
const BATCH: u32 = 64;
/// The smallest frame, without its checksum.
const FRAME_BYTES: usize = 60;

/// The programs, with counters of their own. What is attached goes with the descriptors.
pub struct Yardstick {
    ebpf: Ebpf,
    counters: Counters,
    packet: Vec<u8>,
}

impl Yardstick {
    /// Loads them. Packets that are sent begin with `headers`, and are zeros from there on.
    pub fn load(headers: &[u8; YARDSTICK_BYTES]) -> Result<Self, Error> {
        let mut loader = EbpfLoader::new();
        loader.override_global("YARDSTICK", &headers[..], true);
        let mut ebpf = load_programs(&mut loader, &Config::ZERO, [SEND, BACK, SINK].into_iter())?;
        let counters = ebpf.take_map(map::FLOW_COUNTERS).ok_or(Error::Missing(map::FLOW_COUNTERS))?;
        let counters = Counters::new(map::FLOW_COUNTERS, counters)?;
        let mut packet = headers.to_vec();
        packet.resize(FRAME_BYTES, 0);
        Ok(Self { ebpf, counters, packet })
    }

    /// Counts and drops what arrives at an interface.
    pub fn sink(&self, ifindex: u32) -> Result<OwnedFd, Error> {
        attach(SINK, self.program(SINK)?, ifindex)
    }

    /// Sends back what arrives at an interface, as it is.
    pub fn back(&self, ifindex: u32) -> Result<OwnedFd, Error> {
        attach(BACK, self.program(BACK)?, ifindex)
    }

    /// Forwards what arrives at an interface as a node does.
    pub fn uplink(&self, datapath: &Datapath, ifindex: u32) -> Result<OwnedFd, Error> {
        attach("uplink_xdp", datapath.xdp()?, ifindex)
    }

    /// Sends so many packets out of an interface that has the sink.
    pub fn send(&self, ifindex: u32, times: u32) -> Result<(), Error> {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let words = [0, FRAME_BYTES as u32, 0, ifindex, 0, 0];
        let context: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.packet);
        options.ctx_in = Some(&context);
        options.repeat = times;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let refused = |source| Error::Program { program: SEND, source: Box::new(source) };
        self.program(SEND)?.test_run(options).map(drop).map_err(refused)
    }

    /// How many have arrived at the sink so far.
    pub fn arrived(&self) -> Result<u64, Error> {
        self.counters.sum(flow_counters::CARRIED_BY_XDP)
    }

    fn program(&self, name: &'static str) -> Result<&Xdp, Error> {
        match self.ebpf.program(name) {
            Some(Program::Xdp(program)) => Ok(program),
            _ => Err(Error::Missing(name)),
        }
    }
}

fn attach(name: &'static str, program: &Xdp, ifindex: u32) -> Result<OwnedFd, Error> {
    let failed = |source: io::Error| Error::Attach { program: name, to: format!("interface {ifindex}"), source };
    let fd = program.fd().map_err(|source| Error::Program { program: name, source: Box::new(source) })?;
    attach_interface(fd.as_fd(), ifindex, AttachType::Xdp).map_err(failed)
}
