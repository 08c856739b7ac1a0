//! The addresses that names were found to have, in a file: an agent that starts allows what clients have looked up before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::domains::Entry;

/// A file of lines, each an [`Entry`] in JSON; of two for the same, both count.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// To append to; opened when there is something to.
    file: Option<File>,
}

impl Journal {
    /// At `path`, where there need not be a file.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// What it says. A line that is cut short, by a crash, says nothing.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn read(&self) -> io::Result<Vec<Entry>> {
        match fs::read(&self.path) {
            Ok(text) => Ok(text.split(|byte| *byte == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Adds entries. They are there for the next agent when this returns; that they outlast the machine is not needed,
    /// for no client does either.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                fs::create_dir_all(self.directory())?;
                self.file.insert(OpenOptions::new().create(true).append(true).open(&self.path)?)
            }
        };
        // The line that a crash has cut short ends here.
        file.write_all(&[b"\n", &lines(entries.iter().cloned())?[..]].concat())
    }

    /// Says these and nothing else, from one moment to the next.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn replace(&mut self, entries: impl Iterator<Item = Entry>) -> io::Result<()> {
        fs::create_dir_all(self.directory())?;
        let mut file = tempfile::NamedTempFile::new_in(self.directory())?;
        file.write_all(&lines(entries)?)?;
        file.persist(&self.path).map_err(|e| e.error)?;
        self.file = None;
        Ok(())
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

fn lines(entries: impl Iterator<Item = Entry>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut out, &entry)?;
        out.push(b'\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_also_after_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/names");
        let entry = |name: &str| Entry { name: name.into(), address: "2001:db8::1".parse().unwrap(), until_s: 7 };
        let mut journal = Journal::new(path.clone());
        assert_eq!(journal.read().unwrap(), []);
        journal.append(&[entry("a.example"), entry("b.example")]).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let mut journal = Journal::new(path);
        journal.append(&[entry("c.example")]).unwrap();
        assert_eq!(journal.read().unwrap(), [entry("a.example"), entry("c.example")]);
        journal.replace([entry("d.example")].into_iter()).unwrap();
        journal.append(&[entry("e.example")]).unwrap();
        assert_eq!(journal.read().unwrap(), [entry("d.example"), entry("e.example")]);
        assert!(Journal::new(directory.path().to_owned()).read().is_err(), "a directory");
    }
}
