//! Loads, attaches, pins and upgrades the eBPF programs.
//!
//! What is pinned, under the BPF file system that the caller names:
//!
//! ```text
//! xebec/v<VERSION>/<MAP>      the maps of this layout version
//! xebec/links/<hook>          the socket hooks, the uplink's and the tunnel's programs
//! xebec/links/pod-<interface> a pod's programs: what it sends
//! xebec/links/to-pod-<interface>  and what it gets
//! ```
//!
//! Links are outside the version: a new agent loads its programs over the pinned maps and puts them behind the existing
//! links (BPF_LINK_UPDATE), so there is no moment without a program, whether it restarts, crashed, or is of another
//! version. Nothing is detached when a [`Datapath`] is dropped; [`unload`] does that.

pub mod bpffs;
pub mod driver;
mod error;
mod maps;
pub mod sys;
mod trace;
pub mod yardstick;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use aya::programs::{CgroupSock, CgroupSockAddr, Program, ProgramError, SchedClassifier, SockOps, Xdp};
use aya::{Ebpf, EbpfLoader};
pub use error::Error;
pub use maps::{Counter, Counters, Events, Maps, Prefix, Prefixes, Table};
use sys::{AttachType, LinkTarget};
pub use trace::{Packet, Run, Tracer};
pub use xebec_ebpf_layout as layout;
use xebec_ebpf_layout::Config;

/// The programs, as the build script compiled them.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xebec-ebpf-programs"));

/// The socket hooks.
const SOCKET_PROGRAMS: [(&str, AttachType); 10] = [
    // Before there is something to forget.
    ("release", AttachType::CgroupInetSockRelease),
    ("connect4", AttachType::CgroupInet4Connect),
    ("connect6", AttachType::CgroupInet6Connect),
    ("sendmsg4", AttachType::CgroupUdp4Sendmsg),
    ("sendmsg6", AttachType::CgroupUdp6Sendmsg),
    ("recvmsg4", AttachType::CgroupUdp4Recvmsg),
    ("recvmsg6", AttachType::CgroupUdp6Recvmsg),
    ("getpeername4", AttachType::CgroupInet4Getpeername),
    ("getpeername6", AttachType::CgroupInet6Getpeername),
    ("latency", AttachType::CgroupSockOps),
];

const UPLINK_PROGRAMS: [(&str, AttachType); 2] =
    [("uplink_ingress", AttachType::TcxIngress), ("uplink_egress", AttachType::TcxEgress)];

/// Before these, in the driver.
const UPLINK_XDP: (&str, AttachType) = ("uplink_xdp", AttachType::Xdp);

const OVERLAY_PROGRAMS: [(&str, AttachType); 2] =
    [("overlay_ingress", AttachType::TcxIngress), ("overlay_egress", AttachType::TcxEgress)];

/// On the host side of a pod's pair: what a pod sends comes in there. The second part is the prefix of the link's pin.
const POD_PROGRAMS: [(&str, &str, AttachType); 2] =
    [("pod_egress", POD_PREFIX, AttachType::TcxIngress), ("pod_ingress", "to-pod-", AttachType::TcxEgress)];

const POD_PREFIX: &str = "pod-";

/// The programs in the kernel, ready to attach.
#[derive(Debug)]
pub struct Datapath {
    ebpf: Ebpf,
    /// `None` if nothing is pinned.
    root: Option<PathBuf>,
    /// Links that no pin keeps.
    links: Vec<OwnedFd>,
}

impl Datapath {
    /// Loads the programs with `config` over the maps pinned under the BPF file system at `bpffs` (mounted if
    /// it is not), and puts them behind the links of pods that are there already.
    pub fn load(bpffs: &Path, config: &Config) -> Result<(Self, Maps), Error> {
        bpffs::ensure(bpffs)?;
        let root = bpffs.join("xebec");
        let map_dir = map_dir(&root);
        bpffs::folder(&map_dir)?;
        bpffs::folder(&root.join("links"))?;
        carry_over(&root, &map_dir)?;
        remove_unreadable(&map_dir)?;
        let mut loader = EbpfLoader::new();
        for name in layout::map::PINNED {
            loader.map_pin_path(name, map_dir.join(name));
        }
        let ebpf = load(&mut loader, config)?;
        let mut datapath = Self { ebpf, root: Some(root), links: Vec::new() };
        datapath.take_over_pods()?;
        datapath.remove_other_versions()?;
        Ok((datapath, Maps::open(&map_dir)?))
    }

