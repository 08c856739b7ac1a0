//! What can go wrong, and what to do.

use std::io;
use std::path::PathBuf;

/// Why the datapath could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The BPF file system could not be mounted.
    #[error(
        "cannot mount the BPF file system at {path}: {source} (the agent must run as root; in a container, privileged)"
    )]
    Mount {
        /// Where.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Pinned files could not be read, created or removed.
    #[error("{path}: {source}")]
    Pin {
        /// Which file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The kernel refused the object file or one of its maps.
    #[error("cannot load the eBPF programs: {0} (`xebec check` says what the kernel lacks)")]
    Load(#[from] aya::EbpfError),
    /// The kernel refused a program.
    #[error("the kernel refused the eBPF program {program}: {source} (`xebec check` says what the kernel lacks)")]
    Program {
        /// Its name.
        program: &'static str,
        /// The verifier's reason.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program could not be attached.
    #[error("cannot attach {program} to {to}: {source}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// The interface or cgroup.
        to: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A map operation failed.
    #[error("eBPF map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The kernel's reason.
        source: Box<aya::maps::MapError>,
    },
    /// A map's entries could not be read or written.
    #[error("eBPF map {map}: {source}")]
    Entry {
        /// Its name.
        map: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A map has no room.
    #[error(
        "eBPF map {map} is full: it holds {max_entries} entries (the cluster has more services, endpoints or addresses than a node of this build takes)"
    )]
    Full {
        /// Its name.
        map: &'static str,
        /// How many entries it takes.
        max_entries: u32,
    },
    /// The object file lacks what it must have.
    #[error("the embedded eBPF object has no {0}: the build is broken, build again")]
    Missing(&'static str),
}
