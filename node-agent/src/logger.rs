//! Writes a container's output to its log: a process of its own for each container, started by containerd's shim, so
//! that neither the agent's end nor containerd's loses a line.
//!
//! The format is CRI's: time, stream, `F` for a full line or `P` for a part of one, text. The log is rotated by size:
//! `0.log` becomes `0.log.<time>`, and the oldest go.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use xebec_clock::Clock;

use crate::pause;

/// A log is rotated when it has grown to this.
pub(crate) const LOG_BYTES_MAX: u64 = 10 << 20;
/// So many files are kept, the current one among them.
pub(crate) const LOG_FILES_MAX: usize = 5;
/// How often a logger that reads pipes looks whether they are still there.
const PIPE_LOOK_MS: u16 = 5_000;
/// A line is cut into parts of this.
const LINE_BYTES_MAX: usize = 16 << 10;

/// The subcommands by which the program is a container's helper: a logger, or the first process of its namespace.
pub const VERBS: [&str; 3] = ["container-log", "container-log-tty", pause::VERB];

/// The logger's main function. `arguments` are those after the program's name:
/// - `container-log FILE` and `container-log-tty FILE`, started by containerd: output and errors on descriptors 3 and 4,
///   5 to be closed when ready;
/// - `container-log FILE STDOUT STDERR`, started by the agent: reads the two pipes.
///
/// Gives the exit code.
pub fn main(arguments: &[OsString]) -> i32 {
    if let [verb, rest @ ..] = arguments
        && verb == pause::VERB
    {
        return pause::main(rest);
    }
    match run(arguments) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("xebec: container log: {error}");
            1
        }
    }
}

fn run(arguments: &[OsString]) -> io::Result<()> {
    let usage = || io::Error::other("usage: xebec container-log FILE [STDOUT STDERR]");
    let (verb, path) = match arguments {
        [verb, path, ..] => (verb, PathBuf::from(path)),
        _ => return Err(usage()),
    };
    let tty = verb == "container-log-tty";
    // The container decides when it ends, not a signal to its shim's group.
    ignore_signals();
    let mut log = Log::open(&path, Clock::system())?;
    let mut pipe = None;
    let sources = match arguments.get(2..) {
        Some([stdout, stderr]) => {
            pipe = Some(PathBuf::from(stdout));
            vec![open_pipe(stdout)?, open_pipe(stderr)?]
        }
        Some([]) => {
            // SAFETY: containerd passes these descriptors open, and nothing else in this process owns them.
            let (stdout, stderr, ready) =
                unsafe { (OwnedFd::from_raw_fd(3), OwnedFd::from_raw_fd(4), OwnedFd::from_raw_fd(5)) };
            drop(ready);
            vec![File::from(stdout), File::from(stderr)]
        }
        _ => return Err(usage()),
    };
    copy(sources, &mut log, tty, pipe.as_deref())
}

/// Opens a pipe without waiting for its writer.
fn open_pipe(path: &OsString) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn ignore_signals() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    for which in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        // SAFETY: to ignore a signal installs no handler code.
        if let Err(error) = unsafe { signal(which, SigHandler::SigIgn) } {
            eprintln!("xebec: container log: cannot ignore {which}: {error}");
        }
    }
}

