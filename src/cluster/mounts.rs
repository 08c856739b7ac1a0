//! What a node sees of the file system: the host's, with its own `/run`, `/proc`, `/sys`, control groups and bpffs. And what
//! a machine sees of it: all, to read.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::cgroups::Hierarchy;
use super::namespaces;

/// Sets up the calling process's mount namespace as a node's. `groups` are the host's hierarchies, read before.
pub fn node(groups: &[Hierarchy], resolv_conf: &str) -> anyhow::Result<()> {
    // What the host mounts later appears here; what is mounted here stays here. Shared below the node, so that pods'
    // mount propagation works.
    change("/", MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
    change("/", MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    let_go_of_kept_namespaces()?;
    let links = cgroup_links();
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fresh("proc", "/proc", safe, "")?;
    fresh("sysfs", "/sys", safe, "")?;
    control_groups(groups, &links)?;
    fresh("bpf", "/sys/fs/bpf", safe, "mode=700")?;
    let resolver = resolver_target();
    fresh("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755")?;
    fresh("tmpfs", "/dev/shm", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=1777")?;
    let _ = fs::create_dir_all("/run/lock");
    own_resolver(resolver.as_deref(), resolv_conf)
}

/// Copies of the clusters' kept namespaces: held here, they would outlive their clusters.
fn let_go_of_kept_namespaces() -> anyhow::Result<()> {
    for kept in namespaces::mounts_below(Path::new(super::RUN_ROOT))? {
        let _ = umount2(&kept, MntFlags::MNT_DETACH);
    }
    Ok(())
}

/// From here on the calling thread, and what it starts, can read all files, and write those in `own` only.
pub fn read_only_but(own: &Path) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    change("/", MsFlags::MS_REC | MsFlags::MS_SLAVE)?;
    let_go_of_kept_namespaces()?;
    mount(Some(own), own, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount {} over itself", own.display()))?;
    let attributes = |set, clear| libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    set_attributes(Path::new("/"), libc::AT_RECURSIVE, &attributes(libc::MOUNT_ATTR_RDONLY, 0))?;
    set_attributes(own, 0, &attributes(0, libc::MOUNT_ATTR_RDONLY))
}

fn set_attributes(at: &Path, flags: libc::c_int, attributes: &libc::mount_attr) -> anyhow::Result<()> {
    let path = CString::new(at.as_os_str().as_encoded_bytes()).context("a path holds a zero byte")?;
    let size = size_of::<libc::mount_attr>();
    // SAFETY: a string that ends with zero, and a structure of the size given, which the kernel reads.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, path.as_ptr(), flags, &raw const *attributes, size)
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context(format!("cannot change the mount {}", at.display())),
    }
}

/// Has the node see a directory of its own at `at`: what is there on the host, other nodes see, too.
pub fn own_directory(own: &Path, at: &str) -> anyhow::Result<()> {
    for directory in [own, Path::new(at)] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    mount(Some(own), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount over {at}"))
}

fn change(at: &str, flags: MsFlags) -> anyhow::Result<()> {
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>).with_context(|| format!("cannot change the mount {at}"))
}

fn fresh(kind: &str, at: impl AsRef<Path>, flags: MsFlags, options: &str) -> anyhow::Result<()> {
    let at = at.as_ref();
    let mounted = match mount(Some(kind), at, Some(kind), flags, Some(options)) {
        // The very same is there, mounted by what started this process: so it is in a machine.
        Err(Errno::EBUSY) => Ok(()),
        other => other,
    };
    mounted.with_context(|| format!("cannot mount {kind} at {}", at.display()))
}

/// The symbolic links beside version 1's hierarchies (`cpu` to `cpu,cpuacct`).
fn cgroup_links() -> Vec<(PathBuf, PathBuf)> {
    let entries = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    entries.filter_map(|e| Some((e.path(), fs::read_link(e.path()).ok()?))).collect()
}

/// Mounts the hierarchies where the host has them. In the node's cgroup namespace, their root is the node's own group.
fn control_groups(groups: &[Hierarchy], links: &[(PathBuf, PathBuf)]) -> anyhow::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if !groups.iter().any(|g| g.mount == root) {
        fresh("tmpfs", root, flags, "mode=755")?;
    }
    for group in groups {
        fs::create_dir_all(&group.mount).with_context(|| format!("cannot make {}", group.mount.display()))?;
        match &group.v1 {
            None => fresh("cgroup2", &group.mount, flags, "")?,
            Some(v1) if v1.starts_with("name=") => fresh("cgroup", &group.mount, flags, &format!("none,{v1}"))?,
            Some(v1) => fresh("cgroup", &group.mount, flags, v1)?,
        }
    }
    for (at, target) in links {
        let _ = std::os::unix::fs::symlink(target, at);
    }
    Ok(())
}

/// The file that `/etc/resolv.conf` stands for, once links are followed. Some of them lead to `/run`.
fn resolver_target() -> Option<PathBuf> {
    let mut path = PathBuf::from("/etc/resolv.conf");
    for _ in 0..8 {
        match fs::read_link(&path) {
            Ok(target) => path = normal(&path.parent()?.join(target)),
            Err(_) => return Some(path),
        }
    }
    None
}

/// Without `.` and `..`, by text alone.
fn normal(path: &Path) -> PathBuf {
    use std::path::Component;
    path.components().fold(PathBuf::new(), |mut out, part| {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            other => out.push(other),
        }
        out
    })
}

/// Has the node resolve names by the relay on its gateway, whatever the host does.
fn own_resolver(target: Option<&Path>, content: &str) -> anyhow::Result<()> {
    fs::create_dir_all("/run/xebec").context("cannot make /run/xebec")?;
    let own = Path::new("/run/xebec/resolv.conf");
    fs::write(own, content).context("cannot write the node's resolv.conf")?;
    let Some(target) = target else { return Ok(()) };
    if target.starts_with("/run") {
        let parent = target.parent().unwrap_or(Path::new("/run"));
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        return fs::write(target, content).with_context(|| format!("cannot write {}", target.display()));
    }
    if !target.exists() {
        tracing::warn!("the host has no {}: programs on this node itself can't resolve names", target.display());
        return Ok(());
    }
    mount(Some(own), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount over {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_read_and_one_directory_is_written() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (inside, outside) = (own.path().join("file"), other.path().join("file"));
        fs::write(&outside, "before").unwrap();
        // A mount namespace is a thread's.
        let contained = std::thread::spawn({
            let (own, inside, outside) = (own.path().to_owned(), inside.clone(), outside.clone());
            move || {
                read_only_but(&own).unwrap();
                assert_eq!(fs::read_to_string(&outside).unwrap(), "before");
                fs::write(&inside, "mine").unwrap();
                fs::write(&outside, "mine").unwrap_err()
            }
        });
        assert_eq!(contained.join().unwrap().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(fs::read_to_string(&inside).unwrap(), "mine");
        fs::write(&outside, "after").unwrap();
    }

    #[test]
    fn relative_links_are_followed_by_text() {
        assert_eq!(normal(Path::new("/etc/../run/systemd/./stub")), Path::new("/run/systemd/stub"));
    }
}
