//! What this computer lacks for machines, and what it can run them by.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::kernel::Kernel;
use super::{Accelerator, initramfs, qemu};

/// Checks everything; an error lists what is missing.
pub fn check(kernel: &Path) -> anyhow::Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("virtual machines are made on x86_64 only; this is {}", std::env::consts::ARCH);
    }
    let programs = [(qemu::QEMU, "qemu-system-x86"), ("mkfs.ext4", "e2fsprogs")];
    let mut missing: Vec<String> = programs
        .into_iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(program, package)| format!("{program} is not installed (apt-get install {package})"))
        .collect();
    missing.extend(virtiofsd().err().map(|e| e.to_string()));
    if !Path::new(initramfs::BUSYBOX).exists() {
        missing.push(format!("{} is not installed (apt-get install busybox-static)", initramfs::BUSYBOX));
    }
    if let Err(e) = File::options().read(true).write(true).open(super::keeper::TUN) {
        missing.push(format!("{} can't be opened: {e} (modprobe tun)", super::keeper::TUN));
    }
    missing.extend(Kernel::newest_in(kernel).and_then(|kernel| kernel.check()).err().map(|e| e.to_string()));
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "this computer lacks what virtual machines need (`scripts/setup.sh vm` installs it):\n  - {}",
        missing.join("\n  - ")
    )
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The daemon that shares files with machines.
pub fn virtiofsd() -> anyhow::Result<PathBuf> {
    let found = qemu::VIRTIOFSD.into_iter().map(PathBuf::from).find(|path| path.is_file());
    found.context("virtiofsd is not installed (apt-get install qemu-system-common; since Debian 13, virtiofsd)")
}

/// How long KVM has for a kernel to reach its first program; where it works, it takes a second.
const LIMIT: Duration = Duration::from_secs(15);
/// What that program says.
const REACHED: &str = "xebec: reached";
/// What QEMU says, and then waits for somebody to look into it, when the processor gives up.
const GAVE_UP: &str = "KVM internal error";

/// KVM if it runs this kernel here: having `/dev/kvm` does not tell, for one that runs in a machine itself may run some
/// kernels and not others.
pub fn accelerator(kernel: &Kernel) -> anyhow::Result<Accelerator> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accelerator::Tcg);
    }
    let script = format!("#!/bin/busybox sh\necho '{REACHED}'\n/bin/busybox poweroff -f\n");
    let mut first_root = tempfile::NamedTempFile::new().context("cannot make a file for a trial of KVM")?;
    std::io::Write::write_all(&mut first_root, &initramfs::of_script(&script)?)?;
    let mut command = Command::new(qemu::QEMU);
    command
        .args(qemu::basics(Accelerator::Kvm))
        .args(["-m", "256M", "-append", qemu::CONSOLE])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(first_root.path());
    Ok(if says(command, REACHED, GAVE_UP)? { Accelerator::Kvm } else { Accelerator::Tcg })
}

/// Whether a program says `wanted` before it says `unwanted`, ends, or its time is up. It does not outlive this.
fn says(mut command: Command, wanted: &'static str, unwanted: &'static str) -> anyhow::Result<bool> {
    let (output, other_end) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(other_end.try_clone()?).stderr(other_end);
    // SAFETY: a system call that is async-signal-safe.
    unsafe { command.pre_exec(super::keeper::die_with_parent) };
    let mut child = command.spawn().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    // It holds the pipe's other end.
    drop(command);
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(File::from(output)).split(b'\n').map_while(Result::ok);
        let verdict = lines.map(|line| String::from_utf8_lossy(&line).into_owned()).find_map(|line| {
            let is_wanted = line.contains(wanted);
            (is_wanted || line.contains(unwanted)).then_some(is_wanted)
        });
        let _ = sender.send(verdict.unwrap_or(false));
    });
    let said = receiver.recv_timeout(LIMIT).unwrap_or(false);
    let _ = child.kill();
    child.wait().context("cannot wait for a trial's end")?;
    let _ = reader.join();
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> bool {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        says(command, "good", "bad").unwrap()
    }

    #[test]
    fn the_first_thing_said_decides() {
        assert!(shell("echo one; echo all good; exec sleep 100"));
        assert!(!shell("echo too bad >&2; echo good; exec sleep 100"));
        assert!(!shell("echo nothing"));
    }

    #[test]
    fn without_a_kernel_it_is_said_how_to_get_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = check(dir.path()).unwrap_err().to_string();
        assert!(error.contains("there is no kernel in") && error.contains("scripts/setup.sh vm"), "{error}");
    }
}
