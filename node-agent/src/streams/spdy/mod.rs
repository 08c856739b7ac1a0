//! SPDY/3.1, the server's side, as far as Kubernetes' clients use it (draft-mbelshe-httpbis-spdy-00; client-go's
//! `spdystream`): streams that the client opens, data both ways. Flow control is left to TCP, as theirs is.

mod frame;
mod headers;

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::packets::{PacketWriter, reader};
use super::{Input, Output};
use frame::Frame;
pub(super) use frame::{Error, Headers};

/// Frames that wait to be sent.
const SEND_QUEUE: usize = 16;
/// Frames of one stream that wait to be read. A stream whose reader is slower holds the connection up.
const RECEIVE_QUEUE: usize = 16;
/// Streams that a client may have open: port-forward uses two a connection.
const MAX_STREAMS: usize = 2048;

/// A stream that the client opened; it has been accepted.
pub(super) struct Stream {
    /// Its headers, names in lower case.
    pub headers: Headers,
    /// What the client sends.
    pub input: Input,
    /// What is sent to the client. Shutting it down ends the stream's direction.
    pub output: Output,
}

impl Stream {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Serves a connection. Streams arrive on the returned queue, which ends with the connection.
pub(super) fn serve<IO: AsyncRead + AsyncWrite + Send + 'static>(io: IO) -> mpsc::Receiver<Stream> {
    let (read, write) = tokio::io::split(io);
    let (opened, streams) = mpsc::channel(RECEIVE_QUEUE);
    let (send, frames) = mpsc::channel(SEND_QUEUE);
    tokio::spawn(write_frames(write, frames));
    tokio::spawn(async move {
        if let Err(error) = Connection::new(opened, send).read_frames(read).await {
            tracing::debug!(%error, "a SPDY connection ended");
        }
    });
    streams
}

async fn write_frames(mut io: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) {
    let mut encoder = frame::Encoder::new();
    let mut buffer = Vec::new();
    while let Some(frame) = frames.recv().await {
        buffer.clear();
        let mut closing = matches!(frame, Frame::GoAway);
        let mut encoded = encoder.encode(&frame, &mut buffer);
        // What else is ready goes out with it.
        while let Ok(frame) = frames.try_recv() {
            closing |= matches!(frame, Frame::GoAway);
            encoded = encoded.and_then(|()| encoder.encode(&frame, &mut buffer));
        }
        if encoded.is_err() || io.write_all(&buffer).await.is_err() || io.flush().await.is_err() || closing {
            break;
        }
    }
    // The other side may be gone already.
    let _ = io.shutdown().await;
}

struct Connection {
    opened: mpsc::Sender<Stream>,
    send: mpsc::Sender<Frame>,
    inputs: HashMap<u32, mpsc::Sender<Bytes>>,
}

impl Connection {
    fn new(opened: mpsc::Sender<Stream>, send: mpsc::Sender<Frame>) -> Self {
        Self { opened, send, inputs: HashMap::new() }
    }

    /// Until the client is done, or breaks the protocol.
    async fn read_frames(mut self, mut io: impl AsyncRead + Unpin) -> Result<(), Error> {
        let mut decoder = frame::Decoder::new();
        let mut head = [0; frame::HEAD_BYTES];
        loop {
            match io.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            let mut body = vec![0; frame::body_bytes(head)?];
            io.read_exact(&mut body).await?;
            let Some(frame) = decoder.decode(head, body)? else { continue };
            if matches!(frame, Frame::GoAway) {
                return Ok(());
            }
            self.receive(frame).await?;
        }
    }

    async fn receive(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::Open { stream, headers, last } => self.open(stream, headers, last).await,
            Frame::Data { stream, bytes, last } => {
                // Data for a stream that nobody reads any more is dropped.
                if let Some(input) = self.inputs.get(&stream)
                    && !bytes.is_empty()
                    && input.send(bytes).await.is_err()
                {
                    self.inputs.remove(&stream);
                }
                if last {
                    self.inputs.remove(&stream);
                }
                Ok(())
            }
            Frame::Reset { stream } => {
                self.inputs.remove(&stream);
                Ok(())
            }
            // Odd numbers are the client's own pings, which are to be returned.
            Frame::Ping { number } if number % 2 == 1 => self.reply(Frame::Ping { number }).await,
            Frame::Ping { .. } | Frame::Accept { .. } | Frame::GoAway => Ok(()),
        }
    }

    async fn open(&mut self, stream: u32, headers: Headers, last: bool) -> Result<(), Error> {
        if self.inputs.len() >= MAX_STREAMS {
            return self.reply(Frame::Reset { stream }).await;
        }
        if self.inputs.contains_key(&stream) {
            return Err(Error::Protocol("a stream was opened twice"));
        }
        let (input, packets) = mpsc::channel(RECEIVE_QUEUE);
        if !last {
            self.inputs.insert(stream, input);
        }
        self.reply(Frame::Accept { stream }).await?;
        let data = move |bytes| Frame::Data { stream, bytes, last: false };
        let end = Frame::Data { stream, bytes: Bytes::new(), last: true };
        let output = PacketWriter::new(self.send.clone(), data, Some(end));
        let opened = Stream { headers, input: Box::new(reader(packets)), output: Box::new(output) };
        self.opened.send(opened).await.map_err(|_| Error::Closed)
    }

    async fn reply(&self, frame: Frame) -> Result<(), Error> {
        self.send.send(frame).await.map_err(|_| Error::Closed)
    }
}

#[cfg(test)]
mod tests;