    /// Other handles of the same maps.
    pub fn open_maps(&self) -> Result<Maps, Error> {
        match &self.root {
            Some(root) => Maps::open(&map_dir(root)),
            None => Err(Error::Missing("a pinned map")),
        }
    }

    /// Loads the programs with fresh maps and pins nothing: everything goes when the value is dropped.
    pub fn load_unpinned(config: &Config) -> Result<(Self, Maps), Error> {
        let mut ebpf = load(&mut EbpfLoader::new(), config)?;
        let maps = Maps::build(|name| ebpf.take_map(name).ok_or(Error::Missing(name)))?;
        Ok((Self { ebpf, root: None, links: Vec::new() }, maps))
    }

    /// Attaches the socket hooks to the cgroup (v2) at `dir`: to every process in it and below.
    pub fn attach_sockets(&mut self, dir: &Path) -> Result<(), Error> {
        let failed = |program, source| Error::Attach { program, to: dir.display().to_string(), source };
        let cgroup = File::open(dir).map_err(|e| failed(SOCKET_PROGRAMS[0].0, e))?;
        // A cgroup's id is its folder's inode number.
        let id = cgroup.metadata().map_err(|e| failed(SOCKET_PROGRAMS[0].0, e))?.ino();
        for (program, kind) in SOCKET_PROGRAMS {
            self.attach(program, program, kind, LinkTarget(id), |fd| sys::attach_cgroup(fd, &cgroup, kind))
                .map_err(|e| e.or_attach(program, &dir.display()))?;
        }
        Ok(())
    }

