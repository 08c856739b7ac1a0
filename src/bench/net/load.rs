//! The load itself: a server and a client that run in a node, or on the host, and do as little as can be.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};

use crate::bench::figure::percentile;

/// What the first byte of a connection asks the server for.
const ECHO: u8 = b'e';
const SINK: u8 = b's';
/// How much processor time the server has used, in ns.
const TIME: u8 = b't';
/// How many datagrams it has got.
const COUNT: u8 = b'c';
/// Bytes in a datagram.
const DATAGRAM_BYTES: usize = 64;
/// Datagrams between two looks at the clock.
const BURST: usize = 64;
/// One read or write of a stream.
const CHUNK_BYTES: usize = 128 << 10;
/// A connection that takes longer has failed.
const CONNECT_BOUND: Duration = Duration::from_secs(5);

/// The load of `xebec bench net`; run by it on nodes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Answers, until it is killed
    Serve {
        /// Where: each address by itself, for a datagram's answer comes from where it was asked
        #[arg(required = true)]
        addresses: Vec<SocketAddr>,
    },
    /// Asks, and prints what it measured
    Ask {
        /// What
        #[arg(value_enum)]
        load: Kind,
        /// Whom
        address: SocketAddr,
        /// For how long, in ms
        #[arg(long)]
        time_ms: u64,
        /// Over how many connections at a time
        #[arg(long)]
        connections: usize,
    },
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// A new connection for each byte that is echoed
    Connect,
    /// Bytes that are echoed one after the other, over kept connections
    Request,
    /// As many bytes as go through
    Stream,
    /// As many datagrams as go through
    Datagrams,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Connections, requests, bytes or datagrams a second.
    pub per_second: f64,
    /// How long one took, in microseconds; nothing for streams.
    pub p50_us: f64,
    /// The same, of the slowest hundredth.
    pub p99_us: f64,
    /// Processor time of both sides for each, in microseconds.
    pub cpu_us: f64,
    /// How many failed.
    pub failed: usize,
}

/// `xebec bench-load`.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match &args.what {
            What::Serve { addresses } => {
                futures::future::try_join_all(addresses.iter().map(|address| serve(*address))).await?;
                Ok(())
            }
            What::Ask { load, address, time_ms, connections } => {
                let measured = ask(*load, *address, Duration::from_millis(*time_ms), *connections).await?;
                println!("{}", serde_json::to_string(&measured)?);
                Ok(())
            }
        }
    })
}

async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot bind {address}"))?;
    let listener = socket.listen(4096)?;
    let datagrams = UdpSocket::bind(address).await.with_context(|| format!("cannot bind {address}"))?;
    tokio::task::spawn_local(count(datagrams));
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that goes away is none of the server's business.
        tokio::task::spawn_local(async move { answer(stream).await.ok() });
    }
}

/// Its errors are plain ones: nearly every connection ends by a reset, and a backtrace of each would be what is measured.
async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await?;
    if byte[0] == TIME {
        return stream.write_all(&processor_time_ns()?.to_be_bytes()).await;
    }
    if byte[0] == SINK {
        let mut chunk = vec![0; CHUNK_BYTES];
        while stream.read(&mut chunk).await? > 0 {}
        return Ok(());
    }
    loop {
        stream.write_all(&byte).await?;
        if stream.read(&mut byte).await? == 0 {
            return Ok(());
        }
    }
}

/// Counts datagrams, and says how many there were.
async fn count(socket: UdpSocket) {
    let mut buffer = [0; DATAGRAM_BYTES];
    let mut count = 0_u64;
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        count += 1;
        if length == 1 {
            // Who does not get it asks again.
            let _ = socket.send_to(&count.to_be_bytes(), from).await;
        }
    }
}

/// What this process has used so far.
fn processor_time_ns() -> io::Result<u64> {
    let used = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    let ns = i128::from(used.tv_sec()) * 1_000_000_000 + i128::from(used.tv_nsec());
    u64::try_from(ns).map_err(io::Error::other)
}

/// What the server has used so far, too.
async fn both_times_ns(address: SocketAddr) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.write_all(&[TIME]).await?;
    Ok(stream.read_u64().await? + processor_time_ns()?)
}

