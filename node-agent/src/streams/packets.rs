//! Byte streams over a queue of packets: what a multiplexed connection is made of.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::StreamReader;
use tokio_util::sync::PollSender;

/// The largest packet made of what is written.
const PACKET_BYTES: usize = 32 << 10;

/// Turns what is written into packets of a connection.
pub(super) struct PacketWriter<T: Send + 'static, D> {
    queue: PollSender<T>,
    data: D,
    /// Sent at shutdown or when dropped, once, by way of the sender.
    end: Option<(mpsc::Sender<T>, T)>,
}

impl<T: Send + 'static, D: Fn(Bytes) -> T + Unpin> PacketWriter<T, D> {
    /// `data` wraps bytes into a packet, `end` is the packet that closes the stream, if there is one.
    pub fn new(queue: mpsc::Sender<T>, data: D, end: Option<T>) -> Self {
        let end = end.map(|end| (queue.clone(), end));
        Self { queue: PollSender::new(queue), data, end }
    }
}

impl<T: Send + 'static, D> Drop for PacketWriter<T, D> {
    fn drop(&mut self) {
        let Some((queue, end)) = self.end.take() else { return };
        // Whoever only drops its end closes the stream all the same: the client waits for that.
        if let Err(mpsc::error::TrySendError::Full(end)) = queue.try_send(end)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { queue.send(end).await });
        }
    }
}

fn closed<E>(_: E) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the client went away")
}

impl<T: Send + Unpin + 'static, D: Fn(Bytes) -> T + Unpin> AsyncWrite for PacketWriter<T, D> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        std::task::ready!(this.queue.poll_reserve(cx)).map_err(closed)?;
        let length = bytes.len().min(PACKET_BYTES);
        let packet = (this.data)(Bytes::copy_from_slice(&bytes[..length]));
        this.queue.send_item(packet).map_err(closed)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.end.is_some() {
            std::task::ready!(this.queue.poll_reserve(cx)).map_err(closed)?;
            if let Some((_, end)) = this.end.take() {
                this.queue.send_item(end).map_err(closed)?;
            }
        }
        this.queue.close();
        Poll::Ready(Ok(()))
    }
}

/// Reads packets as one stream of bytes.
pub(super) fn reader(packets: mpsc::Receiver<Bytes>) -> impl AsyncRead + Send + Unpin + 'static {
    StreamReader::new(ReceiverStream::new(packets).map(io::Result::Ok))
}
