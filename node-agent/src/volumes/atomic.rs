//! Writes a volume's files so that a reader sees either all of the old ones or all of the new ones (atomic_writer.go
//! upstream): the files are links into `..data`, itself a link, which is replaced in one step.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

use xebec_clock::{Clock, Random};

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// A volume's files by their relative paths.
pub type Files = BTreeMap<String, FileEntry>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `target` hold `files` and nothing else. `group` owns them, if given.
pub fn write(target: &Path, files: &Files, group: Option<u32>, clock: &Clock, random: &Random) -> io::Result<()> {
    for path in files.keys() {
        check(path)?;
    }
    fs::create_dir_all(target)?;
    let old = fs::read_link(target.join(DATA)).ok();
    let stamp = clock.now().strftime("..%Y_%m_%d_%H_%M_%S").to_string();
    let name = format!("{stamp}.{:010}", random.below(10_000_000_000));
    let folder = target.join(&name);
    fs::DirBuilder::new().mode(0o755).create(&folder)?;
    if let Err(error) = fill(&folder, files, group) {
        drop(fs::remove_dir_all(&folder));
        return Err(error);
    }
    match fs::remove_file(target.join(DATA_NEW)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&name, target.join(DATA_NEW))?;
    fs::rename(target.join(DATA_NEW), target.join(DATA))?;
    link_entries(target, files)?;
    if let Some(old) = old {
        match fs::remove_dir_all(target.join(old)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A path must stay within the volume, and must not be one of our own names.
fn check(path: &str) -> io::Result<()> {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path in a volume: {path:?}")));
    }
    Ok(())
}

fn fill(folder: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    use std::io::Write;
    for (path, entry) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
        file.write_all(&entry.bytes)?;
        if let Some(group) = group {
            std::os::unix::fs::fchown(&file, None, Some(group))?;
        }
        let mode = if group.is_some() { entry.mode | 0o440 } else { entry.mode };
        // Whatever the umask.
        file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// The links that the pod sees: one for each first part of a path.
fn link_entries(target: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &wanted {
        let link = target.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(target)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> FileEntry {
        FileEntry { bytes: text.as_bytes().to_vec(), mode: 0o640 }
    }

    #[test]
    fn files_are_replaced_in_one_step_and_the_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let (clock, random) = (Clock::system(), Random::seeded(1));
        let target = folder.path().join("v");
        let first: Files = [("a".to_owned(), entry("1")), ("sub/b".to_owned(), entry("2"))].into();
        write(&target, &first, None, &clock, &random).unwrap();
        assert_eq!(fs::read_to_string(target.join("sub/b")).unwrap(), "2");
        assert_eq!(fs::metadata(target.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let second: Files = [("a".to_owned(), entry("3"))].into();
        write(&target, &second, None, &clock, &random).unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "3");
        assert!(!target.join("sub").exists());
        let left: Vec<_> = fs::read_dir(&target).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 3, "..data, its folder and one link: {left:?}");
    }

    #[test]
    fn paths_stay_within_the_volume() {
        for path in ["", "../x", "/etc/passwd", "a/../../x", "..data"] {
            assert!(check(path).is_err(), "{path}");
        }
        assert!(check("a/b..c").is_ok());
    }
}
