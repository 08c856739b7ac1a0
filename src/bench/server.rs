//! A server of the bench's own: no nodes, SQLite on disk, gone when dropped.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

use crate::api;

/// A server that is not ready by then will not be.
const BOUND: Duration = Duration::from_secs(30);

/// A running server, which answers `/readyz` with ok.
pub struct OwnServer {
    process: Child,
    dir: tempfile::TempDir,
    /// Where it listens.
    pub address: SocketAddr,
    /// From the start of the process to the first ok.
    pub started_in: Duration,
}

impl OwnServer {
    /// Starts it with an empty store.
    pub async fn start() -> anyhow::Result<Self> {
        // Not in /tmp, which may be kept in memory: writes are measured that must reach a disk.
        let dir = tempfile::tempdir_in("/var/tmp").context("cannot make a directory in /var/tmp")?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr())?.port();
        let started = Instant::now();
        let process = Command::new("/proc/self/exe")
            .args(["server", "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"])
            .args(["--port", &port.to_string(), "--data-dir"])
            .arg(dir.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start a server")?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let mut server = Self { process, dir, address, started_in: Duration::ZERO };
        server.wait_until_ready(started).await?;
        server.started_in = started.elapsed();
        Ok(server)
    }

    /// Where it keeps its store and its keys.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// A client with the administrator's rights.
    pub async fn admin(&self) -> anyhow::Result<kube::Client> {
        api::client(&self.data_dir().join("admin.kubeconfig")).await
    }

    async fn wait_until_ready(&mut self, started: Instant) -> anyhow::Result<()> {
        let kubeconfig = self.data_dir().join("admin.kubeconfig");
        let mut client = None;
        while started.elapsed() < BOUND {
            if let Some(status) = self.process.try_wait()? {
                bail!("the server ended: {status}");
            }
            if client.is_none() && Path::new(&kubeconfig).exists() {
                client = api::client(&kubeconfig).await.ok();
            }
            if let Some(client) = &client
                && api::ready(client).await.is_ok()
            {
                return Ok(());
            }
            sleep(Duration::from_millis(2)).await;
        }
        bail!("the server is not ready after {BOUND:?}")
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
