//! A PID namespace that a pod's containers share: pinned as the others are, and kept alive by a process of ours
//! ([`crate::pause`]).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pause;

/// Where it is pinned, and where the id of its first process is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidNamespace {
    /// The pin.
    pub path: PathBuf,
    process: PathBuf,
    empty: PathBuf,
}

impl PidNamespace {
    /// That of the pod with `uid`, below `root`.
    pub fn new(root: &Path, uid: &str) -> Self {
        Self {
            path: root.join("pidns").join(uid),
            process: root.join("pidns-process").join(uid),
            empty: root.join("empty"),
        }
    }

    /// Makes it, with `program` as its first process. One that is there and lives is kept.
    pub async fn create(&self, program: &Path) -> io::Result<()> {
        if self.first_process().is_some() {
            return Ok(());
        }
        self.remove()?;
        for folder in [self.path.parent(), self.process.parent(), Some(self.empty.as_path())].into_iter().flatten() {
            fs::create_dir_all(folder)?;
        }
        let output = tokio::process::Command::new(program)
            .arg(pause::VERB)
            .arg(&self.empty)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("cannot start {}: {e}", program.display())))?;
        let process = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() || process.parse::<i32>().is_err() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(io::Error::other(format!("cannot make a PID namespace: {why}")));
        }
        fs::write(&self.process, &process)?;
        fs::File::create(&self.path)?;
        let source = PathBuf::from(format!("/proc/{process}/ns/pid"));
        mount(Some(&source), &self.path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| io::Error::other(format!("cannot pin a namespace at {}: {e}", self.path.display())))
    }

    /// Its first process, if that lives: an id may have gone to another process since it was written.
    fn first_process(&self) -> Option<Pid> {
        let id: i32 = fs::read_to_string(&self.process).ok()?.trim().parse().ok()?;
        let inode = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        let own = inode(&self.path)?;
        (inode(Path::new(&format!("/proc/{id}/ns/pid")))? == own).then(|| Pid::from_raw(id))
    }

    /// Ends its first process, and all in it with that, and unpins it. What is not there is no error.
    pub fn remove(&self) -> io::Result<()> {
        if let Some(process) = self.first_process() {
            match kill(process, Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => return Err(io::Error::other(format!("cannot end process {process}: {error}"))),
            }
        }
        match umount2(&self.path, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => return Err(io::Error::other(format!("cannot unmount {}: {error}", self.path.display()))),
        }
        for path in [&self.path, &self.process] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
