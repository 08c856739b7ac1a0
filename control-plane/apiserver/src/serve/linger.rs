//! The end of a connection on which the client is still sending: closed at once, the bytes nobody reads make the kernel
//! reset it, and the client may never see the answer that is under way. So the server says that it is done, and reads on
//! for a moment (net/http `rstAvoidanceDelay`).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long the client has to see the answer and to close.
const LINGER: Duration = Duration::from_millis(500);
/// How much is read away meanwhile.
const MAX_LINGER_BYTES: usize = 16 << 20;

/// A connection that closes like that.
pub(super) struct Lingering<S> {
    inner: S,
    /// Since it said that it is done: until when it reads on, and how much.
    closing: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> Lingering<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, closing: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.closing.is_none() {
            std::task::ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
        }
        let until = || Box::pin(tokio::time::sleep_until(Instant::now() + LINGER));
        let (until, left) = this.closing.get_or_insert_with(|| (until(), MAX_LINGER_BYTES));
        let mut space = [0; 8192];
        loop {
            if until.as_mut().poll(context).is_ready() || *left == 0 {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut space);
            // An error is an end, too.
            match std::task::ready!(Pin::new(&mut this.inner).poll_read(context, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => *left = left.saturating_sub(buf.filled().len()),
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_comes_late_is_read_away() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = Lingering::new(server);
        let sending = tokio::spawn(async move {
            client.write_all(&[0; 10_000]).await.expect("somebody reads");
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("an answer");
            answer
        });
        server.write_all(b"no").await.expect("write");
        server.shutdown().await.expect("the end");
        drop(server);
        assert_eq!(sending.await.expect("a client"), "no");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_long() {
        let (_client, server) = tokio::io::duplex(64);
        let before = Instant::now();
        Lingering::new(server).shutdown().await.expect("the end");
        assert_eq!(before.elapsed(), LINGER);
    }
}