    /// Attaches the uplink's programs.
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attach_interface(&UPLINK_PROGRAMS, ifindex)
    }

    /// Attaches the uplink's program that runs in the driver. An error if that cannot have one, or has another already; the
    /// others do without.
    pub fn attach_uplink_xdp(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attach_interface(&[UPLINK_XDP], ifindex)
    }

    /// Takes that program away; none is no error.
    pub fn detach_uplink_xdp(&mut self) -> Result<(), Error> {
        self.detach(UPLINK_XDP.0)
    }

    /// Attaches the programs of the VXLAN device.
    pub fn attach_overlay(&mut self, ifindex: u32) -> Result<(), Error> {
        self.attach_interface(&OVERLAY_PROGRAMS, ifindex)
    }

    /// Takes the tunnel's programs away.
    pub fn detach_overlay(&mut self) -> Result<(), Error> {
        OVERLAY_PROGRAMS.iter().try_for_each(|(program, _)| self.detach(program))
    }

    /// Attaches the pods' programs to the host side of a pod's pair.
    pub fn attach_pod(&mut self, interface: &str, ifindex: u32) -> Result<(), Error> {
        for (program, prefix, kind) in POD_PROGRAMS {
            let pin = format!("{prefix}{interface}");
            self.attach(program, &pin, kind, LinkTarget(ifindex.into()), |fd| sys::attach_interface(fd, ifindex, kind))
                .map_err(|e| e.or_attach(program, &interface))?;
        }
        Ok(())
    }

    /// Takes a pod's programs away; none is no error.
    pub fn detach_pod(&mut self, interface: &str) -> Result<(), Error> {
        // In the order they were attached last: what is listed by is gone last.
        POD_PROGRAMS.iter().rev().try_for_each(|(_, prefix, _)| self.detach(&format!("{prefix}{interface}")))
    }

    /// Interfaces that have the pods' programs, sorted.
    pub fn pod_interfaces(&self) -> Result<Vec<String>, Error> {
        let Some(root) = &self.root else { return Ok(Vec::new()) };
        let names = bpffs::names(&root.join("links"))?;
        Ok(names.iter().filter_map(|n| n.strip_prefix(POD_PREFIX)).map(str::to_owned).collect())
    }

    /// A classifier, to run on made-up packets.
    pub fn classifier(&self, name: &'static str) -> Result<&SchedClassifier, Error> {
        match self.ebpf.program(name) {
            Some(Program::SchedClassifier(program)) => Ok(program),
            _ => Err(Error::Missing(name)),
        }
    }

    /// The uplink's program that runs in the driver, to run on made-up packets.
    pub fn xdp(&self) -> Result<&Xdp, Error> {
        match self.ebpf.program(UPLINK_XDP.0) {
            Some(Program::Xdp(program)) => Ok(program),
            _ => Err(Error::Missing(UPLINK_XDP.0)),
        }
    }

    fn attach_interface(&mut self, programs: &[(&'static str, AttachType)], ifindex: u32) -> Result<(), Error> {
        for &(program, kind) in programs {
            let target = LinkTarget(ifindex.into());
            self.attach(program, program, kind, target, |fd| sys::attach_interface(fd, ifindex, kind))
                .map_err(|e| e.or_attach(program, &format_args!("interface {ifindex}")))?;
        }
        Ok(())
    }

    /// Puts `program` behind the link pinned as `pin` if that is attached to `target`; else makes one.
    fn attach(
        &mut self,
        program: &'static str,
        pin: &str,
        kind: AttachType,
        target: LinkTarget,
        create: impl FnOnce(BorrowedFd<'_>) -> io::Result<OwnedFd>,
    ) -> Result<(), AttachError> {
        let fd = program_fd(&self.ebpf, program)?;
        let Some(path) = self.link_path(pin) else {
            self.links.push(create(fd.as_fd())?);
            return Ok(());
        };
        if let Ok(link) = sys::open(&path) {
            if sys::target(&link, kind)? == target {
                return Ok(sys::update(&link, fd.as_fd())?);
            }
            bpffs::remove(&path)?;
        }
        let link = create(fd.as_fd())?;
        Ok(sys::pin(&link, &path)?)
    }

    /// Removes what is pinned as `pin`, if it is there.
    fn detach(&self, pin: &str) -> Result<(), Error> {
        self.link_path(pin).map_or(Ok(()), |path| bpffs::remove(&path))
    }

    fn link_path(&self, pin: &str) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join("links").join(pin))
    }

    /// Puts the new programs behind every pod's links, and forgets links whose interface is gone.
    fn take_over_pods(&mut self) -> Result<(), Error> {
        for interface in self.pod_interfaces()? {
            for (program, prefix, kind) in POD_PROGRAMS {
                let Some(path) = self.link_path(&format!("{prefix}{interface}")) else { continue };
                // An agent that died between the two, or that was before there were two: the pod is set up again.
                let Some(link) =
                    sys::open_if_there(&path).map_err(|source| Error::Pin { path: path.clone(), source })?
                else {
                    continue;
                };
                let failed = |source| Error::Attach { program, to: interface.clone(), source };
                let fd = program_fd(&self.ebpf, program)?;
                if sys::target(&link, kind).map_err(failed)? == LinkTarget(0) {
                    bpffs::remove(&path)?;
                } else {
                    sys::update(&link, fd.as_fd()).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    fn remove_other_versions(&self) -> Result<(), Error> {
        let Some(root) = &self.root else { return Ok(()) };
        let own = format!("v{}", layout::VERSION);
        for name in bpffs::names(root)? {
            if name.starts_with('v') && name != own {
                tracing::info!(version = %name, "removing the maps of another layout version");
                bpffs::remove(&root.join(name))?;
            }
        }
        Ok(())
    }
}

/// Detaches and removes everything that a [`Datapath`] pinned under the BPF file system at `bpffs`.
pub fn unload(bpffs: &Path) -> Result<(), Error> {
    bpffs::remove(&bpffs.join("xebec"))
}

/// The kernel's monotonic clock, by which the programs stamp what they remember, in seconds.
pub fn kernel_clock_s() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| u32::try_from(now.tv_sec()).unwrap_or(u32::MAX))
}

/// Where this version's maps are, under `root`.
fn map_dir(root: &Path) -> PathBuf {
    root.join(format!("v{}", layout::VERSION))
}

/// Creates the maps and has the kernel verify every program.
fn load<'a>(loader: &mut EbpfLoader<'a>, config: &'a Config) -> Result<Ebpf, Error> {
    let classifiers = UPLINK_PROGRAMS.iter().chain(&OVERLAY_PROGRAMS).map(|(name, _)| *name);
    let pods = POD_PROGRAMS.iter().map(|(name, ..)| *name);
    let names = SOCKET_PROGRAMS.iter().map(|(name, _)| *name).chain(classifiers).chain(pods).chain([UPLINK_XDP.0]);
    load_programs(loader, config, names)
}

/// Creates the maps and has the kernel verify these programs.
fn load_programs<'a>(
    loader: &mut EbpfLoader<'a>,
    config: &'a Config,
    names: impl Iterator<Item = &'static str>,
) -> Result<Ebpf, Error> {
    let mut ebpf = loader.override_global("CONFIG", config, true).load(PROGRAMS)?;
    for name in names {
        let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
        load_program(name, program)?;
    }
    give_back_memory();
    Ok(ebpf)
}

