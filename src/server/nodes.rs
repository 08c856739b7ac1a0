//! The way from the API server to the nodes' agents: TLS in which both ends prove who they are.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use xebec_apiserver::extension::{NodeConnector, NodeStream};
use xebec_clock::Clock;
use xebec_pki::{ClusterCa, client_config};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The certificate is for this process only; it is made anew long before it ends.
const VALIDITY: SignedDuration = SignedDuration::from_hours(7 * 24);
const RENEW_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// Connects to agents as `kube-apiserver-kubelet-client`.
pub struct Agents {
    ca: Arc<ClusterCa>,
    clock: Clock,
    /// The TLS set-up, and when its certificate was made.
    tls: Mutex<Option<(TlsConnector, Timestamp)>>,
}

impl Agents {
    /// With certificates of `ca`.
    pub fn new(ca: Arc<ClusterCa>, clock: Clock) -> Self {
        Self { ca, clock, tls: Mutex::default() }
    }

    fn connector(&self) -> io::Result<TlsConnector> {
        let now = self.clock.now();
        let mut kept = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((connector, made)) = &*kept
            && now.duration_since(*made).abs() < RENEW_AFTER
        {
            return Ok(connector.clone());
        }
        let certified = self
            .ca
            .client_cert("kube-apiserver-kubelet-client", &["system:masters"], VALIDITY)
            .map_err(io::Error::other)?;
        let config =
            client_config(self.ca.certificate_pem(), Some(&certified), &self.clock).map_err(io::Error::other)?;
        let mut config = Arc::unwrap_or_clone(config);
        // Upgrades are HTTP/1.1's.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        *kept = Some((connector.clone(), now));
        Ok(connector)
    }
}

#[async_trait]
impl NodeConnector for Agents {
    async fn connect(&self, node: &str, address: &str, port: u16) -> io::Result<Box<dyn NodeStream>> {
        let connector = self.connector()?;
        let name = match address.parse::<IpAddr>() {
            Ok(address) => ServerName::from(address),
            Err(_) => ServerName::try_from(address.to_owned()).map_err(io::Error::other)?,
        };
        let connect = async {
            let stream = TcpStream::connect((address, port)).await?;
            stream.set_nodelay(true)?;
            connector.connect(name, stream).await
        };
        match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(e)) => Err(io::Error::new(e.kind(), format!("dial tcp {address}:{port}: {e} (node {node})"))),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("dial tcp {address}:{port}: i/o timeout (node {node})"),
            )),
        }
    }
}
