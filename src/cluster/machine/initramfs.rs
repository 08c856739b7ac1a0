//! The first root of a machine: busybox, a script, and the modules without which it can't reach the host's files.
//!
//! Written as the kernel reads it (Documentation/driver-api/early-userspace/buffer-format.rst), without compression:
//! unpacking would take longer than reading.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::kernel::Kernel;

const INIT: &str = include_str!("init.sh");
/// What the script and a machine's devices need. A kernel may have any of it built in.
const MODULES: [&str; 6] = ["virtio_pci", "virtiofs", "overlay", "virtio_blk", "ext4", "virtio_net"];
/// Where the script mounts things.
const DIRECTORIES: [&str; 9] = ["bin", "dev", "etc", "layer", "lower", "modules", "proc", "root", "sys"];
/// A program that needs no other file.
pub const BUSYBOX: &str = "/bin/busybox";

/// That of a kernel, with the script that makes the host's files the root.
pub fn build(kernel: &Kernel) -> anyhow::Result<Vec<u8>> {
    let mut archive = with_busybox(INIT)?;
    let read = |name: &str| {
        let path = kernel.modules.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let order = load_order(&read("modules.dep")?, &read("modules.builtin")?, &MODULES)
        .with_context(|| format!("the kernel {} has not what a machine needs", kernel.release))?;
    let mut names = String::new();
    for path in &order {
        let from = kernel.modules.join(path);
        let content = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        let name = path.rsplit('/').next().unwrap_or(path);
        archive.file(&format!("modules/{name}"), 0o644, &content)?;
        names = format!("{names}{name}\n");
    }
    archive.file("modules/order", 0o644, names.as_bytes())?;
    archive.finish()
}

/// One in which nothing but a script of busybox's runs, without any module.
pub fn of_script(script: &str) -> anyhow::Result<Vec<u8>> {
    with_busybox(script)?.finish()
}

fn with_busybox(init: &str) -> anyhow::Result<Archive> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    let busybox = fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    archive.file("bin/busybox", 0o755, &busybox)?;
    archive.file("init", 0o755, init.as_bytes())?;
    Ok(archive)
}

/// The kernel has no module of this name, nor is it built in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has no module {0}")]
pub struct NoModule(String);

/// The files of the modules `wanted` and of those that they need, in an order in which they can be loaded; what is built
/// in has none. `dependencies` and `builtin` are depmod's `modules.dep` and `modules.builtin`.
pub fn load_order(dependencies: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>, NoModule> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let files: BTreeMap<String, (&str, &str)> = lines.map(|(file, needs)| (module(file), (file, needs))).collect();
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let Some((file, needs)) = files.get(*name) else {
            if builtin.lines().any(|line| module(line) == *name) {
                continue;
            }
            return Err(NoModule((*name).to_owned()));
        };
        // What is needed first stands last.
        for path in needs.split_ascii_whitespace().rev().chain([*file]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

/// A module's name from its file's: `kernel/a/b-c.ko.xz` is `b_c`.
fn module(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

/// A cpio archive in the format "newc".
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

impl Archive {
    fn directory(&mut self, path: &str) -> anyhow::Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.entry(path, REGULAR | mode, content)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large for a first root"))?;
        let name_bytes = u32::try_from(path.len() + 1)?;
        let (inode, owner, links, time, device, check) = (self.entries, 0, 1, 0, 0, 0);
        let fields = [inode, mode, owner, owner, links, time, size, device, device, device, device, name_bytes, check];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        Ok(())
    }

    /// Headers and contents begin at multiples of four.
    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }
}

/// `xebec initramfs`: writes a kernel's to standard output, for machines that are started by others (`scripts/vm.sh`).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the kernel's package is unpacked
    #[arg(long)]
    kernel: PathBuf,
}

/// `xebec initramfs`.
pub fn main(args: &Args) -> anyhow::Result<()> {
    use std::io::Write as _;
    let archive = build(&Kernel::newest_in(Path::new(&args.kernel))?)?;
    std::io::stdout().write_all(&archive).context("cannot write the archive")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    const DEPENDENCIES: &str = "kernel/net/core/failover.ko.xz:\n\
        kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz\n\
        kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz\n\
        kernel/fs/overlay-fs.ko:\n";

    #[test]
    fn what_is_needed_is_loaded_first_and_once() {
        let order =
            load_order(DEPENDENCIES, "kernel/fs/fuse/fuse.ko\n", &["failover", "fuse", "virtio_net", "overlay_fs"]);
        let expected = [
            "kernel/net/core/failover.ko.xz",
            "kernel/drivers/net/net_failover.ko.xz",
            "kernel/drivers/net/virtio_net.ko.xz",
            "kernel/fs/overlay-fs.ko",
        ];
        assert_eq!(order.unwrap(), expected);
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let error = load_order(DEPENDENCIES, "kernel/fs/fuse/fuse.ko\n", &["ext4"]).unwrap_err();
        assert_eq!(error.to_string(), "it has no module ext4");
    }

    #[test]
    fn other_programs_can_read_the_archive() {
        let mut archive = Archive::default();
        archive.directory("bin").unwrap();
        archive.file("bin/odd", 0o755, b"12345").unwrap();
        archive.file("init", 0o644, b"").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("archive"), bytes).unwrap();
        let input = fs::File::open(dir.path().join("archive")).unwrap();
        let mut unpack = Command::new("busybox");
        unpack.args(["cpio", "-i"]).current_dir(dir.path()).stdin(input).stderr(Stdio::null());
        assert!(unpack.status().unwrap().success());
        assert_eq!(fs::read(dir.path().join("bin/odd")).unwrap(), b"12345");
        assert!(dir.path().join("init").is_file());
    }

    #[test]
    fn the_script_mounts_only_where_there_is_a_directory() {
        for directory in ["/lower", "/layer", "/root", "/proc", "/sys", "/dev"] {
            assert!(DIRECTORIES.contains(&directory.trim_start_matches('/')), "{directory}");
            assert!(INIT.contains(&format!(" {directory}")), "{directory} is not used");
        }
    }
}
