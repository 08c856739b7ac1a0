//! Raw puts into a real etcd on this machine, for the ratio: what upstream's API server can write at most.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::try_join_all;
use http::uri::PathAndQuery;
use tokio::time::{Instant, sleep};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

const BOUND: Duration = Duration::from_secs(30);

/// `etcdserverpb.PutRequest`, the fields that are used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: bytes::Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: bytes::Bytes,
}

/// `etcdserverpb.PutResponse`, none of which is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

struct Etcd {
    process: Child,
    _dir: tempfile::TempDir,
    url: String,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Puts a second, by `clients` clients, of `total` values of `value_bytes`; none if there is no etcd here.
pub async fn puts_per_second(clients: usize, total: usize, value_bytes: usize) -> anyhow::Result<Option<f64>> {
    let Some(etcd) = start()? else { return Ok(None) };
    let first = connect(&etcd.url).await?;
    let mut channels = vec![first];
    while channels.len() < clients {
        channels.push(Endpoint::from_shared(etcd.url.clone())?.connect().await?);
    }
    let value = bytes::Bytes::from(vec![b'x'; value_bytes]);
    let each = total / clients;
    let started = Instant::now();
    let workers = channels.into_iter().enumerate().map(async |(client, channel)| {
        let mut grpc = Grpc::new(channel);
        for number in 0..each {
            put(&mut grpc, format!("/registry/configmaps/bench/{client}-{number}").into(), value.clone()).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(workers).await?;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let puts = (each * clients) as f64;
    Ok(Some(puts / started.elapsed().as_secs_f64()))
}

async fn put(grpc: &mut Grpc<Channel>, key: bytes::Bytes, value: bytes::Bytes) -> anyhow::Result<()> {
    let codec: ProstCodec<PutRequest, PutResponse> = ProstCodec::default();
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    grpc.ready().await?;
    grpc.unary(tonic::Request::new(PutRequest { key, value }), path, codec).await.context("etcd refused a put")?;
    Ok(())
}

fn start() -> anyhow::Result<Option<Etcd>> {
    let dir = tempfile::tempdir_in("/var/tmp").context("cannot make a directory in /var/tmp")?;
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
    let (url, peer) = (format!("http://{}", free()?), format!("http://{}", free()?));
    let process = Command::new("etcd")
        .args(["--name", "bench", "--log-level", "error", "--data-dir"])
        .arg(dir.path())
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("bench={peer}")])
        .args(["--quota-backend-bytes", "4294967296"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match process {
        Ok(process) => Ok(Some(Etcd { process, _dir: dir, url })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot start etcd"),
    }
}

/// A connection that etcd answers on.
async fn connect(url: &str) -> anyhow::Result<Channel> {
    let started = Instant::now();
    while started.elapsed() < BOUND {
        if let Ok(channel) = Endpoint::from_shared(url.to_owned())?.connect().await {
            let mut grpc = Grpc::new(channel.clone());
            if put(&mut grpc, "ready".into(), "".into()).await.is_ok() {
                return Ok(channel);
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    bail!("etcd does not answer after {BOUND:?}")
}
