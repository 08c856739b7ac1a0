//! HTTP/1.1 over TLS with as little work as can be: the load comes from the machine that is measured, and what the
//! generator takes, the server lacks.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer heads than this are not the server's.
const HEAD_LIMIT_BYTES: usize = 16 << 10;

/// Where to, and as whom.
#[derive(Clone)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// The user's certificate, and the CA to trust.
    pub tls: Arc<ClientConfig>,
}

/// A kept connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
}

/// How the length of an answer is known.
enum Framing {
    Length(usize),
    Chunked,
}

impl Target {
    /// A connection, handshake done.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let stream =
            TlsConnector::from(self.tls.clone()).connect(name, stream).await.context("the handshake failed")?;
        Ok(Connection { stream, buffer: BytesMut::with_capacity(64 << 10) })
    }
}

/// A request's bytes.
pub fn request(method: &str, path: &str, body: Option<&[u8]>) -> Bytes {
    let body = body.unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\nuser-agent: xebec-bench\r\naccept: application/json\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat().into()
}

impl Connection {
    /// Sends a request and reads the answer to its end; its status, and how many bytes of body it had.
    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<(u16, usize)> {
        let (status, framing) = self.ask(request).await?;
        let length = match framing {
            Framing::Length(length) => {
                self.skip(length).await?;
                length
            }
            Framing::Chunked => {
                let mut total = 0;
                while let Some(chunk) = self.chunk().await? {
                    total += chunk.len();
                }
                total
            }
        };
        Ok((status, length))
    }

    /// Sends a request whose answer goes on, as a watch's does: [`Connection::chunk`] reads it.
    pub async fn open(&mut self, request: &[u8]) -> anyhow::Result<()> {
        let (status, framing) = self.ask(request).await?;
        ensure!(status == 200, "the watch was answered with {status}");
        ensure!(matches!(framing, Framing::Chunked), "the watch's answer has a length");
        Ok(())
    }

    /// The next chunk; none at the end.
    pub async fn chunk(&mut self) -> anyhow::Result<Option<Bytes>> {
        let end = self.find(b"\r\n").await?;
        let size = std::str::from_utf8(&self.buffer[..end])?;
        let size = usize::from_str_radix(size.trim(), 16).with_context(|| format!("{size:?} is no chunk's size"))?;
        self.buffer.advance(end + 2);
        self.fill(size + 2).await?;
        let chunk = self.buffer.split_to(size).freeze();
        self.buffer.advance(2);
        Ok((size > 0).then_some(chunk))
    }

    async fn ask(&mut self, request: &[u8]) -> anyhow::Result<(u16, Framing)> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let end = self.find(b"\r\n\r\n").await?;
        let head = std::str::from_utf8(&self.buffer[..end]).context("the head is not UTF-8")?;
        let status = head.get(9..12).and_then(|s| s.parse().ok()).with_context(|| format!("no status in {head:?}"))?;
        let header = |name: &str| {
            let mut pairs = head.lines().filter_map(|l| l.split_once(':'));
            pairs.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim())
        };
        let framing = match header("content-length") {
            Some(length) => Framing::Length(length.parse().context("a strange content-length")?),
            None => Framing::Chunked,
        };
        self.buffer.advance(end + 4);
        Ok((status, framing))
    }

    /// Where `mark` begins, read on until it is there.
    async fn find(&mut self, mark: &[u8]) -> anyhow::Result<usize> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|w| w == mark) {
                return Ok(at);
            }
            ensure!(self.buffer.len() < HEAD_LIMIT_BYTES, "a head without an end");
            self.read().await?;
        }
    }

    async fn fill(&mut self, length: usize) -> anyhow::Result<()> {
        while self.buffer.len() < length {
            self.read().await?;
        }
        Ok(())
    }

    async fn skip(&mut self, mut length: usize) -> anyhow::Result<()> {
        loop {
            let here = length.min(self.buffer.len());
            self.buffer.advance(here);
            length -= here;
            if length == 0 {
                return Ok(());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        self.buffer.reserve(16 << 10);
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        Ok(())
    }
}
