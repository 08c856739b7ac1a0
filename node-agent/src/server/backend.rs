//! The node's containers, as streams need them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use crate::api::Pod;
use crate::pods::Context;
use crate::pods::context::Latest;
use crate::pods::manager::Pods;
use crate::pods::spec::identity;
use crate::runtime::{ExecSpec, RuntimeError};
use crate::streams::written::written;
use crate::streams::{
    Backend, ContainerRef, Duplex, Input, LogSource, Output, ProcessIo, StreamError, TerminalSize, netns,
};

/// How often an attached client's log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The node's containers, as streams need them.
pub struct RuntimeBackend {
    context: Arc<Context>,
    pods: Pods,
}

impl RuntimeBackend {
    /// Over the pods of a manager.
    pub fn new(context: Arc<Context>, pods: Pods) -> Self {
        Self { context, pods }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, StreamError> {
        let pod = self.pods.find(namespace, name);
        pod.ok_or_else(|| StreamError::NotFound(format!("pod \"{namespace}/{name}\" not found")))
    }

    fn container(&self, target: &ContainerRef) -> Result<(Arc<Pod>, watch::Receiver<Latest>), StreamError> {
        let pod = self.pod(&target.namespace, &target.pod)?;
        let name = &target.container;
        if pod.spec.container(name).is_none() {
            let full = format!("{}/{}", target.namespace, target.pod);
            return Err(StreamError::NotFound(format!("container \"{name}\" not found in pod \"{full}\"")));
        }
        let latest = self.context.latest(&pod.metadata.uid, name).ok_or_else(|| self.waiting(&pod, name))?;
        Ok((pod, latest))
    }

    fn running(&self, target: &ContainerRef) -> Result<(Arc<Pod>, watch::Receiver<Latest>, String), StreamError> {
        let (pod, latest) = self.container(target)?;
        let now = latest.borrow().clone();
        if now.running {
            Ok((pod, latest, now.id))
        } else {
            let message = format!("container not found (\"{}\"): it does not run", target.container);
            Err(StreamError::NotFound(message))
        }
    }

    /// As the kubelet says of a container that has not started.
    fn waiting(&self, pod: &Pod, name: &str) -> StreamError {
        let waiting = pod.status.every_container().filter(|s| s.name == name).find_map(|s| s.state.waiting.as_ref());
        let reason = waiting.map_or("ContainerCreating", |w| w.reason.as_str());
        let message = match reason {
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => "trying and failing to pull image".to_owned(),
            reason => reason.to_owned(),
        };
        StreamError::BadRequest(format!(
            "container \"{name}\" in pod \"{}\" is waiting to start: {message}",
            pod.metadata.name
        ))
    }
}

#[async_trait]
impl Backend for RuntimeBackend {
    async fn exec(
        &self,
        target: &ContainerRef,
        command: Vec<String>,
        tty: bool,
        io: ProcessIo,
    ) -> Result<i32, StreamError> {
        let (_, _, id) = self.running(target)?;
        let spec = ExecSpec {
            command,
            tty,
            stdin: io.stdin.is_some(),
            stdout: io.stdout.is_some(),
            stderr: io.stderr.is_some(),
        };
        let streams = self.context.parts.runtime.exec(&id, spec).await.map_err(told)?;
        let resizing = tokio::spawn(pass_sizes(io.resize, streams.resize));
        let reading = match (io.stdin, streams.stdin) {
            (Some(input), Some(stdin)) => Some(tokio::spawn(pass_input(input, stdin))),
            _ => None,
        };
        let (out, err) = tokio::join!(pass_output(streams.stdout, io.stdout), pass_output(streams.stderr, io.stderr));
        let code = streams.exit.await.map_err(|_| StreamError::Internal("the command's end was lost".to_owned()));
        resizing.abort();
        if let Some(reading) = reading {
            reading.abort();
        }
        // Kept open until here: the client learns of the end by the status that follows.
        drop((out, err));
        code?.map_err(told)
    }

