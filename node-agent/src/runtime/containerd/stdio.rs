//! Where a container's streams go. Output goes to its log, by a process that outlives agent and containerd; what attaches
//! reads the log. Input comes by a pipe that anyone with access to the node's run folder may open.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use containerd_client::services::v1::CloseIoRequest;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::client::request;
use super::{ContainerdConfig, Inner, io_error};
use crate::runtime::{ContainerSpec, RuntimeError};

/// What a container's streams are to be.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub log_path: PathBuf,
    pub stdin: bool,
    pub tty: bool,
}

/// The streams as containerd wants them.
#[derive(Clone, Debug, Default)]
pub(super) struct Uris {
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub(super) fn of(spec: &ContainerSpec) -> Self {
        Self { log_path: spec.log_path.clone(), stdin: spec.stdin, tty: spec.tty }
    }

    /// Makes the log's folder and the pipes.
    pub(super) fn prepare(&self, config: &ContainerdConfig, id: &str) -> Result<Uris, RuntimeError> {
        if let Some(folder) = self.log_path.parent() {
            fs::create_dir_all(folder).map_err(|e| io_error("make", folder, &e))?;
        }
        let mut uris = Uris::default();
        if self.stdin {
            let folder = make_folder(config, id)?;
            uris.stdin = make_pipe(&folder, "stdin")?;
            if !self.tty {
                // A logger that containerd starts gets no input to the container: the pipes are ours then.
                uris.stdout = make_pipe(&folder, "stdout")?;
                uris.stderr = make_pipe(&folder, "stderr")?;
                self.start_logger(config, &uris)?;
                return Ok(uris);
            }
        }
        // A single pair: containerd passes the pairs of a query in no certain order.
        let log = percent(&self.log_path.to_string_lossy());
        let verb = if self.tty { "container-log-tty" } else { "container-log" };
        uris.stdout = format!("binary://{}?{verb}={log}", percent_path(&config.logger));
        if !self.tty {
            uris.stderr.clone_from(&uris.stdout);
        }
        Ok(uris)
    }

    /// Starts a logger that reads pipes; it ends with them.
    fn start_logger(&self, config: &ContainerdConfig, uris: &Uris) -> Result<(), RuntimeError> {
        let child = tokio::process::Command::from(logger_command(config, &self.log_path, uris))
            .kill_on_drop(false)
            .process_group(0)
            .spawn()
            .map_err(|e| io_error("start", &config.logger, &e))?;
        // The runtime reaps it.
        drop(child);
        Ok(())
    }
}

fn logger_command(config: &ContainerdConfig, log: &Path, uris: &Uris) -> Command {
    let mut command = Command::new(&config.logger);
    command.arg("container-log").arg(log).args([&uris.stdout, &uris.stderr]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

pub(super) fn folder(config: &ContainerdConfig, id: &str) -> PathBuf {
    config.run_root.join("io").join(id)
}

pub(super) fn make_folder(config: &ContainerdConfig, id: &str) -> Result<PathBuf, RuntimeError> {
    let folder = folder(config, id);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|e| io_error("make", &folder, &e))?;
    Ok(folder)
}

pub(super) fn make_pipe(folder: &Path, name: &str) -> Result<String, RuntimeError> {
    let path = folder.join(name);
    mkfifo(&path, Mode::from_bits_truncate(0o600)).map_err(|e| io_error("make the pipe", &path, &e.into()))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Removes a container's (or command's) pipes.
pub(super) fn remove(config: &ContainerdConfig, id: &str) {
    // What is left is found by nobody, and goes with the machine's next start.
    drop(fs::remove_dir_all(folder(config, id)));
}

/// Opens a container's standard input; what is sent is written to it. With `once` it is closed for good afterwards.
pub(super) fn open_stdin(inner: &Arc<Inner>, id: &str, once: bool) -> Result<mpsc::Sender<Bytes>, RuntimeError> {
    let path = folder(&inner.config, id).join("stdin");
    if !path.exists() {
        return Err(RuntimeError::Invalid("the container has no standard input".to_owned()));
    }
    let sender = pipe::OpenOptions::new().open_sender(&path).map_err(|e| io_error("open", &path, &e))?;
    let (inner, id) = (Arc::clone(inner), id.to_owned());
    Ok(feed(sender, async move {
        if once {
            // The shim holds this end open, too, until it is told.
            let close = CloseIoRequest { container_id: id, exec_id: String::new(), stdin: true };
            drop(inner.client.tasks().close_io(request(close)).await);
        }
    }))
}

/// Writes what is sent to a pipe, closes it when the sender is dropped, and then does `after`.
fn feed(mut pipe: pipe::Sender, after: impl Future<Output = ()> + Send + 'static) -> mpsc::Sender<Bytes> {
    let (tx, mut rx) = mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        while let Some(bytes) = rx.recv().await {
            if pipe.write_all(&bytes).await.is_err() {
                break;
            }
        }
        drop(pipe);
        after.await;
    });
    tx
}

fn percent_path(path: &Path) -> String {
    path.to_string_lossy().split('/').map(percent).collect::<Vec<_>>().join("/")
}

fn percent(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
