//! Key files: private to their owner, and either old or new after a crash, never half.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::Error;

/// Makes `dir` and its parents, readable by the owner only. What is there keeps its mode.
pub(crate) fn private_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| Error::File {
        action: "create",
        path: dir.to_owned(),
        source,
    })
}

/// The file's text; `None` if there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { action: "read", path: path.to_owned(), source }),
    }
}

/// Writes `content` to `path` with mode 0600: into a temporary file beside it, to disk, then renamed over it.
///
/// # Errors
///
/// [`Error::File`] if any of these steps fails; the old file is then as it was.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let error = |source| Error::File { action: "write", path: path.to_owned(), source };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    private_dir(parent)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = parent.join(name);
    // A leftover of a crash could have another mode; a new file surely has ours.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(error(e)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(error)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(error)?;
    fs::rename(&temporary, path).map_err(error)?;
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(error)
}

/// The files of a directory whose names begin and end so, in order.
pub(crate) fn named(dir: &Path, start: &str, end: &str) -> Result<Vec<PathBuf>, Error> {
    let error = |source| Error::File { action: "read", path: dir.to_owned(), source };
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(start) && name.ends_with(end)) {
            out.push(entry.path());
        }
    }
    out.sort();
    Ok(out)
}