    async fn attach(&self, target: &ContainerRef, _tty: bool, io: ProcessIo) -> Result<(), StreamError> {
        let (pod, latest, id) = self.running(target)?;
        let runtime = Arc::clone(&self.context.parts.runtime);
        let attempt = latest.borrow().attempt;
        let log = self.context.log_path(&identity(&pod), &target.container, attempt);
        let once = pod.spec.container(&target.container).is_some_and(|c| c.stdin_once);
        let unread = |e| StreamError::Internal(format!("cannot follow the container's output: {e}"));
        // From before its first input is passed on: what that brings about is output of this attach.
        let follower = LogFollower::at_end(log, latest, id.clone()).await.map_err(unread)?;
        let reading = match io.stdin {
            Some(input) => Some(tokio::spawn(pass_input(input, runtime.stdin(&id, once).await.map_err(told)?))),
            None => None,
        };
        let mut sizes = io.resize;
        let resized = id.clone();
        let resizing = tokio::spawn(async move {
            while let Some(size) = sizes.recv().await {
                if let Err(error) = runtime.resize(&resized, size.width, size.height).await {
                    tracing::debug!(%error, "terminal not resized");
                }
            }
        });
        let result = follower.pass_on(io.stdout, io.stderr).await;
        resizing.abort();
        if let Some(reading) = reading {
            reading.abort();
        }
        result.map_err(unread)
    }

    async fn connect(&self, namespace: &str, pod: &str, port: u16) -> Result<Box<dyn Duplex>, StreamError> {
        let pod = self.pod(namespace, pod)?;
        let path = self.context.parts.runtime.netns_path(&identity(&pod));
        let netns = (!pod.spec.host_network).then_some(path);
        let connected = netns::connect(netns, port).await.map_err(|e| {
            let shown = &pod.metadata.uid;
            StreamError::Internal(format!(
                "failed to execute portforward in network namespace of pod {shown}: failed to connect to localhost:{port} inside it: {e}"
            ))
        })?;
        Ok(Box::new(connected))
    }

    async fn log(&self, target: &ContainerRef, previous: bool) -> Result<LogSource, StreamError> {
        let (pod, mut latest) = self.container(target)?;
        let now = latest.borrow().clone();
        let attempt = match (previous, now.attempt) {
            (false, attempt) => attempt,
            (true, 0) => {
                return Err(StreamError::BadRequest(format!(
                    "previous terminated container \"{}\" in pod \"{}\" not found",
                    target.container, target.pod
                )));
            }
            (true, attempt) => attempt - 1,
        };
        let path = self.context.log_path(&identity(&pod), &target.container, attempt);
        let runs = move |latest: &Latest| latest.running && latest.attempt == attempt;
        let (tx, running) = watch::channel(runs(&now));
        if !runs(&now) {
            written(&path).await;
            return Ok(LogSource { path, running });
        }
        let written_to = path.clone();
        tokio::spawn(async move {
            loop {
                let still = runs(&latest.borrow_and_update());
                if !still {
                    written(&written_to).await;
                    tx.send_replace(false);
                    return;
                }
                tokio::select! {
                    biased;
                    () = tx.closed() => return,
                    changed = latest.changed() => if changed.is_err() {
                        tx.send_replace(false);
                        return;
                    },
                }
            }
        });
        Ok(LogSource { path, running })
    }
}

fn told(error: RuntimeError) -> StreamError {
    match error {
        RuntimeError::NotFound(message) => StreamError::NotFound(message),
        RuntimeError::Invalid(message) => StreamError::BadRequest(message),
        other => StreamError::Internal(other.to_string()),
    }
}

async fn pass_sizes(mut from: mpsc::Receiver<TerminalSize>, to: mpsc::Sender<(u16, u16)>) {
    while let Some(size) = from.recv().await {
        if to.send((size.width, size.height)).await.is_err() {
            return;
        }
    }
}

async fn pass_input(mut from: Input, to: mpsc::Sender<Bytes>) {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.send(Bytes::copy_from_slice(&buffer[..read])).await.is_err() {
            return;
        }
    }
}

/// Passes output on until it ends; gives the client's side back.
async fn pass_output(from: Option<mpsc::Receiver<Bytes>>, to: Option<Output>) -> Option<Output> {
    let (mut from, mut to) = (from?, to?);
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            // The client has gone; the rest is thrown away, so that the command can end.
            while from.recv().await.is_some() {}
            return None;
        }
    }
    Some(to)
}

