//! Frames on the wire (SPDY/3, section 2.2).

use bytes::Bytes;

use super::headers::{Deflater, Inflater};

/// Names in lower case, with values, in order.
pub(in super::super) type Headers = Vec<(String, String)>;

pub(super) const HEAD_BYTES: usize = 8;
/// client-go sends at most 32 KiB in a frame; a frame larger than this is refused.
const MAX_BODY_BYTES: usize = 1 << 20;
const VERSION: u16 = 3;
const FIN: u8 = 1;
/// A stream was refused, or is ended early: CANCEL.
const CANCEL: u32 = 5;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(in super::super) enum Error {
    /// The client broke the protocol.
    #[error("SPDY: {0}")]
    Protocol(&'static str),
    /// The connection failed.
    #[error("SPDY: {0}")]
    Io(#[from] std::io::Error),
    /// Our own side is done with it.
    #[error("SPDY: the connection is closed")]
    Closed,
}

/// A frame that means something to us.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Frame {
    /// The client opens a stream. `last`: it will send nothing on it.
    Open { stream: u32, headers: Headers, last: bool },
    /// We accept a stream.
    Accept { stream: u32 },
    /// Bytes. `last`: no more will follow.
    Data { stream: u32, bytes: Bytes, last: bool },
    /// The stream is ended.
    Reset { stream: u32 },
    /// To be returned.
    Ping { number: u32 },
    /// The connection is about to close.
    GoAway,
}

/// The length of the body that follows a frame's head.
pub(super) fn body_bytes(head: [u8; HEAD_BYTES]) -> Result<usize, Error> {
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if length > MAX_BODY_BYTES { Err(Error::Protocol("a frame larger than 1 MiB")) } else { Ok(length) }
}

pub(super) struct Decoder(Inflater);

impl Decoder {
    pub fn new() -> Self {
        Self(Inflater::new())
    }

    /// `None` for frames that can be passed over.
    pub fn decode(&mut self, head: [u8; HEAD_BYTES], body: Vec<u8>) -> Result<Option<Frame>, Error> {
        let last = head[4] & FIN != 0;
        if head[0] & 0x80 == 0 {
            let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            return Ok(Some(Frame::Data { stream, bytes: body.into(), last }));
        }
        if u16::from_be_bytes([head[0] & 0x7f, head[1]]) != VERSION {
            return Err(Error::Protocol("another version than 3"));
        }
        let number = |at: usize| -> Result<u32, Error> {
            let bytes = body.get(at..at + 4).and_then(|b| b.first_chunk::<4>());
            bytes.map(|b| u32::from_be_bytes(*b)).ok_or(Error::Protocol("a frame cut short"))
        };
        let stream = || number(0).map(|n| n & 0x7fff_ffff);
        Ok(match u16::from_be_bytes([head[2], head[3]]) {
            SYN_STREAM => {
                let block = body.get(10..).ok_or(Error::Protocol("a frame cut short"))?;
                Some(Frame::Open { stream: stream()?, headers: self.0.headers(block)?, last })
            }
            SYN_REPLY => {
                // The block is read for the sake of the compression's state.
                self.0.headers(body.get(4..).ok_or(Error::Protocol("a frame cut short"))?)?;
                Some(Frame::Accept { stream: stream()? })
            }
            RST_STREAM => Some(Frame::Reset { stream: stream()? }),
            PING => Some(Frame::Ping { number: number(0)? }),
            GOAWAY => Some(Frame::GoAway),
            _ => None,
        })
    }
}

pub(super) struct Encoder(Option<Deflater>);

impl Encoder {
    pub fn new() -> Self {
        Self(None)
    }

    pub fn encode(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<(), Error> {
        match frame {
            Frame::Data { stream, bytes, last } => {
                out.extend((stream & 0x7fff_ffff).to_be_bytes());
                push_length(out, if *last { FIN } else { 0 }, bytes.len());
                out.extend_from_slice(bytes);
            }
            Frame::Open { stream, headers, last } => {
                let mut body = stream.to_be_bytes().to_vec();
                body.extend([0; 6]);
                body.extend(self.deflate(headers)?);
                control(out, SYN_STREAM, if *last { FIN } else { 0 }, &body);
            }
            Frame::Accept { stream } => {
                let mut body = stream.to_be_bytes().to_vec();
                body.extend(self.deflate(&Headers::new())?);
                control(out, SYN_REPLY, 0, &body);
            }
            Frame::Reset { stream } => {
                control(out, RST_STREAM, 0, &[stream.to_be_bytes(), CANCEL.to_be_bytes()].concat());
            }
            Frame::Ping { number } => control(out, PING, 0, &number.to_be_bytes()),
            Frame::GoAway => control(out, GOAWAY, 0, &[0; 8]),
        }
        Ok(())
    }

    fn deflate(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        if self.0.is_none() {
            self.0 = Some(Deflater::new()?);
        }
        self.0.as_mut().ok_or(Error::Closed)?.headers(headers)
    }
}

fn control(out: &mut Vec<u8>, kind: u16, flags: u8, body: &[u8]) {
    out.extend((0x8000 | VERSION).to_be_bytes());
    out.extend(kind.to_be_bytes());
    push_length(out, flags, body.len());
    out.extend_from_slice(body);
}

fn push_length(out: &mut Vec<u8>, flags: u8, length: usize) {
    // Bodies that we make are far below 2^24 bytes.
    let length = (length as u32).to_be_bytes();
    out.extend([flags, length[1], length[2], length[3]]);
}
