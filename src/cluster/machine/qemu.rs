//! What a machine is made of, as QEMU and virtiofsd are told.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use super::kernel::Kernel;
use super::{Accelerator, Settings};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// Where Debian has the daemon that shares files with machines: since trixie it is the second.
pub const VIRTIOFSD: [&str; 2] = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];

const PROCESSORS: u32 = 2;

/// One machine.
#[derive(Debug)]
pub struct Machine<'a> {
    /// What all the cluster's have in common.
    pub settings: &'a Settings,
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// Its first root.
    pub initramfs: &'a Path,
    /// Where virtiofsd listens.
    pub files: &'a Path,
    /// Its disk.
    pub disk: &'a Path,
    /// The descriptor of its port of the bridge, in QEMU.
    pub tap: RawFd,
    /// Its network card's address.
    pub mac: [u8; 6],
    /// What it runs.
    pub task: &'a Task,
}

/// What a machine does once it has the host's files; see `init.sh`.
#[derive(Debug)]
pub struct Task {
    /// A directory that it shares with the host, to write to as well.
    pub shared: PathBuf,
    /// A directory that is on its disk.
    pub data: PathBuf,
    /// A file that the command reads as its standard input.
    pub input: PathBuf,
    /// Its process 1, with arguments.
    pub command: Vec<String>,
}

impl Machine<'_> {
    /// QEMU's arguments.
    pub fn arguments(&self) -> Vec<String> {
        let memory = self.settings.memory_mib;
        let mac = self.mac.map(|byte| format!("{byte:02x}")).join(":");
        let pairs = [
            ("-m", format!("{memory}M")),
            ("-object", format!("memory-backend-memfd,id=memory,size={memory}M,share=on")),
            ("-machine", "pc,memory-backend=memory".into()),
            ("-smp", PROCESSORS.to_string()),
            ("-chardev", format!("socket,id=files,path={}", quoted(self.files))),
            ("-device", "vhost-user-fs-pci,chardev=files,tag=host".into()),
            ("-drive", format!("if=none,id=data,format=raw,discard=unmap,file={}", quoted(self.disk))),
            ("-device", "virtio-blk-pci,drive=data".into()),
            ("-netdev", format!("tap,id=link,fd={}", self.tap)),
            ("-device", format!("virtio-net-pci,netdev=link,mac={mac},romfile=")),
            ("-kernel", self.kernel.image.display().to_string()),
            ("-initrd", self.initramfs.display().to_string()),
            ("-append", self.kernel_arguments()),
        ];
        let pairs = pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
        basics(self.settings.accelerator).into_iter().chain(pairs).collect()
    }

    fn kernel_arguments(&self) -> String {
        let Task { shared, data, input, command } = self.task;
        format!(
            "{CONSOLE} cgroup_no_v1=all xebec_modules={} xebec_shared={} xebec_data={} xebec_input={} -- {}",
            self.kernel.modules.display(),
            shared.display(),
            data.display(),
            input.display(),
            command.join(" "),
        )
    }
}

/// A kernel says only what is wrong, and that ends it.
pub const CONSOLE: &str = "console=ttyS0 quiet loglevel=3 panic=-1";

/// What every machine has: an accelerator, a console that is standard output, and nothing by default. It ends when its
/// kernel does.
pub fn basics(accelerator: Accelerator) -> Vec<String> {
    let (accelerator, processor) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        // QEMU 7.2 emulates cmpxchg16b wrongly for Debian's kernels.
        Accelerator::Tcg => ("tcg,thread=multi", "max,-cx16"),
    };
    let text = ["-accel", accelerator, "-cpu", processor];
    let console = ["-nodefaults", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", "stdio"];
    text.into_iter().chain(console).map(str::to_owned).collect()
}

/// virtiofsd's arguments; it listens at a descriptor that it is handed.
pub fn virtiofsd_arguments(listener: RawFd) -> Vec<String> {
    let fixed = ["-o", "source=/", "-o", "cache=auto", "-o", "sandbox=chroot"];
    fixed.into_iter().map(str::to_owned).chain([format!("--fd={listener}")]).collect()
}

/// In an option of QEMU's, a comma ends a value unless there are two.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(accelerator: Accelerator) -> Vec<String> {
        let settings = Settings { kernel: "/k".into(), accelerator, memory_mib: 1024 };
        let kernel = Kernel {
            release: "6.12".into(),
            image: "/k/boot/vmlinuz-6.12".into(),
            modules: "/k/lib/modules/6.12".into(),
        };
        let task = Task {
            shared: "/var/lib/xebec/x".into(),
            data: "/var/lib/xebec/x/nodes/x-1".into(),
            input: "/run/xebec/x/machines/x-1/node.json".into(),
            command: vec!["/var/lib/xebec/x/bin/xebec".into(), "node-init".into(), "x-1".into()],
        };
        let machine = Machine {
            settings: &settings,
            kernel: &kernel,
            initramfs: Path::new("/run/i"),
            files: Path::new("/run/a,b"),
            disk: Path::new("/disk"),
            tap: 7,
            mac: [2, 0x78, 172, 30, 0, 11],
            task: &task,
        };
        machine.arguments()
    }

    fn value<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
        let pairs = arguments.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn a_machine_has_its_memory_disk_card_and_files() {
        let all = arguments(Accelerator::Tcg);
        assert_eq!(value(&all, "-accel"), ["tcg,thread=multi"]);
        assert_eq!(value(&all, "-m"), ["1024M"]);
        assert_eq!(value(&all, "-chardev"), ["socket,id=files,path=/run/a,,b"]);
        assert_eq!(value(&all, "-netdev"), ["tap,id=link,fd=7"]);
        assert!(value(&all, "-device").contains(&"virtio-net-pci,netdev=link,mac=02:78:ac:1e:00:0b,romfile="));
        assert_eq!(value(&arguments(Accelerator::Kvm), "-cpu"), ["host"]);
    }

    #[test]
    fn the_command_comes_last_for_the_kernel_hands_it_on_as_it_is() {
        let all = arguments(Accelerator::Tcg);
        let [append] = value(&all, "-append")[..] else { panic!("{all:?}") };
        let (kernels, command) = append.split_once(" -- ").unwrap();
        assert_eq!(command, "/var/lib/xebec/x/bin/xebec node-init x-1");
        for variable in ["modules=/k/lib/modules/6.12", "shared=/var/lib/xebec/x", "data=/var/lib/xebec/x/nodes/x-1"] {
            assert!(kernels.split(' ').any(|word| word == format!("xebec_{variable}")), "{kernels}");
        }
        // COMMAND_LINE_SIZE of x86.
        assert!(append.len() < 2048);
    }
}
