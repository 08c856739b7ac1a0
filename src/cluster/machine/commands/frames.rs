//! What the two sides say to each other: frames of a length, a kind and a content.

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

/// Longer frames are refused. In bytes.
const MAX_FRAME_BYTES: usize = 1 << 20;

/// A command that is to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The caller's terminal, if the command is to have one.
    pub terminal: Option<Terminal>,
}

/// A caller's terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminal {
    /// What it is: `$TERM`.
    pub kind: String,
    /// How large it is.
    pub size: Size,
}

/// How large a terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// In characters.
    pub rows: u16,
    /// In characters.
    pub columns: u16,
}

/// One thing said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first of a caller's.
    Request(Request),
    /// For the command's standard input; empty at its end.
    Input(Bytes),
    /// The caller's terminal has another size now.
    Resized(Size),
    /// Of the command's standard output, or its terminal.
    Output(Bytes),
    /// Of its standard error.
    ErrorOutput(Bytes),
    /// The last: the command's exit code, or 128 and the number of the signal that ended it.
    Ended(u8),
    /// In place of all that: why it can't be run.
    Refused(String),
}

/// What came is none of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke, or a frame is too long.
    #[error(transparent)]
    Connection(#[from] std::io::Error),
    /// Another version of this program, perhaps.
    #[error("the other side says what this version does not know")]
    Unknown,
}

/// The side of a connection that frames are said on.
#[derive(Debug)]
pub struct Sender<W>(FramedWrite<W, LengthDelimitedCodec>);

/// The side of a connection that frames come in on.
#[derive(Debug)]
pub struct Receiver<R>(FramedRead<R, LengthDelimitedCodec>);

/// Both sides of a stream.
pub fn split<S: AsyncRead + AsyncWrite>(stream: S) -> (Sender<WriteHalf<S>>, Receiver<ReadHalf<S>>) {
    let (read, write) = tokio::io::split(stream);
    let codec = || LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_codec();
    (Sender(FramedWrite::new(write, codec())), Receiver(FramedRead::new(read, codec())))
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    /// Says something.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), Error> {
        Ok(self.0.send(encode(frame)).await?)
    }
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    /// What is said next; `None` once the other side has gone.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        self.0.next().await.transpose()?.map(|bytes| decode(bytes.freeze())).transpose()
    }
}

fn encode(frame: &Frame) -> Bytes {
    let json = |value: serde_json::Value| Bytes::from(value.to_string());
    let (kind, content) = match frame {
        Frame::Request(request) => (b'r', json(serde_json::json!(request))),
        Frame::Input(bytes) => (b'i', bytes.clone()),
        Frame::Resized(size) => (b's', json(serde_json::json!(size))),
        Frame::Output(bytes) => (b'o', bytes.clone()),
        Frame::ErrorOutput(bytes) => (b'e', bytes.clone()),
        Frame::Ended(code) => (b'x', Bytes::copy_from_slice(&[*code])),
        Frame::Refused(why) => (b'n', Bytes::copy_from_slice(why.as_bytes())),
    };
    let mut out = BytesMut::with_capacity(1 + content.len());
    out.put_u8(kind);
    out.put(content);
    out.freeze()
}

fn decode(mut bytes: Bytes) -> Result<Frame, Error> {
    if bytes.is_empty() {
        return Err(Error::Unknown);
    }
    let kind = bytes.split_to(1);
    let unknown = |_| Error::Unknown;
    Ok(match kind[0] {
        b'r' => Frame::Request(serde_json::from_slice(&bytes).map_err(unknown)?),
        b'i' => Frame::Input(bytes),
        b's' => Frame::Resized(serde_json::from_slice(&bytes).map_err(unknown)?),
        b'o' => Frame::Output(bytes),
        b'e' => Frame::ErrorOutput(bytes),
        b'x' => Frame::Ended(*bytes.first().ok_or(Error::Unknown)?),
        b'n' => Frame::Refused(String::from_utf8_lossy(&bytes).into_owned()),
        _ => return Err(Error::Unknown),
    })
}
