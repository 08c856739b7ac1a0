//! Mounts below pods' directories.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

use super::{VolumeError, failed, make_dir};
use crate::runtime::Layers;

/// Mounts a tmpfs at `path`, unless there is one.
pub(super) fn mount_tmpfs(path: &Path, size_bytes: Option<i64>, mode: u32) -> Result<(), VolumeError> {
    make_dir(path, mode)?;
    let there = nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
    // The directory's parent may be on a tmpfs itself: then only the mount table tells.
    if there && mounted_below(path)?.iter().any(|p| p == path) {
        return Ok(());
    }
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size_bytes {
        options.push_str(&format!(",size={size}"));
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|e| failed("mount a tmpfs at", path, &e.into()))
}

/// Binds what is at `inside` of `volume` to `at`, making a directory if there is nothing. A link that leads out of the
/// volume is refused; since what was opened is what is bound, it cannot be swapped in between.
pub(super) fn bind_beneath(volume: &Path, inside: &str, at: &Path) -> Result<PathBuf, VolumeError> {
    if Path::new(inside).is_absolute() || inside.split('/').any(|part| part == "..") {
        return Err(VolumeError(format!("subPath {inside:?} must stay within its volume")));
    }
    let root = nix::fcntl::open(volume, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| failed("open", volume, &e.into()))?;
    let open = |path: &Path| {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(&root, path, how)
    };
    // What is made here may be used by whoever may use the volume, as upstream has it.
    let permissions = fs::metadata(volume).map_err(|e| failed("stat", volume, &e))?.permissions().mode() & 0o777;
    let mut walked = PathBuf::new();
    let mut target = None;
    for part in Path::new(inside).components() {
        let parent = if walked.as_os_str().is_empty() { open(Path::new(".")) } else { open(&walked) };
        let parent = parent.map_err(|e| failed("open", &volume.join(&walked), &e.into()))?;
        walked.push(part);
        target = Some(match open(&walked) {
            Err(nix::errno::Errno::ENOENT) => {
                let name = Path::new(part.as_os_str());
                mkdirat(&parent, name, Mode::from_bits_truncate(0o755))
                    .map_err(|e| failed("mkdir", &volume.join(&walked), &e.into()))?;
                open(&walked).inspect(|made| allow(made, permissions))
            }
            opened => opened,
        });
    }
    match target {
        Some(opened) => bind(&opened.map_err(|e| failed("open", &volume.join(inside), &e.into()))?, at),
        None => Ok(volume.to_owned()),
    }
}

/// Binds what is at `inside` of an image's root to `at`. Links lead where they would if the image were the root.
pub(super) fn bind_within(image: &Path, inside: &str, at: &Path) -> Result<PathBuf, VolumeError> {
    if Path::new(inside).is_absolute() || inside.split('/').any(|part| part == "..") {
        return Err(VolumeError(format!("subPath {inside:?} must stay within its volume")));
    }
    let root = nix::fcntl::open(image, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| failed("open", image, &e.into()))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&root, inside, how) {
        Ok(opened) => bind(&opened, at),
        Err(nix::errno::Errno::ENOENT) => Err(VolumeError(format!("subPath {inside} does not exist"))),
        Err(error) => Err(failed("open", &image.join(inside), &error.into())),
    }
}

/// Binds what was opened to `at`, in place of what was bound there before.
fn bind(target: &OwnedFd, at: &Path) -> Result<PathBuf, VolumeError> {
    let source = PathBuf::from(format!("/proc/self/fd/{}", target.as_raw_fd()));
    let is_dir = source.metadata().map_err(|e| failed("stat", &source, &e))?.is_dir();
    if let Some(parent) = at.parent() {
        make_dir(parent, 0o750)?;
    }
    // What an earlier container of that name had.
    match umount2(at, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(failed("unmount", at, &error.into())),
    }
    if is_dir {
        make_dir(at, 0o750)?;
    } else {
        fs::File::create(at).map_err(|e| failed("make", at, &e))?;
    }
    mount(Some(&source), at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|e| failed("bind to", at, &e.into()))?;
    Ok(at.to_owned())
}

/// Gives a directory that was just made its permissions, whatever the umask; its group's bit stays.
fn allow(made: &OwnedFd, permissions: u32) {
    let path = PathBuf::from(format!("/proc/self/fd/{}", made.as_raw_fd()));
    let result = path.metadata().and_then(|m| {
        fs::set_permissions(&path, fs::Permissions::from_mode(m.permissions().mode() & 0o2000 | permissions))
    });
    if let Err(error) = result {
        tracing::warn!(%error, "a subPath's directory keeps the permissions it was made with");
    }
}