/// How often a program is given to the verifier that breaks off (`EAGAIN`) for a signal to this thread: as often as by libbpf.
const LOAD_TRIES: usize = 5;

/// Has the kernel verify a program.
fn load_program(name: &'static str, program: &mut Program) -> Result<(), Error> {
    let mut load = || match program {
        Program::CgroupSock(program) => CgroupSock::load(program),
        Program::CgroupSockAddr(program) => CgroupSockAddr::load(program),
        Program::SchedClassifier(program) => SchedClassifier::load(program),
        Program::SockOps(program) => SockOps::load(program),
        Program::Xdp(program) => Xdp::load(program),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    let mut result = load();
    for _ in 1..LOAD_TRIES {
        match &result {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            _ => break,
        }
        result = load();
    }
    result.map_err(|source| Error::Program { program: name, source: Box::new(source) })
}

/// The loader reads all of the kernel's type information, some 15 MB, once. An agent is to stay small.
fn give_back_memory() {
    // SAFETY: no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Pins the connections that another version's maps know in `map_dir` too: they cannot be compiled anew.
fn carry_over(root: &Path, map_dir: &Path) -> Result<(), Error> {
    let names = bpffs::names(root)?;
    let mut others: Vec<u32> = names.iter().filter_map(|name| name.strip_prefix('v')?.parse().ok()).collect();
    others.retain(|version| *version != layout::VERSION);
    others.sort_unstable();
    let others: Vec<PathBuf> = others.iter().rev().map(|version| root.join(format!("v{version}"))).collect();
    for name in layout::map::CARRIED_OVER {
        let path = map_dir.join(name);
        if path.exists() {
            continue;
        }
        let Some(map) = others.iter().find_map(|dir| sys::open(&dir.join(name)).ok()) else { continue };
        sys::pin(&map, &path).map_err(|source| Error::Pin { path, source })?;
        tracing::info!(map = name, "taking over the connections that another layout version knows");
    }
    Ok(())
}

/// Removes pinned maps whose keys or values have other sizes than ours: a build under development that forgot to raise
/// the version. Readers of such a map would see garbage.
fn remove_unreadable(map_dir: &Path) -> Result<(), Error> {
    for (name, key, value) in maps::SIZES {
        let path = map_dir.join(name);
        let Ok(data) = MapData::from_pin(&path) else { continue };
        let readable =
            data.info().is_ok_and(|info| info.key_size() as usize == key && info.value_size() as usize == value);
        if !readable {
            tracing::warn!(map = name, "a pinned map has another layout; starting it afresh");
            bpffs::remove(&path)?;
        }
    }
    Ok(())
}

fn program_fd(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, Error> {
    let program = ebpf.program(name).ok_or(Error::Missing(name))?;
    let refused = |source| Error::Program { program: name, source: Box::new(source) };
    let fd = program.fd().map_err(refused)?;
    fd.as_fd().try_clone_to_owned().map_err(|source| Error::Attach { program: name, to: "a link".to_owned(), source })
}

/// An attachment's failure, before it is said to what.
enum AttachError {
    Io(io::Error),
    Other(Error),
}

impl AttachError {
    fn or_attach(self, program: &'static str, to: &dyn std::fmt::Display) -> Error {
        match self {
            Self::Io(source) => Error::Attach { program, to: to.to_string(), source },
            Self::Other(error) => error,
        }
    }
}

impl From<io::Error> for AttachError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for AttachError {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

#[cfg(test)]
mod tests;
