//! When a container's log has all that the container said.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

/// How long the runtime may take to write what the container said last, and how often that is looked at.
const TIMEOUT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// Waits until nobody writes to the log any more, at most two seconds.
///
/// The runtime tells of an exit before it has emptied the container's pipes, and a last line without an end is written
/// only then: the log is whole when its writer has closed it.
pub async fn written(path: &Path) {
    drop(tokio::time::timeout(TIMEOUT, closed(path)).await);
}

async fn closed(path: &Path) {
    while File::open(path).is_ok_and(|file| has_writer(&file)) {
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a process has the file open for writing: no read lease is given on it then (fcntl(2), `F_SETLEASE`).
fn has_writer(file: &File) -> bool {
    // SAFETY: the descriptor is open as long as `file` is; the argument is a number. The lease ends with the descriptor.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    result == -1 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock
}