/// Mounts an image's layers at `at`, unless they are. Nothing there can be written, nor run, nor is a device.
pub(super) fn mount_layers(layers: &[Layers], at: &Path) -> Result<(), VolumeError> {
    if mounted_below(at)?.iter().any(|p| p == at) {
        return Ok(());
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for one in layers {
        let done = if one.options.iter().any(|o| o == "bind" || o == "rbind") {
            // A bind mount takes no other flags at first.
            mount(Some(one.source.as_str()), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).and_then(|()| {
                mount(None::<&str>, at, None::<&str>, flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT, None::<&str>)
            })
        } else {
            mount_overlay(one, at, flags)
        };
        if let Err(error) = done {
            // What is half mounted would be taken for whole the next time.
            let _ = umount2(at, MntFlags::MNT_DETACH);
            return Err(failed("mount the image at", at, &error.into()));
        }
    }
    Ok(())
}

/// Mounts layers on one another. The kernel reads one page of options at most, which the full paths of many layers do not
/// fit into: they are named from the directory that they have in common.
fn mount_overlay(layers: &Layers, at: &Path, flags: MsFlags) -> nix::Result<()> {
    let folders: Vec<&Path> = layers
        .options
        .iter()
        .filter_map(|o| o.strip_prefix("lowerdir="))
        .flat_map(|l| l.split(':'))
        .map(Path::new)
        .collect();
    let together = common(&folders);
    let named: Vec<String> =
        folders.iter().map(|f| f.strip_prefix(&together).unwrap_or(f).to_string_lossy().into_owned()).collect();
    let others = layers.options.iter().filter(|o| !o.starts_with("lowerdir=") && *o != "ro").cloned();
    let options = others.chain([format!("lowerdir={}", named.join(":"))]).collect::<Vec<_>>().join(",");
    let run = || {
        // The working directory is the thread's own from here on, and ends with it.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(&together)?;
        mount(Some("overlay"), at, Some("overlay"), flags, Some(options.as_str()))
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or(Err(nix::errno::Errno::EIO))
}

/// The deepest directory that all paths are below.
fn common(paths: &[&Path]) -> PathBuf {
    let Some((first, rest)) = paths.split_first() else { return PathBuf::from("/") };
    let mut together = first.parent().unwrap_or(first);
    while !rest.iter().all(|path| path.starts_with(together)) {
        together = together.parent().unwrap_or(Path::new("/"));
    }
    together.to_owned()
}

/// Unmounts everything below a directory, the deepest first; an error if something stays.
pub(super) fn unmount_below(dir: &Path) -> Result<(), VolumeError> {
    let mut points = mounted_below(dir)?;
    points.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    for point in &points {
        if let Err(error) = umount2(point, MntFlags::MNT_DETACH) {
            return Err(failed("unmount", point, &error.into()));
        }
    }
    match mounted_below(dir)?.first() {
        Some(left) => Err(VolumeError(format!("{} is still mounted", left.display()))),
        None => Ok(()),
    }
}

/// The mount points below a directory.
fn mounted_below(dir: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table).map_err(|e| failed("read", table, &e))?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(unescape(point)));
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// The kernel writes spaces and the like as `\040`.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        match (bytes[at], octal.and_then(|d| u8::from_str_radix(d, 8).ok())) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sub_path_cannot_leave_its_volume() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("v");
        fs::create_dir(&volume).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2777)).unwrap();
        fs::write(volume.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        let at = folder.path().join("at");
        assert!(bind_beneath(&volume, "../x", &at).is_err());
        assert!(bind_beneath(&volume, "out", &at).is_err());
        assert!(bind_beneath(&volume, "out/passwd", &at).is_err());
        let bound = bind_beneath(&volume, "new/deep", &at).unwrap();
        fs::write(bound.join("a"), "1").unwrap();
        assert_eq!(fs::read_to_string(volume.join("new/deep/a")).unwrap(), "1");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&bound), mode(&volume.join("new"))), (0o2777, 0o2777), "as the volume");
        unmount_below(&at).unwrap();
        let file_at = folder.path().join("file-at");
        bind_beneath(&volume, "file", &file_at).unwrap();
        assert_eq!(fs::read_to_string(&file_at).unwrap(), "x");
        unmount_below(folder.path()).unwrap();
    }

    #[test]
    fn part_of_an_image_is_bound_as_if_the_image_were_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::create_dir_all(image.join("usr/lib")).unwrap();
        fs::write(image.join("usr/lib/a"), "of the image").unwrap();
        std::os::unix::fs::symlink("/usr/lib", image.join("lib")).unwrap();
        let at = folder.path().join("at");
        let bound = bind_within(&image, "lib", &at).unwrap();
        assert_eq!(fs::read_to_string(bound.join("a")).unwrap(), "of the image");
        assert_eq!(bind_within(&image, "lib/b", &at).unwrap_err().0, "subPath lib/b does not exist");
        assert!(bind_within(&image, "../x", &at).is_err());
        unmount_below(folder.path()).unwrap();
    }

    #[test]
    fn many_layers_with_long_paths_are_mounted_and_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("x".repeat(100));
        let layers: Vec<String> = (0..60)
            .map(|n| {
                let layer = root.join(n.to_string()).join("fs");
                fs::create_dir_all(&layer).unwrap();
                fs::write(layer.join(format!("f{n}")), n.to_string()).unwrap();
                layer.display().to_string()
            })
            .collect();
        let at = folder.path().join("at");
        fs::create_dir(&at).unwrap();
        let layers = Layers {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![format!("lowerdir={}", layers.join(":"))],
        };
        for _ in 0..2 {
            mount_layers(std::slice::from_ref(&layers), &at).unwrap();
        }
        assert_eq!(fs::read_to_string(at.join("f59")).unwrap(), "59");
        assert_eq!(fs::write(at.join("new"), "").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        unmount_below(&at).unwrap();
        assert!(!at.join("f59").exists(), "mounted once");
        let one = Layers {
            kind: "bind".to_owned(),
            source: root.join("0/fs").display().to_string(),
            options: vec!["ro".to_owned(), "rbind".to_owned()],
        };
        mount_layers(&[one], &at).unwrap();
        assert_eq!(fs::write(at.join("f0"), "").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        unmount_below(&at).unwrap();
    }

    #[test]
    fn escaped_names_are_read() {
        assert_eq!(unescape("/a\\040b"), "/a b");
    }
}
