//! Requests over many connections, each with one request under way.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use tokio::time::Instant;

use super::super::cpu_s;
use super::wire::Target;

/// What came of it.
pub struct Load {
    /// How long all of it took.
    pub elapsed: Duration,
    /// How long each request took, in ms.
    pub latencies_ms: Vec<f64>,
    /// The CPU time that sending and reading took, in seconds.
    cpu_s: f64,
}

impl Load {
    /// Requests a second.
    pub fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let count = self.latencies_ms.len() as f64;
        count / self.elapsed.as_secs_f64()
    }

    /// The generator's CPU time of a request, in microseconds.
    pub fn cpu_us(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let count = self.latencies_ms.len() as f64;
        self.cpu_s * 1e6 / count
    }
}

/// Sends the requests 0 to `total`, over `connections` connections, as fast as the answers come. Every answer must
/// have the status `expected`.
pub async fn run(
    target: &Target,
    connections: usize,
    total: usize,
    expected: u16,
    request: impl Fn(usize) -> Bytes,
) -> anyhow::Result<Load> {
    let open = try_join_all((0..connections).map(|_| target.connect())).await?;
    let next = Cell::new(0);
    let own = std::process::id().cast_signed();
    let cpu_before_s = cpu_s(own)?;
    let started = Instant::now();
    let workers = open.into_iter().map(async |mut connection| {
        let mut latencies_ms = Vec::with_capacity(total / connections + 1);
        while next.get() < total {
            let number = next.replace(next.get() + 1);
            let bytes = request(number);
            let sent = Instant::now();
            let (status, _) = connection.exchange(&bytes).await.with_context(|| format!("request {number}"))?;
            ensure!(status == expected, "request {number} was answered with {status}, not {expected}");
            latencies_ms.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        anyhow::Ok(latencies_ms)
    });
    let latencies_ms = try_join_all(workers).await?.concat();
    Ok(Load { elapsed: started.elapsed(), latencies_ms, cpu_s: cpu_s(own)? - cpu_before_s })
}
