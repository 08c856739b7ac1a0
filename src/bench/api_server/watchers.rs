//! One write, seen by many watchers.

use anyhow::Context as _;
use futures::future::try_join_all;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout};

use super::wire::{Connection, Target, request};

/// An event that has not come by then will not.
const BOUND: Duration = Duration::from_secs(30);
/// How many connections are opened at once.
const OPENING: usize = 64;

/// Opens `watchers` watches of `path`, each over a connection of its own, and calls `write` for each of `writes`; the
/// time from each write to the last watcher's event, in ms.
pub async fn fan_out(
    target: &Target,
    path: &str,
    watchers: usize,
    writes: usize,
    mut write: impl AsyncFnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let watch = request(
        "GET",
        &format!(
            "{path}?watch=true&resourceVersion=0&sendInitialEvents=false\
        &resourceVersionMatch=NotOlderThan"
        ),
        None,
    );
    let mut connections = Vec::with_capacity(watchers);
    while connections.len() < watchers {
        let count = OPENING.min(watchers - connections.len());
        let opened = (0..count).map(async |_| {
            let mut connection = target.connect().await?;
            connection.open(&watch).await?;
            anyhow::Ok(connection)
        });
        connections.extend(try_join_all(opened).await?);
    }
    let (seen, mut all_seen) = watch::channel(0_usize);
    let mut tasks = JoinSet::new();
    for connection in connections {
        tasks.spawn(read(connection, seen.clone()));
    }
    let mut latencies_ms = Vec::with_capacity(writes);
    for number in 0..writes {
        let started = Instant::now();
        write(number).await?;
        let everyone = all_seen.wait_for(|seen| *seen >= (number + 1) * watchers);
        timeout(BOUND, everyone).await.context("not every watcher saw the write")??;
        latencies_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(latencies_ms)
}

/// Counts a connection's events; a line is one.
async fn read(mut connection: Connection, seen: watch::Sender<usize>) -> anyhow::Result<()> {
    while let Some(chunk) = connection.chunk().await? {
        let events = chunk.iter().filter(|b| **b == b'\n').count();
        seen.send_modify(|total| *total += events);
    }
    Ok(())
}
