//! Bodies of requests and answers.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use xebec_schema::status::Status;

/// Why a body ended before its end.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, wherever it comes from.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// The largest body of a request, in bytes (apiserver `MaxRequestBodyBytes`).
pub const MAX_REQUEST_BYTES: usize = 3 << 20;

/// How long a client may take to send a body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The body of an answer.
#[derive(Default)]
pub enum Body {
    /// Nothing (more).
    #[default]
    Empty,
    /// All at once.
    Full(Bytes),
    /// Piece by piece, with the number of bytes to come if it is known.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>, Option<u64>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Self::Stream(_, size) => write!(f, "Stream({size:?})"),
        }
    }
}

impl Body {
    /// A body that is produced while it is sent.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        Self::Stream(Box::pin(stream), None)
    }

    /// The same, which holds on to `what` until it is at its end.
    #[must_use]
    pub fn with<T: Send + 'static>(self, what: T) -> Self {
        match self {
            Self::Stream(stream, size) => {
                let stream = stream.map(move |piece| {
                    let _ = &what;
                    piece
                });
                Self::Stream(Box::pin(stream), size)
            }
            whole => whole,
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Stream(stream, remaining) => stream.as_mut().poll_next(context).map(|item| {
                item.map(|result| {
                    result.map(|bytes| {
                        if let Some(remaining) = remaining {
                            *remaining = remaining.saturating_sub(bytes.len() as u64);
                        }
                        Frame::data(bytes)
                    })
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(_, Some(size)) => SizeHint::with_exact(*size),
            Self::Stream(_, None) => SizeHint::default(),
        }
    }
}

/// Reads a request's body to its end.
///
/// # Errors
///
/// 413 for more than [`MAX_REQUEST_BYTES`], 504 for a client that takes too long, 400 for one that goes away.
pub async fn read(mut body: RequestBody) -> Result<Bytes, Status> {
    let too_large = || Status::new(413, "RequestEntityTooLarge", format!("limit is {MAX_REQUEST_BYTES}"));
    let all = async {
        let mut first = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Status::bad_request(format!("the body of the request ended early: {e}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + joined.len() + data.len() > MAX_REQUEST_BYTES {
                return Err(too_large());
            }
            // Most bodies come in one piece, which is not copied.
            if first.is_empty() && joined.is_empty() {
                first = data;
                continue;
            }
            joined.extend_from_slice(&std::mem::take(&mut first));
            joined.extend_from_slice(&data);
        }
        Ok(if joined.is_empty() { first } else { joined.freeze() })
    };
    tokio::time::timeout(READ_TIMEOUT, all).await.unwrap_or_else(|_| {
        Err(Status::new(504, "Timeout", "Timeout: the body of the request did not arrive within 30 seconds"))
    })
}
