//! The audit log's file: a line of JSON for each event, rotated by size and age (kube-apiserver's `--audit-log-*`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::{SignedDuration, Timestamp};
use xebec_apiserver::audit::Sink;
use xebec_clock::Clock;

/// Events that wait to be written; when there are more, new ones are dropped.
const QUEUE: usize = 10_000;
/// What upstream takes for a size of 0, in megabytes.
const DEFAULT_MEGABYTES: u64 = 100;

/// Where events go, and for how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Old files are removed after so many days; 0: never.
    pub max_age_days: u64,
    /// So many old files are kept; 0: all.
    pub max_backups: usize,
    /// A file of so many megabytes is put aside; 0: 100.
    pub max_size_megabytes: u64,
    /// Whether old files are compressed.
    pub compress: bool,
}

/// Writes events in a thread of its own.
pub struct AuditLog {
    queue: SyncSender<Vec<u8>>,
    dropped: AtomicU64,
}

impl AuditLog {
    /// Opens the file.
    pub fn open(settings: Settings, clock: Clock) -> anyhow::Result<Self> {
        let (queue, events) = sync_channel(QUEUE);
        let mut writer = Writer::open(settings, clock)?;
        thread::Builder::new().name("audit-log".into()).spawn(move || writer.run(&events))?;
        Ok(Self { queue, dropped: AtomicU64::new(0) })
    }
}

impl Sink for AuditLog {
    fn put(&self, event: Vec<u8>) {
        match self.queue.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
                if dropped.is_power_of_two() {
                    tracing::error!(dropped, "the audit log is not written fast enough; events are lost");
                }
            }
        }
    }
}

struct Writer {
    settings: Settings,
    clock: Clock,
    out: Out,
}

enum Out {
    Standard(io::Stdout),
    File { file: File, size: u64 },
}

fn open(path: &Path) -> io::Result<Out> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if path == Path::new("-") {
        return Ok(Out::Standard(io::stdout()));
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok(Out::File { file, size })
}

impl Writer {
    fn open(settings: Settings, clock: Clock) -> anyhow::Result<Self> {
        let out = open(&settings.path)
            .with_context(|| format!("cannot write the audit log {} (--audit-log-path)", settings.path.display()))?;
        Ok(Self { settings, clock, out })
    }

    fn run(&mut self, events: &Receiver<Vec<u8>>) {
        while let Ok(mut event) = events.recv() {
            event.push(b'\n');
            // Events that wait already are written with the first.
            while event.len() < 1 << 20 {
                let Ok(more) = events.try_recv() else { break };
                event.extend_from_slice(&more);
                event.push(b'\n');
            }
            if let Err(error) = self.write(&event) {
                tracing::error!(%error, path = %self.settings.path.display(), "the audit log cannot be written");
            }
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let megabytes = match self.settings.max_size_megabytes {
            0 => DEFAULT_MEGABYTES,
            some => some,
        };
        let full = |size: u64| size > 0 && size + lines.len() as u64 > megabytes << 20;
        if matches!(self.out, Out::File { size, .. } if full(size)) {
            self.rotate()?;
        }
        match &mut self.out {
            Out::Standard(out) => {
                out.write_all(lines)?;
                out.flush()
            }
            Out::File { file, size } => {
                *size += lines.len() as u64;
                file.write_all(lines)
            }
        }
    }

    /// Puts the file aside, begins a new one, and removes what is too old or too much.
    fn rotate(&mut self) -> io::Result<()> {
        let path = self.settings.path.clone();
        let (stem, extension) = names(&path);
        let now = self.clock.now().strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        let backup = path.with_file_name(format!("{stem}-{now}{extension}"));
        fs::rename(&path, &backup)?;
        self.out = open(&path)?;
        if self.settings.compress {
            compress(&backup)?;
        }
        self.clean()
    }

    fn clean(&self) -> io::Result<()> {
        let now = self.clock.now();
        let backups = backups(&self.settings.path)?;
        let keep = if self.settings.max_backups == 0 { usize::MAX } else { self.settings.max_backups };
        for (index, (backup, made)) in backups.into_iter().enumerate() {
            let days = i64::try_from(self.settings.max_age_days).unwrap_or(i64::MAX / 86_400);
            let old = days > 0 && now.duration_since(made) > SignedDuration::from_hours(24 * days.min(100_000));
            if index >= keep || old {
                fs::remove_file(backup)?;
            }
        }
        Ok(())
    }
}

/// `audit` and `.log`.
fn names(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = text(path.extension());
    (text(path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

/// The files that were put aside, the newest first.
fn backups(path: &Path) -> io::Result<Vec<(PathBuf, Timestamp)>> {
    let (stem, extension) = names(path);
    let mut out = Vec::new();
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let stamp = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
        let parse = |stamp: &str| jiff::civil::DateTime::strptime("%Y-%m-%dT%H-%M-%S%.f", stamp).ok();
        if let Some(made) = stamp.and_then(parse).and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC).ok()) {
            out.push((entry.path(), made.timestamp()));
        }
    }
    out.sort_by_key(|(_, made)| std::cmp::Reverse(*made));
    Ok(out)
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let mut encoder = GzEncoder::new(File::create(&name)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn full_files_are_put_aside_and_few_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/audit.log");
        let settings = Settings {
            path: path.clone(),
            max_backups: 2,
            max_size_megabytes: 1,
            compress: true,
            ..Settings::default()
        };
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let mut writer = Writer::open(settings, clock).unwrap();
        let line = vec![b'x'; 600 << 10];
        for _ in 0..5 {
            writer.write(&line).unwrap();
            // The names of the files are their times, to the millisecond.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let kept = backups(&path).unwrap();
        assert_eq!(kept.len(), 2);
        assert!(kept.iter().all(|(path, _)| path.to_string_lossy().ends_with(".log.gz")));
        assert_eq!(fs::metadata(&path).unwrap().len(), 600 << 10);
    }

    #[tokio::test]
    async fn events_are_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = AuditLog::open(Settings { path: path.clone(), ..Settings::default() }, Clock::system()).unwrap();
        for n in 0..1000 {
            log.put(format!("{{\"n\":{n}}}").into_bytes());
        }
        let lines = || fs::read_to_string(&path).unwrap().lines().count();
        for _ in 0..20_000 {
            if lines() == 1000 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(fs::read_to_string(&path).unwrap().lines().last(), Some("{\"n\":999}"));
    }
}