/// Copies the streams to the log until both end. Streams that are pipes, of which `pipe` is one, end also when that is
/// removed: the container may never have opened them.
fn copy(sources: Vec<File>, log: &mut Log, tty: bool, pipe: Option<&Path>) -> io::Result<()> {
    let timeout = if pipe.is_some() { PollTimeout::from(PIPE_LOOK_MS) } else { PollTimeout::NONE };
    let names = ["stdout", "stderr"];
    let mut streams: Vec<(&str, File, Lines)> =
        sources.into_iter().zip(names).map(|(file, name)| (name, file, Lines::default())).collect();
    let mut buffer = vec![0; 32 << 10];
    while !streams.is_empty() {
        let mut fds: Vec<PollFd<'_>> =
            streams.iter().map(|(_, f, _)| PollFd::new(f.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Ok(0) if pipe.is_some_and(|p| !p.exists()) => break,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|f| f.any().unwrap_or(false)).collect();
        let mut index = 0;
        for is_ready in ready {
            if is_ready && !read_some(&mut streams[index], &mut buffer, log, tty)? {
                streams.remove(index);
            } else {
                index += 1;
            }
        }
    }
    log.file.flush()
}

/// Reads once from a stream; false at its end.
fn read_some(stream: &mut (&str, File, Lines), buffer: &mut [u8], log: &mut Log, tty: bool) -> io::Result<bool> {
    let (name, file, lines) = stream;
    match file.read(buffer) {
        Ok(0) => {
            lines.finish(|text, full| log.write(name, text, full))?;
            Ok(false)
        }
        Ok(read) => {
            lines.take(&buffer[..read], |text, full| log.write(name, text, full))?;
            if tty {
                // Someone may be looking at a prompt.
                lines.flush(|text, full| log.write(name, text, full))?;
            }
            Ok(true)
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Cuts a stream into lines.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    fn take(&mut self, mut bytes: &[u8], mut out: impl FnMut(&[u8], bool) -> io::Result<()>) -> io::Result<()> {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.push(&bytes[..end], &mut out)?;
            out(&self.rest, true)?;
            self.rest.clear();
            bytes = &bytes[end + 1..];
        }
        self.push(bytes, &mut out)
    }

    /// Keeps `bytes`, which are part of a line, giving out parts that are long enough.
    fn push(&mut self, mut bytes: &[u8], out: &mut impl FnMut(&[u8], bool) -> io::Result<()>) -> io::Result<()> {
        while self.rest.len() + bytes.len() > LINE_BYTES_MAX {
            let (now, later) = bytes.split_at(LINE_BYTES_MAX - self.rest.len());
            self.rest.extend_from_slice(now);
            out(&self.rest, false)?;
            self.rest.clear();
            bytes = later;
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// Gives out what there is of the current line.
    fn flush(&mut self, mut out: impl FnMut(&[u8], bool) -> io::Result<()>) -> io::Result<()> {
        if !self.rest.is_empty() {
            out(&self.rest, false)?;
            self.rest.clear();
        }
        Ok(())
    }

    /// The stream has ended, perhaps within a line.
    fn finish(&mut self, mut out: impl FnMut(&[u8], bool) -> io::Result<()>) -> io::Result<()> {
        if !self.rest.is_empty() {
            out(&self.rest, false)?;
            self.rest.clear();
        }
        Ok(())
    }
}

struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    clock: Clock,
    line: Vec<u8>,
}

impl Log {
    fn open(path: &Path, clock: Clock) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, clock, line: Vec::new() })
    }

    fn write(&mut self, stream: &str, text: &[u8], full: bool) -> io::Result<()> {
        if self.size >= LOG_BYTES_MAX {
            self.rotate()?;
        }
        self.line.clear();
        write!(self.line, "{:.9} {stream} {} ", self.clock.now(), if full { 'F' } else { 'P' })?;
        self.line.extend_from_slice(text);
        self.line.push(b'\n');
        // A full disk must not stop the container: the line is lost, the next one is tried.
        if self.file.write_all(&self.line).is_ok() {
            self.size += self.line.len() as u64;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let stamp = self.clock.now().strftime("%Y%m%d-%H%M%S").to_string();
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut target = self.path.with_file_name(format!("{name}.{stamp}"));
        let mut more = 0;
        while target.exists() {
            more += 1;
            target = self.path.with_file_name(format!("{name}.{stamp}.{more}"));
        }
        fs::rename(&self.path, target)?;
        *self = Self::open(&self.path, self.clock.clone())?;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let mut rotated: Vec<PathBuf> = fs::read_dir(folder)?
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{name}."))))
            .collect();
        rotated.sort();
        let surplus = (rotated.len() + 1).saturating_sub(LOG_FILES_MAX);
        for old in &rotated[..surplus] {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            lines
                .take(piece, |t, f| {
                    found.push((t.to_vec(), f));
                    Ok(())
                })
                .unwrap();
        }
        lines
            .finish(|t, f| {
                found.push((t.to_vec(), f));
                Ok(())
            })
            .unwrap();
        found
    }

    #[test]
    fn lines_are_cut_and_the_last_part_is_kept() {
        let expected = [(b"ab".to_vec(), true), (Vec::new(), true), (b"c".to_vec(), false)];
        assert_eq!(cut(&[b"a", b"b\n\nc"]), expected);
        let long = cut(&[&[b'x'; LINE_BYTES_MAX + 1], b"\n"]);
        assert_eq!(long.iter().map(|(t, f)| (t.len(), *f)).collect::<Vec<_>>(), [(LINE_BYTES_MAX, false), (1, true)]);
    }

    #[test]
    fn the_log_is_rotated_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = Log::open(&path, Clock::system()).unwrap();
        for _ in 0..8 {
            log.size = LOG_BYTES_MAX;
            log.write("stdout", b"hello", true).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), LOG_FILES_MAX);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("Z stdout F hello\n"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_added(pieces in prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..50), 0..20)) {
            let borrowed: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let joined: Vec<u8> = cut(&borrowed).into_iter().flat_map(|(mut t, f)| { if f { t.push(b'\n'); } t }).collect();
            prop_assert_eq!(joined, pieces.concat());
        }
    }
}