/// Reads what is written to a container's log.
struct LogFollower {
    path: PathBuf,
    file: tokio::fs::File,
    latest: watch::Receiver<Latest>,
    /// The container's.
    id: String,
}

impl LogFollower {
    /// Begins where the log ends now.
    async fn at_end(path: PathBuf, latest: watch::Receiver<Latest>, id: String) -> std::io::Result<Self> {
        let mut file = open_when_there(&path).await?;
        file.seek(std::io::SeekFrom::End(0)).await?;
        Ok(Self { path, file, latest, id })
    }

    /// Passes on what is written, until all is there that the container said, or the client goes.
    async fn pass_on(mut self, mut stdout: Option<Output>, mut stderr: Option<Output>) -> std::io::Result<()> {
        let mut rest = Vec::new();
        loop {
            // Looked at before the file: what is written before the end is read.
            let ended = self.has_ended();
            if ended {
                written(&self.path).await;
            }
            let read = self.file.read_to_end(&mut rest).await?;
            while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let Some((is_error, text)) = parse(&line) else { continue };
                let to = if is_error { &mut stderr } else { &mut stdout };
                if let Some(to) = to
                    && (to.write_all(&text).await.is_err() || to.flush().await.is_err())
                {
                    return Ok(());
                }
            }
            if read == 0 {
                if rotated(&self.path, &self.file).await {
                    self.file = open_when_there(&self.path).await?;
                    continue;
                }
                if ended {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        let latest = self.latest.borrow_and_update();
        !latest.running || latest.id != self.id
    }
}

async fn open_when_there(path: &Path) -> std::io::Result<tokio::fs::File> {
    let mut tries = 0;
    loop {
        match tokio::fs::File::open(path).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && tries < 40 => {
                tries += 1;
                tokio::time::sleep(LOOK_EVERY).await;
            }
            opened => return opened,
        }
    }
}

/// Whether the log has been replaced by a new file.
async fn rotated(path: &Path, file: &tokio::fs::File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (tokio::fs::metadata(path).await, file.metadata().await) {
        (Ok(named), Ok(open)) => named.ino() != open.ino(),
        _ => false,
    }
}

/// A line of a CRI log: whether it is of the standard error, and its text.
fn parse(line: &[u8]) -> Option<(bool, Vec<u8>)> {
    let line = line.strip_suffix(b"\n")?;
    let mut fields = line.splitn(4, |b| *b == b' ');
    let (_, stream, kind, text) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let mut text = text.to_vec();
    if kind == b"F" {
        text.push(b'\n');
    }
    Some((stream == b"stderr", text))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn what_is_written_after_the_end_was_told_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = std::fs::File::create(&path).unwrap();
        log.write_all(b"2026-01-01T00:00:00Z stdout F before\n").unwrap();
        let (_ended, latest) = watch::channel(Latest { id: "c".to_owned(), attempt: 0, running: false });
        let follower = LogFollower::at_end(path, latest, "c".to_owned()).await.unwrap();
        log.write_all(b"2026-01-01T00:00:00Z stdout F one\n").unwrap();
        let (mut client, server) = tokio::io::duplex(1024);
        let passing = tokio::spawn(follower.pass_on(Some(Box::new(server)), None));
        tokio::task::yield_now().await;
        log.write_all(b"2026-01-01T00:00:00Z stdout F two\n").unwrap();
        drop(log);
        let mut seen = String::new();
        client.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "one\ntwo\n");
        passing.await.unwrap().unwrap();
    }

    #[test]
    fn log_lines_become_output_again() {
        let parsed = |line: &str| parse(line.as_bytes());
        assert_eq!(parsed("2026-01-01T00:00:00Z stdout F a b\n"), Some((false, b"a b\n".to_vec())));
        assert_eq!(parsed("2026-01-01T00:00:00Z stderr P $ \n"), Some((true, b"$ ".to_vec())));
        assert_eq!(parsed("rubbish\n"), None);
    }
}
