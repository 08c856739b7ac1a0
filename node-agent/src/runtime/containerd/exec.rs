//! Commands in running containers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use containerd_client::services::v1::{
    CloseIoRequest, DeleteProcessRequest, ExecProcessRequest, GetContainerRequest, KillRequest, ResizePtyRequest,
    StartRequest, WaitRequest,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::client::request;
use super::{Inner, any, stdio};
use crate::runtime::{EXEC_OUTPUT_BYTES_MAX, ExecOutput, ExecSpec, ExecStreams, RuntimeError};

/// How many pieces of output may wait to be read; then the command waits.
const PIECES: usize = 16;

/// Runs a command with its streams connected.
pub(super) async fn exec(inner: &Arc<Inner>, id: &str, spec: ExecSpec) -> Result<ExecStreams, RuntimeError> {
    let mut process = process_of(inner, id).await?;
    process["args"] = json!(spec.command);
    process["terminal"] = json!(spec.tty);
    if spec.tty
        && let Some(env) = process["env"].as_array_mut()
        && !env.iter().any(|e| e.as_str().is_some_and(|e| e.starts_with("TERM=")))
    {
        env.push(json!("TERM=xterm"));
    }
    let exec_id = format!("exec-{:016x}", inner.random.next_u64());
    let result = begin(inner, id, &exec_id, &spec, &process).await;
    if result.is_err() {
        delete(inner, id, &exec_id).await;
        stdio::remove(&inner.config, &exec_id);
    }
    result
}

async fn begin(
    inner: &Arc<Inner>,
    id: &str,
    exec_id: &str,
    spec: &ExecSpec,
    process: &Value,
) -> Result<ExecStreams, RuntimeError> {
    let folder = stdio::make_folder(&inner.config, exec_id)?;
    let open = |wanted: bool, name: &str| if wanted { stdio::make_pipe(&folder, name) } else { Ok(String::new()) };
    let (stdin, stdout) = (open(spec.stdin, "stdin")?, open(spec.stdout, "stdout")?);
    let stderr = open(spec.stderr && !spec.tty, "stderr")?;
    // Opened both ways, a pipe neither blocks nor ends while the other side is not there yet.
    let receiver = |path: &str| -> Result<Option<pipe::Receiver>, RuntimeError> {
        if path.is_empty() {
            return Ok(None);
        }
        let opened = pipe::OpenOptions::new().read_write(true).open_receiver(path);
        opened.map(Some).map_err(|e| RuntimeError::Failed(format!("cannot open {path}: {e}")))
    };
    let (out, err) = (receiver(&stdout)?, receiver(&stderr)?);
    let input = if stdin.is_empty() {
        None
    } else {
        let opened = pipe::OpenOptions::new().read_write(true).open_sender(&stdin);
        Some(opened.map_err(|e| RuntimeError::Failed(format!("cannot open {stdin}: {e}")))?)
    };
    let create = ExecProcessRequest {
        container_id: id.to_owned(),
        stdin,
        stdout,
        stderr,
        terminal: spec.tty,
        spec: Some(any("types.containerd.io/opencontainers/runtime-spec/1/Process", process)?),
        exec_id: exec_id.to_owned(),
    };
    inner.client.tasks().exec(request(create)).await?;
    let start = StartRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
    inner.client.tasks().start(request(start)).await?;
    let done = CancellationToken::new();
    let stdin = input.map(|pipe| write_input(Arc::clone(inner), id.to_owned(), exec_id.to_owned(), pipe));
    let (stdout, stdout_read) = read_output(out, &done);
    let (stderr, stderr_read) = read_output(err, &done);
    let (exit_tx, exit) = oneshot::channel();
    let (resize, resizes) = mpsc::channel(4);
    tokio::spawn(resize_on(Arc::clone(inner), id.to_owned(), exec_id.to_owned(), resizes));
    tokio::spawn(end(Arc::clone(inner), id.to_owned(), exec_id.to_owned(), exit_tx, async move {
        done.cancel();
        drop(stdout_read.await);
        drop(stderr_read.await);
    }));
    Ok(ExecStreams { stdin, stdout, stderr, resize, exit })
}

/// The process that the container was created with: a command runs as the same user, in the same environment.
async fn process_of(inner: &Inner, id: &str) -> Result<Value, RuntimeError> {
    let get = GetContainerRequest { id: id.to_owned() };
    let container = inner.client.containers().get(request(get)).await?.into_inner().container;
    let spec = container.and_then(|c| c.spec).ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))?;
    let mut spec: Value = serde_json::from_slice(&spec.value)
        .map_err(|e| RuntimeError::Failed(format!("the container's specification is not JSON: {e}")))?;
    Ok(spec["process"].take())
}

