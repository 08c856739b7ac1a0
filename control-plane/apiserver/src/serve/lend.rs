//! Bodies that are not read to their end. An answer may be clear before the body has arrived: a wrong path, a media type
//! that is not known. The connection can be used again if the rest is read away first, as Go's server does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;

use crate::body::{BoxError, RequestBody};

/// How much is read away; for more, the connection is closed (net/http `maxPostHandlerReadBytes`).
const MAX_DRAIN_BYTES: usize = 256 << 10;
/// How long the client may take with it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A body that somebody reads, for as long as they want it.
struct Lent<B>(Arc<Mutex<B>>);

/// What is left of it then.
pub(super) struct Rest<B>(Arc<Mutex<B>>);

/// Hands a body out. Without bytes to come there is nothing left afterwards.
pub(super) fn lend<B>(body: B) -> (RequestBody, Option<Rest<B>>)
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return (body.map_err(Into::into).boxed_unsync(), None);
    }
    let shared = Arc::new(Mutex::new(body));
    (Lent(shared.clone()).boxed_unsync(), Some(Rest(shared)))
}

impl<B> Body for Lent<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut body = self.0.lock();
        Pin::new(&mut *body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}

impl<B> Rest<B>
where
    B: Body + Unpin,
{
    /// Reads the rest away. Whether the connection can be used again: not if there is too much left, or it does not come.
    pub(super) async fn drain(self) -> bool {
        // Whoever still reads it is going to: the other end of a proxied stream.
        let Ok(body) = Arc::try_unwrap(self.0) else { return true };
        let mut body = body.into_inner();
        if body.size_hint().lower() > MAX_DRAIN_BYTES as u64 {
            return false;
        }
        let all = async {
            let mut left = MAX_DRAIN_BYTES;
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return false };
                let bytes = frame.into_data().map_or(0, |data| data.remaining());
                let Some(less) = left.checked_sub(bytes) else { return false };
                left = less;
            }
            true
        };
        tokio::time::timeout(DRAIN_TIMEOUT, all).await.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::StreamBody;

    use super::*;

    fn body(pieces: usize, bytes: usize) -> impl Body<Data = Bytes, Error = BoxError> + Send + Unpin {
        let pieces = (0..pieces).map(move |_| Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'x'; bytes]))));
        StreamBody::new(stream::iter(pieces))
    }

    #[tokio::test]
    async fn what_nobody_read_is_read_away_up_to_a_limit() {
        let (lent, rest) = lend(body(4, 1000));
        drop(lent);
        assert!(rest.expect("more to come").drain().await);

        let (mut lent, rest) = lend(body(300, 1024));
        assert_eq!(
            lent.frame().await.and_then(Result::ok).and_then(|f| f.into_data().ok()).map(|b| b.len()),
            Some(1024)
        );
        drop(lent);
        assert!(!rest.expect("more to come").drain().await, "299 KiB are too much");
    }

    #[tokio::test]
    async fn what_somebody_reads_is_theirs() {
        let (lent, rest) = lend(body(4, 1000));
        assert!(rest.expect("more to come").drain().await);
        assert_eq!(lent.collect().await.map(|all| all.to_bytes().len()).ok(), Some(4000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_sending_is_not_waited_for() {
        let stalled = StreamBody::new(stream::pending::<Result<Frame<Bytes>, BoxError>>());
        let (lent, rest) = lend(stalled);
        drop(lent);
        assert!(!rest.expect("more to come").drain().await);
    }
}
