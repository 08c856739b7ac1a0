//! The namespaces that a pod's containers share, pinned by bind mounts: they live without a process in them, so no pause
//! container is needed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::runtime::SandboxSpec;

/// Where a pod's namespaces are pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// The network namespace.
    pub net: PathBuf,
    /// The IPC namespace.
    pub ipc: PathBuf,
    /// The UTS namespace.
    pub uts: PathBuf,
}

impl Pins {
    /// Those of the pod with `uid`, below `root`.
    pub fn new(root: &Path, uid: &str) -> Self {
        let at = |kind: &str| root.join(format!("{kind}ns")).join(uid);
        Self { net: at("net"), ipc: at("ipc"), uts: at("uts") }
    }

    /// Makes those that the pod has of its own. Those that are there are kept.
    pub async fn create(&self, spec: &SandboxSpec) -> io::Result<()> {
        let mut wanted: Vec<(CloneFlags, &'static str, PathBuf)> = Vec::new();
        if !spec.host_network {
            wanted.push((CloneFlags::CLONE_NEWNET, "net", self.net.clone()));
            wanted.push((CloneFlags::CLONE_NEWUTS, "uts", self.uts.clone()));
        }
        if !spec.host_ipc {
            wanted.push((CloneFlags::CLONE_NEWIPC, "ipc", self.ipc.clone()));
        }
        wanted.retain(|(_, _, path)| !is_pinned(path));
        if wanted.is_empty() {
            return Ok(());
        }
        let hostname = spec.hostname.clone();
        let (tx, rx) = tokio::sync::oneshot::channel();
        // A thread of its own: what it unshares must not leak into others, and ends with it.
        std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
            // The receiver waits.
            drop(tx.send(pin(&wanted, &hostname)));
        })?;
        rx.await.map_err(|_| io::Error::other("the thread that makes namespaces died"))?
    }

    /// Removes them. What is not there is no error.
    pub fn remove(&self) -> io::Result<()> {
        for path in [&self.net, &self.ipc, &self.uts] {
            match umount2(path, MntFlags::MNT_DETACH) {
                Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
                Err(error) => return Err(io::Error::other(format!("cannot unmount {}: {error}", path.display()))),
            }
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The uids that have pins below `root`.
pub fn pinned(root: &Path) -> io::Result<Vec<String>> {
    let mut uids = Vec::new();
    for kind in ["netns", "ipcns", "utsns", "pidns"] {
        match fs::read_dir(root.join(kind)) {
            Ok(entries) => uids.extend(entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    uids.sort();
    uids.dedup();
    Ok(uids)
}

fn is_pinned(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

fn pin(wanted: &[(CloneFlags, &'static str, PathBuf)], hostname: &str) -> io::Result<()> {
    let flags = wanted.iter().fold(CloneFlags::empty(), |all, (flag, ..)| all | *flag);
    unshare(flags).map_err(|e| io::Error::other(format!("cannot make namespaces: {e}; is the agent root?")))?;
    if flags.contains(CloneFlags::CLONE_NEWUTS) {
        nix::unistd::sethostname(hostname).map_err(|e| io::Error::other(format!("cannot set the hostname: {e}")))?;
    }
    if flags.contains(CloneFlags::CLONE_NEWNET) {
        loopback_up()?;
        // Ports below 1024 and ping without privileges, as containerd 2 gives them. The kernel shows the calling
        // thread its own namespace there; an old kernel without them is no reason to fail.
        for (name, value) in [("ip_unprivileged_port_start", "0"), ("ping_group_range", "0 2147483647")] {
            drop(fs::write(format!("/proc/sys/net/ipv4/{name}"), value));
        }
    }
    for (_, kind, path) in wanted {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::File::create(path)?;
        let source = PathBuf::from(format!("/proc/thread-self/ns/{kind}"));
        mount(Some(&source), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| io::Error::other(format!("cannot pin a namespace at {}: {e}", path.display())))?;
    }
    Ok(())
}

/// Brings up `lo` in the calling thread's network namespace.
fn loopback_up() -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is a valid value of a plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads one ifreq at the pointer, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
