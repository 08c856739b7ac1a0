//! The machine that the program runs on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use xebec_cni::netlink::Netlink;
use xebec_ebpf_loader::sys;

use super::{Hook, Link, Machine, Presence};

/// It.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisMachine;

impl Machine for ThisMachine {
    fn hook(&self, hook: Hook) -> Presence {
        presence(match hook {
            Hook::Tcx => sys::knows_interface_type(sys::AttachType::TcxIngress),
            Hook::SocketAddress => sys::knows_program_type(sys::ProgramType::CgroupSockAddr),
            Hook::SocketOps => sys::knows_program_type(sys::ProgramType::SockOps),
            Hook::Xdp => sys::knows_program_type(sys::ProgramType::Xdp),
        })
    }

    fn is_mounted(&self, path: &Path, kind: &str) -> bool {
        let magic = match kind {
            "cgroup2" => CGROUP2_SUPER_MAGIC,
            "bpf" => BPF_FS_MAGIC,
            _ => return false,
        };
        statfs(path).is_ok_and(|stat| stat.filesystem_type() == magic)
    }

    fn knows_filesystem(&self, kind: &str) -> bool {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        // A module that is not loaded yet is loaded by the first mount.
        known.lines().any(|line| line.split_ascii_whitespace().last() == Some(kind)) || has_module(kind)
    }

    fn link(&self, kind: Link) -> Presence {
        // In a network namespace that goes with the thread: nothing is left, whatever happens.
        let tried = std::thread::spawn(move || {
            let refused = |error: xebec_cni::netlink::Error| error.source;
            unshare(CloneFlags::CLONE_NEWNET)?;
            let mut netlink = Netlink::open().map_err(refused)?;
            match kind {
                Link::Veth => {
                    let own = fs::File::open("/proc/thread-self/ns/net")?;
                    let macs = [[0x0a, 0, 0, 0, 0, 1], [0x0a, 0, 0, 0, 0, 2]];
                    netlink.create_veth("probe0", "probe1", &own, macs, 1_500).map_err(refused)
                }
                Link::Vxlan => netlink.create_vxlan("probe0", 4_789, [0x0a, 0, 0, 0, 0, 1], 1_450).map_err(refused),
            }
        });
        presence(tried.join().unwrap_or_else(|_| Err(io::Error::other("the probe died"))))
    }

    fn read(&self, path: &str) -> Option<String> {
        // Type information is no text; that it can be read is what is asked.
        fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(4_096)]).into_owned())
    }

    fn has_namespace(&self, kind: &str) -> bool {
        Path::new("/proc/self/ns").join(kind).exists()
    }

    fn has_program(&self, name: &str) -> bool {
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
    }
}

fn presence(result: io::Result<()>) -> Presence {
    match result {
        Ok(()) => Presence::Here,
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => Presence::Forbidden,
        Err(error) => Presence::Missing(error.to_string()),
    }
}

fn has_module(name: &str) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let list = PathBuf::from("/lib/modules").join(release.trim()).join("modules.dep");
    let text = fs::read_to_string(list).unwrap_or_default();
    text.lines().filter_map(|line| line.split(':').next()).any(|path| {
        Path::new(path).file_name().and_then(|f| f.to_str()).is_some_and(|f| f.split('.').next() == Some(name))
    })
}
