//! The BPF file system, where programs outlive the agent.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::Error;

/// Mounts a BPF file system at `path` unless there is one.
pub fn ensure(path: &Path) -> Result<(), Error> {
    let failed = |source: io::Error| Error::Mount { path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(failed)?;
    if statfs(path).map_err(|e| failed(e.into()))?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(
        Some("bpf"),
        path,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|e| failed(e.into()))
}

/// Creates a folder on it.
pub fn folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::Pin { path: path.to_owned(), source })
}

/// Removes a pin or a folder of pins; what is not there is no error.
pub fn remove(path: &Path) -> Result<(), Error> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Pin { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

/// Names in a folder, sorted; none if there is no folder.
pub fn names(path: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Pin { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
