//! Processes told apart by their start time, so that a reused process id is never mistaken for ours.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde::{Deserialize, Serialize};

/// One process, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its id in the host's process namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start_ticks: u64,
}

impl Process {
    /// The process that has this id now; `None` if none has, or it is dead and only waits to be reaped.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start_ticks) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, start_ticks })
    }

    /// True while it runs.
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// A descriptor of it; `None` if it is gone.
    pub fn open(self) -> Option<PidFd> {
        let fd = PidFd::open(self.pid).ok()?;
        // Checked after opening: the descriptor can't be of a later process with the same id.
        self.alive().then_some(fd)
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }
}

/// State and start time out of `/proc/PID/stat`. The command in parentheses may itself hold parentheses and spaces.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// A process file descriptor: names one process for good, and becomes readable when it ends.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this id now.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: the system call takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = i32::try_from(fd).map_err(|_| io::Error::other("the kernel returned an impossible descriptor"))?;
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it. It is close-on-exec.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// The descriptor, borrowed.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Sends a signal. A process that is gone is no error.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> io::Result<()> {
        // SAFETY: the descriptor is open, and a null siginfo pointer is allowed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match result {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                e if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                e => Err(e),
            },
        }
    }

    /// Waits until the process ends; false if it did not within `timeout`.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        loop {
            match nix::poll::poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => continue,
                Ok(ready) => return ready > 0,
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_may_look_like_anything() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(parse_stat(stat), Some(('S', 4242)));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn a_dead_process_is_not_alive() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        let fd = process.open().unwrap();
        assert!(process.alive() && !fd.wait(Duration::from_millis(1)));
        fd.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        assert!(fd.wait(Duration::from_secs(5)));
        // Not reaped yet, and dead all the same.
        assert!(!process.alive());
        child.wait().unwrap();
        assert!(process.open().is_none());
        fd.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}
