//! What the server shows: a certificate of the cluster's CA, made anew in time, with the CA's own behind it so that
//! agents can find it by its hash.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;
use xebec_clock::Clock;
use xebec_pki::{Certified, ClusterCa, ServerTls, Validity, server_config};

use crate::renewing::Renewing;

/// A year, as upstream.
const VALIDITY: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Made anew after this part of its life.
const RENEW_PERCENT: u8 = 50;
/// How often the clock is looked at: it may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The server's TLS. Clients may show certificates of the cluster's CA and of that of front proxies. The server's own is
/// renewed until `stop`.
pub fn config(
    ca: &Arc<ClusterCa>,
    names: &[String],
    proxies_ca_pem: &str,
    clock: &Clock,
    stop: &CancellationToken,
) -> anyhow::Result<rustls::ServerConfig> {
    let clients = format!("{}{proxies_ca_pem}", ca.certificate_pem());
    let (first, mut validity) = make(ca, &clients, names, clock)?;
    let (renewing, config) = Renewing::new(first);
    let (ca, names, clock, stop) = (Arc::clone(ca), names.to_vec(), clock.clone(), stop.clone());
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if (validity.not_before..validity.renew_at(RENEW_PERCENT)).contains(&clock.now()) {
                continue;
            }
            match make(&ca, &clients, &names, &clock) {
                Ok((new, until)) => {
                    renewing.renew(&new);
                    validity = until;
                }
                Err(e) => tracing::error!("cannot renew the server's certificate: {e:#}"),
            }
        }
    }));
    Ok(config)
}

fn make(
    ca: &ClusterCa,
    client_ca_pem: &str,
    names: &[String],
    clock: &Clock,
) -> anyhow::Result<(Arc<rustls::ServerConfig>, Validity)> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let own = ca.server_cert("kube-apiserver", &names, VALIDITY).context("cannot make the server's certificate")?;
    let validity = Validity::of_pem(&own.certificate_pem)?;
    let certificate_pem = own.certificate_pem + ca.certificate_pem();
    let certified = Certified { certificate_pem, key_pem: own.key_pem };
    let tls = ServerTls { certified: &certified, client_ca_pem };
    Ok((server_config(&tls, clock).context("cannot set up TLS")?, validity))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
    use xebec_clock::Random;
    use xebec_pki::client_config;

    use super::*;

    struct Server {
        config: Arc<rustls::ServerConfig>,
        ca: Arc<ClusterCa>,
        clock: Clock,
    }

    type Ends = (client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>);

    impl Server {
        /// A new connection, or why there is none.
        async fn connect(&self) -> std::io::Result<Ends> {
            let config = client_config(self.ca.certificate_pem(), None, &self.clock).unwrap();
            let (near, far) = tokio::io::duplex(1 << 16);
            let client = TlsConnector::from(config).connect("localhost".try_into().unwrap(), near);
            tokio::try_join!(client, TlsAcceptor::from(self.config.clone()).accept(far))
        }
    }

    /// When the certificate ends that a connection was made with.
    fn ends(connection: &Ends) -> Timestamp {
        let (_, session) = connection.0.get_ref();
        let der = session.peer_certificates().unwrap()[0].to_vec();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", {
            use base64::Engine as _;
            base64::prelude::BASE64_STANDARD.encode(der)
        });
        Validity::of_pem(&pem).unwrap().not_after
    }

    async fn answers(connection: &mut Ends) {
        let mut read = [0; 4];
        connection.0.write_all(b"ping").await.unwrap();
        connection.0.flush().await.unwrap();
        connection.1.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ping");
    }

    #[tokio::test(start_paused = true)]
    async fn the_certificate_is_renewed_under_open_connections() {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let ca = Arc::new(ClusterCa::ephemeral(&clock, &Random::seeded(1)).unwrap());
        let stop = CancellationToken::new();
        let config = config(&ca, &["localhost".to_owned()], "", &clock, &stop).unwrap();
        let server = Server { config: Arc::new(config), ca, clock: clock.clone() };
        let mut first = server.connect().await.unwrap();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(ends(&server.connect().await.unwrap()), ends(&first), "an hour later, nothing is new");

        // Two years go by.
        for _ in 0..24 {
            clock.step(SignedDuration::from_hours(30 * 24));
            tokio::time::sleep(2 * LOOK_EVERY).await;
            assert!(ends(&server.connect().await.unwrap()) > clock.now());
        }
        answers(&mut first).await;

        // The clock is set, forward and back.
        for days in [700, -1000] {
            let mut open = server.connect().await.unwrap();
            clock.step(SignedDuration::from_hours(days * 24));
            tokio::time::sleep(2 * LOOK_EVERY).await;
            let mut new = server.connect().await.unwrap();
            assert_ne!(ends(&new), ends(&open));
            answers(&mut new).await;
            answers(&mut open).await;
        }
    }
}
