//! What is left of file systems, and what directories take of them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::runtime::DiskUsage;

/// The unit of `st_blocks` (stat(2)), whatever the file system's own is.
const BLOCK_BYTES: u64 = 512;

/// A file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Which.
    pub device: u64,
    /// Its size in bytes.
    pub bytes: i64,
    /// What is left of it for those that are not privileged.
    pub bytes_available: i64,
    /// How many files it can hold; zero: it does not say.
    pub inodes: i64,
    /// How many more.
    pub inodes_free: i64,
}

impl FileSystem {
    /// That of `path`, or of the deepest folder above that is there.
    pub fn of(path: &Path) -> Option<Self> {
        let path = path.ancestors().find(|p| p.exists())?;
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let bytes = |blocks: u64| whole(blocks).saturating_mul(whole(stat.fragment_size()));
        Some(Self {
            device: path.metadata().ok()?.dev(),
            bytes: bytes(stat.blocks()),
            bytes_available: bytes(stat.blocks_available()),
            inodes: whole(stat.files()),
            inodes_free: whole(stat.files_free()),
        })
    }
}

/// What a directory and all below it take, as `du -x` counts it: other file systems are not looked into, and a file with
/// several names counts once. What vanishes meanwhile takes nothing.
pub fn usage(root: &Path) -> io::Result<DiskUsage> {
    let top = match fs::symlink_metadata(root) {
        Ok(top) => top,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DiskUsage::default()),
        Err(error) => return Err(error),
    };
    let mut seen = BTreeSet::new();
    let mut sum = DiskUsage::default();
    let mut count = |found: &fs::Metadata| {
        if found.is_dir() || found.nlink() < 2 || seen.insert(found.ino()) {
            sum.add(DiskUsage { bytes: found.blocks() * BLOCK_BYTES, inodes: 1 });
        }
    };
    count(&top);
    let mut todo: Vec<PathBuf> = if top.is_dir() { vec![root.to_owned()] } else { Vec::new() };
    while let Some(folder) = todo.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.dev() == top.dev() {
                count(&found);
                if found.is_dir() {
                    todo.push(entry.path());
                }
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_what_is_in_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let empty = usage(folder.path()).unwrap();
        assert_eq!(empty.inodes, 3);
        fs::write(deep.join("file"), vec![1; 100_000]).unwrap();
        fs::hard_link(deep.join("file"), deep.join("again")).unwrap();
        std::os::unix::fs::symlink("/etc", deep.join("link")).unwrap();
        let full = usage(folder.path()).unwrap();
        assert_eq!(full.inodes, 5, "the file, and the link but not what it leads to");
        assert!((100_000..150_000).contains(&(full.bytes - empty.bytes)), "{full:?}");
        assert_eq!(usage(&folder.path().join("none")).unwrap(), DiskUsage::default());
    }

    #[test]
    fn file_systems_are_known_by_any_path() {
        let here = FileSystem::of(Path::new("/tmp/no/such/path")).unwrap();
        assert!(here.bytes >= here.bytes_available && here.bytes > 0);
    }
}
