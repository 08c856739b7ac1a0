//! The first process of a pod's shared PID namespace: such a namespace lives as long as its first process, so something
//! has to be that. It does nothing but reap what the pod's containers leave.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, chroot, fork, setsid};

/// The subcommand by which the program is that process.
pub const VERB: &str = "container-pause";

/// Makes a PID namespace and its first process, prints that process's id, and ends. `arguments` is a folder with nothing
/// in it: all that the containers can see of the process's files. Gives the exit code.
pub fn main(arguments: &[OsString]) -> i32 {
    let result = match arguments {
        [folder] => start(Path::new(folder)),
        _ => Err(io::Error::other("usage: xebec container-pause EMPTY-FOLDER")),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("xebec: container pause: {error}");
            1
        }
    }
}

fn start(folder: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: this process has one thread, so the child may do what it likes.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            println!("{child}");
            Ok(())
        }
        ForkResult::Child => {
            leave(folder)?;
            reap()
        }
    }
}

/// Lets go of everything that belongs to whoever started it.
fn leave(folder: &Path) -> io::Result<()> {
    setsid()?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for descriptor in 0..3 {
        // SAFETY: both descriptors are open, or become so; nothing else in this process owns the standard streams.
        if unsafe { libc::dup2(null.as_raw_fd(), descriptor) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    drop(null);
    chdir(folder)?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

/// Reaps for ever; a signal from outside the namespace ends it.
fn reap() -> io::Result<()> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    ends.thread_block()?;
    loop {
        while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        ends.wait()?;
    }
}
