//! Container logs: the end of a file, and what is added to it (`PodLogOptions`, core/v1).

use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use jiff::{SignedDuration, Timestamp};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, BufReader};
use xebec_clock::Clock;

use super::container_log::{Formatter, Wanted};
use super::{Backend, ContainerRef, LogSource, StreamError, flag, query};

/// Between looks at a file that is followed.
const POLL: Duration = Duration::from_millis(100);
/// What is collected before it is handed on.
const CHUNK_BYTES: usize = 32 << 10;
/// Of a file whose end is wanted, what is read at once, backwards.
const BLOCK_BYTES: u64 = 64 << 10;
/// A line longer than this is cut: the log writer splits at 16 KiB.
const LINE_BYTES: u64 = 1 << 20;

struct Options {
    follow: bool,
    previous: bool,
    tail_lines: Option<usize>,
    wanted: Wanted,
}

impl Options {
    fn parse(text: Option<&str>, now: Timestamp) -> Result<Self, StreamError> {
        let query = query(text);
        let value = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let number = |name: &str| -> Result<Option<usize>, StreamError> {
            let parsed = value(name).map(|v| v.parse().map_err(|_| bad(name, v)));
            parsed.transpose()
        };
        let since_time = value("sinceTime").map(|v| v.parse().map_err(|_| bad("sinceTime", v))).transpose()?;
        let since_seconds = number("sinceSeconds")?.and_then(|seconds| {
            let seconds = SignedDuration::from_secs(i64::try_from(seconds).ok()?);
            now.checked_sub(seconds).ok()
        });
        let stream = match value("stream").unwrap_or("All") {
            "Stdout" => Some("stdout"),
            "Stderr" => Some("stderr"),
            "All" | "" => None,
            other => return Err(bad("stream", other)),
        };
        Ok(Self {
            follow: flag(&query, &["follow"]),
            previous: flag(&query, &["previous"]),
            tail_lines: number("tailLines")?,
            wanted: Wanted {
                since: since_time.or(since_seconds),
                timestamps: flag(&query, &["timestamps"]),
                stream,
                limit_bytes: number("limitBytes")?,
            },
        })
    }
}

fn bad(name: &str, value: &str) -> StreamError {
    StreamError::BadRequest(format!("{name}: Invalid value: {value:?}"))
}

/// Answers a request for a container's log.
pub(super) async fn serve(
    backend: &dyn Backend,
    target: &ContainerRef,
    query: Option<&str>,
    clock: &Clock,
) -> Result<Response, StreamError> {
    let options = Options::parse(query, clock.now())?;
    let source = backend.log(target, options.previous).await?;
    let stream = async_stream::stream! {
        let mut reader = Reader::new(source, options);
        loop {
            match reader.next().await {
                Ok(Some(chunk)) => yield Ok(chunk),
                Ok(None) => return,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            }
        }
    };
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

struct Reader {
    source: LogSource,
    follow: bool,
    tail_lines: Option<usize>,
    formatter: Formatter,
    file: Option<BufReader<File>>,
    /// The file has been replaced; what is left in it is read before going on.
    rotated: bool,
    /// A line that has not ended yet.
    partial: Vec<u8>,
}

impl Reader {
    fn new(source: LogSource, options: Options) -> Self {
        let formatter = Formatter::new(options.wanted);
        let (follow, tail_lines) = (options.follow, options.tail_lines);
        Self { source, follow, tail_lines, formatter, file: None, rotated: false, partial: Vec::new() }
    }

    /// What comes next; waits for it if the log is followed. `None`: that was all.
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        loop {
            // Looked at before the file: what is written before the end is read.
            let running = *self.source.running.borrow();
            let mut out = Vec::new();
            if self.open().await? {
                self.read(&mut out).await?;
            }
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
            if self.formatter.is_full() || !self.follow {
                return Ok(None);
            }
            if self.reopen().await? {
                continue;
            }
            if !running {
                return Ok(None);
            }
            // Woken early when the container ends.
            let _ = tokio::time::timeout(POLL, self.source.running.changed()).await;
            if self.source.running.has_changed().is_err() && *self.source.running.borrow() {
                // Whoever knows whether it runs is gone.
                tokio::time::sleep(POLL).await;
                return Ok(None);
            }
        }
    }

    /// Opens the file, at the line to begin with. False: it does not exist yet.
    async fn open(&mut self) -> std::io::Result<bool> {
        if self.file.is_some() {
            return Ok(true);
        }
        let mut file = match File::open(&self.source.path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if let Some(lines) = self.tail_lines.take() {
            let start = tail(&mut file, lines).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        self.file = Some(BufReader::new(file));
        Ok(true)
    }

    /// Whole lines, up to a chunk of them.
    async fn read(&mut self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        while out.len() < CHUNK_BYTES && !self.formatter.is_full() {
            let room = LINE_BYTES.saturating_sub(self.partial.len() as u64);
            let length = (&mut *file).take(room).read_until(b'\n', &mut self.partial).await?;
            let whole = self.partial.last() == Some(&b'\n');
            if length == 0 || !whole && (self.partial.len() as u64) < LINE_BYTES {
                return Ok(());
            }
            self.formatter.line(self.partial.strip_suffix(b"\n").unwrap_or(&self.partial), out);
            self.partial.clear();
        }
        Ok(())
    }

    /// Goes on with the file that took the place of the one that is read, if it was rotated. True if so.
    async fn reopen(&mut self) -> std::io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let open = file.get_ref().metadata().await?;
        if same_file(&self.source.path, open.ino()).await {
            return Ok(false);
        }
        // The writer may have added lines after the last look at the file and before it was replaced.
        if !std::mem::replace(&mut self.rotated, true) {
            return Ok(true);
        }
        self.rotated = false;
        self.file = None;
        self.partial.clear();
        self.open().await
    }
}

/// Whether the path still names the file with this inode. A path that names nothing is about to.
async fn same_file(path: &Path, inode: u64) -> bool {
    tokio::fs::metadata(path).await.map_or(true, |now| now.ino() == inode)
}

/// Where the last `lines` lines begin.
async fn tail(file: &mut File, lines: usize) -> std::io::Result<u64> {
    let end = file.metadata().await?.len();
    let mut at = end;
    let mut missing = lines;
    if lines == 0 {
        return Ok(end);
    }
    let mut block = Vec::new();
    while at > 0 {
        let start = at.saturating_sub(BLOCK_BYTES);
        file.seek(SeekFrom::Start(start)).await?;
        block.resize(usize::try_from(at - start).unwrap_or(0), 0);
        file.read_exact(&mut block).await?;
        for (offset, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let next = start + offset as u64 + 1;
            // The newline at the very end closes the last line, and begins none.
            if next == end {
                continue;
            }
            missing -= 1;
            if missing == 0 {
                return Ok(next);
            }
        }
        at = start;
    }
    Ok(0)
}