/// One client's counts.
#[derive(Default)]
struct Counts {
    done: f64,
    failed: usize,
    times_us: Vec<f64>,
}

async fn ask(kind: Kind, address: SocketAddr, time: Duration, connections: usize) -> anyhow::Result<Measured> {
    // A server of datagrams may be all there is.
    let before = if kind == Kind::Datagrams { 0 } else { both_times_ns(address).await? };
    let started = Instant::now();
    let until = started + time;
    let mut clients = JoinSet::new();
    let target = Rc::new(address);
    for _ in 0..connections {
        let address = target.clone();
        clients.spawn_local(async move {
            match kind {
                Kind::Connect => Ok(connect(*address, until).await),
                Kind::Request => request(*address, until).await,
                Kind::Stream => stream(*address, until).await,
                Kind::Datagrams => datagrams(*address, until).await,
            }
        });
    }
    let mut all = Counts::default();
    while let Some(client) = clients.join_next().await {
        let counts: Counts = client.context("a client died")??;
        all.done += counts.done;
        all.failed += counts.failed;
        all.times_us.extend(counts.times_us);
    }
    let elapsed_s = started.elapsed().as_secs_f64();
    let used = if kind == Kind::Datagrams { 0 } else { both_times_ns(address).await? - before };
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a bench are far below 2^52")]
    let cpu_us = used as f64 / 1e3 / all.done.max(1.0);
    Ok(Measured {
        cpu_us,
        per_second: all.done / elapsed_s,
        p50_us: percentile(&mut all.times_us, 50),
        p99_us: percentile(&mut all.times_us, 99),
        failed: all.failed,
    })
}

async fn connect(address: SocketAddr, until: Instant) -> Counts {
    let mut counts = Counts::default();
    while Instant::now() < until {
        let started = Instant::now();
        let one = async {
            let mut stream = TcpStream::connect(address).await?;
            // Closed by a reset: ports that wait out their time would be what is measured.
            stream.set_zero_linger()?;
            stream.write_all(&[ECHO]).await?;
            stream.read_exact(&mut [0]).await
        };
        match timeout(CONNECT_BOUND, one).await {
            Ok(Ok(_)) => {
                counts.done += 1.0;
                counts.times_us.push(started.elapsed().as_secs_f64() * 1e6);
            }
            Ok(Err(_)) | Err(_) => counts.failed += 1,
        }
    }
    counts
}

async fn request(address: SocketAddr, until: Instant) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    while Instant::now() < until {
        let started = Instant::now();
        stream.write_all(&[ECHO]).await?;
        stream.read_exact(&mut [0]).await?;
        counts.done += 1.0;
        counts.times_us.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(counts)
}

async fn stream(address: SocketAddr, until: Instant) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.write_all(&[SINK]).await?;
    let chunk = vec![0; CHUNK_BYTES];
    while Instant::now() < until {
        #[expect(clippy::cast_precision_loss, reason = "a chunk's length is far below 2^52")]
        let written = stream.write(&chunk).await? as f64;
        counts.done += written;
    }
    Ok(counts)
}

/// What arrives counts, not what is sent.
async fn datagrams(address: SocketAddr, until: Instant) -> anyhow::Result<Counts> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    let before = arrived(&socket).await?;
    let payload = [0; DATAGRAM_BYTES];
    while Instant::now() < until {
        for _ in 0..BURST {
            socket.writable().await?;
            // A full queue is what is measured.
            let _ = socket.try_send(&payload);
        }
    }
    let arrived = arrived(&socket).await? - before;
    #[expect(clippy::cast_precision_loss, reason = "a bench's datagrams are far below 2^52")]
    Ok(Counts { done: arrived as f64, ..Counts::default() })
}

async fn arrived(socket: &UdpSocket) -> anyhow::Result<u64> {
    let mut answer = [0; 8];
    // The question may be lost behind what is still on its way.
    for _ in 0..50 {
        socket.send(&[COUNT]).await?;
        match timeout(Duration::from_millis(100), socket.recv(&mut answer)).await {
            Ok(Ok(8)) => return Ok(u64::from_be_bytes(answer)),
            Ok(Err(error)) => return Err(error).context("the server does not answer datagrams"),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    anyhow::bail!("the server does not answer datagrams")
}