fn write_input(inner: Arc<Inner>, id: String, exec_id: String, mut pipe: pipe::Sender) -> mpsc::Sender<Bytes> {
    let (tx, mut rx) = mpsc::channel::<Bytes>(PIECES);
    tokio::spawn(async move {
        while let Some(bytes) = rx.recv().await {
            if pipe.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The shim holds this end open, too, until it is told.
        drop(pipe);
        let close = CloseIoRequest { container_id: id, exec_id, stdin: true };
        drop(inner.client.tasks().close_io(request(close)).await);
    });
    tx
}

/// Reads a pipe until `done`, and then what is left in it.
fn read_output(
    pipe: Option<pipe::Receiver>,
    done: &CancellationToken,
) -> (Option<mpsc::Receiver<Bytes>>, tokio::task::JoinHandle<()>) {
    let Some(mut pipe) = pipe else { return (None, tokio::spawn(async {})) };
    let (tx, rx) = mpsc::channel(PIECES);
    let done = done.clone();
    let task = tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(32 * 1024);
        loop {
            buffer.reserve(32 * 1024);
            tokio::select! {
                biased;
                read = pipe.read_buf(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    // Nobody reads any more: what the command prints is thrown away, so that it can end.
                    Ok(_) => drop(tx.send(buffer.split().freeze()).await),
                },
                () = done.cancelled() => {
                    while let Ok(1..) = pipe.try_read_buf(&mut buffer) {
                        drop(tx.send(buffer.split().freeze()).await);
                        buffer.reserve(32 * 1024);
                    }
                    return;
                }
            }
        }
    });
    (Some(rx), task)
}

async fn resize_on(inner: Arc<Inner>, id: String, exec_id: String, mut sizes: mpsc::Receiver<(u16, u16)>) {
    while let Some((columns, rows)) = sizes.recv().await {
        let resize = ResizePtyRequest {
            container_id: id.clone(),
            exec_id: exec_id.clone(),
            width: u32::from(columns),
            height: u32::from(rows),
        };
        if let Err(status) = inner.client.tasks().resize_pty(request(resize)).await {
            tracing::debug!(%id, status = %status.message(), "terminal not resized");
        }
    }
}

/// Waits for the command's end (or ends it, if nobody waits for that), lets the last output through, cleans up.
async fn end(
    inner: Arc<Inner>,
    id: String,
    exec_id: String,
    mut exit: oneshot::Sender<Result<i32, RuntimeError>>,
    drain: impl Future<Output = ()>,
) {
    let wait = WaitRequest { container_id: id.clone(), exec_id: exec_id.clone() };
    let mut tasks = inner.client.tasks();
    let waiting = tasks.wait(request(wait));
    tokio::pin!(waiting);
    let result = tokio::select! {
        biased;
        result = &mut waiting => result,
        () = exit.closed() => {
            kill(&inner, &id, &exec_id).await;
            waiting.await
        }
    };
    let code = result.map(|r| i32::try_from(r.into_inner().exit_status).unwrap_or(255)).map_err(RuntimeError::from);
    // Returns when the shim has passed on all output.
    delete(&inner, &id, &exec_id).await;
    drain.await;
    stdio::remove(&inner.config, &exec_id);
    // Nobody waits: fine.
    drop(exit.send(code));
}

async fn kill(inner: &Inner, id: &str, exec_id: &str) {
    let kill = KillRequest {
        container_id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        signal: libc::SIGKILL.unsigned_abs(),
        all: false,
    };
    if let Err(status) = inner.client.tasks().kill(request(kill)).await {
        tracing::debug!(%id, status = %status.message(), "command not killed");
    }
}

async fn delete(inner: &Inner, id: &str, exec_id: &str) {
    let delete = DeleteProcessRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
    if let Err(status) = inner.client.tasks().delete_process(request(delete)).await {
        tracing::debug!(%id, status = %status.message(), "command not deleted");
    }
}

/// Runs a command to its end, killing it after `timeout`; keeps the beginning of what it prints.
pub(super) async fn output(
    inner: &Arc<Inner>,
    id: &str,
    command: &[String],
    timeout: Duration,
) -> Result<ExecOutput, RuntimeError> {
    let spec = ExecSpec { command: command.to_vec(), tty: false, stdin: false, stdout: true, stderr: true };
    let run = async {
        let streams = exec(inner, id, spec).await?;
        let (mut stdout, mut stderr) = (streams.stdout, streams.stderr);
        let mut exit = streams.exit;
        let mut output = Vec::new();
        let mut keep = |bytes: &Bytes| {
            let room = EXEC_OUTPUT_BYTES_MAX.saturating_sub(output.len());
            output.extend_from_slice(&bytes[..bytes.len().min(room)]);
        };
        let gone = || RuntimeError::Failed("the command's end was lost".to_owned());
        let (mut out_open, mut err_open) = (stdout.is_some(), stderr.is_some());
        while out_open || err_open {
            tokio::select! {
                biased;
                piece = next(&mut stdout), if out_open => match piece {
                    Some(bytes) => keep(&bytes),
                    None => out_open = false,
                },
                piece = next(&mut stderr), if err_open => match piece {
                    Some(bytes) => keep(&bytes),
                    None => err_open = false,
                },
            }
        }
        let code = (&mut exit).await.map_err(|_| gone())??;
        Ok(ExecOutput { code, output })
    };
    // Dropping the streams kills the command.
    tokio::time::timeout(timeout, run).await.unwrap_or(Err(RuntimeError::TimedOut(timeout)))
}

async fn next(stream: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match stream {
        Some(receiver) => receiver.recv().await,
        None => None,
    }
}
