//! Making, keeping and entering namespaces.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Runs `f`, which must not wait for anything, with the calling thread in another network namespace. Sockets made in
/// it belong to that namespace for good.
pub fn inside<T>(namespace: BorrowedFd<'_>, f: impl FnOnce() -> T) -> anyhow::Result<T> {
    let own = File::open("/proc/thread-self/ns/net").context("cannot open this thread's network namespace")?;
    setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
    let result = f();
    setns(own.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot return to the host's network namespace")?;
    Ok(result)
}

/// Opens the network namespace kept at `path`, or makes one and keeps it there. True if it is new.
pub fn keep_network(path: &Path) -> anyhow::Result<(File, bool)> {
    if is_mount_point(path)? {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        return Ok((file, false));
    }
    File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
    let own = File::open("/proc/thread-self/ns/net").context("cannot open this thread's network namespace")?;
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    let kept = mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    setns(own.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot return to the host's network namespace")?;
    kept.with_context(|| format!("cannot keep the network namespace at {}", path.display()))?;
    Ok((File::open(path)?, true))
}

/// Undoes [`keep_network`]; true if there was something to undo.
pub fn release(path: &Path) -> anyhow::Result<bool> {
    let mut released = false;
    while is_mount_point(path)? {
        umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {}", path.display()))?;
        released = true;
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(released),
        Err(e) => Err(e).context(format!("cannot remove {}", path.display())),
    }
}

/// The mount points at and below `dir`, the deepest first.
pub fn mounts_below(dir: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the list of mounts")?;
    let mut found: Vec<std::path::PathBuf> = text
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| std::path::PathBuf::from(unescape(p)))
        .filter(|p| p.starts_with(dir))
        .collect();
    found.reverse();
    Ok(found)
}

fn is_mount_point(path: &Path) -> anyhow::Result<bool> {
    Ok(mounts_below(path)?.iter().any(|m| m == path))
}

/// Undoes mountinfo's octal escapes (`\040` for a space).
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match (bytes[at], code) {
            (b'\\', Some(byte)) => {
                out.push(byte);
                at += 4;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What [`spawn_contained`] starts.
#[derive(Debug)]
pub struct Contained<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments, the zeroth included.
    pub arguments: &'a [&'a str],
    /// `cgroup.procs` files of the groups it is to be in.
    pub groups: &'a [std::path::PathBuf],
    /// Its standard input.
    pub input: OwnedFd,
    /// Its standard output and error.
    pub output: OwnedFd,
}

/// Starts a program as process 1 of namespaces of its own: network, mount, process, UTS, IPC, and a cgroup namespace
/// whose root are the groups given. Returns its process id on the host.
pub fn spawn_contained(what: Contained<'_>) -> anyhow::Result<i32> {
    // All that needs memory is made before the clone; after it the child makes system calls only.
    let program = c_string(what.program.as_os_str().as_encoded_bytes())?;
    let arguments = what.arguments.iter().map(|a| c_string(a.as_bytes())).collect::<anyhow::Result<Vec<_>>>()?;
    let mut argument_pointers: Vec<*const libc::c_char> = arguments.iter().map(|a| a.as_ptr()).collect();
    argument_pointers.push(std::ptr::null());
    let environment = std::env::vars_os()
        .map(|(k, v)| c_string(&[k.as_encoded_bytes(), b"=", v.as_encoded_bytes()].concat()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut environment_pointers: Vec<*const libc::c_char> = environment.iter().map(|v| v.as_ptr()).collect();
    environment_pointers.push(std::ptr::null());
    let groups = what
        .groups
        .iter()
        .map(|g| File::options().write(true).open(g).with_context(|| format!("cannot open {}", g.display())))
        .collect::<anyhow::Result<Vec<_>>>()?;

    let child = || -> isize {
        // SAFETY: only async-signal-safe system calls, on descriptors and strings that this copy of the parent's memory
        // holds; the child never returns into the parent's code.
        unsafe {
            for group in &groups {
                if libc::write(group.as_raw_fd(), b"0".as_ptr().cast(), 1) != 1 {
                    return 120;
                }
            }
            if libc::unshare(libc::CLONE_NEWCGROUP) != 0 {
                return 121;
            }
            libc::setsid();
            if libc::dup2(what.input.as_raw_fd(), 0) < 0
                || libc::dup2(what.output.as_raw_fd(), 1) < 0
                || libc::dup2(what.output.as_raw_fd(), 2) < 0
            {
                return 122;
            }
            libc::execve(program.as_ptr(), argument_pointers.as_ptr(), environment_pointers.as_ptr());
        }
        123
    };
    let flags = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    let mut stack = vec![0_u8; 64 << 10];
    // SAFETY: without CLONE_VM the child has a copy of this memory, its stack included, and `child` keeps to what a
    // child of a threaded process may do.
    let pid = unsafe { nix::sched::clone(Box::new(child), &mut stack, flags, Some(libc::SIGCHLD)) }
        .context("cannot make a node's namespaces")?;
    Ok(pid.as_raw())
}

/// What the exit codes of [`spawn_contained`]'s child mean before the program itself runs.
pub fn explain_early_exit(code: i32) -> Option<&'static str> {
    match code {
        120 => Some("cannot enter its control groups"),
        121 => Some("cannot make a cgroup namespace"),
        122 => Some("cannot set up its standard streams"),
        123 => Some("cannot execute xebec"),
        _ => None,
    }
}

fn c_string(bytes: &[u8]) -> anyhow::Result<CString> {
    CString::new(bytes).context("an argument holds a zero byte")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_spaces_are_read_right() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/plain\"), r"/plain\");
    }
}
