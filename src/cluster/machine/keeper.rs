//! `xebec machine`: the process on the host that a node hangs on that is a machine.
//!
//! It starts virtiofsd and QEMU, and ends when one of them does, which ends the other: a machine without its files
//! hangs, and nobody would see it. The supervisor starts it again, with a new kernel and the old disk.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::kernel::Kernel;
use super::qemu::{self, Machine, Task};
use super::{Settings, initramfs, probe};
use crate::cluster::addresses::Addresses;
use crate::cluster::node::{self, NodeSpec};
use crate::cluster::process::PidFd;
use crate::cluster::{Cluster, Name, NodeKind, Paths, links, mounts, write_atomically};

/// Where ports of bridges for machines are made.
pub const TUN: &str = "/dev/net/tun";

/// The size of a machine's disk. Only what is written takes room on the host.
const DISK_BYTES: u64 = 32 << 30;

/// How long after the machine's end that of the daemon may be seen.
const AFTER: Duration = Duration::from_secs(1);

/// Which machine.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's name
    #[arg(long)]
    name: Name,
    /// The node's number
    #[arg(long)]
    number: u16,
}

/// Runs until the machine does no more.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let paths = Paths::of(&args.name);
    let cluster = Cluster::load(&paths)?.with_context(|| format!("there is no cluster {}", args.name))?;
    let NodeKind::Machines(settings) = &cluster.node_kind else {
        bail!("the nodes of the cluster {} are {}", cluster.name, cluster.node_kind);
    };
    let spec = NodeSpec::of(&cluster, &paths, args.number);
    let parts = Parts::prepare(&paths, settings, &spec)?;
    let fabric_path = paths.fabric();
    let fabric = File::open(&fabric_path).with_context(|| format!("cannot open {}", fabric_path.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tap = runtime.block_on(links::connect_machine(fabric.as_fd(), args.number))?;
    let listener = listen(&parts.files)?;
    let log = node::open_log(&spec.log("files"))?;
    // From here on: a machine's files are this computer's, and its root must not be able to change them.
    mounts::read_only_but(&paths.state)?;
    let mut files = Command::new(probe::virtiofsd()?);
    files.args(qemu::virtiofsd_arguments(listener.as_raw_fd())).stdout(log.try_clone()?).stderr(log);
    let files = start(&mut files, listener.as_raw_fd())?;
    let machine = Machine {
        settings,
        kernel: &parts.kernel,
        initramfs: &parts.initramfs,
        files: &parts.files,
        disk: &parts.disk,
        tap: tap.as_raw_fd(),
        mac: Addresses::mac(cluster.addresses().node(args.number)),
        task: &parts.task,
    };
    let machine = start(Command::new(qemu::QEMU).args(machine.arguments()), tap.as_raw_fd())?;
    tracing::info!(machine, files, kernel = parts.kernel.release, "started");
    bail!("{}", first_end(machine)?)
}

/// What a machine is started with.
struct Parts {
    kernel: Kernel,
    initramfs: PathBuf,
    files: PathBuf,
    disk: PathBuf,
    task: Task,
}

impl Parts {
    fn prepare(paths: &Paths, settings: &Settings, spec: &NodeSpec) -> anyhow::Result<Self> {
        let run = paths.machine(&spec.name);
        let parts = Self {
            kernel: Kernel::newest_in(&settings.kernel)?,
            initramfs: run.join("initramfs"),
            files: run.join("files.sock"),
            disk: spec.data.join("disk.img"),
            task: Task {
                shared: paths.state.clone(),
                data: spec.data.clone(),
                input: run.join("node.json"),
                command: vec![spec.program.display().to_string(), "node-init".into(), spec.name.clone()],
            },
        };
        write_atomically(&parts.initramfs, &initramfs::build(&parts.kernel)?, 0o600)?;
        write_atomically(&parts.task.input, &serde_json::to_vec(spec)?, 0o600)?;
        make_disk(&parts.disk)?;
        Ok(parts)
    }
}

/// Makes a machine's disk, unless there is one. It appears whole or not at all.
fn make_disk(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let part = path.with_extension("part");
    let what = || format!("cannot make the disk {}", path.display());
    File::create(&part).and_then(|file| file.set_len(DISK_BYTES)).with_context(what)?;
    // It is new, so it is zero.
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-E", "assume_storage_prezeroed=1"]).arg(&part);
    let made = command.stdin(Stdio::null()).output().context("cannot run mkfs.ext4")?;
    if !made.status.success() {
        bail!("{}: mkfs.ext4: {}", what(), String::from_utf8_lossy(&made.stderr).trim());
    }
    fs::rename(&part, path).with_context(what)
}

fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).context(format!("cannot remove {}", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))
}

/// Starts a program that has one of our descriptors and does not outlive us. Returns its process id.
fn start(command: &mut Command, descriptor: RawFd) -> anyhow::Result<i32> {
    command.stdin(Stdio::null());
    // SAFETY: async-signal-safe system calls on a descriptor that is open until this process ends.
    unsafe {
        command.pre_exec(move || {
            die_with_parent()?;
            match libc::fcntl(descriptor, libc::F_SETFD, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let child = command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    i32::try_from(child.id()).context("an impossible process id")
}

/// Has the calling process killed when the thread that started it ends.
pub fn die_with_parent() -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)
}

/// Waits for the first of our children to end, and says what it was.
fn first_end(machine: i32) -> anyhow::Result<String> {
    loop {
        let (pid, status) = match waitpid(None::<Pid>, None) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::from_raw(code << 8)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitStatus::from_raw(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(e) => return Err(e).context("cannot wait for the machine"),
        };
        if pid.as_raw() == machine {
            return Ok(format!("the machine ended: {status}"));
        }
        // It follows a machine that ends, and may be quicker to be seen.
        let ended_first = PidFd::open(machine).is_ok_and(|machine| !machine.wait(AFTER));
        if ended_first {
            return Ok(format!("the daemon of its files ended: {status}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_made_once_and_takes_little_room() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk.img");
        make_disk(&disk).unwrap();
        let made = fs::metadata(&disk).unwrap();
        assert_eq!(made.len(), DISK_BYTES);
        assert!(made.blocks() * 512 < 100 << 20, "{} blocks", made.blocks());
        make_disk(&disk).unwrap();
        assert_eq!(fs::metadata(&disk).unwrap().modified().unwrap(), made.modified().unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
