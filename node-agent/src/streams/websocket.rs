//! Streams over a WebSocket: each binary message starts with its channel's number
//! (`v4.channel.k8s.io`; `v5.channel.k8s.io` adds the closing of a channel, KEP-4006).

use std::io;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;

use super::packets::{PacketWriter, reader};
use super::{Output, ProcessIo, TerminalSize};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Messages that wait to be sent, or to be read.
const QUEUE: usize = 16;
/// What is in flight between a tunnelled connection and its messages.
const TUNNEL_BYTES: usize = 64 << 10;

fn output(send: &mpsc::Sender<Bytes>, channel: u8) -> Output {
    let packet = move |bytes: Bytes| {
        let mut message = BytesMut::with_capacity(bytes.len() + 1);
        message.put_u8(channel);
        message.extend_from_slice(&bytes);
        message.freeze()
    };
    Box::new(PacketWriter::new(send.clone(), packet, None))
}

/// A WebSocket as a process's streams and the channel for how it ended. Its tasks end with the client, or once every
/// output is dropped.
pub(super) fn process_io(socket: WebSocket, tty: bool) -> (ProcessIo, Output) {
    let (mut sink, source) = socket.split();
    let (send, mut messages) = mpsc::channel::<Bytes>(QUEUE);
    let (stdin, packets) = mpsc::channel(QUEUE);
    let (sizes, resize) = mpsc::channel(QUEUE);
    let io = ProcessIo {
        stdin: Some(Box::new(reader(packets))),
        stdout: Some(output(&send, STDOUT)),
        stderr: (!tty).then(|| output(&send, STDERR)),
        resize,
    };
    let error = output(&send, ERROR);
    drop(send);
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            if sink.send(Message::Binary(message)).await.is_err() {
                return;
            }
        }
        // All is said; the client may have gone first.
        let _ = sink.send(normal_closure()).await;
    });
    tokio::spawn(receive(source, stdin, sizes));
    (io, error)
}

/// Clients take a close without a code for an error (RFC 6455, section 7.4.1: 1000).
fn normal_closure() -> Message {
    Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }))
}

async fn receive(
    mut source: impl futures::Stream<Item = Result<Message, axum::Error>> + Unpin,
    stdin: mpsc::Sender<Bytes>,
    sizes: mpsc::Sender<TerminalSize>,
) {
    let mut stdin = Some(stdin);
    while let Some(Ok(message)) = source.next().await {
        let mut data = match message {
            Message::Binary(data) => data,
            Message::Close(_) => return,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => continue,
        };
        if data.is_empty() {
            continue;
        }
        match data.split_to(1)[0] {
            STDIN => {
                if let Some(input) = &stdin
                    && !data.is_empty()
                    && input.send(data).await.is_err()
                {
                    // The process does not read any more.
                    stdin = None;
                }
            }
            RESIZE => {
                if let Ok(size) = serde_json::from_slice(&data) {
                    // Of sizes that nobody waits for, the next one is as good.
                    let _ = sizes.try_send(size);
                }
            }
            CLOSE if data.first() == Some(&STDIN) => stdin = None,
            _ => {}
        }
    }
}

/// A WebSocket whose messages, put together, are one stream of bytes each way.
pub(super) fn tunnel(socket: WebSocket) -> DuplexStream {
    let (inner, outer) = tokio::io::duplex(TUNNEL_BYTES);
    tokio::spawn(async move {
        let (mut sink, mut source) = socket.split();
        let (mut read, mut write) = tokio::io::split(outer);
        let down = async {
            let mut buffer = vec![0; TUNNEL_BYTES / 2];
            loop {
                let length = read.read(&mut buffer).await?;
                if length == 0 {
                    return sink.send(normal_closure()).await.map_err(io::Error::other);
                }
                let message = Message::Binary(Bytes::copy_from_slice(&buffer[..length]));
                sink.send(message).await.map_err(io::Error::other)?;
            }
        };
        let up = async {
            while let Some(Ok(message)) = source.next().await {
                match message {
                    Message::Binary(data) => write.write_all(&data).await?,
                    Message::Close(_) => break,
                    Message::Text(_) | Message::Ping(_) | Message::Pong(_) => {}
                }
            }
            write.shutdown().await
        };
        // Either end closing ends both; how it failed does not matter any more.
        tokio::select! {
            biased;
            result = down => drop::<io::Result<()>>(result),
            result = up => drop::<io::Result<()>>(result),
        }
    });
    inner
}
