//! The load itself: a server and a client that run in a node, or on the host, and do as little as can be.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, timeout};

use crate::bench::figure::percentile;

/// What the first byte of a connection asks the server for.
const ECHO: u8 = b'e';
const SINK: u8 = b's';
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
        /// Where
        address: SocketAddr,
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
}

/// What was measured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Connections, requests or bytes a second.
    pub per_second: f64,
    /// How long one took, in microseconds; nothing for streams.
    pub p50_us: f64,
    /// The same, of the slowest hundredth.
    pub p99_us: f64,
    /// How many failed.
    pub failed: usize,
}

/// `xebec bench-load`.
pub fn main(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        match &args.what {
            What::Serve { address } => serve(*address).await,
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
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that goes away is none of the server's business.
        tokio::task::spawn_local(async move { answer(stream).await.ok() });
    }
}

async fn answer(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await?;
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

/// One client's counts.
#[derive(Default)]
struct Counts {
    done: f64,
    failed: usize,
    times_us: Vec<f64>,
}

async fn ask(kind: Kind, address: SocketAddr, time: Duration, connections: usize) -> anyhow::Result<Measured> {
    let started = Instant::now();
    let until = started + time;
    let mut clients = JoinSet::new();
    let address = Rc::new(address);
    for _ in 0..connections {
        let address = address.clone();
        clients.spawn_local(async move {
            match kind {
                Kind::Connect => Ok(connect(*address, until).await),
                Kind::Request => request(*address, until).await,
                Kind::Stream => stream(*address, until).await,
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
    Ok(Measured {
        per_second: all.done / started.elapsed().as_secs_f64(),
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
