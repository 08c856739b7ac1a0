//! Streams over a WebSocket: each message starts with its channel's number (`channel.k8s.io`; of `v4.channel.k8s.io` on
//! the error channel carries a status; `v5.channel.k8s.io` adds the closing of a channel, KEP-4006). In the `base64`
//! variants messages are text: the number as a digit, and the rest in base64.

use std::io;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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

/// How messages carry bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As they are.
    Binary,
    /// As text.
    Base64,
}

impl Encoding {
    /// A channel's packet as a message.
    fn message(self, packet: Bytes) -> Message {
        match (self, packet.split_first()) {
            (Self::Base64, Some((channel, bytes))) => {
                let digit = char::from(b'0'.saturating_add(*channel));
                Message::Text(format!("{digit}{}", STANDARD.encode(bytes)).into())
            }
            _ => Message::Binary(packet),
        }
    }

    /// The packet in a message; `None` if there is none.
    fn packet(self, message: Message) -> Option<Bytes> {
        match (self, message) {
            (Self::Binary, Message::Binary(packet)) => Some(packet),
            (Self::Base64, Message::Text(text)) => {
                let (digit, bytes) = text.as_bytes().split_first()?;
                let mut packet = vec![digit.checked_sub(b'0')?];
                packet.extend(STANDARD.decode(bytes).ok()?);
                Some(packet.into())
            }
            _ => None,
        }
    }
}

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
pub(super) fn process_io(socket: WebSocket, tty: bool, encoding: Encoding) -> (ProcessIo, Output) {
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
            if sink.send(encoding.message(message)).await.is_err() {
                return;
            }
        }
        // All is said; the client may have gone first.
        let _ = sink.send(normal_closure()).await;
    });
    tokio::spawn(receive(source, stdin, sizes, encoding));
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
    encoding: Encoding,
) {
    let mut stdin = Some(stdin);
    while let Some(Ok(message)) = source.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
        let Some(mut data) = encoding.packet(message) else { continue };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_travel_as_text_too() {
        let packet = Bytes::from_static(b"\x01hello");
        for (encoding, message) in
            [(Encoding::Binary, Message::Binary(packet.clone())), (Encoding::Base64, Message::Text("1aGVsbG8=".into()))]
        {
            assert_eq!(encoding.message(packet.clone()), message);
            assert_eq!(encoding.packet(message), Some(packet.clone()));
        }
        assert_eq!(Encoding::Base64.packet(Message::Text("1!".into())), None);
        assert_eq!(Encoding::Binary.packet(Message::Text("1aGVsbG8=".into())), None);
    }
}
